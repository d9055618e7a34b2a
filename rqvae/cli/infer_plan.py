"""What `infer` is asked for -> a Job. Everything that can be wrong with it is found here, before any work."""

import argparse
import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import distributed
from ..codes import level_sizes
from ..ids.files import SemanticIds, load_semantic_ids
from ..ids.generations import gone_on_from, verified_manifest
from ..ids.imports import import_semantic_ids
from ..ids.publishing import (NUMBERED, OWN, check_labels, check_levels, load_published, plan_outputs, published_method,
                              published_rows, refuse_existing, rows_in)
from ..ids.shards import Shard, find_shards, parse_shard
from ..identity import differences, recorded
from ..inference import resolve_device
from ..items.checksums import form_of
from ..items.interactions import Interactions
from ..recipe.comparison import compare_ids
from ..model import RqVae
from ..programs import check_program
from ..report.assessment import is_suffix
from ..report.inputs import (in_order_of, load_names, load_pairs, trained_and_held_out, training_history,
                             unfinished_words)
from ..report.picture import require_matplotlib
from ..storage.checkpoint import CheckpointError, load_checkpoint
from ..storage.files import check_writable
from ..storage.model_folders import CONFIG_NAME, FOLDER_NAMES
from ..storage.peers import UnknownPeer
from ..storage.sets import is_expected
from ..storage.words import warn
from .item_options import INTERACTIONS, OPTIONS
from .options import DEFAULT_OUTPUT, check_together
from .recorded import as_published, pieces_of, require_columns, require_the_same
from .verify import prepare_verify
from .sources import (Items, as_recorded, like_recorded, noted_by, open_interactions, open_items, open_named,
                      refuse_to_replace, require_inputs)


class Job(NamedTuple):
    """Everything that `prepare` checked and `run` needs."""

    arguments: argparse.Namespace
    device: torch.device
    title: str = ""                 # where the IDs are from
    model: RqVae = None             # None for IDs in a file
    history: list = ()              # of the training
    unfinished: str = ""            # that the training did not come to its end
    new: bool = False               # whether the items are known to be others than those of the training
    items: Items = None             # None where only the model is saved, or IDs come without features
    names: list = None              # N, of --names or of the items
    split: tuple = None             # rows trained on and held out, where that is known
    pairs: np.ndarray = None        # (P, 2)
    interactions: Interactions = None
    outputs: list = ()              # of `plan_outputs`
    shard: Shard = None
    parts: list = None              # the shards to merge
    method: str = None              # how collisions are resolved; None where they stay
    published: SemanticIds = None
    published_rows: np.ndarray = None   # of `publishing.published_rows`
    parent: object = None           # the manifest of the published IDs, or their number; None for a first generation
    verify: tuple = None            # of `prepare_verify`
    ancestors: list = ()            # of the model, which may go on from their generations, see `train --from --keep`
    ids: SemanticIds = None
    comparison: dict = None         # of `compare_ids`
    against: SemanticIds = None     # published, that new items are judged beside
    against_made: dict = None       # their manifest


def prepare(arguments) -> Job:
    check_together(arguments)
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}, must be 1 or more")
    job = Job(arguments, distributed.local_device(resolve_device(arguments.device)))
    require_inputs(arguments)
    if arguments.ids:
        check_report(arguments)
        return prepare_ids(job)
    model, run_of = load_model(arguments.ckpt)
    check_report(arguments)
    judged_only = arguments.report is not None or arguments.save_pretrained or arguments.verify or arguments.export
    asked = arguments.output or arguments.format or arguments.unique or arguments.append_to or arguments.merge
    if arguments.shard:
        if distributed.launched_world() > 1:
            raise ValueError("--shard is for processes that know nothing of each other; leave it out under torchrun")
        job = job._replace(shard=parse_shard(arguments.shard))
        target = job.shard.path(arguments.output or DEFAULT_OUTPUT)
        for path in (target, target.with_suffix(".json")):
            refuse_existing(path, arguments.overwrite)
        check_writable(target.parent)
    elif asked or not judged_only:
        job = job._replace(outputs=plan_outputs(arguments.format, arguments.output, arguments.overwrite))
        for _, path in job.outputs:
            check_writable(path.parent if path.suffix else path)
    if arguments.save_pretrained:
        for path in (Path(arguments.save_pretrained) / name for name in FOLDER_NAMES):
            if is_expected(path):
                raise ValueError(f"{path} is of the model folder, and another output as well; "
                                 "choose another name for one of them")
            refuse_existing(path, arguments.overwrite)
        check_writable(arguments.save_pretrained)
    if arguments.export:
        refuse_existing(check_program(arguments.export), arguments.overwrite)
        check_writable(Path(arguments.export).parent)
    job = job._replace(model=model, history=training_history(arguments.ckpt, run_of), title=arguments.ckpt,
                       ancestors=recorded("checkpoint", run_of).get("ancestors") or ())
    job = job._replace(unfinished=unfinished_words(arguments.ckpt, run_of, job.history))
    if arguments.verify:
        return job._replace(verify=prepare_verify(arguments, model, arguments.ckpt, job.device))
    notes = run_of.get("notes") or {}
    if arguments.interactions and arguments.report is None and not notes.get("blended"):
        raise ValueError(f"--interactions needs --report, as {arguments.ckpt} was trained without them; "
                         "leave them out, or train with them")
    if not job.shard and not job.outputs and arguments.report is None:
        return job
    items, recalled = find_items(arguments, notes, job.device)
    table = items.dataset.table
    require_columns(model, table, arguments.ckpt)
    if job.shard:
        job.shard.check(len(table))
    table.check(rows=job.shard.rows(len(table)) if job.shard else None)
    if model.parts:
        table.fill = model.feature_mean.cpu()       # stands for what is missing
    if recalled and not job.shard:              # which reads its own rows alone; --merge sees them all
        require_the_same(run_of, table, arguments.ckpt, arguments.item_ids)
    names = load_names(arguments.names, len(table)) if arguments.names else items.dataset.names
    with noted_by(arguments.ckpt):
        split = trained_and_held_out(run_of, table) if arguments.report is not None else None
    then = {"features": recorded("checkpoint", run_of).get("features")}
    job = job._replace(items=items, names=names, new=not job.shard and bool(differences(then, table=table)),
                       split=split,
                       pairs=load_pairs(arguments.pairs, len(table)) if arguments.pairs else None,
                       interactions=items.interactions if arguments.report is not None and items.interactions else
                       find_interactions(arguments, len(table), table.item_ids, items.places))
    if arguments.against:
        against, made = load_published(arguments.against, code_sizes(model), model, arguments.ckpt,
                                       job.ancestors)
        job = job._replace(against=against, against_made=made)
    named = {name: getattr(arguments, name) for name in ("names", "pairs", "against", "config")}
    refuse_to_replace({**items.places, **named, "ckpt": None if arguments.save_pretrained else arguments.ckpt})
    if arguments.merge:
        job = job._replace(parts=find_shards(arguments.output or DEFAULT_OUTPUT))
    return prepare_unique(job)


def load_model(path) -> tuple:
    """The model of a checkpoint, of a folder of `--save-pretrained`, or of another system; and what is known of its
    training."""
    try:
        return load_own(path)
    except (CheckpointError, FileNotFoundError) as error:
        if not Path(path).exists():
            raise
        try:
            return RqVae.from_peer(path), {}
        except UnknownPeer:
            raise error from None


def load_own(path) -> tuple:
    if not Path(path).is_dir():
        loaded = load_checkpoint(path)
        return RqVae.from_loaded(loaded, path), loaded.get("rqvae") or {}
    if not (Path(path) / CONFIG_NAME).exists():
        inside = next(iter(sorted(Path(path).glob("*.ckpt"))), "checkpoints/best.ckpt")
        raise FileNotFoundError(f"{path} is a folder without {CONFIG_NAME}; name a checkpoint, such as {inside}, or a "
                                "folder of --save-pretrained")
    model = RqVae.from_pretrained(path)
    return model, {"notes": model.origin} if model.origin else {}


def prepare_unique(job) -> Job:
    """How collisions shall be resolved, and beside which IDs; and whether the outputs can hold the item IDs."""
    check_labels(job.outputs, job.items.dataset.table.item_ids)
    arguments, sizes, count = job.arguments, code_sizes(job.model), len(job.items.dataset)
    method = arguments.unique or ("optimal" if wants_unique(job) else "none")
    if arguments.append_to:
        published, manifest = load_published(arguments.append_to, sizes, job.model, arguments.ckpt,
                                             job.ancestors)
        job = job._replace(parent=manifest or len(published.codes))
        others = gone_on_from(arguments.append_to, manifest,
                              [output.path for output in job.outputs]) if manifest else ()
        if others:
            warn(f"{', '.join(others)} went on from {arguments.append_to} already; the new items get IDs that items "
                 f"there may have: to have them all in one, append to {others[-1]}")
        made_by = published_method(published, sizes, arguments.unique, arguments.append_to)
        rows = published_rows(published, arguments.append_to, job.items.dataset.table.item_ids, count)
        job, method = job._replace(published=published, published_rows=rows), made_by
        count = len(published.codes) + int((rows < 0).sum())
    if method in ("optimal", "nearest") and math.prod(sizes) < count:
        problem = f"{count:,} items cannot all differ among {math.prod(sizes):,} possible IDs"
        if arguments.unique or arguments.append_to:
            raise ValueError(f"{problem}; use --unique suffix, or train with more codes or levels")
        warn(f"{problem}, so each ID gets one more number, as by --unique suffix; train with more codes or "
             "levels, or leave them alike by --unique none")
        method = "suffix"
    check_levels(job.outputs, len(sizes) + (method == "suffix"))
    return job._replace(method=None if method == "none" else method)


def wants_unique(job) -> bool:
    """Whether items that share an ID are to be told apart, if nothing is said: always, but where each of the formats
    asked for does that itself."""
    return not job.outputs or any(output.format not in NUMBERED for output in job.outputs)


def prepare_ids(job) -> Job:
    """IDs in a file, and the features of their items, if given, in the same order."""
    arguments = job.arguments
    if arguments.num_embeddings and len(arguments.num_embeddings) == 1:
        arguments.num_embeddings = arguments.num_embeddings[0]
    ids = import_semantic_ids(arguments.ids, arguments.ids_format, num_embeddings=arguments.num_embeddings)
    manifest, items = verified_manifest(arguments.ids), None
    sizes = (manifest or {}).get("levels")
    if arguments.num_embeddings is None and sizes and len(sizes) == ids.codes.shape[1] - is_suffix(ids.codes):
        arguments.num_embeddings = sizes
    given = {name: getattr(arguments, name) for name in OPTIONS}
    if any(value is not None for value in given.values()):
        items = open_items(**given, device=job.device)
        table = items.dataset.table
        table.check()
        ids = in_order_of(table, ids, arguments.ids)
        if manifest and manifest["format"] in OWN:
            known = load_semantic_ids(arguments.ids).item_ids           # in the order of the manifest
            rows = np.arange(len(table)) if None in (known, table.item_ids) else rows_in(
                ids._replace(item_ids=known), arguments.ids, table.item_ids)
            if as_published(manifest, table, rows) is False:
                warn(f"{table.source} does not hold, number for number, the features that {arguments.ids} was made "
                     "from: they were made again or have changed, or are of other items; they are judged together all "
                     "the same")
    if arguments.against:
        job = job._replace(comparison=compare(arguments, ids, manifest))
    if arguments.num_embeddings is not None:
        check_num_embeddings(arguments, ids.codes)
    pairs = load_pairs(arguments.pairs, len(ids.codes)) if arguments.pairs else None
    names = load_names(arguments.names, len(ids.codes)) if arguments.names else \
        ids.names or items and items.dataset.names
    interactions = find_interactions(arguments, len(ids.codes), ids.item_ids, items.places if items else {})
    return job._replace(items=items, ids=ids, names=names, pairs=pairs, interactions=interactions, title=arguments.ids)


def check_num_embeddings(arguments, codes) -> None:
    """Are the codes of --ids below --num-embeddings, one for all levels or one for each?"""
    stated = arguments.num_embeddings
    levels = codes.shape[1] - is_suffix(codes)
    if isinstance(stated, list) and len(stated) != levels:
        raise ValueError(f"--num-embeddings names {len(stated)} sizes, {arguments.ids} has {levels} levels; name one "
                         "for each, or one for all")
    for level, (column, size) in enumerate(zip(codes.T[:levels], level_sizes(stated, levels)), start=1):
        if column.max() >= size:
            raise ValueError(f"--num-embeddings is {size}, but {arguments.ids} has the code {column.max()} on level "
                             f"{level}")


def compare(arguments, ids, manifest) -> dict:
    """What is left in `ids`, of which there may be a manifest, of the older ones."""
    old = import_semantic_ids(arguments.against, arguments.ids_format, num_embeddings=arguments.num_embeddings)
    before, now = ({(first, form_of(checksum)): checksum for first, _, checksum in pieces_of(one)}
                   for one in (verified_manifest(arguments.against), manifest))
    if ids.item_ids is None and old.item_ids is None and (len(now) < len(before) or differences(before, now)):
        warn(f"{arguments.ids} and {arguments.against} were made from other features, and have no item IDs; they are "
             "compared row by row, as if these were the same items")
    try:
        return compare_ids(ids, old)
    except ValueError as error:
        raise ValueError(f"{arguments.ids} against {arguments.against}: {error}") from None


def check_report(arguments) -> None:
    if not arguments.report:
        return
    path = Path(arguments.report)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"--report is {path}; its suffix must be .html or .png, or leave the file out")
    if path.is_dir():
        raise IsADirectoryError(f"--report is {path}, a folder; name a file in it")
    refuse_existing(path, arguments.overwrite)
    check_writable(path.parent)
    if path.suffix == ".png":
        require_matplotlib()


def find_items(arguments, notes, device) -> tuple:
    """The items that are named, or else those that the checkpoint was trained on; and whether it is the latter."""
    blended = notes.get("blended")
    given = {name: getattr(arguments, name) for name in ((*OPTIONS, *INTERACTIONS) if blended else OPTIONS)}
    recalled, how = not any(given[source] for source in ("data", "texts", "p5")), {"device": device}
    if recalled:
        if "data" not in notes:
            raise ValueError(f"{arguments.ckpt} does not say what it was trained on; name the items by --data")
        recorded = {name: notes.get(name) for name, value in given.items() if value is None}
        how["may_load"] = given["encoder"] is not None
        with noted_by(arguments.ckpt):
            given = {**given, **as_recorded(recorded, arguments.ckpt, notes.get("folder"))}
    elif notes:
        given = like_recorded(given, notes, arguments.ckpt)
    with noted_by(arguments.ckpt) if recalled else contextlib.nullcontext():
        items = open_named(given, blended=blended, **how)
    if not blended:
        return items, recalled
    if items.interactions is None:
        warn(f"{arguments.ckpt} was trained on features that know what users did, see docs/recommending.md; these "
             "items are encoded by their own alone, as if nobody had taken them; say by --interactions who did")
    elif arguments.report is not None:
        warn("the IDs are made with the interactions that the report looks at, and its figures flatter them; write the "
             "IDs, and judge them by --ids FILE --report --interactions HELD_OUT")
    return items, recalled and arguments.interactions is None


def find_interactions(arguments, count, item_ids, places):
    """What users did, for a report, or None."""
    if arguments.report is None:
        return None
    found = open_interactions(count, item_ids, **{name: getattr(arguments, name) for name in INTERACTIONS},
                              p5=places.get("p5"), split=places.get("split"))
    if arguments.recommender and found is None:
        raise ValueError("--recommender needs --interactions, or items of --p5")
    return found


def code_sizes(model) -> list:
    return [len(codebook) for codebook in model.quantizer.codebooks]
