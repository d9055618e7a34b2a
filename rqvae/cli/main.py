"""Which command it is, and its start: options first, then threads, then torch and the work.

Nothing here imports torch before the options are understood, so that `--help` answers at once.
"""

import difflib
import sys

from .. import __version__
from .console import run_command
from .threads import settle_threads

COMMANDS = {"train": "train a tokenizer on item features",
            "infer": "write the semantic IDs of items, and judge them"}


def main(argv=None, *, program="rqvae") -> int:
    """`rqvae train ...` and `rqvae infer ...`; returns the exit code.

    Args:
        argv: what follows the program's name; None for the arguments of this process.
        program: how the user started us, see `console.command`.
    """
    verb, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        print(f"usage: {program} COMMAND [options]\n")
        for name, words in COMMANDS.items():
            print(f"  {program} {name:<6} {words}; --help lists its options")
        print(f"  {program} --version")
        return 0
    if verb == "--version":
        print(f"rqvae {__version__}")
        return 0
    if verb not in COMMANDS:
        near = difflib.get_close_matches(verb, COMMANDS, n=1, cutoff=0.5) or COMMANDS
        print(f"error: there is no command {verb!r}; did you mean {' or '.join(near)}?", file=sys.stderr)
        return 2
    return {"train": train, "infer": infer}[verb](rest, program=program)


def train(argv=None, *, program="rqvae") -> int:
    """The command `train`."""
    return _command("train", argv, program)


def infer(argv=None, *, program="rqvae") -> int:
    """The command `infer`."""
    return _command("infer", argv, program)


def _command(verb, argv, program):
    from .options import infer_parser, train_parser
    parsers = {"train": train_parser(program), "infer": infer_parser(program)}
    parser = parsers.pop(verb)
    parser.other, = parsers.values()
    return run_command(parser, lambda: _loaded(verb), argv)


def _loaded(verb):
    """The command's `prepare` and `run`, and torch with them."""
    settle_threads()
    if verb == "train":
        from .train import prepare, run
    else:
        from .infer import prepare, run
    return prepare, run
