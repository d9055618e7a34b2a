"""Semantic IDs -> which item, ID and prefix is where. Knows no file, and no code that no item has.

Shapes:  N items   L levels
"""

from __future__ import annotations

import numpy as np

from ..codes import as_array, as_codes, as_item_ids
from ..collisions import id_keys, run_starts
from ..storage.item_ids import rows_by_text


class SemanticIdIndex:
    """Look-up in both directions, and the tree of prefixes that constrained decoding walks.

    `ids = load_semantic_ids(path)`, then `SemanticIdIndex(ids.codes, ids.item_ids)`. Rows are
    sorted by ID once; after that a look-up is a few binary searches.

    Args:
        codes: (N, L) or (N,) integers; collisions are allowed.
        item_ids: N different item IDs, text or integers, or None where the rows are the items.

    Raises:
        ValueError: not codes, or not one ID for each item.
    """

    def __init__(self, codes, item_ids=None):
        self.codes = as_codes(codes)                                    # (N, L), by row
        self.item_ids = as_item_ids(item_ids, len(self.codes))
        self._row_of = rows_by_text(self.item_ids or ())
        self._rows = np.argsort(id_keys(self.codes), kind="stable")     # (N,), by ID, then row
        self._sorted = np.ascontiguousarray(self.codes[self._rows].T)   # (L, N)
        # Where each prefix of length 1, 2, ..., L begins among the sorted rows.
        self._starts = [run_starts(id_keys(self._sorted[:length].T))
                        for length in range(1, len(self._sorted) + 1)]

    def __len__(self):
        return len(self.codes)

    def id_of(self, item) -> np.ndarray:
        """The (L,) codes of an item, by its item ID; by its row number where the index has no item IDs.

        Raises:
            KeyError: there is no such item.
        """
        row = item if self.item_ids is None else self._row_of.get(str(item))
        if row is None or isinstance(row, (str, bool)) or not 0 <= row < len(self):
            hint = f"; codes[{item}] is that of row {item}" if isinstance(item, int) and 0 <= item < len(self) else ""
            raise KeyError(f"there is no item {item!r} among these {len(self)}{hint}")
        return self.codes[row]

    def rows_of(self, prefix=()) -> np.ndarray:
        """Rows, ascending, of the items whose ID is or begins with `prefix`; () is every item."""
        low, high = self._span(_as_prefix(prefix))
        return np.sort(self._rows[low:high])

    def items_of(self, prefix=()) -> list:
        """The same items by item ID, or by row number where the index has no item IDs."""
        rows = self.rows_of(prefix).tolist()
        return rows if self.item_ids is None else [self.item_ids[row] for row in rows]

    def next_codes(self, prefix=()) -> np.ndarray:
        """The codes, ascending, with which some ID goes on behind `prefix`; often none.

        For many prefixes at once, as beams are, `trie.CodeTrie` takes an eighth of the time.
        """
        prefix = _as_prefix(prefix)
        if len(prefix) >= len(self._sorted):
            return np.empty(0, np.int64)
        return self._sorted[len(prefix), self._children(len(prefix), *self._span(prefix))]

    def _children(self, level, low, high):
        """Where the codes of `level` begin among sorted rows low to high, which share a prefix."""
        starts = self._starts[level]
        return starts[np.searchsorted(starts, low):np.searchsorted(starts, high)]

    def _span(self, prefix):
        """From where to where the sorted rows begin with `prefix`: (low, high), equal for none."""
        low, high = 0, len(self)
        if len(prefix) > len(self._sorted):
            return 0, 0
        for level, code in enumerate(prefix):
            starts = self._children(level, low, high)
            place = int(np.searchsorted(self._sorted[level, starts], code))
            if place == len(starts) or self._sorted[level, starts[place]] != code:
                return 0, 0
            low, high = np.append(starts, high)[place:place + 2].tolist()
        return low, high


def _as_prefix(prefix):
    codes = np.atleast_1d(as_array(prefix))
    if codes.ndim != 1 or (len(codes) and codes.dtype.kind not in "iu"):
        raise ValueError(f"a prefix must be a sequence of integers, got {prefix!r}")
    return codes.astype(np.int64)
