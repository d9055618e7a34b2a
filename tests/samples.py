"""Small item sets, plain loaders and processes for the tests."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset


ROOT = Path(__file__).parents[1]
TINY = ["--num-embeddings", "8", "--hidden-dim", "16", "--latent-dim", "8", "--batch-size", "32"]    # for train.py


class Rows(Dataset):
    """A plain map-style data set of {"features": (D,)}, as a user would write one."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return {"features": self.features[index]}


def loader(features, batch_size=32, shuffle=False, **options):
    return DataLoader(Rows(features), batch_size=batch_size, shuffle=shuffle, **options)


def clustered(num_items=300, width=12, clusters=20, seed=0):
    """(N, D) rows around a few centres: something to learn."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, width, generator=generator)
    kinds = torch.randint(clusters, (num_items,), generator=generator)
    return centres[kinds] + 0.2 * torch.randn(num_items, width, generator=generator)


def in_a_process(*argv, **options):
    """`train.py` with these arguments, started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *argv], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
