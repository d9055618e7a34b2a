"""The IDs that exist, as a tree: which codes may follow a prefix. Knows no recommender.

Shapes:  N items   I distinct IDs   L levels   K codes of a level   B histories   W prefixes of each
"""

from __future__ import annotations

import numpy as np
import torch

from ..codes import as_codes


class IdTree:
    """Prefixes numbered on each level in their order, so that the children of one follow each other.

    Attributes:
        sizes: L, the largest code of each level and 1.
        of_item: (N,) the number of each item's ID, from 0 to I - 1.
        held: (I,) how many items have the ID.
    """

    def __init__(self, ids):
        ids = as_codes(ids)
        self.sizes = [int(codes.max()) + 1 for codes in ids.T]
        distinct, of_item = np.unique(ids, axis=0, return_inverse=True)
        self.of_item = of_item.reshape(-1)
        self.held = np.bincount(self.of_item)
        self._codes, self._first = [], []           # of the prefixes of a level; first child of each on the level above
        parents = np.zeros(len(distinct), np.int64)
        for level in range(ids.shape[1]):
            begins = np.ones(len(distinct), bool)
            begins[1:] = (np.diff(parents) != 0) | (np.diff(distinct[:, level]) != 0)
            starts = np.flatnonzero(begins)
            self._codes.append(torch.from_numpy(distinct[starts, level]))
            first = np.searchsorted(parents[starts], np.arange(parents[-1] + 2))
            self._first.append(torch.from_numpy(first))
            parents = np.cumsum(begins) - 1

    def children(self, level, prefixes) -> torch.Tensor:
        """(B, W, K) the numbers of the prefixes that codes of `level` (from 0) make of prefixes (B, W), -1 for none.

        A prefix of no codes is 0; one of -1 has no children.
        """
        flat, first = prefixes.reshape(-1), self._first[level]
        begin = first[flat.clamp(min=0)]
        count = torch.where(flat < 0, 0, first[flat.clamp(min=0) + 1] - begin)
        rows = torch.repeat_interleave(torch.arange(len(flat)), count)
        found = torch.arange(len(rows)) + torch.repeat_interleave(begin - (count.cumsum(0) - count), count)
        out = torch.full((len(flat), self.sizes[level]), -1)
        out[rows, self._codes[level][found]] = found
        return out.reshape(*prefixes.shape, -1)
