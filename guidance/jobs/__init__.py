"""Jobs worked off, here, in processes or on Ray. Knows no video."""
