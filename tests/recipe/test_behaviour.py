"""What users did as targets: by another road, pair by pair, and what it promises."""

from types import SimpleNamespace

import pytest
import torch

from rqvae import FeatureLoader, RqVae, fit, recipe
from rqvae.recipe import behaviour
from rqvae.recipe.mixing import nearest_items
from rqvae.storage.checkpoint import load_checkpoint
from rqvae.training import TrainingInterrupted

SMALL = {**recipe.MODEL, "hidden_dim": [32], "latent_dim": 8, "num_embeddings": 8}


def interactions(*lists):
    return SimpleNamespace(items=torch.tensor([item for each in lists for item in each], dtype=torch.int32).numpy(),
                           offsets=torch.tensor([0, *(len(each) for each in lists)]).cumsum(0).numpy())


def drawn(items=12, width=5):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(items, width, generator=generator)
    return features, [torch.randint(items, (length,), generator=generator).tolist() for length in (6, 1, 0, 15, 2, 9)]


def weights_pair_by_pair(lists, num_items, reach):
    weights = torch.zeros(num_items, num_items)
    for each in lists:
        for i, a in enumerate(each):
            for j, b in enumerate(each):
                if a != b and 0 < abs(i - j) <= reach:
                    weights[a, b] += 1 / abs(i - j)
    return weights


@pytest.mark.parametrize("chunk", [3, 7, 2**16])
@pytest.mark.parametrize("reach", [1, 4, 9])
def test_what_is_taken_along_is_summed_by_distance_whatever_the_chunks(monkeypatch, chunk, reach):
    monkeypatch.setattr(behaviour, "EVENTS_PER_CHUNK", chunk)
    features, lists = drawn()
    sums, weights = behaviour._Lists(FeatureLoader(features, 4), interactions(*lists)).taken_along(features, reach)
    expected = weights_pair_by_pair(lists, 12, reach)
    assert torch.allclose(weights, expected.sum(dim=1), atol=1e-5)
    assert torch.allclose(sums, expected @ features, atol=1e-5)


def test_items_that_are_held_out_pull_nothing_and_distances_stay():
    features = torch.eye(4)
    lists = behaviour._Lists(FeatureLoader(features, 4, rows=[0, 2]), interactions([0, 1, 2, 3]))
    sums, weights = lists.taken_along(features[[0, 2]])
    assert torch.equal(weights, torch.tensor([0.5, 0.5]))
    assert torch.equal(sums, torch.stack([features[2], features[0]]) / 2)


def test_targets_are_a_walk_over_both_kinds_of_neighbours():
    features, lists = drawn()
    loader = FeatureLoader(features, 4)
    near = nearest_items(loader, 3)
    walk = weights_pair_by_pair(lists, 12, behaviour.REACH)
    walk.scatter_add_(1, near, torch.full(near.shape, 1 / 3))
    walk /= walk.sum(dim=1, keepdim=True)
    own = features - features.mean(dim=0)
    moved = own
    for _ in range(behaviour.STEPS):
        moved = (1 - behaviour.SHARE) * own + behaviour.SHARE * walk @ moved
    moved = moved - moved.mean(dim=0)
    expected = features.mean(dim=0) + moved * (own.square().mean() / moved.square().mean()).sqrt()
    assert torch.allclose(behaviour.Targets(loader, interactions(*lists), near, 10).vectors, expected, atol=1e-5)


@pytest.mark.parametrize("lists", [[], [[0]], [[3, 3, 3]]])
def test_where_nobody_took_anything_along_what_resembles_an_item_decides(lists):
    features, _ = drawn()
    loader = FeatureLoader(features, 4)
    moved = behaviour.Targets(loader, interactions(*lists), nearest_items(loader, 3), 10).vectors
    assert torch.equal(moved, behaviour.Targets(loader, interactions(), nearest_items(loader, 3), 10).vectors)
    assert torch.allclose(moved.var(dim=0).sum(), features.var(dim=0).sum())


def test_equal_items_stay_finite():
    features = torch.ones(5, 3)
    loader = FeatureLoader(features, 4)
    moved = behaviour.Targets(loader, interactions([0, 1], [2, 3]), nearest_items(loader, 3), 10).vectors
    assert torch.equal(moved, features)


def test_more_numbers_than_can_be_held_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(behaviour, "MOST_NUMBERS", 50)
    with pytest.raises(ValueError, match="12 items of 5 features are too many .* at most 4 columns"):
        recipe.training(RqVae(5, **SMALL), FeatureLoader(torch.randn(12, 5), 4), 1, interactions=interactions([0, 1]))


def test_encoder_and_codebooks_follow_the_targets_and_rest_in_the_last_epochs():
    features, lists = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), [[0, 1, 2], [3, 4]]
    loader = FeatureLoader(features, 16, shuffle=True)
    model = RqVae(5, **SMALL)
    recipe.start(model, loader)
    feeding = recipe.training(model, loader, 10, interactions=interactions(*lists))
    optimizer = recipe.configure_optimizers(model, 10 * len(loader))["optimizer"]
    for epoch, trains in ((0, True), (7, True), (8, False), (9, False)):
        feeding.set_epoch(epoch)
        before = {name: value.clone() for name, value in model.named_parameters()}
        for batch in feeding:
            assert ("target" in batch) == trains
            optimizer.zero_grad()
            model.training_step(batch).backward()
            optimizer.step()
        changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert changed == ({"encoder", "quantizer", "decoder"} if trains else {"decoder"}), epoch


def test_the_fingerprint_tells_interactions_apart():
    features, lists = drawn()
    loader, model = FeatureLoader(features, 4, shuffle=True), RqVae(5, **SMALL)
    found = [recipe.training(model, loader, 2, interactions=users).fingerprint()
             for users in (None, interactions(*lists), interactions(*lists), interactions(*lists[1:]))]
    assert found[1] == found[2] and len(set(found)) == 3


def test_the_decoder_alone_has_a_cosine_of_its_own():
    users = interactions([0, 1])
    assert recipe.epochs(1000) == 10 and recipe.epochs(1000, interactions=users) == 12
    assert recipe.epochs(1000, fine=True, interactions=users) == 120 and behaviour.epochs_with_targets(120) == 100
    configured = recipe.configure_optimizers(RqVae(5, **{**SMALL, "learning_rate": 1.0}), 1200, interactions=users)
    rates = []
    for _ in range(1201):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates[50] == pytest.approx(1) and rates[525] == pytest.approx(0.5) and rates[999] < 0.01
    assert rates[1000] == pytest.approx(0.25) and rates[1100] == pytest.approx(0.125) and rates[1200] == pytest.approx(1e-3)


@pytest.mark.parametrize("stop_after", [5, 21])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, stop_after):
    """In an epoch with targets, and in one of the decoder alone."""
    features, lists = drawn(60, 8)

    def run(folder, **options):
        torch.manual_seed(0)
        model, loader = RqVae(8, **SMALL), FeatureLoader(features, 16, shuffle=True)
        if "resume_from" not in options:
            recipe.start(model, loader)
        else:
            model.load_state_dict(load_checkpoint(options["resume_from"])["state_dict"])
        users = interactions(*lists)
        fit(model, recipe.training(model, loader, 6, interactions=users), max_epochs=6, device="cpu", progress=False,
            optimizers=recipe.configure_optimizers(model, 6 * len(loader), interactions=users),
            checkpoint_dir=tmp_path / folder, **options)
        return model.state_dict()

    straight, steps = run("straight"), iter(range(1, 100))
    with pytest.raises(TrainingInterrupted):
        run("broken", stop=lambda: next(steps) == stop_after)
    resumed = run("broken", resume_from=tmp_path / "broken" / "last.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())
