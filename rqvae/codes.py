"""What callers hand in -> codes, sizes and labels that the rooms above rely on. Knows no file.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from .storage.item_ids import of_one_kind, rows_by_text


def as_array(values) -> np.ndarray:
    """A tensor on any device, or whatever numpy takes, as an array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def as_codes(codes, name="codes") -> np.ndarray:
    """Codes in any form that we accept, as (N, L) int64; the same memory where that is possible.

    Args:
        codes: integers, (N, L), or (N,) for one level: a tensor, an array or a list.
        name: what an error calls them.

    Raises:
        ValueError: no table of integers with at least one row and column, or a negative code.
    """
    table = as_array(codes)
    if table.ndim not in (1, 2) or 0 in table.shape:
        raise ValueError(f"{name} must be (items, levels), or (items,) for one level, "
                         f"with at least one of each, got shape {table.shape}")
    if table.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {table.dtype}")
    table = table.reshape(len(table), -1)
    outside = table.min() if table.min() < 0 else table.max()
    if not 0 <= int(outside) < 2 ** 63:
        row = int(np.flatnonzero((table == outside).any(axis=1))[0])
        raise ValueError(f"{name} must be 0 or more and fit int64, got {outside} in row {row}")
    return table.astype(np.int64, copy=False)


def codes_checksum(codes) -> str:
    """32 hex digits that tell a table of codes (N, L) from any other, whatever integers they are stored as."""
    codes = np.ascontiguousarray(codes, "<i8")
    return hashlib.blake2b(f"{codes.shape}".encode() + codes.tobytes(), digest_size=16).hexdigest()


def level_sizes(num_embeddings, num_levels) -> list[int]:
    """`num_embeddings`, one number for all levels or one for each, as a list of `num_levels`.

    Raises:
        ValueError: it is neither.
    """
    sizes = as_array(num_embeddings)
    if sizes.dtype.kind not in "iu" or sizes.shape not in ((), (num_levels,)) or sizes.min() < 1:
        raise ValueError(f"num_embeddings must be one integer above 0, or one for each of the "
                         f"{num_levels} levels, got {num_embeddings!r}")
    return np.broadcast_to(sizes, num_levels).tolist()


def check_range(codes, sizes, name="codes") -> None:
    """Refuse codes (N, L) of which one is not below its level's size.

    Raises:
        ValueError: naming the first such row, its level, its code and the size.
    """
    outside = codes >= np.array(sizes)
    if outside.any():
        row, level = np.argwhere(outside)[0]
        raise ValueError(f"{name} of level {level + 1} must be below {sizes[level]}, "
                         f"got {codes[row, level]} in row {row}")


def as_labels(labels, items, name) -> list[str] | None:
    """Names or the like as a list of text, one for each item, or None for None.

    Raises:
        ValueError: there are more or fewer.
    """
    if labels is None:
        return None
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    labels = ["" if label is None else str(label) for label in labels]
    if len(labels) != items:
        raise ValueError(f"{name} must hold one entry for each of the {items} items, "
                         f"got {len(labels)}")
    return labels


def as_item_ids(item_ids, items) -> list | None:
    """Item IDs as a list of text or of integers, one for each item and no two alike, or None for None.

    Raises:
        ValueError: there are more or fewer, one is neither or empty, or two are equal, 5 and "5" included.
    """
    if item_ids is None:
        return None
    item_ids = item_ids.tolist() if hasattr(item_ids, "tolist") else list(item_ids)
    item_ids = [item.item() if isinstance(item, np.generic) else item for item in item_ids]
    if len(item_ids) != items:
        raise ValueError(f"item_ids must hold one entry for each of the {items} items, got {len(item_ids)}")
    try:
        item_ids = of_one_kind(item_ids)
        rows_by_text(item_ids)
    except ValueError as error:
        raise ValueError(f"item_ids {error}") from None
    return item_ids
