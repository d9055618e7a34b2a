"""Codes -> who shares an ID with whom; features -> who has the same. Changes nothing; knows no file and no token.

Shapes:  N items   L levels   n rows of features   D their width
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from .codes import as_array, as_codes

SHIFT = 29                  # of a word when it is mixed: a bit of one number meets none of the same weight in the other


def id_keys(codes) -> np.ndarray:
    """One integer for each ID: equal where IDs are equal, and ordered as IDs are, level by level.

    (N, L) int64 -> (N,) int64. Keys that would outgrow an integer become ranks on the way.
    """
    keys, bound = np.zeros(len(codes), np.int64), 1
    for column in codes.T:
        size = int(column.max()) + 1
        if bound * size > 2 ** 63:
            keys, column = (np.unique(part, return_inverse=True)[1] for part in (keys, column))
            bound, size = int(keys.max()) + 1, int(column.max()) + 1
        keys, bound = keys * size + column, bound * size
    return keys


def run_starts(values) -> np.ndarray:
    """Where a sorted (N,) array takes a new value: (distinct,) positions, the first of them 0."""
    starts = np.ones(len(values), bool)
    starts[1:] = values[1:] != values[:-1]
    return np.flatnonzero(starts)


def collision_report(codes, *, features_groups=None) -> dict:
    """How many items share their semantic ID with another.

    Args:
        codes: (N, L) or (N,) integers.
        features_groups: (N,) labels, equal for items with equal features, which no tokenizer can
            tell apart.

    Returns:
        items: N.
        distinct_ids: different IDs among them.
        collision_rate: 1 - distinct_ids / items.
        colliding_items: items that share their ID with another.
        largest_collision: items that share the most frequent ID; 1 where there is no collision.
        unavoidable_collisions: N minus the number of groups; only where groups are given.

    Raises:
        ValueError: not codes (see `as_codes`), or not one group label for each item.
    """
    codes = as_codes(codes)
    sizes = np.diff(run_starts(np.sort(id_keys(codes))), append=len(codes))
    report = {
        "items": len(codes),
        "distinct_ids": len(sizes),
        "collision_rate": 1 - len(sizes) / len(codes),
        "colliding_items": int(sizes[sizes > 1].sum()),
        "largest_collision": int(sizes.max()),
    }
    if features_groups is not None:
        groups = as_array(features_groups)
        if groups.shape != (len(codes),):
            raise ValueError("features_groups must hold one label for each of the "
                             f"{len(codes)} items, got shape {groups.shape}")
        report["unavoidable_collisions"] = len(codes) - len(np.unique(groups))
    return report


def sharing(codes) -> np.ndarray:
    """(N, L) int64 -> (N,) bool, the items that have their ID in common with others."""
    keys = id_keys(codes)
    order = np.argsort(keys)
    keys = keys[order]
    same, found = keys[1:] == keys[:-1], np.zeros(len(keys), bool)
    found[order[1:][same]] = found[order[:-1][same]] = True
    return found


def collision_ranks(codes) -> tuple[np.ndarray, np.ndarray]:
    """Each item's place among the items of its ID, 0, 1, ... in row order, and their number.

    (N, L) int64 -> (N,), (N,) int64.
    """
    keys = id_keys(codes)
    order = np.argsort(keys, kind="stable")
    starts = run_starts(keys[order])
    sizes = np.diff(starts, append=len(keys))
    rank, size = np.empty_like(keys), np.empty_like(keys)
    rank[order] = np.arange(len(keys)) - np.repeat(starts, sizes)
    size[order] = np.repeat(sizes, sizes)
    return rank, size


def row_sums(rows, mixed=True) -> np.ndarray:
    """(n,) 64-bit sums of float32 rows (n, D): two numbers, as they are stored, are a word, and every word counts
    times an odd number of its place, modulo 2^64. One word changed always changes the sum.

    A word is `mixed` with its own upper bits first: as it is, its highest bit, which is the sign of a number, counts
    2^63 whatever the place, and the signs of two columns turned round, as a PCA made again turns them, cancel out.
    """
    if rows.shape[1] % 2:
        rows = np.concatenate([rows, np.zeros((len(rows), 1), "<f4")], axis=1)
    words = rows.view("<u8")
    if mixed:
        upper = words >> np.uint64(SHIFT)
        words = np.bitwise_xor(words, upper, out=upper)
    return np.einsum("nw,w->n", words, _factors(words.shape[1]))


def row_keys(rows) -> np.ndarray:
    """A 64-bit key for each row, equal for equal rows, whatever the sign of a zero: (n, D) float32 -> (n,) int64.

    Two different rows of a million share a key with a probability of about 1e-7.
    """
    return row_sums(np.ascontiguousarray(rows + np.float32(0), "<f4")).view(np.int64)       # -0.0 becomes 0.0


@functools.lru_cache(maxsize=8)
def _factors(words):
    return np.frombuffer(hashlib.shake_128(b"words of a row").digest(8 * words), "<u8") | 1
