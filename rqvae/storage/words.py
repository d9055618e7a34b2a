"""Words for what a file holds, safe to show, and for counts. Knows no format of ours.

Whatever a file or a user says passes through `shown` before anybody sees it: what the commands print by their streams
(cli/console.py), what a function of ours raises by `spelled`, what it warns of by `warn`.
"""

import difflib
import functools
import os
import re
import reprlib
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, TypeVar, cast

Function = TypeVar("Function", bound=Callable)
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LFS = b"version https://git-lfs"
# What moves the cursor, hides, reorders or forges lines: control characters, marks of direction, separators of lines,
# invisible marks and tags, and halves of surrogate pairs, which no stream can spell.
_UNSHOWN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]")


def shown(words, longest=None) -> str:
    """`str(words)` in one line that a terminal shows as it stands: what it would obey becomes `\\x1b` and the like.

    Args:
        longest: characters of it to keep; all unless said.
    """
    return _UNSHOWN.sub(_escaped, str(words)[:longest])


def shown_lines(words) -> str:
    """The same for several lines: the line breaks that stand in `words` stay."""
    return "\n".join(map(shown, str(words).split("\n")))


def brief(value, longest=60) -> str:
    """`str(value)`, cut off, of whatever a file holds: neither a long list nor a deep one costs time or stack."""
    return (value if isinstance(value, str) else _BRIEF.repr(value))[:longest]


class _Brief(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 4, 200, 200, 200
        self.maxdict = self.maxlist = self.maxtuple = 8

    repr_OrderedDict = reprlib.Repr.repr_dict


_BRIEF = _Brief()


def _escaped(match):
    return ascii(match[0])[1:-1]


def one_line(words) -> str:
    """`shown`, with a space for each line break: of what libraries say in several lines."""
    return shown(re.sub(r"\s*[\r\n]+\s*", " ", str(words).strip()))


def spell(error) -> None:
    """Put `shown` words in the place of an exception's, and in what it came of: a traceback shows them all."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error.args = tuple(shown(word) if isinstance(word, str) else word for word in error.args)
        if isinstance(error, ImportError) and error.msg:        # which shows that, and not its arguments
            error.msg = shown(error.msg)
        error = error.__cause__ or error.__context__


def spelled(function: Function) -> Function:
    """The function, with `shown` words in whatever it raises, and the file it was given in an error of the system."""
    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:
            spell(error)
            # As where a disk cannot be read.
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = next((str(each) for each in arguments if isinstance(each, (str, os.PathLike))), None)
            raise
    return cast(Function, called)


def warn(sentence) -> None:
    """`warnings.warn` of `shown` words, at the line outside this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(shown(sentence), stacklevel=level)


def pasted(word) -> str:
    """A word as a shell takes it, in one line that a terminal shows as it stands."""
    if not _UNSHOWN.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _UNSHOWN.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in os.fsencode(match[0])), plain) + "'"


def counted(number, noun) -> str:
    """"1 item", "1,200 items"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def nearest_names(path) -> str:
    """`"; did you mean a.npy or b.npy?"`, or a word on the folder when nothing in it is similar."""
    path = Path(path)
    folder = path.parent
    if path.is_symlink():
        return f"; it is a link to {shown(os.readlink(path))}, where there is nothing"
    if not folder.is_dir():
        return f"; the folder {folder} does not exist"
    names = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(shown, names))}?" if names else f"; nothing in {folder} has a similar name"


def describe_content(path) -> str:
    """What the file at `path` appears to hold, judged by its first bytes, in words for a message.

    Returns one of the phrases below, or `"starts with b'...'"` where nothing is recognised.
    """
    if not os.path.isfile(path):            # to open a pipe is to wait for ever
        return "this is no regular file"
    with open(path, "rb") as file:
        head = file.read(256)
    text = head.lstrip().lower()
    if not head:
        return "the file is empty"
    if head.startswith(_LFS):
        return "this is a Git LFS pointer, not the data itself: run `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is an HTML page, probably a login or error page saved by a download"
    if head.startswith(b"\x93NUMPY"):
        return "this is a .npy array"
    if head.startswith(b"PK\x03\x04"):
        return "this is a zip archive (.npz, .pt and .ckpt files are)"
    if head.startswith(b"PAR1"):
        return "this is a Parquet file"
    if head.startswith(b"\x1f\x8b"):
        return "this is a gzip file: decompress it first"
    if head.startswith(b"\x89HDF"):
        return "this is an HDF5 file"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "this is a Python pickle, which can run code when it is read, so it is not opened"
    if not head.strip(b"\x00"):
        return "the file begins with zeros, as one does that was never fully written"
    if head[:1] in b"{[":
        return "this looks like JSON text"
    return f"starts with {head[:16]!r}"
