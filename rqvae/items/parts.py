"""Several embeddings an item -> one table that has them side by side. Knows no batches.

An item may lack some of them: its numbers there are NaN, in the file or because its item ID is not there, until
`fill` says what stands for them.

Shapes:  N items   D width of all parts together   P parts
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from ..storage.item_ids import of_one_kind
from ..storage.words import warn
from .checksums import FORMS, ROWS_PER_BLOCK, BlockChecksums, form_of, read_keys


class PartsTable:
    """(N, D) rows of P tables side by side; as `FeatureTable`, but for NaN where an item lacks a part.

    Items are the rows of the tables, which must then be as many; or, where all tables have item IDs, the IDs of the
    first table and then those that only later ones have.

    Attributes:
        names, widths: of the P parts.
        longest: of a row; nobody knows.
        fill: (D,) what to give in place of NaN, such as a model's `feature_mean`; None for NaN.

    Raises:
        ValueError: the tables do not have the same rows, or only some of them have item IDs.
    """

    longest = float("inf")

    def __init__(self, tables):
        self.names, tables = list(tables), list(tables.values())
        self.widths = [table.shape[1] for table in tables]
        self._tables = [copy.copy(table) for table in tables]
        for table in self._tables:
            table.may_lack_rows = True
        self.source = " and ".join(table.source for table in tables)
        self.dtype = " and ".join(sorted({table.dtype for table in tables}))
        self.fill, self._checksums = None, BlockChecksums()
        self._rows_of, self.item_ids = _joined(self._tables)
        self.shape = (len(self._tables[0]) if self._rows_of is None else self._rows_of.shape[1], sum(self.widths))
        self._numbers = np.arange(self.shape[0])

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"PartsTable({self.source}: {self.shape[0]} x {' + '.join(map(str, self.widths))} {self.dtype})"

    def rows(self, index) -> torch.Tensor:
        """(B, D) float32, as `FeatureTable.rows`."""
        index = self._numbers[index.cpu().numpy() if isinstance(index, torch.Tensor) else index]
        count = len(index)
        out = np.full((count, self.shape[1]), np.nan, np.float32)
        begin = 0
        for number, (table, width) in enumerate(zip(self._tables, self.widths)):
            where = index if self._rows_of is None else self._rows_of[number][index]
            there = slice(None) if self._rows_of is None else where >= 0
            if count and (self._rows_of is None or there.any()):
                out[there, begin:begin + width] = table.rows(where if self._rows_of is None else where[there]).numpy()
            begin += width
        found = torch.from_numpy(out)
        return found if self.fill is None else torch.where(found.isnan(), self.fill.cpu(), found)

    def check(self, chunk_rows=None, rows=None) -> None:
        """Look at every number, and say how many items lack a part.

        Raises:
            ValueError: NaN or Inf in a row that is not all missing, or an item that has no part at all.
        """
        part = range(len(self)) if rows is None else rows
        lacking, nothing = [0] * len(self.widths), []
        fill, self.fill = self.fill, None
        try:
            for first in range(part.start, part.stop, ROWS_PER_BLOCK):
                chunk = self.rows(slice(first, min(first + ROWS_PER_BLOCK, part.stop)))
                self._checksums.add(first, _one_nan(chunk))
                # (P, rows)
                missing = torch.stack([piece[:, 0].isnan() for piece in chunk.split(self.widths, dim=1)])
                lacking = [before + int(now.sum()) for before, now in zip(lacking, missing)]
                nothing += (first + missing.all(dim=0).nonzero()[:, 0]).tolist()
        finally:
            self.fill = fill
        if nothing:
            raise ValueError(f"{self.source}: {len(nothing)} of {len(part)} items "
                             f"({', '.join(map(str, nothing[:8]))}) have none of the parts; "
                             "remove them, or give them one")
        for name, count in zip(self.names, lacking):
            if count:
                warn(f"{name} is missing for {count} of {len(part)} items; these are trained and encoded with what "
                     "there is")

    def checksum(self, rows=None, *, form=FORMS[0]) -> str:
        """As `FeatureTable.checksum`; what is missing counts as missing."""
        fill, self.fill = self.fill, None
        in_place = rows is None or isinstance(rows, range)
        sums = self._checksums if in_place and form == FORMS[0] else BlockChecksums(form)
        try:
            part = range(len(self)) if rows is None else rows if in_place else range(len(rows))
            if sums.of(part, self.shape[1]) is None:
                for first in range(part.start, part.stop, ROWS_PER_BLOCK):
                    chunk = slice(first, min(first + ROWS_PER_BLOCK, part.stop))
                    sums.add(first, _one_nan(self.rows(chunk if in_place else rows[chunk])))
            return sums.of(part, self.shape[1])
        finally:
            self.fill = fill

    def has_checksum(self, recorded, rows=None) -> bool:
        """As `FeatureTable.has_checksum`."""
        return recorded == self.checksum(rows, form=form_of(recorded))

    def row_keys(self, rows) -> np.ndarray:
        """(n,) int64, as `FeatureTable.row_keys`; the rows are read."""
        return read_keys(self, rows)

    def sampled_fingerprint(self) -> str:
        """Nothing: no checkpoint before 1.1, which kept one, was of parts."""
        return "parts"


def _one_nan(chunk):
    """Rows whose NaN have the same bits, whoever wrote them."""
    return chunk.masked_fill(chunk.isnan(), float("nan")).numpy()


def _joined(tables):
    """((P, N) row of each item in each table, -1 where it has none, or None for the rows themselves; item IDs)."""
    known = [table for table in tables if table.item_ids is not None]
    texts = [list(map(str, table.item_ids)) for table in known]          # 5 and "5" name one item
    lengths = {len(table) for table in tables}
    if len(known) < len(tables):
        other = next((table for table, ids in zip(known, texts) if ids != texts[0]), None)
        if other is not None:
            without = next(table.source for table in tables if table.item_ids is None)
            raise ValueError(f"{known[0].source} and {other.source} have other item IDs, or the same in another order, "
                             f"and {without} has none, so nobody can tell which items its rows are; "
                             "give it item IDs")
        if len(lengths) > 1:
            raise ValueError("the parts have " + ", ".join(f"{len(table)} rows ({table.source})" for table in tables) +
                             "; give them the same rows, NaN for what is missing, or item IDs in each file")
        return None, known[0].item_ids if known else None
    places = {text: row for row, text in enumerate(dict.fromkeys(text for ids in texts for text in ids))}
    item_of = {text: item for table, other in zip(tables, texts) for text, item in zip(other, table.item_ids)}
    ids = of_one_kind([item_of[text] for text in places])
    if all(other == list(places) for other in texts):
        return None, ids
    rows_of = np.full((len(tables), len(ids)), -1)
    for row, other in zip(rows_of, texts):
        row[[places[text] for text in other]] = np.arange(len(other))
    return rows_of, ids
