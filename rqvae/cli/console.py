"""What the commands share: arguments, exit codes, signals, and words on a stream that may be closed.

Knows no models, and needs no torch. Exit codes: 0 done, 1 failed while running, 2 unusable input found before any work,
130 and 143 ended by SIGINT and SIGTERM.
"""

import argparse
import contextlib
import difflib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from .. import __version__
from .config import options_of, unusable
from ..storage.files import write_atomically
from ..storage.sets import expect_nothing
from ..storage.words import one_line, pasted, shown, shown_lines, spell

# What ends a run as SIGTERM does, or as Ctrl-C; a terminal that closes too, unless nohup has it ignored.
ENDS = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP")
                          and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else [])]
REQUIRED = "torch", "numpy", "tqdm"         # to do anything but to say what there is
PREPARATION_ERRORS = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)
_MOVES = re.compile(r"\r?(\x1b\[A)*")           # what a bar of progress begins with
RUNTIME_ERRORS = (ValueError, OSError, ImportError, RuntimeError, MemoryError, ArithmeticError)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors of one line, and the closest known flag for an unknown one.

    Args:
        program: how the user started us, see `command`; what is parsed has it as `program`.
        verb: "train" or "infer".

    Attributes:
        other: the parser of the other command, whose options a file may name by mistake.
    """

    other = None

    def __init__(self, program, verb, **settings):
        super().__init__(prog=command(program, verb), allow_abbrev=False, **settings)
        self.color = False                  # of Python 3.14, which writes it as the stream does not let pass
        self.set_defaults(program=program)
        self.add_argument("--version", action="version", version=f"rqvae {__version__}")
        self.add_argument("--config", metavar="FILE", help="take options from a .json or .toml, such as "
                                                           "{\"epochs\": 20}, or those of a run from its .ckpt; what "
                                                           "is typed comes before")
        self.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, args=None, namespace=None):
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--config", nargs="?")
        config = first.parse_known_args(args)[0].config
        if config:
            try:
                actions = {action.dest: action for action in self._actions}
                others = {action.dest for action in self.other._actions} - {*actions} if self.other else ()
                self.set_defaults(**options_of(config, actions, others))
            except (ValueError, OSError, ImportError) as error:
                self.error(_message(error))
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            near = [known for known in self._option_string_actions if _initials(known) == flag.strip("-")] or \
                difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.5)
            if not flag.startswith("-") and os.path.exists(unknown[0]):
                near = [f"--data {unknown[0]}"]
            hint = f"did you mean {near[0]}?" if near else "--help lists what there is"
            self.error(f"unknown argument {unknown[0]}; {hint}")
        for action in self._actions:
            value = getattr(found, action.dest, None)
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str) and (reason := unusable(word, action)):
                    self.error(f"{action.option_strings[-1]} is {reason}")
        return found

    def error(self, message):
        self.exit(2, f"error: {shown(message)}\n")


def _initials(flag) -> str:
    """"lr" of "--learning-rate"."""
    return "".join(word[:1] for word in flag.strip("-").split("-"))


def command(program, verb, *words) -> str:
    """What a user types, or pastes, who started us as `program`.

    It is "python" of `python train.py`, "rqvae" or "python -m rqvae".
    """
    started = os.path.split(sys.argv[0])
    # The scripts lie beside each other, wherever the user stands.
    script = os.path.join(started[0] if started[1] in ("train.py", "infer.py") else "", f"{verb}.py")
    # A path that begins as an option does would be taken for one.
    words = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    return " ".join(map(pasted, [*program.split(), script if program == "python" else verb, *words]))


def run_command(parser, load, argv) -> int:
    """Parse, `prepare, run = load()`, `prepare(arguments)`, `run(what it returned)`; the exit code.

    What `prepare` raises, and a ValueError of `run`, is the user's input (2), anything else a failure under
    way (1). Each becomes one line on stderr, with a traceback only on `--debug`.
    """
    _open_streams()
    expect_nothing()
    with contextlib.redirect_stderr(_Unfailing(sys.stderr)), contextlib.redirect_stdout(_Spelling(sys.stdout)):
        try:
            arguments = parser.parse_args(argv)
        except SystemExit as exit_:
            return exit_.code or 0
        return _run(arguments, load)


def _run(arguments, load) -> int:
    with warnings.catch_warnings(), _terminable(), \
            contextlib.redirect_stdout(io.StringIO() if arguments.quiet else sys.stdout):
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {shown(message)}", file=sys.stderr)
        warnings.simplefilter("always", UserWarning)
        try:
            try:
                with held_back():
                    prepare, run = load()
                job = prepare(arguments)
            except PREPARATION_ERRORS as error:
                return _failed(error, 2, arguments)
            return run(job) or 0
        except RUNTIME_ERRORS as error:
            return _failed(error, 2 if isinstance(error, ValueError) else 1, arguments)
        except KeyboardInterrupt as interrupt:
            print("interrupted", file=sys.stderr)
            return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
        finally:
            expect_nothing()


def say(line) -> None:
    """Print a result of one line, whatever stands in it; see `say_lines`."""
    say_lines(shown(line))


def say_lines(text) -> None:
    """Print a result of several lines, of which none ends by a word of a file or user.

    When stdout can take no more (nobody reads it, its disk is full), go on in silence.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            print(f"warning: the standard output fails ({error.strerror}); results are not shown from here on",
                  file=sys.stderr)


@contextlib.contextmanager
def held_back():
    """What interrupts does so at the end of the block: native code in the midst of an import ends the process with
    words of its own, and leaves temporaries."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    previous = {number: signal.signal(number, lambda number, frame: came.append(number))
                for number in (signal.SIGINT, *ENDS)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt(came[0])


class StopSignals:
    """A flag that SIGINT and SIGTERM raise, while a `with` block lasts; a second one ends the process at once.

    Calling it tells whether a signal came; `number` is its number.
    """

    def __init__(self):
        self.number = None
        self.previous = {}

    def __call__(self) -> bool:
        return self.number is not None

    def __enter__(self):
        for number in (signal.SIGINT, *ENDS):
            self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        with contextlib.suppress(OSError):          # nobody may be reading
            os.write(2, b"\nstopping at the next batch; once more to leave at once\n")


class _Spelling:
    """A stream on which nothing but lines and bars of progress can be shown, whatever is written to it, by whomever."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        moves = _MOVES.match(text).end()
        self.stream.write(text[:moves] + shown_lines(text[moves:]))
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


class _Unfailing(_Spelling):
    """A stream for progress that never ends the work: what cannot be written any more is dropped."""

    def write(self, text):
        try:
            return super().write(text)
        except OSError:
            _silence(self.stream)
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except OSError:
            _silence(self.stream)


def _open_streams():
    """Standard streams that take whatever is said: what an encoding cannot spell is shown as "?".

    A closed one is opened on nothing: the next file that is opened would have its number, and get its words.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)              # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Line buffered, so that what a pipe reads comes in the order in which it was said.
            stream.reconfigure(line_buffering=True, errors="replace")


def _silence(stream):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def _terminable():
    """SIGTERM ends the block as Ctrl-C does, so that temporary files go; only the main thread can have that."""
    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _failed(error, code, arguments):
    message = _message(error)
    obeyed = [path for path in (arguments.config, getattr(arguments, "resume", None)) if path and path not in message]
    if obeyed and code == 2:        # an option that nobody typed
        message += f" (options are taken from {' and '.join(obeyed)})"
    sentence = f"error: {one_line(message)}"
    if arguments.debug:
        spell(error)
        said = traceback.TracebackException.from_exception(error)
        # Without its last words, which are ours.
        print("".join([*said.format()][:-len([*said.format_exception_only()])]), file=sys.stderr, end="")
    print(sentence, file=sys.stderr)
    _tell_torchrun(sentence)
    return code


def _tell_torchrun(sentence):
    """torchrun ends with a long account of its own; where it leaves room for a reason, this is it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = json.dumps({"message": {"message": sentence, "extraInfo": {"py_callstack": sentence,
                                                                          "timestamp": str(int(time.time()))}}})
        with contextlib.suppress(OSError):
            write_atomically(path, lambda file: file.write(told.encode()))


def _message(error):
    """What an error says; of the system's, `disk/last.ckpt: No space left on device`: the path first, no errno."""
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        return (f"{sys.executable} has no {error.name}; install {', '.join(REQUIRED)} for it by "
                f"{pasted(sys.executable)} -m pip install -r requirements.txt, or run this by a Python that has them, "
                "such as .venv/bin/python")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
