"""The bytes of a .npy, and the archive of a .npz -> headers and arrays. Knows no features.

Nothing here runs code that a file holds, and no size that a header states is believed before it has been compared with
the file's own.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .packed import decoding, require_likely
from .words import describe_content, warn

NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"          # what such files begin with
_HEADER, _BEGINNING = 2**16, 2**12              # bytes, at most and of one that is only looked at; numpy writes 128
_FIELDS = {     # not parsed as Python, whose documentation says that hostile text can crash it
    "descr": r"""['"]descr['"]\s*:\s*(?:['"]([^'"\s]{0,40})['"]|[\[(])""",
    "fortran_order": r"""['"]fortran_order['"]\s*:\s*(True|False)""",
    "shape": r"""['"]shape['"]\s*:\s*\(([\d\s,L]*)\)""",
}
_VALUES = re.compile(r"[<>|=]?([fiuSU])[1-9]\d{0,8}")       # numbers and texts, of some width
NUMBERS, INTEGERS, IDS = {"fiu": "numbers"}, {"iu": "integers"}, {"iuSU": "a flat array of text or whole numbers"}
_ID_COST = 32                                   # bytes, and more, of a value as an object of Python
_AGAIN = "copy or save it again"
_UNCOMPRESSED = "save it with np.savez, uncompressed"


class NpyHeader(NamedTuple):
    descr: str          # numpy's type string, such as "<f4"; "" for records
    fortran: bool       # stored column after column
    shape: tuple
    size: int           # bytes before the data


def npy_header(content, where, size=None) -> NpyHeader:
    """The header of a `.npy`.

    Format: numpy.lib.format, versions 1.0 to 3.0.

    Args:
        content: its bytes, or the first of them, or an open file.
        where: words for it in messages.
        size: how many bytes there are in all, unless `content` is all of them.
    """
    size = len(content) if size is None else size
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    start = stream.read(12)
    if not start.startswith(NPY):
        raise ValueError(f"{where} is not a .npy array (starts with {start!r}); save it with np.save or np.savez")
    begin = 10 if start[6:7] == b"\x01" else 12     # where the text begins, after its length
    end = begin + int.from_bytes(start[8:begin], "little")
    if size < end or size < begin:
        raise ValueError(cut_off(where, size, end))
    stream.seek(begin)
    text = stream.read(min(end - begin, _HEADER)).decode("latin1")
    fields = {name: re.search(pattern, text) for name, pattern in _FIELDS.items()}
    sizes = re.findall(r"\d+", fields["shape"][1]) if fields["shape"] else []
    if None in fields.values() or any(len(digits) > 18 for digits in sizes):
        raise ValueError(f"{where} has a damaged header ({text[:60]!r}); {_AGAIN}")
    fortran = fields["fortran_order"][1] == "True"
    return NpyHeader(fields["descr"][1] or "", fortran, tuple(map(int, sizes)), end)


def npy_start(path):
    """(header of a `.npy` file, what the file looked like when it was read)."""
    require_start(path, NPY, ".npy")
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno())
        return npy_header(file, path, seen.st_size), seen


def read_npy(path, expected) -> np.ndarray:
    """All of a `.npy`, in memory.

    Args:
        path: the file.
        expected: NUMBERS, INTEGERS or IDS.

    Raises:
        ValueError: another file, cut off, or of another type.
    """
    header, seen = npy_start(path)
    stored = _value_type(path, header, seen.st_size, expected)
    values = np.fromfile(path, stored, math.prod(header.shape), offset=header.size)
    return values.reshape(header.shape, order="F" if header.fortran else "C")


class Npz:
    """An open `.npz`, to be used in a `with` statement. All that is decoded of it counts against its length.

    Raises:
        ValueError: it is no `.npz`, or damaged.
    """

    def __init__(self, path):
        self.path = Path(path)
        require_start(path, ZIP, ".npz")
        with decoding(path):
            self._archive = zipfile.ZipFile(path)
        self._members = {info.filename[:-4]: info
                         for info in self._archive.infolist() if info.filename.endswith(".npy")}
        self._taken = 0
        self.names = list(self._members)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._archive.close()

    def where(self, name) -> str:
        """Words for an array of it."""
        return f"{self.path}[{name!r}]"

    def header(self, name) -> NpyHeader:
        """The header of an array, which is not decoded for it."""
        return npy_header(self._read(name, _BEGINNING), self.where(name), self._members[name].file_size)

    def content(self, name) -> bytes:
        """The bytes of an array, header and all."""
        self._require(name, self._members[name].file_size)
        return self._read(name)

    def values(self, name, expected) -> np.ndarray:
        """A whole array; `expected` as in `read_npy`.

        Raises:
            ValueError: it is of another type, or cut off.
        """
        content = self.content(name)
        header = npy_header(content, self.where(name))
        stored, count = _value_type(self.where(name), header, len(content), expected), math.prod(header.shape)
        if expected is IDS:
            self._require(name, _ID_COST * count)
        return np.frombuffer(content, stored, count, header.size).reshape(
            header.shape, order="F" if header.fortran else "C")

    def _require(self, name, promised):
        self._taken += promised
        require_likely(self.where(name), self._taken, self.path, _UNCOMPRESSED)

    def _read(self, name, most=None):
        info = self._members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{self.where(name)} is compressed as numpy never does; save it with np.savez")
        with decoding(self.path), self._archive.open(info) as file:
            return file.read() if most is None else file.read(most)


def _value_type(where, header, size, expected):
    """The numpy type that is stored, if it is as expected, and the file bears out how many there are."""
    (kinds, words), = expected.items()
    match = _VALUES.fullmatch(header.descr)
    try:
        stored = np.dtype(header.descr) if match and match[1] in kinds else None
    except TypeError:                               # of no such width
        stored = None
    if stored is None:
        raise ValueError(f"{where} holds dtype {header.descr or 'records'} of shape {header.shape}; expected {words}")
    if 0 in header.shape:                           # of whatever other length
        raise ValueError(f"{where} has shape {header.shape}, so it holds nothing; expected {words}")
    require_size(where, size, header.size + math.prod(header.shape) * stored.itemsize)
    return stored


def require_size(where, size, promised):
    """Refuse fewer bytes than a header promises; more of them are ignored with a warning."""
    if size < promised:
        raise ValueError(cut_off(where, size, promised))
    if size > promised:
        warn(f"{where} has {size} bytes, its header promises {promised}; "
             "what follows the first array is not used")


def require_start(path, start, kind, way_out=_AGAIN):
    """Refuse a file that does not begin as its kind does, in words for what it is."""
    with open(path, "rb") as file:
        if file.read(len(start)) != start:
            raise ValueError(f"{path} is not a {kind} file: {describe_content(path)}; {way_out}")


def cut_off(where, size, promised) -> str:
    return f"{where} has {size} bytes, its header promises {promised}: cut off or damaged; {_AGAIN}"
