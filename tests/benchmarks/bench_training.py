"""A training step of the documented model: fit, Lightning, a bare loop, the floor."""

import contextlib
import inspect
import itertools
import logging
import os
import tempfile
import time
import warnings

from pairs import device_name, heading, interleave, line, missing, parse, row

import torch
from torch import nn

from rqvae import FeatureLoader, RqVae, fit
from rqvae.run_state import to_device

WARM = 3            # batches of a run before its clock starts
TARGETS = {         # batch size -> mode -> against Lightning; floor: as a fraction of it
    32: {"exact": ">= 1.3", "fast": ">= 1.8", "floor": ">= 0.55"},
    256: {"fast": ">= 1.25", "floor": ">= 0.88"},
    1024: {"fast": ">= 1.1", "bf16": ">= 1.9", "floor": ">= 0.88"},
    8192: {"floor": ">= 0.88"},
}
GPU_TARGETS = {1024: {"fast": ">= 3", "compiled": ">= 10"}, 8192: {"compiled": ">= 8"}}


class Clocked:
    """A loader of WARM + count + 1 batches; `seconds` are those of the `count` steps in the middle.

    Time is taken where a trainer asks for a batch: building trainers and optimizers is not counted.
    """

    def __init__(self, loader, count, device):
        self.loader, self.count, self.device = loader, count, torch.device(device)
        self.seconds = 0.0

    def __len__(self):
        return WARM + self.count + 1

    def __iter__(self):
        batches = itertools.chain.from_iterable(itertools.repeat(self.loader))
        for number in range(len(self)):
            if number == WARM:
                began = self._now()
            if number == WARM + self.count:
                self.seconds = self._now() - began
            yield next(batches)

    def _now(self):
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()        # twice a run: what is queued belongs to the time
        return time.perf_counter()


def lightning(features, batch_size, steps, device):
    """`Trainer.fit` over a DataLoader of dict items, or None without Lightning."""
    try:
        import lightning_reference as reference
    except ImportError:
        return None
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    model, loader = reference.RqVae(), reference.loader(features, batch_size, shuffle_seed=0)
    validation = reference.loader(features[:1], 1)      # for the scheduler; after the clock

    def run():
        clock = Clocked(loader, steps, device)
        accelerator = "gpu" if clock.device.type == "cuda" else "cpu"
        with tempfile.TemporaryDirectory() as scratch, silence():
            trainer = reference.pl.Trainer(
                max_epochs=1, accelerator=accelerator, devices=1, logger=False,
                num_sanity_val_steps=0, default_root_dir=scratch)
            trainer.fit(model, clock, validation)
        return clock.seconds

    return run


@contextlib.contextmanager
def silence():
    """What a trainer shows is written, but to nowhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), \
            contextlib.redirect_stderr(nowhere):
        yield


def fitted(features, batch_size, steps, device, **options):
    """`fit` over a FeatureLoader."""
    model = RqVae()
    loader = FeatureLoader(features, batch_size, shuffle=True, device=device)

    def run():
        clock = Clocked(loader, steps, device)
        with silence():
            fit(model, clock, max_epochs=1, device=device, **options)
        return clock.seconds

    return run


def bare(features, batch_size, steps, device, amp=False):
    """The fast mode's step in a loop of its own, with nothing counted, checked or kept."""
    model = RqVae().to(device)
    loader = FeatureLoader(features, batch_size, shuffle=True, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=model.learning_rate, fused=True)

    def run():
        clock = Clocked(loader, steps, device)
        for batch_idx, batch in enumerate(clock):
            batch = to_device(batch, device)
            optimizer.zero_grad()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
                loss = model.training_step(batch, batch_idx)
            loss.backward()
            optimizer.step()
        return clock.seconds

    return run


def floor(batch_size, steps, device, fused=True):
    """The matrix products of a step, into memory at hand, and one step of Adam."""
    model = RqVae().to(device)
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    optimizer = torch.optim.Adam(model.parameters(), fused=fused or None)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    inputs = [torch.randn(batch_size, weight.shape[1], device=device) for weight in weights]
    outputs = [torch.randn(batch_size, weight.shape[0], device=device) for weight in weights]
    codebook = model.quantizer.codebooks[0]
    distances = torch.empty(batch_size, len(codebook), device=device)
    latents = torch.randn(batch_size, codebook.shape[1], device=device)

    @torch.no_grad()
    def step():
        for weight, x, y in zip(weights, inputs, outputs):
            torch.mm(x, weight.T, out=y)
        torch.mm(latents, codebook.T, out=distances)
        for number, (weight, x, y) in enumerate(zip(weights, inputs, outputs)):
            torch.mm(y.T, x, out=weight.grad)
            if number:                          # nobody asks for the gradient of the features
                torch.mm(y, weight, out=x)
        optimizer.step()
        for y in outputs:
            y.fill_(1e-3)                       # or the numbers would grow until they overflow

    def run():
        for _ in range(steps):
            step()

    return run


def measure(batch_size, arguments):
    device = arguments.device
    steps = max(3, round(arguments.samples / batch_size))
    torch.manual_seed(0)
    features = torch.randn(min(batch_size * steps, 65_536), 768)
    works = {
        "fast": fitted(features, batch_size, steps, device, fused=True),
        "exact": fitted(features, batch_size, steps, device),
        "bare": bare(features, batch_size, steps, device),
        "floor": floor(batch_size, steps, device),
        "floor, default Adam": floor(batch_size, steps, device, fused=False),
    }
    offered = inspect.signature(fit).parameters
    if "amp" in offered:
        works["bf16"] = fitted(features, batch_size, steps, device, fused=True, amp=True)
    else:
        works["bf16"] = bare(features, batch_size, steps, device, amp=True)
    if "compile" in offered and arguments.compile:
        works["compiled"] = fitted(features, batch_size, steps, device, fused=True, compile=True)
    peer = lightning(features, batch_size, steps, device)
    if peer:
        works["lightning"] = peer
    seconds = interleave(works, arguments.pairs, device)
    rate = batch_size * steps
    targets = GPU_TARGETS if torch.device(device).type == "cuda" else TARGETS
    goals = targets.get(batch_size, {})
    for name in ("exact", "fast", "bf16", "compiled"):
        loop = "a bare loop in" if name == "bf16" and "amp" not in offered else "fit"
        words = f"Lightning over {loop} {name}, batch {batch_size}"
        if name not in works:
            line(words, value="not measured", target=goals.get(name, ""))
        elif peer:
            row(words, seconds, name, "lightning", target=goals.get(name, ""), rate=rate)
        else:
            missing(words, "pytorch-lightning", goals.get(name, ""))
    if peer:        # nobody's step is faster than that
        row(f"    Lightning over the floor with default Adam, batch {batch_size}", seconds, "floor, default Adam",
            "lightning", rate=rate)
        row(f"    Lightning over the floor, batch {batch_size}", seconds, "floor", "lightning", rate=rate)
    row(f"fit fast over the bare loop, batch {batch_size}", seconds, "fast", "bare",
        target="<= 1.05", rate=rate, inverted=True)
    row(f"fraction of the floor, batch {batch_size}", seconds, "fast", "floor",
        target=goals.get("floor", ""), rate=rate)


def tf32(arguments, batch_size=65_536):
    """Matrix products in TF32 against fp32, the distances included: a GPU's ceiling."""
    words, target = f"fp32 over TF32, fast, batch {batch_size}", ">= 3"
    if torch.device(arguments.device).type != "cuda":
        line(words, value="not measured", target=target)
        return
    features = torch.randn(batch_size, 768)
    run = fitted(features, batch_size, 20, arguments.device, fused=True)

    def with_precision(precision):
        def work():
            torch.set_float32_matmul_precision(precision)
            try:
                return run()
            finally:
                torch.set_float32_matmul_precision("highest")
        return work

    seconds = interleave({"tf32": with_precision("high"), "fp32": with_precision("highest")},
                         arguments.pairs)
    row(words, seconds, "tf32", "fp32", target=target, rate=20 * batch_size)


if __name__ == "__main__":
    arguments = parse(__doc__, batch_sizes=[32, 256, 1024, 8192], samples=8192, compile=0)
    heading(f"Training on {device_name(arguments.device)}, samples a second")
    for batch_size in arguments.batch_sizes:
        measure(batch_size, arguments)
    tf32(arguments)
