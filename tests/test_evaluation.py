"""The documented metrics against the documented loops, and the others against counting by hand."""

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from samples import clustered, loader
from rqvae import RqVae, evaluate_quantization, evaluate_reconstruction, evaluate_semantic_ids


def test_reconstruction_is_the_documented_sum_over_samples():
    model, features = RqVae(12, 16, 8, 32), clustered(101)
    total = samples = 0
    with torch.no_grad():
        for batch in loader(features):
            reconstructed, _, _, _ = model(batch["features"])
            total += F.mse_loss(reconstructed, batch["features"], reduction="sum").item()
            samples += batch["features"].size(0)
    found = evaluate_reconstruction(model, loader(features), device="cpu")
    assert found["mse"] == total / samples
    assert found["rmse"] == (total / samples) ** 0.5
    assert found["mse_per_element"] == pytest.approx(total / samples / 12)


def test_relative_mse_is_one_for_a_model_that_says_the_mean_wherever_the_data_lies():
    features = clustered(500) + 1000
    model = RqVae(12, 16, 8, 32)
    for parameter in model.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    model.decoder.layers[-1].bias.data.copy_(features.double().mean(dim=0))
    assert evaluate_reconstruction(model, loader(features), "cpu")["relative_mse"] == pytest.approx(1, rel=1e-4)
    same = evaluate_reconstruction(model, loader(torch.ones(5, 12)), "cpu")
    assert math.isnan(same["relative_mse"])


def test_quantization_is_the_documented_computation_for_one_level():
    model, features = RqVae(12, 16, 8, 32), clustered(300)
    indices = model.generate_semantic_ids(features)
    counts = torch.bincount(indices, minlength=32).float()
    probs = counts / counts.sum()
    expected = torch.exp(-torch.sum(probs * torch.log(probs + 1e-10))).item()
    found = evaluate_quantization(model, loader(features), device="cpu")
    assert found["unique_codes"] == len(torch.unique(indices))
    assert found["usage_rate"] == len(torch.unique(indices)) / 32
    assert found["perplexity"] == pytest.approx(expected, rel=1e-6)


def test_more_levels_give_totals_and_means_with_a_list_beside_them():
    model, features = RqVae(12, 16, 8, 32, num_quantizers=3), clustered(300)
    ids = model.generate_semantic_ids(features)
    found = evaluate_quantization(model, loader(features), device="cpu")
    used = [len(set(ids[:, level].tolist())) for level in range(3)]
    assert found["unique_codes_per_level"] == used and found["unique_codes"] == sum(used)
    assert found["usage_rate"] == pytest.approx(sum(used) / 96)
    for level, value in enumerate(found["perplexity_per_level"]):
        shares = [n / 300 for n in Counter(ids[:, level].tolist()).values()]
        assert value == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-4)
    assert found["perplexity"] == pytest.approx(sum(found["perplexity_per_level"]) / 3)


def test_semantic_id_metrics_are_those_of_counting():
    model, features = RqVae(12, 16, 8, 16, num_quantizers=2), clustered(200)
    features = torch.cat([features, features[:30], features[:5]])
    ids = Counter(map(tuple, model.generate_semantic_ids(features).tolist()))
    assert evaluate_semantic_ids(model, loader(features), device="cpu") == {
        "items": 235,
        "distinct_ids": len(ids),
        "collision_rate": pytest.approx(1 - len(ids) / 235),
        "colliding_items": sum(n for n in ids.values() if n > 1),
        "largest_collision": max(ids.values()),
        "unavoidable_collisions": 35,
    }


def test_an_empty_loader_is_an_error():
    for evaluate in (evaluate_reconstruction, evaluate_quantization, evaluate_semantic_ids):
        with pytest.raises(ValueError, match="the loader yields no"):
            evaluate(RqVae(12, 16, 8, 32), [], "cpu")


def test_levels_of_different_sizes_are_counted_against_their_own():
    from rqvae.evaluation import code_statistics
    found = code_statistics(torch.tensor([[0, 0], [1, 1], [0, 2], [1, 3]]), [2, 8])
    assert found["unique_codes_per_level"] == [2, 4] and found["usage_rate_per_level"] == [1.0, 0.5]
    assert found["usage_rate"] == 0.6
    assert found["perplexity_per_level"] == pytest.approx([2, 4], rel=1e-4)


def test_an_error_that_float32_cannot_square_is_right_all_the_same():
    from rqvae.recipe.initialization import initialize
    rows = clustered(200, 12)
    found = []
    for unit in (1.0, 1e-25):
        model = RqVae(12, 16, 8, 8, num_quantizers=2, standardize=True, linear_path=True)
        initialize(model, rows * unit)
        found.append(evaluate_reconstruction(model.eval(), loader(rows * unit), "cpu")["relative_mse"])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_rows_far_out_do_not_hide_how_well_the_others_are_said():
    from rqvae.recipe.initialization import initialize
    rows = clustered(300, 12)
    rows[5] *= 1e4
    model = RqVae(12, 16, 8, 32, num_quantizers=3, standardize=True, linear_path=True, robust=True)
    initialize(model, rows)
    found = evaluate_reconstruction(model.eval(), loader(rows), "cpu")
    assert found["relative_mse_robust"] < 0.3
    assert model.draws_in()
