"""Codes -> unique IDs, tokens, files, look-up. Knows no model, and no format but our own four.

The files are here. Resolving, tokens and look-up live next door and are found here as well: this
is the room that callers ask.

Shapes:  N items   L levels
"""

from __future__ import annotations

import json
import os
import re
from array import array
from json.decoder import scanstring
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np

from ..codes import as_codes, as_item_ids, as_labels
from ..collisions import collision_report
from ..storage.arrays import INTEGERS, read_npy
from ..storage.files import followed, remove_stale_temporaries, write_atomically
from ..storage.item_ids import ITEM_NUMBERS, check_lines, in_row_order, read_item_numbers
from ..storage.sets import together
from ..storage.words import brief, describe_content, nearest_names, spelled
from .lookup import SemanticIdIndex
from .resolution import Resolution, resolve_collisions
from .tables import read_table, write_table
from .tokens import from_tokens, level_letters, to_tokens, token_codes

__all__ = ["Resolution", "SemanticIdIndex", "SemanticIds", "check_output", "collision_report",
           "from_tokens", "load_semantic_ids", "resolve_collisions", "save_semantic_ids",
           "to_tokens"]

_KINDS = ".json, .jsonl, .csv or .npy"
_ROWS_AT_ONCE = 2 ** 14
_LONGEST_LINE = 2 ** 20             # bytes; an honest line has some hundred
# Behind a key: a flat list of limited length, so that no content can exhaust the JSON parser.
_TOKEN_LIST = re.compile(r"\s*:\s*(\[[^][{}]{0,4096}\])\s*([,}])\s*")


class SemanticIds(NamedTuple):
    codes: np.ndarray               # (N, L) int64
    item_ids: list | None           # N, all text or all integers, or None where the rows are the items
    names: list[str] | None         # N, or None where the file has none

    def __repr__(self):
        labels = {name: f"{values[0]!r}, ..." if values else None
                  for name, values in (("item_ids", self.item_ids), ("names", self.names))}
        return (f"SemanticIds(codes: {' x '.join(map(str, np.shape(self.codes)))}, "
                f"item_ids: {labels['item_ids']}, names: {labels['names']})")


@spelled
def save_semantic_ids(codes: Any, path: str | os.PathLike, *, item_ids: Sequence | None = None,
                      names: Sequence[str] | None = None, overwrite: bool = False) -> None:
    """Write semantic IDs in the form that the suffix of `path` names.

    - .json: the index of LC-Rec, LETTER and MiniOneRec, `{"0": ["<a_183>", "<b_70>"], ...}`; its
      keys are the row numbers, or the item IDs where there are any.
    - .jsonl: a line for each item, `{"row": 0, "item_id": "B01", "name": "Drill", "codes": [183,
      70], "tokens": ["<a_183>", "<b_70>"]}`, with item_id and name where there are any.
    - .csv: a header and a line for each item: `item_id` (or `row`), `name` where there are any, `code_1`, `code_2`, ...
    - .npy: the codes alone, int64 (N, L); item IDs stand beside it, in a file `.item2id` with a line
      `ID<tab>row` for each.

    Args:
        codes: (N, L) or (N,) integers.
        path: the file; its folder is made if missing.
        item_ids: N different item IDs, text or integers. In a .jsonl they keep their kind; keys of JSON and lines are
            text.
        names: N texts.
        overwrite: replace the file if it exists.

    Raises:
        ValueError: another suffix, not codes, not one label for each item, an item ID twice, or one with a tab or line
            break, which `.item2id` cannot hold.
        FileExistsError: the file exists, and `overwrite` is off.
    """
    path = check_output(path, overwrite=overwrite)
    codes = as_codes(codes)
    item_ids = as_item_ids(item_ids, len(codes))
    names = as_labels(names, len(codes), "names")
    if path.suffix == ".npy":
        with together():
            write_item_numbers(item_ids, path, len(codes), overwrite)
            write_atomically(path, lambda file: np.save(file, codes, allow_pickle=False), replace=overwrite)
        return
    if path.suffix == ".csv":
        write_atomically(path, lambda file: write_table(file, codes, item_ids, names), replace=overwrite)
        return
    level_letters(codes.shape[1])                   # too many levels: said before writing
    if path.suffix == ".json":
        write_atomically(path, lambda file: write_index(file, codes, item_ids), replace=overwrite)
    else:
        write_atomically(path, lambda file: _write_lines(file, codes, item_ids, names), replace=overwrite)


def check_output(path, *, overwrite=False) -> Path:
    """Refuse, before there is anything to save, what `save_semantic_ids` would refuse."""
    path = Path(path)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; semantic IDs are saved as "
                         f"{_KINDS}")
    refuse_existing([path], overwrite)
    return path


def refuse_existing(paths, overwrite) -> None:
    """Raise FileExistsError for the first of `paths` that exists, unless `overwrite`."""
    for folder in {path.parent for path in paths}:
        remove_stale_temporaries(folder)            # what a killed writer had begun is finished or gone
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; choose another name, or have it overwritten "
                                  "(overwrite=True, --overwrite)")


def item_numbers_beside(path) -> Path:
    """Where the item IDs of a file that knows rows stand: x.index.json -> x.item2id."""
    path = followed(path)
    return path.with_name(re.sub(r"(\.index)?\.[^.]+$", "", path.name) + ITEM_NUMBERS)


def write_item_numbers(item_ids, path, count, overwrite=False) -> None:
    """Write the `.item2id` beside `path`; one of other items that is there says from now on that the rows are the
    items."""
    beside = item_numbers_beside(path)
    refuse_existing([beside], overwrite)
    check_lines(item_ids, beside.name)
    if item_ids is None and beside.exists():
        item_ids = range(count)
    if item_ids is not None:
        write_atomically(beside, lambda file: file.writelines(
            _utf8(f"{item_id}\t{row}\n") for row, item_id in enumerate(item_ids)), replace=overwrite)


def write_index(file, codes, keys=None) -> None:
    """LC-Rec's index, byte for byte what `json.dump` makes of the dict, but some rows at a time."""
    file.write(b"{")
    for start, block in _blocks(codes):
        stop, comma = start + len(block), '", "'
        block_keys = map(str, range(start, stop) if keys is None else keys[start:stop])
        entries = [f'{_json(key)}: ["{comma.join(tokens)}"]'
                   for key, tokens in zip(block_keys, to_tokens(block))]
        file.write(_utf8((", " if start else "") + ", ".join(entries)))
    file.write(b"}")


def _write_lines(file, codes, item_ids, names):
    for start, block in _blocks(codes):
        for row, (item_codes, tokens) in enumerate(zip(block.tolist(), to_tokens(block)), start):
            line = {"row": row}
            if item_ids is not None:
                line["item_id"] = item_ids[row]
            if names is not None:
                line["name"] = names[row]
            text = _json({**line, "codes": item_codes, "tokens": tokens})
            # Line ends to some readers, though not to JSON.
            for end in "\x85\u2028\u2029":
                text = text.replace(end, f"\\u{ord(end):04x}")
            file.write(_utf8(text + "\n"))


def _blocks(codes):
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        yield start, codes[start:start + _ROWS_AT_ONCE]


def _json(value):
    return json.dumps(value, ensure_ascii=False)


def _utf8(text):
    """Half a surrogate pair, which UTF-8 cannot hold, becomes the \\udXXX that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


@spelled
def load_semantic_ids(path: str | os.PathLike) -> SemanticIds:
    """Read what `save_semantic_ids` wrote.

    Safe on any content: nothing in a file is ever run, and memory stays within a small multiple
    of its size. Keys "0", "1", ... in this order in a .json are rows and no item IDs. Where the rows
    are the items, an `.item2id` beside the file says which items they are.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file; similar names are offered.
        ValueError: another suffix or content; the message has the key or the line.
    """
    path = existing_file(path)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; semantic IDs are read from "
                         f"{_KINDS}, other systems' files by import_semantic_ids")
    return with_item_numbers(_READERS[path.suffix](path), path)


def with_item_numbers(ids, path) -> SemanticIds:
    """IDs whose rows are the items, with the item IDs that stand beside their file, if any do."""
    beside = item_numbers_beside(path)
    if ids.item_ids is not None or not beside.is_file():
        return ids
    item_ids = read_item_numbers(beside, len(ids.codes))
    if in_row_order(item_ids):
        return ids
    return ids._replace(item_ids=_checked(beside, as_item_ids, item_ids, len(item_ids)))


def existing_file(path) -> Path:
    """`path`, once it is sure to be a file with something in it."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file of semantic IDs")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist{nearest_names(path)}")
    if not path.is_file():
        raise ValueError(f"{path} is a device or a pipe; expected a regular file: copy it to one")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    return path


def _read_npy(path):
    codes = read_npy(path, INTEGERS)
    if codes.ndim not in (1, 2):
        raise ValueError(f"{path} holds {codes.dtype} of shape {codes.shape}; "
                         "expected integers of shape (items, levels)")
    return SemanticIds(_checked(path, as_codes, codes), None, None)


def _read_json(path):
    keys, flat = [], array("q")
    for key, codes in read_index(path):
        if len(codes) * len(keys) != len(flat):
            raise ValueError(f"{path}, key {key[:40]!r}: {len(codes)} tokens, but "
                             f"{len(flat) // len(keys)} in each entry before (MiniOneRec's k-means "
                             "index is read by import_semantic_ids)")
        keys.append(key)
        flat.extend(codes)
    codes = np.frombuffer(flat, np.int64).reshape(len(keys), -1)
    if all(key == str(row) for row, key in enumerate(keys)):
        return SemanticIds(codes, None, None)
    return SemanticIds(codes, _checked(path, as_item_ids, keys, len(keys)), None)


def read_index(path):
    """Yield (key, codes) of each entry of an LC-Rec index, in the order of the file.

    Raises:
        ValueError: not one object of keys and lists of tokens; the message has the key.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    start = re.match(r"\s*{\s*", text)
    if not start:
        raise ValueError(f"{path} is not an index of semantic IDs: {describe_content(path)}")
    position, follows, place = start.end(), ",", "its first entry"
    while follows == ",":
        try:
            if text[position:position + 1] != '"':
                raise ValueError
            key, behind = scanstring(text, position + 1)
            entry = _TOKEN_LIST.match(text, behind)
            tokens = json.loads(entry[1])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, {place}: expected \"0\": [\"<a_183>\", \"<b_70>\"] or the "
                             f"like, found {text[position:position + 60]!r}") from None
        yield key, _checked(f"{path}, key {key[:40]!r}", token_codes, tokens)
        position, follows, place = entry.end(), entry[2], f"the entry after {key[:40]!r}"
    if position < len(text):
        raise ValueError(f"{path}: the index ends, but {text[position:position + 40]!r} follows")


def _read_lines(path):
    flat, labels, width, rows = array("q"), {"item_id": [], "name": []}, None, 0
    with open(path, "rb") as file:
        for rows, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            codes = _checked(f"{path}, line {rows}", _parsed_line, line, rows - 1, width, labels)
            flat.extend(codes)
            width = len(codes)
    for name, values in labels.items():
        if len(values) not in (0, rows):
            raise ValueError(f"{path}: {len(values)} of its {rows} lines have {name!r}; "
                             "expected it in all of them or in none")
    item_ids = _checked(path, as_item_ids, labels["item_id"] or None, rows)
    return SemanticIds(np.frombuffer(flat, np.int64).reshape(rows, -1), item_ids,
                       labels["name"] or None)


def _parsed_line(line, row, width, labels):
    """The codes of a line; its item ID and name are added to the lists in `labels`."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    codes = entry.get("codes") if isinstance(entry, dict) else None
    if not isinstance(codes, list) or not codes:
        raise ValueError(f"expected an object such as {{\"row\": {row}, \"codes\": [183, 70]}}, "
                         f"found {line[:60]!r}")
    if not all(type(code) is int and 0 <= code < 2 ** 63 for code in codes):
        raise ValueError(f"codes must be integers of 0 or more, found {brief(codes)}")
    if len(codes) != (width or len(codes)):
        raise ValueError(f"{len(codes)} codes, but {width} in each line before")
    if entry.get("row", row) != row:
        raise ValueError(f"its row is {brief(entry['row'], 40)}, but it stands in the place of row "
                         f"{row}; lines are missing, twice there, or sorted")
    for name, values in labels.items():
        if name in entry:
            if not isinstance(entry[name], (str, int)) or isinstance(entry[name], bool):
                raise ValueError(f"{name} must be text, found {brief(entry[name], 40)}")
            values.append(entry[name] if name == "item_id" else str(entry[name]))
    return codes


def _checked(where, check, *arguments):
    """`check(*arguments)`, whose ValueError says where in which file."""
    try:
        return check(*arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


_READERS = {".json": _read_json, ".jsonl": _read_lines, ".csv": lambda path: SemanticIds(*read_table(path)),
            ".npy": _read_npy}
