"""What users did with the items: a file of it -> each user's items in time order. Knows no features and no models.

A million users cost the memory of a few numbers an event: files are read a piece at a time, and what is kept are flat
arrays.

Shapes:  N items, rows of the feature table   U users   E events (a user took an item)   P pairs
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..storage.arrays import INTEGERS, read_npy
from ..storage.item_ids import rows_by_text
from ..storage.words import counted, spelled
from .amazon_p5 import leave_one_out, load_sequences
from .events import read_events
from .readers import require_file
from .user_lists import read_lists

SUFFIXES = (".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".npy")
LONGEST = 1000      # items of one user; the list of one who took more is a program's, and nearly all pairs are in it


class Interactions(NamedTuple):
    items: np.ndarray       # (E,) int32 rows of the table: those of the first user in time order, of the second, ...
    offsets: np.ndarray     # (U+1,) int64: user u took items[offsets[u]:offsets[u + 1]]
    words: str              # a line for people: how much there is, how it was read, what was left out

    def of(self, user) -> np.ndarray:
        """What one user (0 to U - 1, in the order of the file) took."""
        return self.items[self.offsets[user]:self.offsets[user + 1]]

    def users(self) -> np.ndarray:
        """(E,) int64, whose event each is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@spelled
def read_interactions(path, count, item_ids=None, *, user_column=None, item_column=None, time_column=None,
                      longest=LONGEST) -> Interactions:
    """What users did, from any file that says so.

    Items are named by item ID, or by row number where they have no IDs or the file has other names; `words` tells
    which. Items that are not among these, an item taken twice in a row, and all but the last `longest` of a user are
    left out, and counted in `words`.

    Args:
        path: `.json` with {user: [items]} or a list of lists (LC-Rec, LETTER: `inter.json`); `.jsonl`, a list a line;
            `.txt`, a line a user: the user, then items, numbered from 1 unless there is a 0 (P5:
            `sequential_data.txt`); `.csv`, `.tsv` or `.parquet`, a row an event; `.npy` with pairs (P, 2) of rows
            taken one after the other.
        count: N, the number of items.
        item_ids: their N IDs, or None.
        user_column, item_column, time_column: of a table; by default the first of `events.COLUMNS` that is there.
            Without a time column the order of the file is that of time.
        longest: items of one user that count.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file; similar names are offered.
        ImportError: the file is Parquet, and pyarrow is missing.
        ValueError: another kind of file, a damaged one, or one that names none of these items.
    """
    path = Path(path)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; expected interactions as one of {' '.join(SUFFIXES)}")
    columns = {"user": user_column, "item": item_column, "time": time_column}
    given = [name for name, value in columns.items() if value is not None]
    if given and suffix not in (".csv", ".tsv", ".parquet"):
        raise ValueError(f"--{given[0]}-column is {columns[given[0]]}, but {path} has no columns; leave it out")
    names = _Names(count, item_ids)
    ordered = ""
    if suffix == ".npy":
        lengths = _read_pairs(path, names)
    elif suffix in (".csv", ".tsv", ".parquet"):
        order, lengths, ordered = read_events(path, names.add, columns)
        names.take(order)
    else:
        lengths = array("q")
        for items in read_lists(path):
            names.add(items)
            lengths.append(len(items))
        lengths = np.array(lengths)
    rows, named = names.rows(path, from_one=suffix == ".txt")
    return _tidied(rows, lengths, count, longest, f"in {path}, {named}{ordered}")


@spelled
def p5_interactions(root, split="beauty", count=None) -> Interactions:
    """The training part of a P5 split: all but the last two items of each user, which are for validation and test.

    Args:
        count: the number of items, for `words`; None for those that were taken.

    Raises: as `amazon_p5.load_sequences`.
    """
    train = leave_one_out(load_sequences(root, split)).train
    lengths = np.array([len(items) for items in train.values()], dtype=np.int64)
    rows = np.fromiter((row for items in train.values() for row in items), np.int32, int(lengths.sum()))
    count = len(np.unique(rows)) if count is None else count
    return _tidied(rows, lengths, count, LONGEST, f"in the training part of the split {split} of {root}")


class _Names:
    """Items as a file names them, in the order of the file -> rows. Holds one or two numbers an event."""

    def __init__(self, count, item_ids):
        self.count = count
        self.row_of = None if item_ids is None else rows_by_text(item_ids)
        self.example = None if item_ids is None else next(iter(item_ids), "")
        self.by_id, self.by_number = array("i"), array("i")      # -1: no such item; numbers from 0 to N
        self.first = None                                        # name, for messages

    def add(self, names) -> None:
        """Take note of names: texts and whole numbers."""
        if self.first is None and len(names):
            self.first = names[0]
        self.by_number.extend([self._number(name) for name in names])
        if self.row_of is not None:
            row_of = self.row_of
            self.by_id.extend([row_of.get(str(name), -1) for name in names])

    def take(self, order) -> None:
        """Put the events noted so far into another order."""
        self.by_number = np.asarray(self.by_number)[order]
        self.by_id = np.asarray(self.by_id)[order] if self.row_of is not None else self.by_id

    def _number(self, name):
        if type(name) is int:
            return name if 0 <= name <= self.count else -1
        if type(name) is str and name.isdecimal() and len(name) < 11:
            number = int(name)
            return number if number <= self.count else -1
        return -1

    def rows(self, path, from_one):
        """(E,) int32 rows, -1 for an item that is not among these, and how the file names them."""
        numbers = np.asarray(self.by_number, dtype=np.int32)
        if not len(numbers):
            raise ValueError(f"{path} holds no interactions; expected the items that each user took")
        lowest, highest = numbers.min(initial=self.count + 1, where=numbers >= 0), numbers.max()
        shift = int(from_one and lowest > 0)
        as_rows = np.where(numbers - shift < self.count, numbers - shift, -1) if shift or highest == self.count \
            else numbers
        as_rows[numbers < 0] = -1
        found = np.asarray(self.by_id, dtype=np.int32)
        if self.row_of is not None and not (2 * (found >= 0).sum() < len(found)
                                            and (as_rows >= 0).sum() > (found >= 0).sum()):
            as_rows, named = found, "named by item ID"
        else:
            named = f"named by row number from {shift}"
            if not shift and lowest == 1 and highest == self.count:
                raise ValueError(f"{path} numbers items from 1 to {self.count}, but rows are counted from 0; "
                                 "take 1 off, or give such item IDs by --item-ids")
        if not (as_rows >= 0).any():
            known = f"IDs such as {self.example!r}" if self.row_of is not None else f"the rows 0 to {self.count - 1}"
            raise ValueError(f"{path} names none of these items: it has {str(self.first)[:60]!r} and the like, the "
                             f"items have {known}; name the items that it is about, or give their IDs by --item-ids")
        return as_rows, named


def read_pairs(path) -> np.ndarray:
    """(P, 2) integers of a .npy: row numbers of items that go together.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: another content.
    """
    path = Path(path)
    require_file(path)
    pairs = read_npy(path, INTEGERS)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"{path} holds {pairs.dtype} of shape {pairs.shape}; expected integers of shape (pairs, 2), "
                         "row numbers of items that go together")
    return pairs


def _read_pairs(path, names):
    """Two events for each of the pairs (P, 2): the lengths (P,), all 2."""
    pairs = read_pairs(path).reshape(-1)
    names.first, names.row_of = int(pairs[0]), None
    names.by_number = np.where((pairs >= 0) & (pairs < names.count), pairs, -1).astype(np.int32)
    return np.full(len(pairs) // 2, 2)


def _tidied(rows, lengths, count, longest, where) -> Interactions:
    """Without what is not to count, which is said."""
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)      # (E,)
    known = rows >= 0
    rows, users, strangers = rows[known], users[known], int(len(rows) - known.sum())
    again = np.zeros(len(rows), bool)
    again[1:] = (rows[1:] == rows[:-1]) & (users[1:] == users[:-1])
    rows, users = rows[~again], users[~again]
    starts = np.flatnonzero(np.diff(users, prepend=-1))                      # of users with events
    lengths = np.diff(starts, append=len(users))
    endless = int((lengths > longest).sum())
    if endless:
        to_end = np.repeat(starts + lengths, lengths) - np.arange(len(rows))
        rows, lengths = rows[to_end <= longest], np.minimum(lengths, longest)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    out = [f"{counted(strangers, 'event')} of items that are not among these" if strangers else "",
           f"{counted(int(again.sum()), 'repeat')} in a row" if again.any() else "",
           f"all but the last {counted(longest, 'item')} of {counted(endless, 'user')}" if endless else ""]
    out = "; left out: " + ", ".join(filter(None, out)) if any(out) else ""
    taken = len(np.unique(rows))
    words = (f"{counted(len(lengths), 'user')} took {taken:,} of {counted(count, 'item')} "
             f"{counted(len(rows), 'time')}, {where}{out}")
    return Interactions(rows.astype(np.int32, copy=False), offsets, words)
