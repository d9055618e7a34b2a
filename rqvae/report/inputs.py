"""What a report wants to know beside the IDs: the run's history, its split of the items, pairs of items, row order.

Shapes:  N items   L levels   P pairs
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from ..ids.files import SemanticIds, item_numbers_beside, load_semantic_ids
from ..identity import compared, recorded
from ..items.batches import FeatureLoader, split_rows
from ..items.interactions import read_pairs
from ..items.readers import require_file
from ..storage.item_ids import in_row_order, like_row_numbers, rows_by_text
from ..storage.words import counted, describe_content


def training_history(path, extra) -> list:
    """The epochs of the run that wrote a checkpoint; the row that it was written after has "chosen".

    They are those of the whole run where `metrics.jsonl` beside the checkpoint has them.

    Args:
        path: of the checkpoint.
        extra: what the checkpoint holds under "rqvae", or {}.
    """
    known = list(extra.get("history") or ())
    if not known:
        return []
    try:
        lines = Path(path).with_name("metrics.jsonl")
        rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()] if lines.is_file() else []
    except (OSError, ValueError):
        rows = []
    same = rows[:len(known)] == known and all(isinstance(row, dict) and "epoch" in row for row in rows)
    history = rows if same else known
    history[len(known) - 1] = {**known[-1], "chosen": True}
    return history


def unfinished_words(path, extra, history) -> str:
    """A sentence where the run that wrote a checkpoint did not come to its end, as far as that can be seen; else "".

    Args:
        path: of the checkpoint.
        extra: what the checkpoint holds under "rqvae", or {}.
        history: of `training_history`.
    """
    wanted, path = (extra.get("notes") or {}).get("epochs"), Path(path)
    known = path.with_name("metrics.jsonl").exists() or path.name == "last.ckpt"
    if not known or not isinstance(wanted, int) or len(history) >= wanted:
        return ""
    return (f"this run was stopped after {len(history):,} of {counted(wanted, 'epoch')}: what follows is not what it "
            f"would come to; train --resume {path.with_name('last.ckpt')} goes on with it")


def load_names(path, count) -> list:
    """Names of `count` items, for people to read, from a .txt (one a line) or a .json list; they may repeat.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: another content, or another number of names.
    """
    path = Path(path)
    require_file(path)
    if path.suffix.lower() not in (".txt", ".json"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}; expected names as a .txt with one on each line or a "
                         ".json list")
    try:
        text = path.read_text("utf-8-sig")
        names = json.loads(text) if path.suffix.lower() == ".json" else text.split("\n")
    except (ValueError, RecursionError):
        raise ValueError(f"{path} cannot be read as {path.suffix}: {describe_content(path)}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} holds other values than text; expected a list of names, [\"Drill\", ...]")
    names = names[:-1] if path.suffix.lower() == ".txt" and names[-1] == "" else names
    if len(names) != count:
        raise ValueError(f"{path} has {counted(len(names), 'name')} for {counted(count, 'item')}; "
                         "expected one for each, in the same order")
    return names


def trained_and_held_out(extra, table):
    """The rows of `table` that a run trained on and held out, or None where it did not train on this table.

    Args:
        extra: what the run's checkpoint holds under "rqvae", or {}.
        table: a `FeatureTable`.
    """
    notes = extra.get("notes") or {}
    if not all(name in notes for name in ("val_fraction", "seed", "batch_size")):
        return None
    if notes.get("held_out") is not None:               # a run that kept published IDs
        val_rows = torch.tensor(notes["held_out"], dtype=torch.int64)
        val_rows = val_rows[val_rows < len(table)]
        train_rows = torch.from_numpy(np.setdiff1d(np.arange(len(table)), val_rows.numpy()))
    else:
        train_rows, val_rows = split_rows(len(table), notes["val_fraction"], notes["seed"])
    loader = FeatureLoader(table, notes["batch_size"], shuffle=True, seed=notes["seed"], rows=train_rows)
    # Content, rows and order at once; what else a run does to its batches stands behind it.
    then = str(extra.get("fingerprint")).split(" ")[0]
    same = compared(recorded("checkpoint", {"fingerprint": then}), loader=loader)["batches"]
    return (train_rows, val_rows) if same else None


def load_pairs(path, num_rows) -> np.ndarray:
    """Pairs of row numbers below `num_rows` from a .npy file: (P, 2) int64.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: another content.
    """
    pairs = read_pairs(path).astype(np.int64)
    if pairs.min() < 0 or pairs.max() >= num_rows:
        raise ValueError(f"{path} names the rows {pairs.min()} to {pairs.max()}, "
                         f"but there are rows 0 to {num_rows - 1}")
    return pairs


def in_order_of(table, ids, where) -> SemanticIds:
    """IDs of another file in the row order of the features, by item ID where both sides have them.

    Args:
        table: a `FeatureTable`.
        ids: the `SemanticIds`.
        where: their file, for messages.

    Raises:
        ValueError: they are not of the same items, or it cannot be told whether keys are item IDs or row numbers.
    """
    if len(table) != len(ids.codes):
        raise ValueError(f"{where} has {counted(len(ids.codes), 'item')}, {table.source} has {len(table):,}; "
                         "give the features of the same items")
    if ids.item_ids is None and like_row_numbers(table.item_ids) and not in_row_order(table.item_ids):
        ids = _keys_or_rows(table, ids, where)
    if ids.item_ids is None or table.item_ids is None:
        return ids
    row_of = rows_by_text(ids.item_ids)
    missing = [item_id for item_id in table.item_ids if str(item_id) not in row_of]
    if missing:
        raise ValueError(f"{where} has no ID for {len(missing):,} of the items of {table.source}, such as "
                         f"{missing[0]!r}; give the features of the same items")
    rows = [row_of[str(item_id)] for item_id in table.item_ids]
    names = None if ids.names is None else [ids.names[row] for row in rows]
    return SemanticIds(ids.codes[rows], list(table.item_ids), names)


def _keys_or_rows(table, ids, where):
    """IDs of a file with the numbers 0 to N - 1 for keys, where the items' own IDs are such numbers in another order.

    Our .json lists its keys, which are item IDs, in row order; an index that lists them in ascending order may mean
    either.
    """
    keys = load_semantic_ids(where).item_ids if str(where).endswith(".json") else None
    if keys is not None and list(map(str, keys)) == list(map(str, table.item_ids)):
        return ids._replace(item_ids=list(range(len(ids.codes))))           # the importer sorted them by key
    raise ValueError(f"the items of {table.source} have the numbers 0 to {len(table) - 1} for item IDs, in another "
                     f"order than their rows, and {where} does not say whether its own numbers are item IDs or rows; "
                     f"put its {item_numbers_beside(where).name} beside it, or leave --item-ids out if they are rows")
