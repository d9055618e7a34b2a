"""The documented model: its interface, its losses, its files."""

import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from samples import ROOT, clustered, loader
from rqvae import RqVae, fit, load_semantic_ids, save_semantic_ids
from rqvae.storage.checkpoint import CheckpointError


def small(**options):
    return RqVae(**{"input_dim": 12, "hidden_dim": 8, "latent_dim": 4, "num_embeddings": 16, **options})


def test_the_constructor_has_the_documented_signature():
    parameters = list(inspect.signature(RqVae).parameters.values())
    documented = {"input_dim": 768, "hidden_dim": 512, "latent_dim": 256, "num_embeddings": 1024,
                  "commitment_cost": 0.25, "learning_rate": 1e-3}
    assert {p.name: p.default for p in parameters[:6]} == documented
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[6:])


def test_the_default_state_dict_has_the_documented_keys_and_no_others():
    layers = [f"layers.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    assert list(RqVae().state_dict()) == [
        *(f"encoder.{name}" for name in layers), "quantizer.embeddings.weight",
        *(f"decoder.{name}" for name in layers)]


def test_hyper_parameters_are_the_constructor_s_arguments():
    model = small(num_quantizers=2)
    assert set(model.hyper_parameters) == set(inspect.signature(RqVae).parameters)
    assert model.hyper_parameters["num_quantizers"] == 2


def test_forward_unpacks_as_documented_and_its_fields_have_names():
    model = small()
    out = model(torch.randn(5, 12))
    reconstructed, commitment_loss, embedding_loss, semantic_ids = out
    assert reconstructed.shape == (5, 12) and semantic_ids.shape == (5,)
    assert commitment_loss.shape == embedding_loss.shape == ()
    assert out._fields == ("reconstructed", "commitment_loss", "embedding_loss", "semantic_ids")


@pytest.mark.parametrize("levels, shape", [(1, (5,)), (3, (5, 3))])
def test_semantic_ids_have_a_column_a_level_above_one(levels, shape):
    model = small(num_quantizers=levels)
    features = torch.randn(5, 12)
    ids = model.generate_semantic_ids(features)
    assert ids.shape == shape and ids.dtype == torch.int64
    assert torch.equal(ids, model(features).semantic_ids)
    torch.testing.assert_close(model.decode(ids), model(features).reconstructed)


def test_the_training_step_is_the_documented_one():
    model, features = small(), torch.randn(7, 12)
    total = model.training_step({"features": features}, 0)
    latents = model.encode(features)
    nearest = model.quantizer.embeddings.weight[torch.cdist(latents, model.quantizer.embeddings.weight).argmin(1)]
    gap = F.mse_loss(nearest, latents)
    recon = F.mse_loss(model.decoder(nearest), features)
    torch.testing.assert_close(total, recon + 0.25 * gap + gap)
    logged = {name: value.item() for name, value in model.logged.items() if value.dim() == 0}
    assert logged == pytest.approx({"train_loss": total.item(), "train_recon_loss": recon.item(),
                                    "train_commitment_loss": 0.25 * gap.item(), "train_embedding_loss": gap.item()})


def test_the_validation_step_logs_the_documented_names():
    model = small()
    total = model.validation_step({"features": torch.randn(7, 12)}, 0)
    assert model.logged["val_loss"] == total and model.logged["val_recon_loss"] < total


def test_configure_optimizers_returns_the_documented_dictionary():
    configured = small(learning_rate=0.02).configure_optimizers()
    assert set(configured) == {"optimizer", "lr_scheduler"}
    assert type(configured["optimizer"]) is torch.optim.Adam
    assert configured["optimizer"].defaults["lr"] == 0.02
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["monitor"] == "val_loss"
    assert (scheduler.mode, scheduler.factor, scheduler.patience) == ("min", 0.5, 5)


def test_the_decoder_mirrors_a_list_of_widths():
    model = small(hidden_dim=[10, 6])
    assert model.encoder.layers[0].out_features == model.decoder.layers[2].out_features == 10


def test_every_bad_value_is_named_in_one_message():
    with pytest.raises(ValueError) as error:
        RqVae(input_dim=0, num_embeddings=1, commitment_cost=-1, learning_rate=float("nan"), num_quantizers=0)
    for name in ("input_dim", "num_embeddings", "commitment_cost", "learning_rate", "num_quantizers"):
        assert f"{name} is" in str(error.value)


def test_features_of_another_width_are_named():
    with pytest.raises(ValueError, match=r"features have shape \(3, 7\); this model takes \(rows, 12\)"):
        small()(torch.randn(3, 7))


@pytest.mark.parametrize("options", [{}, {"num_quantizers": 3}, {"hidden_dim": [9, 5], "activation": "gelu"}])
def test_a_saved_folder_comes_back_equal_and_in_eval_mode(tmp_path, options):
    model = small(**options)
    model.save_pretrained(tmp_path / "model", safe_serialization=False)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "rqvae" and config["num_embeddings"] == 16
    loaded = RqVae.from_pretrained(tmp_path / "model")
    assert not loaded.training and loaded.hyper_parameters == model.hyper_parameters
    features = clustered(50)
    assert torch.equal(loaded.generate_semantic_ids(features), model.generate_semantic_ids(features))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def save(model, path, **hyper_parameters):
    from rqvae.storage.checkpoint import build_checkpoint, save_checkpoint
    save_checkpoint(build_checkpoint(
        epoch=0, global_step=1, state_dict=model.state_dict(),
        hyper_parameters={**model.hyper_parameters, **hyper_parameters}), path)


def test_a_checkpoint_gives_the_model_back(tmp_path):
    model = small(num_quantizers=2)
    save(model, tmp_path / "m.ckpt")
    loaded = RqVae.load_from_checkpoint(tmp_path / "m.ckpt")
    assert loaded.hyper_parameters == model.hyper_parameters
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_overrides_replace_what_the_file_says_and_a_misspelt_one_is_refused(tmp_path):
    save(small(), tmp_path / "m.ckpt")
    assert RqVae.load_from_checkpoint(tmp_path / "m.ckpt", learning_rate=0.5).learning_rate == 0.5
    with pytest.raises(TypeError, match="learning_rat is not an argument of RqVae"):
        RqVae.load_from_checkpoint(tmp_path / "m.ckpt", learning_rat=0.5)


def test_hyper_parameters_that_nobody_knows_are_dropped(tmp_path):
    save(small(), tmp_path / "m.ckpt", made_up="value")
    assert "made_up" not in RqVae.load_from_checkpoint(tmp_path / "m.ckpt").hyper_parameters


def test_another_architecture_is_refused_with_the_difference(tmp_path):
    save(small(), tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError) as error:
        RqVae.load_from_checkpoint(tmp_path / "m.ckpt", num_embeddings=32)
    assert "num_embeddings" in str(error.value) and "16" in str(error.value) and "32" in str(error.value)
    assert "quantizer.embeddings.weight" in str(error.value)


def test_strict_false_takes_what_fits(tmp_path):
    save(small(), tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="quantizer.levels.0.embeddings.weight"):
        RqVae.load_from_checkpoint(tmp_path / "m.ckpt", num_quantizers=2)
    loaded = RqVae.load_from_checkpoint(tmp_path / "m.ckpt", strict=False, num_quantizers=2)
    assert loaded.hyper_parameters["num_quantizers"] == 2


def test_sizes_that_only_the_file_claims_are_not_allocated(tmp_path):
    save(small(), tmp_path / "m.ckpt", input_dim=10**10)
    with pytest.raises(CheckpointError, match="m.ckpt"):
        RqVae.load_from_checkpoint(tmp_path / "m.ckpt")


@pytest.mark.parametrize("levels", [1, 2])
def test_decode_takes_the_codes_of_a_file(tmp_path, levels):
    model, features = small(num_quantizers=levels), clustered(30)
    codes = model.generate_semantic_ids(features)
    save_semantic_ids(codes, tmp_path / "ids.json")
    loaded = load_semantic_ids(tmp_path / "ids.json").codes
    assert torch.equal(model.decode(loaded), model.decode(codes))
    assert torch.equal(model.decode(loaded.astype("int32").tolist()), model.decode(codes))
    with_suffix = np.concatenate([loaded, np.zeros((30, 1), int)], axis=1)
    assert torch.equal(model.decode(with_suffix), model.decode(codes))


@pytest.mark.parametrize("options", [{}, {"num_quantizers": 2, "standardize": True, "latent_norm": True}])
def test_a_program_of_torch_export_gives_the_model_s_ids_for_any_number_of_rows(options):
    model = small(**options).eval()
    with torch.no_grad():
        for codebook in model.quantizer.codebooks:
            codebook += 30.0                                # far from the origin: the branch that stopped the export
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(model, (clustered(40),), dynamic_shapes=({0: rows},)).module()
    for count in (1, 7, 40, 3000):
        features = clustered(count, seed=count)
        expected = model(features)
        for found, wanted in zip(program(features), expected):
            assert torch.equal(found, wanted)


class _Sparse(RqVae):
    """A subclass as a user writes one: one argument of its own, the others passed on."""

    def __init__(self, weight=0.5, **options):
        super().__init__(**options)
        self.weight = weight
        self.hyper_parameters["weight"] = weight


def test_a_subclass_that_passes_options_on_comes_back_from_its_files(tmp_path):
    model = _Sparse(weight=0.25, input_dim=12, hidden_dim=16, latent_dim=8, num_embeddings=32, num_quantizers=2)
    fit(model, loader(clustered(50)), max_epochs=1, device="cpu", progress=False, checkpoint_dir=tmp_path)
    model.save_pretrained(tmp_path / "folder")
    for loaded in (_Sparse.load_from_checkpoint(tmp_path / "last.ckpt"), _Sparse.from_pretrained(tmp_path / "folder")):
        assert loaded.weight == 0.25 and loaded.hyper_parameters == model.hyper_parameters
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(TypeError, match="wight is not an argument of _Sparse; there are weight, input_dim"):
        _Sparse.from_pretrained(tmp_path / "folder", wight=1)


def test_a_list_of_sizes_gives_each_level_its_own(tmp_path):
    model = RqVae(12, 16, 8, [4, 16, 8])
    assert [len(codebook) for codebook in model.quantizer.codebooks] == [4, 16, 8]
    ids = model.generate_semantic_ids(torch.randn(200, 12))
    assert ids.shape == (200, 3) and (ids.max(dim=0).values < torch.tensor([4, 16, 8])).all()
    model.save_pretrained(tmp_path)
    again = RqVae.from_pretrained(tmp_path)
    assert again.hyper_parameters["num_embeddings"] == [4, 16, 8] and again.hyper_parameters["num_quantizers"] == 3
    assert RqVae(12, 16, 8, [32]).hyper_parameters["num_embeddings"] == 32
    assert set(RqVae(12, 16, 8, [32]).state_dict()) == set(RqVae(12, 16, 8, 32).state_dict())


def test_a_list_of_sizes_must_suit_the_levels():
    with pytest.raises(ValueError, match="must hold one size for each of the 3 levels"):
        RqVae(12, 16, 8, [4, 16], num_quantizers=3)
    with pytest.raises(ValueError, match=r"num_embeddings is \[4, 1\], must be an integer of at least 2, or a list"):
        RqVae(12, 16, 8, [4, 1])


def test_true_is_no_number_and_a_number_is_no_switch():
    """A run would record it, and nothing that reads checkpoints takes that."""
    for name in ("input_dim", "latent_dim", "num_embeddings", "num_quantizers", "commitment_cost", "learning_rate"):
        with pytest.raises(ValueError, match=f"{name} is True, must be"):
            RqVae(**{name: True})
    for name in ("linear_path", "latent_norm", "standardize", "robust", "rotation_trick"):
        for value in (1, None, "yes", torch.ones(2)):
            with pytest.raises(ValueError, match=f"{name} is .*, must be True or False"):
                RqVae(**{name: value})
    for name, words in (("hidden_dim", "it must be a positive integer"), ("ema_decay", "it must be between 0 and 1"),
                        ("restart_below", "it must be between 0 and 1")):
        with pytest.raises(ValueError, match=f"{name} is True; {words}"):
            RqVae(**{name: True})


def test_weights_that_are_integers_are_refused(tmp_path):
    """As somebody keeps them who has packed them: without their scale they are other numbers."""
    model = RqVae(8, 6, 4, 5)
    packed = {name: (20 * values).to(torch.int8) for name, values in model.state_dict().items()}
    torch.save({"state_dict": packed, "hyper_parameters": model.hyper_parameters}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="a.ckpt: 13 of its weights are integers .* save the model in floating point"):
        RqVae.load_from_checkpoint(tmp_path / "a.ckpt")


def test_loading_needs_no_compiler(tmp_path):
    """torch's takes more than a second to import, and draws weights on the device "meta" by it."""
    fit(RqVae(12, 16, 8, 8, num_quantizers=2), [{"features": torch.randn(32, 12)}], max_epochs=1, checkpoint_dir=tmp_path,
        progress=False)
    script = ("import sys; from rqvae import RqVae; model = RqVae.load_from_checkpoint('last.ckpt'); "
              "print(model.quantizer.levels[1].embeddings.weight.isfinite().all().item(), 'torch._dynamo' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_a_subclass_that_encodes_otherwise_gives_its_own_codes():
    class Other(RqVae):
        def encode(self, features):
            return super().encode(features.flip(1))

    torch.manual_seed(0)
    plain, features = RqVae(12, 16, 8, 32), torch.randn(50, 12)
    other = Other(12, 16, 8, 32)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other.generate_semantic_ids(features), plain.generate_semantic_ids(features.flip(1)))
