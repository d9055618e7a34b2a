"""Stateless tensor math: nearest codes, gradient estimators. Knows no parameters and no files.

Shapes:  B rows   E vector width   K codes
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch

MANY_CODES = 1024           # with more, chunks are smaller
ROWS_PER_CHUNK = 1024       # 512 to 2048 rows keep the distances in cache: see tests/benchmarks
_CANCELLED = 1e-3               # a squared distance below so much of the square of the code has lost half its digits
_TINY = 1e-9                        # numbers whose squares come near the smallest that float32 has
_BELOW = 0.999                      # so much of a length, in one place rounded otherwise, is not above it in another
_COMPARED = 2**20                   # numbers of candidates held at once
_CANDIDATES = 8                     # codes that are looked at again, where no more are as near
GPU_ROWS_PER_CHUNK = 16_384     # 64 MB of distances to 1024 codes, in few launches


class Codebook(NamedTuple):
    """Codes with what `nearest_codes` makes of them alone, see `prepared`."""

    vectors: torch.Tensor               # (K, E), float32 at least
    moved: torch.Tensor                 # (K, E) the same, near the origin
    offset: torch.Tensor | None         # (E,)   between the two; None if they are equal
    limits: torch.Tensor | None = None  # (K,)   distances that are unsure below it; None where nobody may look
    largest: float = 0.0                # of the limits
    tiny: bool = False                  # whether squares of their numbers vanish


def prepared(codebook: torch.Tensor) -> Codebook:
    """What does not depend on the rows: done once, it is a third of the work for small batches of narrow rows.

    (K, E), which must not be written to for as long as the result is used.
    """
    with torch.no_grad():
        codebook = codebook.to(torch.promote_types(codebook.dtype, torch.float32))
        offset = harmful_offset(codebook)
        moved = codebook if offset is None else codebook - offset
        if not may_look(codebook):
            return Codebook(codebook, moved, offset)
        limits = (moved.square().sum(dim=1) * _CANCELLED).sqrt()
        return Codebook(codebook, moved, offset, limits, limits.max().item(), bool(codebook.abs().max() < _TINY))


def nearest_codes(x: torch.Tensor, codebook: torch.Tensor | Codebook, *, exact: bool = False) -> torch.Tensor:
    """Index of the codebook vector nearest to each row, ties to the lowest index.

    Distances are `torch.cdist`, taken in chunks of rows: memory stays bounded whatever B is. For more
    than 25 rows cdist expands the square, which cancels when the data sits far from the origin, so a
    codebook whose mean outweighs its spread is first moved to the origin, and the rows with it.

    Args:
        x: (B, E) floating point.
        codebook: (K, E), same device, as it is or `prepared`. What is narrower than float32 is widened to it.
        exact: never expand the square, which takes ten times as long; for codes that are `crowded`, where no row is
            looked at again: that is done on the CPU alone, and in no program that is exported.

    Returns:
        (B,) int64, without gradient.
    """
    with torch.no_grad():
        x, vectors = _precise(x, codebook.vectors if isinstance(codebook, Codebook) else codebook)
        if not isinstance(codebook, Codebook) or vectors.dtype != codebook.vectors.dtype:
            codebook = prepared(vectors)
        if codebook.tiny:
            x, vectors = _enlarged(x, vectors)
            codebook = prepared(vectors)
        size = ROWS_PER_CHUNK if x.device.type == "cpu" else GPU_ROWS_PER_CHUNK
        size = max(64, size * MANY_CODES // max(len(vectors), MANY_CODES))
        if torch.compiler.is_compiling() or len(x) <= size:     # an exported program takes any number of rows
            return _nearest(x, codebook, exact)
        codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
        for rows, part in zip(x.split(size), codes.split(size)):
            part.copy_(_nearest(rows, codebook, exact))
        return codes


def _enlarged(x, codebook):
    """Both by the same power of 2, to the bit but where it counts: squares of numbers as small would be 0."""
    largest = max(vectors.abs().max().item() for vectors in (x, codebook) if len(vectors))
    factor = 2.0 ** min(-math.frexp(largest)[1], 126) if 0 < largest < _TINY else 1.0
    return x * factor, codebook * factor


def _nearest(rows, codebook, exact):
    if exact:
        return torch.cdist(rows, codebook.vectors, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    every = distances(rows if codebook.offset is None else rows - codebook.offset, codebook.moved)      # (rows, K)
    nearest = every.min(dim=1)                          # of equals the first, as argmin, and faster
    # Codes may lie in groups far apart: then the expanded square has cancelled whatever the mean of them all is.
    if codebook.limits is None or not len(rows) or not nearest.values.min().item() < codebook.largest:
        return nearest.indices
    limits = codebook.limits[nearest.indices]                                           # (rows,)
    lost = (nearest.values < limits).nonzero()[:, 0]
    several = (every[lost] < 2 * limits[lost, None]).sum(dim=1) > 1     # else no other code can be as near
    lost = lost[several]
    if len(lost):
        nearest.indices[lost] = _nearest_exactly(rows[lost], codebook.vectors, every[lost], limits[lost])
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
    if not may_look(codebook):
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


def may_look(x: torch.Tensor) -> bool:
    """Whether to look at the numbers of `x` neither waits for a device, nor stops torch.export, nor is traced as if
    they were all others'."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


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
    if not may_look(x) or not reach > _TINY:
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
