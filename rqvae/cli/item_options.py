"""The options that name items, which both commands offer and a checkpoint records. Needs no torch."""

import argparse

from ..items import DEFAULT_ENCODER, SMALL_ENCODER

# The arguments of `sources.open_items`, in words.
OPTIONS = {
    "data": ("FILE", "item features: .npy, .npz, .pt, .safetensors, .parquet, or a folder or glob of .npy shards; "
             "several, such as text.npy image.npy, are several embeddings of each item, side by side, NaN rows where "
             "one is missing"),
    "key": ("NAME", "which array of a file that holds several"),
    "item_ids": ("FILE", "IDs of the items in row order: .txt (one a line), .json, .npy, .item2id, or a column of "
                         ".csv, .parquet, .npz or .pt; by default those that lie beside the features"),
    "texts": ("FILE", "item texts to encode instead: .jsonl, .json, .csv or .tsv"),
    "text_columns": ("NAME", "columns of --texts to encode (default: text)"),
    "id_column": ("NAME", "column or entry with the item IDs, in --item-ids or else in --texts or --data"),
    "p5": ("DIR", "folder with P5 Amazon data instead; its items' texts are encoded"),
    "split": ("NAME", "which split of --p5 (default: beauty)"),
    "text_style": ("NAME", "how --p5 makes an item's text: plain, or genrec for its texts to the letter "
                           "(default: plain)"),
    "encoder": ("NAME", f"sentence encoder for --texts and --p5, a name on the Hugging Face hub or a folder (default: "
                        f"{DEFAULT_ENCODER}, 2.5 GB to fetch once; {SMALL_ENCODER} is 90 MB)"),
}
# The arguments of `sources.open_interactions`, in words.
INTERACTIONS = {
    "interactions": ("FILE", "what users did with the items, which their features then know (without what validation "
                             "and test hold out), or for a report on a model that was trained without: "
                             ".json or .jsonl with a list of items for each user, .txt with a line a user, .csv, .tsv "
                             "or .parquet with a row an event, .npy with pairs; items by item ID, or by row (default "
                             "with --p5: the training part of its sequences)"),
    "user_column": ("NAME", "column of --interactions with the user (default: one called user, user_id or the like)"),
    "item_column": ("NAME", "column of --interactions with the item (the same)"),
    "time_column": ("NAME", "column of --interactions with the time (the same; without one the rows are in time "
                            "order)"),
}


class OneOrMore(argparse.Action):
    """One value as itself, several as a list."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_item_options(parser) -> None:
    """Give an `argparse` parser the OPTIONS."""
    _add(parser, OPTIONS)


def add_interaction_options(parser) -> None:
    """Give an `argparse` parser the INTERACTIONS."""
    _add(parser, INTERACTIONS)


def _add(parser, options):
    for name, (metavar, words) in options.items():
        more = {"nargs": "+"} if name in ("text_columns", "data") else {}
        if name == "data":
            more["action"] = OneOrMore
        parser.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=words, **more)
