"""A program, not a test: the real ComfyUI's server on the CPU, with a clone of this repository among its nodes.

python tests/comfy/server.py COMFYUI LIBRARIES BASE PORT
"""

import runpy
import sys
from pathlib import Path


def main(host, libraries, base, port):
    finder = runpy.run_path(str(Path(__file__).parent / "host.py"))["Finder"]()
    here = {Path(__file__).resolve().parents[2], Path(__file__).resolve().parent}
    sys.path[:] = [host, libraries, *(p for p in sys.path if Path(p or ".").resolve() not in here)]
    import transformers  # noqa: F401 - before torchvision is there for it to find

    sys.meta_path.insert(0, finder)
    flags = [
        "--cpu",
        "--port",
        port,
        "--base-directory",
        base,
        "--disable-auto-launch",
        "--database-url",
        "sqlite:///:memory:",
    ]
    sys.argv = [str(Path(host) / "main.py"), *flags, "--disable-api-nodes"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
