"""Measurements behind the figures in the documents; each module is a command that prints a table.

They judge the embedded tiny model, or another by `--model FOLDER --bank FILE`, on `--device cuda` in seconds or
minutes. Photographs that no wheel holds lie in runs/photographs (`make photographs`). `python -m benchmarks.remake`
runs them all for new weights.
"""
