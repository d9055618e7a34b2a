"""What each pair of a row and a column costs -> a column for each row, at the least cost in all. Knows no IDs.

Shapes:  R rows   K columns   G groups of rows, each with K columns of its own   A groups at work
"""

from __future__ import annotations

import numpy as np

from ..collisions import run_starts


def least_cost(costs, groups=None) -> np.ndarray:
    """A column for each row, no two alike within a group, so that each group's sum of `costs` is the least there is.

    Shortest augmenting paths (Jonker and Volgenant 1987), a row of each group at a time.

    Args:
        costs: (R, K), infinite for a column that a row may not have; each group must have room for its rows.
        groups: (R,) ascending; all rows are of one group by default.

    Returns:
        (R,) int64.
    """
    groups = np.zeros(len(costs), np.int64) if groups is None else groups
    starts = run_starts(groups)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(costs)))          # (R,)
    column = costs.argmin(axis=1)                               # what costs nothing more, at once
    row_prices = costs[np.arange(len(costs)), column].astype(np.float64)
    column_prices = np.zeros((len(starts), costs.shape[1]))     # (G, K)
    holder = np.full(column_prices.shape, -1)                   # (G, K) the row that has the column
    _, first = np.unique(group * costs.shape[1] + column, return_index=True)
    holder[group[first], column[first]] = first
    waiting = np.setdiff1d(np.arange(len(costs)), first)
    state = costs, group, row_prices, column_prices, holder, column
    while len(waiting):
        now = run_starts(group[waiting])
        _augment(waiting[now], *state)
        waiting = np.delete(waiting, now)
    return column


def _augment(sources, costs, group, row_prices, column_prices, holder, column):
    """Give each source, one of a group, a column: by the path of exchanges that raises its group's sum the least."""
    at = group[sources]                                                         # (A,)
    distance = costs[sources] - row_prices[sources, None] - column_prices[at]   # (A, K) float64, of the paths so far
    before = np.repeat(sources[:, None], distance.shape[1], axis=1)             # the row that each path comes from
    rest, done = distance.copy(), np.zeros(distance.shape, bool)
    while len(at):
        lines = np.arange(len(at))
        nearest = rest.argmin(axis=1)
        reached = distance[lines, nearest]
        done[lines, nearest] = True
        rest[lines, nearest] = np.inf
        owner = holder[at, nearest]
        free = owner < 0
        if free.any():
            _exchange(sources[free], at[free], nearest[free], reached[free], distance[free], done[free], before[free],
                      row_prices, column_prices, holder, column)
            sources, at, owner, reached, distance, before, rest, done = (
                part[~free] for part in (sources, at, owner, reached, distance, before, rest, done))
        further = costs[owner] - column_prices[at]
        further += (reached - row_prices[owner])[:, None]
        nearer = (further < distance) & ~done
        np.copyto(distance, further, where=nearer)
        np.copyto(rest, further, where=nearer)
        np.copyto(before, owner[:, None], where=nearer)


def _exchange(sources, at, ends, reached, distance, done, before, row_prices, column_prices, holder, column):
    """Each path's rows take over its columns, and prices make that the cheapest for each of them."""
    line, settled = np.nonzero(done)
    gap = reached[line] - distance[line, settled]
    column_prices[at[line], settled] -= gap
    owner = holder[at[line], settled]
    row_prices[owner[owner >= 0]] += gap[owner >= 0]
    row_prices[sources] += reached
    lines = np.arange(len(at))
    while len(lines):
        rows = before[lines, ends]
        following = column[rows]
        column[rows], holder[at[lines], ends] = ends, rows
        goes_on = rows != sources[lines]
        lines, ends = lines[goes_on], following[goes_on]
