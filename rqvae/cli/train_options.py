"""The options of `train`. Needs no torch, so that `--help` answers at once."""

import argparse

from .console import ArgumentParser
from .item_options import add_interaction_options, add_item_options

PRESETS = ("closed", "documented", "fine", "tiger")
DEFAULT_FOLDER = "checkpoints"
DEFAULTS = {"preset": "tiger", "val_fraction": 0.05, "seed": 0}


def build_parser(program="rqvae") -> ArgumentParser:
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
                            "them; not with --preset documented")
    model.add_argument("--commitment-cost", type=float, metavar="F", help="weight of the commitment loss")
    model.add_argument("--activation", help="relu, gelu or silu")
    model.add_argument("--learning-rate", type=float, metavar="F", help="of the optimizer")
    return parser
