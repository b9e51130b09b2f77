"""Files of frames. Knows no models."""
