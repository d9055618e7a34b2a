"""The recipe's rules, typed out, and what it promises of any catalogue."""

import pytest
import torch

from samples import clustered, loader
from rqvae import FeatureLoader, RqVae, batch_inference, fit, recipe
from rqvae.evaluation import code_statistics
from rqvae.recipe.presets import WEIGHT_DECAY

SMALL = {**recipe.MODEL, "hidden_dim": [32], "latent_dim": 8, "num_embeddings": 16}


def trained(features, epochs=8, **options):
    torch.manual_seed(0)
    model = RqVae(features.shape[1], **{**SMALL, **options})
    loader = FeatureLoader(features, recipe.batch_size(len(features)), shuffle=True)
    recipe.start(model, loader)
    optimizers = recipe.configure_optimizers(model, epochs * len(loader))
    fit(model, recipe.training(model, loader, epochs), max_epochs=epochs, device="cpu", progress=False,
        optimizers=optimizers, fused=True)
    return model.eval()


def test_batches_grow_with_the_catalogue_between_their_bounds():
    assert [recipe.batch_size(n) for n in (1, 10, 3686, 20_000, 65_536, 10**6, 10**8)] == [32, 32, 64, 256, 1024, 1024, 1024]
    assert [recipe.batch_size(n, fine=True) for n in (1, 500, 3686, 20_000, 10**6)] == [32, 32, 256, 1024, 1024]


def test_epochs_fall_with_the_catalogue():
    sizes = (1, 100, 3_500, 20_000, 10**5, 10**6, 10**8)
    found = [recipe.epochs(n, fine=True) for n in sizes]
    assert found == sorted(found, reverse=True) and found[0] == 30 and found[-1] == 5
    assert [recipe.epochs(n, closed=True) for n in sizes] == [2 * epochs for epochs in found]
    assert [recipe.epochs(n) for n in sizes] == [10, 10, 10, 10, 10, 3, 2]


def test_the_fine_recipe_is_the_default_but_wider_and_faster():
    options, fine = recipe.model_options(384), recipe.model_options(384, fine=True)
    assert {name for name in options if options[name] != fine[name]} == {"hidden_dim", "learning_rate"}
    assert options["hidden_dim"] == [256] and fine["hidden_dim"] == [1024]


def test_the_fine_recipe_has_adam_forget_sooner_and_pulls_harder():
    model, features = RqVae(12, **SMALL), clustered(64)
    for fine, memory, pull in ((False, 0.999, 5.5), (True, 0.99, 11.0)):
        optimizer = recipe.configure_optimizers(model, 100, fine=fine)["optimizer"]
        assert {group["betas"] for group in optimizer.param_groups} == {(0.9, memory)}
        recipe.training(model, FeatureLoader(features, 32, shuffle=True), 1, fine=fine)
        assert model.assign.pull == pull


def test_prices_add_up_to_the_same_in_a_long_training():
    model, loader = RqVae(12, **SMALL), FeatureLoader(clustered(64), 32, shuffle=True)        # 2 steps an epoch
    rates = {}
    for epochs in (1, 400, 4000):
        recipe.training(model, loader, epochs)
        rates[epochs] = model.assign.rate
    assert rates == {1: 0.3, 400: 0.3, 4000: pytest.approx(0.03)}


def test_the_latent_is_never_wider_than_the_features():
    assert [recipe.model_options(width)["latent_dim"] for width in (64, 256, 4096)] == [64, 256, 256]
    assert RqVae(**recipe.model_options(64)).input_dim == 64


def test_only_the_perceptrons_decay():
    model = RqVae(12, **SMALL)
    optimizer = recipe.configure_optimizers(model, 100)["optimizer"]
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (WEIGHT_DECAY if ".layers." in name else 0), name
    assert len(decays) == len(list(model.parameters()))


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    model = RqVae(12, **{**SMALL, "learning_rate": 1.0})
    configured = recipe.configure_optimizers(model, 1000)
    rates = []
    for _ in range(1001):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates[0] == pytest.approx(1e-3) and rates[25] == pytest.approx(0.5) and rates[50] == pytest.approx(1)
    assert rates[525] == pytest.approx(0.5) and rates[-1] == pytest.approx(1e-3)


def test_it_uses_all_codes_and_explains_most_of_the_variance():
    features = clustered(600, clusters=60)
    model = trained(features)
    codes = batch_inference(model, FeatureLoader(features, 64), "cpu")
    assert code_statistics(codes, 16)["unique_codes_per_level"] == [16, 16, 16]
    error = (model.decode(codes) - features).square().sum() / (features - features.mean(dim=0)).square().sum()
    assert error < 0.35


def test_neither_units_nor_origin_of_the_features_matter():
    """Powers of two scale floats exactly, so the codes must be the same, not similar."""
    features = clustered(300).half().float()
    loader = FeatureLoader(features, 64)
    expected = batch_inference(trained(features), loader, "cpu")
    for scale in (2.0**-30, 2.0**12):
        scaled = FeatureLoader(features * scale, 64)
        assert torch.equal(batch_inference(trained(features * scale), scaled, "cpu"), expected)
    shifted = features + 64
    found = batch_inference(trained(shifted), FeatureLoader(shifted, 64), "cpu")
    assert code_statistics(found, 16)["perplexity"] == pytest.approx(code_statistics(expected, 16)["perplexity"], rel=0.1)


def test_a_closed_catalogue_is_fitted_harder():
    features = clustered(300, clusters=60)
    errors = {}
    for closed in (False, True):
        torch.manual_seed(0)
        model = RqVae(12, **SMALL)
        loader = FeatureLoader(features, 32, shuffle=True)
        recipe.start(model, loader)
        fit(model, recipe.training(model, loader, 10, closed=closed), max_epochs=10, device="cpu", progress=False,
            optimizers=recipe.configure_optimizers(model, 10 * len(loader), closed=closed))
        codes = batch_inference(model, FeatureLoader(features, 64), "cpu")
        errors[closed] = (model.decode(codes) - features).square().mean().item()
    assert errors[True] < errors[False]


@pytest.mark.parametrize("features", [
    torch.ones(40, 12), clustered(3), torch.randn(1, 12), torch.randn(50, 2), torch.randn(30, 1),
    torch.cat([torch.zeros(20, 12), clustered(20)]),
], ids=["all equal", "three items", "one item", "two columns", "one column", "half zero"])
@pytest.mark.filterwarnings("ignore")
def test_odd_catalogues_train(features):
    model = trained(features, epochs=2)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_plain_loader_gives_a_starting_point_and_is_named_where_it_does_not_do():
    features = clustered(300)
    one, other = RqVae(12, 16, 8, 32, num_quantizers=2), RqVae(12, 16, 8, 32, num_quantizers=2)
    other.load_state_dict(one.state_dict())
    recipe.start(one, FeatureLoader(features, 32, shuffle=True))
    recipe.start(other, loader(features))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    with pytest.raises(ValueError, match=r"needs a FeatureLoader, .* got a DataLoader; make one by FeatureLoader\("):
        recipe.training(one, loader(features), 1)
