"""Rows -> hex digits that tell them from any others, whatever file and pieces they come in. Knows no files.

Shapes:  N rows (items)   D feature width   n rows of one piece
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np

from ..collisions import row_sums

ROWS_PER_BLOCK = 1024       # a part of a table that begins at a multiple of it has a checksum of its own
# What stands before the digits, by how they are made: now; from 1.2 to 1.3.0; in 1.1.
FORMS = ("3:", "2:", "")


def form_of(recorded) -> str:
    """Which of FORMS a checksum has that was recorded."""
    return next(form for form in FORMS if str(recorded).startswith(form))


class BlockChecksums:
    """CRC-32 of every ROWS_PER_BLOCK rows, each row as `row_sums` has it, of which a checksum of the whole or of a
    part is made.

    One pass over the rows, in pieces of any size, and nothing but four bytes a block to keep.

    Args:
        form: one of FORMS; the last takes every byte of the rows into the CRC, at twice the cost.
    """

    def __init__(self, form=FORMS[0]):
        self._sums = {}             # block number -> (rows taken in, CRC-32 of them)
        self._form = form

    def add(self, first, rows) -> None:
        """Take in (n, D) rows, the first of which is number `first`: it begins a block or goes on where the last
        piece ended."""
        with np.errstate(over="ignore", invalid="ignore"):      # who reads them to use them refuses those
            rows = np.ascontiguousarray(rows, "<f4")
        rows = row_sums(rows, mixed=self._form == FORMS[0]) if self._form else rows
        while len(rows):
            block, place = divmod(first, ROWS_PER_BLOCK)
            piece = rows[:ROWS_PER_BLOCK - place]
            before = self._sums.get(block, (0, 0))[1] if place else 0
            self._sums[block] = place + len(piece), zlib.crc32(piece, before)
            first, rows = first + len(piece), rows[len(piece):]

    def of(self, part, width) -> str | None:
        """The form and 32 hex digits for the rows of a range that begins at a block; None if not all were taken in."""
        digest = hashlib.blake2b(f"{len(part)} {width}".encode(), digest_size=16)
        for first in range(part.start, part.stop, ROWS_PER_BLOCK):
            count, crc = self._sums.get(first // ROWS_PER_BLOCK, (0, 0))
            if count != min(ROWS_PER_BLOCK, part.stop - first):
                return None
            digest.update(crc.to_bytes(4, "little"))
        return self._form + digest.hexdigest()
