"""The command line of infer.py: what it writes, what it shows, and how it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from items import clustered
from rqvae import RqVae, load_semantic_ids
from test_train import TINY


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """Inside an empty folder: 200 items in items.npy and a checkpoint trained on them."""
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    assert train.main(["--data", "items.npy", "--epochs", "2", *TINY]) == 0
    capsys.readouterr()
    return RqVae.load_from_checkpoint("checkpoints/best.ckpt")


def refused(argv, capsys, code=2):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert infer.main(argv) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return lines[0]


def test_one_id_an_item_in_row_order_in_lc_rec_s_form(trained, capsys):
    assert infer.main(["--ckpt"]) == 0
    index = json.loads(Path("semantic_ids.json").read_text())
    codes = trained.generate_semantic_ids(clustered(200))
    assert list(index) == [str(row) for row in range(200)]
    assert index["17"] == [f"<{letter}_{code}>" for letter, code in zip("abc", codes[17].tolist())]
    out = capsys.readouterr().out
    for word in ("Encoding 200 items", "codes used", "perplexity", "collision rate", "items that share a prefix",
                 "wrote 200 semantic IDs to semantic_ids.json"):
        assert word in out


@pytest.mark.parametrize("suffix", [".json", ".npy", ".jsonl"])
def test_every_output_form_holds_the_same_ids(trained, suffix):
    assert infer.main(["--ckpt", "--output", f"out/ids{suffix}"]) == 0
    expected = trained.generate_semantic_ids(clustered(200)).numpy()
    assert np.array_equal(load_semantic_ids(f"out/ids{suffix}").codes, expected)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_other_feature_files_are_read(trained, suffix):
    rows = clustered(60, seed=3)
    np.savez("new.npz", rows=rows.numpy())
    torch.save(rows, "new.pt")
    assert infer.main(["--ckpt", "--data", f"new{suffix}", "--output", "ids.npy"]) == 0
    assert np.array_equal(np.load("ids.npy"), trained.generate_semantic_ids(rows).numpy())


def test_the_ids_do_not_depend_on_the_batch_size(trained):
    for batch_size in ("1", "33", "4096"):
        infer.main(["--ckpt", "--output", f"{batch_size}.npy", "--batch-size", batch_size])
    first, *others = (np.load(f"{batch_size}.npy") for batch_size in ("1", "33", "4096"))
    assert all(np.array_equal(first, other) for other in others)


def test_item_ids_become_the_keys_and_the_names_that_are_shown(trained, capsys):
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in range(200)))
    assert infer.main(["--ckpt", "--item-ids", "ids.txt", "--output", "named.json"]) == 0
    assert list(json.loads(Path("named.json").read_text()))[3] == "item-3"
    assert "item-" in capsys.readouterr().out


def test_an_existing_output_is_refused_before_any_work_unless_overwritten(trained, capsys):
    Path("semantic_ids.json").write_text("precious")
    message = refused(["--ckpt"], capsys)
    assert "semantic_ids.json exists" in message and "--overwrite" in message
    assert infer.main(["--ckpt", "--overwrite"]) == 0
    assert len(json.loads(Path("semantic_ids.json").read_text())) == 200


def test_another_width_is_refused_before_any_output(trained, capsys):
    np.save("wide.npy", np.zeros((5, 20), dtype=np.float32))
    message = refused(["--ckpt", "--data", "wide.npy"], capsys)
    assert "the features have 20 columns, checkpoints/best.ckpt expects 12" in message
    assert not os.path.exists("semantic_ids.json")


@pytest.mark.parametrize("content, words", [
    (b"", "empty"),
    (b"<!DOCTYPE html><html>", "HTML page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
])
def test_a_file_that_is_no_checkpoint_is_told_for_what_it_is(trained, capsys, content, words):
    Path("other.ckpt").write_bytes(content)
    message = refused(["--ckpt", "other.ckpt"], capsys)
    assert "other.ckpt" in message and words in message


def test_a_missing_checkpoint_is_answered_with_similar_names(trained, capsys):
    assert "best.ckpt" in refused(["--ckpt", "checkpoints/bets.ckpt"], capsys)


def test_a_row_that_is_not_a_number_is_refused(trained, capsys):
    rows = clustered(30).numpy()
    rows[11, 3] = np.inf
    np.save("bad.npy", rows)
    assert "11" in refused(["--ckpt", "--data", "bad.npy"], capsys)


@pytest.mark.parametrize("argv, words", [
    (["--ckpt", "--output", "ids.csv"], "--output is ids.csv; its suffix must be .json, .npy or .jsonl"),
    (["--ckpt", "--batch-size", "0"], "--batch-size is 0, must be 1 or more"),
    (["--ckpt", "--batchsize", "4"], "did you mean --batch-size?"),
    (["--ckpt", "--output", "."], "is a folder"),
])
def test_bad_options_are_one_sentence(trained, capsys, argv, words):
    assert words in refused(argv, capsys)


def test_weights_without_notes_need_the_data_named(trained, capsys):
    from rqvae.checkpoint import build_checkpoint, save_checkpoint
    save_checkpoint(build_checkpoint(epoch=0, global_step=0, state_dict=trained.state_dict(),
                                     hyper_parameters=trained.hyper_parameters), "bare.ckpt")
    assert "does not say what it was trained on; name the items by --data" in refused(["--ckpt", "bare.ckpt"], capsys)
    assert infer.main(["--ckpt", "bare.ckpt", "--data", "items.npy"]) == 0
