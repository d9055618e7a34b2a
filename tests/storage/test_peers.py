"""Tokenizers of others, built here from their layers written down, against the definition of their codes in float64."""

import argparse
import json
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from rqvae import RqVae
from rqvae.storage.checkpoint import CheckpointError
from rqvae.storage.peers import UnknownPeer, load_peer

from samples import clustered

D, E, HIDDEN, K, L = 12, 6, [16, 8], 8, 3


def perceptron(widths, *, before=(), norm=False, norm_last=False, bias=True, activation=nn.ReLU):
    """[before], Linear, [BatchNorm], activation, ..., Linear, [BatchNorm], with numbers that matter."""
    layers = []
    for place, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        last = place == len(widths) - 2
        layers += [*(each() for each in before), nn.Linear(fan_in, fan_out, bias=bias)]
        if norm and (not last or norm_last):
            layers.append(nn.BatchNorm1d(fan_out))
            nn.init.normal_(layers[-1].weight), nn.init.normal_(layers[-1].bias)
            layers[-1].running_mean.normal_(), layers[-1].running_var.uniform_(0.3, 3)
        layers += [] if last else [activation()]
    return nn.Sequential(*layers).eval()


def named(prefix, module):
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def their_codes(encoder, codebooks, features):
    """The nearest vector of each level to what the levels before left over, in float64, by the definition."""
    with torch.no_grad():
        residual, codes = encoder.double()(features.double()), []
        encoder.float()
    for codebook in codebooks:
        table = ((residual[:, None] - codebook.double()[None]) ** 2).sum(-1)
        codes.append(table.argmin(1))
        residual = residual - codebook.double()[codes[-1]]
    return torch.stack(codes, 1)


def codebooks_for(encoder, features, sizes=(K,) * L):
    """Of each level some rows of what the levels before left over, moved a little, so that all are in use."""
    with torch.no_grad():
        residual, codebooks = encoder(features), []
        for size in sizes:
            rows = residual[torch.randperm(len(residual))[:size]]
            codebooks.append(rows + 0.1 * residual.std() * torch.randn_like(rows))
            residual = residual - codebooks[-1][torch.cdist(residual, codebooks[-1]).argmin(1)]
    return codebooks


def loaded(path, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = RqVae.from_peer(path, **options)
    return model, [str(each.message) for each in said]


def assert_same(model, encoder, codebooks, features, decoder=None):
    codes = their_codes(encoder, codebooks, features)
    assert torch.equal(model.generate_semantic_ids(features).reshape(codes.shape), codes)
    assert not model.training and all(len(column.unique()) > 2 for column in codes.T)
    if decoder is not None:
        with torch.no_grad():
            latents = sum(codebook[column] for codebook, column in zip(codebooks, codes.T))
            torch.testing.assert_close(model.decode(codes), decoder(latents), rtol=1e-4, atol=1e-5)


@pytest.fixture
def features():
    torch.manual_seed(3)
    return clustered(400, D)


# ------------------------------------------------------------------------------- LC-Rec, LETTER, MiniOneRec

def lc_rec(path, features, *, norm=False, norm_last=False, widths=HIDDEN, latent=E, wrapped=False, **arguments):
    options = dict(before=[nn.Dropout], norm=norm, norm_last=norm_last)
    mlp, decoder = perceptron([D, *widths, latent], **options), perceptron([latent, *widths[::-1], D], **options)

    class Residual(nn.Module):
        def forward(self, x):
            return x + mlp.to(x.dtype)(x)
    encoder = Residual() if wrapped else mlp
    codebooks = codebooks_for(encoder, features)
    state = {**named("encoder.mlp.mlp_layers" if wrapped else "encoder.mlp_layers", mlp),
             **{f"rq.vq_layers.{level}.embedding.weight": each for level, each in enumerate(codebooks)},
             **named("decoder.mlp_layers", decoder)}
    args = argparse.Namespace(num_emb_list=[K] * L, e_dim=latent, layers=widths, beta=0.5, lr=1e-3, device="cuda:0",
                              **{"dropout_prob": 0.0, "sk_epsilons": [0.0, 0.0, 0.003], **arguments})
    torch.save({"args": args, "epoch": 3, "best_loss": 0.25, "best_collision_rate": 0.01, "state_dict": state,
                "optimizer": torch.optim.AdamW(decoder.parameters()).state_dict()}, path, pickle_protocol=4)
    mlp.float()
    return encoder, codebooks, decoder


def test_lc_rec(tmp_path, features):
    parts = lc_rec(tmp_path / "best_collision_model.pth", features)
    model, said = loaded(tmp_path / "best_collision_model.pth")
    assert_same(model, *parts[:2], features, parts[2])
    found = model.hyper_parameters
    assert {name: found[name] for name in "input_dim hidden_dim latent_dim num_embeddings num_quantizers".split()} == {
        "input_dim": D, "hidden_dim": HIDDEN, "latent_dim": E, "num_embeddings": K, "num_quantizers": L}
    assert found["commitment_cost"] == 0.5 and found["activation"] == "relu" and not found["linear_path"]
    assert len(said) == 1 and "codes are the nearest, as by get_indices(use_sk=False)" in said[0]


@pytest.mark.parametrize("norm_last", [False, True])        # LC-Rec and MiniOneRec; LETTER
def test_batch_normalization_becomes_part_of_the_weights(tmp_path, features, norm_last):
    parts = lc_rec(tmp_path / "a.pth", features, norm=True, norm_last=norm_last, dropout_prob=0.1, sk_epsilons=None)
    model, said = loaded(tmp_path / "a.pth")
    assert_same(model, *parts[:2], features, parts[2])
    assert len(said) == 2 and "batch normalization" in said[0] and "dropout of 0.1" in said[1]


def test_the_encoder_of_rq_kmeans_plus_that_adds_what_came_in(tmp_path, features):
    parts = lc_rec(tmp_path / "a.pth", features, latent=D, wrapped=True)
    model, _ = loaded(tmp_path / "a.pth")
    assert_same(model, *parts[:2], features, parts[2])
    assert model.hyper_parameters["linear_path"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_hidden_layers(tmp_path, features, wrapped):
    parts = lc_rec(tmp_path / "a.pth", features, widths=[], latent=D, wrapped=wrapped)
    assert_same(loaded(tmp_path / "a.pth")[0], *parts[:2], features, parts[2])


# ------------------------------------------------------------------------------- RQ-VAE-Recommender, genrec

def recommender(features, *, activation=nn.ReLU, projected=False, **config):
    options = dict(bias=False, activation=activation)
    encoder, decoder = perceptron([D, *HIDDEN, E], **options), perceptron([E, *HIDDEN[::-1], D], **options)
    codebooks = codebooks_for(encoder, features)
    state = {f"layers.{level}.embedding.weight": each for level, each in enumerate(codebooks)}
    if projected:
        products = [torch.randn(E, E) / E ** 0.5 for _ in codebooks]
        state.update({f"layers.{level}.out_proj.0.weight": each for level, each in enumerate(products)})
        codebooks = [codebook @ product.T for codebook, product in zip(codebooks, products)]
    state = {**state, **named("encoder.mlp", encoder), **named("decoder.mlp", decoder)}
    config = {"input_dim": D, "embed_dim": E, "hidden_dims": HIDDEN, "codebook_size": K, "codebook_normalize": False,
              "n_layers": L, "commitment_weight": 0.25, **config}
    return (encoder, codebooks, decoder), state, config


def live(name, monkeypatch, base=nn.Module):
    """An object of a class that only its author has, such as the model that stands in its own notes."""
    package, _, kind = name.rpartition(".")
    parts = package.split(".")
    for each in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        monkeypatch.setitem(sys.modules, each, sys.modules.get(each) or types.ModuleType(each))
    vars(sys.modules[package]).setdefault(kind, type(kind, (base,), {"__module__": package}))
    return getattr(sys.modules[package], kind)()


@pytest.mark.parametrize("projected", [False, True])
def test_rq_vae_recommender(tmp_path, features, monkeypatch, projected):
    parts, state, config = recommender(features, projected=projected)
    own = live("modules.rqvae.RqVae", monkeypatch)
    own.encoder = nn.Sequential(nn.Linear(D, E))
    torch.save({"iter": 9, "model": state, "model_config": {"self": own, **config, "__class__": type(own)}},
               tmp_path / "checkpoint_9.pt")
    model, said = loaded(tmp_path / "checkpoint_9.pt")
    assert_same(model, *parts[:2], features, parts[2])
    assert said == [] and load_peer(tmp_path / "checkpoint_9.pt").system == "RQ-VAE-Recommender"


def test_rq_vae_recommender_as_a_folder(tmp_path, features):
    safetensors = pytest.importorskip("safetensors.torch")
    parts, state, config = recommender(features)
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.save_file(state, tmp_path / "model.safetensors")
    assert_same(loaded(tmp_path)[0], *parts[:2], features, parts[2])


def test_genrec(tmp_path, features, monkeypatch):
    parts, state, config = recommender(features, activation=nn.SiLU, codebook_last_layer_mode=4)
    own = live("genrec.models.rqvae.RqVae", monkeypatch)
    torch.save({"epoch": 9, "model": state, "model_config": {"self": own, **config}, "scheduler": {"last_epoch": 9}},
               tmp_path / "checkpoint_epoch_9.pt")
    model, said = loaded(tmp_path / "checkpoint_epoch_9.pt")
    assert_same(model, *parts[:2], features, parts[2])
    assert len(said) == 1 and "its decoder divides what it gives by its length, ours does not" in said[0]


def test_bare_weights_of_the_two_are_told_apart_by_the_user(tmp_path, features):
    parts, state, _ = recommender(features, activation=nn.SiLU)
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="a.pt is of RQ-VAE-Recommender, which has ReLU, or of genrec, which has SiLU"):
        load_peer(tmp_path / "a.pt")
    assert_same(loaded(tmp_path / "a.pt", activation="silu")[0], *parts[:2], features)


def test_latents_of_unit_length_are_what_our_model_has_not(tmp_path, features):
    _, state, config = recommender(features, codebook_normalize=True)
    torch.save({"model": state, "model_config": config}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="a.pt was trained with codebook_normalize, which divides each latent by its "
                                              "length; our model has no such step, so its codes would be others"):
        load_peer(tmp_path / "a.pt")


# ------------------------------------------------------------------------------------ semantic-id, rectokens

def test_semantic_id(tmp_path, features):
    encoder, codebooks, decoder = lc_rec(tmp_path / "their.pth", features)
    state = torch.load(tmp_path / "their.pth", weights_only=False)["state_dict"]
    for folder in (tmp_path / "encoder", tmp_path):
        folder.mkdir(exist_ok=True)
    (tmp_path / "engine_meta.json").write_text('{"encoder_type": "RQVAE", "store_type": "in_memory"}')
    (tmp_path / "encoder" / "metadata.json").write_text(json.dumps({
        "type": "RQVAE", "in_dim": D, "num_emb_list": [K] * L, "e_dim": E, "layers": HIDDEN, "beta": 0.25}))
    torch.save(state, tmp_path / "encoder" / "model.pt")
    for folder in (tmp_path, tmp_path / "encoder"):         # of the engine, and of the encoder alone
        assert_same(loaded(folder)[0], encoder, codebooks, features, decoder)
        assert load_peer(folder).system == "semantic-id"


def test_residual_kmeans_of_semantic_id(tmp_path, features):
    codebooks = codebooks_for(nn.Identity(), features)
    (tmp_path / "metadata.json").write_text(json.dumps({"type": "RQKMeans", "n_levels": L, "n_clusters": [K] * L, "D": D}))
    np.savez_compressed(tmp_path / "codebooks.npz", **{f"codebook_{i}": each.numpy() for i, each in enumerate(codebooks)})
    model, said = loaded(tmp_path)
    assert_same(model, nn.Identity(), codebooks, features, nn.Identity())
    assert len(said) == 1 and said[0].endswith("it has no encoder: latents are the features")


@pytest.mark.parametrize("learned", [False, True])
def test_rectokens(tmp_path, features, learned):
    encoder, decoder = perceptron([D, 16, 16, E]), perceptron([E, 16, 16, D])
    codebooks = codebooks_for(encoder, features)
    state = {**named("encoder.net", encoder), **named("decoder.net", decoder)}
    for level, codebook in enumerate(codebooks):
        within = f"rq._module_levels.{level}."
        state |= {within + "_codebook.embeddings": codebook, within + "_ema_cluster_size": torch.ones(K),
                  within + "_ema_embed_sum": codebook, within + "_initialized": torch.ones(1, dtype=torch.bool),
                  within + "_steps_since_active": torch.zeros(K, dtype=torch.long)}
    torch.save({"state_dict": state, "config": {"input_dim": D, "latent_dim": E, "hidden_dim": 16, "num_levels": L,
                                                "codebook_size": K, "learnable_codebook": learned}}, tmp_path / "tok.pt")
    model, said = loaded(tmp_path / "tok.pt")
    assert_same(model, encoder, codebooks, features, decoder)
    assert said == []


def test_residual_kmeans_of_rectokens_which_is_saved_as_a_whole_object(tmp_path, features, monkeypatch):
    def made(name, **attributes):
        base = nn.Module if name != "quantizers.kmeans.KMeansQuantizer" else object
        item = live(f"rectokens.{name}", monkeypatch, base)
        for key, value in attributes.items():
            item.register_buffer(key, value) if isinstance(value, torch.Tensor) else setattr(item, key, value)
        return item

    codebooks = codebooks_for(nn.Identity(), features)
    levels = [made("quantizers.kmeans.KMeansQuantizer", _fitted=True,
                   _codebook=made("codebooks.euclidean.EuclideanCodebook", embeddings=each)) for each in codebooks]
    whole = made("tokenizers.rq_kmeans.RQKMeansTokenizer", num_levels=L)
    whole.__dict__["_rq"] = made("quantizers.residual.ResidualQuantizer", _levels=levels)
    torch.save(whole, tmp_path / "tok.pt")
    assert_same(loaded(tmp_path / "tok.pt")[0], nn.Identity(), codebooks, features, nn.Identity())


# ------------------------------------------------------------------------------------------------- refusals

def test_what_has_no_place_in_our_model_is_named(tmp_path, features):
    lc_rec(tmp_path / "a.pth", features)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["state_dict"]["attention.weight"] = torch.ones(2, 2)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth has weights that our model has no place for, such as attention.weight"):
        load_peer(tmp_path / "a.pth")


def test_a_decoder_that_does_not_mirror_the_encoder_is_named(tmp_path, features):
    lc_rec(tmp_path / "a.pth", features)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["state_dict"] = {name: tensor for name, tensor in content["state_dict"].items() if "decoder" not in name}
    content["state_dict"].update(named("decoder.mlp_layers", perceptron([E, 5, D])))
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"layers \[16, 8\] and a decoder with layers \[5\]; our decoder mirrors"):
        load_peer(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [{"state_dict": {"layer.weight": torch.ones(3)}}, [torch.ones(2)], torch.ones(2)])
def test_another_file_is_none_of_these(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnknownPeer, match="a.pt .*expected a tokenizer of LC-Rec, LETTER, MiniOneRec, RQ-VAE-Recommender"):
        load_peer(tmp_path / "a.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownPeer, match="is a folder without config.json and model.safetensors, or metadata.json"):
        load_peer(tmp_path)


@pytest.mark.parametrize("damage", [
    lambda state: state.pop("rq.vq_layers.1.embedding.weight"),
    lambda state: state.pop("encoder.mlp_layers.1.weight"),
    lambda state: state.pop("encoder.mlp_layers.4.weight"),
    lambda state: state.update({"rq.vq_layers.0.embedding.weight": torch.ones(3)}),
    lambda state: state.update({"rq.vq_layers.0.embedding.weight": torch.ones(3, 2)}),
    lambda state: state.update({"encoder.mlp_layers.1.running_var": torch.ones(16)}),
    lambda state: [state.pop(name) for name in list(state) if name.startswith("encoder")],
    lambda state: [state.pop(name) for name in list(state) if name.startswith("decoder")]])
def test_missing_and_misshapen_weights_are_an_error_of_one_sentence(tmp_path, features, damage):
    lc_rec(tmp_path / "a.pth", features)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    damage(content["state_dict"])
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth"):
        loaded(tmp_path / "a.pth")


@pytest.mark.parametrize("part, value", [
    ("encoder.mlp_layers.2.running_var", float("inf")), ("encoder.mlp_layers.2.running_var", 1e300),
    ("encoder.mlp_layers.2.running_var", -1e-6), ("encoder.mlp_layers.2.running_mean", float("nan")),
    ("encoder.mlp_layers.1.weight", 1e39), ("rq.vq_layers.1.embedding.weight", float("-inf"))])
def test_numbers_that_are_none_are_refused_under_their_own_name(tmp_path, features, part, value):
    """A variance of Inf made an encoder that loses a column, and IDs without a word."""
    lc_rec(tmp_path / "a.pth", features, norm=True)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["state_dict"][part] = content["state_dict"][part].double()
    content["state_dict"][part].view(-1)[0] = value
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"a.pth holds NaN, Inf, numbers beyond float32 or a variance below 0 in 1 of its "
                                              f"weights \\({part}\\)"):
        loaded(tmp_path / "a.pth")


def test_weights_that_are_integers_are_refused(tmp_path, features):
    lc_rec(tmp_path / "a.pth", features)
    content = torch.load(tmp_path / "a.pth", weights_only=False)
    content["state_dict"] = {name: (20 * values).to(torch.int8) for name, values in content["state_dict"].items()}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth: 15 of its weights are integers"):
        loaded(tmp_path / "a.pth")


def test_codebooks_of_several_widths_are_named(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps({"type": "RQKMeans"}))
    np.savez(tmp_path / "codebooks.npz", codebook_0=np.ones((4, 6)), codebook_1=np.ones((4, 5)))
    with pytest.raises(CheckpointError, match=r"has codebooks of \[6, 5\] columns; expected as many in each"):
        load_peer(tmp_path)


def test_a_call_in_a_peers_file_is_refused_by_name(tmp_path):
    class Calls:
        def __reduce__(self):
            return print, ("ran",)
    torch.save({"model": {"layers.0.embedding.weight": torch.ones(2, 2)}, "model_config": {"self": Calls()}},
               tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="asks for builtins.print, which could run code, so it was not opened"):
        load_peer(tmp_path / "a.pt")


def test_levels_of_different_sizes(tmp_path, features):
    encoder = nn.Identity()
    codebooks = codebooks_for(encoder, features, (8, 4, 16))
    (tmp_path / "metadata.json").write_text(json.dumps({"type": "RQKMeans", "n_levels": 3, "n_clusters": [8, 4, 16], "D": D}))
    np.savez(tmp_path / "codebooks.npz", **{f"codebook_{i}": each.numpy() for i, each in enumerate(codebooks)})
    model, _ = loaded(tmp_path)
    assert_same(model, encoder, codebooks, features, encoder)
    assert model.hyper_parameters["num_embeddings"] == [8, 4, 16]


@pytest.mark.parametrize("name, arrays, words", [
    ("codebooks.npz", {"codebook_0": np.zeros((4000, 2500))}, "would be 80,000,128 bytes, from a file of "),
    ("codebooks.npz", {"codebook_1": np.ones((4, 5))}, "does not hold codebook_0, codebook_1, ... "),
    ("codebooks.npz", {"codebook_0": np.random.rand(4, 9000)}, "has vectors of 9,000 columns and no encoder"),
    ("codebooks.npz", {"codebook_0": np.random.rand(4)}, "has not the layers of a tokenizer")])
def test_codebooks_that_would_take_much_more_than_their_file(tmp_path, name, arrays, words):
    (tmp_path / "metadata.json").write_text(json.dumps({"type": "RQKMeans"}))
    np.savez_compressed(tmp_path / name, **arrays)
    with pytest.raises(CheckpointError, match=words):
        load_peer(tmp_path)
