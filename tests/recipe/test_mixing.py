"""Neighbours and mixed batches, against full matrices and the straight lines they must lie on."""

import pytest
import torch

from samples import clustered
from rqvae import FeatureLoader
from rqvae.recipe import mixing
from rqvae.recipe.mixing import NeighbourMixing, nearest_items


def near(features, count):
    return nearest_items(FeatureLoader(features, 32), count)


def brute_force(features, count):
    unit = torch.nn.functional.normalize((features - features.mean(dim=0)).double(), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-2)
    return similarity.topk(count).indices


def test_neighbours_are_those_of_largest_cosine_from_the_mean():
    features = clustered(200) + 50
    found = near(features, 5)
    assert [set(row) for row in found.tolist()] == [set(row) for row in brute_force(features, 5).tolist()]


def test_in_cells_most_neighbours_are_found(monkeypatch):
    monkeypatch.setattr(mixing, "EXACT_ITEMS", 400)
    features = clustered(1500, clusters=30)
    found, true = near(features, 5), brute_force(features, 5)
    share = (found[:, :, None] == true[:, None, :]).any(dim=2).float().mean()
    assert share > 0.8
    assert (found != torch.arange(1500)[:, None]).all()


def test_cells_too_small_for_the_count_still_give_every_item_one(monkeypatch):
    monkeypatch.setattr(mixing, "EXACT_ITEMS", 8)
    features = torch.cat([clustered(60), 100 + clustered(1, seed=3)])       # one item far from all others
    found = near(features, 5)
    assert found.shape == (61, 5) and (found >= 0).all() and (found < 61).all()


@pytest.mark.parametrize("items", [2, 3, 11])
def test_few_items_have_the_others_as_neighbours(items):
    found = near(torch.randn(items, 4), 10)
    assert found.shape == (items, min(10, items - 1))
    assert all(row not in found[row] for row in range(items))


def mixed(features, **options):
    loader = FeatureLoader(features, 16, shuffle=True)
    return NeighbourMixing(loader, near(features, 3), **options)


def test_an_item_lies_on_the_way_to_one_of_its_neighbours():
    features = clustered(100)
    found, parts = near(features, 3), []
    for batch in mixed(features, reach=0.5):
        for position, row in zip(batch["positions"].tolist(), batch["features"]):
            start = features[position]
            ways = features[found[position]] - start                           # (3, D)
            part = ((row - start) * ways).sum(dim=1) / ways.square().sum(dim=1)
            off = (row - start - part[:, None] * ways).norm(dim=1)
            assert off.min() < 1e-4
            parts.append(part[off.argmin()].item())
    assert 0 <= min(parts) and max(parts) <= 0.5 + 1e-5 and 0.2 < sum(parts) / len(parts) < 0.3


def test_every_item_comes_once_and_epochs_differ():
    loader = mixed(clustered(100))
    first = [batch for batch in loader]
    assert sorted(torch.cat([batch["positions"] for batch in first]).tolist()) == list(range(100))
    loader.set_epoch(1)
    other = [batch for batch in loader]
    assert not torch.equal(first[0]["features"], other[0]["features"])


def test_batches_depend_on_seed_epoch_and_place_alone():
    features = clustered(100)
    torch.manual_seed(1)
    whole = [batch["features"] for batch in mixed(features)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    rest = [batch["features"] for batch in mixed(features).batches_from(4)]
    assert torch.equal(state, torch.get_rng_state())
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest))


def test_shares_of_several_processes_make_up_the_batch_of_one():
    features = clustered(100)
    found = near(features, 3)
    whole = list(NeighbourMixing(FeatureLoader(features, 16, shuffle=True), found))
    shares = [list(NeighbourMixing(FeatureLoader(features, 16, shuffle=True, share=(rank, 3)), found))
              for rank in range(3)]
    for index, batch in enumerate(whole):
        for rank in range(3):
            assert torch.equal(shares[rank][index]["features"], batch["features"][rank::3])
