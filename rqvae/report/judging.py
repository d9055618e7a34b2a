"""Semantic IDs and what users took -> how well a recommender recommends with these IDs. Knows no model that made them.

Counted are items, not IDs: where n items share one, a list that names the ID names n items, in no order, and a hit on
it is worth the places that they have left among the first ten.

Shapes:  N items   L levels   U users   T items of one, at most REACH
         R rows to be judged by: a history and what came next
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from .id_tree import IdTree
from .recommender import REACH, train_recommender

LISTED = 10             # items of a recommendation that count
BEAMS = 20
DRAWS = 2000            # of the bootstrap
MOST_USERS = 20_000     # whom `leave_last_out` draws, for some CPU-minutes


class Split(NamedTuple):
    train: np.ndarray       # (U, T) int64 rows of items, oldest first, -1 after the last
    history: np.ndarray     # (R, T) the same
    target: np.ndarray      # (R,) what came next, and is not in `train`
    user: np.ndarray        # (R,) whose it is


class Scores(NamedTuple):
    recall: np.ndarray      # (R,) R@10: 1 for a hit, less where items share its ID
    ndcg: np.ndarray        # (R,) NDCG@10


def leave_last_out(interactions, *, users=MOST_USERS, seed=0) -> Split:
    """Each user's last item to judge by, those before it to train on; of users with two items or more.

    Args:
        interactions: an `Interactions`.
        users: how many are drawn where there are more.

    Raises:
        ValueError: no user has two.
    """
    lengths = np.diff(interactions.offsets)
    able = np.flatnonzero(lengths >= 2)
    if not len(able):
        raise ValueError("no user took two items, so there is nothing to recommend after the first; give interactions "
                         "with longer histories")
    if len(able) > users:
        able = np.sort(np.random.default_rng(seed).choice(able, users, replace=False))
    ends = interactions.offsets[able + 1] - 1                           # where the last item stands
    kept = np.minimum(lengths[able] - 1, REACH)
    at = np.arange(REACH)
    rows = interactions.items[np.minimum((ends - kept)[:, None] + at, len(interactions.items) - 1)]
    before = np.where(at < kept[:, None], rows, -1).astype(np.int64)
    return Split(before, before, interactions.items[ends].astype(np.int64), able)


def judge(ids, split, seeds=(0,)) -> Scores:
    """Train a recommender on the IDs (N, L) for each seed, and score what it recommends: means over seeds."""
    tree, ids = IdTree(ids), torch.as_tensor(np.ascontiguousarray(ids)).long()
    found = []
    for seed in seeds:
        model = train_recommender(ids, split.train, seed)
        rank = ranks(model, ids, tree, split.history, split.target)
        found.append(scores(rank, tree.held[tree.of_item[split.target]]))
    return Scores(*(np.mean(values, axis=0) for values in zip(*found)))


def ranks(model, ids, tree, history, target, beams=BEAMS) -> np.ndarray:
    """(R,) how many items are listed before those that have the target's ID, at most `beams`, and so many where it is
    not found."""
    out = np.full(len(target), beams)
    held = np.append(tree.held, 0)                                      # no item has the ID -1
    lengths = (history >= 0).sum(axis=1)
    at_once = max(1, min(512, 2 ** 24 // (beams * max(tree.sizes))))
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for start in range(0, len(same), at_once):
            rows = same[start:start + at_once]
            codes = ids[torch.from_numpy(history[rows, :length])]
            listed = model.recommend(codes, tree, beams).numpy()        # (rows, beams)
            before = np.cumsum(held[listed], axis=1) - held[listed]
            hit = listed == tree.of_item[target[rows]][:, None]
            out[rows] = np.where(hit.any(axis=1),
                                 np.minimum(before[np.arange(len(rows)), hit.argmax(axis=1)], beams), beams)
    return out


def scores(rank, share=1) -> Scores:
    """Of targets that have `rank` (R,) items listed before them, and stand among `share` (R,) that share their place:
    the mean over the order of these."""
    rank, share = np.broadcast_arrays(np.asarray(rank), share)
    gains = np.array([0, *np.cumsum([1 / math.log2(place + 2) for place in range(LISTED)])])
    low, high = np.minimum(rank, LISTED), np.minimum(rank + share, LISTED)
    return Scores((high - low) / share, (gains[high] - gains[low]) / share)


def half_interval(values, users, seed=0) -> float:
    """Half the width of the 95 % interval of the mean of `values` (R,), by a bootstrap over users.

    For a difference of two IDs give the differences of their scores: drawn together, they vary less.
    """
    users = np.unique(users, return_inverse=True)[1]
    count, total = np.bincount(users), np.bincount(users, values)
    draw, means = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        times = np.bincount(draw.integers(len(count), size=len(count)), minlength=len(count))
        means.append((times @ total) / (times @ count))
    low, high = np.percentile(means, [2.5, 97.5])
    return (high - low) / 2


def times_taken(split, count) -> np.ndarray:
    """(N,) how often each of `count` items occurs in what is trained on."""
    return np.bincount(split.train[split.train >= 0], minlength=count)


def popularity(split, count) -> Scores:
    """What listing the most taken items to everybody scores."""
    times = times_taken(split, count)
    return _by_score(np.broadcast_to(times, (1, count)), split.target, rows=False)


def content_neighbours(features, split) -> Scores:
    """What listing the items most like those of the history scores, the later ones counting more; without any training.

    Args:
        features: (N, D) float32.
    """
    unit = torch.nn.functional.normalize(features - features.mean(dim=0), dim=1)
    found = []
    for start in range(0, len(split.target), 256):
        history = torch.from_numpy(split.history[start:start + 256])
        lengths = (history >= 0).sum(dim=1, keepdim=True)
        weight = torch.where(history >= 0, 1 / (lengths - torch.arange(history.shape[1])).clamp(min=1), 0.0)
        profile = (unit[history.clamp(min=0)] * weight[:, :, None]).sum(dim=1)
        likeness = profile @ unit.T
        found.append(_by_score(likeness.numpy(), split.target[start:start + 256]))
    return Scores(*map(np.concatenate, zip(*found)))


def _by_score(values, target, rows=True) -> Scores:
    """Of lists in falling order of `values` (R, N), or (1, N) for all; those of equal value in any order."""
    own = values[np.arange(len(target)), target] if rows else values[0, target]
    if rows:
        above, same = (values > own[:, None]).sum(axis=1), (values == own[:, None]).sum(axis=1)
    else:
        ordered = np.sort(values[0])
        above = len(ordered) - np.searchsorted(ordered, own, "right")
        same = len(ordered) - above - np.searchsorted(ordered, own, "left")
    return scores(above, same)
