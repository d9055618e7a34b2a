"""What a model and its semantic IDs are worth, in a few lines that a person can read."""

import torch

from .console import percent, table

COLLAPSED = 0.5         # a level that uses less than this share of its codes has collapsed


def summary(statistics, collisions, relative_mse=None) -> str:
    """The figures of a tokenizer as text.

    Args:
        statistics: of `evaluation.code_statistics`.
        collisions: of `collision_report`.
        relative_mse: reconstruction error over the variance of the features, if known.
    """
    levels = zip(statistics["unique_codes_per_level"], statistics["usage_rate_per_level"],
                 statistics["perplexity_per_level"])
    lines = []
    if relative_mse is not None:
        lines.append(f"reconstruction error: {relative_mse:.3f} of the features' variance "
                     "(0 is perfect, 1 is no better than the mean)")
    lines.append(table(
        ["level", "codes used", "of", "perplexity"],
        [[level, used, round(used / rate) if rate else "?", f"{evenness:.1f}"]
         for level, (used, rate, evenness) in enumerate(levels, start=1)]))
    lines.append(
        f"collision rate: {percent(collisions['collision_rate'])} ({collisions['items']:,} items, "
        f"{collisions['distinct_ids']:,} distinct IDs, at most {collisions['largest_collision']:,} items share one)")
    if collisions.get("unavoidable_collisions"):
        lines.append(f"of these, {collisions['unavoidable_collisions']:,} items have exactly the features of another: "
                     "no tokenizer can tell them apart")
    return "\n".join(lines)


def collapse_advice(statistics, advice) -> list:
    """A sentence for each level that uses few of its codes, with what to change; empty if all is well."""
    return [
        f"level {level} has collapsed: {used} of {round(used / rate)} codes are used, so its code says "
        f"{'nothing' if used == 1 else 'little'} about an item; {advice}"
        for level, (used, rate) in enumerate(
            zip(statistics["unique_codes_per_level"], statistics["usage_rate_per_level"]), start=1)
        if rate < COLLAPSED
    ]


def shared_prefixes(codes, names=None, *, groups=4, members=4) -> str:
    """A few items that share all but the last code (with one level, the code), to be judged by eye.

    Args:
        codes: (N,) or (N, L) int64.
        names: of the items, in row order; their row numbers if None.
        groups: how many prefixes, taken evenly over those that at least two items share.
        members: how many items of each.
    """
    codes = codes.reshape(len(codes), -1)
    prefixes = codes[:, :max(1, codes.shape[1] - 1)]
    distinct, group_of, sizes = prefixes.unique(dim=0, return_inverse=True, return_counts=True)
    shared = (sizes >= min(3, int(sizes.max()))).nonzero()[:, 0]
    if sizes.max() < 2:
        return "no two items share a prefix"
    shown = shared[torch.linspace(0, len(shared) - 1, min(groups, len(shared))).round().long()]
    lines = ["items that share a prefix:"]
    for group in shown.tolist():
        rows = (group_of == group).nonzero()[:, 0].tolist()
        prefix = " ".join(map(str, distinct[group].tolist()))
        lines.append(f"  {prefix}  ({len(rows):,} items)")
        for row in rows[:members]:
            lines.append(f"      {' '.join(map(str, codes[row].tolist())):<14} {names[row] if names else f'row {row}'}")
    return "\n".join(lines)
