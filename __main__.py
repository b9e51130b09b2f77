"""`python -m shelllcc`."""

from shelllcc.cli import main

if __name__ == "__main__":
    main()
