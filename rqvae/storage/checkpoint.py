"""The .ckpt dict: build, write atomically, read safely. Knows no model.

A checkpoint has the layout of Lightning's, as a literal dict. Nothing in a file that is read can
name something to import or to call, or claim much more memory than the file is long.
"""

import argparse
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .files import write_atomically
from .words import brief
from .torch_files import STORAGES, CheckpointError, read_torch_file, some
from .words import spelled

LIGHTNING_VERSION = "2.6.6"     # pytorch-lightning that the layout was read from and tried with
# The kinds of what a run of ours records under "rqvae", and in its notes, where it does; the rest is its own affair.
_NUMBER = (int, float)
_RUN = {"format": int, "notes": dict, "fingerprint": str, "epoch": int, "batch": int, "best": _NUMBER, "history": list,
        "rng": (dict, torch.Tensor), "epoch_rng": (dict, torch.Tensor)}
_NOTES = {"preset": str, "val_fraction": _NUMBER, "seed": int, "epochs": int, "batch_size": int,
          "learning_rate": _NUMBER, "text_columns": list, "data": (str, list), **dict.fromkeys(
              ("key", "item_ids", "texts", "id_column", "p5", "split", "encoder", "launch", "folder", "from_", "keep",
               "features_checksum", "item_ids_checksum", "kept_checksum", "text_style", "interactions", "user_column",
               "item_column", "time_column"), str),
          **dict.fromkeys(("held_out", "ancestors", "weights", "files"), list)}
# Numbers from 0 on, or lists of them.
_HISTORY = ("epoch", "global_step", "seconds", "lr", "codes_used", "perplexity")
# What these lists hold.
_NOTED = {"held_out": int, "ancestors": str, "weights": _NUMBER, "text_columns": str, "data": str, "files": str}


class Progress(NamedTuple):
    """Where a run stands, for Lightning's loop counters; one batch is one optimizer step."""

    epochs_done: int            # whole epochs: batches, validation and scheduler step
    batches_in_epoch: int       # batches run in the epoch that was saved in
    epoch_ended: bool = True    # False: saved between two batches, or before the validation
    is_last_batch: bool = True  # no batch of that epoch is left
    val_batches: int = 0        # batches of the last validation


def build_checkpoint(*, epoch, global_step, state_dict, hyper_parameters, optimizer_states=None,
                     lr_schedulers=None, progress=None, extra=None) -> dict:
    """A checkpoint in the layout of Lightning's `.ckpt`: a snapshot that training cannot change.

    It holds builtins, `OrderedDict` and copies of the tensors on CPU, so that
    `torch.load(weights_only=True)` needs no allow-list. Paths become text, numpy scalars become
    numbers and a `Namespace` becomes a dict. Without `optimizer_states` it holds weights only.

    Args:
        epoch: index of the epoch just run, or of the unfinished one.
        global_step: optimizer steps so far.
        state_dict: name -> tensor, of the bare model (no DDP or torch.compile wrapper).
        hyper_parameters: the constructor's arguments.
        optimizer_states: one `optimizer.state_dict()` per optimizer.
        lr_schedulers: one `scheduler.state_dict()` per scheduler; each steps once an epoch.
        progress: a `Progress`; without it `Trainer.fit(ckpt_path=)` would restart at epoch 0.
        extra: whatever else a run needs to go on; Lightning ignores it.

    Raises:
        ValueError: `epoch` and `progress` disagree.
        TypeError: a value that no safe reader would accept; the message says where it stands.
    """
    checkpoint = {
        "epoch": epoch,
        "global_step": global_step,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": OrderedDict(state_dict),
        "callbacks": {},
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }
    if progress is not None:
        if epoch != progress.epochs_done - progress.epoch_ended:
            raise ValueError(f"epoch {epoch} does not agree with {progress}; "
                             "it is the index of the epoch just ended, or of the unfinished one")
        scheduler_steps = progress.epochs_done if lr_schedulers else 0
        checkpoint["loops"] = _loops(progress, global_step, scheduler_steps)
    if optimizer_states is not None:
        checkpoint["optimizer_states"] = optimizer_states
        checkpoint["lr_schedulers"] = lr_schedulers or []
    if extra is not None:
        checkpoint["rqvae"] = extra
    return plain(checkpoint, "checkpoint")


def save_checkpoint(checkpoint, path) -> None:
    """Write `checkpoint` to `path` completely, or leave the old file as it was.

    Raises:
        OSError: the disk is full, the folder is read-only, ...; the message names `path`.
    """
    content = serialised(checkpoint)
    write_atomically(path, lambda file: file.write(content))


def serialised(checkpoint):
    """The bytes of a file of torch."""
    # torch.save to a path destroys the old file first, and reports a full disk without its errno
    buffer = io.BytesIO()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)     # without checksums nobody sees a flipped byte
    try:
        torch.save(checkpoint, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    return buffer.getbuffer()


@spelled
def load_checkpoint(path, map_location="cpu") -> dict:
    """Read a `.ckpt` of ours or of Lightning: checksums first, then tensors and plain values only.

    `state_dict` comes without the prefixes of DDP and torch.compile, `hyper_parameters` as a plain
    dict ({} where the file has none) without names that begin with an underscore.

    Args:
        path: the file.
        map_location: as in `torch.load`.

    Raises:
        FileNotFoundError: nothing there; the message names similar files.
        CheckpointError: damaged, foreign or hostile; nothing in the file was run.
    """
    checkpoint = read_torch_file(path, map_location)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, "
                              "not a checkpoint dict; pass a .ckpt file")
    if "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} has no 'state_dict'; it holds {some(checkpoint)}; "
                              "pass a .ckpt file (bare weights go into a model by load_state_dict)")
    found = checkpoint.get("hyper_parameters", {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: hyper_parameters is a {type(found).__name__}, "
                              "expected a dict of the constructor's arguments")
    # a leading underscore marks Lightning's instructions to import something (CVE-2026-58659)
    checkpoint["hyper_parameters"] = {
        name: value for name, value in found.items()
        if isinstance(name, str) and not name.startswith("_")}
    checkpoint["state_dict"] = bare_weights(checkpoint["state_dict"], path)
    check_kinds(checkpoint, path)
    return checkpoint


def origin_of(checkpoint) -> dict:
    """What whoever encodes with the model has to know of its training, wherever it is saved; places on this machine
    are no part of it."""
    notes = (checkpoint.get("rqvae") or {}).get("notes") or {}
    found = {name: notes[name]
             for name in ("ancestors", "blended", "encoder", "text_columns", "text_style") if notes.get(name)}
    found.update({name: Path(notes[name]).name for name in ("texts", "p5") if notes.get(name)})
    if isinstance(notes.get("data"), list):             # several embeddings an item, in this order
        found["files"] = [Path(path).name for path in notes["data"]]
    return found


def check_kinds(checkpoint, path) -> None:
    """Hold what a run of ours has recorded to the kinds of values that it records."""
    if checkpoint.get("rqvae") is None:
        checkpoint.pop("rqvae", None)
        return
    ours = checkpoint["rqvae"]
    notes = ours.get("notes") if isinstance(ours, dict) else None
    rows = ours.get("history") if isinstance(ours, dict) else None
    faults = [f"{name} is {some([brief(value)])}" for name, value, kind in [
        ("rqvae", ours, dict), *((name, ours[name], kind) for name, kind in _RUN.items()
                                 if isinstance(ours, dict) and ours.get(name) is not None),
        *((name, notes[name], kind) for name, kind in _NOTES.items()
          if isinstance(notes, dict) and notes.get(name) is not None),
        *((f"{name}[{place}]", value, kind) for name, kind in _NOTED.items() if isinstance(notes, dict)
          and isinstance(notes.get(name), list) for place, value in enumerate(notes[name])),
        *((f"history[{row}]", value, dict) for row, value in enumerate(rows if isinstance(rows, list) else ())),
    ] if not isinstance(value, kind) or isinstance(value, bool)]
    faults += [f"history[{row}][{some([repr(name)])}] is {some([brief(value)])}"
               for row, values in enumerate(rows if not faults and rows else ()) for name, value in values.items()
               if not isinstance(name, str) or not _is_figure(name, value)]
    for name in ("codes_used", "perplexity"):           # of each level
        lengths = {len(values[name]) for values in rows if name in values} if not faults and rows else ()
        faults += [f"history has {name} of {' and of '.join(map(str, sorted(lengths)))} levels"] * (len(lengths) > 1)
    faults += [f"blended is {some([brief(notes['blended'], 40)])}"] if isinstance(notes, dict) and not isinstance(
        notes.get("blended", False), (bool, type(None))) else []
    if faults:
        raise CheckpointError(f"{path}: {faults[0]}, which no run records; use another copy of it, or an earlier one")


def _is_figure(name, value) -> bool:
    """Whether `value` can be what a line of history has under `name`: a number, or one for each level."""
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(each, (int, float)) for each in numbers):
        return value is None and name not in _HISTORY
    return name not in _HISTORY or all(0 <= each < 2 ** 53 for each in numbers) and isinstance(value, list) == (
        name in ("codes_used", "perplexity"))


def weights_checksum(state_dict) -> str:
    """32 hex digits that tell these weights from any others, whatever file they are in."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state_dict):
        values = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def require_training_state(checkpoint, path) -> None:
    """Raise CheckpointError where `checkpoint`, read from `path`, cannot be trained further."""
    needed = {"epoch": int, "global_step": int, "optimizer_states": list, "lr_schedulers": list}
    missing = [key for key, kind in needed.items()
               if not isinstance(checkpoint.get(key), kind)]     # no scheduler is an empty list
    if checkpoint.get("optimizer_states") == []:
        missing.append("optimizer_states")
    if missing:
        raise CheckpointError(
            f"{path} holds weights but no optimizer state ({', '.join(missing)} missing), so "
            "training cannot resume from it; use a last.ckpt, or start a new run")


def epochs_done(checkpoint) -> int:
    """Whole epochs of the run that wrote `checkpoint`, ours or Lightning's.

    `epoch` does not tell: it is the index of the epoch just run in a file of `ModelCheckpoint`, the
    number of epochs in one of `Trainer.save_checkpoint`, and of the unfinished epoch in between.
    """
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):
        return checkpoint["epoch"] + 1


def explain_mismatch(expected_hparams, found_hparams, missing=(), unexpected=(), mismatched=()):
    """Why weights of a file do not fit a model, in words: fields, then the first three keys.

    Args:
        expected_hparams, found_hparams: constructor arguments of the model and of the file.
        missing, unexpected: keys that only the model, or only the file, has.
        mismatched: (key, shape in the file, shape in the model) triples.
    """
    parts = []
    for name in [*expected_hparams, *(n for n in found_hparams if n not in expected_hparams)]:
        found = repr(found_hparams[name]) if name in found_hparams else "not set"
        expected = repr(expected_hparams[name]) if name in expected_hparams else "not set"
        if found != expected:
            parts.append(f"{name} is {found[:100]} in the file, {expected[:100]} in the model")
    shapes = [f"{key}: {tuple(found)} in the file, {tuple(expected)} in the model"
              for key, found, expected in mismatched]
    for keys, fault in ((missing, "missing"), (unexpected, "unexpected"),
                        (shapes, "of another shape")):
        if keys:
            parts.append(f"{len(keys)} weight{'s' * (len(keys) > 1)} {fault} ({some(keys)})")
    return "; ".join(parts)


def _loops(progress, steps, scheduler_steps) -> dict:
    """Lightning's `loops`: every counter that `Trainer.fit(ckpt_path=)` restores."""
    ended, batches, val = progress.epoch_ended, progress.batches_in_epoch, progress.val_batches
    started = progress.epochs_done + (not ended)
    stepped = int(ended and scheduler_steps > 0)
    # Lightning saves before it counts an ended epoch as completed, and catches up when it resumes
    epochs = {"ready": started, "completed": started - 1, "started": started,
              "processed": progress.epochs_done}
    idle = {"total": _counts(0), "current": _counts(0)}
    return {
        "fit_loop": {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": steps},
            "epoch_loop.batch_progress": {
                "total": _counts(steps), "current": _counts(batches),
                "is_last_batch": progress.is_last_batch},
            "epoch_loop.scheduler_progress": {
                "total": {"ready": scheduler_steps, "completed": scheduler_steps},
                "current": {"ready": stepped, "completed": stepped}},
            "epoch_loop.automatic_optimization.state_dict": {},
            "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {
                "step": {"total": {"ready": steps, "completed": steps},
                         "current": {"ready": batches, "completed": batches}},
                "zero_grad": {
                    "total": {"ready": steps, "completed": steps, "started": steps},
                    "current": {"ready": batches, "completed": batches, "started": batches}}}},
            "epoch_loop.manual_optimization.state_dict": {},
            "epoch_loop.manual_optimization.optim_step_progress": {
                "total": {"ready": 0, "completed": 0}, "current": {"ready": 0, "completed": 0}},
            "epoch_loop.val_loop.state_dict": {},
            "epoch_loop.val_loop.batch_progress": {
                "total": _counts(val if ended else 0), "current": _counts(val),
                "is_last_batch": val > 0},
            "epoch_progress": {"total": dict(epochs), "current": dict(epochs)},
        },
        "validate_loop": {"state_dict": {}, "batch_progress": {**idle, "is_last_batch": False}},
        "test_loop": {"state_dict": {}, "batch_progress": {**idle, "is_last_batch": False}},
        "predict_loop": {"state_dict": {}, "batch_progress": dict(idle)},
    }


def _counts(n) -> dict:
    return {"ready": n, "completed": n, "started": n, "processed": n}


def plain(value, where):
    """`value` as builtins, OrderedDict and CPU tensors of its own; a TypeError says where not."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, str):
        return str.__str__(value)       # also of a str Enum, whose str() is its name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        keys = [key for key in value if not isinstance(key, (str, int, float))]
        if keys:
            raise TypeError(f"{where} has the key {keys[0]!r}; keys in a checkpoint are text or "
                            "numbers")
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((plain(key, where), plain(item, f"{where}[{key!r}]"))
                    for key, item in value.items())
    if isinstance(value, (list, tuple)):
        items = [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided and value.dtype in STORAGES.values():
            return value.detach().to("cpu", copy=True).contiguous()
        kind = f"{value.layout} tensor of {value.dtype}"
    raise TypeError(f"{where} is a {kind}, which a checkpoint cannot hold safely; "
                    "use numbers, text, lists, dicts and ordinary dense tensors")


def bare_weights(state_dict, path) -> OrderedDict:
    """Names without the prefixes that DistributedDataParallel and torch.compile put before them."""
    if not isinstance(state_dict, dict):
        raise CheckpointError(f"{path}: the weights are a {type(state_dict).__name__}, "
                              "expected a dict of name -> tensor")
    weights = OrderedDict()
    for name, tensor in state_dict.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{path}: the weight {name!r} is a {type(tensor).__name__}, "
                                  "expected a tensor under a name")
        bare = name.replace("_orig_mod.", "")
        while bare.startswith("module."):
            bare = bare[len("module."):]
        if bare in weights:
            raise CheckpointError(f"{path} holds the weight {bare} twice, with and without the "
                                  "prefix of a wrapper")
        weights[bare] = tensor
    return weights
