"""Batches whose items are moved towards a neighbour: new items, so that a small catalogue is not memorised.

Shapes:  N items   D feature width   B rows in a batch
"""

import torch

from ..functional import nearest_codes
from ..items.batches import keyed_generator
from ..progress import shown
from .clustering import kmeans

EXACT_ITEMS = 16384             # up to here neighbours are searched among all items, beyond it within cells
# Items times width; beyond it items are not mixed, for the memory it takes, and because no run passes over so many
# often enough to memorise them.
MOST_NUMBERS = 2**31
ROWS_PER_CHUNK = 1024
MOST_PAIRS = 2**22              # of items compared at once: 16 MB


def nearest_items(loader, count, *, view=None, seed=0, progress=False) -> torch.Tensor:
    """The items of largest cosine to each item, seen from their common mean; the item itself left out.

    Beyond EXACT_ITEMS they are searched within cells of a few thousand similar items, and items are held
    in half precision: 2 bytes for each of their numbers.

    Args:
        loader: a `FeatureLoader` of N items.
        count: how many are wanted.
        view: what of the features is compared, (B, D) -> (B, D), such as `RqVae.standardized`; themselves if None.
        seed: of the cells.
        progress: show a bar on a terminal.

    Returns:
        (N, n) int64 positions, n the lesser of `count` and N - 1.
    """
    unit = _unit_rows(loader, view or (lambda rows: rows))
    count = min(count, len(unit) - 1)
    near = torch.empty(len(unit), count, dtype=torch.int64, device=unit.device)
    for cell in shown(_cells(unit, seed), "neighbours", progress):
        pool = unit[cell].float()
        others = max(len(cell) - 1, 1)          # an item alone in its cell is its own neighbour
        for rows in torch.arange(len(cell), device=unit.device).split(min(ROWS_PER_CHUNK, MOST_PAIRS // len(cell))):
            similarity = pool[rows] @ pool.T                                    # (rows, cell)
            similarity[torch.arange(len(rows)), rows] = -2
            found = similarity.topk(min(count, others)).indices
            # A cell with fewer items than wanted gives them more than once.
            near[cell[rows]] = cell[found[:, torch.arange(count) % found.shape[1]]]
    return near


def _unit_rows(loader, view):
    """(N, D) items from their mean, of length 1, built chunk by chunk."""
    starts = range(0, loader.num_rows, ROWS_PER_CHUNK)
    mean = sum(view(loader.at(slice(start, start + ROWS_PER_CHUNK))).double().sum(dim=0) for start in starts)
    mean = (mean / loader.num_rows).float()
    dtype = torch.float32 if loader.num_rows <= EXACT_ITEMS else torch.float16
    unit = torch.empty(loader.num_rows, len(mean), dtype=dtype, device=mean.device)
    for start in starts:
        rows = slice(start, start + ROWS_PER_CHUNK)
        unit[rows] = torch.nn.functional.normalize(view(loader.at(rows)) - mean, dim=1)
    return unit


def _cells(unit, seed):
    """Item numbers of each cell: all items, or k-means cells of at most EXACT_ITEMS."""
    everything = torch.arange(len(unit), device=unit.device)
    if len(unit) <= EXACT_ITEMS:
        return [everything]
    generator = torch.Generator().manual_seed(seed)
    num_cells = -(-len(unit) // (EXACT_ITEMS // 4))
    sample = torch.randperm(len(unit), generator=generator)[:20 * num_cells].to(unit.device)
    centroids = kmeans(unit[sample].float(), num_cells, generator=generator)
    codes = torch.cat([nearest_codes(rows.float(), centroids) for rows in unit.split(ROWS_PER_CHUNK)])
    order = codes.argsort(stable=True)
    cells = order.split(torch.bincount(codes, minlength=num_cells).tolist())
    return [part for cell in cells if len(cell) for part in cell.tensor_split(-(-len(cell) // EXACT_ITEMS))]


class NeighbourMixing:
    """The batches of a `FeatureLoader`, each item moved by a random part of the way to a random neighbour.

    What is drawn is a function of (seed, epoch, batch) alone.

    Args:
        loader: a `FeatureLoader` of the items.
        near: (N, n) positions of each item's neighbours, of `nearest_items`.
        reach: the largest part of the way, below 1.
        seed: of what is drawn.
    """

    def __init__(self, loader, near, *, reach=0.5, seed=0):
        self.loader, self.near, self.reach, self.seed = loader, near, reach, seed

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return self.batches_from(0)

    def set_epoch(self, epoch) -> None:
        self.loader.set_epoch(epoch)

    def fingerprint(self) -> str:
        return self._mixed(self.loader.fingerprint())

    def earlier_fingerprints(self):
        return map(self._mixed, self.loader.earlier_fingerprints())

    def _mixed(self, identity):
        return f"{identity} mixed {self.reach} {self.seed}"

    def batches_from(self, start):
        """Iterate this epoch without its first `start` batches."""
        epoch = self.loader.epoch
        for index, batch in enumerate(self.loader.batches_from(start), start=start):
            positions = batch["positions"]
            partners, part = self._drawn(positions, epoch, index)
            yield {**batch, "features": torch.lerp(batch["features"], self.loader.at(partners), part)}

    def _drawn(self, positions, epoch, index):
        """(B,) positions of partners, (B, 1) parts of the way."""
        generator = keyed_generator("mixing", self.seed, epoch, index)
        # Drawn for the whole batch, so that several processes draw what one would.
        rank, processes = self.loader.share
        whole = min(self.loader.batch_size, self.loader.num_rows - index * self.loader.batch_size)
        choice = torch.randint(self.near.shape[1], (whole,), generator=generator)[rank::processes]
        part = self.reach * torch.rand(whole, 1, generator=generator)[rank::processes]
        device = self.near.device
        return self.near[positions.to(device), choice.to(device)], part.to(self.loader.device)
