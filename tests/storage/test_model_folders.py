"""A model folder against its files typed out by hand; the card in it; one fetched by name by hand-made clients, no network."""

import os
import sys
import types
import zlib
from collections import OrderedDict

import pytest
import torch

from rqvae import RqVae
from rqvae.storage.checkpoint import CheckpointError
from rqvae.storage.model_folders import load_folder, save_folder

CONFIG = {"model_type": "rqvae", "input_dim": 12, "hidden_dim": [8, 4], "learning_rate": 1e-3}


@pytest.fixture(params=[False, True], ids=["torch", "safetensors"])
def safe(request):
    if request.param:
        pytest.importorskip("safetensors")
    return request.param


def test_a_folder_comes_back_as_it_was_saved(tmp_path, safe):
    weights = OrderedDict(b=torch.randn(3, 4).t(), a=torch.tensor(1.5), n=torch.arange(3))
    save_folder(tmp_path / "m", CONFIG, weights, safe_serialization=safe)
    name = "model.safetensors" if safe else "pytorch_model.bin"
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", name]
    config, found = load_folder(tmp_path / "m")
    assert config == CONFIG and set(found) == set(weights)
    assert all(found[key].dtype == weights[key].dtype and torch.equal(found[key], weights[key]) for key in weights)
    written = (tmp_path / "m" / name).read_bytes()
    assert (tmp_path / "m" / "config.json").read_text() == """{
  "hidden_dim": [
    8,
    4
  ],
  "input_dim": 12,
  "learning_rate": 0.001,
  "model_type": "rqvae",
  "weights": {
    "crc32": CRC,
    "file": "NAME",
    "options": OPTIONS
  }
}
""".replace("CRC", str(zlib.crc32(written))).replace("NAME", name).replace("OPTIONS", str(zlib.crc32(
        b'{"hidden_dim": [8, 4], "input_dim": 12, "learning_rate": 0.001, "model_type": "rqvae"}')))


def test_saving_again_in_another_format_leaves_no_stale_weights(tmp_path, safe):
    save_folder(tmp_path, CONFIG, {"a": torch.zeros(1)}, safe_serialization=False)
    (tmp_path / "model.safetensors").write_bytes(b"old")
    save_folder(tmp_path, CONFIG, {"a": torch.ones(1)}, safe_serialization=safe)
    assert len(os.listdir(tmp_path)) == 2 and load_folder(tmp_path)[1]["a"] == 1


def without_safetensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)


def test_without_safetensors_a_torch_file_is_the_default(tmp_path, monkeypatch):
    without_safetensors(monkeypatch)
    save_folder(tmp_path / "m", CONFIG, {"a": torch.zeros(1)})
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "pytorch_model.bin"]
    with pytest.raises(ImportError,
                       match="safe_serialization=True needs the package safetensors: pip install"):
        save_folder(tmp_path / "n", CONFIG, {}, safe_serialization=True)
    assert not (tmp_path / "n").exists()
    (tmp_path / "m" / "pytorch_model.bin").rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(ImportError,
                       match="model.safetensors needs the package safetensors: pip insta"):
        load_folder(tmp_path / "m")


def test_with_safetensors_it_is_the_default(tmp_path):
    pytest.importorskip("safetensors")
    save_folder(tmp_path, CONFIG, {"a": torch.zeros(1)})
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError,
                       match="model.safetensors is no usable safetensors file: starts with"):
        load_folder(tmp_path)


def test_a_folder_that_is_none_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="modell not found; did you mean model?"):
        (tmp_path / "model").mkdir()
        load_folder(tmp_path / "modell")
    with pytest.raises(FileNotFoundError,
                       match="config.json not found; expected a folder written by save_pretr"):
        load_folder(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError,
                       match="holds neither model.safetensors nor pytorch_model.bin; expected"):
        load_folder(tmp_path / "model")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError,
                       match="file is a file; expected a folder with config.json and weights"):
        load_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="file is a file; a model is saved as a folder"):
        save_folder(tmp_path / "file", CONFIG, {})


@pytest.mark.parametrize("text, words", [
    ("", "is not JSON: the file is empty"), ("<html>", "is not JSON: this is an HTML page"),
    ("[" * 100_000, "is not JSON: this looks like JSON text"),
    ("[1]", "holds a list, expected an object of constructor arguments")])
def test_a_config_that_is_none_says_so(tmp_path, text, words):
    save_folder(tmp_path, CONFIG, {"a": torch.zeros(1)}, safe_serialization=False)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"config.json {words}"):
        load_folder(tmp_path)


def test_names_with_an_underscore_in_a_config_are_ignored_and_nan_is_not_json(tmp_path):
    save_folder(tmp_path, {**CONFIG, "_name_or_path": "x"}, {"a": torch.zeros(1)},
                safe_serialization=False)
    assert load_folder(tmp_path)[0] == CONFIG
    with pytest.raises(ValueError, match="JSON"):
        save_folder(tmp_path / "n", {"lr": float("nan")}, {})
    assert not (tmp_path / "n").exists()


class Calls:
    """Pickles as a command of the shell."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_model_folder_is_refused(tmp_path):
    save_folder(tmp_path, CONFIG, {"a": torch.zeros(1)}, safe_serialization=False)
    torch.save({"a": Calls(f"touch {tmp_path / 'ran'}")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError,
                       match="pytorch_model.bin asks for .*system, which could run code"):
        load_folder(tmp_path)
    assert not (tmp_path / "ran").exists()


def small():
    return RqVae(12, 16, 8, 32, num_quantizers=2)


def test_a_card_lies_beside_the_model_and_one_written_by_hand_stays(tmp_path):
    small().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "2 levels of 32 codes" in card and "| `latent_dim` | 8 |" in card and card.startswith("---\nlibrary_name: rqvae\n")
    (tmp_path / "README.md").write_text("mine")
    small().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_model_of_the_hub_is_fetched_by_name(tmp_path, monkeypatch):
    model = small()
    model.save_pretrained(tmp_path / "fetched")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "me/tokenizer":
            raise ValueError("404 Client Error\nmore")
        return str(tmp_path / "fetched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    loaded = RqVae.from_pretrained("me/tokenizer")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert asked == [("me/tokenizer", ["config.json", "model.safetensors", "pytorch_model.bin"])]
    with pytest.raises(FileNotFoundError, match=r"there is no folder me/other, and .* hub \(404 Client Error\)$"):
        RqVae.from_pretrained("me/other")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="there is no folder me/tokenizer; .* pip install huggingface_hub"):
        RqVae.from_pretrained("me/tokenizer")
    for path in ("nothing", "/a/b", "a/b/c", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="not found"):
            RqVae.from_pretrained(path)
