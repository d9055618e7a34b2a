"""A tokenizer that knows what users did, from the commands: trained, encoded, checked, cut into parts, resumed, grown."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY, clustered
from rqvae import RqVae, load_semantic_ids, open_features
from rqvae.cli.console import StopSignals
from rqvae.items.blending import BlendedTable
from rqvae.items.interactions import read_interactions
from rqvae.storage.checkpoint import load_checkpoint

TAKEN = ["--interactions", "taken.jsonl"]


def write_taken(path, users, items, seed=0):
    draw = np.random.default_rng(seed)
    Path(path).write_text("".join(json.dumps(draw.integers(items, size=5).tolist()) + "\n" for _ in range(users)))


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Inside an empty folder: 200 items, what 40 users took of them, and a checkpoint trained on both."""
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    write_taken("taken.jsonl", 40, 200)
    assert train.main(["--data", "items.npy", *TAKEN, "--epochs", "2", *TINY]) == 0
    assert "and on what 40 users took" in capsys.readouterr().out
    return RqVae.load_from_checkpoint("checkpoints/best.ckpt")


def publish_and_grow():
    """IDs of the 200 items in old.json; the options that name 230, with what was taken since."""
    np.save("ids.npy", np.arange(500, 700))
    np.save("grown_ids.npy", np.arange(500, 730))
    assert infer.main(["--item-ids", "ids.npy", "--output", "old.json"]) == 0
    np.save("grown.npy", clustered(230).numpy())
    write_taken("later.jsonl", 90, 230)
    return ["--data", "grown.npy", "--item-ids", "grown_ids.npy", "--interactions", "later.jsonl"]


def codes_of(path):
    return load_semantic_ids(path).codes


def blended_rows():
    return BlendedTable(open_features("items.npy"), read_interactions("taken.jsonl", 200)).rows(slice(None))


def test_ids_are_of_the_blended_features_and_can_be_derived_again(told, capsys):
    assert infer.main(["--unique", "none"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert np.array_equal(codes_of("semantic_ids.json"), told.generate_semantic_ids(blended_rows()))
    assert infer.main(["--output", "unique.json"]) == 0
    assert infer.main(["--data", "items.npy", *TAKEN, "--output", "named.json"]) == 0
    assert np.array_equal(codes_of("named.json"), codes_of("unique.json"))
    capsys.readouterr()
    assert infer.main(["--verify", "unique.json"]) == 0
    assert "200 of 200 IDs are what checkpoints/best.ckpt and items.npy with taken.jsonl give" in capsys.readouterr().out
    assert infer.main(["--report"]) == 0
    out, err = capsys.readouterr()
    assert "What users did: 40 users took" in out and "its figures flatter them" in err
    capsys.readouterr()
    assert infer.main(["--ids", "unique.json", "--report", *TAKEN]) == 0
    assert "flatter" not in capsys.readouterr().err


def test_items_by_their_own_features_alone_get_their_ids_and_it_is_said(told, capsys):
    assert infer.main(["--data", "items.npy", "--unique", "none", "--output", "own.npy"]) == 0
    assert "these items are encoded by their own alone, as if nobody had taken them" in capsys.readouterr().err
    assert np.array_equal(np.load("own.npy"), told.generate_semantic_ids(clustered(200)))


def test_other_interactions_at_the_same_place_are_refused(told, capsys):
    write_taken("taken.jsonl", 40, 200, seed=1)
    assert infer.main([]) == 2
    err = capsys.readouterr().err
    assert "items.npy with taken.jsonl does not hold the features any more" in err and not Path("semantic_ids.json").exists()
    assert train.main(["--resume", "--epochs", "3"]) == 2
    assert "items.npy with taken.jsonl has other features than" in capsys.readouterr().err
    Path("taken.jsonl").unlink()
    assert infer.main([]) == 2
    assert "taken.jsonl, which checkpoints/best.ckpt was trained on, is not here" in capsys.readouterr().err


def test_parts_are_those_of_one_process(told, capsys):
    np.save("more.npy", clustered(2200).numpy())
    write_taken("of_more.jsonl", 300, 2200)
    named = ["--data", "more.npy", "--interactions", "of_more.jsonl"]
    for part in ("1/2", "2/2"):
        assert infer.main([*named, "--shard", part, "--output", "parts.json"]) == 0
    assert infer.main([*named, "--merge", "--output", "parts.json"]) == 0
    assert infer.main([*named, "--output", "whole.json"]) == 0
    assert np.array_equal(codes_of("parts.json"), codes_of("whole.json"))


def test_a_grown_catalogue_keeps_its_ids_whatever_was_taken_since(told, capsys):
    grown = publish_and_grow()
    assert infer.main([*grown, "--append-to", "old.json", "--output", "all.json"]) == 0
    assert np.array_equal(codes_of("all.json")[:200], codes_of("old.json")) and len(codes_of("all.json")) == 230
    assert infer.main(["--verify", "all.json"]) == 0


def test_a_retraining_keeps_published_ids_with_what_was_taken_since(told, capsys):
    grown = publish_and_grow()
    assert train.main([*grown, "--from", "checkpoints/best.ckpt", "--keep", "old.json", "--checkpoint-dir", "next", "--epochs", "2"]) == 0
    assert "200 items held to the IDs" in capsys.readouterr().out
    assert infer.main(["--ckpt", "next/best.ckpt", "--append-to", "old.json", *grown, "--output", "all.json"]) == 0
    assert np.array_equal(codes_of("all.json")[:200], codes_of("old.json"))


def test_interactions_without_a_use_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(60).numpy())
    write_taken("taken.jsonl", 9, 60)
    assert train.main(["--data", "items.npy", "--epochs", "1", *TINY]) == 0
    assert infer.main(["--data", "items.npy", *TAKEN]) == 2
    assert "--interactions needs --report, as checkpoints/best.ckpt was trained without them" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_weights(told, monkeypatch):
    run = ["--data", "items.npy", *TAKEN, "--epochs", "4", *TINY, "--checkpoint-dir"]
    assert train.main([*run, "straight"]) == 0
    stop = iter([False] * 13)                   # in the third epoch
    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "__call__", lambda self: setattr(self, "number", signal.SIGINT) or next(stop, True))
        assert train.main([*run, "cut"]) == 130
    assert train.main(["--resume", "--checkpoint-dir", "cut"]) == 0
    cut, straight = (load_checkpoint(f"{folder}/last.ckpt")["state_dict"] for folder in ("cut", "straight"))
    assert all(torch.equal(cut[name], value) for name, value in straight.items())
