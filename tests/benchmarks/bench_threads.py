"""How torch's threads shall wait, and how many there shall be: seconds of training and encoding, idle and beside others.

    python tests/benchmarks/bench_threads.py [--rounds 3] [--steps 150]

Every cell is the median wall time of a process of its own; the settings take turns. "chosen" is what the commands set.
The last columns hold the rule: chosen over the better of (default, one thread).
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from rqvae.cli.threads import CHOSEN_BY_USER, settle_threads, usable_cpus  # noqa: E402

WORK = """
import sys, time, torch
from rqvae import FeatureLoader, RqVae, batch_inference, fit, recipe
from rqvae.cli.threads import training_threads
kind, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
batch = int(kind.split()[1]) if kind != "encode" else 256
features = torch.randn(batch * 30 if kind != "encode" else 400 * steps, 384)
model = RqVae(**recipe.model_options(384))
if kind == "encode":
    start = time.perf_counter()
    batch_inference(model, FeatureLoader(features, 1024), device="cpu")
else:
    loader = FeatureLoader(features, batch, shuffle=True)
    optimizers = recipe.configure_optimizers(model, steps)
    fit(model, loader, max_epochs=1, device="cpu", optimizers=optimizers, progress=False)
    start = time.perf_counter()
    with training_threads(batch):
        fit(model, loader, max_epochs=max(1, steps // 30 * 64 // max(batch, 64)), device="cpu", optimizers=optimizers,
            progress=False)
print(time.perf_counter() - start)
"""
BUSY = "import time\nwhile True: sum(range(10**6))"


def settings():
    """Name -> what is added to the environment; None asks the rule of the commands, at the time."""
    twice = 2 * usable_cpus()
    return {"default": {}, "1 thread": {"OMP_NUM_THREADS": "1"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
            **{f"spin {n}": {"GOMP_SPINCOUNT": str(n)} for n in (300, 1000, 3000, 10000)},
            f"{twice} threads": {"OMP_NUM_THREADS": str(twice)},
            f"{twice} passive": {"OMP_NUM_THREADS": str(twice), "OMP_WAIT_POLICY": "PASSIVE"},
            "chosen": None}


def seconds(kind, steps, added):
    plain = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_USER}
    if added is None:
        added = {}
        settle_threads(added)
    done = subprocess.run([sys.executable, "-c", WORK, kind, str(steps)], env={**plain, **added}, cwd=ROOT,
                          capture_output=True, text=True, check=True)
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1, 2], help="busy processes beside")
    parser.add_argument("--kinds", nargs="+", default=["train 64", "train 128", "train 256", "train 1024", "encode"])
    parser.add_argument("--settings", nargs="+", metavar="NAME", help="of the columns (default: all)")
    arguments = parser.parse_args()
    ways = settings()
    ways = {name: ways[name] for name in arguments.settings or ways}
    print(f"{usable_cpus()} CPUs")
    print(f"{'beside':>6} {'work':<11}" + "".join(f"{name:>12}" for name in ways) + "  chosen / best of default, 1 thread")
    for load in arguments.loads:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(load)]
        try:
            for kind in arguments.kinds:
                taken = {name: [] for name in ways}
                for _ in range(arguments.rounds):
                    for name, added in ways.items():
                        taken[name].append(seconds(kind, arguments.steps, added))
                median = {name: statistics.median(values) for name, values in taken.items()}
                best = min(median.get(name, float("nan")) for name in ("default", "1 thread"))
                print(f"{load:>6} {kind:<11}" + "".join(f"{median[name]:>12.2f}" for name in ways)
                      + f"  {median.get('chosen', float('nan')) / best:.2f}", flush=True)
        finally:
            for other in others:
                other.kill()


if __name__ == "__main__":
    main()
