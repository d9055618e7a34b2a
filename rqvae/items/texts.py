"""Item texts -> features: text files, and an optional sentence encoder. Knows no data set
and no models of ours.

Shapes:  N items   D feature width
"""

import csv
import difflib
import hashlib
import json
import re
import sys
from array import array
from pathlib import Path
from typing import List, NamedTuple, Optional

import numpy as np
import torch

from ..progress import in_notebook
from ..storage.files import remove_stale_temporaries, write_atomically
from ..storage.item_ids import of_one_kind
from ..storage.words import brief, counted, describe_content, nearest_names, shown, spelled, warn
from . import DEFAULT_ENCODER, SMALL_ENCODER
from .tables import open_features


_LONGEST_FIELD = 2**24      # characters of a CSV field; Python's own limit, 2**17, is less than some descriptions have


class ItemTexts(NamedTuple):
    texts: List[str]                # N, in the order of the file
    names: List[str]                # the first text column, for people to read
    item_ids: Optional[list]        # text, or integers where all are; None where no column holds them


@spelled
def read_texts(path, *, text_columns, id_column=None) -> ItemTexts:
    """Read the texts of items, one item a record.

    One text column is taken as it stands; several become `title: ...; brand: ...`, without the
    empty ones. Lists are joined with commas. Items without any text keep their row, with a warning.

    Args:
        path: `.jsonl` (an object a line), `.json` (a list of objects), `.csv` or `.tsv` (a header
            line first), in UTF-8.
        text_columns: the columns that hold the text, in the order in which to say them.
        id_column: the column that holds the item ID, unique text or whole numbers.

    Raises:
        FileNotFoundError: there is no such file; similar names are offered.
        ValueError: another kind of file, a damaged record, an unknown column, a missing or
            repeated ID; the message names the line.
    """
    text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
    if not text_columns:
        raise ValueError("text_columns is empty; name at least one column that holds text")
    texts, names, ids, numbers, columns = [], [], [], array("q"), {}
    for number, record in _records(Path(path)):     # of which nothing else is kept
        row = [as_text(record.get(column)) for column in text_columns]
        texts.append(row[0] if len(row) == 1
                     else "; ".join(f"{column}: {text}" for column, text in zip(text_columns, row) if text))
        names.append(row[0])
        ids.append(None if id_column is None else record.get(id_column))
        numbers.append(number)
        columns.update(dict.fromkeys(record))
    if not texts:
        raise ValueError(f"{path} holds no items; expected one record an item")
    _require_columns(path, list(columns), [*text_columns, *([] if id_column is None else [id_column])])
    silent = [row for row, text in enumerate(texts) if not text]
    if silent:
        warn(f"{path}: no text in {len(silent):,} of {counted(len(texts), 'item')}, the first in row {silent[0]}; "
             "their features say nothing of them: give them a text, or leave them out")
    item_ids = None if id_column is None else _item_ids(path, ids, numbers, id_column)
    return ItemTexts(texts, names, item_ids)


def encode_texts(texts, model_name=DEFAULT_ENCODER, *, batch_size=32, device="auto"):
    """(N, D) float32 features of N texts, in their order, on the CPU; D is the encoder's width.

    A bar shows the progress on a terminal.

    Args:
        model_name: a model of the Hugging Face hub, or a folder that holds one. The package that
            loads it may run code which lies in such a folder: take it from where you trust.
        batch_size: texts encoded at once.
        device: `auto` takes a GPU where there is one.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: no texts, a batch size below 1, or a model that cannot be loaded.
    """
    texts = list(texts)
    if not texts:
        raise ValueError("there are no texts to encode; expected at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    features = _load_encoder(str(model_name), device).encode(
        texts, batch_size=batch_size, show_progress_bar=sys.stderr.isatty() or in_notebook(), convert_to_numpy=True)
    return torch.from_numpy(np.array(features, dtype=np.float32))


def encode_texts_once(texts, folder, label, model_name=DEFAULT_ENCODER, *, batch_size=32, device="auto",
                      may_load=True):
    """`encode_texts`, its result kept in `folder` for the next call with the same texts and encoder.

    Args:
        folder: where to keep it, a `.npy` for each set of texts and encoder; created if missing. None
            keeps nothing.
        label: a word for people that the file's name begins with.
        may_load: False takes only what is kept: to load an encoder can run code and fetch files, which is for a
            user to ask for, and not for a file that names one.

    Returns:
        (N, D) features, in memory or memory-mapped.

    Raises: as `encode_texts`; and a ValueError for an encoder that may not be loaded. A folder that cannot be
        written only draws a warning.
    """
    refusal = (f"{label}: the encoder {shown(repr(model_name))} is named by a checkpoint and not by you, and to load "
               "one can run code and fetch files; name it in this command (--encoder) if you trust it")
    if folder is None and not may_load:
        raise ValueError(refusal)
    if folder is None:
        return encode_texts(texts, model_name, batch_size=batch_size, device=device)
    digest = hashlib.sha256(json.dumps([str(model_name), texts]).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "--", f"{label}.{model_name}").strip("-")[-120:]
    path = Path(folder, f"{name}.{digest}.npy")
    if path.is_file():
        try:
            kept = open_features(path)
            if len(kept) != len(texts):
                raise ValueError(f"it has {len(kept)} rows, expected {len(texts)}")
            return kept
        except (OSError, ValueError) as error:
            warn(f"{path} is damaged ({error}); the texts are encoded again")
    if not may_load:
        raise ValueError(refusal)
    features = encode_texts(texts, model_name, batch_size=batch_size, device=device)
    try:
        write_atomically(path, lambda file: np.save(file, features.numpy()))
        remove_stale_temporaries(path.parent)
    except OSError as error:
        warn(f"the encoded features cannot be kept ({error}); they will be encoded again next time")
    return features


def as_text(value, levels=8) -> str:
    """One line of words for a JSON value: lists joined with commas, "" for None and NaN.

    Lists and objects nested deeper than `levels` are left out: no text looks so, an attack does.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, (dict, list, tuple)):
        if levels == 0:
            return ""
        if isinstance(value, dict):
            parts = [f"{key}: {as_text(item, levels - 1)}" for key, item in value.items()]
        else:
            parts = [as_text(item, levels - 1) for item in value]
        return ", ".join(filter(None, parts))
    # half of a surrogate pair, which JSON can spell, could be neither encoded nor written
    return " ".join(str(value).encode("utf-8", "replace").decode().split())


def _load_encoder(model_name, device):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"turning texts into features needs sentence-transformers ({error}): "
                          "pip install sentence-transformers, or give a file of embeddings"
                          ) from error
    if model_name == DEFAULT_ENCODER and Path(model_name).exists():
        raise ValueError(f"the folder {model_name} here has the name of the default encoder, and could run its own "
                         f"code; give --encoder ./{model_name} if you mean it, or work in another folder")
    how = {"device": None if device == "auto" else device, "trust_remote_code": False}
    try:
        if _kept(model_name):
            try:            # what is here is taken as it is, and nobody waits for a network
                return SentenceTransformer(model_name, local_files_only=True, **how)
            except OSError:     # a part of it is missing
                pass
        _require_hub(model_name)
        return SentenceTransformer(model_name, **how)
    except _NoHub as error:
        raise ValueError(str(error)) from error
    except Exception as error:      # what it raises depends on the hub client, and on the network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the sentence encoder {model_name!r} cannot be loaded on device {device!r} "
            f"({reason}); give the name of a model on the Hugging Face hub, or the folder of one"
        ) from error


class _NoHub(Exception):
    """A model would have to be fetched, and cannot be."""


def _kept(model_name) -> bool:
    """Whether the hub's client has fetched this model before."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    if Path(model_name).exists():
        return False
    return any(isinstance(try_to_load_from_cache(_hub_name(model_name), name), str)
               for name in ("modules.json", "config.json"))


def _require_hub(model_name) -> None:
    """Ask once, for a few seconds: the client itself tries again and again, and then speaks of something else."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        return
    if Path(model_name).exists():
        return
    try:
        HfApi().model_info(_hub_name(model_name), timeout=5)
    except Exception as error:          # of the hub's client, or of the network below it
        if getattr(getattr(error, "response", None), "status_code", None) is not None:
            reason = f"the Hugging Face hub has no such model for you ({error.response.status_code})"
        else:
            reason = "it is not on this machine, and the Hugging Face hub cannot be reached to fetch it"
        raise _NoHub(f"the sentence encoder {model_name!r} cannot be had: {reason}; give the folder of one, a smaller "
                     f"one where fetching is slow ({SMALL_ENCODER}, 90 MB), or embeddings made elsewhere by --data"
                     ) from error
    if model_name == DEFAULT_ENCODER:
        print(f"fetching the sentence encoder {model_name}, once: 2.5 GB; --encoder {SMALL_ENCODER} is 90 MB",
              file=sys.stderr)


def _hub_name(model_name):
    """sentence-transformers takes a bare name for one of its own."""
    return model_name if "/" in model_name else f"sentence-transformers/{model_name}"


def _records(path):
    """`(number of its line or item, {column: value})` of each record in the file."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist{nearest_names(path)}")
    read = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".tsv": _csv}.get(
        path.suffix.lower())
    if not read or not path.is_file():
        found = f"has the suffix {path.suffix!r}" if path.is_file() else "is not a regular file"
        raise ValueError(f"{path} {found}; expected item texts as .jsonl, .json, .csv or .tsv")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, record in read(path, file):
                if not isinstance(record, dict):
                    raise ValueError(f"{_place(path, number)} holds {type(record).__name__} {brief(record, 40)!r}; "
                                     'expected an object such as {"id": 1, "title": "..."}')
                yield number, record
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({describe_content(path)}); save it as UTF-8, "
                         "decompressed") from error


def _place(path, number) -> str:
    return f"{path}, {'item' if Path(path).suffix.lower() == '.json' else 'line'} {number}"


def _json_lines(path, file):
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _parse_json(line, _place(path, number))


def _json_list(path, file):
    items = _parse_json(file.read(), str(path))
    if not isinstance(items, list):
        raise ValueError(f"{path} holds one JSON {type(items).__name__}; expected a list of "
                         "objects, one an item (or one object a line in a file named .jsonl)")
    yield from enumerate(items, 1)


def _parse_json(text, place):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if place.endswith(".json") and text.lstrip()[:1] == "{" and "\n{" in text.lstrip():
            raise ValueError(f"{place} holds a JSON object on each line; name such a file .jsonl, or make it one list "
                             "of objects") from error
        raise ValueError(f"{place} is not JSON ({error}), it begins with {text[:40]!r}; "
                         "mend or remove it") from error


def _csv(path, file):
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    first = file.readline()
    file.seek(0)
    other = max(";\t|,", key=first.count)
    if first.count(other) > 0 == first.count(separator):
        raise ValueError(f"{path} separates its columns by {other!r}, not by {separator!r}; save it with "
                         + ("commas" if separator == "," else "tabs")
                         + (", or name it .tsv" if other == "\t" else ", or name it .csv" if other == "," else ""))
    reader = csv.DictReader(file, delimiter=separator, strict=True)
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        header = reader.fieldnames or []
        if len(set(header)) < len(header):
            raise ValueError(f"{path} repeats a column name in its header {header}; rename one")
        for record in reader:
            if None in record or None in record.values():
                raise ValueError(f"{_place(path, reader.line_num)} has not the {len(header)} fields of the header; put "
                                 "quotes around text that holds the separator or a line break")
            yield reader.line_num, record
    except csv.Error as error:
        if "field limit" in str(error):
            raise ValueError(f"{path}, after line {reader.line_num}: a field has more than {_LONGEST_FIELD:,} "
                             "characters, as where a quotation mark is never closed; close it, or shorten the text"
                             ) from error
        raise ValueError(f"{path}, after line {reader.line_num}: {error}; mend the record there"
                         ) from error
    finally:
        csv.field_size_limit(before)


def _require_columns(path, columns, wanted):
    for column in wanted:
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{path} has no column {column!r}; {hint}"
                             f"it has {', '.join(columns[:20])}")


def _item_ids(path, values, numbers, column):
    seen = {}
    for value, number in zip(values, numbers):
        whole = isinstance(value, (str, int)) and not isinstance(value, bool)
        item_id = str(value) if whole else ""
        if not item_id or not item_id.isprintable():
            raise ValueError(f"{_place(path, number)} has {brief(value)!r} as its {column!r}; expected an item ID: "
                             "printable text or a whole number")
        if seen.setdefault(item_id, number) != number:
            raise ValueError(f"{_place(path, number)} repeats the item ID {item_id!r} of "
                             f"{_place(path, seen[item_id])}; item IDs must be unique")
    try:
        return of_one_kind(values)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
