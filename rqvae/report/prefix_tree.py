"""Semantic IDs and names -> the tree of their prefixes, as HTML of bounded size. Knows no model.

Shapes:  N items   L levels
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..storage.words import counted
from .charts import bar, escaped, evenly

FIRST_CODES, SUB_PREFIXES, NAMES = 24, 8, 6     # how much of the tree is shown
LONGEST = 90            # characters of a name


class Tree(NamedTuple):
    codes: np.ndarray       # (N, L)
    order: np.ndarray       # (N,) rows by ID
    starts: list            # for each prefix length, where in `order` a new prefix begins
    names: list             # by row, or None


def id_order(codes):
    """`order` and `starts` of a Tree."""
    order = np.lexsort(codes.T[::-1])
    new, starts = np.zeros(len(codes), bool), []
    new[0] = True
    for level in codes.T:
        ordered = level[order]
        new[1:] |= ordered[1:] != ordered[:-1]
        starts.append(np.flatnonzero(new))
    return order, starts


def first_codes(tree) -> str:
    groups, rest = _largest_groups(tree, 0, (0, len(tree.order)), FIRST_CODES)
    blocks = []
    for begin, end in groups:
        preview = ", ".join(_name(tree, place) for place in evenly(begin, end, 3))
        inside = _sub_prefixes(tree, (begin, end)) if len(tree.starts) > 1 else \
            f"<div>{_items(tree, (begin, end), SUB_PREFIXES * NAMES)}</div>"
        blocks.append(
            f'<details class="code"{"" if blocks else " open"}><summary>'
            f"<b>{_prefix(tree, begin, 1)}</b>{bar((end - begin) / (groups[0][1] - groups[0][0]))}"
            f'<span>{counted(end - begin, "item")}</span><span class="preview">{preview}</span>'
            f'</summary><div class="groups">{inside}</div></details>')
    words = "The first codes that most items have, and a few of their items, taken evenly."
    if len(tree.starts) > 1:
        words += " Open one for the groups that its second codes make."
    if len(tree.starts) > 2:
        words += " A number before a name completes its ID; ×3 means that three items have it."
    return f'<p class="soft">{words}</p>{"".join(blocks)}{_more(rest, "first code")}'


def _sub_prefixes(tree, bounds) -> str:
    groups, rest = _largest_groups(tree, 1, bounds, SUB_PREFIXES)
    return "".join(
        f'<div><h3><b>{_prefix(tree, begin, 2)}</b><span class="soft">'
        f'{counted(end - begin, "item")}</span></h3>{_items(tree, (begin, end), NAMES)}</div>'
        for begin, end in groups) + _more(rest, "second code")


def _largest_groups(tree, level, bounds, limit):
    """`(begin, end)` in `order` of the largest groups between bounds, and the numbers left out."""
    starts = tree.starts[level]
    starts = starts[slice(*np.searchsorted(starts, bounds))]
    sizes = np.diff(starts, append=bounds[1])
    largest = np.argsort(-sizes, kind="stable")[:limit]
    groups = [(int(starts[group]), int(starts[group] + sizes[group])) for group in largest]
    return groups, (len(sizes) - len(groups), int(sizes.sum() - sizes[largest].sum()))


def _items(tree, bounds, limit) -> str:
    """Items of a group, in the order of their IDs, with the codes that tell them apart."""
    ends = tree.starts[-1]
    lines = []
    for place in evenly(*bounds, limit):
        rest = " ".join(map(str, tree.codes[tree.order[place], 2:]))
        id_ = np.searchsorted(ends, place, "right")
        alike = (ends[id_] if id_ < len(ends) else len(tree.order)) - ends[id_ - 1]
        shared = f' <span class="soft" title="{alike:,} items share this ID">×{alike:,}</span>'
        lines.append(f'<li>{f"<code>{rest}</code>" if rest else ""}<span>{_name(tree, place)}'
                     f'{shared if rest and alike > 1 else ""}</span></li>')
    more = bounds[1] - bounds[0] - len(lines)
    if more:
        lines.append(f'<li class="soft">and {more:,} more</li>')
    return f'<ul>{"".join(lines)}</ul>'


def _prefix(tree, place, length) -> str:
    return " ".join(map(str, tree.codes[tree.order[place], :length]))


def _name(tree, place) -> str:
    """An item's name, kept apart from the direction in which the text around it is read."""
    row = int(tree.order[place])
    name = "" if tree.names is None else escaped(tree.names[row] or "", LONGEST)
    return f"<bdi>{name}</bdi>" if name else f"row {row}"


def _more(rest, noun) -> str:
    groups, items = rest
    return f'<p class="soft">and {counted(groups, f"more {noun}")} with ' \
           f'{counted(items, "item")}</p>' if groups else ""
