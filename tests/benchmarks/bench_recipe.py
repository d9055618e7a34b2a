"""What each part of the recipe is worth to a recommender, and to new items: one change at a time.

    python tests/benchmarks/bench_recipe.py --data items.npy --sequences sequences.npz [--part valid] [--seeds 0 1 2] [--only NAME ...]

Each variant is trained on all items with each seed, its IDs are made unique and a recommender is trained on them, see
bench_recommender.py, which also says what --sequences holds. With a tenth held out it is trained once more, for the
relative MSE of new items. The intervals, 95 %, are over users; two trainings of one recipe differ by .004 besides.
"""

import argparse
import contextlib
import functools
from unittest import mock

import numpy as np
import torch

from bench_ids import relative_mse, trained
from bench_recommender import read_split
from rqvae import FeatureLoader, batch_inference, resolve_collisions
from rqvae.collisions import collision_report
from rqvae.inference import evaluating
from rqvae.recipe import assignment, presets
from rqvae.report.judging import half_interval, judge

Balanced = assignment.BalancedAssignment


def model(**options):
    return mock.patch.dict(presets.MODEL, options)


def assigning(**options):
    return mock.patch.object(presets, "BalancedAssignment", functools.partial(Balanced, **options))


def constant(**values):
    return mock.patch.multiple(presets, **values)


VARIANTS = {
    "the recipe": contextlib.nullcontext,
    "no prices": lambda: assigning(rate=0.0),
    "no pull on colliding items": lambda: assigning(pull=0.0),
    "no neighbours mixed in": lambda: constant(MOST_NUMBERS=0),
    "no linear path": lambda: model(linear_path=False),
    "no norm of the latents": lambda: model(latent_norm=False),
    "plain k-means at the start": lambda: constant(BALANCE=None),
    "weight decay .1": lambda: constant(WEIGHT_DECAY=0.1),
    "latent width 64": lambda: constant(LATENT_DIM=64),
    "one hidden layer of 1024": lambda: model(hidden_dim=[1024]),
    "2 epochs": contextlib.nullcontext,
    "30 epochs": contextlib.nullcontext,
    "fine": contextlib.nullcontext,
}
OPTIONS = {"2 epochs": ["--epochs", "2"], "30 epochs": ["--epochs", "30"], "fine": ["--preset", "fine"]}


def codes_of(model, features):
    """(N, L) bare codes, and the same made unique."""
    codes = batch_inference(model, FeatureLoader(features, 1024), "cpu")
    with evaluating(model):
        latents = model.encode(features)
    return codes, resolve_collisions(codes, latents, model.quantizer.codebooks).codes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sequences", required=True, metavar="NPZ")
    parser.add_argument("--part", choices=["both", "valid", "test"], default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    arguments.interactions = None
    torch.set_num_threads(1)
    features = torch.from_numpy(np.load(arguments.data)).float()
    split = read_split(arguments, len(features), None)
    order = np.random.default_rng(99).permutation(len(features))
    out, kept = order[:len(order) // 10], order[len(order) // 10:]
    first = None
    print("R@10 | NDCG@10 | R@10 - first | new items | collisions before the move | CPU s")
    for name in arguments.only:
        with VARIANTS[name]():
            found, collisions, seconds = [], [], []
            for seed in arguments.seeds:
                tokenizer, spent = trained(features, seed, [*OPTIONS.get(name, []), *options])
                codes, unique = codes_of(tokenizer, features)
                found.append(judge(np.pad(unique, ((0, 0), (0, 1))), split, [seed]))        # and an end-of-item token
                collisions.append(collision_report(codes)["collision_rate"])
                seconds.append(spent)
            tokenizer, _ = trained(features[kept], arguments.seeds[0], [*OPTIONS.get(name, []), *options])
            new = relative_mse(tokenizer, features[out], codes_of(tokenizer, features[out])[0], features[kept].mean(dim=0))
        recall, ndcg = (np.mean([getattr(each, what) for each in found], axis=0) for what in ("recall", "ndcg"))
        first = recall if first is None else first
        print(f"{name} | {recall.mean():.4f} ± {half_interval(recall, split.user):.4f} | {ndcg.mean():.4f} | "
              f"{(recall - first).mean():+.4f} ± {half_interval(recall - first, split.user):.4f} | {new:.3f} | "
              f"{np.mean(collisions):.3f} | {np.mean(seconds):.1f}", flush=True)


if __name__ == "__main__":
    main()
