"""Unique IDs from a model equal those from all latents at once, though most are never computed."""

import numpy as np
import pytest
import torch

from samples import clustered
from rqvae import RqVae, open_features
from rqvae.ids import uniqueness
from rqvae.recipe.initialization import initialize
from rqvae.ids.resolution import resolve_collisions
from rqvae.ids.uniqueness import ranked_last_codes, unique_ids


@pytest.fixture
def tokenizer():
    features = torch.cat([clustered(300), clustered(40)])         # the last 40 repeat the first in part
    model = RqVae(12, 16, 8, 8, num_quantizers=3)
    initialize(model, features)
    return model, features


@pytest.mark.parametrize("method", ["optimal", "nearest"])
@pytest.mark.parametrize("published", [0, 60])
@pytest.mark.parametrize("chunk", [16, 1024])
def test_it_equals_the_resolution_of_everything_at_once(tokenizer, monkeypatch, published, chunk, method):
    monkeypatch.setattr(uniqueness, "ROWS_PER_CHUNK", chunk)
    model, features = tokenizer
    codes = model.generate_semantic_ids(features).numpy()
    with torch.no_grad():
        latents = model.encode(features)
    taken = np.unique(codes, axis=0)[:published] if published else None
    expected = resolve_collisions(codes, latents, model.quantizer.codebooks, taken=taken, method=method)
    found = unique_ids(model, open_features(features), codes, taken=taken, method=method)
    assert np.array_equal(found.codes, expected.codes) and np.array_equal(found.moved, expected.moved)
    assert (found.before, found.after) == (expected.before, expected.after)
    assert found.after["collision_rate"] == 0 < found.before["collision_rate"]


def test_a_suffix_needs_no_model():
    found = unique_ids(None, None, [[1, 2], [1, 2], [3, 4]], method="suffix")
    assert found.codes.tolist() == [[1, 2, 0], [1, 2, 1], [3, 4, 0]]


def test_without_collisions_nothing_is_read():
    found = unique_ids(None, None, [[1, 2], [1, 3]], taken=[[2, 2]])
    assert found.codes.tolist() == [[1, 2], [1, 3]] and len(found.moved) == 0 and found.after["items"] == 3


def test_identical_items_get_ids_of_their_own():
    model = RqVae(4, 8, 4, 8, num_quantizers=2)
    features = torch.ones(20, 4)
    found = unique_ids(model, open_features(features), model.generate_semantic_ids(features))
    assert len(np.unique(found.codes, axis=0)) == 20


@pytest.mark.parametrize("levels", [1, 3])
def test_last_codes_are_ranked_by_what_they_leave_over(monkeypatch, levels):
    monkeypatch.setattr(uniqueness, "ROWS_PER_CHUNK", 64)
    features = clustered(150)
    model = RqVae(12, 16, 8, 8, num_quantizers=levels)
    initialize(model, features)
    codes = model.generate_semantic_ids(features).reshape(150, levels)
    codes[:40, -1] = (codes[:40, -1] + 1) % 8                   # IDs that were moved: their first codes count
    ranked = ranked_last_codes(model, open_features(features), codes.numpy(), 5)
    with torch.no_grad():
        latents = model.encode(features)
        for row, best in enumerate(ranked.tolist()):
            left = latents[row] - sum(book[code] for book, code in zip(model.quantizer.codebooks, codes[row, :-1].tolist()))
            errors = (model.quantizer.codebooks[-1] - left).norm(dim=1)
            assert best == errors.argsort()[:5].tolist()
    assert ranked[40:, 0].tolist() == codes[40:, -1].tolist()
    assert ranked_last_codes(model, open_features(features), codes.numpy()).shape == (150, 8)
