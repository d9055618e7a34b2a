"""A model and items whose IDs collide -> an ID for each. Reads the features of the items that collide, no others.

Shapes:  N items   M items published before   L levels   D feature width   E latent width
"""

from __future__ import annotations

import numpy as np
import torch

from ..codes import as_codes
from ..collisions import collision_ranks, collision_report
from ..functional import distances
from ..inference import ROWS_PER_CHUNK, evaluating, model_device
from .resolution import Resolution, resolve_collisions


def unique_ids(model, features, codes, *, method="optimal", taken=None) -> Resolution:
    """`resolve_collisions` for the IDs that a model gave, without holding a latent for each item.

    Args:
        model: the `RqVae`, on the device that it shall compute on.
        features: the `FeatureTable` (N, D).
        codes: (N, L) or (N,) integers, what `batch_inference` gave.
        method: "optimal", "nearest" or "suffix".
        taken: (M, L) published IDs, (M, L+1) for "suffix", none of which moves.

    Raises:
        ValueError: as `resolve_collisions`.
    """
    codes = as_codes(codes)
    if method == "suffix":
        return resolve_collisions(codes, method=method, taken=taken)
    taken = np.empty((0, codes.shape[1]), np.int64) if taken is None else as_codes(taken, "taken")
    everything = np.concatenate([taken, codes])
    contested = np.flatnonzero(collision_ranks(everything)[1][len(taken):] > 1)
    if not len(contested):
        report = collision_report(everything)
        return Resolution(codes, contested, report, report)
    # An ID that one item alone has is as good as published: it stays, and nobody gets it.
    settled = np.concatenate([taken, np.delete(codes, contested, axis=0)])
    resolved = resolve_collisions(codes[contested], _latents(model, features, contested), model.quantizer.codebooks,
                                  method=method, taken=settled if len(settled) else None)
    unique = codes.copy()
    unique[contested] = resolved.codes
    return resolved._replace(codes=unique, moved=contested[resolved.moved])


def ranked_last_codes(model, features, codes, count=16) -> np.ndarray:
    """For each item the `count` last codes that say best what its other codes leave over: (N, count), the best first.

    Args:
        model, features: as `unique_ids`.
        codes: (N, L), the items' IDs; all levels but the last are read.
        count: T, at most the codes of the last level.
    """
    codes, books = torch.from_numpy(as_codes(codes)), model.quantizer.codebooks
    count, found = min(count, len(books[-1])), []
    with evaluating(model):
        for start in range(0, len(codes), ROWS_PER_CHUNK):
            rows = slice(start, min(start + ROWS_PER_CHUNK, len(codes)))
            left = model.encode(features.rows(rows).to(model_device(model)))
            for book, column in zip(books[:-1], codes[rows].T):
                left = left - book[column.to(left.device)]
            found.append(distances(left, books[-1]).topk(count, largest=False).indices.cpu())
    return torch.cat(found).numpy()


def _latents(model, features, rows):
    """(m, E) of the rows (m,), by matrices of one shape as in `batch_inference`."""
    found = []
    with evaluating(model):
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            chunk = rows[start:start + ROWS_PER_CHUNK]
            items = features.rows(np.resize(chunk, ROWS_PER_CHUNK)).to(model_device(model))
            found.append(model.encode(items)[:len(chunk)].cpu())
    return torch.cat(found)
