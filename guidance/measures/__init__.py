"""Frames to numbers, numbers to words."""
