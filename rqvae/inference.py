"""A model and items -> semantic IDs. Leaves the model as it found it.

Shapes:  N items   D feature width   L levels
"""

import contextlib
import operator
from functools import partial

import torch

ROWS_PER_CHUNK = 1024


def resolve_device(device) -> torch.device:
    """The `torch.device` that a name stands for; only "auto" falls back from CUDA to the CPU.

    Raises:
        ValueError: there is no such device here; the message says what there is.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is not a device; available here: {there}") from None
    if found.type == "cuda" and (found.index or 0) >= count:
        reason = "no CUDA here" if not count else f"{count} CUDA device(s)"
        raise ValueError(f"device {str(device)!r} was asked for, but there is {reason}; "
                         f"available here: {there}")
    return found


def batch_inference(model, dataloader, device="cuda") -> torch.Tensor:
    """Semantic IDs of every item of a loader, in order.

    Rows are encoded in chunks of one fixed size, whatever the loader's batches are: the IDs do not
    depend on the batch size, and small batches cost no speed.

    Args:
        model: an `RqVae`; moved to `device`, its training mode kept.
        dataloader: an iterable of {"features": (B, D)}.
        device: "cuda" (documented), "cpu", "auto", ...

    Returns:
        (N,) int64 on the CPU, or (N, L) with more than one level.

    Raises:
        ValueError: the device is not there, or the loader has no rows.
    """
    model.to(resolve_device(device))
    keep_freed_memory()
    found = bytearray()     # in one piece: a small tensor for each chunk would fragment the heap
    with evaluating(model):
        chunks = fixed_chunks(map(operator.itemgetter("features"), dataloader))
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
