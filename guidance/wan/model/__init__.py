"""Find, load and place a Wan model."""
