"""Names for rows: item IDs from a sequence or a file, one for each row. Knows no features.

Shapes:  N rows (items)
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from ..storage.files import describe_content
from .readers import npy_file_header, require_file, require_size


def load_item_ids(source, count) -> list:
    """N item IDs as strings, in row order.

    Args:
        source: a sequence of strings or whole numbers, or a path to a `.json` list, a UTF-8 `.txt`
            with one on each line, or a 1-D `.npy`.
        count: N, the number of rows that the IDs are for.

    Raises:
        FileNotFoundError: there is no such file; similar names are offered.
        ValueError: the file is damaged or of another kind; or see `check_item_ids`.
    """
    if not isinstance(source, (str, os.PathLike)):
        ids = source.tolist() if isinstance(source, (np.ndarray, torch.Tensor)) else list(source)
        return check_item_ids(ids, count, "item_ids")
    path = Path(source)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return check_item_ids(_read_npy(path), count, path)
    if suffix not in (".json", ".txt"):
        raise ValueError(f"{path} has the suffix {suffix!r}; expected item IDs as a .json list, "
                         "a .txt with one on each line, or a .npy")
    try:
        text = path.read_text("utf-8-sig")
        ids = json.loads(text) if suffix == ".json" else text.removesuffix("\n").split("\n")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {suffix} ({error}; {describe_content(path)}); "
                         "expected item IDs in UTF-8 text") from error
    return check_item_ids(ids, count, path)


def check_item_ids(ids, count, where) -> list:
    """`ids` as strings, if they name `count` rows; `where` is the words for them in messages.

    Raises:
        ValueError: it is no list; an ID is empty, or neither text nor a whole number; there are not
            as many as rows; some repeat.
    """
    if not isinstance(ids, list):
        raise ValueError(f"{where} holds a {type(ids).__name__}; expected a list of item IDs, "
                         "one for each row")
    for row, item in enumerate(ids):
        if isinstance(item, bool) or not isinstance(item, (str, int, np.integer)) or item == "":
            raise ValueError(f"{where} has {str(item)[:60]!r} ({type(item).__name__}) as the ID of "
                             f"row {row}; expected text or a whole number")
    if len(ids) != count:
        raise ValueError(f"{where} has {len(ids)} item IDs, the features have {count} rows; "
                         "expected one for each row, in the same order")
    ids = [str(item) for item in ids]
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has item IDs that are not text ({error}); repair them") from None
    repeats = count - len(set(ids))
    if repeats:
        item, times = Counter(ids).most_common(1)[0]
        raise ValueError(f"{where} has the item ID {item!r} {times} times, first for row "
                         f"{ids.index(item)}, and {repeats} repeats in all; expected each ID once")
    return ids


def _read_npy(path):
    header = npy_file_header(path)
    match = re.fullmatch(r"[<>|=]?([iuSU])([1-9]\d{0,8})", header.descr)
    if not match or len(header.shape) != 1:
        raise ValueError(f"{path} holds dtype {header.descr or 'records'} of shape {header.shape}; "
                         "expected a flat array of text or whole numbers")
    width = int(match[2]) * (4 if match[1] == "U" else 1)
    require_size(path, path.stat().st_size, header.size + header.shape[0] * width)
    try:
        values = np.fromfile(path, header.descr, header.shape[0], offset=header.size).tolist()
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except (TypeError, ValueError, SystemError) as error:   # bad widths and characters
        raise ValueError(f"{path} holds damaged item IDs ({error}); save them again") from error
