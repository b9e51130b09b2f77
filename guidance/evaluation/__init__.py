"""Measures of videos. Import the submodule you need; nothing is loaded here."""
