"""What one pass over rows finds: hex digits that tell them from any others, whatever file and pieces they come in, and
what to refuse or to warn of. Knows no files.

Shapes:  N rows (items)   D feature width   n rows of one piece
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch

from ..collisions import row_keys, row_sums

ROWS_READ = 4096            # at once
TOO_LARGE = 1e15            # a sum of 10^8 squares of it, a large batch, nears float32's 3.4e38
LISTED = 8                  # row numbers in a message
ROWS_PER_BLOCK = 1024       # a part of a table that begins at a multiple of it has a checksum of its own
# What stands before the digits, by how they are made: now; from 1.2 to 1.3.0; in 1.1.
FORMS = ("3:", "2:", "")


def form_of(recorded) -> str:
    """Which of FORMS a checksum has that was recorded."""
    return next(form for form in FORMS if str(recorded).startswith(form))


class BlockChecksums:
    """CRC-32 of every ROWS_PER_BLOCK rows, each row as `row_sums` has it, of which a checksum of the whole or of a
    part is made.

    One pass over the rows, in pieces of any size, and nothing but four bytes a block to keep, and eight a row where
    `keys` are wanted.

    Args:
        form: one of FORMS; the last takes every byte of the rows into the CRC, at twice the cost.
        count: N, to keep the key of each of them as well.
    """

    def __init__(self, form=FORMS[0], count=None):
        self._sums = {}             # block number -> (rows taken in, CRC-32 of them)
        self._form, self._count, self._keys = form, count, None

    def add(self, first, rows) -> None:
        """Take in (n, D) rows, the first of which is number `first`: it begins a block or goes on where the last
        piece ended."""
        with np.errstate(over="ignore", invalid="ignore"):      # who reads them to use them refuses those
            rows = np.ascontiguousarray(rows, "<f4")
        sums = row_sums(rows, mixed=self._form == FORMS[0]) if self._form else rows
        if self._count is not None:
            self._keys = np.empty(self._count, np.int64) if self._keys is None else self._keys
            self._keys[first:first + len(rows)] = row_keys(rows) if _has_a_negative_zero(rows) else sums.view("<i8")
        while len(sums):
            block, place = divmod(first, ROWS_PER_BLOCK)
            piece = sums[:ROWS_PER_BLOCK - place]
            before = self._sums.get(block, (0, 0))[1] if place else 0
            self._sums[block] = place + len(piece), zlib.crc32(piece, before)
            first, sums = first + len(piece), sums[len(piece):]

    def of(self, part, width) -> str | None:
        """The form and 32 hex digits for the rows of a range that begins at a block; None if not all were taken in."""
        digest = hashlib.blake2b(f"{len(part)} {width}".encode(), digest_size=16)
        for first in range(part.start, part.stop, ROWS_PER_BLOCK):
            count, crc = self._sums.get(first // ROWS_PER_BLOCK, (0, 0))
            if count != min(ROWS_PER_BLOCK, part.stop - first):
                return None
            digest.update(crc.to_bytes(4, "little"))
        return self._form + digest.hexdigest()

    def keys(self) -> np.ndarray | None:
        """(N,) `row_keys`, which whoever gets them leaves as they are; None if not all rows were taken in."""
        return self._keys if sum(count for count, _ in self._sums.values()) == self._count else None


def read_keys(table, rows) -> np.ndarray:
    """`row_keys` of rows (n,) of a table, which are read for it: (n,) int64."""
    keys = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), ROWS_READ):
        keys[first:first + ROWS_READ] = row_keys(table.rows(rows[first:first + ROWS_READ]).numpy())
    return keys


def _has_a_negative_zero(rows):
    """Of float32, (n, D): as an integer it is the least there is."""
    return rows.view("<i4").min() == np.iinfo(np.int32).min


class Seen:
    """What a pass over rows has met so far.

    Attributes:
        broken, zero: `_Rows` with NaN or Inf, and of zeros only.
        largest: at least the largest magnitude, where that is too large.
        constant: the columns that were the same in every row.
        longest: the length of the longest row, Inf where its square overflows.
    """

    def __init__(self):
        self.broken, self.zero, self.largest, self.constant = _Rows(), _Rows(), 0.0, None
        self.longest = 0.0

    def add(self, first, chunk):
        """(n, D) rows in working precision, the first of which is number `first`."""
        with np.errstate(over="ignore", invalid="ignore"):
            rows = chunk.astype(np.float32, copy=False)             # as it is used: 1e-300 is 0
            longest = torch.linalg.vector_norm(torch.from_numpy(rows), dim=1).max().item()
            if not longest < TOO_LARGE / 2:                         # or none is NaN, Inf or too large
                self.broken.add(first, np.flatnonzero(~np.isfinite(chunk).all(axis=1)))
                self.largest = max(self.largest, -float(chunk.min()), float(chunk.max()))
        self.longest, chunk = max(self.longest, longest), rows
        suspects = np.flatnonzero(chunk[:, 0] == 0)                 # few, so few are read twice
        self.zero.add(first, suspects[~chunk[suspects].any(axis=1)])
        if self.constant is None:
            self.constant, self._row = np.arange(chunk.shape[1]), chunk[0].copy()
        for rows in (chunk[-1:], chunk):                            # after the last row there are few to look at
            if len(self.constant):
                same = rows[:, self.constant] == self._row[self.constant]
                self.constant = self.constant[same.all(axis=0)]


class _Rows:
    """How many rows are of a kind, and the numbers of the first few."""

    def __init__(self):
        self.count, self._first = 0, []

    def add(self, start, numbers):
        self.count += len(numbers)
        self._first += (start + numbers[:LISTED]).tolist()

    def __str__(self):
        return listed(self._first, self.count)


def listed(numbers, count):
    return ", ".join(map(str, numbers[:LISTED])) + (", ..." if count > LISTED else "")
