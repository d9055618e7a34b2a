"""What a file of semantic IDs is and what made it, in a manifest beside it: `semantic_ids.json.manifest`.

It takes its name last, with the files of its set or not at all: a generation that was only half replaced, as where
its files are in several folders, does not agree with the old one. Whoever builds on these files checks it first.
Knows no model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from ..identity import differences, of_model, recorded, unlike
from ..storage.files import followed, write_atomically
from ..storage.item_ids import as_integers, kind_of
from ..storage.sets import unnamed
from ..storage.words import brief, spelled

MANIFEST = ".manifest"
FORMAT = 1
_BESIDE = 100                       # manifests that are looked at
_KINDS = {"generation": str, "items": int, "published before": int, "levels": list, "format": str, "files": dict,
          **dict.fromkeys(("checkpoint", "features"), (dict, type(None))),
          **dict.fromkeys(("unique", "parent"), (str, type(None))),
          "rows": (list, type(None))}
_MOST = 2 ** 24                     # bytes; an honest one has two thousand


def manifest_path(path) -> Path:
    path = followed(path)
    return path.with_name(path.name + MANIFEST)


def describe(codes, item_ids, sizes, made, *, format, parent=None) -> dict:
    """What a generation says of itself, but for its files.

    Args:
        codes: (N, L) int64, or (N, L+1) with a suffix.
        item_ids: N, or None where the rows are the items.
        sizes: K of each level.
        made: what made the new ones: "checkpoint" (path, weights), "features" (source, checksum, item_ids),
            "unique", ...
        format: of the main file.
        parent: the manifest of the generation that this one goes on from, or for one without a manifest how many
            items it has; None for a first.
    """
    digest = hashlib.sha256(np.ascontiguousarray(codes, "<i8").tobytes())
    digest.update("\n".join(map(str, item_ids or ())).encode("utf-8", "surrogatepass"))
    before = parent["items"] if isinstance(parent, dict) else parent or 0
    return {
        "manifest": FORMAT,
        "generation": digest.hexdigest()[:32],
        "parent": parent.get("generation") if isinstance(parent, dict) else None,
        "items": len(codes),
        "published before": before,
        "added": len(codes) - before,
        "changed": 0,
        "levels": list(sizes),
        "item_ids": kind_of(item_ids),
        "format": format,
        **made,
    }


def write_manifest(main, files, content) -> None:
    """Write the manifest of `main`, which stands for all `files` that were written with it, in one `together` block
    or before.

    Args:
        main: path of the main file.
        files: all paths, the main one included.
        content: of `describe`.
    """
    main, listed = followed(main), {}
    for path in map(followed, files):
        name = path.relative_to(main.parent).as_posix() if path.is_relative_to(main.parent) else str(path)
        listed[name] = {"bytes": unnamed(path).stat().st_size, "sha256": file_checksum(unnamed(path))}
    text = json.dumps({**content, "files": listed}, indent=2, ensure_ascii=True) + "\n"
    write_atomically(manifest_path(main), lambda file: file.write(text.encode()))


@spelled
def read_manifest(path):
    """The manifest of a file of IDs, or None where it has none.

    Raises:
        ValueError: the manifest is damaged or of another kind.
    """
    beside = manifest_path(path)
    if not os.path.lexists(beside):
        return None
    try:
        if not beside.is_file():
            raise ValueError("a pipe, a folder, a link to nothing")
        with open(beside, "rb") as file:
            content = json.loads(file.read(_MOST))
        whole = content["manifest"] != FORMAT or _is_whole(content)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{beside} is cut off or damaged, so nobody can tell whether {path} is what was published; "
                         "restore both, or remove the manifest to take the file as it is")
    if content["manifest"] != FORMAT:
        raise ValueError(f"{beside} has the format {brief(content['manifest'], 20)}, this version reads {FORMAT}; "
                         "use the version that wrote it")
    return content


def _is_whole(content) -> bool:
    """Whether what is looked up in a manifest is there, and of the kind that is written."""
    if not all(isinstance(content.get(name), kind) for name, kind in _KINDS.items()):
        return False
    made, features = (content.get(name) or {} for name in ("checkpoint", "features"))
    return (all(isinstance(each["sha256"], str) and isinstance(each.get("bytes", 0), int)
                for each in content["files"].values())
            and all(type(size) is int and size > 0 for size in content["levels"])
            and 0 <= content["published before"] <= content["items"]
            and all(type(row) is int and row >= 0 for row in content.get("rows") or ())
            and content.get("unique") in (None, "optimal", "nearest", "suffix")
            and all(isinstance(inner, (dict, type(None))) for inner in (made.get("options"), features.get("places")))
            and isinstance(features.get("folder"), (str, type(None)))
            and all(_is_place(name, value) for name, value in (features.get("places") or {}).items()))


def _is_place(name, value) -> bool:
    """Whether an option that names items can have this value."""
    if name == "blended":
        return isinstance(value, (bool, type(None)))
    values = value if isinstance(value, list) and value else [value]
    return value is None or all(isinstance(each, str) and each for each in values)


def verified_manifest(path):
    """`read_manifest`, once every file that it names is what was written.

    Raises:
        ValueError: one is missing, cut off or changed; it is named.
    """
    content, main = read_manifest(path), followed(path)
    if content and main.name not in content["files"]:
        raise ValueError(f"{manifest_path(path)} is of {', '.join(map(str, list(content['files'])[:3]))}, "
                         f"not of {path}; give both the names that they were written under, or remove the manifest "
                         "to take the file as it is")
    for name, expected in (content or {}).get("files", {}).items():
        file = main.parent / name
        remedy = f"restore the files of one generation, or remove {manifest_path(path).name} to take them as they are"
        if not file.is_file():
            raise ValueError(f"{file} is missing, which {manifest_path(path).name} names; {remedy}")
        size = file.stat().st_size
        if size < expected.get("bytes", 0):
            raise ValueError(f"{file} is cut off: it has {size:,} bytes, {expected['bytes']:,} were written; {remedy}")
        if file_checksum(file) != expected["sha256"]:
            raise ValueError(f"{file} is not the file that was written with {manifest_path(path).name}: it was edited, "
                             f"or is of another generation; {remedy}")
    return content


def gone_on_from(path, manifest, outputs) -> list:
    """Names of the files beside one of IDs that go on from it already, other than `outputs`."""
    found = []
    for beside in sorted(followed(path).parent.glob(f"*{MANIFEST}"))[:_BESIDE]:
        main = beside.with_name(beside.name[:-len(MANIFEST)])
        with contextlib.suppress(ValueError, OSError):
            other = read_manifest(main) if main.exists() else None
            if other and other.get("parent") == manifest["generation"] and not any(
                    os.path.realpath(main) == os.path.realpath(output) for output in outputs):
                found.append(main.name)
    return found


def with_kinds(ids, manifest):
    """`SemanticIds` of a file whose keys are text, with item IDs of the kind that the manifest knows."""
    if manifest and manifest.get("item_ids") == "integer" and kind_of(ids.item_ids) == "text":
        return ids._replace(item_ids=as_integers(ids.item_ids))
    return ids


def check_checkpoint(manifest, path, model, checkpoint, ancestors=()) -> None:
    """Refuse to go on from a generation with a model that its IDs mean nothing to.

    Args:
        manifest: of the generation, or None.
        path: of its file, for messages.
        model: the `RqVae`.
        checkpoint: its file or folder, for messages.
        ancestors: checksums of those that it was trained on from, holding what they had published.

    Raises:
        ValueError: it is another model.
    """
    then, made_by = recorded("manifest", manifest), (manifest or {}).get("checkpoint") or {}
    differ = differences(then, model=model, ancestors=ancestors)
    if "weights" in differ:
        weights = str(then["weights"])
        raise ValueError(f"{path} was made by other weights ({weights[:8]}..., {made_by.get('path')}) than those of "
                         f"{checkpoint} ({of_model(model)['weights'][:8]}...), and nothing says that these were "
                         "trained on from them: their codes mean others; name that checkpoint, or train with --from "
                         "and --keep")
    if "options" in differ:
        now = of_model(model)["options"]
        name = unlike(then["options"], now)[0]
        raise ValueError(f"{checkpoint} has the {name} {brief(now[name], 40)}, but {path} was made by a model whose "
                         f"{name} was {brief(then['options'][name], 40)}: the same weights give other codes, so one of "
                         f"the two was edited or damaged; restore it, or name {made_by.get('path')}")


def file_checksum(path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2 ** 20), b""):
            digest.update(block)
    return digest.hexdigest()
