"""Exported tokenizers: run in processes that have no rqvae, and held against the model's codes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import infer
import train
from rqvae import RqVae, batch_inference
from rqvae.programs import export_program
from samples import TINY, clustered, loader

KINDS = [
    {},
    {"num_embeddings": [16, 64, 30]},
    {"num_quantizers": 2, "hidden_dim": [24], "activation": "gelu", "linear_path": True, "latent_norm": True,
     "standardize": True},
    {"num_quantizers": 2, "activation": "silu", "standardize": True},
    {"num_quantizers": 2, "activation": "gelu", "linear_path": True, "latent_norm": True, "standardize": True, "robust": True},
    {"num_quantizers": 2, "standardize": True, "robust": True, "parts": [5, 7]},
]
BARE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rqvae":
            raise ImportError("no rqvae here")
sys.meta_path.insert(0, Refuse())
import numpy as np
rows = np.load("rows.npy")
def padded(part):
    return np.concatenate([part, np.zeros((1024 - len(part), part.shape[1]), part.dtype)])
"""
RUN = {
    "onnx": BARE + """
import onnxruntime
session = onnxruntime.InferenceSession("tokenizer.onnx", providers=["CPUExecutionProvider"])
run = lambda part: session.run(["semantic_ids"], {"features": part})[0]
""",
    "pt2": BARE + """
import torch
torch.set_num_threads(1)
program = torch.export.load("tokenizer.pt2").module()
run = lambda part: program(torch.from_numpy(part)).numpy()
"""}
CODES = """
found = [run(padded(rows[first:first + 1024]))[:len(rows[first:first + 1024])] for first in range(0, len(rows), 1024)]
np.save("codes.npy", np.concatenate(found))
np.save("single.npy", np.concatenate([run(rows[row:row + 1]) for row in range(20)]))
assert not any(name.split(".")[0] == "rqvae" for name in sys.modules)
"""


def small(kind=RqVae, **options):
    """A model whose codes are in use: its codebooks are rows' latents, then what those leave over."""
    torch.manual_seed(0)
    model = kind(12, **{"hidden_dim": 16, "latent_dim": 8, "num_embeddings": 64, **options})
    with torch.no_grad():
        if model.standardize:
            model.feature_mean.copy_(torch.randn(12) * 3)
            model.feature_scale.fill_(1.7)
        if model.robust:                # as the recipe leaves it: columns of their own scales, rows that are drawn in
            model.column_scale.copy_(torch.rand(12) + 0.5)
            model.reach.fill_(3.0)
            model.farthest.fill_(900.0)
        if model.parts:
            model.part_scale.copy_(torch.tensor([0.5] * 5 + [2.0] * 7))
        if model.robust and model.latent_norm:
            model.latent_variance.fill_(0.8)
            model.latent_share.fill_(0.3)
        if options.get("activation") == "silu":
            model.encoder.layers[-1].bias.add_(20)              # latents and codes far from the origin
        residual = model.encode(clustered(400))
        for level in model.quantizer.levels:
            size = level.num_embeddings
            level.embeddings.weight.copy_(residual[:size] + 0.01 * torch.randn(size, 8))
            residual = (residual - level.decode(level.encode(residual)))[64:]
    return model


def needed(kind):
    pytest.importorskip("onnx")
    if kind == "onnx":
        pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("kind", RUN)
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_codes_in_a_process_without_us_are_the_model_s(tmp_path, options, kind):
    needed(kind)
    model = small(**options)
    model.train()
    export_program(model, tmp_path / f"tokenizer.{kind}")
    assert model.training
    rows = torch.cat([clustered(3000), 100 * clustered(1000, seed=1) + 50, torch.zeros(3, 12)])
    if model.parts:
        rows[::7, :5] = float("nan")                # items that lack an embedding
    np.save(tmp_path / "rows.npy", rows.numpy())
    done = subprocess.run([sys.executable, "-c", RUN[kind] + CODES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = batch_inference(model, loader(rows, 1024), "cpu").numpy()
    assert len(np.unique(wanted[:3000], axis=0)) > 30
    found, single = np.load(tmp_path / "codes.npy"), np.load(tmp_path / "single.npy")
    assert found.shape == wanted.shape and found.dtype == np.int64
    assert np.array_equal(found, wanted) and np.array_equal(single, wanted[:20])


@pytest.mark.parametrize("kind", RUN)
@pytest.mark.parametrize("levels", [1, 2])
def test_a_program_tells_codes_in_groups_far_apart_from_each_other(tmp_path, kind, levels):
    """Nine of ten codes of such a program were wrong."""
    pytest.importorskip("onnxruntime" if kind == "onnx" else "torch")
    pytest.importorskip("onnx" if kind == "onnx" else "torch")
    torch.manual_seed(0)
    model = RqVae(8, [4], 8, 64, num_quantizers=levels, linear_path=True).eval()
    centres = 1e4 * torch.randn(8, 8)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        model.encoder.linear.weight.copy_(torch.eye(8))
        model.quantizer.levels[0].embeddings.weight.copy_(centres.repeat(8, 1) + torch.randn(64, 8))
    rows = (model.quantizer.codebooks[0].detach().repeat(40, 1) + 0.2 * torch.randn(2560, 8))
    export_program(model, tmp_path / f"tokenizer.{kind}")
    np.save(tmp_path / "rows.npy", rows.numpy())
    done = subprocess.run([sys.executable, "-c", RUN[kind] + CODES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nearest = torch.cdist(rows.double(), model.quantizer.codebooks[0].detach().double()).argmin(dim=1).numpy()
    assert np.array_equal(np.load(tmp_path / "codes.npy").reshape(2560, -1)[:, 0], nearest)


def test_the_file_says_what_it_is_and_nothing_of_where_it_was_made(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = small(num_quantizers=2)
    export_program(model, tmp_path / "a" / "tokenizer.onnx")
    program = onnx.load(tmp_path / "a" / "tokenizer.onnx")
    told = {entry.key: entry.value for entry in program.metadata_props}
    assert told["model_type"] == "rqvae" and json.loads(told["hyper_parameters"]) == model.hyper_parameters
    export_program(model, tmp_path / "a" / "tokenizer.pt2")
    assert not any("decoder" in name for name in torch.export.load(tmp_path / "a" / "tokenizer.pt2").state_dict)
    assert model.decoder is not None
    for path in (tmp_path / "a").iterdir():
        assert b"site-packages" not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()
    export_program(model, tmp_path / "a" / "again.onnx")
    assert (tmp_path / "a" / "again.onnx").read_bytes() == (tmp_path / "a" / "tokenizer.onnx").read_bytes()


def test_a_model_that_encodes_otherwise_is_not_exported_as_ours(tmp_path):
    pytest.importorskip("onnx")

    class Other(RqVae):
        def encode(self, features):
            return super().encode(features.flip(1))

    with pytest.raises(RuntimeError, match="the model's codes for [0-9]+ of 64 rows; .* export a changed one as .pt2"):
        export_program(small(Other), tmp_path / "tokenizer.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    assert train.main(["--data", "items.npy", "--epochs", "1", *TINY]) == 0
    assert infer.main(["--ckpt", "--export", "out/tokenizer.onnx"]) == 0
    assert "wrote features -> codes as a program to out/tokenizer.onnx" in capsys.readouterr().out
    assert not (tmp_path / "semantic_ids.json").exists()
    for argv, message in (
            (["--export", "out/tokenizer.onnx"], "out/tokenizer.onnx exists; replace it by --overwrite"),
            (["--export", "tokenizer.tflite"], "has the suffix '.tflite'; a tokenizer is exported as .onnx"),
            (["--export", "a.onnx", "--shard", "1/2"], "--export does not go with --shard")):
        assert infer.main(["--ckpt", *argv]) == 2
        assert message in capsys.readouterr().err


def test_without_onnx_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="written with the package onnx: pip install onnx, or export as .pt2"):
        export_program(small(), tmp_path / "tokenizer.onnx")
