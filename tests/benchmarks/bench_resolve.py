"""Seconds and memory for a million semantic IDs, half of them colliding: resolve, look up, save. With --data how much
distance both ways to resolve add: of these items, of the built-in catalogue and of made ones, at the starting point.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_resolve.py [--items 1000000] [--data items.npy]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from rqvae import FeatureLoader, RqVae, batch_inference, recipe                             # noqa: E402
from rqvae.collisions import collision_report                                           # noqa: E402
from rqvae.ids.lookup import SemanticIdIndex                                                # noqa: E402
from rqvae.ids.resolution import resolve_collisions                                         # noqa: E402
from rqvae.ids.files import load_semantic_ids, save_semantic_ids                     # noqa: E402
from rqvae.items.catalogue import load_stdlib_docs                                          # noqa: E402


def megabytes(field):
    """VmRSS, the memory in use, or VmHWM, its peak; as Linux counts them."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def timed(what, function, *arguments, **options):
    Path("/proc/self/clear_refs").write_text("5")           # the peak starts again from here
    before, start, cpu = megabytes("VmRSS"), time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{what:<38} {wall:5.2f} s, {cpu:5.2f} s CPU, "
          f"{before:4.0f} + {megabytes('VmHWM') - before:3.0f} MB at the peak")
    return result


def colliding_items(items, levels=3, size=256, width=32):
    """Random IDs, half of them unique and half of them in pairs, and vectors near them."""
    generator = np.random.default_rng(0)
    keys = np.unique(generator.integers(0, size ** levels, items, dtype=np.int64))
    keys = generator.permutation(keys)[:items * 3 // 4]
    keys = generator.permutation(np.concatenate([keys, keys[:items - len(keys)]]))
    codes = np.stack([keys // size ** (levels - 1 - level) % size for level in range(levels)], 1)
    codebooks = [generator.standard_normal((size, width), np.float32) / 2 ** level
                 for level in range(levels)]
    latents = 0.1 * generator.standard_normal((items, width), np.float32)
    for codebook, column in zip(codebooks, codes.T):
        latents += codebook[column]
    return codes, latents, codebooks


def made_items(generator):
    """20,000 items in a hierarchy of groups, and 12,000 without any order, both of width 64."""
    grouped = torch.zeros(20_000, 64)
    for groups, size in ((40, 1.0), (500, 0.7), (20_000, 0.6)):
        grouped += size * torch.randn(groups, 64, generator=generator)[torch.randint(groups, (20_000,), generator=generator)]
    return grouped, torch.randn(12_000, 64, generator=generator)


@torch.no_grad()
def both_ways(name, features):
    """Added squared distance, items moved and CPU seconds of both ways."""
    model = RqVae(**recipe.model_options(features.shape[1]))
    recipe.start(model, FeatureLoader(features, 64, shuffle=True))
    codes = batch_inference(model, FeatureLoader(features, 1024), "cpu").numpy()
    latents = torch.cat([model.eval().encode(rows) for rows in features.split(1024)])
    books = model.quantizer.codebooks

    def distance(ids):
        return (latents - sum(book[column] for book, column in zip(books, torch.from_numpy(ids).T))).double().square().sum()

    found = {}
    for method in ("nearest", "optimal"):
        start = time.process_time()
        resolved = resolve_collisions(codes, latents, books, method=method)
        found[method] = (distance(resolved.codes) - distance(codes)).item()
        print(f"{name:<10} {len(codes):,} items  {method:<8} added {found[method]:9.1f}  moved {len(resolved.moved):5,}  "
              f"{time.process_time() - start:.2f} s CPU")
    print(f"{name:<10} optimal adds {1 - found['optimal'] / found['nearest']:.1%} less", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    if arguments.data:
        torch.set_num_threads(1)
        grouped, random = made_items(torch.Generator().manual_seed(0))
        both_ways("given", torch.from_numpy(np.load(arguments.data)).float())
        both_ways("built-in", torch.as_tensor(load_stdlib_docs().features))
        both_ways("grouped", grouped)
        both_ways("random", random)
    else:
        million(arguments.items)


def million(items):
    codes, latents, codebooks = colliding_items(items)
    print(f"{items:,} items, 3 x 256 codes, latents of width 32")
    print(timed("collision report", collision_report, codes))
    resolved = timed("resolve, nearest free code", resolve_collisions, codes, latents, codebooks, method="nearest")
    resolved = timed("resolve, least added distance", resolve_collisions, codes, latents, codebooks, method="optimal")
    print(resolved.after, f"{len(resolved.moved):,} moved")
    new = len(codes) // 10
    timed("resolve a tenth more beside the others", resolve_collisions, codes[:new], latents[:new],
          codebooks, taken=resolved.codes)
    timed("resolve, suffix", resolve_collisions, codes)
    index = timed("look-up: build", SemanticIdIndex, resolved.codes)
    prefixes = resolved.codes[:10_000, :2].tolist()
    timed("look-up: 10,000 times next_codes", lambda: [index.next_codes(p) for p in prefixes])
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".json", ".jsonl", ".npy"):
            path = Path(folder) / f"ids{suffix}"
            timed(f"save {suffix}", save_semantic_ids, resolved.codes, path)
            timed(f"load {suffix}", load_semantic_ids, path)


if __name__ == "__main__":
    main()
