"""How good are a model and its semantic IDs: reconstruction, use of the codes, collisions.

Shapes:  B rows   D feature width   N items   K codes   L levels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .codes import as_codes, level_sizes
from .collisions import collision_report, row_keys, sharing
from .functional import perplexity
from .inference import CUDA_UNLESS_NAMED, as_input, batch_inference, evaluating, features_of, resolve_device


def evaluate_reconstruction(model: torch.nn.Module, dataloader: Any,
                            device: str | torch.device = CUDA_UNLESS_NAMED) -> dict:
    """Reconstruction error over a loader.

    Args:
        model: an `RqVae`; moved to `device`, its training mode kept.
        dataloader: an iterable of {"features": (B, D)}, or all features as one (N, D) tensor.
        device: "cuda" (documented), "cpu", "auto", ...; named by nobody, the CPU where there is no CUDA.

    Returns:
        mse: the summed squared error divided by the number of *samples*, as documented: D times larger
            than what is usually called the MSE.
        rmse: its square root.
        mse_per_element: the summed squared error divided by the number of samples and columns.
        relative_mse: mse over the summed variance of the features; 1 for a model that says the mean.
            Not a number where all items are equal.
        relative_mse_robust: only of a model with `robust`: relative_mse as training counts errors, rows and columns
            far out drawn in. Where there are such, they make up nearly all of relative_mse.

    Raises:
        ValueError: the device is not there, or the loader has no rows.
    """
    model.to(resolve_device(device))
    total_mse, total_samples, moments, counted = 0.0, 0, None, torch.zeros(2, dtype=torch.float64)
    with evaluating(model):
        for features in features_of(dataloader):
            features = as_input(model, features)
            reconstructed = model(features).reconstructed
            if model.robust:
                counted += torch.stack([part.sum().cpu() for part in counted_errors(model, features, reconstructed)])
            wide = torch.promote_types(torch.promote_types(features.dtype, reconstructed.dtype), torch.float32)
            if model.parts:         # what an item lacks is no error
                reconstructed = torch.where(model.missing(model.standardized(features)), features, reconstructed)
            features, reconstructed = features.to(wide), reconstructed.to(wide)
            if model.standardize:       # to whom 1e-25 is a number like others, and its square has to be one
                total_mse += torch.linalg.vector_norm(reconstructed - features, dtype=torch.float64).item() ** 2
            else:
                total_mse += F.mse_loss(reconstructed, features, reduction="sum").item()
            total_samples += len(features)
            moments = _add_moments(moments, features)
    if not total_samples:
        raise ValueError("the loader yields no items; pass at least one")
    avg_mse = total_mse / total_samples
    _, sums, squares = moments
    variance = ((squares - sums.square() / total_samples).sum() / total_samples).clamp_min(0).item()
    found = {
        "mse": avg_mse,
        "rmse": avg_mse ** 0.5,
        "mse_per_element": avg_mse / features.shape[1],
        "relative_mse": avg_mse / variance if variance else float("nan"),
    }
    if model.robust:
        found["relative_mse_robust"] = (counted[0] / counted[1]).item()
    return found


def part_errors(model, dataloader, device="cuda") -> list:
    """relative_mse_robust of each of `model.parts`, over the items that have it. Args and errors: as
    `evaluate_reconstruction`."""
    model.to(resolve_device(device))
    sums = torch.zeros(2, len(model.parts), dtype=torch.float64)
    with evaluating(model):
        for features in features_of(dataloader):
            features = as_input(model, features)
            sums += counted_part_errors(model, features, model(features).reconstructed)
    return (sums[0] / sums[1]).tolist()


def counted_part_errors(model, features, reconstructed):
    """Squared error of each of `model.parts`, and its squared distance from the mean, over the rows that have it:
    (B, D), (B, D) -> (2, P) float64 on the CPU."""
    inputs, said = model.standardized(features).double(), model.standardized(reconstructed.to(features)).double()
    said = said.masked_fill(model.missing(inputs), 0.0)
    return torch.stack([torch.stack([part.square().sum().cpu() for part in values.split(model.parts, dim=1)])
                        for values in (said - inputs, inputs)])


def counted_errors(model, features, reconstructed):
    """Squared error of each row, and its squared distance from the mean, as training counts them: of the standardized
    features, a row drawn in at the weight of one at the border. (B, D), (B, D) -> (B,), (B,) float64."""
    inputs, said = model.standardized(features), model.standardized(reconstructed.to(features))
    inputs, said = (rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (inputs, said))
    if model.parts:
        said = said.masked_fill(model.missing(inputs), 0.0)
    errors, lengths = (torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for rows in (said - inputs, inputs))
    weights = (model.reach / lengths).clamp_max(1.0).square() if model.robust else 1.0
    return weights * errors.square(), weights * lengths.square()


def evaluate_quantization(model: torch.nn.Module, dataloader: Any,
                          device: str | torch.device = CUDA_UNLESS_NAMED) -> dict:
    """How many codes are used, and how evenly.

    Args and errors: as `evaluate_reconstruction`.

    Returns:
        usage_rate: codes used, over all codes.
        unique_codes: codes used, summed over the levels.
        perplexity: exp of the entropy of the codes, a mean over the levels; K when all are used equally.
        usage_rate_per_level, unique_codes_per_level, perplexity_per_level: lists of the same, one value
            a level.
    """
    codes = batch_inference(model, dataloader, device)
    return code_statistics(codes, model.quantizer.num_embeddings)


def code_statistics(codes, num_embeddings) -> dict:
    """`evaluate_quantization` for IDs at hand: (N,) or (N, L) int64; K, or one for each level."""
    codes = codes.reshape(len(codes), -1)
    sizes = level_sizes(num_embeddings, codes.shape[1])
    counts = torch.stack([torch.bincount(level, minlength=max(sizes)) for level in codes.unbind(1)])    # (L, K)
    used = (counts > 0).sum(dim=1)                                                      # (L,)
    evenness = perplexity(counts)                                                       # (L,)
    return {
        "usage_rate": used.sum().item() / sum(sizes),
        "unique_codes": used.sum().item(),
        "perplexity": evenness.mean().item(),
        "usage_rate_per_level": [n / size for n, size in zip(used.tolist(), sizes)],
        "unique_codes_per_level": used.tolist(),
        "perplexity_per_level": evenness.tolist(),
    }


def evaluate_semantic_ids(model: torch.nn.Module, dataloader: Any,
                          device: str | torch.device = CUDA_UNLESS_NAMED) -> dict:
    """How well the semantic IDs tell items apart.

    Args and errors: as `evaluate_reconstruction`.

    Returns:
        items: N.
        distinct_ids: different IDs among them.
        collision_rate: 1 - distinct_ids / items.
        colliding_items: items that share their ID with another.
        largest_collision: items that share the most frequent ID.
        unavoidable_collisions: items minus distinct feature rows; no tokenizer tells those apart.
    """
    groups = []

    def noting_groups():
        for features in features_of(dataloader):
            groups.append(row_keys(features.detach().cpu().float().numpy()))
            yield {"features": features}

    codes = batch_inference(model, noting_groups(), device)
    return collision_report(codes, features_groups=np.concatenate(groups))


def feature_groups(table, codes):
    """(N,) int64, equal for items with equal features, of which only rows that share an ID are compared: all others
    differ.

    Args:
        table: a `FeatureTable` (N, D), of which nothing is read where `check` has seen it.
        codes: (N, L) int64, as the model gives them, so that equal features have equal codes.
    """
    groups, alike = np.arange(len(table)), np.flatnonzero(sharing(as_codes(codes)))
    if len(alike):
        keys = table.row_keys(alike)
        order = np.argsort(keys)                    # not `unique`, which takes three times the memory of many rows
        alike = alike[order]
        keys = keys[order]
        del order
        numbers = np.cumsum(np.concatenate([[False], keys[1:] != keys[:-1]]))
        numbers += len(table)
        groups[alike] = numbers
    return groups


def _add_moments(moments, features):
    """Origin, sums and squared sums of columns, in float64 around the first batch's mean, which keeps
    the variance right where the mean is large beside it."""
    shifted = features.to(torch.float64, copy=True)
    if moments is None:
        zeros = shifted.new_zeros(features.shape[1])
        moments = (shifted.mean(dim=0), zeros, zeros)
    origin, sums, squares = moments
    shifted -= origin
    return origin, sums + shifted.sum(dim=0), squares + shifted.square_().sum(dim=0)
