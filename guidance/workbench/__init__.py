"""Clips compared and tuned: the folder and the page of a run."""
