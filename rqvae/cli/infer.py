"""What `infer` does: encode, resolve, write, judge; as much of it as was asked for."""

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np
import torch

from .. import __version__, distributed
from ..codes import level_sizes
from ..collisions import collision_report
from ..evaluation import code_statistics, feature_groups
from ..ids.publishing import labels_beside, rows_in, which_keys, write_outputs
from ..ids.shards import Shard, merge_shards, save_shard
from ..ids.uniqueness import ranked_last_codes, unique_ids
from ..identity import as_record, of_items, of_model
from ..inference import batch_inference
from ..items.tables import TableRows
from ..programs import export_program
from ..progress import shown
from ..recipe.comparison import compare_new
from ..report.assessment import (FOREIGN, assess, foreign_error, holding_cost, is_suffix, one_of_each, resolving_cost,
                                 row_errors, some_rows, unsettled)
from ..report.page import write_page
from ..report.picture import write_picture
from ..report.plane import plane
from ..report.taken import recommender_measures, taken_measures
from ..report.text import (COLLAPSED, arrival_measures, collapse_advice, comparison_measures, comparison_text,
                           foreign_words, freshness_text, holding_text, prefix_table, report_rows, report_text,
                           resolution_text, shared_prefixes, summary)
from ..report.words import sizes_in_words
from .console import held_back, say, say_lines
from ..storage.sets import together
from ..storage.words import counted
from .options import DEFAULT_OUTPUT
from .infer_plan import code_sizes, prepare
from .recorded import add_piece, pieces_of, require_as_published, require_new
from .verify import run_verify

__all__ = ["prepare", "run"]


def run(job) -> int:
    """Do the work, alone or as one of the processes of `torchrun`, which share the encoding."""
    with distributed.process_group(job.device):
        with contextlib.redirect_stdout(io.StringIO() if distributed.rank() else sys.stdout):
            return work(job)


def work(job) -> int:
    """Encode, resolve, write, judge: as much of it as was asked for."""
    arguments, model, items = job.arguments, job.model, job.items
    if job.verify:
        return run_verify(job)
    if job.ids:
        judge(job, job.ids.codes, job.names or job.ids.item_ids)
        if job.comparison:
            say_lines("\n" + comparison_text(job.comparison, arguments.ids, arguments.against))
        return 0
    if items is None:
        with together():
            said = [] if distributed.rank() else write_model(job)
        for sentence in said:
            say(sentence)
        return 0
    table = items.dataset.table
    if job.unfinished:
        say(f"WARNING: {job.unfinished}")
    codes, resolution = encoded(job), None
    if distributed.rank():          # the first process has all codes, and does the rest
        return 0
    if job.shard:
        return write_shard(job, codes)
    names, taken = job.names or table.item_ids, None
    if job.published:               # from here on the new items alone
        known = np.flatnonzero(job.published_rows >= 0)
        if len(known):
            kept = job.published.codes[job.published_rows[known], :codes.shape[1]]
            require_as_published(job.published, job.parent, table, job.published_rows, arguments.append_to,
                                 lambda: codes[known], code_sizes(job.model)[-1])
            say(holding_text(kept, codes[known], *holding_cost(model, TableRows(table, known), kept, codes[known])))
        new, taken = np.flatnonzero(job.published_rows < 0), job.published.codes
        require_new(job.published, table, arguments.append_to, codes[new])
        table, codes, names = TableRows(table, new), codes[new], names and [names[row] for row in new.tolist()]
    if job.method:
        resolution = unique_ids(model, table, codes, method=job.method, taken=taken)
    ids = codes if resolution is None else resolution.codes
    # All that reads the features comes before the names: changed meanwhile, nothing is written.
    with together():                # the report's page, the model and the IDs that they are of, or nothing
        model_written = write_model(job)
        written = write(job, ids, codes) if job.outputs else ""
        if arguments.report is not None:
            judge(job, codes, names, resolution)
        else:
            show(job, codes, table)
        if resolution is not None and (len(resolution.moved) or arguments.unique):
            cost = None if job.method == "suffix" else resolving_cost(model, table, codes, *resolution[:2])
            say_lines(resolution_text(resolution, len(codes), cost, len(job.published.codes) if job.published else 0))
    if arguments.report is None:
        say_lines(beside_published(job, ids) if job.published else shared_prefixes(ids, names))
    for sentence in filter(None, (*model_written, written or "no IDs were written; --output FILE writes them")):
        say(sentence)
    return 0


def write_model(job) -> list:
    """The model as a folder and as a program, as far as they are asked for; a sentence of each."""
    arguments, said = job.arguments, []
    if arguments.save_pretrained:
        job.model.save_pretrained(arguments.save_pretrained, overwrite=arguments.overwrite)
        said.append(f"wrote the model to {arguments.save_pretrained}; "
                    f"RqVae.from_pretrained({arguments.save_pretrained!r}) loads it")
    if arguments.export:
        with held_back():               # it imports half of torch
            export_program(job.model, arguments.export)
        said.append(f"wrote features -> codes as a program to {arguments.export}; it gives the codes of the model "
                    "alone, nothing is moved to make them unique")
    return said


def encoded(job) -> np.ndarray:
    """(N, L) int64, as the model gives them."""
    table = job.items.dataset.table
    job.model.to(job.device)
    if job.parts:
        say(f"Merging {len(job.parts)} parts of {job.items.description}")
        return merge_shards(job.parts, job.arguments.output or DEFAULT_OUTPUT, job.model, table)
    say(f"Encoding {job.items.description}, on {job.device}")
    if distributed.world_size() > 1:
        distributed.require_same({**of_items(table), **of_model(job.model)})
    part = job.shard or Shard(distributed.rank() + 1, distributed.world_size())
    rows = part.rows(len(table))
    chunks = shown(list(chunked(rows, job.arguments.batch_size)), "encoding",
                   not job.arguments.quiet and not distributed.rank())
    codes = batch_inference(job.model, ({"features": table.rows(chunk)} for chunk in chunks), job.device) if rows \
        else torch.empty(0, len(job.model.quantizer.codebooks), dtype=torch.int64)
    codes = codes.reshape(len(codes), len(job.model.quantizer.codebooks))
    return distributed.join(codes.to(job.device)).cpu().numpy()


def chunked(rows, size):
    """A range of rows in order, a slice at a time."""
    return (slice(first, min(first + size, rows.stop)) for first in range(rows.start, rows.stop, size))


def write_shard(job, codes) -> int:
    path = save_shard(job.shard, job.arguments.output or DEFAULT_OUTPUT, codes, job.model,
                      job.items.dataset.table, job.arguments.overwrite)
    rows = job.shard.rows(len(job.items.dataset))
    say(f"wrote rows {rows[0]:,} to {rows[-1]:,} to {path}; when all {job.shard.count} parts are there, run the same "
        "command with --merge instead of --shard")
    return 0


def write(job, codes, bare) -> str:
    """Write the new IDs, behind the published ones if there are any, in every form that was asked for; says so.

    Args:
        codes: of the new items.
        bare: the same as the model gives them, for formats that tell apart themselves who shares one.
    """
    item_ids, names = job.items.dataset.table.item_ids, job.names
    if job.published:
        item_ids, names = labels_beside(job.published, job.published_rows, item_ids, names)
        codes = np.concatenate([job.published.codes, codes])
    ranked = None
    if codes.shape == bare.shape and any(output.format == "torcheasyrec" for output in job.outputs):
        ranked = ranked_last_codes(job.model, job.items.dataset.table, codes)
    paths = write_outputs(job.outputs, codes, code_sizes(job.model), item_ids=item_ids, names=names, candidates=ranked,
                          bare=None if job.arguments.unique or job.published else bare,
                          overwrite=job.arguments.overwrite, made=made_by(job), parent=job.parent)
    said = which_keys(job.outputs, item_ids)
    if said:
        say(said)
    beside = f", {counted(len(job.published.codes), 'published one')} first and unchanged," if job.published else ""
    known = int((job.published_rows >= 0).sum()) if job.published else 0
    if known:
        say(f"{known:,} of them are published already and keep their IDs")
    return f"wrote {counted(len(codes), 'semantic ID')}{beside} to {', '.join(map(str, paths))}"


def freshness(job, codes, table) -> str:
    """How items that the model was not trained on fare beside those held out then, in words; "" if not known."""
    if job.model is None or job.items is None or job.split is not None:
        return ""
    then = next((row.get("val_recon_loss") for row in job.history if row.get("chosen")), None)
    return freshness_text(row_errors(table, codes, job.model)[0].mean().item() / table.shape[1], then)


def arrivals(job, codes) -> list:
    """Measures of how the items that are new lie among the published ones of --against; none where none is."""
    item_ids, published = job.items.dataset.table.item_ids, job.against
    if (item_ids is None) != (published.item_ids is None):
        raise ValueError(f"only one of {job.items.dataset.table.source} and {job.arguments.against} has item IDs, so "
                         "nobody can tell which items are new; give them on both sides")
    if item_ids is None:
        require_new(published, job.items.dataset.table, job.arguments.against, codes)
    else:
        rows = rows_in(published, job.arguments.against, item_ids)
        if (rows >= 0).any():
            require_as_published(published, job.against_made, job.items.dataset.table, rows, job.arguments.against,
                                 lambda: codes[rows >= 0], code_sizes(job.model)[-1])
        codes = codes[rows < 0]
    return arrival_measures(compare_new(codes, published.codes[:, :codes.shape[1]])) if len(codes) else []


def made_by(job) -> dict:
    """What made the new IDs, for the manifest."""
    table = job.items.dataset.table
    record = as_record("manifest", {**of_model(job.model), "features": table.checksum()})
    found = {
        "made by": f"rqvae {__version__}, torch {torch.__version__}",
        "checkpoint": {"path": os.path.abspath(job.arguments.ckpt), **record["checkpoint"]},
        "features": {**record["features"], "items": len(table), "places": job.items.places, "folder": os.getcwd()},
        "unique": job.method,
    }
    new = np.arange(len(table))
    if job.published:
        new = np.flatnonzero(job.published_rows < 0)
        if len(new) < len(table):
            found["rows"] = new.tolist()                # of the features, that were new
    found["features"]["of items"] = add_piece(table, new, pieces_of(job.parent),
                                              len(job.published.codes) if job.published else 0)
    return found


def beside_published(job, codes) -> str:
    """`shared_prefixes` of the new items (n, L), with those published before."""
    item_ids, names = labels_beside(job.published, job.published_rows, job.items.dataset.table.item_ids, job.names)
    return shared_prefixes(np.concatenate([job.published.codes, codes]), names or item_ids,
                           published=len(job.published.codes))


def show(job, codes, table) -> None:
    """The IDs of a table's items in brief, as the model gives them."""
    statistics, groups = code_statistics(torch.from_numpy(codes), code_sizes(job.model)), feature_groups(table, codes)
    say_lines(summary(statistics, collision_report(codes, features_groups=groups)))
    if warn_of_foreign(job, codes, table):
        return
    if job.new and uses_its_codes(job):     # few items, or items alike, use few codes of a model that is sound
        rows = some_rows(len(codes))
        fresh = freshness(job, codes[rows], TableRows(table, rows))
        if fresh.startswith("WARNING"):
            say(fresh)
        return
    advice = "train again longer, with fewer --num-embeddings, or on more varied items" if job.model.latent_norm else \
        "train again with --preset tiger, which prevents this"
    for sentence in collapse_advice(statistics, advice, items=unsettled(codes[one_of_each(groups)])):
        say(f"WARNING: {sentence}")


def uses_its_codes(job) -> bool:
    """Whether the items of the training are known to use the codes of each level."""
    then = next((row.get("codes_used") for row in job.history if row.get("chosen")), None)
    return bool(then) and all(used >= COLLAPSED * size for used, size in zip(then, code_sizes(job.model)))


def warn_of_foreign(job, codes, table) -> bool:
    """Say so where the features are not what the model knows: training again would not help."""
    error = foreign_error(job.model, table, codes)
    if error > FOREIGN:
        say(f"WARNING: {foreign_words(error)}")
    return error > FOREIGN


def judge(job, codes, names, resolution=None) -> None:
    """The report, in words and, if asked for, as a page."""
    before, resolved, levels = None, None, codes.shape[1]
    ids = codes if resolution is None else resolution.codes
    if resolution is not None:
        before, resolved, codes = codes, resolution.after, resolution.codes[:, :levels]
    elif job.model is None and is_suffix(codes):
        say("The last number of each ID counts the items of a collision; the others are judged.")
        resolved, codes = collision_report(codes), codes[:, :-1]
    sizes = level_sizes(code_sizes(job.model) if job.model else job.arguments.num_embeddings or int(codes.max()) + 1,
                        codes.shape[1])
    measures = assess(codes, sizes, model=job.model, features=job.items and job.items.dataset.table, before=before,
                      resolved=resolved, split=job.split, pairs=job.pairs)
    if job.model is not None and job.items is not None:
        warn_of_foreign(job, codes if before is None else before, job.items.dataset.table)
    if job.interactions:
        measures += taken_measures(ids, job.interactions, levels=codes.shape[1])
    if job.arguments.recommender:
        print("training a recommender on the IDs, which takes some CPU-minutes", file=sys.stderr)
        measures += recommender_measures(ids, job.interactions)
    if job.against:
        measures += arrivals(job, codes if before is None else before)
    what = job.items.description if job.items else counted(len(codes), "item")
    about = f"{what}; {counted(codes.shape[1], 'level')} of {sizes_in_words(sizes)} codes, {job.title}"
    if resolution is not None and len(resolution.moved) and job.method != "suffix":
        about += ", made unique (what train says is of the IDs before that)"
    if job.interactions:
        say(f"What users did: {job.interactions.words}")
    say(f"Report on {about}")
    say_lines(f"\n{report_text(measures)}\n\n{prefix_table(codes)}")
    fresh = freshness(job, codes if before is None else before, job.items and job.items.dataset.table)
    if fresh:
        say_lines("\n" + fresh)
    if job.arguments.report:
        table = job.items.dataset.table if job.items else None
        seen = plane(table, codes, names) if table is not None and table.shape[1] > 1 else None
        figures = dict(title="Report on semantic IDs", history=job.history, codes=codes, num_embeddings=sizes,
                       plane=seen)
        if Path(job.arguments.report).suffix == ".html":
            write_page(job.arguments.report, description=about, names=names,
                       metrics=report_rows(measures + (comparison_measures(job.comparison) if job.comparison else [])),
                       **figures)
        else:
            write_picture(job.arguments.report, measures=measures, **figures)
        say("")
        say(f"wrote {job.arguments.report}")
