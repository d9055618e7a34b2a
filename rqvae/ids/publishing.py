"""Semantic IDs and what belongs to their items -> the files that a user asks for, beside what is published already.

Shapes:  N items   M items published before   L levels   K codes of a level
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..codes import check_range
from ..collisions import collision_ranks
from ..storage.files import remove_stale_temporaries, together
from .exports import check_export, export_semantic_ids
from .files import SemanticIds, load_semantic_ids, save_semantic_ids
from .formats import FORMATS

OWN = ("json", "jsonl", "npy")          # of `save_semantic_ids`
NUMBERED = ("minionerec-kmeans", "grid", "tiger", "semantic-id")    # these count within a collision by themselves


class Output(NamedTuple):
    format: str             # one of OWN or FORMATS
    path: Path              # the file, or for FORMATS the folder or the main file


def plan_outputs(formats, output, overwrite=False) -> list:
    """An `Output` for each format, once all are sure to be writable under their names.

    Args:
        formats: names from OWN and FORMATS; None for what the suffix of `output` says.
        output: a file, or with `formats` a folder; None for semantic_ids.json, or the folder semantic_ids.
        overwrite: whether files may be replaced.

    Raises:
        ValueError: an unknown format or suffix, or several formats for one file.
        FileExistsError: one of the files exists.
    """
    path = Path(output or ("semantic_ids" if formats else "semantic_ids.json"))
    if not formats:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file to write, .json, .npy or .jsonl, or a --format")
        if path.suffix[1:] not in OWN:
            raise ValueError(f"--output is {path}; its suffix must be .json, .npy or .jsonl, unless a --format is named")
        outputs = [Output(path.suffix[1:], path)]
    else:
        unknown = [name for name in formats if name not in OWN and name not in FORMATS]
        if unknown:
            raise ValueError(f"there is no format {unknown[0]!r}; there are {', '.join([*OWN, *FORMATS])}")
        is_file = path.suffix and not path.is_dir()
        if is_file and len(formats) > 1:
            raise ValueError(f"--output is {path}, one file, but there are {len(formats)} formats; name a folder")
        outputs = [Output(name, path / f"semantic_ids.{name}" if name in OWN and not is_file else path)
                   for name in dict.fromkeys(formats)]
    for name, place in outputs:
        if name in FORMATS:
            check_export(name, place, has_item_ids=True, overwrite=overwrite)
        elif place.suffix != f".{name}":
            raise ValueError(f"--output is {place}; --format {name} writes .{name}")
        else:
            refuse_existing(place, overwrite)
    return outputs


def refuse_existing(path, overwrite=False) -> None:
    """Raise FileExistsError, in the words of a command line, unless the file may be replaced."""
    remove_stale_temporaries(path.parent)           # what a killed writer had begun is finished or gone
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; replace it by --overwrite, or choose another name")


def write_outputs(outputs, codes, num_embeddings, *, item_ids=None, names=None, bare=None, overwrite=False) -> list:
    """Write the IDs in every form, all of them or none; the files written.

    Args:
        outputs: of `plan_outputs`.
        codes: (N, L) int64, or (N, L+1) with a suffix.
        num_embeddings: K, one for each of the L levels.
        item_ids, names: N texts each, or None.
        bare: (N, L) the IDs as the model gives them, for the formats in NUMBERED; None for `codes`.
        overwrite: replace what exists.

    Raises:
        FileExistsError: one of the files has appeared since they were planned.
        ValueError: a format that counts within collisions would count otherwise than the suffix does.
    """
    levels, written = len(num_embeddings), []
    suffix = codes[:, levels] if codes.shape[1] > levels else None
    with together():
        for name, path in outputs:
            if name in OWN:
                save_semantic_ids(codes, path, item_ids=item_ids, names=names, overwrite=overwrite)
                written.append(path)
                continue
            table, sizes = codes, list(num_embeddings)
            if bare is not None and name in NUMBERED:
                table = bare
            elif suffix is not None and name in NUMBERED:
                table = codes[:, :levels]
                if not np.array_equal(collision_ranks(table)[0], suffix):
                    raise ValueError(f"format {name} counts 0, 1, 2, ... within each collision, but the published suffixes "
                                     "leave some out; choose another format")
            elif suffix is not None:
                sizes.append(int(suffix.max()) + 1)
            written += export_semantic_ids(table, name, path, num_embeddings=sizes, item_ids=item_ids, names=names,
                                           overwrite=overwrite)
    return written


def load_published(path, num_embeddings) -> SemanticIds:
    """IDs that are in use already: codes (M, L), or (M, L+1) with a suffix.

    Raises:
        ValueError: they cannot be of a tokenizer with these codes; and what reading raises.
    """
    published = load_semantic_ids(path)
    levels, width = len(num_embeddings), published.codes.shape[1]
    if width not in (levels, levels + 1):
        raise ValueError(f"{path} has {width} codes an item, the checkpoint gives {levels}, or {levels + 1} with a "
                         "suffix; name the checkpoint that it was made with")
    check_range(published.codes[:, :levels], num_embeddings, f"{path}: codes")
    return published


def published_method(published, num_embeddings, wanted, where) -> str:
    """How the published IDs were made unique, and new ones have to be: "nearest" or "suffix".

    Raises:
        ValueError: another method is `wanted` (None for whichever it is), or none.
    """
    method = "nearest" if published.codes.shape[1] == len(num_embeddings) else "suffix"
    if wanted == "none":
        raise ValueError(f"--unique is none, but new items get IDs that no item in {where} has; leave --unique out")
    if wanted not in (None, method):
        has = "without" if method == "nearest" else "with"
        raise ValueError(f"--unique is {wanted}, but the IDs in {where} are {has} a suffix; leave --unique out")
    return method


def labels_beside(published, where, count, item_ids, names):
    """Item IDs and names of the published items and `count` new ones after them: two lists, or None.

    Raises:
        ValueError: only the published items have item IDs, or an item has been published already.
    """
    known = len(published.codes)
    if published.item_ids is None:
        item_ids = None                         # the rows are the items: the new ones go on counting
    elif item_ids is None:
        raise ValueError(f"{where} has item IDs, the new items have none; give them by --item-ids")
    else:
        both = sorted(set(published.item_ids) & set(item_ids))
        if both:
            raise ValueError(f"{len(both)} of the new items are in {where} already, such as {both[0]!r}; leave them "
                             "out, as published IDs do not change")
        item_ids = published.item_ids + list(item_ids)
    if names is not None or published.names is not None:
        names = list(published.names or [""] * known) + list(names or [""] * count)
    return item_ids, names
