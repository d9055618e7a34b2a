"""fit: the training loop, written out in the order things happen.

Decides nothing for the process: seeds, signals and global settings belong to the scripts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable

import torch

from . import distributed
from .inference import evaluating, keep_freed_memory, model_device, resolve_device
from .model import LARGEST, broken_weights
from .progress import EpochReport, event_writer_class
from .run_state import Means, RunState, batch_size, in_epoch, to_device
from .storage.files import append_line, remove_aside, remove_stale_temporaries, set_aside, write_atomically
from .storage.words import spelled

CHECKPOINTS = ("best.ckpt", "last.ckpt")    # set aside, written, removed in this order: what is missing tells of a kill
METRICS = "metrics.jsonl"
STEPS_BETWEEN_CHECKS = 32       # on a GPU, where looking at every loss would stall it
_ADVICE = "lower the learning rate, or look for extreme values in the features"


class TrainingInterrupted(Exception):
    """`stop` asked for an end; the run was saved at `path`, None without a checkpoint folder."""

    def __init__(self, path):
        super().__init__("training was interrupted" + (f"; resume from {path}" if path else ""))
        self.path = path


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number. No checkpoint was written after that."""


@spelled
def fit(
    model: torch.nn.Module,
    train_dataloader: Iterable[dict],
    val_dataloader: Iterable[dict] | None = None,
    *,
    max_epochs: int = 100,
    device: str | torch.device = "auto",
    checkpoint_dir: str | os.PathLike | None = None,
    resume_from: str | os.PathLike | None = None,
    optimizers: Any = None,
    monitor: str = "val_loss",
    fused: bool = False,
    amp: bool = False,
    compile: bool = False,
    stop: Callable[[], bool] | None = None,
    notes: dict | None = None,
    progress: bool = True,
    tensorboard: bool = False,
) -> list[dict]:
    """Train a model as the documented Lightning system does, to the bit, and resume it exactly.

    An epoch is: every training batch (`training_step`, backward, optimizer step), every validation
    batch, one step of the plateau scheduler, then the checkpoints. `val_loss` is a mean over samples;
    without a validation loader the scheduler follows the epoch's mean `train_loss`.

    Args:
        model: an `RqVae`; moved to `device` and left in training mode.
        train_dataloader: an iterable of {"features": (B, D)}: a `torch.utils.data.DataLoader`, ours, ...
        val_dataloader: the same for held-out items, or None.
        max_epochs: epochs in all, those before a resume included; with 0 the model is only saved, without an optimizer.
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        checkpoint_dir: folder for `last.ckpt` (every epoch), `best.ckpt` (lowest `monitor`) and
            `metrics.jsonl`; created if missing. None writes nothing.
        resume_from: a checkpoint of `fit`, which goes on to the bit as if never interrupted, or of Lightning. That the
            loader gives the same rows is looked at for our own loaders alone: of another nobody can tell.
        optimizers: what to use instead of `model.configure_optimizers()`, in its form, or an optimizer alone;
            with "interval": "step" in its "lr_scheduler" the scheduler steps after every batch instead of every epoch.
        monitor: which mean over the validation items chooses `best.ckpt`, the lowest one; "last" is the last epoch
            instead, whatever they say.
        fused: update all weights in one pass; equal to the default but for rounding, and faster.
        amp: multiply matrices in bfloat16 while training; weights, distances and validation stay float32.
        compile: let `torch.compile` make encoder and decoder faster, for some seconds at the start.
        stop: called at each batch boundary; when it returns true the run is saved and ended. Without it Ctrl-C does
            the same where there is a folder, and is then raised; a second one is raised at once.
        notes: plain values to keep in the checkpoints under "rqvae".
        progress: show a bar with the losses, or a line an epoch where stderr is not a terminal.
        tensorboard: also write TensorBoard files into `checkpoint_dir` (needs the package).

    Returns:
        One dict an epoch: epoch, global_step, lr, seconds, the means of what the steps logged
        (`train_loss`, `train_recon_loss`, `train_commitment_loss`, `train_embedding_loss`, `val_loss`,
        `val_recon_loss`), and two lists over the levels, codes_used and perplexity.

    Raises:
        ValueError: the device is not there, a loader is empty, the data is not the checkpoint's, ...
        checkpoint.CheckpointError: `resume_from` is damaged or holds no training state.
        TrainingDiverged: the loss is not a number; the last good checkpoint stays.
        TrainingInterrupted: `stop` returned true; the run was saved.
        KeyboardInterrupt: by Ctrl-C; the run was saved where there is a folder.
    """
    if max_epochs < 0:
        raise ValueError(f"max_epochs is {max_epochs}; it must be 0 or more")
    device = resolve_device(device)
    if any(parameter.dtype == torch.float16 for parameter in model.parameters()):
        raise ValueError("the model's weights are float16, in which the optimizer's steps underflow; train it as "
                         "model.float(), with amp=True for speed, and call half() afterwards")
    model.to(device)
    keep_freed_memory()
    if compile:
        model.encoder.compile()
        model.decoder.compile()
    run = RunState(model, train_dataloader, val_dataloader, optimizers=optimizers, monitor=monitor,
                   notes=notes, fused=fused, trains=max_epochs > 0 or resume_from is not None)
    if resume_from is not None:
        run.restore(resume_from)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if folder and not (folder / "best.ckpt").exists():
        run.best = math.inf                     # the best from here on
    distributed.broadcast(model.state_dict().values())
    events = event_writer_class()(str(folder)) if tensorboard and folder and not distributed.rank() else None
    new = None if resume_from or distributed.rank() else folder
    shown = EpochReport(max_epochs, run, progress and not distributed.rank(), events)
    with set_aside(new, CHECKPOINTS, along=[METRICS]), contextlib.closing(shown) as report, \
            _interruptible(stop, folder, report) as stop:
        _prepare(folder, run.history)
        while run.epoch < max_epochs:
            began = time.perf_counter()
            model.train()
            for batch_idx, batch in run.batches():
                run.optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    loss = model.training_step(batch, batch_idx)
                loss.backward()
                loss = distributed.average_gradients(model.parameters(), loss, batch_size(batch))
                _stop_if_not_finite(loss, run)
                run.forget_restarted()
                run.optimizer.step()
                run.count(batch)
                report.batch()
                if stop is not None and distributed.any_of(stop(), loss.device):
                    run.mark()
                    raise TrainingInterrupted(_save(run, folder, "last.ckpt"))
            if not distributed.any_of(run.means.samples > 0, device):
                raise ValueError("the training loader yields no batches; give it at least one item")
            run.mark()
            validation = _validate(model, val_dataloader, stop)
            if validation is None:
                raise TrainingInterrupted(_save(run, folder, "last.ckpt"))
            row = run.end_of_epoch(validation, time.perf_counter() - began)
            _stop_if_not_finite(torch.tensor([row["train_loss"], row.get("val_loss", 0.0)]).sum(), run)
            _append_line(folder, row)
            if run.improved:            # before last.ckpt: a run that dies in between comes by here again
                _save(run, folder, "best.ckpt")
            _save(run, folder, "last.ckpt")
            report.epoch(row)
    if max_epochs == 0 and resume_from is None:         # a starting point is a tokenizer, too
        for name in ("best.ckpt", "last.ckpt"):
            _save(run, folder, name)
    return run.history


@contextlib.contextmanager
def _interruptible(stop, folder, report):
    """What is asked between batches: `stop`; or, where there is none but something to save, whether Ctrl-C was pressed,
    which is raised again when the run has been saved."""
    usual = threading.current_thread() is threading.main_thread() and \
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if stop is not None or folder is None or not usual or distributed.world_size() > 1:
        yield stop
        return
    pressed = []

    def press(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    except TrainingInterrupted as interrupted:
        report.say(f"interrupted; saved. fit(..., resume_from={str(interrupted.path)!r}) goes on to the bit")
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _validate(model, dataloader, stop):
    """Means over the validation items, without gradients; None if `stop` asked for an end."""
    means = Means()
    with evaluating(model):
        for batch_idx, batch in enumerate(in_epoch(dataloader or ())):
            batch = to_device(batch, model_device(model))
            model.validation_step(batch, batch_idx)
            means.add(model, batch)
            if stop is not None and distributed.any_of(stop(), model_device(model)):
                return None
    return means


def _stop_if_not_finite(loss, run):
    """On the CPU every loss is looked at; on a GPU their sum is, now and then: looking waits for it."""
    if loss.device.type != "cpu":
        if (run.batch + 1) % STEPS_BETWEEN_CHECKS:
            return
        loss = loss + run.means.sums.get("train_loss", 0)
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss is {loss.item()} in epoch {run.epoch + 1}, batch {run.batch + 1}; stopped before it could "
            f"reach a checkpoint; {_ADVICE}")


def _prepare(folder, history):
    """Tidy the folder of a killed writer's leavings, and bring `metrics.jsonl` to where the run is."""
    if folder is None or distributed.rank():
        return
    remove_stale_temporaries(folder)
    lines = "".join(json.dumps(row) + "\n" for row in history)
    write_atomically(folder / METRICS, lambda file: file.write(lines.encode()))


def _append_line(folder, row):
    if folder is None or distributed.rank():
        return
    append_line(folder / METRICS, json.dumps(row))


def _save(run, folder, name):
    broken = broken_weights(run.model.state_dict())
    if broken:          # the loss that would tell is that of the next step
        epoch = run.epoch + 1 if run.batch else run.epoch
        raise TrainingDiverged(f"{', '.join(broken[:3])} hold NaN, Inf or codes beyond {LARGEST:g} after epoch "
                               f"{epoch}; stopped before they could reach a checkpoint; {_ADVICE}")
    if folder is None:
        return None
    run.save(folder / name)
    if name == "last.ckpt" and not distributed.rank():
        remove_aside(folder, (*CHECKPOINTS, METRICS))
    return folder / name
