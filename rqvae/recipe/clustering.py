"""Rows -> centroids that stand for them: k-means. Knows no model and no file.

Shapes:  N rows   E their width   K clusters
"""

from __future__ import annotations

import math

import torch

from ..functional import MANY_CODES, ROWS_PER_CHUNK, balancing_potentials, nearest_codes, squared_distances

# With more than MANY_CODES clusters many seeds are drawn at once, and no large tables are balanced.
BALANCED_NUMBERS = 2**24    # of rows times codes: Sinkhorn's iterations cost 60 exponentials for each of them


def kmeans(x, num_clusters, *, iterations=10, balance=None, generator=None, tick=None):
    """Centroids by Lloyd's algorithm from k-means++ seeds (Arthur & Vassilvitskii, SODA 2007).

    A cluster that empties is moved to the row farthest from its centroid. Where there are fewer
    distinct rows than clusters the surplus centroids are jittered copies of rows, so that every code
    differs and later training can move it.

    Args:
        x: (N, E) floating point, N >= 1.
        num_clusters: K.
        iterations: Lloyd steps at most; fewer when no row changes its cluster.
        balance: None for plain k-means; a number to assign by distance plus `balancing_potentials`, with
            that share of the median squared distance as their epsilon, so that clusters are of more equal
            size. Beyond BALANCED_NUMBERS k-means is plain all the same.
        generator: a CPU `torch.Generator`; the same state gives the same centroids.
        tick: called now and then with the share of the work that is done, for a progress bar.

    Returns:
        (K, E) centroids.

    Raises:
        ValueError: there is no row to start from.
    """
    if len(x) == 0:
        raise ValueError("k-means needs at least one row, got none; pass the features to train on")
    offset = x.mean(dim=0)
    x = x - offset              # distances below expand the square, which wants data at the origin
    tick = tick or (lambda done: None)
    seeds = (_plus_plus if num_clusters <= MANY_CODES else _seeds_in_blocks)(x, num_clusters, generator, tick)
    centroids = _filled(seeds, num_clusters, x, generator)
    if len(seeds) < num_clusters:               # each distinct row is a centroid: that fits best
        return centroids + offset
    if balance is not None and len(x) * num_clusters > BALANCED_NUMBERS:
        balance = None
    previous, prices = None, None
    for step in range(iterations):
        tick(0.5 + 0.5 * step / iterations)
        if balance is None:
            codes = nearest_codes(x, centroids)
        else:
            costs = squared_distances(x, centroids)                 # (N, K)
            epsilon = balance * costs.median().clamp_min(torch.finfo(x.dtype).tiny).item()
            # Prices that move on with the centroids need few iterations, and bind less: a lower error than exact
            # balance.
            prices = balancing_potentials(costs, epsilon=epsilon, iterations=3, prices=prices)
            codes = (costs + prices).argmin(dim=1)
        if balance is None and previous is not None and torch.equal(codes, previous):
            break
        previous = codes
        centroids = _cluster_means(x, codes, centroids)
    return centroids + offset


def _plus_plus(x, num_clusters, generator, tick):
    """Seeds drawn one after the other, each with probability proportional to its squared distance
    from those already drawn; the best of a few candidates, as Arthur & Vassilvitskii suggest."""
    norms = x.square().sum(dim=1)                                   # (N,)
    candidates = 2 + int(math.log(num_clusters))
    draws = torch.rand(num_clusters, candidates, generator=generator, dtype=torch.float64)
    chosen = (draws[0, :1] * len(x)).long().to(x.device)
    seeds = [x[chosen]]
    distances = (norms - 2 * (x @ seeds[0][0]) + norms[chosen]).clamp_min(0)
    distances[chosen] = 0
    for k in range(1, num_clusters):
        if k % 32 == 0:
            tick(0.5 * k / num_clusters)
        cumulative = distances.double().cumsum(0)
        if cumulative[-1] <= 0:                                     # every distinct row is a seed
            break
        rows = torch.searchsorted(cumulative, draws[k].to(x.device) * cumulative[-1], right=True)
        rows = rows.clamp_max(len(x) - 1)
        squared = norms[:, None] - 2 * (x @ x[rows].T) + norms[rows]            # (N, candidates)
        reduced = torch.minimum(distances[:, None], squared.clamp_min_(0))
        best = reduced.sum(dim=0).argmin()
        distances = reduced[:, best].clone()
        distances[rows[best]] = 0
        seeds.append(x[rows[best]][None])
    return torch.cat(seeds)


def _seeds_in_blocks(x, num_clusters, generator, tick):
    """As `_plus_plus`, but as many seeds at once as are there already, up to a thirty-second of all: for thousands of
    seeds a few passes over the rows (the idea of k-means||, Bahmani et al., arXiv 1203.6402)."""
    chosen = (torch.rand(1, generator=generator, dtype=torch.float64) * len(x)).long()
    squared = x.new_full((len(x),), math.inf)                       # (N,) to the nearest seed
    block = chosen
    while True:
        for rows, part in zip(x.split(ROWS_PER_CHUNK), squared.split(ROWS_PER_CHUNK)):
            torch.minimum(part, squared_distances(rows, x[block.to(x.device)]).amin(dim=1), out=part)
        squared[block.to(x.device)] = 0
        tick(0.5 * len(chosen) / num_clusters)
        weights = (squared / squared.max().clamp_min(torch.finfo(x.dtype).tiny)).cpu().double()
        size = min(len(chosen), -(-num_clusters // 32), num_clusters - len(chosen), int((weights > 0).sum()))
        if not size:
            return x[chosen.to(x.device)]
        block = torch.multinomial(weights, size, generator=generator)
        chosen = torch.cat([chosen, block])


def _filled(seeds, num_clusters, x, generator):
    """(K, E): the seeds, and jittered copies of them where there are fewer."""
    missing = num_clusters - len(seeds)
    if missing:
        copies = seeds[torch.arange(missing, device=x.device) % len(seeds)]
        noise = torch.randn(copies.shape, generator=generator, dtype=x.dtype).to(x.device)
        size = x.square().sum(dim=1).mean().sqrt() / x.shape[1] ** 0.5
        seeds = torch.cat([seeds, copies + noise * (1e-2 * size).clamp_min(1e-6)])
    return seeds


def _cluster_means(x, codes, centroids):
    """The mean of each cluster's rows; an empty cluster takes one of the rows farthest from theirs."""
    counts = torch.bincount(codes, minlength=len(centroids)).to(x.dtype)       # (K,)
    sums = torch.zeros_like(centroids).index_add_(0, codes, x)
    means = sums / counts.clamp_min(1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        errors = (x - centroids[codes]).square().sum(dim=1)
        farthest = errors.topk(min(len(empty), len(x)))
        useful = farthest.indices[farthest.values > 0]
        means[empty] = centroids[empty]
        means[empty[:len(useful)]] = x[useful]
    return means
