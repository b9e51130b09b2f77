"""Anchor banks: the data that the guide works from. Import the submodule you need; nothing is loaded here."""
