"""Item IDs as they travel: text or whole numbers, of one kind in a table. Knows no features and no codes.

An item ID keeps its kind from the file that it comes from to the one that it goes to. Two of them name one item when
their text is the same: 5 and "5" do, "05" names another. So a file that knows text alone, as keys of JSON are, still
says which item is meant.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

from .words import brief

ITEM_NUMBERS = ".item2id"               # a line `ID<tab>row` for each item, as LC-Rec and MiniOneRec have it
# What a column or entry with item IDs is called by those who write feature files; the first that is there is taken.
ID_COLUMNS = ("item_ids", "item_id", "pid", "ItemID", "asin", "id", "ids")
PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_LEAST, _MOST = -2 ** 63, 2 ** 64 - 1
# What ends a line or a field for some reader: `str.splitlines` knows them all.
LINE_BREAKS = re.compile("[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029\0]")


def of_one_kind(ids) -> list:
    """Item IDs as integers if all of them are, else as text.

    Raises:
        ValueError: one is neither text nor a whole number of 64 bits, or is empty; its row is named.
    """
    for row, item in enumerate(ids):
        if type(item) is str and item:
            continue
        if type(item) is not int:
            raise ValueError(f"has {brief(item)!r} ({type(item).__name__}) as the ID of row {row}; expected text or "
                             "a whole number")
        if not _LEAST <= item <= _MOST:
            raise ValueError(f"has {brief(item)} as the ID of row {row}, which has more than 64 bits; write it as text")
    if not any(type(item) is int for item in ids):
        return list(ids)
    integers = all(type(item) is int for item in ids) and (min(ids) >= 0 or max(ids) < 2 ** 63)
    return list(ids) if integers else list(map(str, ids))


def rows_by_text(ids) -> dict:
    """text -> row, by which an item is looked up whatever kind its ID is of.

    Raises:
        ValueError: an ID is there twice.
    """
    rows = {str(item): row for row, item in enumerate(ids)}
    if len(rows) < len(ids):
        (item, times), = Counter(map(str, ids)).most_common(1)
        first = next(row for row, other in enumerate(ids) if str(other) == item)
        raise ValueError(f"has the item ID {item!r} {times} times, first for row {first}, and {len(ids) - len(rows)} "
                         "repeats in all; expected each ID once")
    return rows


def ids_checksum(ids):
    """32 hex digits that tell item IDs in this order from any others, 5 and "5" being one; None for None."""
    text = None if ids is None else "\n".join(map(str, ids))
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def written_alike(item) -> str:
    """An item ID without what gets lost or added on the way from one file to another: case, spaces around it, zeros
    before a number, and the ".0" that a table with gaps makes of it."""
    text = str(item).strip().casefold()
    number = re.fullmatch(r"0*(\d+)(\.0)?", text)
    return number[1] if number else text


def kind_of(ids):
    """"integer", "text", or None where there are none."""
    return None if ids is None else "integer" if ids and type(ids[0]) is int else "text"


def like_row_numbers(ids) -> bool:
    """Whether IDs are the numbers 0 to N - 1, in whatever order."""
    return ids is not None and set(map(str, ids)) == set(map(str, range(len(ids))))


def in_row_order(ids) -> bool:
    """Whether the ID of each row is its number."""
    return all(str(item) == str(row) for row, item in enumerate(ids))


def as_integers(texts) -> list:
    """Texts that were integers before a file made text of them; as they are where one cannot have been."""
    plain = all(PLAIN_INTEGER.fullmatch(text) and _LEAST <= int(text) <= _MOST for text in texts)
    return list(map(int, texts)) if plain else list(texts)


def id_column(names, wanted, where):
    """The one of `names` that holds item IDs: the `wanted` one, or the first of ID_COLUMNS that is there, or None.

    Raises:
        ValueError: there is none that is called as `wanted`.
    """
    if wanted is not None and wanted not in names:
        raise ValueError(f"{where} has no column {wanted!r} for the item IDs; "
                         f"it has {', '.join(map(str, list(names)[:20]))}")
    return wanted if wanted is not None else next((name for name in ID_COLUMNS if name in names), None)


def id_values(values, where) -> list:
    """What a column holds as a list: bytes become the text that they spell.

    Raises:
        ValueError: bytes that are no UTF-8 text, or a table of more or fewer than one axis.
    """
    if len(getattr(values, "shape", (0,))) != 1:        # which could be a billion rows of nothing
        raise ValueError(f"{where} has shape {values.shape}; expected one item ID for each row")
    try:
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} has item IDs of bytes that spell no text ({error}); write them as text or whole "
                         "numbers") from None
    except SystemError as error:                        # numpy has read characters that there are not
        raise ValueError(f"{where} holds damaged item IDs ({error}); save them again") from None


def check_lines(ids, what) -> None:
    """Refuse IDs that a file of lines and tabs, `what`, cannot hold.

    Raises:
        ValueError: the first such ID and its row are named.
    """
    for row, item in enumerate(ids or ()):
        if type(item) is str and LINE_BREAKS.search(item):
            raise ValueError(f"the item ID {item[:60]!r} of row {row} holds a tab or a line break, which {what} cannot "
                             "hold; rename it, or choose json or jsonl")


def read_item_numbers(path, count=None) -> list:
    """Item IDs, as text, in the order of the row numbers that a file of lines `ID<tab>row` gives them.

    Args:
        path: the file.
        count: N, how many are expected, or None.

    Raises:
        ValueError: a line of another form, or rows that are not 0 to N - 1, each once; the line is named.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); expected lines of an item ID, a tab and a row number"
                         ) from None
    ids = [None] * len(lines)
    for number, line in enumerate(lines, start=1):
        item, tab, row = line.removesuffix("\r").rpartition("\t")
        if not tab or not item or not re.fullmatch(r"[0-9]{1,18}", row):
            raise ValueError(f"{path}, line {number}: expected an item ID, a tab and a row number, found {line[:60]!r}")
        if int(row) >= len(lines) or ids[int(row)] is not None:
            raise ValueError(f"{path}, line {number}: the row {row} of {item[:40]!r} is there twice, or is not below "
                             f"the {len(lines)} lines of the file; expected each row from 0 on once")
        ids[int(row)] = item
    if count is not None and len(ids) != count:
        raise ValueError(f"{path} names {len(ids)} items, expected {count}; it is of other items, or cut off")
    return ids
