"""Semantic IDs and what users took -> figures that count in a recommender, most of them without one. Knows no file.

Shapes:  N items   L levels   E events   P pairs of an item and the one that its user took next
"""

from __future__ import annotations

import numpy as np

from ..codes import as_codes
from ..collisions import collision_ranks, id_keys
from .assessment import HEALTHY, Measure
from .judging import LISTED, half_interval, judge, leave_last_out, popularity, scores
from .words import percent

MOST_PAIRS = 10**6      # more are drawn from


def taken_measures(ids, interactions, *, levels=None) -> list:
    """What can be said without training anything, as a list of `assessment.Measure`.

    Args:
        ids: (N, L) int64, or (N, L+1) with a suffix.
        interactions: an `Interactions`.
        levels: L, where there is a suffix.
    """
    ids = as_codes(ids)
    codes, times = ids[:, :levels], np.bincount(interactions.items, minlength=len(ids))     # times: (N,)
    shared = collision_ranks(ids)[1] > 1
    share = times[shared].sum() / times.sum()
    found = [Measure("taken", "events whose item shares its ID", percent(share), "0 %",
                     "good" if not share else "poor" if share > 0.05 else "fair",
                     HEALTHY["shared"].remedy if share else "")]
    pairs = next_items(interactions)
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.random.default_rng(0).choice(len(pairs), MOST_PAIRS, replace=False)]
    if len(pairs):
        found.append(Measure("taken", "next item among 10 by shared prefix (the most taken)",
                             f"{prefix_recall(codes, pairs):.3f} ({most_taken_recall(times, pairs):.3f})"))
    return found + _use(codes, times) + _reach(codes, times)


def recommender_measures(ids, interactions, seeds=(0,)) -> list:
    """What a small recommender makes of the IDs, trained and judged on these interactions: some CPU-minutes."""
    split = leave_last_out(interactions)
    found, most = judge(ids, split, seeds), popularity(split, len(ids))

    def measure(label, values, without):
        interval = half_interval(values, split.user)
        return Measure("taken", f"{label} of a recommender, {len(split.user):,} users (the most taken)",
                       f"{values.mean():.4f} ± {interval:.4f} ({without.mean():.4f})")

    return [measure("R@10", found.recall, most.recall), measure("NDCG@10", found.ndcg, most.ndcg)]


def next_items(interactions) -> np.ndarray:
    """(P, 2) rows of items that a user took one right after the other."""
    users = interactions.users()
    same = users[1:] == users[:-1]
    return np.stack([interactions.items[:-1][same], interactions.items[1:][same]], 1).astype(np.int64)


def prefix_recall(codes, pairs) -> float:
    """R@10 of listing, after an item, the others by the length of the prefix that they share with it: for (P, 2) items
    and next items, the mean over the order of those that share as much."""
    codes = as_codes(codes)
    first, second = pairs.T
    others, depth = [np.full(len(pairs), len(codes) - 1)], np.zeros(len(pairs), np.int64)
    for length in range(1, codes.shape[1] + 1):
        group = np.unique(id_keys(codes[:, :length]), return_inverse=True)[1].reshape(-1)       # (N,)
        others.append(np.bincount(group)[group[first]] - 1)         # who shares at least so much with the first
        depth += group[first] == group[second]
    others = np.stack([*others, np.zeros_like(depth)])              # (L+2, P)
    above = np.take_along_axis(others, depth[None] + 1, 0)[0]
    return float(scores(above, np.take_along_axis(others, depth[None], 0)[0] - above).recall.mean())


def most_taken_recall(times, pairs) -> float:
    """R@10 of listing the items that were taken most, whatever came before."""
    return float(np.isin(pairs[:, 1], np.argsort(-times, kind="stable")[:LISTED]).mean())


def thirds(times) -> list:
    """Rows of the most taken items that together have a third of the events, of those with the next, and the last."""
    order = np.argsort(-times, kind="stable")[:np.count_nonzero(times)]
    before = np.cumsum(times[order]) - times[order]
    return [order[(before >= times.sum() * part / 3) & (before < times.sum() * (part + 1) / 3)] for part in range(3)]


def _use(codes, times):
    parts = thirds(times)
    sizes = " / ".join(f"{len(part):,}" for part in parts)
    return [Measure("taken", f"level {level}: codes of the {sizes} items", " / ".join(
        f"{len(np.unique(column[part])):,}" for part in parts)) for level, column in enumerate(codes.T, start=1)]


def _reach(codes, times):
    """A recommender that never saw a prefix hardly says it (ColdSID, arXiv 2607.21101)."""
    taken = times > 0
    if taken.all() or codes.shape[1] == 1:
        return []
    shares = []
    for length in range(1, codes.shape[1]):
        keys = np.unique(id_keys(codes[:, :length]), return_inverse=True)[1].reshape(-1)
        shares.append(np.isin(keys[~taken], keys[taken]).mean())
    return [Measure("taken", f"{(~taken).sum():,} never taken: under prefixes of the others",
                    " / ".join(percent(share) for share in shares))]
