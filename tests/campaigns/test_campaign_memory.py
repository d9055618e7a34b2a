"""A 20 GB file under a memory limit of 2 GB: looked at, trained on, encoded. Prints memory and speed with `-s`."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from test_faults import environment

pytestmark = pytest.mark.campaign
LIMIT = 2 * 10**9                   # bytes of address space, of which Python with torch takes 0.6 GB at the start
WIDTH = 768
SCRIPT = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
import infer, train
began = time.perf_counter()
code = {"train": train, "infer": infer}[sys.argv[2]].main(sys.argv[3:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps([code, peak, time.perf_counter() - began]))
"""


def sparse_features(path, size):
    """A .npy of `size` bytes of which little is on disk: zeros, but for 64 rows in each 16,384."""
    rows = size // (4 * WIDTH)
    table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    table.flush()
    del table
    generator = np.random.default_rng(0)
    with open(path, "r+b") as file:
        start = os.path.getsize(path) - rows * WIDTH * 4
        for row in range(0, rows, 16384):
            count = min(64, rows - row)
            file.seek(start + row * WIDTH * 4)
            file.write(generator.standard_normal((count, WIDTH), np.float32).tobytes())
    return rows


def limited(script, *argv, limit=LIMIT):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(limit), script, *argv], env=environment(), text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    code, peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return code, peak, seconds, done.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    if not hasattr(resource, "RLIMIT_AS"):
        pytest.skip("this system cannot limit memory")
    folder = tmp_path_factory.mktemp("large")
    rows = sparse_features(folder / "large.npy", 20 * 10**9)
    yield folder, rows
    (folder / "large.npy").unlink()


MODEL = ["--hidden-dim", "16", "--latent-dim", "8", "--num-embeddings", "16", "--batch-size", "8192"]


@pytest.mark.parametrize("preset", ["documented", "tiger"])
def test_a_file_of_20_gb_is_trained_on_in_2_gb(large, monkeypatch, preset):
    folder, rows = large
    monkeypatch.chdir(folder)
    code, peak, seconds, err = limited("train", "--data", "large.npy", "--preset", preset, "--epochs", "1",
                                       "--checkpoint-dir", preset, "--val-fraction", "0.001", *MODEL)
    print(f"\ntrain.py --preset {preset}: {rows:,} rows, {os.path.getsize('large.npy') / 1e9:.1f} GB: peak "
          f"{peak / 1e6:.0f} MB, {seconds:.0f} s, {rows / seconds:,.0f} rows/s over check, epoch and report")
    assert code == 0, err[-2000:]
    assert peak < LIMIT


def encoded(folder, monkeypatch, *options):
    """Peak bytes and seconds of `infer.py` on the large file."""
    monkeypatch.chdir(folder)
    if not Path("documented/best.ckpt").exists():
        pytest.skip("nothing was trained")
    code, peak, seconds, err = limited("infer", "--ckpt", "documented/best.ckpt", "--data", "large.npy", *options)
    assert code == 0, err[-2000:]
    return peak, seconds


def test_a_quarter_of_a_file_of_20_gb_is_encoded_in_2_gb(large, monkeypatch):
    folder, rows = large
    peak, seconds = encoded(folder, monkeypatch, "--output", "parts.npy", "--shard", "1/4")
    print(f"\ninfer.py --shard 1/4: peak {peak / 1e6:.0f} MB, {seconds:.0f} s, {rows / 4 / seconds:,.0f} rows/s")
    assert peak < LIMIT / 2


def test_a_file_of_20_gb_is_encoded_in_2_gb(large, monkeypatch):
    folder, rows = large
    peak, seconds = encoded(folder, monkeypatch, "--output", "ids.npy")
    print(f"\ninfer.py: {rows:,} rows: peak {peak / 1e6:.0f} MB, {seconds:.0f} s, {rows / seconds:,.0f} rows/s")
    assert len(np.load("ids.npy", mmap_mode="r")) == rows and peak < LIMIT


def test_a_file_of_less_than_two_million_rows_is_trained_on_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sparse_features(tmp_path / "items.npy", 15 * 10**8)
    code, _, _, err = limited("train", "--data", "items.npy", "--epochs", "1", "--val-fraction", "0.001", *MODEL,
                              limit=22 * 10**8)
    assert code == 0, err[-2000:]
