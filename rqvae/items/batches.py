"""An (N, D) table of features -> batches of tensors. Knows nothing about models.

Batches are {"features": (B, D) float32, "positions": (B,) int64 among the loader's rows}. The order
of an epoch is a function of (seed, epoch) alone, so a run can be taken up in the middle of one.

Shapes:  N rows (items)   D feature width   B rows in a batch   M rows in a sample
"""

from __future__ import annotations

import hashlib
from typing import Any, Iterator, Sequence

import torch

from .checksums import FORMS
from .tables import FeatureTable, open_features

__all__ = ["FeatureDataset", "FeatureLoader", "FeatureTable", "open_features", "sample_rows",
           "split_rows"]

_CHUNK = 2**24              # bytes of float32 rows read at once where many are wanted


class FeatureDataset(torch.utils.data.Dataset):
    """Items as {"features": (D,) float32}, for a `torch.utils.data.DataLoader`.

    Args:
        features: anything that `open_features` takes.
        item_ids: as in `open_features`.
        names: N strings for people to read, such as titles, or None.

    Attributes:
        table: the `FeatureTable`, with `shape` and `item_ids`.
        names: a list of N strings, or None.

    Raises:
        ValueError: there are not as many names as rows; and what `open_features` raises.
    """

    def __init__(self, features: Any, *, item_ids: Any = None, names: Sequence[str] | None = None):
        self.table = open_features(features, item_ids=item_ids)
        self.names = None if names is None else list(names)
        if self.names is not None and len(self.names) != len(self.table):
            raise ValueError(f"names has {len(self.names)} entries, {self.table.source} has "
                             f"{len(self.table)} rows; expected one for each row")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        return {"features": self.table.rows([index])[0]}

    def __getitems__(self, indices):
        """What a DataLoader asks for: a whole batch, fetched at once."""
        return [{"features": row} for row in self.table.rows(indices)]


class FeatureLoader:
    """Batches {"features": (B, D)} of a table, each gathered at once, with no collation.

    Iterating gives the epoch that `set_epoch` last named (at first 0), the short last batch
    included. On a CUDA device the rows are put there once if they take less than half of its free
    memory; otherwise each batch is copied while the device works on.

    Args:
        features: anything that `open_features` takes, or a `FeatureDataset`.
        batch_size: B, at least 1.
        shuffle: draw a new order in each epoch.
        seed: of those orders.
        rows: int64 row numbers to draw from, or None for all.
        device: where batches are wanted; None is the CPU.
        share: (r, n) gives of each batch the rows r, r + n, ... only, for process r of n; a batch of
            fewer than n rows is then empty for some.

    Attributes:
        table, batch_size, shuffle, seed, rows, device: as above.
        num_rows: how many rows an epoch has.
        epoch: the one that iterating gives.

    Raises:
        ValueError: a batch size below 1; and what `open_features` raises.
        IndexError: `rows` names one that the table does not have.
    """

    def __init__(self, features: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0, rows: Any = None,
                 device: str | torch.device | None = None, share: tuple[int, int] = (0, 1)):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        is_dataset = isinstance(features, FeatureDataset)
        self.table = features.table if is_dataset else open_features(features)
        self.batch_size, self.shuffle, self.seed, self.epoch = batch_size, shuffle, int(seed), 0
        self.share = share
        self.rows = None if rows is None else _inside(self.table, rows)
        self.num_rows = len(self.table) if rows is None else len(self.rows)
        self.device = torch.device("cpu" if device is None else device)
        self._resident = self._placed() if self.device.type == "cuda" else None   # (num_rows, D)
        self._fingerprint = None

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        return self.batches_from(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch's order the next iteration has."""
        self.epoch = int(epoch)

    def batches_from(self, start: int) -> Iterator[dict]:
        """Iterate this epoch without its first `start` batches, which are not read."""
        if start < 0:
            raise ValueError(f"start must be at least 0, got {start}")
        return self._batches(start * self.batch_size, self._order())

    def fingerprint(self) -> str:
        """Hex digits that tell these batches from others: every number, the rows, order and batch size."""
        if self._fingerprint is None:
            self._fingerprint = self._identity(self.table.checksum())
        return self._fingerprint

    def earlier_fingerprints(self) -> Iterator[str]:
        """What checkpoints of earlier versions keep instead; those before 1.1 looked at some of the rows only."""
        for form in FORMS[1:]:
            yield self._identity(self.table.checksum(form=form))
        yield self._identity(self.table.sampled_fingerprint())

    def _identity(self, content):
        rows = b"" if self.rows is None else self.rows.numpy().tobytes()
        order = f"{self.batch_size} {self.seed if self.shuffle else 'in order'}"
        parts = content.encode(), hashlib.sha256(rows).digest(), order.encode()
        return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]

    def at(self, positions: Any) -> torch.Tensor:
        """(B, D) features on the device, of positions 0 to num_rows - 1: a slice or an int64 tensor."""
        if self._resident is not None:
            rows = self._resident[positions]
            return rows.clone() if isinstance(positions, slice) else rows   # never a view of the data
        rows = self.table.rows(positions if self.rows is None else self.rows[positions])
        if self.device.type == "cuda":
            rows = rows.pin_memory()            # or the copy would hold up the device
        return rows.to(self.device, non_blocking=True)

    def _batches(self, begin, order):
        rank, processes = self.share
        for first in range(begin, self.num_rows, self.batch_size):
            stop = min(first + self.batch_size, self.num_rows)
            if order is None and processes == 1:
                positions = torch.arange(first, stop, device=self.device)
                yield {"features": self.at(slice(first, stop)), "positions": positions}
            else:
                whole = torch.arange(first, stop, device=self.device) if order is None else order[first:stop]
                positions = whole[rank::processes]
                yield {"features": self.at(positions), "positions": positions}

    def _order(self):
        """The positions of this epoch in their order; None is as they lie."""
        if not self.shuffle:
            return None
        order = torch.randperm(self.num_rows, generator=keyed_generator("epoch", self.seed, self.epoch))
        return order if self._resident is None else order.to(self.device)

    def _placed(self):
        """The rows on the device, or None where they would take half of its free memory or more."""
        free, _ = torch.cuda.mem_get_info(self.device)
        if 2 * 4 * self.num_rows * self.table.shape[1] >= free:
            return None
        return _collect(self.table, self.rows, self.device)


def split_rows(num_rows, val_fraction, seed):
    """(train rows, validation rows): sorted, disjoint int64 row numbers; the seed decides.

    Both sides get at least one row where `val_fraction` is above 0 and there are two; at 0 the
    validation side is empty.

    Raises:
        ValueError: `val_fraction` is outside [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and below 1, got {val_fraction!r}")
    wanted = round(num_rows * val_fraction)
    held_out = min(max(wanted, 1), num_rows - 1) if val_fraction and num_rows else 0
    order = torch.randperm(num_rows, generator=keyed_generator("split", int(seed)))
    return order[held_out:].sort().values, order[:held_out].sort().values


def sample_rows(table, max_rows, *, rows=None, seed=0) -> torch.Tensor:
    """At most `max_rows` rows, drawn without replacement: (M, D) float32, in the table's order.

    Args:
        table: anything that `open_features` takes.
        max_rows: M, unless there are fewer.
        rows: int64 row numbers to draw from, or None for all.
        seed: the same seed draws the same rows.

    Raises:
        ValueError: `max_rows` is below 1.
        IndexError: `rows` names one that the table does not have.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    table = open_features(table)
    rows = None if rows is None else _inside(table, rows)
    total = len(table) if rows is None else len(rows)
    if total > max_rows:
        drawn = torch.randperm(total, generator=keyed_generator("sample", int(seed)))[:max_rows]
        rows = drawn if rows is None else rows[drawn]
    return _collect(table, None if rows is None else rows.sort().values, "cpu")


def _collect(table, rows, device):
    """(M, D) float32 of the rows named, or of all, without a second copy of them in memory."""
    count, width = (len(table) if rows is None else len(rows)), table.shape[1]
    out = torch.empty((count, width), device=device)
    step = max(1, _CHUNK // (4 * width))
    for first in range(0, count, step):
        index = slice(first, min(first + step, count))
        out[index] = table.rows(index if rows is None else rows[index])
    return out


def _inside(table, rows):
    """`rows` as int64, none of them outside the table."""
    rows = torch.as_tensor(rows).to("cpu", torch.int64)
    outside = rows[(rows < 0) | (rows >= len(table))]
    if len(outside):
        raise IndexError(f"{table.source} has {len(table)} rows; there is no row {int(outside[0])}")
    return rows


def keyed_generator(*key):
    """A generator of its own for each key, so that (seed 0, epoch 1) is not (seed 1, epoch 0)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
