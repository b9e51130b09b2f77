"""Wan pipelines: loading, presets, sampling and files. Import the submodule you need; nothing is loaded here."""
