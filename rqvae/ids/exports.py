"""Semantic IDs -> the exact files that other systems' recommenders read. Knows none of their code.

A format plans its files as pairs (path, write), so that all is checked before anything is written.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..codes import as_codes, as_item_ids, as_labels, check_range, level_sizes
from ..collisions import collision_ranks, id_keys, run_starts
from ..storage.files import write_atomically
from ..storage.item_ids import ITEM_NUMBERS, LINE_BREAKS, as_integers, check_lines
from ..storage.sets import expect, together
from ..storage.words import spelled, warn
from . import FORMATS
from .files import refuse_existing, write_index
from .tokens import level_letters, level_offsets, to_tokens

_ROWS_AT_ONCE = 2 ** 16
_DATA_SUFFIXES = (".json", ".jsonl", ".npy", ".npz", ".pt", ".parquet", ".txt", ".csv", ".tsv")
_THREE_CODES = {"minionerec": "MiniOneRec", "openonerec": "OpenOneRec"}
_INDICES = {"lcrec": "LC-Rec and LETTER", "minionerec": "MiniOneRec", "minionerec-kmeans": "MiniOneRec"}


class _Items(NamedTuple):
    codes: np.ndarray               # (N, L) int64
    sizes: list[int]                # L
    item_ids: list | None           # N, all text or all integers
    names: list[str] | None         # N
    candidates: np.ndarray | None   # (N, T)


class _Place(NamedTuple):
    main: Path                      # the main file
    stem: Path                      # the same without its suffix
    named: bool                     # the caller named the file, and not a folder

    def beside(self, suffix):
        return self.stem.with_name(self.stem.name + suffix)


@spelled
def export_semantic_ids(codes, format, folder_or_path, *, num_embeddings, item_ids=None,
                        names=None, candidates=None, overwrite=False) -> list[Path]:
    """Write semantic IDs in the form that another system reads.

    All files take their names together, the main file last: what ends the writing leaves the old set.

    Args:
        codes: (N, L) or (N,) integers. Formats that number the items of a collision do so by
            themselves: they want codes without a suffix.
        format: a name from `FORMATS`.
        folder_or_path: a folder, where the files are called after the format, or the path of the
            main file, after which the others are called. Folders are made if missing.
        num_embeddings: K, or one for each level.
        item_ids: N different item IDs. Systems that know items by row number (lcrec, minionerec,
            minionerec-kmeans, grid, tiger, semantic-id) get them in a second file `.item2id`,
            a line `ID<tab>row` for each item, and cannot have IDs with tabs or line breaks. Integers stay
            integers in Parquet.
        names: N titles, for the formats that have titles.
        candidates: (N, T) last codes that each item could have, the best first, for torcheasyrec; see
            `uniqueness.ranked_last_codes`.
        overwrite: replace files that exist.

    Returns:
        The files written, the main file first.

    Raises:
        ValueError: an unknown format or suffix, codes or labels that do not fit.
        FileExistsError: one of the files exists, and `overwrite` is off; none is written.
        ImportError: the format is Parquet, and pyarrow is missing.
    """
    codes = as_codes(codes)
    sizes = level_sizes(num_embeddings, codes.shape[1])
    check_range(codes, sizes)
    items = _Items(codes, sizes, as_item_ids(item_ids, len(codes)),
                   as_labels(names, len(codes), "names"), _checked_candidates(candidates, len(codes), sizes[-1]))
    plan = _plan(items, format, folder_or_path)
    refuse_existing([path for path, _ in plan], overwrite)
    for sentence in _caveats(items, format, plan[0][0]):
        warn(sentence)
    with together():
        for path, write in reversed(plan):
            write_atomically(path, write, replace=overwrite)
    return [path for path, _ in plan]


def check_export(format, folder_or_path, *, has_item_ids=False, item_ids=None, overwrite=False) -> None:
    """Refuse, before there are any codes, a format, place or item ID that an export would refuse."""
    item_ids = item_ids or (["0"] if has_item_ids else None)
    plan = _plan(_Items(np.zeros((1, 1), np.int64), [1], item_ids, None, None), format, folder_or_path)
    refuse_existing([path for path, _ in plan], overwrite)
    for path, _ in plan:
        expect(path)


def _checked_candidates(candidates, count, size):
    if candidates is None:
        return None
    candidates = as_codes(candidates, "candidates")
    if len(candidates) != count or candidates.max() >= size:
        raise ValueError(f"candidates are {len(candidates):,} rows with codes up to {candidates.max()}; "
                         f"expected a row for each of the {count:,} items, and last codes below {size}")
    return candidates


def _caveats(items, format, main):
    """What the system that reads these files will not see, in sentences that name the way out."""
    count, levels = items.codes.shape
    system = _THREE_CODES.get(format)
    if system and levels < 3:
        yield f"{system} reads three codes of an ID, and these have {levels}; train with --num-quantizers 3"
    elif system and levels > 3:
        own = int((collision_ranks(items.codes[:, :3])[1] == 1).sum())
        yield (f"{system} reads the first three codes of an ID, and these have {levels}: {own:,} of {count:,} items "
               "are told from all others by those; train with --num-quantizers 3, and let --unique optimal do what a "
               "suffix does")
    if format == "minionerec-kmeans" and levels == 3:
        own = int((collision_ranks(items.codes)[1] == 1).sum())
        if own < count:
            yield (f"MiniOneRec numbers colliding items by a fourth token, but reads three: {own:,} of {count:,} items "
                   "are told from all others by those; --format minionerec gives every item three of its own")
    if format in _INDICES and not main.name.endswith(".index.json"):
        yield f"{main.name}: the scripts of {_INDICES[format]} look for NAME.index.json; name it so, or rename it"
    if format == "openonerec" and "0" in map(str, items.item_ids or [0]):
        yield "OpenOneRec takes pid 0 for no item, and one has it; number the items from 1 on, by --item-ids"


def _plan(items, format, folder_or_path):
    if format not in FORMATS:
        raise ValueError(f"there is no export format {format!r}; there are {', '.join(FORMATS)}")
    path, suffixes = Path(folder_or_path), FORMATS[format].suffixes
    is_folder = path.is_dir() or str(folder_or_path).endswith(os.sep)
    if is_folder or path.suffix not in _DATA_SUFFIXES:
        place = _Place(path / (format + suffixes[0]), path / format, False)
    elif path.suffix in suffixes:
        name = re.sub(r"(\.index)?\.[^.]+$", "", path.name)
        place = _Place(path, path.with_name(name), True)
    else:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; format {format!r} writes "
                         f"{' or '.join(suffixes)}, or into a folder")
    return _PLANS[format](items, place)


def _item_numbers(items, place):
    path, item_ids = place.beside(ITEM_NUMBERS), items.item_ids
    check_lines(item_ids, path.name)
    if item_ids is None and path.exists():              # of other items: here the rows are the items
        item_ids = range(len(items.codes))
    return [(path, _text(f"{item_id}\t{row}" for row, item_id in enumerate(item_ids)))] if item_ids else []


def _lcrec(items, place):
    level_letters(items.codes.shape[1])                 # too many levels: said before writing
    index = (place.main, lambda file: write_index(file, items.codes))
    return [index, *_item_numbers(items, place)]


def _minionerec(items, place):
    titles = items.names or (f"Item_{row}" for row in range(len(items.codes)))
    rows = enumerate(zip(_token_rows(items.codes), titles))
    lines = (f"{''.join(tokens)}\t{_one_line(title)}\t{row}" for row, (tokens, title) in rows)
    info = place.stem.parent / "info" / f"{place.stem.name}.txt"
    return [*_lcrec(items, place), (info, _text(lines))]


def _minionerec_kmeans(items, place):
    extra = level_letters(items.codes.shape[1] + 1)[-1]
    rank, size = collision_ranks(items.codes)

    def write(file):
        file.write(b"{")
        for row, tokens in enumerate(_token_rows(items.codes + 1)):
            if size[row] > 1:
                tokens.append(f"<{extra}_{rank[row] + 1}>")
            listed = ",\n    ".join(f'"{token}"' for token in tokens)
            file.write(f'{"," if row else ""}\n  "{row}": [\n    {listed}\n  ]'.encode())
        file.write(b"\n}")

    return [(place.main, write), *_item_numbers(items, place)]


def _grid(items, place):
    rank, size = collision_ranks(items.codes)
    table = np.column_stack([items.codes, np.where(size > 1, rank + 1, 0)])     # (N, L+1)
    tensor = torch.from_numpy(table).T.contiguous()
    return [(place.main, lambda file: torch.save(tensor, file)), *_item_numbers(items, place)]


def _tiger(items, place):
    table = np.column_stack([items.codes, collision_ranks(items.codes)[0]])     # (N, L+1)
    writers = {".npy": lambda file: np.save(file, table, allow_pickle=False),
               ".pt": lambda file: torch.save(torch.from_numpy(table), file)}
    suffixes = [place.main.suffix] if place.named else writers
    return [*((place.beside(suffix), writers[suffix]) for suffix in suffixes),
            *_item_numbers(items, place)]


def _openonerec(items, place):
    letters = level_letters(items.codes.shape[1])
    text = "<|sid_begin|>" + "".join(f"<s_{letter}_%d>" for letter in letters) + "<|sid_end|>"
    pids = items.item_ids or list(range(len(items.codes)))
    if type(pids[0]) is str:
        pids = as_integers(pids)                                    # as in OpenOneRec's own data
    kind = _column_kind(pids)

    def columns(arrow, rows):
        codes = _lists(arrow, items.codes[rows])
        return {"pid": _column(arrow, pids[rows], kind), "codes": codes, "sid": codes}

    return [(place.main, _parquet(len(items.codes), columns)),
            (place.beside(".txt"), _text(text % tuple(codes) for codes in _rows(items.codes)))]


def _torcheasyrec(items, place):
    item_ids = items.item_ids or list(range(len(items.codes)))
    offsets, kind = level_offsets(items.sizes, len(items.sizes)), _column_kind(item_ids)
    keys = id_keys(items.codes)
    order = np.argsort(keys, kind="stable")
    bounds = np.append(run_starts(keys[order]), len(order))         # of the items of each ID

    def columns(arrow, rows):
        return {"item_id": _column(arrow, item_ids[rows], kind),
                "codes": _lists(arrow, items.codes[rows]),
                "offset_codebook": _lists(arrow, items.codes[rows] + offsets),
                **({} if items.candidates is None else {"candidate_codes": _lists(arrow, ranked(rows))})}

    def ranked(rows):
        """(n, T * L): the ID of each item with one candidate after the other as its last code."""
        candidates = items.candidates[rows]
        table = np.repeat(items.codes[rows, None], candidates.shape[1], axis=1)         # (n, T, L)
        table[..., -1] = candidates
        return table.reshape(len(table), -1)

    def groups(arrow, rows):
        limits = bounds[rows.start:rows.stop + 1]
        members = [item_ids[row] for row in order[limits[0]:limits[-1]].tolist()]
        itemids = arrow.ListArray.from_arrays(arrow.array(limits - limits[0], arrow.int32()),
                                              _column(arrow, members, kind))
        return {"codebook": _lists(arrow, items.codes[order[limits[:-1]]]), "itemids": itemids}

    return [(place.main, _parquet(len(items.codes), columns)),
            (place.beside(".groups.parquet"), _parquet(len(bounds) - 1, groups))]


def _flashrec(items, place):
    pids = items.item_ids or list(range(len(items.codes)))
    order = np.argsort(id_keys(items.codes), kind="stable")

    def write(file):
        last, opening = None, "{"
        for row, codes in zip(order.tolist(), _rows(items.codes[order])):
            key = ",".join(map(str, codes))
            before = ", " if key == last else f'{opening}"{key}": ['
            file.write(f"{before}{json.dumps({'pid': pids[row]})}".encode())
            last, opening = key, "], "
        file.write(b"]}")

    return [(place.main, write)]


def _rectokens(items, place):
    tensor = torch.from_numpy(np.ascontiguousarray(items.codes))
    return [(place.main, lambda file: torch.save(tensor, file)), *_item_numbers(items, place)]


def _semantic_id(items, place):
    rank, _ = collision_ranks(items.codes)
    lines = ("-".join(map(str, [*codes, number] if number else codes))
             for codes, number in zip(_rows(items.codes), rank.tolist()))
    return [(place.main, _text(lines)), *_item_numbers(items, place)]


_PLANS = {                  # (_Items, _Place) -> [(path, write), ...]
    "lcrec": _lcrec, "minionerec": _minionerec, "minionerec-kmeans": _minionerec_kmeans, "grid": _grid,
    "tiger": _tiger, "openonerec": _openonerec, "torcheasyrec": _torcheasyrec, "semantic-id": _semantic_id,
    "flashrec": _flashrec, "rectokens": _rectokens,
}


def _text(lines):
    def write(file):
        for line in lines:
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
    return write


def _one_line(title):
    return re.sub(f"{LINE_BREAKS.pattern}+", " ", title)


def _rows(codes):
    """The rows as lists, a few at a time, as lists take many times the memory of an array."""
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        yield from codes[start:start + _ROWS_AT_ONCE].tolist()


def _token_rows(codes):
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        yield from to_tokens(codes[start:start + _ROWS_AT_ONCE])


def _parquet(count, columns):
    """Writes `count` rows; `columns(arrow, rows)` gives those of a slice as a dict of arrays."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("this format is Parquet, which needs the package pyarrow: "
                          "pip install pyarrow") from None

    def write(file):
        writer = None
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, count))
            table = pyarrow.table(columns(pyarrow, rows))
            writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
        writer.close()
    return write


def _column_kind(item_ids):
    """What Parquet calls a column of these item IDs."""
    return "string" if type(item_ids[0]) is str else "uint64" if max(item_ids) >= 2 ** 63 else "int64"


def _column(arrow, values, kind):
    return arrow.array(values, getattr(arrow, kind)())


def _lists(arrow, table):
    """(n, L) int64 as a column of n lists of L."""
    offsets = np.arange(0, table.size + 1, table.shape[1], dtype=np.int32)
    return arrow.ListArray.from_arrays(arrow.array(offsets), arrow.array(table.ravel()))
