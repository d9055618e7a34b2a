"""How good are the semantic IDs of a catalogue: the default preset through train.py, trained on all items and
with a tenth held out.

    python tests/benchmarks/bench_ids.py --data items.npy [--pairs pairs.npy] [--seeds 0 1 2] [-- more train.py options]
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

import train
from rqvae import FeatureLoader, RqVae, batch_inference, resolve_collisions
from rqvae.collisions import collision_report
from rqvae.evaluation import code_statistics
from rqvae.inference import evaluating
from rqvae.report.neighbours import neighbour_quality, shared_prefix_lift


def relative_mse(model, features, codes, mean):
    with torch.no_grad():
        return ((model.decode(codes) - features).square().sum() / (features - mean).square().sum()).item()


def trained(features, seed, options):
    """The model that train.py leaves, and the CPU seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/items.npy", features.numpy())
        argv = ["--data", f"{folder}/items.npy", "--checkpoint-dir", f"{folder}/run", "--seed", str(seed),
                "--val-fraction", "0", "--device", "cpu", *options]
        began = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            if train.main(argv):
                sys.exit(said.getvalue())
        return RqVae.load_from_checkpoint(f"{folder}/run/best.ckpt").eval(), time.process_time() - began


def measure(features, held_out, pairs, seed, options):
    model, seconds = trained(features, seed, options)
    row = {"cpu s": seconds}
    mean = features.mean(dim=0)
    codes = batch_inference(model, FeatureLoader(features, 1024), "cpu")
    statistics = code_statistics(codes, model.quantizer.num_embeddings)
    row["rel mse"] = relative_mse(model, features, codes, mean)
    if held_out is not None:
        new = batch_inference(model, FeatureLoader(held_out, 1024), "cpu")
        row["held out"] = relative_mse(model, held_out, new, mean)
    quality = neighbour_quality(model, features, codes)
    row["recall"] = f"{quality['recall_reconstruction']:.3f}/{quality['recall_item']:.3f}"
    row["used"] = "/".join(map(str, statistics["unique_codes_per_level"]))
    row["perplexity"] = "/".join(f"{value:.0f}" for value in statistics["perplexity_per_level"])
    row["collision"] = collision_report(codes)["collision_rate"]
    with evaluating(model):
        latents = model.encode(features)
    resolved = resolve_collisions(codes, latents, model.quantizer.codebooks)
    row["resolved"] = resolved.after["collision_rate"]
    row["+rel mse"] = relative_mse(model, features, torch.as_tensor(resolved.codes), mean) - row["rel mse"]
    if pairs is not None:
        row["lift"] = shared_prefix_lift(codes, pairs)
    return row


def show(row):
    return "  ".join(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", help="(P, 2) row numbers that belong together, .npy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split-seed", type=int, default=99, help="decides which tenth is held out")
    parser.add_argument("--only", choices=["all", "held-out"])
    arguments, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    torch.set_num_threads(1)
    features = torch.from_numpy(np.load(arguments.data)).float()
    pairs = None if arguments.pairs is None else np.load(arguments.pairs)
    order = np.random.default_rng(arguments.split_seed).permutation(len(features))
    out, kept = order[:len(order) // 10], order[len(order) // 10:]
    for seed in arguments.seeds:
        if arguments.only != "held-out":
            print(f"all items, seed {seed}:  {show(measure(features, None, pairs, seed, options))}", flush=True)
        if arguments.only != "all":
            print(f"10 % held out, seed {seed}:  {show(measure(features[kept], features[out], None, seed, options))}",
                  flush=True)


if __name__ == "__main__":
    main()
