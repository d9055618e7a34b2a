"""Figures by another road, and the verdicts on them typed out."""

import numpy as np
import pytest
import torch

from samples import clustered
from rqvae import RqVae, open_features
from rqvae.report.assessment import HEALTHY, assess, is_suffix, resolving_cost, row_errors, usable_codes
from rqvae.collisions import collision_report
from rqvae.evaluation import evaluate_reconstruction
from rqvae.recipe.initialization import initialize
from rqvae.ids.resolution import resolve_collisions


@pytest.fixture
def tokenizer():
    features = clustered(300)
    model = RqVae(12, 16, 8, 8, num_quantizers=3, linear_path=True, standardize=True)
    initialize(model, features)
    return model, open_features(features), model.generate_semantic_ids(features)


def labelled(measures):
    return {measure.label: measure for measure in measures}


def test_the_error_is_that_of_the_evaluation_and_divides_by_rows(tokenizer, monkeypatch):
    monkeypatch.setattr("rqvae.report.assessment.ROWS_PER_CHUNK", 37)
    model, table, codes = tokenizer
    errors, spreads, _ = row_errors(table, codes, model)
    whole = evaluate_reconstruction(model, [{"features": table.rows(slice(None))}], "cpu")["relative_mse"]
    assert (errors.sum() / spreads.sum()).item() == pytest.approx(whole, rel=1e-5)
    split = torch.arange(0, 250), torch.arange(250, 300)
    found = labelled(assess(codes, 8, model=model, features=table, split=split))
    for words, rows in (("250 items trained on", split[0]), ("50 items held out", split[1])):
        expected = (errors[rows].sum() / spreads[rows].sum()).item()
        assert found[f"error of the {words}"].value == f"{expected:.3f}"


def test_the_cost_of_resolving_is_the_difference_of_both_errors(tokenizer):
    model, table, codes = tokenizer
    with torch.no_grad():
        latents = model.encode(table.rows(slice(None)))
    resolved = resolve_collisions(codes, latents, model.quantizer.codebooks)
    after = torch.from_numpy(resolved.codes)
    (worse, spread, _), (better, _, _) = row_errors(table, after, model), row_errors(table, codes, model)
    assert len(resolved.moved)
    assert resolving_cost(model, table, codes.numpy(), resolved.codes, resolved.moved) == pytest.approx(
        ((worse.sum() - better.sum()) / spread.sum()).item(), rel=1e-6)


def test_ids_alone_are_judged_without_model_or_features():
    codes = np.stack([np.arange(4096) % 16, np.arange(4096) // 16 % 16, np.arange(4096) // 256], axis=1)
    found = labelled(assess(codes, 16))
    assert found["level 1: codes used"][2:5] == ("16 of 16", "all", "good")
    assert found["level 3: perplexity"][2:5] == ("16.0", "at least 2", "good")
    assert found["collision rate"].value == "0.00 %" and found["collision rate"].verdict == "good"
    assert not any("error" in label or "neighbours" in label for label in found)


def test_a_collapsed_tokenizer_is_poor_everywhere():
    found = labelled(assess(np.zeros((4000, 2), int), 256))
    assert {name: measure.verdict for name, measure in found.items()} == {
        "level 1: codes used": "poor", "level 1: perplexity": "poor", "level 2: codes used": "poor",
        "level 2: perplexity": "poor", "collision rate": "poor", "most items on one ID": ""}
    assert "--preset tiger" in found["level 1: codes used"].remedy and "--unique" in found["collision rate"].remedy


def test_few_items_are_not_blamed_for_codes_that_they_cannot_use():
    codes = torch.randint(256, (90, 3))
    found = labelled(assess(codes, 256))
    assert found["level 1: codes used"][3:5] == ("all; too few items", "")
    assert labelled(assess(torch.zeros(90, 3, dtype=torch.int64), 256))["level 1: codes used"].verdict == "poor"
    drawn = [len(torch.randint(256, (90,)).unique()) for _ in range(300)]
    assert usable_codes(256, 90) == pytest.approx(sum(drawn) / 300, abs=2)


def test_new_items_that_are_alike_do_not_make_a_model_collapsed(tokenizer):
    model, table, codes = tokenizer
    few = torch.cat([codes[:1], codes[:1]]).repeat(10, 1)
    rows = open_features(table.rows(torch.zeros(20, dtype=torch.int64)))
    assert labelled(assess(few, 8, model=model, features=rows))["level 1: codes used"].verdict == ""
    split = torch.arange(20), torch.arange(0)
    assert labelled(assess(few, 8, model=model, features=rows, split=split))["level 1: codes used"].verdict == ""    # equal items
    rows = open_features(table.rows(torch.arange(20)))
    assert labelled(assess(few, 8, model=model, features=rows, split=split))["level 1: codes used"].verdict == "poor"


def test_what_is_called_healthy_is_what_the_verdict_asks(tokenizer):
    model, table, codes = tokenizer
    for measure in assess(codes.repeat(1, 2), 256, model=None, features=table):
        if "neighbours found" in measure.label:
            assert measure.healthy == f"at least {HEALTHY['recall'].bound:.2f}"
            assert (measure.verdict == "good") == (float(measure.value) >= HEALTHY["recall"].bound)


def test_the_collisions_that_chance_alone_causes_are_allowed_for():
    codes = torch.randint(32, (1000, 2))
    apart = collision_report(torch.arange(1000))
    measure = labelled(assess(codes, 32, before=codes, resolved=apart))["collision rate before resolving"]
    drawn = [collision_report(torch.randint(32, (1000, 2)))["collision_rate"] for _ in range(50)]
    bound = 0.12 + sum(drawn) / 50
    assert float(measure.healthy.split()[2]) == pytest.approx(100 * bound, abs=1) and measure.verdict in ("good", "")


def test_ids_that_are_handed_on_and_not_unique_are_never_good():
    codes = torch.stack([torch.arange(4000) // 256, torch.arange(4000) % 256], 1)
    assert labelled(assess(codes, 256))["collision rate"].verdict == "good"
    codes[1] = codes[0]
    found = labelled(assess(codes, 256))["collision rate"]
    assert found.verdict == "poor" and "--unique none" in found.remedy
    apart = labelled(assess(codes, 256, before=codes, resolved=collision_report(torch.arange(4000))))
    assert apart["collision rate before resolving"].verdict == apart["collision rate after resolving"].verdict == "good"


def test_identical_items_are_counted_and_allowed_for(tokenizer):
    model, table, _ = tokenizer
    rows = table.rows(slice(None))
    twice = open_features(torch.cat([rows, rows]))
    measures = labelled(assess(model.generate_semantic_ids(twice.rows(slice(None))), 8, model=model, features=twice))
    assert measures["items exactly like an earlier one"].value == "300"
    assert measures["collision rate"].healthy == "0 % beyond identical items"


def test_with_fewer_bits_than_were_measured_only_a_hopeless_error_is_judged(tokenizer):
    model, table, codes = tokenizer
    fine = labelled(assess(codes, 8, model=model, features=table))["error of these items"]
    assert fine[3:5] == ("at most 0.55 with 3 x 256 codes", "")
    shuffled = codes[torch.randperm(300)]
    assert labelled(assess(shuffled, 8, model=model, features=table))["error of these items"].verdict == "poor"


@pytest.mark.parametrize("codes, expected", [
    ([[1, 0], [1, 1], [2, 0]], True),               # TIGER
    ([[1, 1], [1, 2], [2, 0]], True),               # GRID
    ([[1, 0], [2, 0], [3, 0]], True),
    ([[1, 1], [1, 0], [2, 0]], False),
    ([[5, 7], [6, 2], [7, 4]], False),
    ([[0], [1]], False),
])
def test_a_suffix_is_told_from_a_level(codes, expected):
    assert is_suffix(codes) is expected


def test_every_standard_says_what_to_change():
    assert all(standard.remedy and standard.sign in ("at most", "at least") for standard in HEALTHY.values())


def test_one_moved_row_has_its_cost_too(tokenizer):
    model, table, codes = tokenizer
    after = codes.clone()
    after[5, -1] = (after[5, -1] + 1) % 8
    (worse, spread, _), (better, _, _) = row_errors(table, after, model), row_errors(table, codes, model)
    assert resolving_cost(model, table, codes.numpy(), after.numpy(), np.array([5])) == pytest.approx(
        ((worse.sum() - better.sum()) / spread.sum()).item(), rel=1e-5)


def test_items_with_equal_features_are_no_fault_of_the_codes_and_are_named(tokenizer):
    """Twenty items, each twice: they use as many codes as there are kinds, collide, and no advice would help."""
    model, table, codes = tokenizer
    kinds = np.unique(codes.numpy(), axis=0, return_index=True)[1][:20]
    rows = torch.from_numpy(np.concatenate([kinds, kinds]))
    many, features = codes[rows], open_features(table.rows(rows))
    found = labelled(assess(many, 8, model=model, features=features, split=(torch.arange(20), torch.arange(20, 40)),
                            before=many, resolved=collision_report(torch.arange(40))))
    once = labelled(assess(codes[kinds], 8, model=model, features=open_features(table.rows(kinds)),
                           split=(torch.arange(20), torch.arange(0))))
    assert all(found[label] == measure for label, measure in once.items() if label.startswith("level"))
    assert found["collision rate before resolving"][2:5] == ("50.00 %", "at most 15.81 % beyond identical items", "good")
    alike = found["items exactly like an earlier one"]
    assert alike.value == "20" and "give features in which these differ" in alike.remedy


def test_fewer_ids_than_items_are_the_thing_to_change():
    codes = torch.randint(16, (2000, 2))
    found = labelled(assess(codes, 16, before=codes, resolved=collision_report(torch.arange(2000))))
    assert found["possible IDs"][2:5] == ("256", "at least 20,000", "poor") and "--num-embeddings" in found["possible IDs"].remedy
    assert found["collision rate before resolving"][3:5] == (" ", "")
    assert "possible IDs" not in labelled(assess(codes[:20], 16))


def test_the_error_of_a_handful_of_items_is_not_judged(tokenizer):
    model, table, codes = tokenizer
    found = labelled(assess(codes, 8, model=model, features=table, split=(torch.arange(299), torch.arange(299, 300))))
    assert found["error of the 1 item held out"][3:5] == ("at most 0.55; too few items", "")


def test_a_model_of_the_recipe_is_not_told_to_become_one():
    features = clustered(300)
    model = RqVae(12, 16, 16, 64, num_quantizers=2, linear_path=True, standardize=True, latent_norm=True)
    initialize(model, features)
    collapsed = torch.zeros(300, 2, dtype=torch.int64)
    for judged, advice in ((model, "more varied items"), (None, "--preset tiger")):
        split = (torch.arange(290), torch.arange(290, 300)) if judged else None
        used = labelled(assess(collapsed, 64, model=judged, features=open_features(features) if judged else None, split=split))
        assert used["level 1: codes used"].verdict == "poor" and advice in used["level 1: codes used"].remedy


def test_the_error_of_each_part_stands_in_the_report():
    features = torch.cat([clustered(300, 8), clustered(300, 4, seed=1)], dim=1)
    features[::3, 8:] = float("nan")
    model = RqVae(12, 16, 8, 16, num_quantizers=2, linear_path=True, standardize=True, robust=True, parts=[8, 4]).eval()
    initialize(model, features)
    table = open_features({"text": features[:, :8], "image": features[:, 8:]})
    table.fill = model.feature_mean
    codes = model.generate_semantic_ids(features)
    found = labelled(assess(codes, 16, model=model, features=table))
    there = torch.arange(300) % 3 > 0
    said, given = model.standardized(model.decode(codes))[there, 8:], model.standardized(features)[there, 8:]
    assert found["error of image"].value == f"{((said - given).square().sum() / given.square().sum()).item():.3f}"
    assert found["error of text"].value != found["error of image"].value
