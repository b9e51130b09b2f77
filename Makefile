# Everything runs in .venv, made on first use from Python 3.11 or newer.
PYTHON ?= python3
PY := .venv/bin/python
# Two workers, one thread each.
TWO := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal
export HF_HUB_OFFLINE := 1
export PYTHONPATH := .cache/typing:.

.PHONY: demo test test-slow test-faults test-bounds check lint docs install clean
.DEFAULT_GOAL := demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	mkdir -p .cache/typing && ln -sfn ../.. .cache/typing/shelllcc
	touch $@

install: .venv/installed

demo: .venv/installed  ## an unguided, a guided and a side-by-side video of one seed
	.venv/bin/shelllcc generate --prompt "a tabby cat, zoom in, daylight" --compare --output outputs/demo.mp4

test: .venv/installed
	$(TWO) -q

test-slow: .venv/installed
	$(PY) -m pytest -q -m slow

test-faults: .venv/installed  ## what kills, full disks, a failing ffmpeg and a second process leave
	$(TWO) -q -m faults tests/faults

test-bounds:  ## at every dependency's lower bound on Python 3.11, and with the newest of each on 3.13
	$(PYTHON) tests/bounds.py

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

check: lint test

docs: .venv/installed  ## docs/commands.md, from the commands; docs/models.md, from every layout of files loaded
	$(PY) docs/commands.py
	$(PY) -m benchmarks.loads

clean:
	rm -rf .venv .cache build dist *.egg-info outputs runs
