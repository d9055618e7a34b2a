"""Training, encoding and the recipe on one device, beside a plain loop and the device's own ceilings; a JSON of it all.

    python tests/benchmarks/gpu.py --device cuda --out gpu.json         (gpu.sh runs it)

Rates are rows a second, medians of interleaved runs; sizes are a hundred times smaller with --device cpu.
"""

import argparse
import importlib.machinery
import json
import statistics
import sys
import time
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

try:
    import tqdm                                                                                             # noqa: F401
except ImportError:                 # a card's machine may have no more than torch and numpy; nothing here shows a bar
    class NoBar:
        n = 0

        def __init__(self, *parts, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __getattr__(self, name):
            return lambda *parts, **options: None

    sys.modules["tqdm"] = types.ModuleType("tqdm")
    sys.modules["tqdm"].__spec__ = importlib.machinery.ModuleSpec("tqdm", None)                  # torch asks whether it is there
    sys.modules["tqdm"].tqdm = NoBar

import torch                                                                                                # noqa: E402
from torch.utils.data import DataLoader, TensorDataset                                                      # noqa: E402

from rqvae import FeatureLoader, RqVae, batch_inference, evaluate_reconstruction, fit, recipe               # noqa: E402
from rqvae.collisions import collision_report                                                               # noqa: E402

WIDTH = 768


class Bench:
    def __init__(self, device, out):
        self.device, self.out, self.small = torch.device(device), Path(out), device == "cpu"
        on_card = self.device.type == "cuda"
        self.found = {"device": torch.cuda.get_device_name() if on_card else "cpu", "torch": torch.__version__,
                      "cuda": torch.version.cuda}

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def note(self, name, value):
        self.found[name] = value
        self.out.write_text(json.dumps(self.found, indent=1))
        print(name, json.dumps(value), flush=True)


def documented():
    return RqVae(input_dim=WIDTH, hidden_dim=512, latent_dim=256, num_embeddings=1024)


def plain_loop(bench, features, batch, steps):
    """What a trainer over a DataLoader does at least: gather, copy, step, and read the loss for its log."""
    model = documented().to(bench.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(features), batch, shuffle=True, drop_last=True)
    began = None
    while steps > 0:
        for rows, in loader:
            began = began or bench.now()
            loss = model.training_step({"features": rows.to(bench.device)}, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            steps -= 1
            if steps == 0:
                break
    return bench.now() - began


def ours(bench, features, batch, steps, **how):
    model = documented()
    epochs = max(1, steps * batch // len(features))
    loader = FeatureLoader(features, batch, shuffle=True, device=bench.device)
    fit(model, loader, max_epochs=1, device=bench.device, progress=False, fused=True, **how)            # warm
    began = bench.now()
    fit(model, loader, max_epochs=epochs, device=bench.device, progress=False, fused=True, **how)
    return (bench.now() - began) / (epochs * -(-len(features) // batch)) * steps


def ceiling(bench, batch, steps):
    """The matrix products of a step, forward and backward, those of the distances, and nothing else."""
    widths = [WIDTH, 512, 512, 256, 512, 512, WIDTH]
    pairs = [(torch.randn(batch, a, device=bench.device), torch.randn(a, b, device=bench.device))
             for a, b in zip(widths, widths[1:])]
    latents, codebook = (torch.randn(rows, 256, device=bench.device) for rows in (batch, 1024))
    began = bench.now()
    for _ in range(steps):
        latents @ codebook.T
        for number, (x, w) in enumerate(pairs):
            y = x @ w
            x.T @ y
            if number:
                y @ w.T
    return bench.now() - began


def training(bench):
    table = {}
    for batch, steps in ((1024, 200), (8192, 60), (65536, 12)):
        if bench.small:
            batch, steps = batch // 256, 2
        features = torch.randn(batch * 8, WIDTH)
        ways = {"plain loop": lambda: plain_loop(bench, features, batch, steps), "eager": lambda: ours(bench, features, batch, steps),
                "bf16": lambda: ours(bench, features, batch, steps, amp=True),
                "compiled": lambda: ours(bench, features, batch, steps, compile=True),
                "matrix products alone": lambda: ceiling(bench, batch, steps)}
        if bench.small:
            del ways["compiled"]            # no compiler is asked for in a rehearsal
        taken = {name: [] for name in ways}
        for _ in range(3):
            for name, way in ways.items():
                taken[name].append(way())
        if bench.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            taken["TF32"] = [ours(bench, features, batch, steps) for _ in range(3)]
            torch.set_float32_matmul_precision("highest")
        table[batch] = {name: round(batch * steps / statistics.median(seconds)) for name, seconds in taken.items()}
        bench.note("training, rows a second, by batch", table)


def encoding(bench):
    rows = 10_000_000 if not bench.small else 20_000
    part = torch.randn(min(rows, 500_000), WIDTH)
    model = documented().to(bench.device)
    batch_inference(model, FeatureLoader(part[:8192], 8192), device=bench.device)
    began, done = bench.now(), 0
    while done < rows and bench.now() - began < 60:
        batch_inference(model, FeatureLoader(part, 16384), device=bench.device)
        done += len(part)
    bench.note("encoding", {"rows": done, "rows a second": round(done / (bench.now() - began))})


def catalogue(rows, width, seed=0):
    """Items around centres around centres, with noise: the like of sentence embeddings in spread."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.zeros(rows, width)
    for count, size in ((40, 1.0), (max(rows // 40, 40), 0.7), (rows, 0.6)):
        items += size * torch.randn(count, width, generator=generator)[torch.randint(count, (rows,), generator=generator)]
    return items


def the_recipe(bench):
    for rows, epochs in ((3700, None), (1_000_000, 2)) if not bench.small else ((600, 2),):
        features = catalogue(rows, 384)
        epochs = epochs or recipe.epochs(rows)
        row = {"epochs": epochs}
        for device in dict.fromkeys(["cpu", bench.device.type] if rows < 10_000 else [bench.device.type]):
            torch.manual_seed(0)
            began = bench.now()
            loader = FeatureLoader(features, recipe.batch_size(rows), shuffle=True, device=device)
            model = RqVae(**recipe.model_options(384)).to(device)
            recipe.start(model, loader)
            started = bench.now()
            fit(model, recipe.training(model, loader, epochs), max_epochs=epochs, device=device, progress=False,
                optimizers=recipe.configure_optimizers(model, epochs * len(loader)), fused=True)
            seconds = bench.now() - began
            codes = batch_inference(model, FeatureLoader(features, 16384), device=device)
            error = evaluate_reconstruction(model, FeatureLoader(features, 16384), device=device)["relative_mse"]
            row[device] = {"seconds": round(seconds, 1), "of these the start": round(started - began, 1),
                           "relative MSE": round(error, 4), "collisions": round(collision_report(codes)["collision_rate"], 4)}
        bench.note(f"the recipe, {rows:,} items", row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="gpu.json")
    arguments = parser.parse_args()
    np.random.seed(0)
    bench = Bench(arguments.device, arguments.out)
    bench.note("torch", torch.__version__)
    for part in (training, encoding, the_recipe):
        try:
            part(bench)
        except Exception as error:              # the other parts are worth having all the same
            bench.note(f"{part.__name__} failed", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
