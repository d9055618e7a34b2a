"""The options of both commands, and which of them go together. Needs no torch, so that `--help` answers at once."""

import argparse
import os

from ..ids import FORMATS
from .console import ArgumentParser
from .item_options import add_interaction_options, add_item_options

PRESETS = ("closed", "documented", "fine", "tiger")
DEFAULT_FOLDER = "checkpoints"
DEFAULT_CKPT, DEFAULT_OUTPUT = f"{DEFAULT_FOLDER}/best.ckpt", "semantic_ids.json"
DEFAULTS = {"preset": "tiger", "val_fraction": 0.05, "seed": 0}
# Options that another one rules out, and why.
APART = {
    "verify": (("unique", "append_to", "format", "report", "merge", "shard", "save_pretrained", "output", "ids"),
               "what is verified is not made or judged again; leave one of them out"),
    "shard": (("unique", "append_to", "format", "report", "merge", "save_pretrained", "export"),
              "a shard holds bare codes; give that option with --merge"),
    "append_to": (("report",), "judge the new table afterwards by --ids TABLE --report"),
    "ids": (("unique", "append_to", "format", "output", "merge", "shard", "save_pretrained", "export"),
            "IDs in a file are only judged; leave one of them out"),
}
NEEDS = {"against": "report", "sample": "verify", "ids": "report", "pairs": "report", "recommender": "report",
         "user_column": "interactions", "item_column": "interactions", "time_column": "interactions",
         "ids_format": "ids", "num_embeddings": "ids"}


def train_parser(program="rqvae") -> ArgumentParser:
    parser = ArgumentParser(program, "train", description=(
        "Train a tokenizer: a residual-quantized autoencoder that gives every item a semantic ID. "
        "Without --data, --texts or --p5 it trains on the built-in catalogue."))
    add = parser.add_argument
    add_item_options(parser)
    add("--weights", type=float, nargs="+", metavar="F",
        help="of several --data, share of the variance that each shall have (default: the same for all)")
    add_interaction_options(parser)
    add("--epochs", type=int,
        help="passes over the items, 0 for the starting point alone (default: 10; with --preset "
             "fine 30, closed 60, documented 100, with the first two fewer for more than 8,000 items)")
    add("--batch-size", type=int, metavar="N", help="rows a training step sees (default: the preset's)")
    add("--val-fraction", type=float, metavar="F",
        help=f"share of the items held out to choose best.ckpt by (default: {DEFAULTS['val_fraction']})")
    add("--preset", choices=PRESETS,
        help=f"tiger: the measured recipe; fine: twice as long, for the least reconstruction error; closed: fits the "
             f"catalogue harder still, new items worse; documented: the documented model and training "
             f"(default: {DEFAULTS['preset']})")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--checkpoint-dir", default=DEFAULT_FOLDER, metavar="DIR", help="where to write (default: checkpoints)")
    add("--resume", nargs="?", const="", metavar="PATH",
        help="go on with a run, by default with the newest checkpoint in --checkpoint-dir")
    add("--from", dest="from_", metavar="PATH",
        help="go on from the model of this checkpoint on a catalogue that has grown; needs --keep")
    add("--keep", metavar="FILE",
        help="IDs that are published and shall not change: their items, found by item ID (or, where there are none, "
             "the first rows), are held to them while the model learns the others")
    add("--overwrite", action="store_true", help="replace the checkpoints of an earlier run")
    add("--amp", action="store_true", help="multiply matrices in bfloat16: faster, other IDs of the same quality")
    add("--tf32", action="store_true", help="on a GPU, multiply float32 matrices in TF32, except for distances: "
                                            "faster, other IDs of the same quality")
    add("--compile", action="store_true", help="compile encoder and decoder: slower to start, then faster")
    add("--tensorboard", action="store_true", help="also write TensorBoard files beside the checkpoints")
    add("--seed", type=int, help=f"decides everything random (default: {DEFAULTS['seed']})")
    model = parser.add_argument_group("model (defaults: the preset's)")
    model.add_argument("--hidden-dim", type=int, nargs="+", metavar="N",
                       help="width of each hidden layer; with --preset documented one number is for both layers")
    model.add_argument("--latent-dim", type=int, metavar="N", help="width of the latents")
    model.add_argument("--num-embeddings", type=int, nargs="+", metavar="N",
                       help="codes of a level, or one number for each level, such as 32 256 256")
    model.add_argument("--num-quantizers", type=int, metavar="N", help="levels, so codes of an item")
    model.add_argument("--robust", action=argparse.BooleanOptionalAction, default=None,
                       help="draw in rows and columns that lie far beyond all others, so that they do not outweigh "
                            "them (default: on; never with --preset documented)")
    model.add_argument("--commitment-cost", type=float, metavar="F", help="weight of the commitment loss")
    model.add_argument("--activation", help="relu, gelu or silu")
    model.add_argument("--learning-rate", type=float, metavar="F", help="of the optimizer")
    return parser


def free_output() -> list:
    """What `infer` is told so that it writes where no IDs are yet: nothing where the default output is free."""
    name, number = DEFAULT_OUTPUT, 1
    while os.path.lexists(name):
        number += 1
        name = f"-{number}".join(os.path.splitext(DEFAULT_OUTPUT))
    return [] if number == 1 else ["--output", name]


def infer_parser(program="rqvae") -> ArgumentParser:
    parser = ArgumentParser(program, "infer", description=(
        "Write one semantic ID an item, in row order, with a trained checkpoint. Without --data,\n"
        "--texts or --p5 it encodes the items that the checkpoint was trained on."))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(
        [f"  {'json jsonl csv npy':<20}ours; json is LC-Rec's index, with item IDs for keys where there are any",
         *(f"  {name:<20}{form.sentence}" for name, form in FORMATS.items())])
    add = parser.add_argument
    add("--ckpt", nargs="?", default=DEFAULT_CKPT, const=DEFAULT_CKPT, metavar="PATH",
        help=f"the checkpoint, a folder of --save-pretrained, or a tokenizer that LC-Rec, LETTER, MiniOneRec, "
             f"RQ-VAE-Recommender, genrec, semantic-id or rectokens saved (default: {DEFAULT_CKPT})")
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
    add("--output", metavar="PATH", help="the file, .json, .jsonl, .csv or .npy (default: semantic_ids.json); with "
                                         "--format a file of that format, or a folder (default: semantic_ids)")
    add("--format", nargs="+", metavar="NAME", help="write the files that other systems read, one or several of the "
                                                    "formats listed below")
    add("--unique", nargs="?", const="optimal", choices=("optimal", "nearest", "suffix", "none"),
        help="how every item gets an ID of its own: 'optimal' (the default) moves items that share one to free IDs "
             "near by, at the least cost in all; 'nearest' lets the closest keep it and moves the others one by one to "
             "the nearest free ID, as 1.1 did; 'suffix' adds a number to every ID instead; 'none' leaves them as the "
             "model gives them. Formats that number such items themselves get what the model gives, unless a method is "
             "named")
    add("--append-to", metavar="FILE", help="IDs (.json, .jsonl, .npy) that are published: --output gets them, "
                                            "unchanged and first, and then unique ones for the new items, which must "
                                            "be named; items that are published already keep their IDs")
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
    add_interaction_options(group)
    add("--recommender", action="store_true", help="for --report with --interactions: train a small recommender on the "
                                                   "IDs, and say how well it recommends each user's last item; some "
                                                   "CPU-minutes")
    add("--ids", metavar="FILE", help="for --report: judge the IDs in this file, ours or another system's, without a "
                                      "checkpoint; with --data also their neighbours")
    add("--against", metavar="FILE", help="for --report with --ids: also say what is left of the IDs in this older "
                                          "file, as they are and under the best names for the new codes; without "
                                          "--ids, how the new items of --data lie among the published ones of this "
                                          "file")
    add("--ids-format", metavar="NAME", help="the format of --ids, where its content does not tell")
    add("--num-embeddings", type=int, nargs="+", metavar="N",
        help="codes of a level of --ids, or one number for each level (default: the largest code + 1)")
    add("--verify", metavar="FILE", help="derive the IDs of a file that infer wrote again from the checkpoint and the "
                                         "features that its manifest names, and say what differs")
    add("--sample", type=int, metavar="N", help="for --verify: look at N items drawn at random")
    add("--save-pretrained", metavar="DIR", help="write the model as a folder with config.json and weights")
    add("--export", metavar="FILE", help="write features -> codes as a program that runs without this package: .onnx "
                                         "(needs onnx) or .pt2 (torch.export)")
    return parser


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


def flag(name) -> str:
    return "--" + name.replace("_", "-")
