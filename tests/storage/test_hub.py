"""The card in a model folder, and a folder that is fetched by its name: by hand-made clients, no network."""

import sys
import types

import pytest
import torch

from rqvae import RqVae


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
