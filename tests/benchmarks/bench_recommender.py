"""Which IDs let a recommender recommend better? A small one is trained on each file alike, beside built-in baselines.

    python tests/benchmarks/bench_recommender.py a.npy b.json --sequences sequences.npz [--features items.npy] [--seeds 3]
    python tests/benchmarks/bench_recommender.py a.npy b.json --interactions inter.json [--features items.npy]

ID files are ours or other systems', an ID for each item; the first is the one that others are compared with. All get the
same number of tokens an item, by constant ones at the end: one more token is worth some per cent by itself.

--interactions: each user's last item is what has to be recommended, the items before it are trained on.
--sequences: an .npz with a split of your own: `train` (U, T) rows of items, oldest first, -1 after the last; and
`valid_history` (R, T), `valid_target` (R,), `valid_user` (R,), and the same for `test`. Choose by --part valid.

Baselines: random IDs, the most taken items (no IDs); and with --features residual k-means, plain and balanced, faiss'
residual quantizer where faiss is installed, all with the nearest free code, and the neighbours in content of what the
user took (no IDs). Half to one CPU-minute a row and seed for 3,000 users. The intervals, 95 %, are over users: two
trainings of one tokenizer differ by .001 to .003 besides.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from rqvae import open_features, resolve_collisions
from rqvae.functional import balancing_potentials, nearest_codes, squared_distances
from rqvae.recipe.clustering import kmeans
from rqvae.ids.imports import import_semantic_ids
from rqvae.items.interactions import read_interactions
from rqvae.report.judging import (Scores, Split, content_neighbours, half_interval, judge, leave_last_out, popularity,
                                  times_taken)


def residual_kmeans(features, levels, num_codes, *, balance=None, seed=0):
    """(N, L) IDs without collisions."""
    generator, residual, codes, codebooks = torch.Generator().manual_seed(seed), features - features.mean(dim=0), [], []
    latents = residual.clone()
    for _ in range(levels):
        centroids = kmeans(residual, num_codes, iterations=10, balance=balance, generator=generator)
        if balance is None:
            codes.append(nearest_codes(residual, centroids))
        else:
            costs = squared_distances(residual, centroids)
            epsilon = balance * costs.median().item()
            codes.append((costs + balancing_potentials(costs, epsilon=epsilon, iterations=30)).argmin(dim=1))
        codebooks.append(centroids)
        residual = residual - centroids[codes[-1]]
    return resolve_collisions(torch.stack(codes, 1).numpy(), latents, codebooks).codes


def faiss_quantizer(features, levels, num_codes):
    """(N, L) IDs of faiss' residual quantizer, without collisions; None where faiss is missing."""
    try:
        import faiss
    except ImportError:
        return None
    bits = int(np.log2(num_codes))
    if 2 ** bits != num_codes:
        return None
    faiss.omp_set_num_threads(1)
    latents = np.ascontiguousarray((features - features.mean(dim=0)).numpy())
    quantizer = faiss.ResidualQuantizer(latents.shape[1], levels, bits)
    quantizer.train(latents)
    packed = faiss.BitstringReader
    data, codes = quantizer.compute_codes(latents), np.empty((len(latents), levels), np.int64)
    for row, line in enumerate(data):
        reader = packed(faiss.swig_ptr(line), line.size)
        codes[row] = [reader.read(bits) for _ in range(levels)]
    books = faiss.vector_to_array(quantizer.codebooks).reshape(levels, num_codes, -1)
    return resolve_collisions(codes, latents, list(books)).codes


def random_ids(items, levels, num_codes, seed=0):
    """(N, L), all different."""
    draw, found = np.random.default_rng(seed), np.empty((0, levels), np.int64)
    while len(found) < items:
        found = np.unique(np.concatenate([found, draw.integers(num_codes, size=(items, levels))]), axis=0)
    return draw.permutation(found)[:items]


def read_split(arguments, items, item_ids):
    if arguments.interactions:
        interactions = read_interactions(arguments.interactions, items, item_ids)
        print(interactions.words)
        return leave_last_out(interactions)
    data = np.load(arguments.sequences)
    parts = ["valid", "test"] if arguments.part == "both" else [arguments.part]
    joined = {name: [data[f"{part}_{name}"] for part in parts] for name in ("history", "target", "user")}
    return Split(data["train"].astype(np.int64), *(np.concatenate(values).astype(np.int64) for values in joined.values()))


def line(name, found, first, split, times):
    """One row of the table."""
    difference = "" if first is None else \
        f"{(found.recall - first).mean():+.4f} ± {half_interval(found.recall - first, split.user):.4f}"
    often = times[split.target]
    parts = [found.recall[part].mean() if part.any() else float("nan")
             for part in (often == 0, (often > 0) & (often < 5), often >= 5)]
    return (f"{name[-38:]:38} {found.recall.mean():.4f} ± {half_interval(found.recall, split.user):.4f}  "
            f"{found.ndcg.mean():.4f} ± {half_interval(found.ndcg, split.user):.4f}  {difference:>17}   "
            + " / ".join(f"{part:.3f}" for part in parts))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="FILE")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sequences", metavar="NPZ")
    what.add_argument("--interactions", metavar="FILE")
    parser.add_argument("--part", choices=["both", "valid", "test"], default="both", help="of --sequences")
    parser.add_argument("--features", metavar="FILE", help="for the baselines that look at content")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of the recommender, of which the mean is taken")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="baselines whose name has one of these words")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    read = [import_semantic_ids(path) for path in arguments.ids]
    features = None if arguments.features is None else open_features(arguments.features)
    if not read and features is None:
        parser.error("there is nothing to judge; give ID files, or --features for the baselines")
    items = len(read[0].codes) if read else len(features)
    item_ids = read[0].item_ids if read else features.item_ids
    tokens = max([found.codes.shape[1] for found in read], default=3)
    levels = read[0].codes.shape[1] if read else tokens
    num_codes = max([int(found.codes.max()) + 1 for found in read], default=256)
    num_codes = 1 << (num_codes - 1).bit_length()
    split = read_split(arguments, items, item_ids)
    times, seeds = times_taken(split, items), range(arguments.seeds)
    rows = features.rows(slice(None)) if features is not None else None
    candidates = {path: (lambda codes=found.codes: codes) for path, found in zip(arguments.ids, read)}
    candidates["random"] = lambda: random_ids(items, levels, num_codes)
    if rows is not None:
        candidates |= {"residual k-means, plain": lambda: residual_kmeans(rows, levels, num_codes),
                       "residual k-means, balanced": lambda: residual_kmeans(rows, levels, num_codes, balance=0.05),
                       "faiss residual quantizer": lambda: faiss_quantizer(rows, levels, num_codes)}
    print(f"{len(split.train):,} users, {len(split.target):,} rows to judge by, {items:,} items, {tokens} tokens an item")
    print(f"{'IDs':38} {'R@10':15}  {'NDCG@10':15}  {'R@10 - first':>17}   R@10 of targets taken never / 1-4 / 5+ times")
    without = {"no IDs: the most taken items": lambda: popularity(split, items)}
    if rows is not None:
        without["no IDs: neighbours in content"] = lambda: content_neighbours(rows, split)
    wanted = lambda name: name in arguments.ids or not arguments.only or any(word in name for word in arguments.only)
    first = None
    for name, make in candidates.items():
        codes = make() if wanted(name) else None
        if codes is None:
            continue
        began = time.process_time()
        codes = np.pad(codes, ((0, 0), (0, tokens - codes.shape[1])))
        found = judge(codes, split, seeds)
        print(line(name, found, first, split, times), f"  {time.process_time() - began:.0f} s", flush=True)
        first = found.recall if first is None else first
    for name, score in without.items():
        if wanted(name):
            print(line(name, Scores(*score()), first, split, times), flush=True)


if __name__ == "__main__":
    main()
