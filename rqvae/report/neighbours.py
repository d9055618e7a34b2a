"""Do similar items get similar IDs? Neighbour recall and shared-prefix lift, with no recommender needed.

Shapes:  N items   D feature width   L levels   Q query items   P pairs
"""

import contextlib

import torch

from ..inference import evaluating, model_device
from ..items.batches import open_features

COMPARISONS = 2 * 10**8         # query-item comparisons at most: large catalogues are judged on a sample
ROWS_PER_CHUNK = 4096


def neighbour_quality(model, features, codes, *, neighbours=10, queries=4000, seed=0) -> dict:
    """How much of each item's neighbourhood survives in its semantic ID.

    An item's true neighbours are those of largest cosine between features. They are looked for among
    the items whose reconstructions lie nearest, by plain distance.

    Args:
        model: an `RqVae`, which decodes the IDs; None for IDs of another system, whose lift alone is then told.
        features: (N, D), anything that `open_features` takes.
        codes: (N,) or (N, L) int64, one ID an item.
        neighbours: how many are looked for.
        queries: items that are looked at, drawn at random; fewer on large catalogues.
        seed: of that draw.

    Returns:
        recall_reconstruction: share of the true neighbours found from the item's own reconstruction.
        recall_item: the same, found from the item's features.
        neighbour_lift: mean length of the prefix that an item shares with its true neighbours, over
            that of two random items.
        queries: items that were looked at.
    """
    table = open_features(features)
    codes = torch.as_tensor(codes).reshape(len(table), -1)
    count = min(neighbours, len(table) - 1)
    if count < 1:
        recall = {} if model is None else {"recall_reconstruction": float("nan"), "recall_item": float("nan")}
        return {**recall, "neighbour_lift": float("nan"), "queries": 0}
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    chosen = chosen[:max(1, min(queries, COMPARISONS // len(table)))].sort().values             # (Q,)
    device = "cpu" if model is None else model_device(model)
    with contextlib.nullcontext() if model is None else evaluating(model):
        def decoded(rows):
            picked = codes[rows].to(device)
            return model.decode(picked[:, 0] if codes.shape[1] == 1 else picked)

        items = table.rows(chosen).to(device)                                                   # (Q, D)
        best = [_Nearest(chosen, count, device) for _ in range(3)]
        unit = torch.nn.functional.normalize(items, dim=1)
        rebuilt = None if model is None else decoded(chosen)
        for start in range(0, len(table), ROWS_PER_CHUNK):
            rows = slice(start, min(start + ROWS_PER_CHUNK, len(table)))
            candidates = table.rows(rows).to(device)
            best[0].look(start, -unit @ torch.nn.functional.normalize(candidates, dim=1).T)
            if model is not None:
                reconstructions = decoded(rows)
                best[1].look(start, torch.cdist(rebuilt, reconstructions))
                best[2].look(start, torch.cdist(items, reconstructions))
    true, from_reconstruction, from_item = (nearest.rows.cpu() for nearest in best)
    pairs = torch.stack([chosen.repeat_interleave(count), true.flatten()], dim=1)
    quality = {"neighbour_lift": shared_prefix_lift(codes, pairs), "queries": len(chosen)}
    if model is None:
        return quality
    return {"recall_reconstruction": _overlap(true, from_reconstruction),
            "recall_item": _overlap(true, from_item), **quality}


def shared_prefix_lift(codes, pairs) -> float:
    """Mean length of the prefix that pairs of items share, over that of two random items.

    Args:
        codes: (N,) or (N, L) int64.
        pairs: (P, 2) row numbers: neighbours, or items that people took one after the other.

    Raises:
        ValueError: `pairs` is not (P, 2), or names a row that there is not.
    """
    codes = torch.as_tensor(codes).reshape(len(codes), -1)
    pairs = torch.as_tensor(pairs).long()
    if pairs.dim() != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"pairs have shape {tuple(pairs.shape)}; expected (pairs, 2) row numbers, at least one")
    if pairs.min() < 0 or pairs.max() >= len(codes):
        raise ValueError(f"pairs name the rows {pairs.min().item()} to {pairs.max().item()}; there are rows 0 to "
                         f"{len(codes) - 1}")
    same = codes[pairs[:, 0]] == codes[pairs[:, 1]]                                             # (P, L)
    shared = same.long().cumprod(dim=1).sum(dim=1).double().mean().item()
    expected = _shared_at_random(codes)
    return shared / expected if expected else float("nan")


def _shared_at_random(codes):
    """The exact expectation over two different items drawn at random, by counting equal prefixes."""
    expected, pairs = 0.0, len(codes) * (len(codes) - 1)
    groups = torch.zeros(len(codes), dtype=torch.int64)
    for level in codes.unbind(dim=1):
        keys = groups * (int(codes.max()) + 1) + level
        groups, sizes = keys.unique(return_inverse=True, return_counts=True)[1:]
        expected += (sizes * (sizes - 1)).sum().item() / max(pairs, 1)
    return expected


class _Nearest:
    """The `count` candidates of least distance for each query so far, the query itself left out."""

    def __init__(self, queries, count, device):
        self.queries = queries.to(device)
        self.distances = torch.full((len(queries), count), float("inf"), device=device)
        self.rows = torch.full((len(queries), count), -1, device=device)

    def look(self, start, distances):
        """`distances` (Q, chunk) are to the candidates `start`, `start` + 1, ..."""
        own = self.queries - start
        inside = (own >= 0) & (own < distances.shape[1])
        distances[inside.nonzero()[:, 0], own[inside]] = float("inf")
        found = distances.topk(min(self.rows.shape[1], distances.shape[1]), dim=1, largest=False)
        merged = torch.cat([self.distances, found.values], dim=1)
        rows = torch.cat([self.rows, found.indices + start], dim=1)
        self.distances, places = merged.topk(self.rows.shape[1], dim=1, largest=False)
        self.rows = rows.gather(1, places)


def _overlap(true, found):
    """Share of each row's entries in `true` (Q, n) that stand in its row of `found` too."""
    return (true[:, :, None] == found[:, None, :]).any(dim=2).double().mean().item()
