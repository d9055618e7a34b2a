"""What each part of the recipe is worth: one change at a time, trained on all items and with a tenth held out.

    python tests/benchmarks/bench_recipe.py --data items.npy [--pairs pairs.npy] [--only NAME ...]
"""

import argparse
import contextlib
import functools
from unittest import mock

import numpy as np
import torch

from bench_ids import measure, show
from rqvae.recipe import assignment, presets

Balanced = assignment.BalancedAssignment


def model(**options):
    return mock.patch.dict(presets.MODEL, options)


def assigning(**options):
    return mock.patch.object(presets, "BalancedAssignment", functools.partial(Balanced, **options))


def constant(**values):
    return mock.patch.multiple(presets, **values)


VARIANTS = {
    "the recipe": contextlib.nullcontext,
    "no neighbours mixed in": lambda: constant(MOST_NUMBERS=0),
    "no linear path": lambda: model(linear_path=False),
    "no norm of the latents": lambda: model(latent_norm=False),
    "no prices": lambda: assigning(rate=0.0),
    "no pull on colliding items": lambda: assigning(pull=0.0),
    "plain k-means at the start": lambda: constant(BALANCE=None),
    "weight decay .1": lambda: constant(WEIGHT_DECAY=0.1),
    "latent width 64": lambda: constant(LATENT_DIM=64),
    "one hidden layer of 256": lambda: model(hidden_dim=[256]),
    "two hidden layers of 512": lambda: model(hidden_dim=512),
    "ReLU": lambda: model(activation="relu"),
    "learning rate .001": lambda: model(learning_rate=1e-3),
    "codebooks by moving average": lambda: model(ema_decay=0.99),
    "rotation trick": lambda: model(rotation_trick=True),
    "dead codes restarted": lambda: model(restart_below=0.1),
    "Sinkhorn on the last level": lambda: mock.patch.object(
        presets, "BalancedAssignment", lambda *args: assignment.SinkhornAssignment()),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    features = torch.from_numpy(np.load(arguments.data)).float()
    pairs = None if arguments.pairs is None else np.load(arguments.pairs)
    order = np.random.default_rng(99).permutation(len(features))
    out, kept = order[:len(order) // 10], order[len(order) // 10:]
    for name in arguments.only:
        with VARIANTS[name]():
            print(f"{name} | all | {show(measure(features, None, pairs, arguments.seed, []))}", flush=True)
            print(f"{name} | held out | {show(measure(features[kept], features[out], None, arguments.seed, []))}",
                  flush=True)


if __name__ == "__main__":
    main()
