"""What a catalogue of 100 to 1,000,000 items costs and gives: train.py and infer.py with nothing chosen, one CPU thread.

    python tests/benchmarks/bench_sizes.py [--sizes 100 3700 20000] [--folder FOLDER] [-- more train.py options]

The items are made here: 384 columns, kinds of Zipf's frequencies in families, and what is special to an item in few
directions, of unit length. CPU seconds and memory are those of the two commands, from start to end.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

import numpy as np

ROOT = Path(__file__).parents[2]
WIDTH, FAMILIES, KINDS, DIRECTIONS = 384, 60, 20_000, 128
VARIANTS = 0.15     # share of the items that are hardly more than their kind
ROWS = 20_000       # made at once


def items(count, seed=0):
    """(rows, WIDTH) float32 blocks of one endless catalogue, so that a larger one begins with the smaller."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, WIDTH + 1) ** -0.25                              # columns turned to their principal directions
    families = generator.normal(size=(FAMILIES, WIDTH)) * spectrum
    kinds = families[generator.integers(FAMILIES, size=KINDS)] + 0.8 * generator.normal(size=(KINDS, WIDTH)) * spectrum
    special = generator.normal(size=(DIRECTIONS, WIDTH)) * spectrum * (np.arange(1, DIRECTIONS + 1) ** -0.25)[:, None]
    turn = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0]
    often = np.cumsum(1 / np.arange(1, KINDS + 1))                          # Zipf
    for start in range(0, count, ROWS):
        draws = np.random.default_rng([seed, start])
        kind = np.searchsorted(often, often[-1] * draws.random(ROWS))
        own = np.where(draws.random((ROWS, 1)) < VARIANTS, 0.05, 0.25)
        rows = kinds[kind] + own * draws.normal(size=(ROWS, DIRECTIONS)) @ special \
            + own * draws.normal(size=(ROWS, WIDTH)) * spectrum
        rows = (rows @ turn)[:count - start]
        yield (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_items(path, count):
    """A .npy, block by block: what this process has in memory would count as its children's."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, WIDTH)})
        for block in items(count):
            file.write(block.tobytes())


def command(*words):
    """(what it said, CPU seconds, peak memory in bytes) of `python ...`."""
    with tempfile.TemporaryFile("w+") as noise:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=noise, text=True)
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            noise.seek(0)
            sys.exit(noise.read())
    return said, used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(count, folder, options):
    data, run = folder / f"items_{count}.npy", folder / f"run_{count}"
    if not data.exists():
        write_items(data, count)
    said, trained, most = command(ROOT / "train.py", "--data", data, "--checkpoint-dir", run, "--overwrite", "--device", "cpu",
                                  *options)
    _, encoded, again = command(ROOT / "infer.py", "--ckpt", run / "best.ckpt", "--output", run / "ids.npy", "--overwrite",
                                   "--device", "cpu")
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "items": f"{count:,}",
        "epochs": len(history),
        "rel mse": re.search(r"reconstruction error: ([\d.]+|nan)", said)[1],
        "used": "/".join(re.findall(r"^ *\d+ +(\d+) +\d+ +[\d.]+$", said, re.MULTILINE)),
        "collisions": re.search(r"collision rate: ([\d.]+ %)", said)[1],
        "train": f"{trained:.0f} s",
        "infer": f"{encoded:.0f} s",
        "memory": f"{most / 1e9:.2f} / {again / 1e9:.2f} GB",
        "held out, by epoch": " ".join(f"{row['val_recon_loss'] * WIDTH:.3f}" for row in history if "val_recon_loss" in row),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 3700, 20_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="keep the items and the runs here")
    arguments, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for count in arguments.sizes:
            found = measure(count, folder, options)
            print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
