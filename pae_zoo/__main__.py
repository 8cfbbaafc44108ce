"""The command `pae-zoo`, as `python -m pae_zoo`."""

import sys

from pae_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
