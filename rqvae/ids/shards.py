"""Codes of a large table, made in parts by several processes, put together as one process would give them.

Part i of n is a .npy file of codes beside the output. Parts begin where a chunk of `batch_inference` does, so that
the matrices that are multiplied, and with them the codes, are those of one process.

Shapes:  N items   L levels
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..inference import ROWS_PER_CHUNK, chunk_ids, evaluating
from .files import load_semantic_ids


class Shard(NamedTuple):
    index: int              # from 1
    count: int

    def rows(self, num_rows) -> range:
        """Its row numbers of a table of `num_rows`."""
        chunks = -(-num_rows // ROWS_PER_CHUNK)
        begin, end = (ROWS_PER_CHUNK * (chunks * part // self.count) for part in (self.index - 1, self.index))
        return range(begin, min(end, num_rows))

    def path(self, output) -> Path:
        """ids.json -> ids.shard-002-of-004.npy."""
        return _stem(output, f".shard-{self.index:03d}-of-{self.count:03d}.npy")

    def check(self, num_rows) -> None:
        """Refuse a division into more parts than there are chunks."""
        chunks = -(-num_rows // ROWS_PER_CHUNK)
        if self.count > chunks:
            raise ValueError(f"{num_rows:,} items are {chunks} chunks of {ROWS_PER_CHUNK} rows, too few for "
                             f"{self.count} shards; ask for {chunks} or fewer")


def parse_shard(text) -> Shard:
    """"2/4" -> Shard(2, 4).

    Raises:
        ValueError: another form, or an index outside 1 to the count.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard is {text}, must be such as 2/4, the second of 4 parts")
    return Shard(int(match[1]), int(match[2]))


def find_shards(output) -> list:
    """The parts that lie beside `output`, in order, all of one division.

    Raises:
        FileNotFoundError: there are none, or some are missing; they are named.
        ValueError: there are parts of several divisions.
    """
    pattern = re.compile(re.escape(_stem(output, "").name) + r"\.shard-(\d{3,6})-of-(\d{3,6})\.npy")
    folder = _stem(output, "").parent
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = {Shard(int(match[1]), int(match[2])) for match in map(pattern.fullmatch, names) if match}
    if not found:
        raise FileNotFoundError(f"there is no {Shard(1, 4).path(output)} or the like; make the parts by --shard first, "
                                "with the same --output")
    counts = sorted({shard.count for shard in found})
    if len(counts) > 1:
        raise ValueError(f"beside {output} there are parts of {' and '.join(map(str, counts))}; remove those that are "
                         "not wanted")
    shards = [Shard(index, counts[0]) for index in range(1, counts[0] + 1)]
    missing = [shard for shard in shards if shard not in found]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {counts[0]} parts are missing, the first {missing[0].path(output)}; "
                                f"make it by --shard {missing[0].index}/{counts[0]}")
    return shards


def merge_shards(shards, output, model, features) -> np.ndarray:
    """Codes (N, L) int64 of all parts.

    The first chunk of each is encoded again, which tells parts of another checkpoint or other items.

    Args:
        shards: of `find_shards`.
        output: what they lie beside.
        model: the `RqVae`, on the device to compute on.
        features: the `FeatureTable` (N, D).

    Raises:
        ValueError: a part has other rows than it should, or other codes.
    """
    parts = []
    for shard in shards:
        path, rows = shard.path(output), shard.rows(len(features))
        codes = load_semantic_ids(path).codes
        again = f"make it again by --shard {shard.index}/{shard.count} --overwrite"
        if codes.shape[0] != len(rows) or codes.shape[1] != len(model.quantizer.codebooks):
            raise ValueError(f"{path} holds {codes.shape[0]} items of {codes.shape[1]} codes, expected {len(rows)} of "
                             f"{len(model.quantizer.codebooks)}; {again}")
        with evaluating(model):
            first = features.rows(slice(rows.start, min(rows.start + ROWS_PER_CHUNK, rows.stop)))
            expected = chunk_ids(model, first).reshape(-1, codes.shape[1])
        same = (expected.numpy() == codes[:ROWS_PER_CHUNK]).all(axis=1).mean()
        if same < 0.5:              # another kind of device rounds differently, for a few items
            raise ValueError(f"{path} is not of this checkpoint and these items: {same:.0%} of its first IDs agree; "
                             f"{again}")
        parts.append(codes)
    return np.concatenate(parts)


def _stem(output, suffix):
    """`output` without what looks like the suffix of a data file, and with `suffix`."""
    output = Path(output)
    name = output.stem if output.suffix in (".json", ".jsonl", ".npy") else output.name
    return output.with_name(name + suffix)
