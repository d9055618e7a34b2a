"""Items as points of a plane, seen so that the largest groups lie apart, and these groups with names.

Knows no page and no picture: both draw what is found here.

Shapes:  N items   S of them that are shown   D feature width   L levels
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

POINTS = 3000           # items shown at most
GROUPS = 8              # first codes with a colour of their own
SAMPLE = 20_000         # items that are looked at
_WORD = re.compile(r"[^\W\d_]{3,}")


class Group(NamedTuple):
    code: int               # the first code
    items: int              # of all N that have it
    name: str               # the words that set their names apart from the others', or ""


class Plane(NamedTuple):
    places: np.ndarray      # (S, 2) from 0 to 1, the second upwards
    group: np.ndarray       # (S,) which of `groups`, -1 for another
    groups: list            # of `Group`, by size


def plane(features, codes, names=None) -> Plane:
    """The items on the plane in which the largest groups differ most: the principal components of their means, each of
    length 1, or with fewer than three groups those of the items; the farther out, the narrower the scale.

    Args:
        features: a `FeatureTable` (N, D) of at least two columns.
        codes: (N, L) int64.
        names: of the items, or None.
    """
    codes = np.asarray(codes).reshape(len(codes), -1)
    groups = first_groups(codes[:, 0], names)
    rows = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), SAMPLE)).round().astype(np.int64))
    items = features.rows(rows).double()
    items = items - items.mean(dim=0)
    own = torch.from_numpy(codes[rows, 0])
    means = [items[own == group.code].mean(dim=0) for group in groups if (own == group.code).any()]
    # Of length 1: a group far out would take a direction for itself.
    spread = torch.nn.functional.normalize(torch.stack(means)) if len(means) > 2 else items[::-(-len(items) // 1000)]
    spread = spread.expand(max(2, len(spread)), -1)                             # of a single item any plane will do
    directions = torch.linalg.svd(spread, full_matrices=False)[2][:2].T         # (D, 2)
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0)[None]).sign()
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).round().astype(np.int64))
    places = (items[shown] @ directions).numpy()                                # (S, 2)
    # Items far out would press the others together: the scale narrows outwards, the farthest stand on the edge.
    places = np.arcsinh(places / np.where(np.ptp(places, axis=0) > 0, places.std(axis=0), 1))
    low, high = np.quantile(places, [0.005, 0.995], axis=0)
    places = np.clip((places - low) / np.where(high > low, high - low, 1), 0, 1)
    known = {group.code: number for number, group in enumerate(groups)}
    number = np.array([known.get(code, -1) for code in codes[rows[shown], 0].tolist()])
    return Plane(places, number, groups)


def first_groups(first, names=None, limit=GROUPS) -> list:
    """The largest groups of items by their first code (N,), with what sets their names apart."""
    counts = np.bincount(first)
    largest = [code for code in np.argsort(-counts, kind="stable")[:limit].tolist() if counts[code]]
    words = group_words(first, names, largest) if names is not None else [""] * len(largest)
    return [Group(code, int(counts[code]), name) for code, name in zip(largest, words)]


def group_words(first, names, wanted, most=3) -> list:
    """For each code wanted, the words that many of its items' names have and few of the others'.

    Args:
        first: (N,) int64.
        names: N strings or None.
        wanted: codes.
        most: words of a name.
    """
    words_of = [set(_WORD.findall(str(name or ""))) for name in _sampled(names)]
    first = _sampled(first)
    everywhere = Counter(word for words in words_of for word in words)
    inside = {code: Counter() for code in wanted}
    sizes = Counter()
    for code, words in zip(np.asarray(first).tolist(), words_of):
        if code in inside:
            inside[code].update(words)
            sizes[code] += 1
    found = []
    for code in wanted:
        size = max(sizes[code], 1)
        # Many of the group have it, and more than elsewhere.
        shares = {word: (count / size, everywhere[word] / len(words_of)) for word, count in inside[code].items()
                  if count >= max(2, 0.08 * size)}
        score = {word: here * math.log(here / there) for word, (here, there) in shares.items() if here > 1.5 * there}
        best = sorted(score, key=lambda word: (-score[word], word))
        found.append(", ".join(_apart(best)[:most]))
    return found


def _apart(words):
    """Without a word that differs from one before it in capitals or an ending alone."""
    kept = []
    for word in words:
        if not any(word.lower()[:5] == other.lower()[:5] for other in kept):
            kept.append(word)
    return kept


def _sampled(values, most=100_000):
    step = -(-len(values) // most)
    return values[::step]
