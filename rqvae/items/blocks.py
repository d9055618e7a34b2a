"""Rows that stay where they are, in memory or in a file, until they are asked for. Knows no format.

Here is also what every table is held to, wherever it comes from: real numbers, (items, width).
A block has `shape` (N, D), `dtype` (the stored type in words), `close()`, and `read(rows)`: rows of
a slice, or of an int64 array in any order, as a new array in working precision. That is float64 and
integers as they are stored, and float32 for every narrower float.

Shapes:  N rows (items)   D feature width   B rows read at once
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from functools import partial

import numpy as np
import torch

from ..storage.words import warn

_SLOW = 2**30                   # bytes of columns that are read out of their file again and again; fewer go into memory
_NEAR, _PAGE = 2**14, 2**12     # bytes between two numbers of a column, and between two rows, that are read with them
_PIECE = 2**20                  # numbers held at once on the way
_MAPS, _MEMORY = "/proc/self/maps", "/proc/self/mem"        # what lies at an address, and its bytes: Linux has them
_KINDS = {"U": "text", "S": "text", "b": "booleans", "c": "complex numbers", "M": "dates",
          "m": "time spans", "V": "records or raw bytes"}


class NoRows(ValueError):
    """A well-formed file or array has no row: refused alone, passed over among shards."""


class ArrayBlock:
    """Rows of a numpy array in memory; bfloat16 comes as its uint16 bits."""

    def __init__(self, array, *, bfloat16=False):
        self.shape = array.shape
        self.dtype = "bfloat16" if bfloat16 else array.dtype.name
        self._array = np.asarray(array)

    def read(self, rows):
        """(B, D) rows in working precision."""
        raw = self._array[rows]
        return _working(raw.copy() if isinstance(rows, slice) else raw, self.dtype)

    def close(self):
        """Nothing to close: the array belongs to whoever made it."""


class FileBlock:
    """Rows of numbers in a file, read by position.

    Not memory-mapped: rows that were read do not pile up in resident memory, a file that shrinks
    under us is an error and not a bus error, and nothing is read ahead of a random gather.

    Args:
        offset: the byte at which the first row begins.
        strides: bytes from a row to the next and from a column to the next, one of which is the size of a number;
            unless said, the rows lie one after the other.
        seen: `os.stat` of the file when its header was read; it has to stay the same file, as it was then.
        writable: whether who gave us the rows may go on writing to them, and the file has to keep its size alone.
    """

    _file = None                # opened at the first read, and anew in every process

    def __init__(self, path, offset, shape, stored, *, strides=None, bfloat16=False, seen=None, writable=False):
        self.shape = shape
        self.dtype = "bfloat16" if bfloat16 else stored.name
        self._path, self._offset, self._stored = os.path.abspath(path), offset, stored
        self._strides = strides or (shape[1] * stored.itemsize, stored.itemsize)
        self._watched = 3 if writable else 4            # of `_identity`
        self._seen = _identity(seen or os.stat(path))

    def read(self, rows):
        """(B, D) rows in working precision; a gather visits the file from front to back.

        Raises:
            ValueError: the file is no longer what it was.
            OSError: it cannot be read.
        """
        return _working(self.raw(rows), self.dtype)

    def raw(self, rows):
        """(B, D) rows as they are stored."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        raw = self._rows_of(self._file, rows)
        if _identity(os.fstat(self._file))[:self._watched] != self._seen[:self._watched]:
            raise ValueError(f"{self._path} was changed or replaced while in use; leave it as it is for so long, and "
                             "start again")             # asked after reading: what came before is as it was
        return raw

    def close(self):
        """Give the file handle back; the next read opens the file again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    __del__ = close

    def __getstate__(self):
        return {**self.__dict__, "_file": None}

    def _rows_of(self, file, rows):
        """(B, D) rows as they are stored in an open file."""
        row, column = self._strides
        if column != self._stored.itemsize:
            return self._out_of_columns(file, rows)
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        raw = np.empty((count, self.shape[1]), self._stored)
        if isinstance(rows, slice) and row == self.shape[1] * column:
            self._fill(file, _bytes(raw), rows.start * row)
            return raw
        rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        order, ordered, edges = _runs(rows, _PAGE // max(row, 1), _PIECE // self.shape[1])
        if 2 * len(edges) > len(rows) or row != self.shape[1] * column:     # hardly any two can be read at once
            buffer, size = _bytes(raw), self.shape[1] * column
            for place, number in zip(order.tolist(), ordered.tolist()):
                self._fill(file, buffer[place * size:(place + 1) * size], number * row)
            return raw
        for places in np.split(order, edges) if len(rows) else ():
            first, last = rows[places[0]], rows[places[-1]]
            piece = np.empty((last + 1 - first, self.shape[1]), self._stored)
            self._fill(file, _bytes(piece), first * row)
            raw[places] = piece[rows[places] - first]
        return raw

    def _out_of_columns(self, file, rows):
        """The same where numbers of one column, and not of one row, lie beside each other."""
        rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        # A few more rows than are wanted: columns a power of two apart would share their lines of the cache.
        columns = np.empty((self.shape[1], len(rows) + 16), self._stored)[:, :len(rows)]
        order, _, edges = _runs(rows, _NEAR // self._stored.itemsize, _PIECE)
        for places in np.split(order, edges) if len(rows) else ():
            first, last = rows[places[0]], rows[places[-1]]
            piece, wanted = np.empty(last + 1 - first, self._stored), rows[places] - first
            for number, column in enumerate(columns):
                self._fill(file, _bytes(piece), first * self._strides[0] + number * self._strides[1])
                column[places] = piece[wanted]
        return np.ascontiguousarray(columns.T)

    def _fill(self, file, buffer, position):
        position = self._offset + int(position)
        while buffer:
            try:
                count = os.preadv(file, [buffer], position)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._path) from error
            if not count:
                raise ValueError(f"{self._path} ends before byte {position + len(buffer)}: it was "
                                 "cut short while in use; restore it and start again")
            buffer, position = buffer[count:], position + count


class MapBlock(FileBlock):
    """Rows of a memory map that somebody else made, copied by the kernel: what was cut off under it is an error."""

    def __init__(self, array, path, *, bfloat16=False):
        super().__init__(_MEMORY, _address(array), array.shape, array.dtype, strides=array.strides, bfloat16=bfloat16)
        self._array, self._mapped = array, path

    def raw(self, rows):
        """(B, D) rows as they are stored."""
        file = os.open(_MEMORY, os.O_RDONLY | os.O_CLOEXEC)         # of this process, whoever it was forked from
        try:
            return self._rows_of(file, rows)
        except OSError as error:
            raise ValueError(f"{self._mapped} cannot be read where it is mapped ({error.strerror}): it was cut short "
                             "while in use; restore it and start again") from error
        finally:
            os.close(file)

    def __reduce__(self):                                           # the address is of this process
        return partial(ArrayBlock, bfloat16=self.dtype == "bfloat16"), (self.raw(slice(0, self.shape[0])),)


def _bytes(numbers):
    """Those of an array that lies in one piece, to be read into."""
    return memoryview(numbers.reshape(-1).view(np.uint8))


def _runs(rows, near, most):
    """(where the rows stand in ascending order, the rows in it, where in it a run begins that is read by itself):
    within a run the next is at most `near` rows on, and all lie within `most`."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    far = (np.diff(ordered) > near) | (np.diff(ordered // max(1, most)) > 0)
    return order, ordered, np.flatnonzero(far) + 1


def _identity(found):
    """What tells a file from another, and from itself after somebody wrote to it."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def array_block(array, where):
    """The block of a numpy array, which is not copied; `where` is the words for it in messages."""
    require_numbers(where, array.dtype.str)
    return _in_memory(array.reshape(table_shape(where, array.shape)))


def _in_memory(array, *, bfloat16=False):
    """The block of an (N, D) array; where a file is mapped there, which somebody may cut off, it is read as a file."""
    array = np.asarray(array)
    path, offset, seen, writable = _file_under(array)
    if path is None or array.itemsize not in array.strides:
        return ArrayBlock(array, bfloat16=bfloat16)
    if seen is None:
        return MapBlock(array, path, bfloat16=bfloat16)
    block = FileBlock(path, offset, array.shape, array.dtype, strides=array.strides, bfloat16=bfloat16, seen=seen,
                      writable=writable)
    block.raw(slice(0, 0))              # opens it while it is known under this name
    return block


def _file_under(array):
    """(path, where the array begins in it, its `os.stat`, whether who mapped it may write) of the file that is mapped
    where an array lies: (None, ...) if none is, or the system does not say; no `os.stat` if the bytes there need not
    be the file's."""
    ends = [(size - 1) * step for size, step in zip(array.shape, array.strides)]
    begin = _address(array)
    low, high = begin + sum(min(end, 0) for end in ends), begin + sum(max(end, 0) for end in ends) + array.itemsize
    with contextlib.suppress(OSError), open(_MAPS, "rb") as maps:
        for line in maps if not array.flags.owndata else ():
            span, mode, offset, device, inode, *path = line.rstrip(b"\n").split(maxsplit=5)
            start, stop = (int(edge, 16) for edge in span.split(b"-"))
            if not (path and start <= low and high <= stop):
                continue
            found = os.stat(path[0])                    # fails for a file that has no name any more, and is safe so
            if not stat.S_ISREG(found.st_mode):
                break
            same = (device, int(inode)) == (b"%02x:%02x" % (os.major(found.st_dev), os.minor(found.st_dev)),
                                            found.st_ino)
            return (os.fsdecode(path[0]), int(offset, 16) + begin - start, found if same and mode[3:] == b"s" else None,
                    mode[1:2] == b"w")
    return None, None, None, None


def _address(array):
    return array.__array_interface__["data"][0]


def tensor_block(tensor, where):
    """The block of a torch tensor, which is copied only if it lies on another device."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise ValueError(f"{where} is a sparse, quantized, nested or meta tensor; expected a plain "
                         "one: save tensor.to_dense() or tensor.dequantize()")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        return _in_memory(bits.reshape(table_shape(where, bits.shape)), bfloat16=True)
    try:
        array = tensor.numpy()
    except TypeError:                               # float8 and the like, which numpy does not have
        raise ValueError(f"{where} has dtype {tensor.dtype}; expected floats of 16 bits or more: "
                         "save tensor.float()") from None
    return array_block(array, where)


def file_block(path, offset, shape, stored, *, fortran=False, bfloat16=False, seen=None):
    """The block of (N, D) rows of numpy type `stored` that begin at byte `offset` of a file; `seen` as in FileBlock."""
    if not hasattr(os, "preadv"):           # Windows, which lets nobody cut off a file that is mapped
        return ArrayBlock(np.memmap(path, stored, "r", offset, shape, "F" if fortran else "C"), bfloat16=bfloat16)
    if not fortran:
        return FileBlock(path, offset, shape, stored, bfloat16=bfloat16, seen=seen)
    strides = stored.itemsize, shape[0] * stored.itemsize
    block = FileBlock(path, offset, shape, stored, strides=strides, bfloat16=bfloat16, seen=seen)
    if shape[1] * strides[1] <= _SLOW:
        rows, step = np.empty(shape, stored), max(1, 2**20 // shape[1])
        for first in range(0, shape[0], step):
            rows[first:first + step] = block.raw(slice(first, min(first + step, shape[0])))
        return ArrayBlock(rows, bfloat16=bfloat16)
    warn(f"{path} is stored column by column (Fortran order), so each row is all over "
         "the file and slow to read; save np.ascontiguousarray(array)")
    return block


def require_numbers(where, descr):
    """The numpy type that `descr` names, such as "<f4", if it is real numbers of at most 8 bytes.

    Raises:
        ValueError: it is anything else; `where` and the type are named.
    """
    match = re.match(r"[<>|=]?([A-Za-z])(\d*)", descr)
    kind, size = match.groups() if match else ("V", "")
    if kind == "O":
        raise ValueError(
            f"{where} holds Python objects, as numpy makes of rows of unequal length; they are "
            "never opened, because reading them can run code: give all rows one length and save "
            "np.stack(rows).astype(np.float32)")
    if kind not in "fiu" or size not in ("1", "2", "4", "8") or kind + size == "f1":
        words = _KINDS.get(kind, "unusual numbers")
        raise ValueError(f"{where} holds {words} (dtype {descr or 'of records'}); "
                         "expected floats: save array.astype(np.float32)")
    return np.dtype(match[0])


def table_shape(where, shape):
    """`shape` as (N, D); an (N, 1, D) loses its middle axis with a warning.

    Raises:
        NoRows: no rows.
        ValueError: any other number of axes, or no columns at all.
    """
    if shape and shape[0] == 0:
        raise NoRows(f"{where} has shape {shape}, so it holds no features; expected at least one row and one column")
    if len(shape) == 3 and shape[1] == 1:
        warn(f"{where} has shape {shape}; its axis of size 1 is dropped")
        shape = (shape[0], shape[2])
    if len(shape) != 2:
        way_out = "array.reshape(-1, width)" if len(shape) < 2 else "one vector for each item"
        raise ValueError(f"{where} has shape {shape}; expected (items, width): save {way_out}")
    if 0 in shape:
        raise ValueError(f"{where} has shape {shape}, so it holds no features; "
                         "expected at least one row and one column")
    return shape


def _working(raw, dtype):
    if dtype == "bfloat16":                         # the upper half of a float32
        return (np.ascontiguousarray(raw, np.uint32) << 16).view(np.float32)
    wanted = np.float32 if dtype == "float16" else raw.dtype.newbyteorder("=")
    return np.ascontiguousarray(raw, wanted)
