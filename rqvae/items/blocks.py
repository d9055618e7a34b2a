"""Rows that stay where they are, in memory or in a file, until they are asked for. Knows no format.

Here is also what every table is held to, wherever it comes from: real numbers, (items, width).
A block has `shape` (N, D), `dtype` (the stored type in words), `close()`, and `read(rows)`: rows of
a slice, or of an int64 array in any order, as a new array in working precision. That is float64 and
integers as they are stored, and float32 for every narrower float.

Shapes:  N rows (items)   D feature width   B rows read at once
"""

from __future__ import annotations

import mmap
import os
import re
import warnings

import numpy as np
import torch

_MAPPED_ROWS = 32               # gathered from a memory map at once: Linux may map 2 MiB for each
_SLOW = 2**28                   # bytes from which reading rows out of columns is worth a warning
_KINDS = {"U": "text", "S": "text", "b": "booleans", "c": "complex numbers", "M": "dates",
          "m": "time spans", "V": "records or raw bytes"}


class NoRows(ValueError):
    """A well-formed file or array has no row: refused alone, passed over among shards."""


class ArrayBlock:
    """Rows of a numpy array, in memory or memory-mapped; bfloat16 comes as its uint16 bits."""

    def __init__(self, array, *, bfloat16=False):
        self.shape = array.shape
        self.dtype = "bfloat16" if bfloat16 else array.dtype.name
        self._array = np.asarray(array)

    def read(self, rows):
        """(B, D) rows in working precision."""
        mapping = _file_map(self._array)
        if mapping is not None:
            return _working(self._read_mapped(rows, mapping), self.dtype)
        raw = self._array[rows]
        return _working(raw.copy() if isinstance(rows, slice) else raw, self.dtype)

    def close(self):
        """Nothing to close: the array belongs to whoever made it."""

    def _read_mapped(self, rows, mapping):
        """Read and give the pages back, or they would pile up in resident memory."""
        if isinstance(rows, slice) or not self._array.flags.c_contiguous:
            raw = np.array(self._array[rows])
            mapping.madvise(mmap.MADV_DONTNEED)
            return raw
        raw = np.empty((len(rows), self.shape[1]), self._array.dtype)
        for first in range(0, len(rows), _MAPPED_ROWS):
            raw[first:first + _MAPPED_ROWS] = self._array[rows[first:first + _MAPPED_ROWS]]
            mapping.madvise(mmap.MADV_DONTNEED)
        return raw


class FileBlock:
    """Rows that lie one after the other in a file, read by position.

    Not memory-mapped: rows that were read do not pile up in resident memory, a file that shrinks
    under us is an error and not a bus error, and nothing is read ahead of a random gather.

    Args:
        seen: `os.stat` of the file when its header was read; it has to stay the same file, as it was then.
    """

    _file = None                # opened at the first read, and anew in every process

    def __init__(self, path, offset, shape, stored, *, bfloat16=False, seen=None):
        self.shape = shape
        self.dtype = "bfloat16" if bfloat16 else stored.name
        self._path, self._offset, self._stored = os.path.abspath(path), offset, stored
        self._seen = _identity(seen or os.stat(path))

    def read(self, rows):
        """(B, D) rows in working precision; a gather visits the file from front to back.

        Raises:
            ValueError: the file is no longer what it was.
        """
        return _working(self.raw(rows), self.dtype)

    def raw(self, rows):
        """(B, D) rows as they are stored."""
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        raw = np.empty((count, self.shape[1]), self._stored)
        buffer = memoryview(raw.reshape(-1).view(np.uint8))
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        if isinstance(rows, slice):
            self._fill(buffer, rows.start)
        else:
            size = self.shape[1] * self._stored.itemsize
            order = np.argsort(rows, kind="stable")
            for place, row in zip(order.tolist(), rows[order].tolist()):
                self._fill(buffer[place * size:(place + 1) * size], row)
        if _identity(os.fstat(self._file)) != self._seen:       # asked after reading: what came before is as it was
            raise ValueError(f"{self._path} was changed or replaced while in use; leave it as it is for so long, and "
                             "start again")
        return raw

    def close(self):
        """Give the file handle back; the next read opens the file again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    __del__ = close

    def __getstate__(self):
        return {**self.__dict__, "_file": None}

    def _fill(self, buffer, row):
        position = self._offset + row * self.shape[1] * self._stored.itemsize
        while buffer:
            count = os.preadv(self._file, [buffer], position)
            if not count:
                raise ValueError(f"{self._path} ends before byte {position + len(buffer)}: it was "
                                 "cut short while in use; restore it and start again")
            buffer, position = buffer[count:], position + count


def _identity(found):
    """What tells a file from another, and from itself after somebody wrote to it."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def array_block(array, where):
    """The block of a numpy array, which is not copied; `where` is the words for it in messages."""
    require_numbers(where, array.dtype.str)
    return ArrayBlock(array.reshape(table_shape(where, array.shape)))


def tensor_block(tensor, where):
    """The block of a torch tensor, which is copied only if it lies on another device."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise ValueError(f"{where} is a sparse, quantized, nested or meta tensor; expected a plain "
                         "one: save tensor.to_dense() or tensor.dequantize()")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        return ArrayBlock(bits.reshape(table_shape(where, bits.shape)), bfloat16=True)
    try:
        array = tensor.numpy()
    except TypeError:                               # float8 and the like, which numpy does not have
        raise ValueError(f"{where} has dtype {tensor.dtype}; expected floats of 16 bits or more: "
                         "save tensor.float()") from None
    return array_block(array, where)


def file_block(path, offset, shape, stored, *, fortran=False, bfloat16=False, seen=None):
    """The block of (N, D) rows of numpy type `stored` that begin at byte `offset` of a file; `seen` as in FileBlock."""
    if not fortran and hasattr(os, "preadv"):       # Windows has none
        return FileBlock(path, offset, shape, stored, bfloat16=bfloat16, seen=seen)
    if fortran and shape[0] * shape[1] * stored.itemsize > _SLOW:
        warnings.warn(f"{path} is stored column by column (Fortran order), so each row is all over "
                      "the file and slow to read; save np.ascontiguousarray(array)", stacklevel=2)
    array = np.memmap(path, stored, "r", offset, shape, "F" if fortran else "C")
    return ArrayBlock(array, bfloat16=bfloat16)


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
        warnings.warn(f"{where} has shape {shape}; its axis of size 1 is dropped", stacklevel=2)
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


def _file_map(array):
    """The shared memory map under an array, or None: a private one would lose what was written."""
    mode = None
    while isinstance(array, np.ndarray):
        mode = array.mode if isinstance(array, np.memmap) else mode
        array = array.base
    shared = isinstance(array, mmap.mmap) and mode in ("r", "r+", "w+")
    return array if shared and hasattr(mmap, "MADV_DONTNEED") else None
