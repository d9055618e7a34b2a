"""Bits flipped and files cut at random offsets, by the thousand: never another content in silence where
the format has checksums, never half a file, never an exception that is not ours."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from samples import clustered
from rqvae import FeatureLoader, RqVae, fit, open_features
from rqvae.storage.checkpoint import CheckpointError, load_checkpoint
from rqvae.run_state import RunState
from test_faults import _equal

pytestmark = pytest.mark.campaign
TRIES = 1000


def flips(whole, generator):
    for _ in range(TRIES):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        yield bytes(damaged)


def cuts(whole, generator):
    for _ in range(TRIES):
        yield whole[:generator.randrange(len(whole))]


@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_checkpoint_is_refused_or_says_what_it_said(tmp_path, damage):
    rows = clustered(60)
    model = RqVae(12, 8, 4, 8, num_quantizers=2)
    loader = FeatureLoader(rows, 16)
    fit(model, loader, loader, max_epochs=2, device="cpu", checkpoint_dir=tmp_path, progress=False)
    whole, path = (tmp_path / "last.ckpt").read_bytes(), tmp_path / "damaged.ckpt"
    original, seen = load_checkpoint(tmp_path / "last.ckpt"), {"refused": 0, "as it was": 0}
    for content in damage(whole, random.Random(1)):
        path.write_bytes(content)
        try:
            assert _equal(load_checkpoint(path), original), "another content was read in silence"
            RqVae.load_from_checkpoint(path)
            RunState(model, loader, loader).restore(path)
            seen["as it was"] += 1
        except CheckpointError as error:
            assert str(path) in str(error)
            seen["refused"] += 1
    print(f"\ncheckpoints, {damage.__name__}: {seen}")
    assert sum(seen.values()) == TRIES and (damage is flips or seen["as it was"] == 0)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("damage", [flips, cuts])
def test_a_damaged_feature_file_is_refused_or_read_whole(tmp_path, suffix, damage):
    rows = clustered(60).numpy()
    whole, path = written(tmp_path / f"whole{suffix}", rows), tmp_path / f"damaged{suffix}"
    seen = {"refused": 0, "as it was": 0, "other numbers": 0}
    for content in damage(whole, random.Random(2)):
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                table = open_features(path)
                found = table.rows(slice(None)).numpy()
                table.check()
            seen["as it was" if np.array_equal(found, rows) else "other numbers"] += 1
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            seen["refused"] += 1
    print(f"\n{suffix}, {damage.__name__}: {seen}")
    assert sum(seen.values()) == TRIES
    # .npy and .safetensors have no checksum of their numbers: a flipped bit of one cannot be seen.
    assert damage is flips or seen["other numbers"] == 0
    assert suffix not in (".npz", ".pt") or seen["other numbers"] == 0


def written(path, rows):
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, rows)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(rows), path)
    else:
        header = b'{"a":{"dtype":"F32","shape":[60,12],"data_offsets":[0,2880]}}'
        Path(path).write_bytes(len(header).to_bytes(8, "little") + header + rows.tobytes())
    return path.read_bytes()
