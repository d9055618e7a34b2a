"""Items to semantic IDs: batch_inference against the documented loop, from memory and a file."""

import itertools
import os
import tempfile

from pairs import fresh_python, heading, interleave, line, parse, row

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rqvae import FeatureLoader, RqVae, batch_inference

USER_BATCH = 32
MEMORY = """
import sys
from pairs import extra_megabytes
from rqvae import FeatureLoader, RqVae, batch_inference
path, device = sys.argv[1:]
model = RqVae().to(device)
print(extra_megabytes(lambda: batch_inference(model, FeatureLoader(path, 1024), device), device))
"""


class MappedRows(Dataset):
    """A memory-mapped .npy as a user would wrap it: one {"features": (D,)} an item."""

    def __init__(self, path):
        self.rows = np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"features": torch.from_numpy(np.array(self.rows[index]))}


def documented_loop(model, dataloader, device, forward=False):
    """The API reference's loop, with `generate_semantic_ids`, or with the whole forward pass."""
    model.eval()
    collected = []
    with torch.no_grad():
        for batch in dataloader:
            features = batch["features"].to(device)
            ids = model(features)[-1] if forward else model.generate_semantic_ids(features)
            collected.append(ids.cpu())
    return torch.cat(collected)


def floor(model, features):
    """The matrix products of the encoder and of the distances, in chunks of 1024 rows."""
    weights = [module.weight for module in model.encoder.layers if hasattr(module, "weight")]
    codebook = model.quantizer.codebooks[0]

    @torch.no_grad()
    def run():
        for rows in features.split(1024):
            for weight in weights:
                rows = torch.mm(rows, weight.T)
            torch.mm(rows, codebook.T)

    return run


def from_memory(model, arguments):
    device = arguments.device
    features = torch.randn(arguments.samples, 768)
    dataloader = DataLoader([{"features": x} for x in features], batch_size=USER_BATCH)
    loader = FeatureLoader(features, USER_BATCH)
    seconds = interleave({
        "ours": lambda: batch_inference(model, loader, device),
        "ours, DataLoader": lambda: batch_inference(model, dataloader, device),
        "encode": lambda: documented_loop(model, dataloader, device),
        "forward": lambda: documented_loop(model, dataloader, device, forward=True),
        "floor": floor(model, features.to(device)),
    }, arguments.pairs, device)
    rate = len(features)
    row("documented loop, encode only, over ours", seconds, "ours", "encode",
        target=">= 1.9", rate=rate)
    row("documented loop, full forward, over ours", seconds, "ours", "forward",
        target=">= 3.4", rate=rate)
    row("    documented loop, encode only, over the floor", seconds, "floor", "encode", rate=rate)
    row("    documented loop, full forward, over the floor", seconds, "floor", "forward", rate=rate)
    row("fraction of the floor", seconds, "ours", "floor", target=">= 0.78", rate=rate)
    row("encode only over ours, both from one DataLoader", seconds, "ours, DataLoader", "encode",
        rate=rate)


def from_file(model, path, arguments):
    device, count = arguments.device, arguments.samples
    loader = FeatureLoader(path, 1024)
    dataloader = DataLoader(MappedRows(path), batch_size=USER_BATCH)
    seconds = interleave({
        "ours": lambda: batch_inference(model, itertools.islice(loader, count // 1024), device),
        "documented": lambda: documented_loop(
            model, itertools.islice(dataloader, count // USER_BATCH), device),
        "floor": floor(model, torch.from_numpy(np.load(path, mmap_mode="r")[:count].copy()).to(device)),
    }, arguments.pairs, device)
    row(f"documented loop over ours, first {count:,} rows of the file", seconds, "ours",
        "documented", target=">= 2.4", rate=count)
    row("    documented loop over the floor, which reads nothing", seconds, "floor", "documented", rate=count)
    extra = float(fresh_python(MEMORY, path, device))
    line(f"peak memory above model and imports, all {arguments.rows:,} rows", f"{extra:.0f} MB",
         target="<= 64 MB")


def generate(path, num_rows):
    """A .npy of random rows, written a piece at a time."""
    file = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, 768))
    generator = np.random.default_rng(0)
    for first in range(0, num_rows, 4096):
        piece = file[first:first + 4096]
        piece[:] = generator.standard_normal(piece.shape, np.float32)
    file.flush()


if __name__ == "__main__":
    arguments = parse(__doc__, samples=16_384, rows=1_000_000, folder=tempfile.gettempdir())
    torch.manual_seed(0)
    model = RqVae().to(arguments.device)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = os.path.join(folder, "features.npy")
        generate(path, arguments.rows)
        heading("Encoding from a file, rows a second")
        from_file(model, path, arguments)
    heading(f"Encoding from memory, user batches of {USER_BATCH}, rows a second")
    from_memory(model, arguments)
