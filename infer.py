"""Write the semantic IDs of items, and judge them: `python infer.py --ckpt [CKPT] [--data FILE]`; see `--help`."""

import sys

from rqvae.cli.main import infer


def main(argv=None) -> int:
    """Run the script with these arguments, those of the command line by default; returns the exit code."""
    return infer(argv, program="python")


if __name__ == "__main__":
    sys.exit(main())
