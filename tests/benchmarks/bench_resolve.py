"""Seconds and memory for a million semantic IDs, half of them colliding: resolve, look up, save.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_resolve.py [items]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from rqvae.collisions import collision_report                                           # noqa: E402
from rqvae.ids.lookup import SemanticIdIndex                                                # noqa: E402
from rqvae.ids.resolution import resolve_collisions                                         # noqa: E402
from rqvae.ids.files import load_semantic_ids, save_semantic_ids                     # noqa: E402


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


def main(items=1_000_000):
    codes, latents, codebooks = colliding_items(items)
    print(f"{items:,} items, 3 x 256 codes, latents of width 32")
    print(timed("collision report", collision_report, codes))
    resolved = timed("resolve, nearest free code", resolve_collisions, codes, latents, codebooks)
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
    main(*map(int, sys.argv[1:]))
