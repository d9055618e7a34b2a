"""What `infer --verify IDS` does: check a generation's files, and derive its IDs again from checkpoint and features."""

import os

import numpy as np
import torch

from ..collisions import id_keys
from ..ids.generations import check_checkpoint, manifest_path, verified_manifest
from ..ids.imports import import_semantic_ids
from ..ids.publishing import NUMBERED
from ..ids.uniqueness import unique_ids
from ..identity import compared, recorded
from ..inference import batch_inference
from ..items.batches import FeatureLoader
from ..items.tables import TableRows
from ..storage.words import counted, nearest_names
from .console import say
from .item_options import INTERACTIONS, OPTIONS
from .sources import as_recorded, noted_by, open_named

LISTED = 5


def prepare_verify(arguments, model, checkpoint, device):
    """(manifest, IDs, features) of what shall be verified.

    Raises:
        ValueError: there is no manifest, a file of it has changed, or checkpoint or features are others.
    """
    path = arguments.verify
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} not found{nearest_names(path)}")
    manifest = verified_manifest(path)
    if manifest is None:
        raise ValueError(f"{path} has no {manifest_path(path).name}, so it does not say what made it; "
                         "only what infer wrote from 1.1 on can be verified")
    check_checkpoint(manifest, path, model, checkpoint)
    noted = manifest.get("features") or {}
    places = noted.get("places") or {}
    given = {name: getattr(arguments, name) for name in (*OPTIONS, *INTERACTIONS)}
    if not any(given[source] for source in ("data", "texts", "p5")):
        given = as_recorded({**{name: places.get(name) for name in given}, "encoder": None}, path, noted.get("folder"))
    with noted_by(path):
        table = open_named(given, blended=places.get("blended"), device=device).dataset.table
    table.check()
    if not compared(recorded("manifest", manifest), table=table).get("features"):
        raise ValueError(f"{table.source} does not hold the features that {path} was made from (numbers, rows or their "
                         "order are others); name those by --data")
    ids = import_semantic_ids(path, manifest["format"] if manifest["format"] in NUMBERED else None)
    rows = manifest.get("rows") or range(len(table))
    if None not in (ids.item_ids, table.item_ids):
        wrong = next((pair for pair in zip(ids.item_ids[manifest["published before"]:],
                                           (table.item_ids[row] for row in rows))
                      if str(pair[0]) != str(pair[1])), None)
        if wrong:
            raise ValueError(f"{path} has the ID of {wrong[0]!r} where {table.source} now has the item {wrong[1]!r}: "
                             "item IDs were renamed, or put in another order; put the old ones back, or name them by "
                             "--item-ids")
    return manifest, ids, table


def run_verify(job) -> int:
    """Say what of the generation is what its checkpoint and features give; 1 if something is not."""
    (manifest, ids, table), model = job.verify, job.model.to(job.device)
    levels, before = len(manifest["levels"]), manifest["published before"]
    written = ids.codes[before:]
    rows = np.array(manifest.get("rows") or range(len(table)))
    if manifest["format"] in NUMBERED:
        written = written[:, :levels]
    drawn = np.arange(len(written))
    sample = job.arguments.sample
    if sample and sample < len(written):
        drawn = np.sort(np.random.default_rng(0).permutation(len(written))[:sample])
    part = TableRows(table, rows[drawn])
    own = batch_inference(model, FeatureLoader(table, 1024, rows=torch.from_numpy(rows[drawn])), job.device)
    own = own.reshape(len(drawn), -1).numpy()
    if len(drawn) < len(written):
        # Without the others nobody knows who had to move: an ID may differ if another item has what the model gives.
        keys = id_keys(np.concatenate([ids.codes[:, :levels], own]))
        wrong = (written[drawn, :levels] != own).any(axis=1) & ~np.isin(keys[len(ids.codes):], keys[:len(ids.codes)])
    else:
        if manifest["unique"] and manifest["format"] not in NUMBERED:
            own = unique_ids(model, part, own, method=manifest["unique"],
                             taken=ids.codes[:before] if before else None).codes
        if written.shape != own.shape:
            raise ValueError(f"{job.arguments.verify} has {written.shape[1]} codes an item, and {job.title} gives "
                             f"{own.shape[1]}: its manifest does not say what made it, or this is another checkpoint")
        wrong = (written != own).any(axis=1)
    say(f"{job.arguments.verify}: generation {manifest['generation'][:8]}, {counted(manifest['items'], 'item')}, "
        f"{before:,} of them published before; its files are as they were written")
    say(f"{(~wrong).sum():,} of {counted(len(wrong), 'ID')} are what {job.title} and {table.source} give")
    for place in np.flatnonzero(wrong)[:LISTED].tolist():
        row = before + int(drawn[place])
        item = ids.item_ids[row] if ids.item_ids else f"row {row}"
        say(f"  {item}: {ids.codes[row].tolist()} is written, {own[place].tolist()} is what they give")
    return int(wrong.any())
