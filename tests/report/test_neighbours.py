"""Neighbour recall and prefix lift against full matrices and counting by hand."""

import itertools
import math

import pytest
import torch

from samples import clustered
from rqvae import RqVae
from rqvae.report import neighbours
from rqvae.recipe.initialization import initialize
from rqvae.report.neighbours import neighbour_quality, shared_prefix_lift


def brute_force(distances, count):
    distances = distances.clone().fill_diagonal_(math.inf)
    return [set(row.argsort()[:count].tolist()) for row in distances]


@pytest.mark.parametrize("chunk", [37, 4096])
def test_recall_is_that_of_full_distance_matrices(monkeypatch, chunk):
    monkeypatch.setattr(neighbours, "ROWS_PER_CHUNK", chunk)
    features = clustered(150)
    model = RqVae(12, 16, 8, 8, num_quantizers=2)
    initialize(model, features)
    codes = model.generate_semantic_ids(features)
    with torch.no_grad():
        rebuilt = model.decode(codes) + 1e-4 * torch.randn(150, 12)       # no ties between equal IDs
    model.decode = lambda ids: rebuilt[[known.index(tuple(row)) for row in ids.tolist()]]
    unique = torch.arange(150)[:, None].repeat(1, 2)                      # an ID an item, for the look-up above
    known = list(map(tuple, unique.tolist()))
    found = neighbour_quality(model, features, unique)
    unit = torch.nn.functional.normalize(features, dim=1)
    true = brute_force(-unit @ unit.T, 10)
    by_reconstruction = brute_force(torch.cdist(rebuilt, rebuilt), 10)
    by_item = brute_force(torch.cdist(features, rebuilt), 10)
    assert found["queries"] == 150
    for key, other in (("recall_reconstruction", by_reconstruction), ("recall_item", by_item)):
        expected = sum(len(a & b) for a, b in zip(true, other)) / 1500
        assert found[key] == pytest.approx(expected, abs=2e-3)


def test_a_sample_of_queries_is_close_to_all_of_them(monkeypatch):
    features = clustered(800)
    model = RqVae(12, 16, 8, 8, num_quantizers=2)
    initialize(model, features)
    codes = model.generate_semantic_ids(features)
    everything = neighbour_quality(model, features, codes)
    sample = neighbour_quality(model, features, codes, queries=200)
    assert (everything["queries"], sample["queries"]) == (800, 200)
    assert sample["recall_item"] == pytest.approx(everything["recall_item"], abs=0.06)
    monkeypatch.setattr(neighbours, "COMPARISONS", 80_000)
    assert neighbour_quality(model, features, codes)["queries"] == 100


def test_lift_is_the_mean_shared_prefix_over_that_of_all_pairs():
    codes = torch.randint(3, (40, 3))

    def prefix(a, b):
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(codes[a].tolist(), codes[b].tolist())))

    expected = [prefix(a, b) for a, b in itertools.permutations(range(40), 2)]
    pairs = [(0, 1), (2, 3), (4, 4), (7, 9), (11, 30)]
    by_hand = (sum(prefix(a, b) for a, b in pairs) / 5) / (sum(expected) / len(expected))
    assert shared_prefix_lift(codes, torch.tensor(pairs)) == pytest.approx(by_hand)


def test_random_ids_have_no_lift_and_collapsed_ones_neither():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(2000, (20000, 2), generator=generator)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    assert shared_prefix_lift(torch.randint(8, (2000, 3), generator=generator), pairs) == pytest.approx(1, abs=0.1)
    assert shared_prefix_lift(torch.zeros(2000, dtype=torch.int64), pairs) == 1


@pytest.mark.parametrize("pairs, words", [
    ([[0, 1, 2]], r"pairs have shape \(1, 3\); expected \(pairs, 2\)"),
    ([[0, 5]], "pairs name the rows 0 to 5; there are rows 0 to 4"),
])
def test_pairs_that_do_not_fit_are_refused(pairs, words):
    with pytest.raises(ValueError, match=words):
        shared_prefix_lift(torch.zeros(5, 2, dtype=torch.int64), pairs)


def test_one_item_has_no_neighbours():
    found = neighbour_quality(RqVae(12, 16, 8, 8), torch.ones(1, 12), torch.zeros(1, dtype=torch.int64))
    assert found["queries"] == 0 and math.isnan(found["recall_item"])


def test_ids_without_a_model_have_the_same_lift_and_no_recall():
    features = clustered(150)
    model = RqVae(12, 16, 8, 8, num_quantizers=2)
    initialize(model, features)
    codes = model.generate_semantic_ids(features)
    with_model, without = neighbour_quality(model, features, codes), neighbour_quality(None, features, codes)
    assert without == {"neighbour_lift": with_model["neighbour_lift"], "queries": 150}
