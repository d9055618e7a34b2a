"""Features and what users did -> features blended with those of what is taken along. Knows no models.

Shapes:  N items   D feature width   P parts of the features   T items that somebody took
         E events (a user took an item)   C events of a chunk   B rows read at once
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from .checksums import FORMS, read_keys

REACH = 9                   # how many places apart in a user's list two items still belong together
MOST_NUMBERS = 2**30        # T times D, of 4 bytes each
EVENTS_PER_CHUNK = 2**11    # the features of so many are read at once


class BlendedTable:
    """(N, D) rows of a table, each item half itself and half the mean of what people take along with it.

    An item is taken along with another where both are in a user's list, at most REACH places apart, and counts
    1 / distance. What is blended is brought back to the variance that it had (a mean has less), each part by one
    factor. An item that nobody took along with another stays as it is, and so does a part that it lacks. As
    `FeatureTable` in all else; the means are made when rows are first asked for, and held in memory.

    Args:
        table: a `FeatureTable` or `PartsTable` of N items.
        interactions: `items` (E,), rows of the table in time order, user after user, and `offsets` (U + 1,), as
            `interactions.read_interactions` gives them.
        source: words for messages; the table's by default.

    Raises:
        ValueError: more numbers than can be held.
    """

    longest = float("inf")              # of a row, as in `FeatureTable`: nobody knows

    def __init__(self, table, interactions, source=None):
        self.shape, self.dtype, self.item_ids = table.shape, table.dtype, table.item_ids
        self.source = source or f"{table.source}, with what users did"
        self.names, self.widths = getattr(table, "names", None), getattr(table, "widths", None)
        self.fill = None                # (D,) what to give in place of NaN, as in `PartsTable`
        self._table, self._interactions, self._added = table, interactions, None
        taken = len(np.unique(interactions.items))
        if taken * self.shape[1] > MOST_NUMBERS:
            raise ValueError(f"{taken:,} items that somebody took, of {self.shape[1]} features, are too many to be "
                             f"blended, which takes 4 bytes a number; give features of at most {MOST_NUMBERS // taken} "
                             "columns, or leave the interactions out")

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"BlendedTable({self.source}: {self.shape[0]} x {self.shape[1]} {self.dtype})"

    def rows(self, index) -> torch.Tensor:
        """(B, D) float32, as `FeatureTable.rows`."""
        if self._added is None:
            self._place, self._added = _taken_along(self._table, self._interactions)
            self._share = _rescaled(self._table, self._place, self._added)
        found = self._table.rows(index)                                             # (B, D)
        place = self._place[index if isinstance(index, slice) else torch.as_tensor(index, dtype=torch.int64)]
        known = (place >= 0).nonzero()[:, 0]
        added = self._added[place[known]]
        found[known] = torch.where(added.isnan(), found[known], self._share * found[known] + added)
        return found if self.fill is None else torch.where(found.isnan(), self.fill.cpu(), found)

    def check(self, chunk_rows=None, rows=None) -> None:
        """Look at every number of the table's own, see `FeatureTable.check`."""
        self._table.check(chunk_rows, rows)

    def checksum(self, rows=None, *, form=FORMS[0]) -> str:
        """"blended:" and 32 hex digits, which tell these features and interactions from any others; all of them also
        for some rows, which are blended with others."""
        part = "" if rows is None else f" {rows.start} {rows.stop}"
        digest = hashlib.blake2b(f"{self._table.checksum(form=form)}{part}".encode(), digest_size=16)
        for part in (self._interactions.items, self._interactions.offsets):
            digest.update(np.ascontiguousarray(part, "<i8"))
        return f"blended:{digest.hexdigest()}"

    def has_checksum(self, recorded, rows=None) -> bool:
        """As `FeatureTable.has_checksum`."""
        return any(recorded == self.checksum(rows, form=form) for form in FORMS)

    def row_keys(self, rows) -> np.ndarray:
        """(n,) int64, as `FeatureTable.row_keys`; the rows are read."""
        return read_keys(self, rows)

    def sampled_fingerprint(self) -> str:
        """As `FeatureTable.sampled_fingerprint`; nothing was blended then."""
        return self.checksum()


def _taken_along(table, interactions):
    """(N,) where an item's mean stands, -1 where nothing was taken along; and half the means (T, D), NaN for a part
    that none of the others has."""
    items = torch.as_tensor(np.asarray(interactions.items)).long()                          # (E,)
    users = torch.repeat_interleave(torch.as_tensor(np.asarray(interactions.offsets)).diff())    # (E,)
    widths = getattr(table, "widths", None) or [table.shape[1]]
    taken = items.unique()
    place = torch.full((len(table),), -1)
    place[taken] = torch.arange(len(taken))
    sums, weights = torch.zeros(len(taken), table.shape[1]), torch.zeros(len(taken), len(widths))
    for first in range(0, len(items), EVENTS_PER_CHUNK):
        begin = max(first - REACH, 0)           # the last ones before are partners once more
        chunk = slice(begin, first + EVENTS_PER_CHUNK)
        _add_pairs(sums, weights, table.rows(items[chunk].numpy()), widths, place[items[chunk]], users[chunk],
                   first - begin)
    alone = (weights.sum(dim=1) == 0).nonzero()[:, 0]
    place[taken[alone]] = -1
    for part, weight in zip(sums.split(widths, dim=1), weights.split(1, dim=1)):
        part.div_(2 * weight)                   # 0 / 0 is NaN
    return place, sums


def _rescaled(table, place, added):
    """(D,) what an item's own features count; and `added` (T, D) becomes what is added to them, in place."""
    items = (place >= 0).nonzero()[:, 0]
    moments = torch.zeros(5, table.shape[1], dtype=torch.float64)       # how many; sums and squares, before and after
    for chunk in items.split(EVENTS_PER_CHUNK):
        own = table.rows(chunk.numpy())
        blended = own / 2 + added[place[chunk]]
        own = torch.where(blended.isnan(), torch.nan, own)
        moments += torch.stack([(~own.isnan()).double(), own, own ** 2, blended, blended ** 2]).double().nansum(dim=1)
    # (D,) means, NaN where nothing was blended.
    before, after = (moments[at] / moments[0] for at in (1, 3))
    spreads = torch.stack([moments[2] / moments[0] - before ** 2, moments[4] / moments[0] - after ** 2])      # (2, D)
    factors = []
    for part in spreads.nan_to_num(0.0).split(getattr(table, "widths", None) or [table.shape[1]], dim=1):
        was, now = part.clamp_min(0.0).sum(dim=1).tolist()
        factors.append(torch.full((part.shape[1],), (was / now) ** 0.5 if now > 0 else 1.0, dtype=torch.float64))
    factor = torch.cat(factors)
    added.mul_(factor.float()).add_((before - factor * after).float())
    return (factor / 2).float()


def _add_pairs(sums, weights, features, widths, places, users, begun):
    """Add the pairs whose later event is not among the first `begun` of the chunk: to sums (T, D) of features and
    weights (T, P), from features (C, D) of the events, the places (C,) of their items and their users (C,)."""
    there = torch.stack([~part[:, 0].isnan() for part in features.split(widths, dim=1)], dim=1).float()      # (C, P)
    features = features.nan_to_num(0.0)
    along, weight = torch.zeros_like(features), torch.zeros_like(there)
    for distance in range(1, min(REACH, len(places) - 1) + 1):
        earlier, later = slice(0, -distance), slice(distance, None)
        pair = (users[earlier] == users[later]) & (places[earlier] != places[later])
        pair[:max(begun - distance, 0)] = False
        share = (pair.float() / distance)[:, None]                              # (C - distance, 1)
        for one, other in ((earlier, later), (later, earlier)):
            along[one].addcmul_(features[other], share)
            weight[one].addcmul_(there[other], share)
    sums.index_add_(0, places, along)
    weights.index_add_(0, places, weight)
