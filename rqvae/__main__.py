"""`python -m rqvae train ...`, `python -m rqvae infer ...`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main(program="python -m rqvae"))
