"""Semantic IDs as a table of CSV: item_id (or row), name where there are any, code_1, code_2, ...

TorchEasyRec's is read as well: a column of item IDs, and one of codes between commas.

Shapes:  N items   L levels
"""

import csv
import io
import re
from array import array

import numpy as np

from ..codes import as_item_ids
from ..storage.words import brief, warn

_ROWS_AT_ONCE = 2 ** 14
_FORMULA = re.compile(r"[=+@\t\r]|-(?![0-9]+$)")


def write_table(file, codes, item_ids, names) -> None:
    """A header, and a line for each item, into an open binary file."""
    formulas = [label for values in (item_ids, names) for label in values or () if _FORMULA.match(str(label))]
    if formulas:
        warn(f"{len(formulas)} item IDs or names, such as {brief(formulas[0], 40)!r}, look like formulas to a "
             "spreadsheet, which may run them; open the file there as text, or choose .jsonl")
    text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
    labels = [range(len(codes)) if item_ids is None else item_ids, *([] if names is None else [names])]
    # Before 3.13 Python leaves a carriage return without the quotation marks that keep it from ending the line.
    returns = any("\r" in str(label) for values in labels[item_ids is None:] for label in values)
    lines = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)
    lines.writerow(["row" if item_ids is None else "item_id", *([] if names is None else ["name"]),
                    *(f"code_{level}" for level in range(1, codes.shape[1] + 1))])
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        block = codes[start:start + _ROWS_AT_ONCE].tolist()
        lines.writerows([*(label[row] for label in labels), *item_codes] for row, item_codes in enumerate(block, start))
    text.flush()
    text.detach()


def read_listed_table(path, wanted) -> tuple:
    """The same of a table in which one column has all codes of an item, such as "183,70,232"; None of another table.

    Args:
        path: the .csv.
        wanted: names that the column of codes may have, the first that is there counts.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            labels = next((name for name in ("pid", "item_id") if name in header), None)
            listed = next((name for name in wanted if name in header), None)
            if labels is None or listed is None:
                return None
            labels, listed, ids, flat, levels = header.index(labels), header.index(listed), [], array("q"), None
            for line in lines:
                codes = line[listed].split(",") if len(line) == len(header) else []
                levels = levels or len(codes)
                if not codes or len(codes) != levels or not all(code.isascii() and code.isdigit() for code in codes):
                    raise ValueError(f"line {lines.line_num} is {str(line)[:60]}; expected {len(header)} fields, and "
                                     f"equally many codes between commas under {header[listed]}, \"183,70,232\"")
                ids.append(line[labels])
                flat.extend(map(int, codes))
        except (ValueError, OverflowError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from None
    if not ids:
        raise ValueError(f"{path} holds no semantic IDs; expected a line for each item")
    return np.frombuffer(flat, np.int64).reshape(len(ids), -1), ids, None


def read_table(path) -> tuple:
    """(N, L) codes, N item IDs or None, N names or None.

    Raises:
        ValueError: another content; the message has the line.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            first = next((place for place, name in enumerate(header) if name == "code_1"), None)
            if first is None or any(
                    name != f"code_{level}" for level, name in enumerate(header[first:], start=1)) or \
                    header[:first] not in (["row"], ["item_id"], ["row", "name"], ["item_id", "name"]):
                raise ValueError(f"its header is {str(header)[:80]}; expected item_id (or row), name if there are any, "
                                 "code_1, code_2, ...")
            labels, flat = [[] for _ in header[:first]], array("q")
            for line in lines:
                if len(line) != len(header) or not all(code.isascii() and code.isdigit() for code in line[first:]):
                    raise ValueError(f"line {lines.line_num} is {str(line)[:60]}; "
                                     f"expected {len(header)} fields, codes last")
                for values, value in zip(labels, line):
                    values.append(value)
                flat.extend(map(int, line[first:]))
        except (ValueError, OverflowError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from None
    count = len(labels[0])
    if not count:
        raise ValueError(f"{path} holds no semantic IDs; expected a line for each item")
    if header[0] == "row" and labels[0] != list(map(str, range(count))):
        raise ValueError(f"{path}: its rows are not 0 to {count - 1} in order; "
                         "lines are missing, twice there, or sorted")
    try:
        item_ids = None if header[0] == "row" else as_item_ids(labels[0], count)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return np.frombuffer(flat, np.int64).reshape(count, -1), item_ids, labels[1] if first == 2 else None
