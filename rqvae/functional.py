"""Stateless tensor math: nearest codes, gradient estimators, k-means. Knows no parameters and no files.

Shapes:  B rows   E vector width   K codes
"""

from __future__ import annotations

import math
from functools import partial

import torch

# With more codes, chunks are smaller, and k-means draws many seeds at once and balances no large tables.
MANY_CODES = 1024
BALANCED_NUMBERS = 2**24    # of rows times codes: Sinkhorn's iterations cost 60 exponentials for each of them
ROWS_PER_CHUNK = 1024       # 512 to 2048 rows keep the distances in cache: see tests/benchmarks
_CANCELLED = 1e-3               # a squared distance below so much of the square of the code has lost half its digits
_TINY = 1e-9                        # numbers whose squares come near the smallest that float32 has
_BELOW = 0.999                      # so much of a length, in one place rounded otherwise, is not above it in another
_COMPARED = 2**20                   # numbers of candidates held at once
_CANDIDATES = 8                     # codes that are looked at again, where no more are as near
GPU_ROWS_PER_CHUNK = 16_384     # 64 MB of distances to 1024 codes, in few launches


def nearest_codes(x: torch.Tensor, codebook: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
    """Index of the codebook vector nearest to each row, ties to the lowest index.

    Distances are `torch.cdist`, taken in chunks of rows: memory stays bounded whatever B is. For more
    than 25 rows cdist expands the square, which cancels when the data sits far from the origin, so a
    codebook whose mean outweighs its spread is first moved to the origin, and the rows with it.

    Args:
        x: (B, E) floating point.
        codebook: (K, E), same device. What is narrower than float32 is widened to it.
        exact: never expand the square, which takes ten times as long; for codes that are `crowded`, where no row is
            looked at again: that is done on the CPU alone, and in no program that is exported.

    Returns:
        (B,) int64, without gradient.
    """
    with torch.no_grad():
        x, codebook = _precise(x, codebook)
        asked = not _is_not_to_be_asked(x)
        if asked and codebook.abs().max() < _TINY:
            x, codebook = _enlarged(x, codebook)
        offset = None if exact else harmful_offset(codebook)
        moved = codebook if offset is None else codebook - offset
        size = ROWS_PER_CHUNK if x.device.type == "cpu" else GPU_ROWS_PER_CHUNK
        size = max(64, size * MANY_CODES // max(len(codebook), MANY_CODES))
        unsure = None
        if asked and not exact:         # distances below it, one for each code, and the largest of them
            unsure = (moved.square().sum(dim=1) * _CANCELLED).sqrt()
            unsure = unsure, unsure.max()
        if torch.compiler.is_compiling() or len(x) <= size:     # an exported program takes any number of rows
            return _nearest(x, codebook, moved, offset, unsure, exact)
        codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
        for rows, part in zip(x.split(size), codes.split(size)):
            part.copy_(_nearest(rows, codebook, moved, offset, unsure, exact))
        return codes


def _enlarged(x, codebook):
    """Both by the same power of 2, to the bit but where it counts: squares of numbers as small would be 0."""
    largest = max(vectors.abs().max().item() for vectors in (x, codebook) if len(vectors))
    factor = 2.0 ** min(-math.frexp(largest)[1], 126) if 0 < largest < _TINY else 1.0
    return x * factor, codebook * factor


def _nearest(rows, codebook, moved, offset, unsure, exact):
    if exact:
        return torch.cdist(rows, codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    every = distances(rows if offset is None else rows - offset, moved)                 # (rows, K)
    nearest = every.min(dim=1)                          # of equals the first, as argmin, and faster
    # Codes may lie in groups far apart: then the expanded square has cancelled whatever the mean of them all is.
    if unsure is None or not len(rows) or not nearest.values.min() < unsure[1]:
        return nearest.indices
    lost = nearest.values < unsure[0][nearest.indices]
    if lost.any():
        nearest.indices[lost] = _nearest_exactly(rows[lost], codebook, every[lost], unsure[0][nearest.indices[lost]])
    return nearest.indices


def _nearest_exactly(rows, codebook, expanded, limits):
    """(m,) codes nearest to rows (m, E) that lie on codes, or nearer than `limits` (m,), below which `expanded`
    distances (m, K) cannot tell."""
    few = min(_CANDIDATES, len(codebook))
    near, places = expanded.topk(few, dim=1, largest=False)         # of the codes that may be meant, and some beyond
    places = places.sort(dim=1).values                              # of equals the first
    size = max(1, _COMPARED // (few * codebook.shape[1]))
    found = torch.cat([
        torch.cdist(some[:, None], codebook[theirs],
                    compute_mode="donot_use_mm_for_euclid_dist")[:, 0].min(dim=1).indices
        for some, theirs in zip(rows.split(size), places.split(size))])
    found = places.gather(1, found[:, None])[:, 0]
    unsure = near[:, -1] < 2 * limits                               # there may be more
    if few < len(codebook) and unsure.any():
        exact = torch.cdist(rows[unsure], codebook, compute_mode="donot_use_mm_for_euclid_dist")
        found[unsure] = exact.min(dim=1).indices
    return found


def distances(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """|x - c| of every row to every code: (B, E), (K, E) -> (B, K), by `torch.cdist`.

    In float32 even where the process lets a GPU multiply in TF32, whose 10 bits take other codes.
    """
    if torch.compiler.is_compiling():       # as it does for more than 25 rows or codes, and for fewer, too
        return torch.cdist(x, codebook, compute_mode="use_mm_for_euclid_dist")
    if x.device.type == "cpu":
        return torch.cdist(x, codebook)
    set_to, exact = torch.set_float32_matmul_precision, "highest"
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:        # it was chosen under the name that it has since torch 2.9
        set_to, exact = partial(setattr, torch.backends.cuda.matmul, "fp32_precision"), "ieee"
        before = torch.backends.cuda.matmul.fp32_precision
    set_to(exact)
    try:
        return torch.cdist(x, codebook)
    finally:
        set_to(before)


def harmful_offset(codebook):
    """(E,) what to subtract before distances are expanded, or None. Zeros change nothing, to the bit."""
    some = codebook[::len(codebook) // 64 or 1]     # an offset that harms is many times the spread: few codes show it
    mean = some.mean(dim=0)
    harmful = 2 * mean.dot(mean) > some.square().sum() / len(some)
    if _is_not_to_be_asked(codebook):
        return torch.where(harmful, mean, 0.0)
    return mean if harmful else None


def crowded(codebook: torch.Tensor) -> bool:
    """Whether some codes (K, E) lie so near each other, for how far from the middle, that the expanded square cannot
    tell which of them is nearest: in groups far apart, or as copies of few rows."""
    codebook = codebook.detach()
    codebook = _enlarged(*_precise(codebook, codebook))[0]
    offset = harmful_offset(codebook)
    codebook = codebook if offset is None else codebook - offset
    limits = codebook.square().sum(dim=1) * _CANCELLED
    numbers = torch.arange(len(codebook), device=codebook.device)
    return any(bool((squared_distances(part, codebook).masked_fill_(own[:, None] == numbers, math.inf)
                     .amin(dim=1) < limit).any())
               for part, own, limit in zip(*(values.split(ROWS_PER_CHUNK) for values in (codebook, numbers, limits))))


def _is_not_to_be_asked(x):
    """Whether to look at the numbers of `x` would wait for a device, stop torch.export, or be traced as if they were
    all others'."""
    return x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing()


def _precise(x, codebook):
    """Both in one dtype, float32 at least."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, codebook.dtype), torch.float32)
    return x.to(dtype), codebook.to(dtype)


def straight_through(z: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The value of `quantized` with the gradient of `z` (Bengio et al., arXiv 1308.3432)."""
    return z + (quantized - z).detach()


def rotation_trick(z: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The value of `quantized`, with gradients rotated and scaled as z is onto it.

    Fifty et al., arXiv 2410.06424, section 4.2: with u = z/|z|, v = q/|q|, w = (u + v)/|u + v| and
    s = |q|/|z|, all constants to the gradient, the result is s * (z - 2 (z.w) w + 2 (z.u) v).
    Rows where z or q is zero, or where they point in opposite directions, have no such rotation and
    fall back to `straight_through`.

    Args:
        z: (B, E) the vectors before quantization.
        quantized: (B, E) what they became.
    """
    with torch.no_grad():
        z_norm = z.norm(dim=1, keepdim=True)                        # (B, 1)
        q_norm = quantized.norm(dim=1, keepdim=True)                # (B, 1)
        tiny = torch.finfo(z.dtype).tiny ** 0.5
        u = z / z_norm.clamp_min(tiny)
        v = quantized / q_norm.clamp_min(tiny)
        middle = (u + v).norm(dim=1, keepdim=True)                  # (B, 1), 0 for opposite directions
        w = (u + v) / middle.clamp_min(tiny)
        scale = q_norm / z_norm.clamp_min(tiny)
        rotatable = (z_norm > tiny) & (q_norm > tiny) & (middle > 1e-3)
    rotated = scale * (z - 2 * (z * w).sum(1, keepdim=True) * w + 2 * (z * u).sum(1, keepdim=True) * v)
    return torch.where(rotatable, rotated, straight_through(z, quantized))


def squared_distances(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """|x - c|^2 of every row to every code: (B, E), (K, E) -> (B, K)."""
    return distances(*_precise(x, codebook)).square()


def row_lengths(x: torch.Tensor) -> torch.Tensor:
    """|x| of each row, (B, D) -> (B, 1), however large or small: no square overflows or vanishes."""
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)        # (B, 1)
    return (x / largest).norm(dim=1, keepdim=True) * largest


def within(x: torch.Tensor, reach: torch.Tensor) -> bool:
    """Whether no row of x (B, D) is near `reach` (), where that costs one pass and no wait: on the CPU.

    False if in doubt.
    """
    if _is_not_to_be_asked(x) or not reach > _TINY:
        return False
    wide = torch.promote_types(x.dtype, torch.float32)
    return bool((torch.linalg.vector_norm(x.detach(), dim=1, dtype=wide) < _BELOW * reach).all())


def draw_in(x: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """Rows longer than `reach` brought nearer, to reach * (1 + log(length / reach)) in their direction.

    Rows within reach are left as they are, to the bit, and the order of lengths is kept; a row 100,000 times
    as long as it should be comes out 12 times as long. `draw_out` takes it back.
    """
    if within(x, reach):
        return x
    lengths = row_lengths(x)                                        # (B, 1)
    excess = (lengths / reach).clamp_min(1.0)
    return torch.where(excess > 1, x / excess * (1 + excess.log()), x)


def draw_out(x: torch.Tensor, reach: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """What `draw_in` was given, if `x` is what it returned; of what is longer than `limit`, as if it were that long."""
    if within(x, reach):
        return x
    lengths = row_lengths(x)                                        # (B, 1)
    excess = (torch.minimum(lengths, limit) / reach - 1).clamp_min(0.0)
    return torch.where(excess > 0, x / lengths * (reach * excess.exp()), x)


def balancing_potentials(costs: torch.Tensor, *, epsilon: float, iterations: int,
                         prices: torch.Tensor | None = None) -> torch.Tensor:
    """A price for each code that makes all codes about equally wanted.

    The column potentials of entropic optimal transport to uniform marginals, by Sinkhorn's iteration
    (Cuturi, arXiv 1306.0895) on logarithms: no epsilon overflows, and no row underflows to nothing.
    `(costs + prices).argmin(dim=1)` is the code of largest weight in each row of the transport plan.

    Args:
        costs: (B, K) of giving each row each code.
        epsilon: the temperature, in units of the costs; smaller is harder.
        iterations: of rows and columns in turn.
        prices: (K,) of costs much like these, to begin from; then few iterations do.

    Returns:
        (K,) prices with mean 0.
    """
    scores = costs / -epsilon                                       # (B, K)
    log_rows, log_columns = -math.log(costs.shape[0]), -math.log(costs.shape[1])
    column = scores.new_zeros(costs.shape[1]) if prices is None else prices / -epsilon
    for _ in range(iterations):
        row = log_rows - torch.logsumexp(scores + column, dim=1)                # (B,)
        column = log_columns - torch.logsumexp(scores + row[:, None], dim=0)    # (K,)
    return (column.mean() - column) * epsilon


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


def count_codes(codes: torch.Tensor, num_codes: int) -> torch.Tensor:
    """How often each code occurs: (B,) int64 -> (num_codes,) float32.

    As `torch.bincount`, which on a GPU waits for the codes, to see how large they are.
    """
    counts = torch.zeros(num_codes, device=codes.device)
    return counts.index_add_(0, codes, torch.ones(len(codes), device=codes.device))


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the code frequencies, over the last axis: K when all codes are equally used.

    The documented formula, its 1e-10 inside the logarithm included.

    Args:
        counts: (..., K) how often each code was chosen.
    """
    probabilities = counts.float() / counts.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.exp(-torch.sum(probabilities * torch.log(probabilities + 1e-10), dim=-1))
