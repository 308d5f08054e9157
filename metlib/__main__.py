"""`python -m metlib` is the command `metlib`."""

import sys

from metlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
