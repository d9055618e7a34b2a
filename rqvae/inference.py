"""A model and items -> semantic IDs. Leaves the model as it found it.

Shapes:  N items   D feature width   L levels
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from .storage.words import warn

ROWS_PER_CHUNK = 1024


class _Unnamed(str):
    """The device of a call that names none: CUDA as documented, or the CPU where there is no CUDA."""


CUDA_UNLESS_NAMED = _Unnamed("cuda")        # equals "cuda", and is not the "cuda" that a caller writes


def resolve_device(device) -> torch.device:
    """The `torch.device` that a name stands for, tried out.

    "auto", and where nothing was named, fall back from CUDA to the CPU, the latter with a warning; a device that was
    named is there or refused.

    Raises:
        ValueError: there is no such device here; the message says what there is.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if isinstance(device, _Unnamed) and not count:
        # From this line whoever calls, so that Python shows it once.
        warn("no device was named and there is no CUDA here: this runs on the CPU; device=\"cpu\" says so")
        return torch.device("cpu")
    if device is None or device == "auto":
        return torch.device("cuda" if count else "cpu")
    there = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r} is not a device; available here: {there}") from None
    reason = None
    if found.type == "cuda" and (found.index or 0) >= count:
        reason = "there is no CUDA here" if not count else f"there are {count} CUDA device(s)"
    elif found.type != "cuda" and (found.index or not _computes(found)):
        reason = f"there is no {found} here"
    if reason:
        raise ValueError(f"device {str(device)!r} was asked for, but {reason}; available here: {there}")
    return found


def _computes(device):
    """Whether numbers can be had from it; what torch raises where not depends on the kind."""
    if device.type == "meta":       # torch takes seconds to find out
        return False
    try:
        return torch.ones(1, device=device).add(1).item() == 2
    except Exception:
        return False


def features_of(batches):
    """The (B, D) features of each batch.

    Args:
        batches: an iterable of {"features": (B, D)}, or all features as one tensor or array.

    Raises:
        ValueError: it yields something else.
    """
    if isinstance(batches, (torch.Tensor, np.ndarray)):
        batches = ({"features": torch.as_tensor(rows)} for rows in _cut(batches))
    for batch in batches:
        yield batch_features(batch)
        batch = None        # held no longer than by who asked


def batch_features(batch) -> torch.Tensor:
    """The features of a batch, (B, D).

    Raises:
        ValueError: it is not a dict with "features", or these have another form.
    """
    if not isinstance(batch, Mapping) or "features" not in batch:
        found = f"a dict with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f'the loader yields {found}; a batch must be a dict with "features", (B, D)')
    features = batch["features"]
    if isinstance(features, torch.Tensor) and features.dim() == 2:
        return features
    found = (f"of shape {tuple(features.shape)}" if isinstance(features, torch.Tensor)
             else f"a {type(features).__name__}")
    raise ValueError(f'"features" of a batch is {found}; it must be a tensor (B, D): give a DataLoader of the items, '
                     "or a FeatureLoader of all their features")


def _cut(rows):
    return (rows[first:first + ROWS_PER_CHUNK] for first in range(0, len(rows), ROWS_PER_CHUNK))


def batch_inference(model: torch.nn.Module, dataloader: Any,
                    device: str | torch.device = CUDA_UNLESS_NAMED) -> torch.Tensor:
    """Semantic IDs of every item of a loader, in order.

    Rows are encoded in chunks of one fixed size, whatever the loader's batches are: the IDs do not
    depend on the batch size, and small batches cost no speed.

    Args:
        model: an `RqVae`; moved to `device`, its training mode kept.
        dataloader: an iterable of {"features": (B, D)}, or all features as one (N, D) tensor.
        device: "cuda" (documented), "cpu", "auto", ...; named by nobody, the CPU where there is no CUDA.

    Returns:
        (N,) int64 on the CPU, or (N, L) with more than one level.

    Raises:
        ValueError: the device is not there, or the loader has no rows.
    """
    model.to(resolve_device(device))
    keep_freed_memory()
    found = bytearray()     # in one piece: a small tensor for each chunk would fragment the heap
    with evaluating(model):
        chunks = fixed_chunks(features_of(dataloader))
        for ids in map(partial(chunk_ids, model), chunks):  # unlike a loop, map holds no chunk
            found.extend(ids.numpy())
    if not found:
        raise ValueError("the loader yields no batch; pass at least one item")
    return torch.frombuffer(found, dtype=torch.int64).reshape(-1, *ids.shape[1:])


@torch.no_grad()
def chunk_ids(model, rows) -> torch.Tensor:
    """Semantic IDs, on the CPU, of at most ROWS_PER_CHUNK rows, padded so that every call multiplies
    matrices of one shape: libraries round differently for different shapes."""
    return model.generate_semantic_ids(as_input(model, _padded(rows)))[:len(rows)].cpu()


def fixed_chunks(batches):
    """Re-cut (B, D) tensors into chunks of ROWS_PER_CHUNK rows, the last one shorter."""
    held, count = [], 0
    for rows in batches:
        while count + len(rows) >= ROWS_PER_CHUNK:
            part, rows = rows[:ROWS_PER_CHUNK - count], rows[ROWS_PER_CHUNK - count:]
            yield torch.cat([*held, part]) if held else part
            held, count = [], 0
        if len(rows):
            held.append(rows.clone())
            count += len(rows)
        rows = part = None      # views, which keep the batch while the next one is read
    if held:
        yield torch.cat(held)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next chunk or step, instead of a thousand page faults each.

    It hands large blocks back to the system, until one of nearly 32 MB has been freed (mallopt(3), on the
    dynamic M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    torch.empty(2**23 - 2**12, dtype=torch.float32, device="cpu")


@contextlib.contextmanager
def evaluating(model):
    """Eval mode and no gradients inside; afterwards every part is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def model_device(model) -> torch.device:
    """The device that the model's weights are on."""
    return next(model.parameters()).device


def as_input(model, features) -> torch.Tensor:
    """Features on the device and in the number type of the model's weights, as `fit` gives them to it."""
    return features.to(next(model.parameters()))


def _padded(rows):
    if len(rows) == ROWS_PER_CHUNK:
        return rows
    return torch.cat([rows, rows.new_zeros(ROWS_PER_CHUNK - len(rows), rows.shape[1])])
