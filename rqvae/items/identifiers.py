"""Names for rows: item IDs from a sequence or a file, one for each row. Knows no features.

Shapes:  N rows (items)
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import torch

from ..storage.arrays import IDS, Npz, read_npy
from ..storage.item_ids import ITEM_NUMBERS, id_column, id_values, of_one_kind, read_item_numbers, rows_by_text
from ..storage.parquet import ParquetTable
from ..storage.torch_files import CheckpointError, StoredTensor, find_torch_tensors
from ..storage.words import describe_content, spelled
from .readers import require_file, stored_array

_KINDS = ".txt (one a line), .json, .npy, .item2id, .csv, .tsv, .parquet, .npz or .pt"


@spelled
def load_item_ids(source, count, column=None) -> list:
    """N item IDs in row order: all integers, or all text.

    Args:
        source: a sequence of strings or whole numbers; or a path to a `.json` list, a UTF-8 `.txt` with one on each
            line, a 1-D `.npy`, an `.item2id` as we and MiniOneRec write it, or one column of a `.csv`, `.tsv`,
            `.parquet`, `.npz` or `.pt`. Text files hold text, the others integers or text.
        count: N, the number of rows that the IDs are for.
        column: which column or entry holds them; unless said, the only one, or the first of ID_COLUMNS that is there.

    Raises:
        FileNotFoundError: there is no such file; similar names are offered.
        ValueError: the file is damaged or of another kind; or see `check_item_ids`.
        ImportError: the file is Parquet, and pyarrow is missing.
    """
    if not isinstance(source, (str, os.PathLike)):
        ids = source.tolist() if isinstance(source, (np.ndarray, torch.Tensor)) else list(source)
        return check_item_ids(ids, count, "item_ids")
    path = Path(source)
    require_file(path)
    suffix = path.suffix.lower()
    if column is not None and suffix not in _COLUMNS:
        raise ValueError(f"{path} has no columns, so none is called {column!r}; leave the column out")
    if suffix == ".npy":
        return check_item_ids(id_values(read_npy(path, IDS), path), count, path)
    if suffix == ITEM_NUMBERS:
        return check_item_ids(read_item_numbers(path), count, path)
    if suffix in _COLUMNS:
        return check_item_ids(_COLUMNS[suffix](path, column), count, path)
    if suffix not in (".json", ".txt"):
        raise ValueError(f"{path} has the suffix {suffix!r}; expected item IDs as {_KINDS}")
    try:
        text = path.read_text("utf-8-sig")
        ids = json.loads(text) if suffix == ".json" else text.removesuffix("\n").split("\n")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {suffix} ({error}; {describe_content(path)}); "
                         "expected item IDs in UTF-8 text") from error
    return check_item_ids(ids, count, path)


def check_item_ids(ids, count, where) -> list:
    """`ids` as all integers or all text, if they name `count` rows; `where` is the words for them in messages.

    Raises:
        ValueError: it is no list; an ID is empty, or neither text nor a whole number; there are not
            as many as rows; some repeat, 5 and "5" included.
    """
    if not isinstance(ids, list):
        raise ValueError(f"{where} holds a {type(ids).__name__}; expected a list of item IDs, "
                         "one for each row")
    ids = [item.item() if isinstance(item, np.generic) else item for item in ids]
    try:
        ids = of_one_kind(ids)
        if len(ids) != count:
            raise ValueError(f"has {len(ids)} item IDs, the features have {count} rows; "
                             "expected one for each row, in the same order")
        "".join(map(str, ids)).encode()
        rows_by_text(ids)
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has item IDs that are not text ({error}); repair them") from None
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    return ids


def _only(names, wanted, path):
    found = id_column(names, wanted, path) or (names[0] if len(names) == 1 else None)
    if found is None:
        raise ValueError(f"{path} has the columns {', '.join(map(str, names[:20]))}; say which holds the item IDs "
                         "(--id-column)")
    return found


def _read_csv(path, column):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            header = next(rows, [])
            place = header.index(_only(header, column, path))
            ids = []
            for row in rows:
                if len(row) != len(header):
                    raise ValueError(f"{path}, line {rows.line_num} has {len(row)} fields, the header {len(header)}")
                ids.append(row[place])
            return ids
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix} ({error}); "
                         "save it as UTF-8, with a header line") from error


def _read_parquet(path, column):
    with ParquetTable(path, "save them as .txt, a line each") as file:
        chosen = _only(file.schema.names, column, path)
        return [item for values, in file.batches([chosen]) for item in id_values(values, path)]


def _read_npz(path, column):
    with Npz(path) as archive:
        return id_values(archive.values(_only(archive.names, column, path), IDS), path)


def _read_torch(path, column):
    try:
        content = find_torch_tensors(path)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    if isinstance(content, dict):
        content = content[_only(list(content), column, path)]
    if isinstance(content, StoredTensor):
        content = stored_array(path, content)
    if not isinstance(content, (np.ndarray, list, tuple)):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a list of item IDs, one for each row")
    return id_values(content, path)


_COLUMNS = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz, ".pt": _read_torch,
            ".pth": _read_torch}
