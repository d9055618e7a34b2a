"""Features that know what users did: by another road, pair by pair, and as a table like any other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rqvae import FeatureLoader, open_features
from rqvae.items import blending
from rqvae.items.blending import BlendedTable
from rqvae.items.tables import TableRows


def interactions(*lists):
    return SimpleNamespace(items=np.array([item for each in lists for item in each], dtype=np.int32),
                           offsets=np.cumsum([0, *(len(each) for each in lists)]))


def drawn(items=12, width=5):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(items, width, generator=generator)
    return features, [torch.randint(items, (length,), generator=generator).tolist() for length in (6, 1, 0, 15, 2, 9)]


def blended_pair_by_pair(features, lists, reach):
    """Item by item and pair by pair, in double precision; then the items concerned get back the variance that they had."""
    found, blended = features.double().clone(), []
    for item in range(len(features)):
        others, weights = 0.0, 0.0
        for each in lists:
            for i, a in enumerate(each):
                for j, b in enumerate(each):
                    if a == item != b and abs(i - j) <= reach:
                        others, weights = others + features[b].double() / abs(i - j), weights + 1 / abs(i - j)
        if weights:
            found[item] = (found[item] + others / weights) / 2
            blended.append(item)
    before, after = features.double()[blended], found[blended]
    factor = (before.var(dim=0).sum() / after.var(dim=0).sum()).sqrt()
    found[blended] = before.mean(dim=0) + factor * (after - after.mean(dim=0))
    return found.float()


@pytest.mark.parametrize("chunk", [3, 7, 2**16])
@pytest.mark.parametrize("reach", [1, 4, 9])
def test_items_go_half_way_to_what_is_taken_along_whatever_the_chunks(monkeypatch, chunk, reach):
    monkeypatch.setattr(blending, "EVENTS_PER_CHUNK", chunk)
    monkeypatch.setattr(blending, "REACH", reach)
    features, lists = drawn()
    table = BlendedTable(open_features(features), interactions(*lists))
    assert torch.allclose(table.rows(slice(None)), blended_pair_by_pair(features, lists, reach), atol=1e-6)


@pytest.mark.parametrize("lists", [[], [[0]], [[3, 3, 3]], [[0], [1]]])
def test_items_that_nobody_took_along_stay_as_they_are(lists):
    features, _ = drawn()
    assert torch.equal(BlendedTable(open_features(features), interactions(*lists)).rows(slice(None)), features)


def test_rows_are_the_same_however_they_are_asked_for():
    features, lists = drawn()
    table = BlendedTable(open_features(features), interactions(*lists))
    whole = table.rows(slice(None))
    for index in (slice(2, 7), [3, 3, 11, 0], np.array([5, 1]), torch.tensor([-1, 4]), []):
        assert torch.equal(table.rows(index), whole[index if isinstance(index, slice) else torch.as_tensor(index).long()])
    batches = torch.cat([batch["features"] for batch in FeatureLoader(table, 5, rows=[7, 2, 2, 9])])
    assert torch.equal(batches, whole[[7, 2, 2, 9]]) and torch.equal(TableRows(table, [8, 1]).rows([1]), whole[[1]])
    assert open_features(table) is table and len(table) == 12 and table.shape == (12, 5)


def test_the_checksum_tells_features_and_interactions_apart():
    features, lists = drawn()
    found = [BlendedTable(open_features(vectors), interactions(*users)).checksum()
             for vectors, users in ((features, lists), (features.clone(), lists), (features, lists[1:]), (features, [*lists, []]),
                                    (features.flip(0), lists))]
    assert found[0] == found[1] and len(set(found)) == 4
    table = open_features(features)
    assert BlendedTable(table, interactions(*lists)).has_checksum(found[0]) and found[0] != table.checksum()
    assert not BlendedTable(table, interactions(*lists)).has_checksum(table.checksum())


def test_a_part_that_is_missing_neither_comes_nor_is_given():
    text, image = np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(4, dtype=np.float32).reshape(4, 1)
    image[[1, 3]] = np.nan
    own = open_features({"text": text, "image": image})
    lists = [0, 1], [0, 2], [1, 3]
    table = BlendedTable(own, interactions(*lists))
    with pytest.warns(UserWarning, match="image is missing for 2 of 4 items"):
        table.check()
    found = table.rows(slice(None))
    assert torch.allclose(found[:, :2], blended_pair_by_pair(torch.tensor(text), lists, 9), atol=1e-6)
    # Of the images only those of items 0 and 2 go together: each is the other's half, so both would be the mean, 1.
    assert torch.allclose(found[:, 2], torch.tensor([1.0, torch.nan, 1.0, torch.nan]), equal_nan=True)
    table.fill = torch.tensor([0.0, 0.0, 9.0])
    assert torch.equal(table.rows([1, 3])[:, 2], torch.tensor([9.0, 9.0])) and table.widths == [2, 1]


def test_what_is_damaged_in_the_features_is_said():
    features, lists = drawn()
    features[3, 1] = np.nan
    table = BlendedTable(open_features(features), interactions(*lists))
    with pytest.raises(ValueError, match="has NaN or Inf in 1 of 12 rows"):
        table.check()


def test_more_numbers_than_can_be_held_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(blending, "MOST_NUMBERS", 7)
    with pytest.raises(ValueError, match="2 items that somebody took, of 5 features, are too many .* at most 3 columns"):
        BlendedTable(open_features(torch.randn(12, 5)), interactions([0, 1]))
