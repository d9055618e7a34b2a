"""Data that people have and nobody advertises: corrupt rows, odd columns, narrow or tiny features. How many distinct
IDs does the default preset through train.py give after a few epochs, beside residual k-means on the same rows?

    python tests/benchmarks/bench_odd_data.py [--epochs 10] [--only WORDS] [-- more train.py options]
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

import train
from rqvae import FeatureLoader, RqVae, batch_inference, open_features
from rqvae.collisions import collision_report
from rqvae.functional import nearest_codes
from rqvae.recipe.clustering import kmeans

ITEMS, WIDTH = 1000, 32


def clean(seed=0, items=ITEMS, width=WIDTH):
    """Unit rows around forty centres, as sentence embeddings are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, width))
    rows = centres[generator.integers(40, size=items)] + 0.7 * generator.normal(size=(items, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def with_rows(factor, count=1):
    rows = clean()
    rows[:: len(rows) // count][:count] *= factor
    return rows


def with_saturated_row():
    rows = clean().astype(np.float16)
    rows[7] = np.sign(rows[7].astype(np.float32)) * 65504
    return rows


def beside(*columns):
    return np.concatenate([clean(), *[column.reshape(ITEMS, -1).astype(np.float32) for column in columns]], axis=1)


def dominated():
    """Nine items in ten within a hundredth of one point."""
    generator = np.random.default_rng(1)
    rows = clean()
    rows[:900] = rows[0] + 0.01 * generator.normal(size=(900, WIDTH))
    return rows[generator.permutation(ITEMS)]


def odd_data():
    generator = np.random.default_rng(2)
    normal = generator.normal(size=(ITEMS, 64))
    prices = np.exp(3 + generator.normal(size=ITEMS))
    sparse = generator.random((ITEMS, WIDTH)) < 0.2
    yield "clean", clean()
    yield "one row times 1e5", with_rows(1e5)
    yield "one row times 1e3", with_rows(1e3)
    yield "1 % of rows times 1e3", with_rows(1e3, 10)
    yield "1 % of rows not normalised, times 20", with_rows(20, 10)
    yield "10 % of rows times 100", with_rows(100, 100)
    yield "one half-precision row saturated", with_saturated_row()
    yield "one number is 1e9", np.where(np.arange(ITEMS * WIDTH).reshape(ITEMS, WIDTH) == 77, 1e9, clean()).astype(np.float32)
    yield "a price column", beside(prices)
    yield "a price and a date column", beside(prices, 1.6e9 + 1e7 * generator.random(ITEMS))
    yield "all columns of other units", (normal[:, :16] * 10.0 ** generator.integers(-3, 4, size=16)).astype(np.float32)
    yield "1 column", normal[:, :1].astype(np.float32)
    yield "1 column of prices", prices[:, None].astype(np.float32)
    yield "2 columns", normal[:, :2].astype(np.float32)
    yield "3 columns", normal[:, :3].astype(np.float32)
    yield "rank 1 in 64 columns", (normal[:, :1] @ normal[:1]).astype(np.float32)
    yield "rank 3 in 64 columns", (normal[:, :3] @ normal[:3]).astype(np.float32)
    yield "times 1e-21", clean() * np.float32(1e-21)
    yield "times 1e-25", clean() * np.float32(1e-25)
    yield "times 1e-40, denormal", clean() * np.float32(1e-40)
    yield "times 1e12", clean() * np.float32(1e12)
    yield "far from the origin", clean() + np.float32(100)
    yield "half precision, times 6e4", (clean() * 6e4).astype(np.float16)
    yield "half precision, times 1e-6", (clean() * 1e-6).astype(np.float16)
    yield "binary columns", sparse.astype(np.float32)
    yield "one-hot, 3 x 12", np.eye(12, dtype=np.float32)[generator.integers(12, size=(ITEMS, 3))].reshape(ITEMS, -1)
    yield "counts", generator.poisson(np.exp(generator.normal(size=(ITEMS, WIDTH)))).astype(np.float32)
    yield "one cluster of 90 %", dominated()
    yield "heavy-tailed norms", (clean() * np.exp(2 * normal[:, :1])).astype(np.float32)
    yield "Cauchy", generator.standard_cauchy(size=(ITEMS, WIDTH)).astype(np.float32)
    yield "100 items", clean(items=100)
    yield "3 items", clean(items=3)


def residual_kmeans(rows, levels=3, codes=256):
    """Distinct IDs of 3 x 256 residual k-means in float32, on the rows from their mean and over one factor."""
    rows = torch.from_numpy(rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64))
    residual, ids = (rows / rows.abs().max()).float(), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(levels):
        codebook = kmeans(residual, codes, generator=generator)
        ids.append(nearest_codes(residual, codebook))
        residual = residual - codebook[ids[-1]]
    return collision_report(torch.stack(ids, dim=1))["distinct_ids"]


def ours(rows, options):
    """(distinct IDs and what was said, or how it failed)."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True):
        np.save(f"{folder}/items.npy", rows)
        argv = ["--data", f"{folder}/items.npy", "--checkpoint-dir", f"{folder}/run", "--val-fraction", "0",
                "--device", "cpu", *options]
        with contextlib.redirect_stderr(io.StringIO()) as noise, contextlib.redirect_stdout(io.StringIO()) as said:
            failed = train.main(argv)
        if failed:
            return None, noise.getvalue().strip().splitlines()[-1]
        model = RqVae.load_from_checkpoint(f"{folder}/run/best.ckpt").eval()
        codes = batch_inference(model, FeatureLoader(open_features(rows), 1024), "cpu")
    error = next((line for line in said.getvalue().splitlines() if line.startswith("reconstruction error")), "")
    return collision_report(codes)["distinct_ids"], error[len("reconstruction error: "):].split(" of ")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--only", default="", help="the rows whose name holds these words")
    arguments, options = parser.parse_known_args()
    options = ["--epochs", arguments.epochs, *(option for option in options if option != "--")]
    torch.set_num_threads(1)
    print(f"{'data':40} {'ours':>6} {'k-means':>8} {'rows that differ':>17}  error, seconds")
    for name, rows in odd_data():
        if arguments.only not in name:
            continue
        began = time.perf_counter()
        found, words = ours(rows, options)
        seconds = time.perf_counter() - began
        differ = len(np.unique(rows, axis=0))
        print(f"{name:40} {'-' if found is None else found:>6} {residual_kmeans(rows):>8} {differ:>17}  "
              f"{words}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
