"""Feature files, shards or arrays -> one lazy (N, D) table with its item IDs. Knows no batches.

Shapes:  N rows (items)   D feature width   B rows read at once
"""

from __future__ import annotations

import copy
import glob
import hashlib
import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..storage.words import counted, spelled, warn
from .blending import BlendedTable
from .blocks import NoRows, array_block, tensor_block
from .checksums import FORMS, ROWS_PER_BLOCK, TOO_LARGE, BlockChecksums, Seen, form_of, listed, read_keys
from .identifiers import check_item_ids, load_item_ids
from .parts import PartsTable
from .readers import SUFFIXES, read_features

_CHUNK = 2 * 2**20          # bytes of float32 rows held at once in a pass over a table
_SAMPLE = 4096              # rows that stood for a table in a fingerprint before 1.1
_OPEN_FILES = 64            # with more shards than this, none stays open between reads
_SCALE = "scale the features first, to rows of length 1 for example"


@spelled
def open_features(source: Any, *, key: str | None = None, item_ids: Any = None,
                  id_column: str | None = None) -> FeatureTable:
    """The (N, D) table that `source` holds, left where it is: only headers are read now.

    Rows of `.npy`, `.safetensors` and `.pt`, and of a memory map of your own, are read from their file by
    position, which may be larger than memory; `.pt` is read through before for its checksums, which takes its
    time for a large one. `.npz`, `.parquet`, and up to 1 GiB of a `.npy` in Fortran order, are decoded into
    memory. Rows become float32 when they are asked for, from any real dtype. `FeatureTable.check` looks at
    every number.

    Args:
        source: a path; shards as a folder or a glob, taken in natural order (`part_2` before
            `part_10`), or as a list of paths, taken in that order; an (N, D) numpy array, memory
            maps included, or torch tensor; or a `FeatureTable`, which is returned as it is. A dict of name ->
            any of these holds several embeddings of each item, see `parts.PartsTable`.
        key: which array of a `.npz`, entry of a `.pt` or `.safetensors`, or list column of a
            `.parquet` (`embedding` unless said); not needed where there is only one.
        item_ids: an ID for each row, text or integers, as a sequence or as a path to anything that
            `identifiers.load_item_ids` reads; by default what lies beside the features in a `.parquet`, `.npz`,
            `.pt` or `.safetensors`, under one of the names in `ID_COLUMNS`, such as `item_id`. A file that has a
            vector under each item ID is read as the table of them.
        id_column: what the column or entry with the item IDs is called, in the file of `item_ids` or else in that of
            the features.

    Raises:
        FileNotFoundError: nothing is there; similar names are offered.
        IsADirectoryError: a folder without feature files.
        TypeError: `source` is none of the above.
        ValueError: a file is damaged, of another kind, or not an (N, D) table of numbers; shards
            differ in width; item IDs repeat, or are not as many as the rows.
    """
    in_memory = isinstance(source, (*TABLES, np.ndarray, torch.Tensor))
    if in_memory and key is not None:
        raise ValueError(f"key={key!r} names a part of a file, but the features are no file; "
                         "leave it out")
    if isinstance(source, dict) and source:
        table = PartsTable({name: open_features(part, key=key, id_column=id_column) for name, part in source.items()})
    elif isinstance(source, TABLES):
        table = source
    elif isinstance(source, np.ndarray):
        table = FeatureTable([array_block(source, "the features array")], "the features array")
    elif isinstance(source, torch.Tensor):
        table = FeatureTable([tensor_block(source, "the features tensor")], "the features tensor")
    else:
        table = _open_files(_paths(source), key, None if item_ids is not None else id_column, item_ids is None)
    if item_ids is not None:
        own, table = table.item_ids, copy.copy(table)
        table.item_ids = load_item_ids(item_ids, len(table), id_column)
        _require_order(own, table, item_ids)
    return table


def _require_order(own, table, given) -> None:
    """Refuse item IDs that were given and are those beside the features, in another order."""
    one, other = ([] if ids is None else list(map(str, ids)) for ids in (own, table.item_ids))
    if one and one != other and set(one) == set(other):
        row = next(row for row, (mine, theirs) in enumerate(zip(one, other)) if mine != theirs)
        where = given if isinstance(given, (str, os.PathLike)) else "item_ids"
        raise ValueError(f"{table.source} has its own item IDs, and {where} has the same in another order: "
                         f"row {row} is {one[row]!r} there and {other[row]!r} here; leave the wrong ones out")


class FeatureTable:
    """(N, D) rows that stay where they are until they are asked for; `open_features` makes them.

    Attributes:
        shape: (N, D).
        dtype: the stored type in words, such as "float16"; rows come as float32 all the same.
        source: words for messages, such as the path.
        item_ids: N strings or N integers, or None.
        longest: the length of the longest row, as `check` saw it; until then nobody knows.
    """

    longest = math.inf

    def __init__(self, blocks, source, item_ids=None):
        self._blocks = blocks
        self._starts = np.cumsum([0] + [block.shape[0] for block in blocks])    # and N at the end
        self.shape = (int(self._starts[-1]), blocks[0].shape[1])
        self.dtype = " and ".join(sorted({block.dtype for block in blocks}))
        self.source = source
        self.item_ids = item_ids
        self.may_lack_rows = False          # whether rows that are all NaN are missing, not damaged
        self._checksums = BlockChecksums(count=len(self))

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"FeatureTable({self.source}: {self.shape[0]} x {self.shape[1]} {self.dtype})"

    def rows(self, index) -> torch.Tensor:
        """The rows that `index` names: (B, D) float32 on the CPU, contiguous, owned by the caller.

        Args:
            index: a slice, or B row numbers as a tensor, array or list, in any order; negative ones
                count from the end.

        Raises:
            IndexError: a row number is outside the table, or not a whole number.
            ValueError: NaN or Inf, a float64 beyond float32, or the file is no longer what it was.
        """
        index, count = _row_numbers(index, len(self))
        if len(self._blocks) == 1 and count:
            out = self._float32(self._blocks[0].read(index))
        else:
            out = np.empty((count, self.shape[1]), np.float32)
            for places, block, local in self._parts(index, count):
                out[places] = self._float32(block.read(local))
        self._require_numbers(out, index)
        return torch.from_numpy(out)

    @spelled
    def check(self, chunk_rows=None, rows=None) -> None:
        """Look at every number, in one pass and in bounded memory.

        Warns of integers, of rows that are all equal, of constant columns and of zero rows. The `checksum` of
        these rows costs nothing more afterwards.

        Args:
            chunk_rows: rows held at once; unless said, 2 MiB of them.
            rows: a range of at least one row number, to look at those only.

        Raises:
            ValueError: some rows hold NaN or Inf, or numbers so large that squares overflow.
        """
        part = range(len(self)) if rows is None else rows
        where = self.source if rows is None else f"{self.source}, rows {part[0]} to {part[-1]},"
        seen = Seen()
        for first, chunk in self._chunks(part, chunk_rows or self._chunk_rows()):
            seen.add(first, chunk)
            if part.start % ROWS_PER_BLOCK == 0:
                self._checksums.add(first, chunk)
        if seen.broken.count:
            raise ValueError(f"{where} has NaN or Inf in {seen.broken.count} of {len(part)} rows "
                             f"({seen.broken}); repair or remove those rows")
        if seen.largest > TOO_LARGE:
            raise ValueError(f"{where} has numbers as large as {seen.largest:.2g}, whose squares "
                             f"overflow float32; {_SCALE}")
        if rows is None:
            self.longest = seen.longest
        self._warn(where, len(part), seen.constant, seen.zero)

    def checksum(self, rows=None, *, form=FORMS[0]) -> str:
        """A mark and 32 hex digits that tell these rows, as float32 and in this order, from any others.

        Every number counts.
        Path, time and stored type play no part. Without a pass of its own where `check` has seen the rows.

        Args:
            rows: a range of row numbers that begins at a multiple of 1024, or an array of row numbers in the order in
                which to take them; all unless said.
            form: as an earlier version made it, see `checksums.FORMS`, in a pass of its own.

        Raises:
            ValueError: the range begins elsewhere.
        """
        if rows is not None and not isinstance(rows, range):
            sums, part = BlockChecksums(form), range(len(rows))
            for first in range(0, len(rows), ROWS_PER_BLOCK):
                sums.add(first, self.rows(rows[first:first + ROWS_PER_BLOCK]).numpy())
            return sums.of(part, self.shape[1])
        part = range(len(self)) if rows is None else rows
        if part.start % ROWS_PER_BLOCK:
            raise ValueError(f"rows begin at {part.start}; a checksum begins at a multiple of {ROWS_PER_BLOCK}")
        sums = self._checksums if form == FORMS[0] else BlockChecksums(form)
        found = sums.of(part, self.shape[1])
        if found is None:
            for first, chunk in self._chunks(part, self._chunk_rows()):
                sums.add(first, chunk)
            found = sums.of(part, self.shape[1])
        return found

    def has_checksum(self, recorded, rows=None) -> bool:
        """Whether `recorded` is the checksum of these rows, of this version or of an earlier one."""
        return recorded == self.checksum(rows, form=form_of(recorded))

    def row_keys(self, rows) -> np.ndarray:
        """`collisions.row_keys` of the rows with the numbers (n,): (n,) int64. Nothing is read where `check` has seen
        all rows of the table."""
        keys = self._checksums.keys()
        return read_keys(self, rows) if keys is None else keys[rows]

    def sampled_fingerprint(self) -> str:
        """What checkpoints before 1.1 keep instead: shape, dtype and up to 4096 rows, evenly spread."""
        numbers = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(np.int64)
        digest = hashlib.blake2b(f"{self.shape} {self.dtype}".encode(), digest_size=16)
        for first in range(0, len(numbers), self._chunk_rows()):
            digest.update(self.rows(numbers[first:first + self._chunk_rows()]).numpy())
        return digest.hexdigest()

    def _warn(self, where, count, constant, zero):
        if "int" in self.dtype:
            _warn(f"{self.source} has integer features ({self.dtype}), used as numbers, "
                  "which is wrong if they are item numbers or codes")
        if count > 1 and len(constant) == self.shape[1]:
            _warn(f"{where} has {count} rows that are all equal; "
                  "all items will get one semantic ID")
        elif count > 1 and len(constant):
            _warn(f"{where} has {len(constant)} constant columns of {self.shape[1]} "
                  f"({listed(constant, len(constant))}); they tell no item from another")
        if zero.count:
            _warn(f"{where} has {counted(zero.count, 'row')} of zeros only ({zero}); "
                  "these items will get one semantic ID")

    def _require_numbers(self, rows, index):
        """Refuse NaN and Inf in what was read just now, whatever `check` saw before, in one product over it."""
        if self.may_lack_rows and (missing := np.isnan(rows).all(axis=1)).any():
            numbers = np.arange(index.start, index.stop) if isinstance(index, slice) else index
            rows, index = rows[~missing], numbers[~missing]
        flat = rows.reshape(-1)
        if math.isfinite(np.dot(flat, flat)):
            return
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))     # none where only the product is too large
        if len(broken):
            first = index.start + broken[0] if isinstance(index, slice) else index[broken[0]]
            raise ValueError(f"{self.source} has NaN or Inf in {len(broken)} of the {len(rows)} rows read, the first "
                             f"{first}; repair or remove those rows")

    def _float32(self, rows):
        try:
            with np.errstate(over="raise"):
                return rows.astype(np.float32, copy=False)
        except FloatingPointError:
            raise ValueError(f"{self.source} has numbers that overflow float32; {_SCALE}") from None

    def _chunk_rows(self):
        return max(1, _CHUNK // (4 * self.shape[1]))

    def _chunks(self, part, chunk_rows):
        """(number of the first row, rows in working precision) of a range, in order."""
        for first in range(part.start, part.stop, chunk_rows):
            count = min(chunk_rows, part.stop - first)
            for places, block, local in self._parts(slice(first, first + count), count):
                yield first + places.start, block.read(local)

    def _parts(self, index, count):
        """(places among `count` rows, block, its rows) for each block that `index` touches."""
        if not count:
            return
        sliced = isinstance(index, slice)
        wanted = [index.start, index.stop - 1] if sliced else index
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in range(owner[0], owner[1] + 1) if sliced else np.unique(owner):
            block, start = self._blocks[number], int(self._starts[number])
            if sliced:
                a, b = max(start, index.start), min(int(self._starts[number + 1]), index.stop)
                yield slice(a - index.start, b - index.start), block, slice(a - start, b - start)
            else:
                places = np.flatnonzero(owner == number)
                yield places, block, index[places] - start
            if len(self._blocks) > _OPEN_FILES:
                block.close()


TABLES = (FeatureTable, PartsTable, BlendedTable)


class TableRows:
    """Some rows of a `FeatureTable` in the order given, as a table."""

    def __init__(self, table, rows):
        self.source, self.item_ids, self.shape = table.source, None, (len(rows), table.shape[1])
        self._table, self._rows = table, torch.as_tensor(rows)

    def __len__(self):
        return self.shape[0]

    def rows(self, index) -> torch.Tensor:
        """(B, D) float32, as `FeatureTable.rows`."""
        index = index if isinstance(index, slice) else torch.as_tensor(index, dtype=torch.int64)
        return self._table.rows(self._rows[index])

    def row_keys(self, rows) -> np.ndarray:
        """(n,) int64, as `FeatureTable.row_keys`."""
        return self._table.row_keys(self._rows.numpy()[rows])


def _warn(sentence):
    warn(sentence)


def _row_numbers(index, total):
    """(a slice of step 1 or an int64 array, how many rows it names), all inside the table."""
    if isinstance(index, slice):
        start, stop, step = index.indices(total)
        if step == 1:
            return slice(start, max(start, stop)), max(0, stop - start)
        return np.arange(start, stop, step), len(range(start, stop, step))
    numbers = index.cpu().numpy() if isinstance(index, torch.Tensor) else np.asarray(index)
    if numbers.size == 0:
        return np.empty(0, np.int64), 0
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise IndexError("row numbers must be a flat list of integers, "
                         f"got {numbers.dtype} of shape {numbers.shape}")
    outside = np.flatnonzero((numbers < -total) | (numbers >= total))
    if len(outside):
        raise IndexError(f"there is no row {numbers[outside[0]]} in a table of {total} rows")
    numbers = numbers.astype(np.int64, copy=False)
    return np.where(numbers < 0, numbers + total, numbers), len(numbers)


# ---- files

def _paths(source):
    """The files that a path, a folder, a glob or a list of paths names."""
    if isinstance(source, (list, tuple)):
        if not source or not all(isinstance(path, (str, os.PathLike)) for path in source):
            raise TypeError("a list must hold paths; for features themselves use np.array(rows)")
        return [Path(path) for path in source]
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError("features must be a path, a list of paths, a numpy array or a tensor; "
                        f"got {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        paths = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
        kinds = sorted({p.suffix.lower() for p in paths})
        if not kinds:
            raise IsADirectoryError(f"{path} is a folder without feature files; expected a file "
                                    f"or a folder of files that end in {', '.join(SUFFIXES)}")
        if len(kinds) > 1:
            raise ValueError(f"{path} is a folder of {' and '.join(kinds)} files; "
                             f"say which with a glob such as '{path / '*'}{kinds[0]}'")
    elif glob.has_magic(str(path)) and not path.exists():
        paths = [Path(name) for name in glob.glob(str(path), recursive=True)]
        if not paths:
            raise FileNotFoundError(f"no file matches {path}")
    else:
        paths = [path]
    return sorted(paths, key=_natural)


def _natural(path):
    """Text and numbers in turn, so that part_2 comes before part_10."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _open_files(paths, key, id_column=None, wants_ids=True):
    blocks, item_ids, without, first = [], [], [], None
    for path in paths:
        with warnings.catch_warnings():
            if not wants_ids:                   # a file's columns are then nobody's item IDs
                warnings.filterwarnings("ignore", message=".*none of which is taken for the item IDs")
            try:
                found, ids = read_features(path, key, id_column)
            except NoRows:
                if path == paths[-1] and not blocks:        # all are
                    raise
                continue
        first = first or path
        if blocks and found[0].shape[1] != blocks[0].shape[1]:
            raise ValueError(f"{path} has {found[0].shape[1]} columns, {first} has "
                             f"{blocks[0].shape[1]}; expected shards of one width")
        blocks += found
        item_ids += ids or []
        without += [path] if ids is None else []
    source = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    table = FeatureTable(blocks, source)
    if not without:
        table.item_ids = check_item_ids(item_ids, len(table), source)
    elif item_ids and wants_ids:
        raise ValueError(f"{without[0]} has no item IDs, other shards have; give item_ids for all")
    return table
