"""train.py --from --keep: a catalogue that has grown, and IDs that stay."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import clustered
from test_faults import same_run, signalled
from rqvae import RqVae, load_semantic_ids

SIZES = ["--num-embeddings", "16", "--hidden-dim", "16", "--latent-dim", "8", "--batch-size", "32"]


@pytest.fixture
def published(tmp_path, monkeypatch, capsys):
    """Inside an empty folder: a model of 200 items, their IDs in pub.json, and 240 items in another order."""
    monkeypatch.chdir(tmp_path)
    rows = clustered(240).numpy()
    np.save("old.npy", rows[:200])
    np.save("old_ids.npy", np.arange(1000, 1200))
    order = np.random.default_rng(0).permutation(240)
    np.save("grown.npy", rows[order])
    np.save("grown_ids.npy", 1000 + order)
    assert train.main(["--data", "old.npy", "--item-ids", "old_ids.npy", "--epochs", "5", *SIZES]) == 0
    assert infer.main(["--unique", "--output", "pub.json"]) == 0
    capsys.readouterr()


KEEP = ["--from", "checkpoints/best.ckpt", "--keep", "pub.json", "--data", "grown.npy", "--checkpoint-dir", "grown"]


def test_published_items_are_held_and_published_again_exactly(published, capsys):
    assert train.main([*KEEP, "--item-ids", "grown_ids.npy", "--epochs", "10"]) == 0
    out = capsys.readouterr().out
    assert "200 items held to the IDs that pub.json gives" in out
    assert "published items that find their ID by themselves: " in out
    model = RqVae.load_from_checkpoint("grown/best.ckpt")
    before, order = load_semantic_ids("pub.json"), np.load("grown_ids.npy")
    found = model.generate_semantic_ids(torch.from_numpy(np.load("grown.npy"))).numpy()
    row_of = {str(item): row for row, item in enumerate(order)}
    again = found[[row_of[item] for item in before.item_ids]]
    assert (again == before.codes).all(axis=1).mean() > 0.75 and (again[:, 0] == before.codes[:, 0]).mean() > 0.95
    argv = ["--ckpt", "grown/best.ckpt", "--data", "grown.npy", "--item-ids", "grown_ids.npy", "--append-to", "pub.json"]
    assert infer.main([*argv, "--output", "all.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "200 of them are published already and keep their IDs" in out
    assert "these are other features" not in out            # new items are looked at in their own rows
    assert "new items and those that share their prefix:" in out
    together = load_semantic_ids("all.jsonl")
    assert (together.codes[:200] == before.codes).all() and len(np.unique(together.codes, axis=0)) == 240
    assert sorted(together.item_ids) == list(range(1000, 1240))


def test_without_item_ids_the_published_items_are_the_first_rows(published, capsys):
    np.save("rows.npy", clustered(240).numpy())
    assert infer.main(["--data", "old.npy", "--unique", "--output", "rows.json"]) == 0
    argv = ["--from", "checkpoints/best.ckpt", "--keep", "rows.json", "--data", "rows.npy", "--checkpoint-dir", "grown"]
    assert train.main([*argv, "--epochs", "1"]) == 0
    assert train.main(["--resume", "grown/last.ckpt", "--epochs", "2"]) == 0
    assert infer.main(["--ckpt", "grown/best.ckpt", "--report"]) == 0
    assert "items held out" in capsys.readouterr().out


@pytest.mark.parametrize("argv, words", [
    (["--from", "checkpoints/best.ckpt"], "--from and --keep go together"),
    ([*KEEP], "pub.json has item IDs, grown.npy has none"),
    ([*KEEP, "--item-ids", "grown_ids.npy", "--num-embeddings", "8"], "--num-embeddings is [8], checkpoints/best.ckpt has 16"),
    ([*KEEP, "--item-ids", "grown_ids.npy", "--preset", "documented"], "--keep goes with --preset tiger"),
])
def test_what_does_not_fit_is_refused_before_any_work(published, capsys, argv, words):
    assert train.main(["--data", "grown.npy", *argv] if "--data" not in argv else argv) == 2
    assert words in capsys.readouterr().err and not Path("grown").exists()


def test_a_run_that_keeps_and_is_stopped_goes_on_to_the_bit(published, monkeypatch):
    """Its rate is half of the old run's: taken for one that the user had changed, it was lowered once more."""
    argv = [*KEEP, "--item-ids", "grown_ids.npy", "--epochs", "2"]
    assert train.main([*argv, "--checkpoint-dir", "straight"]) == 0
    signalled(monkeypatch, "RqVae.training_step", signal.SIGTERM, 10)
    assert train.main(argv) == 143
    assert train.main(["--resume", "--checkpoint-dir", "grown"]) == 0
    assert same_run("grown", "straight")
