"""`shelllcc`, and `python -m shelllcc`: an interrupt ends it without a word of Python's, also while it is imported."""

import os
import sys


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait turning are slow where cores are shared
    try:
        from shelllcc import cli
        from shelllcc.guidance.wan.model.spared import claim_process

        claim_process()
        cli.main()
    except KeyboardInterrupt:
        print("shelllcc: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
