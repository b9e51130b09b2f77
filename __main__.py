"""`shelllcc`, and `python -m shelllcc`: an interrupt ends it without a word of Python's, also while it is imported."""

import gc
import os
import sys


def main() -> None:
    """Run the command line."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # torch's threads wait turning: ruin where cores are shared
    try:
        from shelllcc import cli
        from shelllcc.guidance.wan.model.spared import claim_process

        claim_process()
        try:
            cli.main()
        finally:
            gc.freeze()  # all there is ends with the process: to search it for garbage first would take a second
    except KeyboardInterrupt:
        print("shelllcc: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
