"""Two sets of IDs -> what is left of the old ones, as they are and under the best names for the new codes; how new
items lie among published ones.

Shapes:  M common items   L levels
"""

from __future__ import annotations

import numpy as np

from ..codes import as_codes
from ..collisions import collision_ranks, id_keys, run_starts
from ..storage.item_ids import rows_by_text
from .relabelling import best_names, renamed


def compare_ids(new, old) -> dict:
    """Figures for a pair of `SemanticIds`; items are matched by item ID, or by row where neither side has any.

    Returns:
        common, new, gone: items of both, of the new alone, of the old alone.
        kept: share of the common items with the same first code, first two, ..., whole ID (a list).
        kept_renamed: the same after the best renaming of the new codes, level by level.
        neighbours: share of the pairs that shared the first code, the first two, ... and still do (a list); no renaming
            changes it, so it tells a mere renaming from a change.

    Raises:
        ValueError: one side has item IDs and the other has none, or there is no common item.
    """
    if (new.item_ids is None) != (old.item_ids is None):
        raise ValueError("one of the two files has item IDs and the other has none, so nobody can tell which items are "
                         "the same; compare files that both have them, or neither")
    if old.item_ids is None:
        count = min(len(new.codes), len(old.codes))
        rows = np.arange(count), np.arange(count)
    else:
        row_of = rows_by_text(old.item_ids)
        pairs = [(row, row_of[str(item)]) for row, item in enumerate(new.item_ids) if str(item) in row_of]
        rows = np.array(pairs, np.int64).reshape(-1, 2).T
    common = len(rows[0])
    if not common:
        raise ValueError("the two files have no item in common; name IDs of the same catalogue")
    levels = min(new.codes.shape[1], old.codes.shape[1])
    after, before = new.codes[rows[0], :levels], old.codes[rows[1], :levels]
    sizes = (np.maximum(after.max(axis=0), before.max(axis=0)) + 1).tolist()
    return {
        "common": common, "new": len(new.codes) - common, "gone": len(old.codes) - common,
        "kept": _kept(after, before), "kept_renamed": _kept(renamed(after, best_names(before, after, sizes)), before),
        "neighbours": [_still_together(after[:, :length], before[:, :length]) for length in range(1, levels + 1)],
    }


def compare_new(new, published) -> dict:
    """How new items lie among the published ones that a recommender knows.

    Args:
        new: (M, L) codes as the model gives them.
        published: (N, L) codes.

    Returns:
        known: share of the new items whose first code, first two, ..., but not the whole ID, a published item has (a
            list).
        known_published: the same of the published items, for another one's (a list): what to expect of items of their
            kind.
        rare, rare_published: share of either on the least used first codes, which together have at most a tenth of the
            published.
        shared: share of the new items whose whole ID a published item or another new one has, before they are told
            apart.
    """
    new, published = as_codes(new, "new"), as_codes(published, "published")
    known, known_published = [], []
    for length in range(1, new.shape[1]):
        keys = id_keys(np.concatenate([published[:, :length], new[:, :length]]))
        known.append(np.isin(keys[len(published):], keys[:len(published)]).mean())
        known_published.append((collision_ranks(published[:, :length])[1] > 1).mean())
    counts = np.bincount(published[:, 0], minlength=int(new[:, 0].max()) + 1)
    order = np.argsort(counts, kind="stable")
    rare = order[np.cumsum(counts[order]) <= len(published) / 10]
    keys = id_keys(np.concatenate([published[:, :new.shape[1]], new]))
    taken = np.isin(keys[len(published):], keys[:len(published)]) | (collision_ranks(new)[1] > 1)
    return {"known": list(map(float, known)), "known_published": list(map(float, known_published)),
            "rare": float(np.isin(new[:, 0], rare).mean()),
            "rare_published": float(np.isin(published[:, 0], rare).mean()),
            "shared": float(taken.mean())}


def _kept(after, before):
    return (after == before).cumprod(axis=1).mean(axis=0).tolist()


def _still_together(after, before):
    """Of the pairs of items that share their ID in `before`, the share that does in `after`; NaN without any."""
    old = _pairs(id_keys(before))
    return _pairs(id_keys(np.column_stack([before, after]))) / old if old else float("nan")


def _pairs(keys):
    sizes = np.diff(run_starts(np.sort(keys)), append=len(keys)).astype(np.float64)
    return float((sizes * (sizes - 1)).sum() / 2)
