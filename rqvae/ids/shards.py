"""Codes of a large table, made in parts by several processes, put together as one process would give them.

Part i of n is a .npy file of codes beside the output. Parts begin where a chunk of `batch_inference` does, so that
the matrices that are multiplied, and with them the codes, are those of one process.

Shapes:  N items   L levels
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..codes import codes_checksum
from ..identity import RECORDS, as_record, differences, of_items, of_model, recorded
from ..inference import ROWS_PER_CHUNK
from ..storage.files import write_atomically
from ..storage.sets import together
from ..storage.words import counted
from .files import load_semantic_ids, save_semantic_ids

_RECORD_LIMIT = 2**16           # bytes


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
            raise ValueError(f"{counted(num_rows, 'item')} in {counted(chunks, 'chunk')} of {ROWS_PER_CHUNK} rows, too "
                             f"few for {self.count} shards; "
                             + (f"ask for {chunks} or fewer" if chunks > 1 else "leave --shard out"))


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
        raise FileNotFoundError(f"{len(missing)} of {counts[0]} parts are missing, the first "
                                f"{missing[0].path(output)}; make it by --shard {missing[0].index}/{counts[0]}")
    return shards


def save_shard(shard, output, codes, model, features, overwrite=False) -> Path:
    """Write the codes of a part, and beside them what made them: model, rows and numbers; the file of the codes.

    Raises:
        FileExistsError: one of both exists, and `overwrite` is off.
    """
    path = shard.path(output)
    made = {**of_model(model), **of_items(features, shard.rows(len(features))), **_own(shard, codes, features)}
    record = json.dumps(as_record("part", made), indent=1).encode()
    with together():
        write_atomically(path.with_suffix(".json"), lambda file: file.write(record), replace=overwrite)
        save_semantic_ids(codes, path, overwrite=overwrite)
    return path


def merge_shards(shards, output, model, features) -> np.ndarray:
    """Codes (N, L) int64 of all parts.

    Args:
        shards: of `find_shards`.
        output: what they lie beside.
        model: the `RqVae` that the parts have to be of.
        features: the `FeatureTable` (N, D) that they have to be of.

    Raises:
        ValueError: a part was made by another model or of other rows, or was changed afterwards; or it does not say.
    """
    parts = []
    for shard in shards:
        path = shard.path(output)
        codes, record = load_semantic_ids(path).codes, path.with_suffix(".json")
        try:
            found = json.loads(record.read_bytes()[:_RECORD_LIMIT]) if record.is_file() else None
        except (ValueError, RecursionError):
            found = None
        then = recorded("part", found)
        silent = RECORDS["part"].keys() - then.keys() - {"item IDs"}        # which not all items have
        differ = differences(then, _own(shard, codes, features), model=model, table=features,
                             rows=shard.rows(len(features)))
        if silent or differ:
            what = f"is of other {' and other '.join(differ)}; name what it was made of, or" if differ else \
                f"has no {record.name} that says what made it;"
            raise ValueError(f"{path} {what} make it again by --shard {shard.index}/{shard.count} --overwrite")
        parts.append(codes)
    return np.concatenate(parts)


def _own(shard, codes, features):
    """What tells a part from others of the same model and items."""
    rows = shard.rows(len(features))
    return {"rows": [rows.start, rows.stop, len(features)], "codes": codes_checksum(codes)}


def _stem(output, suffix):
    """`output` without what looks like the suffix of a data file, and with `suffix`."""
    output = Path(output)
    name = output.stem if output.suffix in (".json", ".jsonl", ".npy") else output.name
    return output.with_name(name + suffix)
