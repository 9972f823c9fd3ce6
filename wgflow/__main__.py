"""``python -m wgflow``, and under ``torchrun``: ``torchrun --nproc_per_node 4 -m wgflow train ...``."""

import sys

from wgflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
