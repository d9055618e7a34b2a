"""CPU seconds of a whole command, start-up included, against what its IDs are worth: train.py with several options, that of
another checkout (--before), and faiss' residual quantizer, all in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_time_to_quality.py --data items.npy [--before FOLDER]

A tenth of the items is held out; "own" are the others. `--before` may be a checkout of 1.0.0, whose default was
100 epochs of a network of 1,024.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

FAISS = """
import sys, faiss, numpy as np
faiss.omp_set_num_threads(1)
own, new = np.load(sys.argv[1]), np.load(sys.argv[2])
quantizer = faiss.ResidualQuantizer(own.shape[1], 3, 8)
quantizer.max_beam_size = int(sys.argv[4])
quantizer.train(own)
np.savez(sys.argv[3], **{name: value for part, rows in (("own", own), ("new", new)) for codes in [quantizer.compute_codes(rows)]
                         for name, value in ((part + "_codes", codes), (part, quantizer.decode(codes)))})
"""
WAYS = {"--epochs 0": ["--epochs", "0"], "--epochs 2": ["--epochs", "2"], "default": [],
        **{f"fine, {epochs} epochs": ["--preset", "fine", "--epochs", str(epochs)] for epochs in (12, 16, 20)},
        "fine": ["--preset", "fine"], "fine, bfloat16": ["--preset", "fine", "--amp"], "closed": ["--preset", "closed"]}
BEFORE = {**{f"before, {epochs} epochs": ["--epochs", str(epochs)] for epochs in (2, 10, 20, 30, 40, 60, 80)},
          "before, its default": []}


def cpu_seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def recall(items, reconstructions, count=10):
    """Share of the nearest neighbours of each item that are so between reconstructions, too."""
    found = []
    for rows in (items, reconstructions):
        distances = ((rows ** 2).sum(1)[:, None] - 2 * rows @ rows.T + (rows ** 2).sum(1))
        np.fill_diagonal(distances, np.inf)
        found.append(np.argpartition(distances, count, axis=1)[:, :count])
    return np.mean([len(np.intersect1d(*pair)) / count for pair in zip(*found)])


def show(name, seconds, own, new, codes, said):
    mean = own.mean(axis=0)
    errors = [((there - rows) ** 2).sum() / ((rows - mean) ** 2).sum() for rows, there in zip((own, new), said)]
    distinct = len(np.unique(codes, axis=0))
    print(f"{name} | {seconds:.1f} | {errors[0]:.3f} | {errors[1]:.3f} | {recall(own, said[0]):.3f} | "
          f"{1 - distinct / len(codes):.3f} | {' '.join(str(len(np.unique(column))) for column in codes.T)}", flush=True)


def train(folder, name, checkout, options, own, new):
    from rqvae import RqVae
    seconds = cpu_seconds([sys.executable, f"{checkout}/train.py", "--data", f"{folder}/own.npy", "--checkpoint-dir",
                           f"{folder}/run", "--overwrite", "--val-fraction", "0", "--device", "cpu", *options])
    import torch
    model = RqVae.load_from_checkpoint(f"{folder}/run/best.ckpt")
    codes = [model.generate_semantic_ids(torch.from_numpy(rows)) for rows in (own, new)]
    with torch.no_grad():
        show(name, seconds, own, new, codes[0].numpy(), [model.decode(each).numpy() for each in codes])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--before", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", help="names of rows")
    arguments = parser.parse_args()
    items = np.load(arguments.data).astype(np.float32)
    order = np.random.default_rng(99).permutation(len(items))
    own, new = items[order[len(items) // 10:]], items[order[:len(items) // 10]]
    print("way | CPU s | error, own | error, new | neighbours | collisions | codes used")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/own.npy", own)
        np.save(f"{folder}/new.npy", new)
        for beam in (1, 5):
            name = f"faiss, beam {beam}"
            if not arguments.only or name in arguments.only:
                seconds = cpu_seconds([sys.executable, "-c", FAISS, f"{folder}/own.npy", f"{folder}/new.npy",
                                       f"{folder}/faiss.npz", str(beam)])
                found = np.load(f"{folder}/faiss.npz")
                show(name, seconds, own, new, found["own_codes"], [found["own"], found["new"]])
        plans = [(name, Path(__file__).parents[2], options) for name, options in WAYS.items()]
        plans += [(name, arguments.before, options) for name, options in BEFORE.items() if arguments.before]
        for name, checkout, options in plans:
            if not arguments.only or name in arguments.only:
                train(folder, name, checkout, options, own, new)


if __name__ == "__main__":
    main()
