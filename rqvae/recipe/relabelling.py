"""Two sets of IDs for the same items -> names for the new codes by which as many items as possible keep their old ones.

Renaming the codes of a level permutes the rows of a codebook: it changes no error, no collision, no neighbour. Level by
level after arXiv 2604.13273.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import numpy as np

from ..codes import as_codes
from ..ids.matching import least_cost

EXACT_CODES = 1024          # of a level, up to which the assignment without scipy is optimal; beyond it is nearly so
_ROUNDS = 100               # of exchanges, which seldom take ten


def best_names(old, new, sizes) -> list:
    """For each level the old name of every new code: L arrays (K,), permutations.

    A level counts the items whose names agree on the levels before it, and all others a little, so that codes which no
    such item has get the name that serves the most.

    Args:
        old, new: (N, L) integers, the IDs of the same items.
        sizes: K of each level.
    """
    old, new = as_codes(old, "old"), as_codes(new, "new")
    agree, names = np.ones(len(old), bool), []
    for level, size in enumerate(sizes):
        pairs = new[:, level] * size + old[:, level]
        together = np.bincount(pairs[agree], minlength=size * size).astype(np.float64)      # (K * K,)
        if not agree.all():
            together += np.bincount(pairs, minlength=size * size) / (len(old) + 1)
        names.append(optimal_assignment(together.reshape(size, size)))
        agree &= names[-1][new[:, level]] == old[:, level]
    return names


def renamed(codes, names) -> np.ndarray:
    """(N, L) codes under the names of `best_names`; further columns, such as a suffix, stay as they are."""
    codes = codes.copy()
    for level, name in enumerate(names):
        codes[:, level] = name[codes[:, level]]
    return codes


def optimal_assignment(gains) -> np.ndarray:
    """The column of each row, (K,), no two alike, by which the sum of `gains` (K, K) is largest.

    With scipy, or up to EXACT_CODES rows, this is the optimum; else it is what exchanges of two rows cannot raise.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        return least_cost(gains.max() - gains) if len(gains) <= EXACT_CODES else _exchanged(gains, _greedy(gains))
    return linear_sum_assignment(gains, maximize=True)[1].astype(np.int64)


def _greedy(gains):
    """Rows take columns in the order of what they gain, the largest first; the rest as they come."""
    rows, columns = np.nonzero(gains)
    order = np.argsort(-gains[rows, columns], kind="stable")
    found, taken = np.full(len(gains), -1), np.zeros(len(gains), bool)
    for row, column in zip(rows[order].tolist(), columns[order].tolist()):
        if found[row] < 0 and not taken[column]:
            found[row], taken[column] = column, True
    found[found < 0] = np.flatnonzero(~taken)
    return found


def _exchanged(gains, found):
    """Exchange the columns of two rows wherever that gains, the best pairs first, until none does."""
    for _ in range(_ROUNDS):
        now = gains[np.arange(len(gains)), found]
        best, partner = np.empty(len(gains)), np.empty(len(gains), np.int64)
        for begin in range(0, len(gains), 512):
            rows = np.arange(begin, min(begin + 512, len(gains)))
            swap = gains[rows][:, found] + gains[:, found[rows]].T - now[rows, None] - now
            best[rows], partner[rows] = swap.max(axis=1), swap.argmax(axis=1)
        free = np.ones(len(gains), bool)
        for row in np.argsort(-best, kind="stable").tolist():
            other = partner[row]
            if best[row] <= 1e-12:
                break
            if free[row] and free[other]:
                found[[row, other]] = found[[other, row]]
                free[[row, other]] = False
        if free.all():
            break
    return found
