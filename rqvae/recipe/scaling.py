"""Where features lie and how far they spread, whatever single rows and columns say; and which those are.

Shapes:  N rows   D feature width
"""

import math
from typing import NamedTuple

import torch

from ..functional import draw_in, row_lengths, within

FAR_COLUMN = 30.0       # times the scale of the typical column: beyond it a column is of other units
REACH = 4.0             # times the distance of the typical row from the middle: beyond it rows are drawn in
FAR_ROW = 10.0          # times that distance: a row to speak of
TRIMMED = 0.01          # share of the numbers of a column that its scale does not hear
BELOW = 0.99            # so much of it, by a length that was rounded
ROWS_PER_CHUNK = 4096
LISTED = 8              # row and column numbers in a sentence


class Scaling(NamedTuple):
    """What the buffers of a robust `RqVae` hold: a row x becomes draw_in((x - mean) / scale / columns, reach)."""

    mean: torch.Tensor          # (D,)
    scale: torch.Tensor         # ()
    columns: torch.Tensor       # (D,)  1 for a column of the common scale
    reach: torch.Tensor         # ()
    farthest: torch.Tensor      # ()    length of the longest row after drawing in


def robust_scaling(features) -> Scaling:
    """Mean and one scale of (N, D) rows as they are where nothing is unusual, else of the rows drawn in and the
    columns balanced."""
    middle = features.median(dim=0).values                          # (D,)
    spreads = _spreads(features - middle)                           # (D,)
    some = spreads[spreads > 0]
    if not len(some):                                               # all rows are equal, or all but a few
        one = torch.ones_like(middle)
        far = one[0] * torch.finfo(torch.float32).max
        return Scaling(features.mean(dim=0), one[0], one, far, far)
    typical = some.median()
    columns = torch.where(spreads > FAR_COLUMN * typical, spreads / typical, 1.0)
    rows = (features - middle) / typical / columns                  # of numbers near 1, whose squares are safe
    lengths = row_lengths(rows)                                     # (N, 1)
    reach = REACH * lengths[lengths > 0].median()
    rows = rows / (lengths / reach).clamp_min(1.0)
    mean = rows.double().mean(dim=0)
    scale = (rows - mean).square().mean().sqrt()
    found = Scaling(*(value.to(features.dtype) for value in (
        middle + mean * columns.double() * typical, scale * typical, columns, reach / scale, reach)))
    drawn = draw_in((features - found.mean) / found.scale / columns, found.reach)
    return found._replace(farthest=row_lengths(drawn).max().clamp_min(found.reach))


def parts_scaling(features, widths, weights=None):
    """`Scaling` of (N, D) rows that are several embeddings side by side, NaN where a row lacks one, and (D,) scales
    that give each its share of the variance: the same, or in proportion to the weights."""
    weights = [1.0] * len(widths) if weights is None else weights
    found = []
    for part in features.split(widths, dim=1):
        there = part[~part.isnan().any(dim=1)]
        found.append(robust_scaling(there) if len(there) else robust_scaling(torch.zeros_like(part[:1])))
    scale = torch.stack([part.scale for part in found]).mean()
    share = [weight / sum(weights) * sum(widths) / width for weight, width in zip(weights, widths)]
    scales = torch.cat([(part.scale / scale / value ** 0.5).expand(width)
                        for part, value, width in zip(found, share, widths)])
    mean, columns = (torch.cat([getattr(part, name) for part in found]) for name in ("mean", "columns"))
    rows = ((features - mean) / scale / scales / columns).nan_to_num(0.0)
    lengths = row_lengths(rows)
    some = lengths[lengths > 0]             # none, where all rows are equal
    reach = REACH * some.median() if len(some) else scale * 0 + torch.finfo(features.dtype).max
    farthest = row_lengths(draw_in(rows, reach)).max().clamp_min(reach)
    return Scaling(mean, scale, columns, reach, farthest), scales


def plain_scaling(features):
    """Mean (D,) and one scale () of (N, D) rows, all of which count alike."""
    mean = features.mean(dim=0)
    scale = (features - mean).double().square().mean().sqrt().to(features.dtype)
    return mean, scale if scale > 0 else torch.ones_like(scale)


def attainable_error(variances, rest, bits) -> float:
    """The least error that so many bits an item can leave of it, as a share of its length: near 0 where items spread
    over few directions, .3 to .7 for sentence embeddings and 24 bits.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, section 10.3.3).

    Args:
        variances: (E,) along the principal directions.
        rest: () the variance outside of them.
        bits: of an ID.
    """
    total = variances.sum() + rest
    kept = variances[variances > 1e-12 * total].double().sort(descending=True).values
    if not len(kept):
        return 0.0
    counts = torch.arange(1, len(kept) + 1, device=kept.device)
    # The level of the water if the first n directions stand out of it; the most that do are those that do.
    water = (kept.log2().cumsum(0) - 2 * bits) / counts
    standing = int((kept.log2() > water).sum())
    left = kept.clamp_max(water[standing - 1].exp2()).sum() + rest.clamp_min(0)
    return (left / total).sqrt().item()


def unusual(model, rows_of, count, longest=math.inf) -> list:
    """A sentence for each thing that a robust model does to the data: to columns of another scale, to rows far out.

    Args:
        model: an `RqVae` with robust, initialised.
        rows_of: gives the (B, D) features of a slice of rows.
        count: N.
        longest: at least the length of the longest row. Where none can be far out by it, no row is read.
    """
    columns = (model.column_scale > 1).nonzero()[:, 0].tolist()
    border = draw_in(model.reach[None, None] * FAR_ROW / REACH, model.reach)[0, 0]
    far = []
    standardized = (longest + row_lengths(model.feature_mean[None])) / model.feature_scale
    nowhere = not model.parts and bool(standardized < BELOW * model.reach * FAR_ROW / REACH)
    for start in range(0, 0 if nowhere else count, ROWS_PER_CHUNK):
        rows = rows_of(slice(start, start + ROWS_PER_CHUNK)).to(model.reach.device)
        inputs = model.standardized(rows)
        if within(inputs, border):
            continue
        lengths = row_lengths(inputs)[:, 0]
        far += (start + (lengths > border).nonzero()[:, 0]).tolist()
    said = []
    if columns:
        more = model.column_scale[columns].min().item()
        said.append(f"{len(columns)} of {len(model.column_scale)} columns ({_listed(columns)}) have a scale of their "
                    f"own, {more:.3g} times that of the typical column or more; so that they do not outweigh all "
                    "others, they are brought to the typical scale; --no-robust takes them as they are")
    if 0 < len(far) < count / 3:            # else no row is typical
        said.append(f"{len(far)} of {count} rows ({_listed(far)}) lie more than {FAR_ROW:.0f} times as far out as the "
                    "typical row; are they not normalised, or damaged? So that they do not outweigh all others, they "
                    "are drawn in; --no-robust takes them as they are")
    return said


def _spreads(distances):
    """(D,) root mean square of each column, its largest numbers cut to where they begin; safe for all that float32
    holds."""
    distances = distances.abs()
    count = len(distances)
    spared = max(1, int(TRIMMED * count)) if count >= 20 else 0
    caps = distances.kthvalue(count - spared, dim=0).values         # (D,)
    caps = torch.where(caps > 0, caps, distances.amax(dim=0))       # all but a few are equal: the few tell
    cut = torch.minimum(distances, caps) / torch.where(caps > 0, caps, 1.0)
    return caps * cut.square().mean(dim=0).sqrt()


def _listed(numbers):
    return ", ".join(map(str, numbers[:LISTED])) + (", ..." if len(numbers) > LISTED else "")
