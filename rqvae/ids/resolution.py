"""Codes in which items collide -> codes in which none do. Knows no file, no token and no model.

A node of the code tree, which is a prefix, is an integer here, and node * K + code is its child.

Shapes:  N items   M items published before   L levels   K codes of a level   E latent width
         m movers: the items that have to leave an ID that they share
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import numpy as np

from ..codes import as_array, as_codes, check_range, level_sizes
from ..collisions import collision_ranks, collision_report, id_keys, run_starts
from .matching import least_cost

_NUMBERS_AT_ONCE = 2 ** 20          # in a block of distances: some MB, near the processor
_FARTHEST = 1e15                    # a longer residual, squared, gets near the end of float32


class Resolution(NamedTuple):
    codes: np.ndarray       # (N, L) int64, or (N, L+1) with a suffix
    moved: np.ndarray       # (m,) rows, ascending, whose ID changed or got a suffix above 0
    before: dict            # collision_report of what came in, published IDs included
    after: dict             # collision_report of what goes out, published IDs included


def resolve_collisions(codes: Any, latents: Any = None, codebooks: Any = None, *, method: str | None = None,
                       num_embeddings: int | Sequence[int] | None = None, taken: Any = None) -> Resolution:
    """Give every item an ID of its own. An ID without a collision never changes.

    "nearest": the closest of the items that share an ID keeps it. The others leave in turn, those
    closest to their code first, each to the nearest last code that is free under its prefix, by
    the distance of its residual r_L = z - sum_{l<L} C_l[i_l]. Who finds the prefix full goes to
    the nearest code with room on the level before, from there to the nearest free last code, and
    so on upwards. Ties go to the lower row and to the lower code. No code leaves its codebook.

    "optimal": as "nearest", but for who gets which last code: all that have room under a prefix and
    share an ID get those that are free and those they share, so that the sum of their squared
    distances is the least there is.

    "suffix" (TIGER, arXiv 2305.05065, section 3.1): one more level, which counts 0, 1, 2, ...
    within each collision in row order. It works whatever collides.

    Args:
        codes: (N, L) or (N,) integers.
        latents: (N, E) encoder outputs z; needed for all but "suffix".
        codebooks: an array (K, E) for each level; needed for all but "suffix".
        method: "optimal", "nearest" or "suffix"; by default "nearest" where latents and codebooks are given.
        num_embeddings: K, or one for each level, to check the codes against.
        taken: (M, L) published IDs, (M, L+1) for "suffix", of which none may move: no new ID is
            among them, and suffixes go on counting after theirs.

    Raises:
        ValueError: parts that do not fit each other, latents that are not finite, or more items
            than there are IDs.
    """
    codes = as_codes(codes)
    if method is None:
        method = "suffix" if latents is None or codebooks is None else "nearest"
    if method not in ("optimal", "nearest", "suffix"):
        raise ValueError(f"method must be 'optimal', 'nearest' or 'suffix', got {method!r}")
    if num_embeddings is not None:
        check_range(codes, level_sizes(num_embeddings, codes.shape[1]))
    width = codes.shape[1] + (method == "suffix")
    taken = np.empty((0, width), np.int64) if taken is None else as_codes(taken, "taken")
    if taken.shape[1] != width:
        raise ValueError(f"taken has {taken.shape[1]} codes an item, but method {method!r} gives "
                         f"{width}; resolve new items by the method of the published ones")
    if method == "suffix":
        resolved = _suffixed(codes, taken)
        moved = np.flatnonzero(resolved[:, -1])
    else:
        latents, codebooks = _checked_vectors(codes, latents, codebooks, taken, method)
        resolved = _moved(codes, latents, codebooks, taken, method == "optimal")
        moved = np.flatnonzero((resolved != codes).any(axis=1))
    return Resolution(resolved, moved,
                      collision_report(np.concatenate([taken[:, :codes.shape[1]], codes])),
                      collision_report(np.concatenate([taken, resolved])))


def _suffixed(codes, taken):
    """(N, L+1): a last column that counts within each ID in row order, on from the published."""
    keys = id_keys(np.concatenate([taken[:, :-1], codes]))
    ids = np.unique(keys, return_inverse=True)[1]
    first_free = np.zeros(int(ids.max()) + 1, np.int64)
    np.maximum.at(first_free, ids[:len(taken)], taken[:, -1] + 1)
    return np.column_stack([codes, first_free[ids[len(taken):]] + collision_ranks(codes)[0]])


def _checked_vectors(codes, latents, codebooks, taken, method):
    """Latents as an array (N, E) and codebooks as a list of float64 (K, E), or a clear error."""
    if latents is None or codebooks is None:
        raise ValueError(f"method {method!r} needs latents and codebooks; pass both, "
                         "or method='suffix'")
    latents = as_array(latents)
    codebooks = [as_array(codebook).astype(np.float64) for codebook in codebooks]
    if latents.ndim != 2 or len(latents) != len(codes):
        raise ValueError(f"latents must be ({len(codes)}, width), one row for each item, "
                         f"got shape {latents.shape}")
    if len(codebooks) != codes.shape[1]:
        raise ValueError(f"codes have {codes.shape[1]} levels, but there are {len(codebooks)} "
                         "codebooks; pass one (codes, width) array for each level")
    for level, codebook in enumerate(codebooks, start=1):
        if codebook.ndim != 2 or codebook.shape[1] != latents.shape[1]:
            raise ValueError(f"the codebook of level {level} must be (codes, {latents.shape[1]}), "
                             f"as wide as the latents, got shape {codebook.shape}")
        if not np.abs(codebook).max() < _FARTHEST:
            raise ValueError(f"the codebook of level {level} has values that are not finite, "
                             f"or above {_FARTHEST:g}; the model has diverged")
    sizes = [len(codebook) for codebook in codebooks]
    check_range(codes, sizes)
    check_range(taken, sizes, "taken")
    return latents, codebooks


def _moved(codes, latents, codebooks, taken, at_least_cost):
    """Resolution by moving to free codes: (N, L).

    In stages: every mover chooses a prefix with room, the first of each queue get a code there,
    the others choose again. A stage places somebody in every prefix that was chosen.
    """
    sizes = [len(codebook) for codebook in codebooks]
    top, roots, leaves = _numbered(np.concatenate([taken, codes]), sizes)
    held, ids, counts = np.unique(leaves, return_inverse=True, return_counts=True)
    published = np.zeros(len(held), bool)
    published[ids[:len(taken)]] = True
    roots, ids = roots[len(taken):], ids[len(taken):]                   # (N,), (N,)

    contested = np.flatnonzero(counts[ids] > 1)
    claims = np.zeros(len(codes), np.float32)           # squared distance to the code they have
    for rows in _blocks(contested, latents.shape[1]):
        claims[rows] = (_residuals(latents[rows], codebooks, codes[rows]) ** 2).sum(axis=1)
    queue = contested[np.lexsort((claims[contested], ids[contested]))]
    keeps = np.zeros(len(codes), bool)
    keeps[queue[run_starts(ids[queue])]] = True
    keeps[published[ids]] = False
    if at_least_cost:                   # the closest may leave, too, but where room is short they come first
        claims[keeps] = -1
        movers, held = contested, held[(counts == 1) | published]
    else:
        movers = contested[~keeps[contested]]

    resolved = codes.copy()
    while len(movers):
        prefixes, nodes = _prefixes_with_room(latents, codebooks, codes[movers, :-1], movers,
                                              roots[movers], top, held)
        queue = np.lexsort((claims[movers], nodes))
        starts = run_starts(nodes[queue])
        place = np.arange(len(queue)) - np.repeat(starts, np.diff(starts, append=len(queue)))
        low, high = _children(nodes[queue], sizes[-1], held)
        served = queue[place < sizes[-1] - (high - low)]
        rows, nodes = movers[served], nodes[served]
        last = _last_codes(latents, codebooks, prefixes[served], rows, nodes, held,
                           least_cost if at_least_cost else _serve_in_turn)
        resolved[rows] = np.column_stack([prefixes[served], last])
        held = np.sort(np.concatenate([held, nodes * sizes[-1] + last]))
        movers = np.delete(movers, served)
    return resolved


def _numbered(codes, sizes):
    """The first level that can fill up, and each row's node there and at the leaf: (N,), (N,).

    A node with as many leaves as there are items never gets full. The levels above such nodes
    only have to be told apart, which keeps the integers small however many levels there are.
    """
    room = math.prod(sizes)
    if room < len(codes):
        raise ValueError(f"{len(codes)} items cannot all differ among {room} possible IDs; "
                         "use method='suffix', or more codes or levels")
    top = len(sizes)
    while math.prod(sizes[top:]) < len(codes):
        top -= 1
    roots = np.unique(id_keys(codes[:, :top]), return_inverse=True)[1]
    if (int(roots.max()) + 1) * math.prod(sizes[top:]) >= 2 ** 63:
        raise ValueError(f"{len(codes)} items with {max(sizes)} codes a level are too many "
                         "to number; use method='suffix'")
    leaves = roots
    for level in range(top, len(sizes)):
        leaves = leaves * sizes[level] + codes[:, level]
    return top, roots, leaves


def _prefixes_with_room(latents, codebooks, prefixes, rows, nodes, top, held):
    """Where each mover goes: along its own prefix (m, L-1) as deep as there is room, from there
    to the nearest code with room, level by level. Also the nodes (m,) of these prefixes."""
    full = _full_nodes(held, [len(codebook) for codebook in codebooks[top:]])
    strayed = np.zeros(len(rows), bool)
    for level in range(top, prefixes.shape[1]):
        size, without_room = len(codebooks[level]), full[level - top]
        strayed |= np.isin(nodes * size + prefixes[:, level], without_room)
        for some in _blocks(np.flatnonzero(strayed), size):
            residuals = _residuals(latents[rows[some]], codebooks, prefixes[some, :level])
            distances = _squared_distances(residuals, codebooks[level])
            distances[_occupied(nodes[some], size, without_room)] = np.inf
            prefixes[some, level] = distances.argmin(axis=1)
        nodes = nodes * size + prefixes[:, level]
    return prefixes, nodes


def _full_nodes(held, sizes):
    """Nodes of which every leaf is held: an ascending array for each level but the last."""
    full, nodes = [], held
    for size in reversed(sizes[1:]):
        nodes = nodes // size
        starts = run_starts(nodes)
        nodes = nodes[starts[np.diff(starts, append=len(nodes)) == size]]
        full.append(nodes)
    return full[::-1]


def _last_codes(latents, codebooks, prefixes, rows, nodes, held, serve):
    """The last codes (m,) of movers sorted by node and by place in its queue; all have room."""
    last, size = np.empty_like(rows), len(codebooks[-1])
    for some in _whole_nodes(nodes, size):
        residuals = _residuals(latents[rows[some]], codebooks, prefixes[some])
        distances = _squared_distances(residuals, codebooks[-1])
        distances[_occupied(nodes[some], size, held)] = np.inf
        last[some] = serve(distances, nodes[some])
    return last


def _serve_in_turn(distances, nodes):
    """Each row takes the nearest code that no earlier row of its node took: (m, K) -> (m,).

    All propose at once, a code keeps the earliest, and whoever is turned away proposes to the
    next code. This deferred acceptance (Gale and Shapley 1962) ends as the queue would.
    """
    count, size = distances.shape
    # The bits of a float32 of 0 or more sort as it does: one sort by distance and then by code.
    keys = distances.view(np.int32).astype(np.int64) << 32 | np.arange(size)
    keys.sort(axis=1)
    group = np.searchsorted(nodes[run_starts(nodes)], nodes)
    holder = np.full((int(group[-1]) + 1) * size, count)
    slot, tries = np.empty(count, np.int64), np.zeros(count, np.int64)
    rejected = np.arange(count)
    while len(rejected):
        code = keys[rejected, tries[rejected]] & 0xffffffff
        tries[rejected] += 1
        slot[rejected] = wanted = group[rejected] * size + code
        ousted = holder[wanted]
        np.minimum.at(holder, wanted, rejected)
        rivals = np.unique(np.concatenate([rejected, ousted[ousted < count]]))
        rejected = rivals[holder[slot[rivals]] != rivals]
    return slot % size


def _residuals(latents, codebooks, codes):
    """z minus the vectors of its codes on as many levels as are given: (m, E) float64."""
    residuals = latents.astype(np.float64)
    for level, codebook in zip(codes.T, codebooks):
        residuals -= codebook[level]
    if not np.abs(residuals).max() < _FARTHEST:
        raise ValueError(f"latents have values that are not finite, or above {_FARTHEST:g}; "
                         "look for them in the features")
    return residuals


def _squared_distances(residuals, codebook):
    """(m, E), (K, E) -> (m, K) float32, of 0 or more.

    Summed in float64, which the difference of large squares needs, and then rounded, so that
    what differs by the order of summation alone is equal and ties are ties.
    """
    distances = residuals @ codebook.T
    distances *= -2
    distances += (codebook ** 2).sum(axis=1)
    distances += (residuals ** 2).sum(axis=1)[:, None]
    return np.maximum(distances, 0, out=distances).astype(np.float32) + np.float32(0)   # no -0


def _children(nodes, size, keys):
    """Where in the ascending `keys` the children of each node begin and end: (m,), (m,)."""
    return np.searchsorted(keys, nodes * size), np.searchsorted(keys, (nodes + 1) * size)


def _occupied(nodes, size, keys):
    """The pairs (row, code) of all children of `nodes` (m,) that are among the ascending `keys`."""
    low, high = _children(nodes, size, keys)
    rows = np.repeat(np.arange(len(nodes)), high - low)
    ends = np.cumsum(high - low)
    children = keys[np.arange(len(rows)) + np.repeat(high - ends, high - low)]
    return rows, children - nodes[rows] * size


def _blocks(rows, width):
    """`rows` in blocks that, `width` numbers each, hold about _NUMBERS_AT_ONCE."""
    step = max(1, _NUMBERS_AT_ONCE // width)
    return (rows[start:start + step] for start in range(0, len(rows), step))


def _whole_nodes(nodes, width):
    """Slices of the sorted `nodes` that, `width` numbers each, hold about _NUMBERS_AT_ONCE, and no node in part."""
    ends, start = np.append(run_starts(nodes)[1:], len(nodes)), 0
    while start < len(nodes):
        far = np.searchsorted(ends, start + max(1, _NUMBERS_AT_ONCE // width))
        stop = int(ends[min(far, len(ends) - 1)])
        yield slice(start, stop)
        start = stop
