"""Files of other systems -> semantic IDs, to be judged by our measures. Runs nothing it reads.

Shapes:  N items   L levels
"""

from __future__ import annotations

import json
import re
from array import array

import numpy as np
import torch

from ..codes import as_codes, as_item_ids
from ..storage.item_ids import id_values, in_row_order
from ..storage.packed import require_likely
from ..storage.parquet import ParquetTable
from ..storage.torch_files import CheckpointError, read_torch_file
from ..storage.words import describe_content, spelled
from .files import SemanticIds, existing_file, load_semantic_ids, read_index, with_item_numbers
from .tables import read_listed_table
from .tokens import level_offsets, token_codes

_SUFFIXES = {
    "lcrec": (".json",), "minionerec": (".json", ".txt"), "minionerec-kmeans": (".json",),
    "grid": (".pt",), "tiger": (".npy", ".pt"), "openonerec": (".parquet", ".txt"),
    "torcheasyrec": (".parquet", ".csv"), "torcheasyrec-offset": (".parquet", ".csv"), "semantic-id": (".txt",),
    "flashrec": (".json",), "rectokens": (".pt",),
}
_TORCHEASYREC = ("codes", "sid", "codebook"), ("offset_codebook", "codes")       # columns, without and with offsets
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LONGEST_LINE = 2 ** 20         # bytes
_CATALOGUE = re.compile(r'\s*{\s*"[0-9]+(,[0-9]+)+"\s*:')
_OPENONEREC = re.compile(r"<\|sid_begin\|>((?:<s_[a-z]_[0-9]+>)+)<\|sid_end\|>")


@spelled
def import_semantic_ids(path, format=None, *, num_embeddings=None) -> SemanticIds:
    """Read the semantic IDs that another system made.

    Args:
        path: a file as `export_semantic_ids` writes it, or one of our own.
        format: its name. None tells it from suffix and content, except for what does not show:
            "minionerec-kmeans" (codes from 1) where no two items collide, "torcheasyrec-offset"
            (codes that continue those of the level before), and "grid" or "tiger" where a tensor
            has fewer items than levels.
        num_embeddings: K, or one for each level; for "torcheasyrec-offset" only.

    Returns:
        Codes (N, L); or (N, L+1) where the file numbers the items of a collision, with 0 for an
        item without a number. Item IDs and names where the file has them; where it knows items by
        row number, item IDs of the `.item2id` beside it, if there is one.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ValueError: an unknown format, or content that is not of that format.
        ImportError: the file is Parquet, and pyarrow is missing.
    """
    path = existing_file(path)
    if format is not None and format not in _SUFFIXES:
        raise ValueError(f"there is no import format {format!r}; there are {', '.join(_SUFFIXES)}")
    if format == "torcheasyrec-offset" and num_embeddings is None:
        raise ValueError(f"format {format!r} needs num_embeddings to take off the offsets")
    readable = _SUFFIXES[format] if format else tuple(_READERS)
    if path.suffix not in readable:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; expected {' or '.join(readable)}")
    codes, item_ids, names = _READERS[path.suffix](path, format)
    if item_ids and in_row_order(item_ids):
        item_ids = None
    try:
        codes = as_codes(codes)
        if format == "torcheasyrec-offset":
            codes = codes - level_offsets(num_embeddings, codes.shape[1])
            codes = as_codes(codes, "codes without their offsets")
        return with_item_numbers(SemanticIds(codes, as_item_ids(item_ids, len(codes)), names), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_own(path, format):
    return load_semantic_ids(path)


def _read_csv(path, format):
    return read_listed_table(path, _TORCHEASYREC[format == "torcheasyrec-offset"]) or _read_own(path, format)


def _read_json(path, format):
    if format is None:
        with open(path, encoding="utf-8", errors="replace") as file:
            format = "flashrec" if _CATALOGUE.match(file.read(1000)) else None
    return _read_catalogue(path) if format == "flashrec" else _read_index(path, format)


def _read_catalogue(path):
    """FlashRec's {"3,9,1": [{"pid": 17}, ...], ...}; where it names no items, one a key."""
    try:
        catalogue = json.loads(path.read_bytes())
        counted, pids = [], []                              # codes and how many items have them
        for key, items in catalogue.items():
            here = [item["pid"] for item in items] if isinstance(items, list) else [None]
            counted.append((array("q", map(int, key.split(","))), len(here)))
            pids += here
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ValueError(f"{path} is not a catalogue of FlashRec ({describe_content(path)}); expected "
                         '{"3,9,1": [{"pid": 17}], ...}') from None
    widths = sorted({len(codes) for codes, _ in counted})
    if len(widths) != 1:
        raise ValueError(f"{path} has IDs of {widths} codes; expected as many in each")
    require_likely(path, 8 * widths[0] * len(pids), path, "give each item an ID of a few codes")
    table = np.concatenate([np.tile(codes, (count, 1)) for codes, count in counted])
    rows = [str(pid) for pid in pids]
    if set(rows) == set(map(str, range(len(rows)))):        # row numbers: back into their order
        table[np.array(rows, np.int64)] = table.copy()
        pids = None
    return table, None if pids is None or None in pids else pids, None


def _read_index(path, format):
    keys, flat, widths = [], array("q"), array("q")
    for key, codes in read_index(path):
        keys.append(key)
        flat.extend(codes)
        widths.append(len(codes))
    codes, ragged = _rectangle(path, flat, widths)
    if format == "minionerec-kmeans" or ragged:
        levels = min(widths)
        if codes[:, :levels].min() == 0:
            raise ValueError(f"{path} has a code 0, but k-means indices of MiniOneRec count from 1")
        codes[:, :levels] -= 1
    if set(keys) == set(map(str, range(len(keys)))):        # row numbers, in whatever order
        ordered = np.empty_like(codes)
        ordered[np.array(keys).astype(np.int64)] = codes
        return ordered, None, None
    return codes, keys, None


def _read_tensor(path, format):
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError(f"{path} is not a .pt (torch >= 1.6) file: {describe_content(path)}; "
                             "save it again with torch.save(table, path)")
    try:
        table = read_torch_file(path)
    except CheckpointError as error:
        raise ValueError(f"{path} cannot be read as a tensor: it "
                         f"{str(error)[len(str(path)) + 1:]}") from error
    if not isinstance(table, torch.Tensor) or table.ndim != 2 or table.dtype not in _INTEGERS:
        found = (f"{table.dtype} of shape {tuple(table.shape)}" if isinstance(table, torch.Tensor)
                 else f"a {type(table).__name__}")
        raise ValueError(f"{path} holds {found}; expected integers of shape (items, levels)")
    if table.layout != torch.strided or table.nbytes > table.untyped_storage().nbytes():
        raise ValueError(f"{path} holds fewer numbers than its shape {tuple(table.shape)} has; "
                         "save a dense, contiguous tensor")
    grid = format == "grid" or (format is None and table.shape[0] < table.shape[1])
    return table.T if grid else table, None, None


def _read_parquet(path, format):
    with ParquetTable(path, "save it as .jsonl") as file:
        columns = file.schema.names
        ids = next((name for name in ("pid", "item_id") if name in columns), None)
        codes = next((name for name in _TORCHEASYREC[format == "torcheasyrec-offset"] if name in columns), None)
        if ids is None or codes is None:
            raise ValueError(f"{path} has the columns {', '.join(columns)}; expected pid or item_id, and codes")
        item_ids, lists = [], []
        for labels, batch in file.batches([ids, codes]):
            item_ids += id_values(labels, path)
            lists.append(batch)
        kind = file.schema.field(codes).type
    import pyarrow
    lists = pyarrow.chunked_array(lists, kind).combine_chunks()
    if pyarrow.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pyarrow.list_(lists.type.value_type))
    if not pyarrow.types.is_list(lists.type) and not pyarrow.types.is_large_list(lists.type):
        raise ValueError(f"{path}: column {codes} holds {lists.type}; expected lists of integers")
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if lists.null_count or lists.flatten().null_count:
        raise ValueError(f"{path}: column {codes} has rows without a list, or lists with a code missing; "
                         "expected equally many in each row")
    if len(lengths) != 1:
        raise ValueError(f"{path}: column {codes} holds lists of {lengths.tolist()} codes; "
                         "expected equally many in each row")
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return np.array(flat.reshape(len(lists), -1)), item_ids, None       # its own, as Arrow's cannot be written


def _read_text(path, format):
    item_ids, names, flat, widths = [], [], array("q"), array("q")
    for number, line in _lines(path):
        try:
            if number == 1:
                parse = _PARSERS[format or _guessed(line)]
            codes, *labels = parse(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}, found {line[:60]!r}") from None
        flat.extend(codes)
        widths.append(len(codes))
        if labels:
            names.append(labels[0])
            item_ids.append(labels[1])
    return _rectangle(path, flat, widths)[0], item_ids or None, names or None


def _lines(path):
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            yield number, line.decode("utf-8", "replace").rstrip("\r\n")


def _guessed(line):
    if line.startswith("<|"):
        return "openonerec"
    return "minionerec" if line.startswith("<") else "semantic-id"


def _parse_info(line):
    tokens, tab, rest = line.partition("\t")
    title, second_tab, item_id = rest.rpartition("\t")
    if not tab or not second_tab:
        raise ValueError("expected tokens, a tab, a title, a tab and an item ID")
    return token_codes(tokens.replace("><", ">\n<").split("\n")), title, item_id


def _parse_openonerec(line):
    match = _OPENONEREC.fullmatch(line)
    if not match:
        raise ValueError("expected <|sid_begin|><s_a_340><s_b_6566><|sid_end|>")
    return [token_codes(match[1].replace("<s_", "<").replace("><", ">\n<").split("\n"))]


def _parse_semantic_id(line):
    if not re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})*", line):
        raise ValueError("expected codes such as 3-9-1")
    return [[int(code) for code in line.split("-")]]


def _rectangle(path, flat, widths):
    """Rows of L or L+1 codes as a table, 0 where the last is missing; and whether any misses it."""
    widths = np.frombuffer(widths, np.int64)
    least, most = int(widths.min()), int(widths.max())
    if most - least > 1:
        raise ValueError(f"{path} has IDs of {least} to {most} codes; expected as many in each, "
                         "or one more where items collide")
    table = np.zeros((len(widths), most), np.int64)
    table[np.arange(most) < widths[:, None]] = flat
    return table, most > least


_PARSERS = {"minionerec": _parse_info, "openonerec": _parse_openonerec,
            "semantic-id": _parse_semantic_id}
_READERS = {".json": _read_json, ".jsonl": _read_own, ".csv": _read_csv, ".npy": _read_own, ".pt": _read_tensor,
            ".parquet": _read_parquet, ".txt": _read_text}
