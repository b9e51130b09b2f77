"""The embedded model, and what it knows."""
