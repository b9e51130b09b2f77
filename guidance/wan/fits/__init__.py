"""Fits of a Wan model: round trips of clips, and what is solved from them."""
