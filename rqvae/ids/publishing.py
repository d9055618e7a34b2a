"""Semantic IDs and what belongs to their items -> the files that a user asks for, beside what is published already.

Shapes:  N items   M items published before   L levels   K codes of a level
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..codes import check_range
from ..collisions import collision_ranks
from ..storage.files import remove_stale_temporaries
from ..storage.sets import expect, together
from ..storage.item_ids import (ITEM_NUMBERS, as_integers, check_lines, in_row_order, kind_of, like_row_numbers,
                                of_one_kind, rows_by_text, written_alike)
from ..storage.words import warn
from . import FORMATS
from .exports import check_export, export_semantic_ids
from .files import existing_file, item_numbers_beside, load_semantic_ids, save_semantic_ids
from .generations import (check_checkpoint, describe, manifest_path, read_manifest, verified_manifest, with_kinds,
                          write_manifest)
from .tokens import level_letters

OWN = ("json", "jsonl", "csv", "npy")          # of `save_semantic_ids`
LETTERED = ("json", "jsonl", "lcrec", "minionerec", "minionerec-kmeans", "openonerec")  # a letter a level
BY_ROW = ("npy", "lcrec", "minionerec", "minionerec-kmeans", "grid", "tiger", "semantic-id")    # these know rows alone
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
            raise IsADirectoryError(f"{path} is a folder; "
                                    "name a file to write, .json, .jsonl, .csv or .npy, or a --format")
        if path.suffix[1:] not in OWN:
            raise ValueError(f"--output is {path}; "
                             "its suffix must be .json, .jsonl, .csv or .npy, unless a --format is named")
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
            refuse_existing(manifest_path(place), overwrite or _is_manifest(place))
            if name == "npy":
                refuse_existing(item_numbers_beside(place), overwrite)
            if not overwrite:
                read_manifest(place)                    # a file of that name that is none of ours stays
            expect(manifest_path(place))
    return outputs


def check_labels(outputs, item_ids) -> None:
    """Refuse item IDs that one of the outputs cannot hold.

    Raises:
        ValueError: an item ID with a tab or a line break, for a file of lines.
    """
    for name, path in outputs:
        if name in FORMATS:
            check_export(name, path, item_ids=item_ids, overwrite=True)
        elif name == "npy":
            check_lines(item_ids, item_numbers_beside(path).name)


def check_levels(outputs, levels) -> None:
    """Refuse more levels than a form has letters for, before there are any IDs.

    Raises:
        ValueError: naming the form.
    """
    for name, _ in outputs:
        if name in LETTERED:
            try:
                level_letters(levels + (name == "minionerec-kmeans"))
            except ValueError as error:
                raise ValueError(f"--format {name}: {error}; choose npy, tiger or grid") from None


def which_keys(outputs, item_ids) -> str:
    """A sentence for item IDs that could be taken for row numbers and are not: who has which; or ""."""
    if not like_row_numbers(item_ids) or in_row_order(item_ids):
        return ""
    sentence = "the item IDs look like row numbers, but stand in another order"
    own = [name for name, _ in outputs if name not in BY_ROW]
    rows = [name for name, _ in outputs if name in BY_ROW]
    if own:
        sentence += f"; {', '.join(own)}: the item IDs are the keys"
    if rows:
        sentence += f"; {', '.join(rows)}: the keys are row numbers, and {ITEM_NUMBERS} beside says which item each is"
    return sentence


def _is_manifest(place) -> bool:
    """Whether what has the name of a manifest of `place` is one, and not somebody's file, or a link to it."""
    with contextlib.suppress(ValueError):
        return not manifest_path(place).is_symlink() and read_manifest(place) is not None
    return False


def refuse_existing(path, overwrite=False) -> None:
    """Raise FileExistsError, in the words of a command line, unless the file may be replaced."""
    remove_stale_temporaries(path.parent)           # what a killed writer had begun is finished or gone
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()                                 # a name that is too long is said now, and links in a circle
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, where a file is to be written; remove it, or choose another name")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a device or a pipe, where a file is to be written; choose another name")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; replace it by --overwrite, or choose another name")
    expect(path)


def write_outputs(outputs, codes, num_embeddings, *, item_ids=None, names=None, bare=None, candidates=None,
                  overwrite=False, made=None, parent=None) -> list:
    """Write the IDs in every form, and their manifests, all of them or none; the files written.

    Args:
        outputs: of `plan_outputs`.
        codes: (N, L) int64, or (N, L+1) with a suffix.
        num_embeddings: K, one for each of the L levels.
        item_ids, names: N texts each, or None.
        bare: (N, L) the IDs as the model gives them, for the formats in NUMBERED; None for `codes`.
        candidates: (N, T), of `ranked_last_codes`, for torcheasyrec.
        overwrite: replace what exists.
        made, parent: for the manifests, see `generations.describe`; without `made` there are none.

    Raises:
        FileExistsError: one of the files has appeared since they were planned.
        ValueError: a format that counts within collisions would count otherwise than the suffix does.
    """
    levels, groups = len(num_embeddings), []
    suffix = codes[:, levels] if codes.shape[1] > levels else None
    with together():
        for name, path in outputs:
            if name in OWN:
                save_semantic_ids(codes, path, item_ids=item_ids, names=names, overwrite=overwrite)
                groups.append([path, *([item_numbers_beside(path)] if name == "npy" and item_ids is not None else [])])
                continue
            table, sizes = codes, list(num_embeddings)
            if bare is not None and name in NUMBERED:
                table = bare
            elif suffix is not None and name in NUMBERED:
                table = codes[:, :levels]
                if not np.array_equal(collision_ranks(table)[0], suffix):
                    raise ValueError(f"format {name} counts 0, 1, 2, ... within each collision, but the published "
                                     "suffixes leave some out; choose another format")
            elif suffix is not None:
                sizes.append(int(suffix.max()) + 1)
            groups.append(export_semantic_ids(table, name, path, num_embeddings=sizes, item_ids=item_ids, names=names,
                                              candidates=candidates, overwrite=overwrite))
        for (name, _), files in zip(outputs, groups if made else ()):
            write_manifest(files[0], files, describe(codes, item_ids, num_embeddings, made, format=name, parent=parent))
    return [path for files in groups for path in files]


def load_published(path, num_embeddings, model=None, checkpoint=None, ancestors=()) -> tuple:
    """IDs that are in use already, codes (M, L), or (M, L+1) with a suffix; and their manifest, or None.

    Args:
        path: the file.
        num_embeddings: K of each level of the model that goes on from them.
        model, checkpoint, ancestors: which model that is, see `generations.check_checkpoint`; None for whichever.

    Raises:
        ValueError: they cannot be of a tokenizer with these codes, are not what their manifest says, or are another
            model's; and what reading raises.
    """
    manifest = verified_manifest(existing_file(path))
    published = with_kinds(load_semantic_ids(path), manifest)
    levels, width = len(num_embeddings), published.codes.shape[1]
    if width not in (levels, levels + 1):
        raise ValueError(f"{path} has {width} codes an item, the checkpoint gives {levels}, or {levels + 1} with a "
                         "suffix; name the checkpoint that it was made with")
    check_range(published.codes[:, :levels], num_embeddings, f"{path}: codes")
    _check_shared(published, levels, path, known=manifest is not None)
    if model is not None:
        check_checkpoint(manifest, path, model, checkpoint, ancestors)
    return published, manifest


def _check_shared(published, levels, path, known) -> None:
    """Refuse, or without a suffix say, that items share an ID in a published table, whose manifest is not `known` to
    allow it."""
    codes, count = published.codes, len(published.codes)
    if codes.shape[1] > levels and codes[:, levels].max() >= count:
        row = int(codes[:, levels].argmax())
        raise ValueError(f"{path}: the suffix of row {row} is {codes[row, levels]}, but it counts items that share an "
                         f"ID, and there are {count:,}; the file is damaged, or of other codes")
    ranks, sizes = collision_ranks(codes)
    if known or sizes.max() == 1:
        return
    second = int(np.flatnonzero(ranks == 1)[0])
    first = int(np.flatnonzero((codes == codes[second]).all(axis=1))[0])
    one, other = (published.item_ids[row] if published.item_ids else f"row {row}" for row in (first, second))
    sentence = f"{path} gives {one} and {other} one ID, and {int((sizes > 1).sum()) - 2:,} more items share theirs"
    if codes.shape[1] > levels:
        raise ValueError(f"{sentence}, though it has a suffix to tell them apart; it was edited or damaged: restore it")
    warn(f"{sentence}; if it was not written by --unique none, it was edited or damaged. They stay as they are")


def published_method(published, num_embeddings, wanted, where) -> str:
    """How new items get IDs beside published ones: by a "suffix" if those have one, else as `wanted`, or "optimal".

    Raises:
        ValueError: another method is `wanted` (None for whichever it is), or none.
    """
    suffixed = published.codes.shape[1] > len(num_embeddings)
    if wanted == "none":
        raise ValueError(f"--unique is none, but new items get IDs that no item in {where} has; leave --unique out")
    if wanted is not None and (wanted == "suffix") != suffixed:
        has = "with" if suffixed else "without"
        raise ValueError(f"--unique is {wanted}, but the IDs in {where} are {has} a suffix; leave --unique out")
    return "suffix" if suffixed else wanted or "optimal"


def published_rows(published, where, item_ids, count) -> np.ndarray:
    """Which published item each of `count` items is: (count,) rows of `published`, -1 for new ones.

    Args:
        published: of `load_published`.
        where: their file, for messages.
        item_ids: of the items, or None.

    Raises:
        ValueError: one side has item IDs that the other lacks, so that nobody knows who is published already; or
            there is no new item.
    """
    if published.item_ids is None and item_ids is None:
        return np.full(count, -1)               # the rows are the items: the new ones go on counting
    if item_ids is None:
        raise ValueError(f"{where} has item IDs, the new items have none; give them by --item-ids")
    if published.item_ids is None and kind_of(as_integers(list(map(str, item_ids)))) != "integer":
        raise ValueError(f"{where} knows its items by row number, but the new ones have item IDs such as "
                         f"{item_ids[0]!r}, so nobody can tell which of them are published already; put the published "
                         f"item IDs beside it, in {item_numbers_beside(where).name} (a line `ID<tab>row` for each), "
                         "or give the new items without item IDs to go on counting rows")
    rows = rows_in(published, where, item_ids)
    if (rows >= 0).all():
        raise ValueError(f"all {count:,} items are in {where} already, such as {item_ids[0]!r}, and published IDs do "
                         "not change; there is nothing to add")
    return rows


def rows_in(published, where, item_ids) -> np.ndarray:
    """(count,) the row of each item in `published`, by item ID, -1 where that is new.

    Raises:
        ValueError: most of the new ones are published item IDs, but for spaces, case or zeros in front; fewer are a
            warning.
    """
    known = range(len(published.codes)) if published.item_ids is None else published.item_ids
    row_of = rows_by_text(known)
    rows = np.array([row_of.get(str(item), -1) for item in item_ids])
    new = [item_ids[row] for row in np.flatnonzero(rows < 0).tolist()]
    alike = {written_alike(item): item for item in known} if new else {}
    doubtful = [item for item in new if written_alike(item) in alike]
    if doubtful:
        sentence = (f"{len(doubtful):,} of {len(new):,} new item IDs are written otherwise in {where}, "
                    f"such as {str(doubtful[0])!r}, there {str(alike[written_alike(doubtful[0])])!r}: "
                    "the same items would get a second ID")
        if 2 * len(doubtful) > len(new):
            raise ValueError(f"{sentence}; write them alike on both sides")
        warn(f"{sentence}; if they are others, nothing is wrong")
    return rows


def labels_beside(published, rows, item_ids, names):
    """Item IDs and names of the published items and the new ones after them: two lists, or None.

    Args:
        rows: (count,) of `published_rows`.
        item_ids, names: of these items, or None.
    """
    new, known = np.flatnonzero(rows < 0).tolist(), len(published.codes)
    if item_ids is not None:
        before = list(range(known)) if published.item_ids is None else published.item_ids
        added = [item_ids[row] for row in new]
        if kind_of(before) != kind_of(added):           # a file of text alone, such as JSON keys, made text of integers
            before, added = (part if kind_of(part) == "integer" else as_integers(part) for part in (before, added))
        item_ids = of_one_kind([*before, *added])
    if names is not None or published.names is not None:
        names = list(published.names or [""] * known) + [names[row] if names else "" for row in new]
    return item_ids, names
