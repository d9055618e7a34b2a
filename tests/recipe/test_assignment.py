"""Codes chosen in training: balance, fading prices, and who holds which ID, each by another road."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from samples import clustered
from rqvae import FeatureLoader, RqVae, fit, recipe
from rqvae.recipe.assignment import BalancedAssignment, SinkhornAssignment
from rqvae.functional import balancing_potentials


def exact_plan(costs, epsilon, iterations=3000):
    """Sinkhorn's plan by plain alternating normalisation in float64."""
    plan = torch.exp(-(costs.double() - costs.double().min()) / epsilon)
    for _ in range(iterations):
        plan = plan / plan.sum(dim=1, keepdim=True) / len(plan)
        plan = plan / plan.sum(dim=0, keepdim=True) / plan.shape[1]
    return plan


def test_potentials_choose_the_largest_weight_of_each_row_of_the_plan():
    costs = torch.rand(60, 6)
    prices = balancing_potentials(costs, epsilon=0.05, iterations=3000)
    plan = exact_plan(costs, 0.05)
    assert torch.equal((costs + prices).argmin(dim=1), plan.argmax(dim=1))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=torch.float64))
    assert prices.mean().abs() < 1e-6


def test_potentials_go_on_from_earlier_ones():
    costs = torch.rand(60, 6)
    once = balancing_potentials(costs, epsilon=0.05, iterations=40)
    half = balancing_potentials(costs, epsilon=0.05, iterations=20)
    torch.testing.assert_close(balancing_potentials(costs, epsilon=0.05, iterations=20, prices=half), once)


def test_potentials_make_equal_groups_of_very_unequal_ones():
    costs = torch.cdist(torch.randn(640, 2), torch.tensor([[0.0, 0.0], [3.0, 3.0], [5.0, 0.0], [-6.0, 1.0]])).square()
    assert max(Counter(costs.argmin(dim=1).tolist()).values()) > 500
    prices = balancing_potentials(costs, epsilon=0.01, iterations=2000)
    sizes = Counter((costs + prices).argmin(dim=1).tolist())
    assert len(sizes) == 4 and max(sizes.values()) - min(sizes.values()) <= 32


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 10.0])
def test_no_temperature_overflows_and_no_outlier_underflows(epsilon):
    """With exp instead of logarithms a small epsilon gives NaN, and far rows silently get code 0."""
    costs = torch.rand(50, 8)
    costs[7] = 1e4 + torch.arange(8.0).flip(0)
    prices = balancing_potentials(costs, epsilon=epsilon, iterations=50)
    assert prices.isfinite().all()
    codes = (costs + prices).argmin(dim=1)
    assert codes[7] != 0 and len(codes.unique()) > 4


def test_sinkhorn_balances_the_last_level_only():
    torch.manual_seed(0)
    model = RqVae(12, 16, 8, 8, num_quantizers=2)
    latents = model.encode(clustered(256)).detach()
    assign = SinkhornAssignment(epsilon=0.01).of({})
    out = model.quantizer(latents, assign)
    nearest = model.quantizer.encode(latents)
    assert torch.equal(out.encoding_indices[:, 0], nearest[:, 0])
    assert out.encoding_indices[:, 1].bincount(minlength=8).max() < nearest[:, 1].bincount(minlength=8).max()


def test_sinkhorn_with_a_vanishing_temperature_is_no_trouble():
    model = RqVae(12, 16, 8, 8)
    model.assign = SinkhornAssignment(epsilon=1e-9)
    assert model.training_step({"features": clustered(64)}).isfinite()
    with pytest.raises(ValueError, match="epsilon is 0 .* above 0"):
        SinkhornAssignment(epsilon=0)


def balanced(num_items=40, levels=3, codes=4, total_steps=100, **options):
    model = RqVae(12, 16, 8, codes, num_quantizers=levels)
    return model, BalancedAssignment(num_items, model.quantizer, total_steps, **options)


def step(model, assign, features, positions):
    return model.quantizer(model.encode(features), assign.of({"features": features, "positions": positions}))


def test_before_prices_and_pull_the_codes_are_the_nearest():
    model, assign = balanced()
    features = clustered(40)
    out = step(model, assign, features, torch.arange(40))
    assert torch.equal(out.encoding_indices, model.quantizer.encode(model.encode(features)))


def test_the_table_of_held_ids_is_what_a_dictionary_would_say():
    model, assign = balanced(total_steps=10_000)
    features, holds = clustered(40), {}
    for _ in range(30):
        positions = torch.randperm(40)[:7]
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        out = step(model, assign, features[positions], positions)
        holds.update(zip(positions.tolist(), map(tuple, out.encoding_indices.tolist())))
    counts = Counter(holds.values())
    assert assign.held.sum() == len(holds)
    assert sorted(assign.held[assign.held > 0].tolist()) == sorted(counts.values())
    for position, held in holds.items():
        prefix = assign._hash([torch.tensor([code]) for code in held[:-1]])
        assert assign.held[prefix, held[-1]] == counts[held]


def test_late_in_training_an_item_takes_a_code_that_no_other_holds():
    model, assign = balanced(num_items=3, levels=2, codes=4)
    features = clustered(1).repeat(3, 1)                 # three items that nothing tells apart
    assign.steps = 80
    distances = None
    taken = []
    for position in range(3):
        out = step(model, assign, features[[position]], torch.tensor([position]))
        first, last = out.encoding_indices[0].tolist()
        residual = model.encode(features[[0]]) - model.quantizer.codebooks[0][[first]]
        distances = torch.cdist(residual, model.quantizer.codebooks[1])[0]
        assert last == distances.argsort()[len(taken)]   # the nearest, then the second nearest, ...
        taken.append(last)
    again = step(model, assign, features[[1]], torch.tensor([1]))
    assert again.encoding_indices[0, 1] == taken[1]      # what an item holds itself is free to it


def test_a_full_prefix_is_left_to_be_resolved_later():
    model, assign = balanced(num_items=9, levels=2, codes=4)
    features = clustered(1).repeat(9, 1)
    assign.steps = 80
    for position in range(9):
        out = step(model, assign, features[[position]], torch.tensor([position]))
    assert out.encoding_indices[0].tolist() == model.quantizer.encode(model.encode(features[[8]]))[0].tolist()


def test_the_penalty_is_the_hinge_between_the_free_and_the_nearest_code():
    model, assign = balanced(num_items=2, levels=2, codes=4, pull=5.0)
    features = clustered(1).repeat(2, 1)
    assign.steps = 100
    step(model, assign, features[[0]], torch.tensor([0]))
    assert assign.penalty == 0
    plain = model.quantizer(model.encode(features[[1]]))
    out = step(model, assign, features[[1]], torch.tensor([1]))
    first, last = out.encoding_indices[0].tolist()
    near = plain.encoding_indices[0, 1]
    residual = (model.encode(features[[1]]) - model.quantizer.codebooks[0][[first]].detach())[0]
    table = model.quantizer.codebooks[1].detach()
    expected = 5.0 * (F.mse_loss(residual, table[last]) - F.mse_loss(residual, table[near]))
    torch.testing.assert_close(assign.penalty, expected)
    weight = model.encoder.layers[-1].bias
    torch.testing.assert_close(torch.autograd.grad(assign.penalty, weight)[0],
                               5.0 * 2 * (table[near] - table[last]) / 8, rtol=1e-4, atol=1e-5)


def test_prices_are_the_recursion_written_out():
    model, assign = balanced(num_items=64, levels=2, codes=4, total_steps=10**6, rate=0.1, pull=0.0)
    features, prices = clustered(64), torch.zeros(2, 4, dtype=torch.float64)
    for _ in range(5):
        out = step(model, assign, features, torch.arange(64))
        residual = model.encode(features).double()
        for level, table in enumerate(model.quantizer.codebooks):
            distances = ((residual[:, None] - table.double()) ** 2).sum(dim=2)
            codes = (distances + prices[level]).argmin(dim=1)
            assert torch.equal(codes, out.encoding_indices[:, level])
            for code in range(4):
                prices[level, code] += 0.1 * distances.mean() * ((codes == code).sum() / 64 - 1 / 4)
            residual = residual - table[codes]
        torch.testing.assert_close(assign.prices.double(), prices, rtol=1e-4, atol=1e-4)
    assert prices.sum(dim=1).abs().max() < 1e-3 * prices.abs().max()       # what one pays another gains


def test_prices_fade_and_are_gone_before_the_end():
    model, assign = balanced(num_items=64, codes=4, total_steps=1000, fade=0.4, pull=0.0)
    assign.prices[:] = 1e6 * torch.tensor([0.0, 1.0, 1.0, 1.0])            # all but code 0 unaffordable
    features = clustered(64)
    plain = model.quantizer.encode(model.encode(features))
    for steps, strength in ((0, 1.0), (400, 1.0), (600, 0.5), (800, 0.0), (999, 0.0)):
        assign.steps = steps
        assert assign._strength() == pytest.approx(strength)
        before = assign.prices.clone()
        codes = step(model, assign, features, torch.arange(64)).encoding_indices
        if strength:
            assert (codes == 0).all()
        else:
            assert torch.equal(codes, plain) and torch.equal(assign.prices, before)


def test_prices_keep_all_codes_in_use():
    model, assign = balanced(num_items=256, levels=1, codes=16, total_steps=10**6, rate=0.02)
    with torch.no_grad():
        model.quantizer.embeddings.weight[1:] += 3.0     # one code wins nearly everything
    features = clustered(256)
    for _ in range(400):
        out = step(model, assign, features, torch.arange(256))
    plain = model.quantizer(model.encode(features)).encoding_indices
    assert len(plain.unique()) < 4 < 12 <= len(out.encoding_indices.unique())


def test_a_batch_that_names_no_items_is_refused():
    with pytest.raises(ValueError, match='no "positions"; train with a FeatureLoader'):
        balanced()[1].of({"features": clustered(4)})


def test_what_is_restored_goes_on_as_if_never_stopped(tmp_path):
    def run(epochs, resume=None, stop=None, folder=None):
        torch.manual_seed(1)
        model = RqVae(12, 16, 8, 8, num_quantizers=3)
        loader = FeatureLoader(clustered(300), 16, shuffle=True)
        model.assign = BalancedAssignment(300, model.quantizer, 12 * len(loader))
        fit(model, loader, max_epochs=epochs, device="cpu", progress=False, resume_from=resume, checkpoint_dir=folder)
        return model

    straight = run(12)
    run(9, folder=tmp_path)
    resumed = run(12, resume=tmp_path / "last.ckpt")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert torch.equal(straight.assign.held, resumed.assign.held)


def test_a_model_of_the_recipe_can_be_copied_and_pickled_lightly_and_its_copy_trains_on_alike():
    features = clustered(300)
    feeding = FeatureLoader(features, 32, shuffle=True)
    model = RqVae(12, 16, 8, 32, num_quantizers=2)
    recipe.start(model, feeding)
    batches = list(recipe.training(model, feeding, 3))
    for batch in batches[:4]:
        model.training_step(batch)
    weighs = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert len(pickle.dumps(model)) < weighs + 30_000
    twin, other = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for batch in batches[4:]:
        losses = [each.training_step(batch).item() for each in (model, twin, other)]
        assert losses[0] == losses[1] == losses[2]
    assert torch.equal(model.assign.held, twin.assign.held) and torch.equal(model.assign.held, other.assign.held)
