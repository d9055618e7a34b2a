"""What `train --from OLD.ckpt --keep OLD_IDS` adds: who is published, the split, the assignment, the names of codes."""

from typing import NamedTuple

import numpy as np
import torch

from .. import recipe
from ..codes import codes_checksum
from ..ids.publishing import load_published, rows_in
from ..identity import of_model, recorded
from ..inference import batch_inference
from ..items.batches import FeatureLoader, split_rows
from ..model import RqVae
from ..recipe.assignment import BalancedAssignment
from ..recipe.keeping import LEARNING_RATE, HeldAssignment
from ..recipe.relabelling import best_names
from ..report.text import kept_words
from ..storage.checkpoint import load_checkpoint, save_checkpoint
from .recorded import require_as_published, require_columns

CODE_STATE = ("embeddings.weight", "ema_counts", "ema_sums", "shares")      # what a level has a row of for each code


class Kept(NamedTuple):
    """Which items are published, and the run that goes on."""

    codes: torch.Tensor     # (N, L) int64, -1 for new items
    ancestors: list         # checksums of the weights that the model comes from, the last one its own
    learning_rate: float


def prepare_keeping(start, keep, table, given, device="cpu"):
    """The old model, and what is to be kept of its IDs.

    Args:
        start: the checkpoint to go on from.
        keep: the published IDs.
        table: the `FeatureTable` of the grown catalogue.
        given: constructor arguments that the command names.
        device: to look at published items on.

    Raises:
        ValueError: they do not fit each other, or another model is asked for; and what reading raises.
    """
    loaded = load_checkpoint(start)
    model = RqVae.from_loaded(loaded, start)
    other = [name for name, value in given.items() if model.hyper_parameters.get(name) != value
             and [model.hyper_parameters.get(name)] != value]
    if other:
        raise ValueError(f"--{other[0].replace('_', '-')} is {given[other[0]]}, {start} has "
                         f"{model.hyper_parameters.get(other[0])}; a model that goes on stays as it is: leave it out")
    require_columns(model, table, start)
    sizes = [len(codebook) for codebook in model.quantizer.codebooks]
    if len(sizes) < 2:
        raise ValueError(f"{start} has one level; --keep needs two or more, which leave room for new items")
    known = recorded("checkpoint", loaded.get("rqvae")).get("ancestors") or ()
    published, manifest = load_published(keep, sizes, model, start, known)
    rows = _rows_of(published, keep, table)
    here = torch.from_numpy(np.flatnonzero(rows >= 0))
    require_as_published(published, manifest, table, rows, keep, lambda: batch_inference(
        model, FeatureLoader(table, 1024, rows=here), device).numpy(), sizes[-1])
    codes = torch.full((len(table), len(sizes)), -1)
    codes[here] = torch.from_numpy(published.codes[rows[here], :len(sizes)])
    extra = loaded.get("rqvae") or {}
    highest = max((row.get("lr", 0) for row in extra.get("history") or ()), default=0) or model.learning_rate
    ancestors = [*known, of_model(model)["weights"]]
    return model, Kept(codes, ancestors, LEARNING_RATE * highest)


def made_of(kept) -> dict:
    """What tells the run from one that holds items to other IDs; nothing where none are held."""
    return {"published IDs": codes_checksum(kept.codes), "ancestors": kept.ancestors} if kept else {}


def _rows_of(published, keep, table):
    """(N,) the published item that each row of the table is, or -1."""
    count = len(published.codes)
    if (published.item_ids is None) != (table.item_ids is None):
        has, lacks = (keep, table.source) if published.item_ids is not None else (table.source, keep)
        raise ValueError(f"{has} has item IDs, {lacks} has none, so nobody can tell which items are published; "
                         "give them on both sides, or on neither, where the published items are the first rows")
    if table.item_ids is None:
        if count > len(table):
            raise ValueError(f"{keep} has {count:,} items, {table.source} has {len(table):,}; "
                             "give the whole catalogue, the published items first")
        return np.where(np.arange(len(table)) < count, np.arange(len(table)), -1)
    rows = rows_in(published, keep, table.item_ids)
    if not (rows >= 0).any():
        raise ValueError(f"none of the items of {keep} is in {table.source}; "
                         "give the grown catalogue, with its item IDs")
    return rows


def split(kept, val_fraction, seed):
    """(train rows, held-out rows): every published item is trained on, and some of the new ones are held out."""
    new = (kept.codes[:, 0] < 0).nonzero().squeeze(1)
    held_out = new[split_rows(len(new), val_fraction, seed)[1]]
    return torch.from_numpy(np.setdiff1d(np.arange(len(kept.codes)), held_out.numpy())), held_out


def hold(model, kept, loader, epochs) -> dict:
    """Set `model.assign`; the options of `fit`."""
    steps = epochs * len(loader)
    # --resume compares with the latter.
    model.learning_rate = model.hyper_parameters["learning_rate"] = kept.learning_rate
    others = BalancedAssignment(loader.num_rows, model.quantizer, steps, fade=1e-9)     # codes stay as they are priced
    model.assign = HeldAssignment(kept.codes[loader.rows].to(others.cell.device), others)
    # The longer it is held, the more is kept.
    return {"optimizers": recipe.configure_optimizers(model, steps, held=True), "monitor": "last"}


def name_codes(path, kept, table, device) -> str:
    """Give the codes of the checkpoint at `path` the old names that fit best; how much is kept, in words."""
    model = RqVae.load_from_checkpoint(path)
    published = (kept.codes[:, 0] >= 0).nonzero().squeeze(1)
    old = kept.codes[published].numpy()
    new = batch_inference(model, FeatureLoader(table, 1024, rows=published), device).numpy()
    names = best_names(old, new, [len(codebook) for codebook in model.quantizer.codebooks])
    if any((name != np.arange(len(name))).any() for name in names):
        checkpoint = load_checkpoint(path)
        for level, name in enumerate(names):
            for part in CODE_STATE:
                key = f"quantizer.levels.{level}.{part}"
                if key in checkpoint["state_dict"]:
                    values = checkpoint["state_dict"][key]
                    checkpoint["state_dict"][key] = torch.empty_like(values).index_copy_(
                        0, torch.from_numpy(name), values)
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []     # they are of the old order
        save_checkpoint(checkpoint, path)
        new = np.column_stack([name[column] for name, column in zip(names, new.T)])
    return kept_words(old, new)
