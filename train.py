"""Train a tokenizer on item features: `python train.py [--data FILE]`; `--help` lists the options."""

import sys

from rqvae.cli.main import train


def main(argv=None) -> int:
    """Run the script with these arguments, those of the command line by default; returns the exit code."""
    return train(argv, program="python")


if __name__ == "__main__":
    sys.exit(main())
