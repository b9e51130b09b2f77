"""Measurements behind the figures in the documents; each module is a command that prints a table."""
