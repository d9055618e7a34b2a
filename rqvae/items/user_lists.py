"""Files with a list of items for each user -> these lists, one after the other. Knows no items."""

from __future__ import annotations

import json
import re

from ..storage.words import brief, describe_content

_PIECE = 2 ** 20            # characters read at once
_LONGEST = 2 ** 28          # characters of one user
_NAME = 4096                # characters of a name; where text breaks off, an error is no farther from its end
_BETWEEN = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
_DECODER = json.JSONDecoder()


def read_lists(path):
    """The items of each user, texts or whole numbers, of a `.json`, `.jsonl` or `.txt`; a piece of it in memory.

    Raises:
        ValueError: it is damaged, or of another kind; the message says where.
    """
    read = {".json": _json, ".jsonl": _json_lines, ".txt": _lines}[path.suffix.lower()]
    try:
        with open(path, encoding="utf-8-sig") as file:
            for place, items in read(path, file):
                yield _checked(items, place)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text ({describe_content(path)}); save it as UTF-8, decompressed"
                         ) from None


def _lines(path, file):
    for line in file:
        _, *items = line.split() or [None]
        yield path, items


def _json_lines(path, file):
    for number, line in enumerate(file, 1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place} is not JSON ({error}), it begins with {line[:40]!r}; mend or remove it"
                                 ) from None


def _json(path, file):
    """{user: [items]} or [[items], ...], user by user, whatever the size of the file."""
    text = file.read(_PIECE).lstrip()
    if text[:1] not in ("{", "["):
        raise ValueError(f"{path} is no JSON object of lists ({describe_content(path)}); expected "
                         '{"user": [items], ...}')
    named, at, number = text[0] == "{", 1, 0
    while True:
        at = _BETWEEN.match(text, at).end()
        if text[at:at + 1] in ("}", "]"):
            return
        try:
            user, end = _key(text, at) if named else (number, at)
            items, end = _DECODER.raw_decode(text, end)
        except (ValueError, RecursionError) as error:        # of JSON, or of a number without end
            left = len(text) - at
            broken = len(text) - getattr(error, "pos", 0) > _NAME or left > _LONGEST
            more = "" if broken else file.read(max(_PIECE, left))
            if not more:
                raise ValueError(f"{path} is damaged at user number {number + 1} ({str(error).split(':')[0]}), near "
                                 f"{text[at:at + 40]!r}; expected {{\"user\": [items], ...}}") from None
            text, at = text[at:] + more, 0
            continue
        yield f"{path}, user {user!r}", items
        at, number = end, number + 1


def _key(text, at):
    """The user, and where the list begins."""
    user, end = _DECODER.raw_decode(text, at)
    colon = _COLON.match(text, end)
    if colon is None:
        raise json.JSONDecodeError("Expecting ':' delimiter", text, end)
    return user, colon.end()


def _checked(items, place):
    if not isinstance(items, list):
        raise ValueError(f"{place} holds {type(items).__name__} {brief(items, 40)!r}; "
                         "expected the list of the items that a user took")
    for item in items:
        if type(item) is not int and type(item) is not str:
            raise ValueError(f"{place} names the item {brief(item, 40)!r}; expected item IDs or row numbers")
    return items
