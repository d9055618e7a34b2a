"""P5 Amazon files (2014) -> items with text and features, and user sequences. Knows no models.

Expected, as unpacked from P5_data.zip, for each split (beauty, sports, toys):

    <root>/raw/<split>/datamaps.json          item2id: ASIN -> number, from 1
    <root>/raw/<split>/meta.json.gz           one Python dict literal a line, in any order
    <root>/raw/<split>/sequential_data.txt    a line a user: user, then item numbers in time order

Shapes:  N items, item number n in row n - 1   D feature width   L levels   T items of one user
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import os
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch

from ..storage.item_ids import rows_by_text
from ..storage.packed import require_likely
from ..storage.words import describe_content, spelled, warn
from . import DEFAULT_ENCODER
from .batches import FeatureDataset, open_features
from .texts import as_text, encode_texts_once

TEXT_STYLES = ("plain", "genrec")
_LONGEST = 2 ** 18      # bytes of a line of metadata; real ones have up to some ten thousand
_STRING = re.compile(r"""'[^'\\]*(?:\\.[^'\\]*)*(?:'|\\?\Z)"""    # an unclosed one takes the rest
                     r"""|"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)""", re.DOTALL)
_CONSTANT = re.compile(r"([uU]?'|[-+]?[\d.]{1,40}([eE][-+]?\d{1,4})?|True|False|None)?")
_ASIN = re.compile(rb"""['"]asin['"]\s*:\s*[uU]?['"](\w+)['"]""")


class P5Items(NamedTuple):
    item_ids: List[str]     # N, ASINs in the order of their numbers
    names: List[str]        # N titles, the ASIN where there is none
    texts: List[str]        # N, "Title: ...; Brand: ...; Categories: ...; Price: ...; "


class LeaveOneOut(NamedTuple):
    train: Dict[str, Any]               # user -> all but the last two of the sequence
    val: Dict[str, Tuple[Any, Any]]     # user -> (all but the last two, the last but one)
    test: Dict[str, Tuple[Any, Any]]    # user -> (all but the last, the last)


class P5AmazonItemDataset(FeatureDataset):
    """The items of one P5 Amazon split: `dataset[i]` is `{"features": (D,) float32}`.

    Beside what every `FeatureDataset` has (`table`, `item_ids`, `names`), `texts` holds what was
    encoded. Encoded features are kept in `<root>/processed/`, a `.npy` for each encoder, so that
    the next use needs neither the time nor the encoder.

    Args:
        root: the folder that holds `raw/`.
        split: `beauty`, `sports`, `toys`, or another folder in `raw/`.
        train_test_split: `train` (95 % of the items), `eval` (the other 5 %) or `all`.
        features: embeddings of all N items made elsewhere, a file or array as `open_features` takes
            it, in the order of the item numbers; a file that carries item IDs (ASINs or numbers)
            may have any order. By default the texts are encoded.
        model_name, batch_size, device: for the encoder, see `texts.encode_texts`.
        text_style: `plain`, or `genrec` for the texts of genrec to the letter, see `load_items`.
        may_load: False never loads it, see `texts.encode_texts_once`.

    Raises:
        FileNotFoundError: the layout is not as expected; the message says what is.
        ImportError: sentence-transformers is needed and not installed.
        ValueError: a file is damaged, an argument is not one of those above, or `features` has
            not one row an item.
    """

    def __init__(self, root: str | os.PathLike, split: str = "beauty", train_test_split: str = "all", *,
                 features: Any = None, model_name: str = DEFAULT_ENCODER, batch_size: int = 32,
                 device: str | torch.device = "auto", text_style: str = "plain",
                 may_load: bool = True):
        if train_test_split not in ("train", "eval", "all"):
            raise ValueError("train_test_split must be 'train', 'eval' or 'all', "
                             f"got {train_test_split!r}")
        items = load_items(root, split, text_style)
        if features is None:
            features = encode_texts_once(items.texts, Path(root, "processed"), split, model_name,
                                         batch_size=batch_size, device=device, may_load=may_load)
        table = open_features(features)
        order = _item_order(table, items.item_ids)
        rows = _split_rows(len(order), train_test_split)
        super().__init__(table.rows([order[row] for row in rows]),
                         item_ids=[items.item_ids[row] for row in rows],
                         names=[items.names[row] for row in rows])
        self.table.source = f"P5 Amazon {split} ({train_test_split} items)"
        self.item_ids = self.table.item_ids
        self.texts = [items.texts[row] for row in rows]


@spelled
def load_items(root, split="beauty", text_style="plain") -> P5Items:
    """Every item of a split, in the order of their numbers, whether it has metadata or not.

    What is missing reads `Unknown`. Lines of metadata that cannot be read are skipped; how many,
    and how many items have none, is said in a warning.

    With the text style `genrec` a text is, to the letter, what genrec makes of the item: of its categories
    only the first path, as Python writes a list; `nan` for a missing title or price; HTML entities as they
    stand. An item without metadata, which genrec drops, has such a text, too.

    Raises: as `P5AmazonItemDataset`.
    """
    if text_style not in TEXT_STYLES:
        raise ValueError(f"text_style must be one of {', '.join(TEXT_STYLES)}, got {text_style!r}")
    item_ids = _item_ids(_locate(root, split, "datamaps.json"))
    path = _locate(root, split, "meta.json.gz")
    metadata, lines, unreadable = _read_metadata(path, set(item_ids))
    if unreadable:
        warn(f"{path}: {unreadable} of {lines} lines cannot be read and are skipped")
    missing = len(item_ids) - len(metadata)
    if missing:
        warn(f"{path}: {missing} of {len(item_ids)} items have no metadata; they keep "
             "their row, with one text for all of them")
    fields = [metadata.get(item_id) or _described({}) for item_id in item_ids]
    texts = [_text(item) if text_style == "plain" else item["genrec"] for item in fields]
    return P5Items(item_ids, [item["title"] or item_id for item, item_id in zip(fields, item_ids)], texts)


@spelled
def load_sequences(root, split="beauty") -> Dict[str, List[int]]:
    """user -> the rows (item number - 1) of the items that the user took, in time order.

    Raises:
        FileNotFoundError: the layout is not as expected; the message says what is.
        ValueError: a line is damaged or names an item that `datamaps.json` does not number.
    """
    count = len(_item_ids(_locate(root, split, "datamaps.json")))
    path = _locate(root, split, "sequential_data.txt")
    sequences = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            user, *items = line.split() or [None]
            if user is None:
                continue
            if user in sequences:
                raise ValueError(f"{path}, line {number} repeats the user {user!r}; expected one "
                                 "line a user: unpack P5_data.zip again")
            for item in items:
                if not re.fullmatch("[0-9]{1,18}", item) or not 1 <= int(item) <= count:
                    raise ValueError(f"{path}, line {number} names the item {item[:20]!r}; "
                                     f"datamaps.json numbers them from 1 to {count}: unpack "
                                     "P5_data.zip again")
            sequences[user] = [int(item) - 1 for item in items]
    return sequences


def semantic_sequences(sequences, codes) -> Dict[str, torch.Tensor]:
    """user -> (T, L) semantic IDs of the user's items, given the (N, L) codes of all items.

    Codes of shape (N,), a single level, give (T,).

    Raises:
        ValueError: a sequence names a row which `codes` does not have.
    """
    codes = torch.as_tensor(codes)
    last = max((row for rows in sequences.values() for row in rows), default=-1)
    if last >= len(codes):
        raise ValueError(f"codes has {len(codes)} rows, but the sequences name row {last}; give "
                         "the codes of all items of the split")
    return {user: codes[torch.tensor(rows, dtype=torch.long)] for user, rows in sequences.items()}


def leave_one_out(sequences) -> LeaveOneOut:
    """Each user's last item is for testing, the one before for validation, the rest for training.

    Works on rows and on semantic IDs alike. A user of fewer than three items is all training, as in
    SASRec (Kang and McAuley, arXiv 1808.09781).
    """
    long = {user: items for user, items in sequences.items() if len(items) >= 3}
    return LeaveOneOut(
        {user: items[:-2] if user in long else items for user, items in sequences.items()},
        {user: (items[:-2], items[-2]) for user, items in long.items()},
        {user: (items[:-1], items[-1]) for user, items in long.items()})


def _split_rows(count, part) -> List[int]:
    """The documented split: the same items for everyone who draws it with torch's CPU generator."""
    draw = torch.rand(count, generator=torch.Generator().manual_seed(42), device="cpu")
    train = draw > 0.05
    rows = {"train": train, "eval": ~train, "all": train | True}[part].nonzero().squeeze(1).tolist()
    if not rows:
        raise ValueError(f"none of the {count} items falls into {part!r}; take 'all' of them")
    return rows


def _item_order(table, item_ids) -> List[int]:
    """The row of `table` that holds each item."""
    count = len(item_ids)
    if len(table) != count:
        raise ValueError(f"{table.source} has {len(table)} rows, the split has {count} items; "
                         "expected one row for each item that datamaps.json numbers")
    if table.item_ids is None:
        return list(range(count))
    rows = rows_by_text(table.item_ids)
    for wanted in (item_ids, [str(number) for number in range(1, count + 1)]):
        if rows.keys() == set(wanted):
            return [rows[item_id] for item_id in wanted]
    raise ValueError(f"{table.source} has item IDs such as {table.item_ids[0]!r}; expected those "
                     f"of datamaps.json, such as {item_ids[0]!r}, or their numbers from 1")


def _locate(root, split, name) -> Path:
    path = Path(root, "raw", split, name)
    if not path.is_file():
        splits = sorted(folder.parent.name for folder in Path(root).glob("raw/*/datamaps.json"))
        raise FileNotFoundError(
            f"{path} does not exist; expected <root>/raw/<split>/ with datamaps.json, meta.json.gz "
            "and sequential_data.txt, as unpacked from P5_data.zip; the splits in "
            f"{Path(root, 'raw')}: {', '.join(splits) or 'none'}")
    return path


def _item_ids(path) -> List[str]:
    """ASINs, the one with number n in row n - 1."""
    try:
        numbers = json.loads(path.read_bytes())["item2id"]
        rows = {int(str(number)): asin for asin, number in numbers.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path} is damaged or of another kind ({describe_content(path)}); '
                         'expected JSON {"item2id": {ASIN: number, ...}, ...}: unpack P5_data.zip '
                         'again') from error
    if not rows or sorted(rows) != list(range(1, len(numbers) + 1)):
        raise ValueError(f"{path} numbers {len(numbers)} items, but not as 1 to {len(numbers)}, "
                         "each once; unpack P5_data.zip again")
    return [rows[number] for number in sorted(rows)]


# ----------------------------------------------------------------------------------------- metadata

def _read_metadata(path, wanted):
    """`({ASIN: {field: words}}, lines, unreadable lines)`; an item's first line counts."""
    metadata, unreadable, lines, held = {}, 0, 0, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of invalid escapes in other people's strings
            for lines, line in enumerate(_lines(path), 1):
                # Most lines are of items outside the split; leaving them saves most of the time.
                named = _ASIN.findall(line)
                if not line.strip() or named and not any(asin.decode() in wanted for asin in named):
                    continue
                record = _parse(line)
                asin = (record or {}).get("asin")
                if record is None:
                    unreadable += 1
                elif isinstance(asin, str) and asin in wanted and asin not in metadata:
                    metadata[asin] = _described(record)
                    held += sum(map(sys.getsizeof, metadata[asin].values()))
                    require_likely(f"the text of the items in {path}", held, path, "unpack P5_data.zip again")
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as gzip ({error}); unpack P5_data.zip again"
                         ) from error
    return metadata, lines, unreadable


def _lines(path):
    """The lines of a gzip file; of one that is longer than any real one just a bracket."""
    with gzip.open(path) as file:
        while True:
            line = file.readline(_LONGEST)
            if not line:
                return
            whole = line.endswith(b"\n") or len(line) < _LONGEST
            yield line if whole else b"{"
            while not whole:
                rest = file.readline(_LONGEST)
                whole = rest.endswith(b"\n") or len(rest) < _LONGEST


def _parse(line):
    """The dict of a line, or None: as JSON, else as the Python literal that these files hold."""
    text = line.decode("utf-8", "replace")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(text.strip()) if _is_plain_literal(text) else None
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            record = None
    return record if isinstance(record, dict) else None


def _is_plain_literal(text) -> bool:
    """Whether brackets, commas and colons separate single constants, and nothing else is there.

    `ast.literal_eval` parses whatever Python it is given, and long chains such as 1+1+1... or
    x[1][1]... end older interpreters with a stack overflow.
    """
    skeleton = _STRING.sub("'", text)
    constants = re.split(r"[\[\](){},:]", skeleton)
    return (all(_CONSTANT.fullmatch(constant.strip()) for constant in constants)
            and not re.search(r"[^\[({,:\s]\s*[\[({]", skeleton))


def _described(record) -> Dict[str, str]:
    """The words of each field that makes the text, in its order; "" for what is missing."""
    words = {field: as_text(html.unescape(as_text(record.get(field))))
             for field in ("title", "brand", "categories", "price")}
    # an item stands on several paths of the category tree, whose first steps repeat
    words["categories"] = ", ".join(dict.fromkeys(words["categories"].split(", ")))
    words["genrec"] = _as_genrec(record)
    return words


def _text(words) -> str:
    return "".join(f"{field.title()}: {words[field] or 'Unknown'}; "
                   for field in ("title", "brand", "categories", "price"))


def _as_genrec(record) -> str:
    """The text that genrec makes, whose data frame holds floats for prices and nan for what is missing."""
    categories, price = record.get("categories"), record.get("price", "nan")
    try:
        first = str(categories[0]) if isinstance(categories, list) and categories else "nan"
        price = str(float(price)) if isinstance(price, (int, float)) else str(price)
    except (RecursionError, OverflowError):
        first = price = "nan"
    text = (f"Title: {record.get('title', 'nan')}; Brand: {record.get('brand', 'Unknown')}; Categories: {first}; "
            f"Price: {price}; ")
    return text.encode("utf-8", "replace").decode()
