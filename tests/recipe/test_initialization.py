"""The starting point: statistics, principal directions and codebooks, against their definitions."""

import warnings

import pytest
import torch

from samples import clustered
from rqvae import RqVae
from rqvae.recipe.initialization import initialize

GOOD = {"linear_path": True, "latent_norm": False, "standardize": True, "activation": "gelu"}


def test_scale_and_mean_are_those_of_the_features():
    features = 7 * clustered(400) + 100
    model = RqVae(12, 16, 4, 8, **GOOD)
    initialize(model, features)
    torch.testing.assert_close(model.feature_mean, features.mean(dim=0))
    expected = (features.double() - features.double().mean(dim=0)).square().mean().sqrt().float()
    torch.testing.assert_close(model.feature_scale, expected)


def test_the_linear_path_starts_as_the_best_linear_compression():
    """Eckart and Young: no rank-4 map has a smaller error than the one from the singular vectors."""
    features = clustered(500) + 3
    model = RqVae(12, 16, 4, 8, **GOOD)
    initialize(model, features)
    centred = features - features.mean(dim=0)
    singular = torch.linalg.svdvals(centred.double())
    latents = model.encode(features)
    error = (model.reconstruct(latents) - features).square().sum()
    torch.testing.assert_close(error.item(), singular[4:].square().sum().item(), rtol=1e-3, atol=0)


def test_wide_features_are_compressed_as_well_by_the_sketch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 6, generator=generator) @ torch.randn(6, 1500, generator=generator)
    features = features + 0.01 * torch.randn(300, 1500, generator=generator)
    model = RqVae(1500, 16, 6, 8, **GOOD)
    state = torch.get_rng_state()
    initialize(model, features)
    assert torch.equal(state, torch.get_rng_state())
    error = (model.reconstruct(model.encode(features)) - features).square().sum()
    assert error / (features - features.mean(dim=0)).square().sum() < 1e-3


@pytest.mark.parametrize("balance", [None, 0.05])
def test_each_level_starts_at_the_k_means_of_what_the_levels_before_left_over(balance):
    features = clustered(600)
    model = RqVae(12, 16, 8, 16, num_quantizers=3)
    with torch.no_grad():
        spread = model.encode(features).var(dim=0).sum()
    initialize(model, features, balance=balance)
    residual = model.encode(features).detach()
    for codebook in model.quantizer.codebooks:
        codes = torch.cdist(residual.double(), codebook.double()).argmin(dim=1)
        assert len(codes.unique()) > 12
        previous, residual = residual, residual - codebook[codes].detach()
        assert residual.var(dim=0).sum() < previous.var(dim=0).sum()
    assert residual.var(dim=0).sum() < 0.2 * spread


def test_the_seed_decides_and_the_global_random_state_does_not():
    features, results = clustered(300), []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(42)
        model = RqVae(12, 16, 8, 16, num_quantizers=2, **GOOD)
        torch.manual_seed(global_seed)
        initialize(model, features, seed=seed)
        results.append(model.state_dict())
    one, same, other = results
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["quantizer.levels.0.embeddings.weight"], other["quantizer.levels.0.embeddings.weight"])


def test_the_model_keeps_its_mode_and_learns_nothing_of_gradients():
    model = RqVae(12, 16, 8, 16, num_quantizers=2, **GOOD)
    initialize(model, clustered(300))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("features, words", [
    (torch.eye(12)[torch.arange(30) % 5], "the 5 distinct ones of 30 rows to train on are fewer than the 16 codes"),
    (clustered(5), "5 rows to train on are fewer than the 16 codes .* give more items$"),       # nothing to lower to
])
def test_too_few_rows_are_said_with_both_numbers_and_train_all_the_same(features, words):
    model = RqVae(12, 16, 8, 16, num_quantizers=2, **GOOD)
    with pytest.warns(UserWarning, match=words):
        initialize(model, features)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.training_step({"features": features}).isfinite()


def test_enough_rows_need_no_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(RqVae(12, 16, 8, 16, num_quantizers=2), clustered(300))
