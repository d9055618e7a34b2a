"""Write the semantic IDs of items, and judge them: `python infer.py --ckpt [CKPT] [--data FILE]`; see `--help`."""

import argparse
import contextlib
import io
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rqvae import RqVae, batch_inference, distributed, save_semantic_ids
from rqvae.assessment import assess, is_suffix, resolving_cost
from rqvae.checkpoint import CONFIG_NAME, load_checkpoint
from rqvae.collisions import collision_report
from rqvae.console import ArgumentParser, run_script, say
from rqvae.evaluation import code_statistics
from rqvae.exports import FORMATS
from rqvae.files import check_writable
from rqvae.imports import import_semantic_ids
from rqvae.inference import resolve_device
from rqvae.items import OPTIONS, Items, add_item_options, open_items
from rqvae.publishing import (labels_beside, load_published, plan_outputs, published_method, refuse_existing,
                              write_outputs)
from rqvae.report import (collapse_advice, prefix_table, report_rows, report_text, resolution_text, shared_prefixes,
                          summary)
from rqvae.report_inputs import in_order_of, load_names, load_pairs, trained_and_held_out, training_history
from rqvae.report_page import write_page
from rqvae.report_picture import require_matplotlib, write_picture
from rqvae.semantic_ids import SemanticIds
from rqvae.shards import Shard, find_shards, merge_shards, parse_shard
from rqvae.uniqueness import unique_ids

DEFAULT_CKPT, DEFAULT_OUTPUT = "checkpoints/best.ckpt", "semantic_ids.json"
# Options that another one rules out, and why.
APART = {
    "shard": (("unique", "append_to", "format", "report", "merge", "save_pretrained"),
              "a shard holds bare codes; give that option with --merge"),
    "append_to": (("report",), "judge the new table afterwards by --ids TABLE --report"),
    "ids": (("unique", "append_to", "format", "output", "merge", "shard", "save_pretrained"),
            "IDs in a file are only judged; leave one of them out"),
}
NEEDS = {"ids": "report", "pairs": "report", "ids_format": "ids", "num_embeddings": "ids"}


class Job(NamedTuple):
    """Everything that `prepare` checked and `run` needs."""

    arguments: argparse.Namespace
    device: torch.device
    title: str = ""                 # where the IDs are from
    model: RqVae = None             # None for IDs in a file
    history: list = ()              # of the training
    items: Items = None             # None where only the model is saved, or IDs come without features
    names: list = None              # N, of --names or of the items
    split: tuple = None             # rows trained on and held out, where that is known
    pairs: np.ndarray = None        # (P, 2)
    outputs: list = ()              # of `plan_outputs`
    shard: Shard = None
    parts: list = None              # the shards to merge
    method: str = None              # how collisions are resolved
    published: SemanticIds = None
    ids: SemanticIds = None


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="infer.py", description=(
        "Write one semantic ID an item, in row order, with a trained checkpoint. Without --data, --texts or --p5 it "
        "encodes the items that the checkpoint was trained on."))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(
        [f"  {'json, jsonl, npy':<20}ours; json is LC-Rec's index, with item IDs for keys where there are any",
         *(f"  {name:<20}{form.sentence}" for name, form in FORMATS.items())])
    add = parser.add_argument
    add("--ckpt", nargs="?", default=DEFAULT_CKPT, const=DEFAULT_CKPT, metavar="PATH",
        help=f"the checkpoint (default: {DEFAULT_CKPT})")
    add("--batch-size", type=int, default=1024, metavar="N",
        help="rows read at once; the IDs do not depend on it (default: 1024)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--overwrite", action="store_true", help="replace files that exist")
    group = parser.add_argument_group("items")
    add_item_options(group)
    group.add_argument("--names", metavar="FILE", help="names of the items in row order, for people to read: .txt (one "
                                                       "a line) or .json")
    group = parser.add_argument_group("IDs")
    add = group.add_argument
    add("--output", metavar="PATH", help="the file, .json, .jsonl or .npy (default: semantic_ids.json); with --format "
                                         "a file of that format, or a folder (default: semantic_ids)")
    add("--format", nargs="+", metavar="NAME", help="write the files that other systems read, one or several of the "
                                                    "formats listed below")
    add("--unique", nargs="?", const="nearest", choices=("nearest", "suffix"),
        help="give every item an ID of its own: 'nearest' (if nothing is said) moves all but one of the items that "
             "share an ID to the nearest free one; 'suffix' adds a number to every ID instead")
    add("--append-to", metavar="FILE", help="IDs (.json, .jsonl, .npy) that are published: --output gets them, "
                                            "unchanged and first, and then unique ones for the new items, which must "
                                            "be named and must not be among them")
    add("--shard", metavar="I/N", help="encode only the I-th of N parts, for N processes or machines, into a file "
                                       "beside --output")
    add("--merge", action="store_true", help="take the codes from the parts beside --output instead of encoding; the "
                                             "result is that of one process")
    group = parser.add_argument_group("judging, and the model; no IDs are written unless an option above asks for it")
    add = group.add_argument
    add("--report", nargs="?", const="", metavar="FILE", help="say how good model and IDs are, beside what is healthy; "
                                                              "with a .html or .png (needs matplotlib) also as a page")
    add("--pairs", metavar="FILE", help="for --report: .npy with the row numbers (pairs, 2) of items that go together, "
                                        "such as those taken one after the other")
    add("--ids", metavar="FILE", help="for --report: judge the IDs in this file, ours or another system's, without a "
                                      "checkpoint; with --data also their neighbours")
    add("--ids-format", metavar="NAME", help="the format of --ids, where its content does not tell")
    add("--num-embeddings", type=int, metavar="N", help="codes of a level of --ids (default: the largest code + 1)")
    add("--save-pretrained", metavar="DIR", help="write the model as a folder with config.json and weights")
    return parser


# ----------------------------------------------- everything that can be wrong is found here, before any work

def prepare(arguments) -> Job:
    check_together(arguments)
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}, must be 1 or more")
    job = Job(arguments, distributed.local_device(resolve_device(arguments.device)))
    check_report(arguments)
    if arguments.ids:
        return prepare_ids(job)
    judged_only = arguments.report is not None or arguments.save_pretrained
    asked = arguments.output or arguments.format or arguments.unique or arguments.append_to or arguments.merge
    if arguments.shard:
        if distributed.launched_world() > 1:
            raise ValueError("--shard is for processes that know nothing of each other; leave it out under torchrun")
        job = job._replace(shard=parse_shard(arguments.shard))
        target = job.shard.path(arguments.output or DEFAULT_OUTPUT)
        refuse_existing(target, arguments.overwrite)
        check_writable(target.parent)
    elif asked or not judged_only:
        job = job._replace(outputs=plan_outputs(arguments.format, arguments.output, arguments.overwrite))
        for _, path in job.outputs:
            check_writable(path.parent if path.suffix else path)
    if arguments.save_pretrained:
        refuse_existing(Path(arguments.save_pretrained) / CONFIG_NAME, arguments.overwrite)
        check_writable(arguments.save_pretrained)
    loaded = load_checkpoint(arguments.ckpt)
    run_of = loaded.get("rqvae") or {}
    model = RqVae.load_from_checkpoint(arguments.ckpt)
    job = job._replace(model=model, history=training_history(arguments.ckpt, run_of), title=arguments.ckpt)
    if not job.shard and not job.outputs and arguments.report is None:
        return job
    items = find_items(arguments, run_of.get("notes") or {}, job.device)
    table = items.dataset.table
    if table.shape[1] != model.input_dim:
        raise ValueError(f"{table.source}: the features have {table.shape[1]} columns, {arguments.ckpt} expects "
                         f"{model.input_dim}; give features of the same encoder, or train on these")
    if job.shard:
        job.shard.check(len(table))
    table.check(rows=job.shard.rows(len(table)) if job.shard else None)
    names = load_names(arguments.names, len(table)) if arguments.names else items.dataset.names
    job = job._replace(items=items, names=names,
                       split=trained_and_held_out(run_of, table) if arguments.report is not None else None,
                       pairs=load_pairs(arguments.pairs, len(table)) if arguments.pairs else None)
    if arguments.merge:
        job = job._replace(parts=find_shards(arguments.output or DEFAULT_OUTPUT))
    return prepare_unique(job)


def prepare_unique(job) -> Job:
    """How collisions shall be resolved, and beside which IDs."""
    arguments, sizes, count = job.arguments, code_sizes(job.model), len(job.items.dataset)
    method = arguments.unique
    if arguments.append_to:
        published = load_published(arguments.append_to, sizes)
        made_by = published_method(published, sizes, method, arguments.append_to)
        job, method, count = job._replace(published=published), made_by, count + len(published.codes)
        dataset = job.items.dataset
        labels_beside(published, arguments.append_to, len(dataset), dataset.table.item_ids, job.names)
    if method == "nearest" and math.prod(sizes) < count:
        raise ValueError(f"{count:,} items cannot all differ among {math.prod(sizes):,} possible IDs; use --unique "
                         "suffix, or train with more codes or levels")
    return job._replace(method=method)


def prepare_ids(job) -> Job:
    """IDs in a file, and the features of their items, if given, in the same order."""
    arguments = job.arguments
    ids = import_semantic_ids(arguments.ids, arguments.ids_format, num_embeddings=arguments.num_embeddings)
    items = None
    given = {name: getattr(arguments, name) for name in OPTIONS}
    if any(value is not None for value in given.values()):
        items = open_items(**given, device=job.device)
        table = items.dataset.table
        table.check()
        ids = in_order_of(table, ids, arguments.ids)
    largest = int(ids.codes.max())
    if arguments.num_embeddings is not None and largest >= arguments.num_embeddings:
        raise ValueError(f"--num-embeddings is {arguments.num_embeddings}, but {arguments.ids} has the code {largest}")
    pairs = load_pairs(arguments.pairs, len(ids.codes)) if arguments.pairs else None
    names = load_names(arguments.names, len(ids.codes)) if arguments.names else ids.names or items and items.dataset.names
    return job._replace(items=items, ids=ids, names=names, pairs=pairs, title=arguments.ids)


def check_together(arguments) -> None:
    """Refuse options that rule each other out, or that need another one."""
    given = {name for name, value in vars(arguments).items() if value not in (None, False)}
    for name, (others, reason) in APART.items():
        wrong = [other for other in others if other in given]
        if name in given and wrong:
            raise ValueError(f"{flag(wrong[0])} does not go with {flag(name)}: {reason}")
    for name, needed in NEEDS.items():
        if name in given and needed not in given:
            raise ValueError(f"{flag(name)} needs {flag(needed)}")
    if "append_to" in given and not given & {"data", "texts", "p5"}:
        raise ValueError("--append-to needs the new items, named by --data, --texts or --p5")


def check_report(arguments) -> None:
    if not arguments.report:
        return
    path = Path(arguments.report)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"--report is {path}; its suffix must be .html or .png, or leave the file out")
    refuse_existing(path, arguments.overwrite)
    check_writable(path.parent)
    if path.suffix == ".png":
        require_matplotlib()


def find_items(arguments, notes, device) -> Items:
    """The items that are named, or else those that the checkpoint was trained on."""
    given = {name: getattr(arguments, name) for name in OPTIONS}
    if not any(given[source] for source in ("data", "texts", "p5")):
        if "data" not in notes:
            raise ValueError(f"{arguments.ckpt} does not say what it was trained on; name the items by --data")
        given = {name: notes.get(name) if value is None else value for name, value in given.items()}
    return open_items(**given, device=device)


def code_sizes(model) -> list:
    return [len(codebook) for codebook in model.quantizer.codebooks]


def flag(name) -> str:
    return "--" + name.replace("_", "-")


# --------------------------------------------------------------------------------------------- the work

def run(job) -> int:
    """Do the work, alone or as one of the processes of `torchrun`, which share the encoding."""
    with distributed.process_group(job.device):
        with contextlib.redirect_stdout(io.StringIO() if distributed.rank() else sys.stdout):
            return work(job)


def work(job) -> int:
    """Encode, resolve, write, judge: as much of it as was asked for."""
    arguments, model, items = job.arguments, job.model, job.items
    if job.ids:
        judge(job, job.ids.codes, job.names or job.ids.item_ids)
        return 0
    if arguments.save_pretrained and not distributed.rank():
        model.save_pretrained(arguments.save_pretrained)
        say(f"wrote the model to {arguments.save_pretrained}; RqVae.from_pretrained({arguments.save_pretrained!r}) "
            "loads it")
    if items is None:
        return 0
    table = items.dataset.table
    codes, resolution = encoded(job), None
    if distributed.rank():          # the first process has all codes, and does the rest
        return 0
    if job.shard:
        return write_shard(job, codes)
    if job.method:
        taken = job.published.codes if job.published else None
        resolution = unique_ids(model, table, codes, method=job.method, taken=taken)
    ids = codes if resolution is None else resolution.codes
    written = write(job, ids) if job.outputs else ""
    if arguments.report is not None:
        judge(job, codes, job.names or table.item_ids, resolution)
    else:
        show(job, codes)
    if resolution is not None:
        cost = None if job.method == "suffix" else resolving_cost(model, table, codes, *resolution[:2])
        say(resolution_text(resolution, len(codes), cost, len(job.published.codes) if job.published else 0))
    if arguments.report is None:
        say(shared_prefixes(ids, job.names or table.item_ids))
    if written:
        say(written)
    return 0


def encoded(job) -> np.ndarray:
    """(N, L) int64, as the model gives them."""
    table = job.items.dataset.table
    job.model.to(job.device)
    if job.parts:
        say(f"Merging {len(job.parts)} parts of {job.items.description}")
        return merge_shards(job.parts, job.arguments.output or DEFAULT_OUTPUT, job.model, table)
    say(f"Encoding {job.items.description}, on {job.device}")
    part = job.shard or Shard(distributed.rank() + 1, distributed.world_size())
    rows = part.rows(len(table))
    codes = batch_inference(job.model, batches(table, rows, job.arguments.batch_size), job.device) if rows \
        else torch.empty(0, len(job.model.quantizer.codebooks), dtype=torch.int64)
    codes = codes.reshape(len(codes), -1)
    return distributed.join(codes.to(job.device)).cpu().numpy()


def batches(table, rows, size):
    """These rows of the table in order, a slice at a time."""
    for first in range(rows.start, rows.stop, size):
        yield {"features": table.rows(slice(first, min(first + size, rows.stop)))}


def write_shard(job, codes) -> int:
    path = job.shard.path(job.arguments.output or DEFAULT_OUTPUT)
    save_semantic_ids(codes, path, overwrite=True)
    rows = job.shard.rows(len(job.items.dataset))
    say(f"wrote rows {rows[0]:,} to {rows[-1]:,} to {path}; when all {job.shard.count} parts are there, run the same "
        "command with --merge instead of --shard")
    return 0


def write(job, codes) -> str:
    """Write the new IDs, behind the published ones if there are any, in every form that was asked for; says so."""
    item_ids, names = job.items.dataset.table.item_ids, job.names
    if job.published:
        item_ids, names = labels_beside(job.published, job.arguments.append_to, len(codes), item_ids, names)
        codes = np.concatenate([job.published.codes, codes])
    paths = write_outputs(job.outputs, codes, code_sizes(job.model), item_ids=item_ids, names=names)
    beside = f", {len(job.published.codes):,} published ones first and unchanged" if job.published else ""
    return f"wrote {len(codes):,} semantic IDs{beside} to {', '.join(map(str, paths))}"


def show(job, codes) -> None:
    """The IDs in brief, as the model gives them."""
    statistics = code_statistics(torch.from_numpy(codes), job.model.quantizer.num_embeddings)
    say(summary(statistics, collision_report(codes)))
    for sentence in collapse_advice(statistics, "train again with --preset tiger, longer, or on more varied items",
                                    items=len(codes)):
        say(f"WARNING: {sentence}")


def judge(job, codes, names, resolution=None) -> None:
    """The report, in words and, if asked for, as a page."""
    before, resolved, levels = None, None, codes.shape[1]
    if resolution is not None:
        before, resolved, codes = codes, resolution.after, resolution.codes[:, :levels]
    elif job.model is None and is_suffix(codes):
        say("The last number of each ID counts the items of a collision; the others are judged.")
        resolved, codes = collision_report(codes), codes[:, :-1]
    size = job.model.quantizer.num_embeddings if job.model else job.arguments.num_embeddings or int(codes.max()) + 1
    measures = assess(codes, size, model=job.model, features=job.items and job.items.dataset.table, before=before,
                      resolved=resolved, split=job.split, pairs=job.pairs)
    what = job.items.description if job.items else f"{len(codes):,} items"
    about = f"{what}; {codes.shape[1]} levels of {size:,} codes, {job.title}"
    say(f"Report on {about}\n\n{report_text(measures)}\n\n{prefix_table(codes)}")
    if job.arguments.report:
        figures = dict(title="Report on semantic IDs", history=job.history, codes=codes, num_embeddings=size)
        if Path(job.arguments.report).suffix == ".html":
            write_page(job.arguments.report, description=about, names=names,
                       metrics=report_rows(measures), **figures)
        else:
            write_picture(job.arguments.report, **figures)
        say(f"\nwrote {job.arguments.report}")


def main(argv=None) -> int:
    """Run the script with these arguments, those of the command line by default; returns the exit code."""
    return run_script(build_parser(), prepare, run, argv)


if __name__ == "__main__":
    sys.exit(main())
