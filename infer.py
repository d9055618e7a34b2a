"""Write the semantic IDs of items: `python infer.py --ckpt [CKPT] [--data FILE]`; `--help` lists the options."""

import sys
from pathlib import Path
from typing import NamedTuple

import torch

from rqvae import FeatureLoader, RqVae, batch_inference, save_semantic_ids
from rqvae.checkpoint import load_checkpoint
from rqvae.collisions import collision_report
from rqvae.console import ArgumentParser, run_script, say
from rqvae.evaluation import code_statistics
from rqvae.files import check_writable
from rqvae.inference import resolve_device
from rqvae.items import OPTIONS, Items, add_item_options, open_items
from rqvae.report import collapse_advice, shared_prefixes, summary

DEFAULT_CKPT = "checkpoints/best.ckpt"


class Job(NamedTuple):
    """Everything that `prepare` checked and `run` needs."""

    items: Items
    model: RqVae
    output: Path
    device: torch.device
    batch_size: int


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="infer.py", description=(
        "Write one semantic ID an item, in row order, with a trained checkpoint. Without --data it encodes the items "
        "that the checkpoint was trained on."))
    add = parser.add_argument
    add("--ckpt", nargs="?", default=DEFAULT_CKPT, const=DEFAULT_CKPT, metavar="PATH",
        help=f"the checkpoint (default: {DEFAULT_CKPT})")
    add_item_options(parser)
    add("--output", default="semantic_ids.json", metavar="FILE",
        help=".json (LC-Rec's index), .npy or .jsonl (default: semantic_ids.json)")
    add("--overwrite", action="store_true", help="replace an output that exists")
    add("--batch-size", type=int, default=1024, metavar="N",
        help="rows read at once; the IDs do not depend on it (default: 1024)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def prepare(arguments) -> Job:
    """Everything that can be wrong with the input is found here, before any work."""
    device = resolve_device(arguments.device)
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}, must be 1 or more")
    output = Path(arguments.output)
    check_output(output, arguments.overwrite)
    check_writable(output.parent)
    notes = load_checkpoint(arguments.ckpt).get("rqvae", {}).get("notes") or {}
    model = RqVae.load_from_checkpoint(arguments.ckpt)
    given = {name: getattr(arguments, name) for name in OPTIONS}
    if not any(given[source] for source in ("data", "texts", "p5")):
        if "data" not in notes:
            raise ValueError(f"{arguments.ckpt} does not say what it was trained on; name the items by --data")
        given = {name: notes.get(name) if value is None else value for name, value in given.items()}
    items = open_items(**given, device=device)
    table = items.dataset.table
    if table.shape[1] != model.input_dim:
        raise ValueError(f"{table.source}: the features have {table.shape[1]} columns, {arguments.ckpt} expects "
                         f"{model.input_dim}; give features of the same encoder, or train on these")
    table.check()
    return Job(items, model, output, device, arguments.batch_size)


def run(job) -> int:
    """Encode, write, and show what the IDs look like."""
    dataset = job.items.dataset
    say(f"Encoding {job.items.description}, on {job.device}")
    codes = batch_inference(job.model, FeatureLoader(dataset.table, job.batch_size), job.device)
    save_semantic_ids(codes, job.output, item_ids=dataset.table.item_ids, names=dataset.names, overwrite=True)
    statistics = code_statistics(codes, job.model.quantizer.num_embeddings)
    say(summary(statistics, collision_report(codes)))
    for sentence in collapse_advice(statistics, "train again with --preset tiger, longer, or on more varied items"):
        say(f"WARNING: {sentence}")
    say(shared_prefixes(codes, dataset.names or dataset.table.item_ids))
    say(f"wrote {len(codes):,} semantic IDs to {job.output}")
    return 0


def check_output(path, overwrite) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write, .json, .npy or .jsonl")
    if path.suffix not in (".json", ".npy", ".jsonl"):
        raise ValueError(f"--output is {path}; its suffix must be .json, .npy or .jsonl")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; replace it by --overwrite, or name another --output")


def main(argv=None) -> int:
    """Run the script with these arguments, those of the command line by default; returns the exit code."""
    return run_script(build_parser(), prepare, run, argv)


if __name__ == "__main__":
    sys.exit(main())
