"""Columns at least cost: against all ways that there are, and against scipy."""

import itertools

import numpy as np
import pytest

from rqvae.ids.matching import least_cost


def cheapest(costs):
    """The least sum over all ways to give each row a column of its own."""
    rows, columns = costs.shape
    return min(costs[range(rows), list(way)].sum() for way in itertools.permutations(range(columns), rows))


@pytest.mark.parametrize("seed", range(40))
def test_each_group_gets_the_cheapest_of_all_ways(seed):
    generator = np.random.default_rng(seed)
    columns, groups, costs = int(generator.integers(1, 7)), [], []
    for group in range(int(generator.integers(1, 6))):
        rows = int(generator.integers(1, columns + 1))
        part = generator.integers(0, 5, (rows, columns)).astype(float) if seed % 2 else generator.random((rows, columns))
        part[:, generator.permutation(columns)[:generator.integers(0, columns - rows + 1)]] = np.inf      # all have room
        groups += [3 * group + 1] * rows
        costs.append(part)
    found = least_cost(np.concatenate(costs).astype(np.float32), np.array(groups))
    assert len(set(zip(groups, found.tolist()))) == len(found)
    expected = [cheapest(part.astype(np.float32)) for part in costs]
    ends = np.cumsum([len(part) for part in costs])
    totals = [part.astype(np.float32)[range(len(part)), own].sum() for part, own in zip(costs, np.split(found, ends[:-1]))]
    assert totals == pytest.approx(expected, rel=1e-6)


def test_it_finds_what_scipy_finds():
    scipy = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(0)
    for rows, columns in ((256, 256), (40, 300), (1, 5)):
        costs = generator.random((rows, columns))
        assert least_cost(costs).tolist() == scipy.linear_sum_assignment(costs)[1].tolist()


def test_equal_rows_take_the_cheapest_columns_in_order():
    assert least_cost(np.tile([2.0, 0.0, 1.0], (2, 1))).tolist() in ([1, 2], [2, 1])
