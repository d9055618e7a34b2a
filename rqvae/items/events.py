"""Tables with a row an event: user, item and perhaps time -> events by user, in time order. Knows no items.

Shapes:  E events   U users
"""

from __future__ import annotations

import csv
import difflib
from array import array
from datetime import datetime

import numpy as np

from ..storage.packed import decoding
from ..storage.parquet import ParquetTable
from ..storage.words import describe_content

# Columns that are looked for, in lower case and without RecBole's types ("user_id:token").
COLUMNS = {
    "user": ("user_id", "user", "userid", "uid", "reviewerid", "session_id", "customer_id"),
    "item": ("item_id", "item", "itemid", "iid", "parent_asin", "asin", "pid", "product_id", "movieid", "article_id"),
    "time": ("timestamp", "time", "ts", "unixreviewtime", "event_time", "date", "t_dat"),
}
_AT_ONCE = 2 ** 16          # rows


def read_events(path, add, columns):
    """Read a `.csv`, `.tsv` or `.parquet`, a piece of it in memory.

    Args:
        add: called with the items of some rows, in the order of the file.
        columns: names for "user", "item" and "time", or None for those that are usual.

    Returns:
        (E,) the order that brings a user's events together, in time order, and users into the order of their first
        row; (U,) int64 how many events each has; words on what the order is by.

    Raises:
        ImportError: the file is Parquet, and pyarrow is missing.
        ValueError: it is damaged, has not these columns, or a time that is none.
    """
    users, times = array("q"), array("d")
    pieces = _parquet(path, columns) if path.suffix.lower() == ".parquet" else _csv(path, columns)
    timed = next(pieces)
    for who, what, when in pieces:
        add(what)
        # The hash of a text, 64 bits, stands for the user: a million of them differ but for a chance of 10^-7.
        users.extend([hash(user) for user in who])
        if timed:
            times.extend(when)
    order, lengths = _by_user(np.asarray(users), np.asarray(times) if timed else None)
    return order, lengths, f", in the order of {timed!r}" if timed else ", in the order of the file"


def _by_user(users, times):
    """Sort by user, within a user by time, where that is equal by row; users by their first row."""
    if not len(users):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
    starts = np.flatnonzero(np.diff(users[order]) != 0) + 1
    starts = np.concatenate([[0], starts])
    lengths = np.diff(starts, append=len(order))
    first = np.argsort(np.minimum.reduceat(order, starts), kind="stable")
    ends = np.cumsum(lengths[first])
    shift = np.repeat(starts[first] - (ends - lengths[first]), lengths[first])
    return order[np.arange(len(order)) + shift], lengths[first]


def _csv(path, columns):
    """The time column's name or None, and then (users, items, times) of some rows at a time."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            header = next(reader, [])
            found = _columns(path, header, columns)
            user, item, time = (None if name is None else header.index(name) for name in found.values())
            yield found["time"]
            who, what, when = [], [], []
            for row in reader:
                if not row:
                    continue
                try:
                    who.append(row[user])
                    what.append(row[item])
                    if time is not None:
                        when.append(_seconds(row[time]))
                except (IndexError, ValueError) as error:
                    problem = f"has not the {len(header)} fields of the header" if isinstance(error, IndexError) else \
                        f"has {row[time][:40]!r} for a time; expected a number or a date such as 2026-01-31T12:00:00"
                    raise ValueError(f"{path}, line {reader.line_num} {problem}; mend or remove it") from None
                if len(who) == _AT_ONCE:
                    yield who, what, when
                    who, what, when = [], [], []
            yield who, what, when
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text ({describe_content(path)}); save it as UTF-8, decompressed"
                         ) from None
    except csv.Error as error:
        raise ValueError(f"{path}, after line {reader.line_num}: {error}; mend the record there") from None


def _parquet(path, columns):
    """As `_csv`."""
    with ParquetTable(path, "save it as .csv") as file:
        found = _columns(path, file.schema.names, columns)
        yield found["time"]
        for users, items, *times in file.batches([name for name in found.values() if name is not None]):
            yield (_texts(path, users, found["user"]), _texts(path, items, found["item"]),
                   _times(path, *times) if times else [])


def _texts(path, column, name):
    import pyarrow
    kinds = pyarrow.types
    known = (kinds.is_integer, kinds.is_string, kinds.is_large_string)
    if column.null_count or not any(is_kind(column.type) for is_kind in known):
        found = "gaps" if column.null_count else str(column.type)
        raise ValueError(f"{path} has {found} in the column {name!r}; expected a text or a whole number in each row")
    return [str(value) for value in column.to_pylist()]


def _times(path, column):
    import pyarrow
    if pyarrow.types.is_temporal(column.type):
        with decoding(path):                # a time of day is no date
            column = column.cast(pyarrow.timestamp("us")).cast(pyarrow.int64())
    values = column.to_pylist()
    try:
        return [_seconds(value) if isinstance(value, str) else float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        bad = next((value for value in values if not isinstance(value, (int, float))), None)
        raise ValueError(f"{path} has {str(bad)[:40]!r} for a time; expected numbers or dates") from None


def _seconds(text) -> float:
    """A time as a number that grows with it: what is a number stays, a date becomes seconds."""
    try:
        value = float(text)
    except ValueError:
        text = text.strip()
        value = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text).timestamp()
    if value != value:
        raise ValueError
    return value


def _columns(path, header, wanted) -> dict:
    """The column that holds each of user, item and time; None for no time."""
    plain = {}
    for name in header:
        plain.setdefault(name.split(":")[0].strip().lower(), name)
    found = {}
    for kind, usual in COLUMNS.items():
        if wanted[kind] is not None and wanted[kind] not in header:
            near = difflib.get_close_matches(wanted[kind], header, n=1)
            raise ValueError(f"{path} has no column {wanted[kind]!r}; "
                             + (f"did you mean {near[0]!r}? " if near else "")
                             + f"it has {', '.join(header[:20])}")
        found[kind] = wanted[kind] or next((plain[name] for name in usual if name in plain), None)
        if found[kind] is None and kind != "time":
            raise ValueError(f"{path} has no column that is called like {'users' if kind == 'user' else 'items'}; name "
                             f"it by --{kind}-column, it has {', '.join(header[:20])}")
    return found
