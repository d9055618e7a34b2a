"""New names for codes: the optimum by another road, and what renaming must not change."""

import itertools

import numpy as np
import pytest

from rqvae.collisions import collision_report
from rqvae.ids.matching import least_cost
from rqvae.recipe import relabelling
from rqvae.recipe.relabelling import best_names, optimal_assignment, renamed


def total(gains, found):
    assert sorted(found.tolist()) == list(range(len(gains)))
    return gains[np.arange(len(gains)), found].sum()


@pytest.mark.parametrize("seed", range(8))
def test_the_assignment_is_the_best_of_all_permutations(seed, monkeypatch):
    generator = np.random.default_rng(seed)
    gains = generator.integers(0, 6, (6, 6)).astype(float) * (generator.random((6, 6)) < 0.6)
    best = max(sum(gains[row, column] for row, column in enumerate(order)) for order in itertools.permutations(range(6)))
    assert total(gains, optimal_assignment(gains)) == best
    assert total(gains, least_cost(gains.max() - gains)) == best
    assert total(gains, relabelling._exchanged(gains, relabelling._greedy(gains))) >= 0.7 * best


def test_without_scipy_it_is_the_optimum_too():
    scipy = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(0)
    for density in (0.02, 0.3, 1.0):
        gains = generator.integers(0, 50, (150, 150)) * (generator.random((150, 150)) < density)
        best = gains[scipy.linear_sum_assignment(gains, maximize=True)].sum()
        assert total(gains, least_cost(gains.max() - gains.astype(float))) == best
        assert total(gains, relabelling._exchanged(gains, relabelling._greedy(gains))) >= 0.9 * best


def test_a_mere_renaming_is_undone_and_a_change_is_not():
    generator = np.random.default_rng(1)
    old = generator.integers(0, 16, (2000, 3))
    new = np.column_stack([generator.permutation(16)[column] for column in old.T])
    assert (new == old).all(axis=1).mean() < 0.01
    assert (renamed(new, best_names(old, new, [16] * 3)) == old).all()
    new[:200] = generator.integers(0, 16, (200, 3))
    again = renamed(new, best_names(old, new, [16] * 3))
    assert (again[200:] == old[200:]).all() and collision_report(again) == collision_report(new)
