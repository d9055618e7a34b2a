"""What a model and its semantic IDs are worth, in lines that a person can read. Measures nothing.

Shapes:  N items   L levels
"""

from __future__ import annotations

import math
import textwrap

import numpy as np
import torch

from ..collisions import collision_report, id_keys, run_starts
from ..storage.words import counted, shown
from .assessment import QUESTIONS, Measure, codes_of, per_level, usable_codes
from .words import percent, sizes_in_words, table

RETRAIN_FROM = 1.25     # times the error of held-out items; a judgement: far above chance, far below another catalogue
COLLAPSED = 0.5         # a level that uses less than this share of its codes has collapsed


def report_text(measures) -> str:
    """Measures as lines for a terminal: by question, each beside what is healthy, and at the end what to change."""
    rows = table(["", "here", "healthy", "verdict"],
                 [[f"  {m.label}", m.value, m.healthy, m.verdict] for m in measures])
    header, *rows = rows.split("\n")
    lines, question = [header], None
    for measure, row in zip(measures, rows):
        if measure.question != question:
            question = measure.question
            title, words = QUESTIONS[question]
            lines += ["", title, textwrap.fill(words, 98, initial_indent="  ", subsequent_indent="  ")]
        lines.append(row)
    changes = what_to_change(measures)
    if changes:
        lines += ["", "What to change", *(f"  {change}" for change in changes)]
    return "\n".join(lines)


def what_to_change(measures) -> list:
    """A line for each remedy, and behind it what it is for."""
    missed = {}
    for measure in measures:
        if measure.remedy:
            missed.setdefault(measure.remedy, []).append(measure.label)
    return [f"{remedy} ({'; '.join(labels)})" for remedy, labels in missed.items()]


def report_rows(measures) -> list:
    """The same for `page.write_page`."""
    rows, question = [], None
    for measure in measures:
        if measure.question != question:
            question = measure.question
            rows.append(QUESTIONS[question])
        rows.append((measure.label, measure.value, measure.healthy, measure.verdict))
    changes = what_to_change(measures)
    return rows + ([("What to change", changes)] if changes else [])


def resolution_text(resolution, items, cost=None, published=0) -> str:
    """What resolving collisions did.

    Args:
        resolution: of `resolve_collisions`.
        items: N, of those that got IDs.
        cost: of `assessment.resolving_cost`; None for a suffix.
        published: M, of those that had IDs before.
    """
    before, after = (percent(report["collision_rate"]) for report in (resolution.before, resolution.after))
    moved = f"{len(resolution.moved):,} of {counted(items, 'item')}"
    lines = [f"made unique: collision rate {before} before, {after} after" + (
        f", the {counted(published, 'published item')} included" if published else "")]
    if cost is None:
        lines.append(f"  each ID has one more number; it is above 0 for {moved}")
    elif cost < 5e-5:
        lines.append(f"  {moved} moved to a free ID near by, which costs no reconstruction error")
    else:
        lines.append(f"  {moved} moved to a free ID near by, at the price of {cost:.4f} more reconstruction error "
                     "(a share of the features' variance)")
    return "\n".join(lines)


def kept_words(old, new) -> str:
    """How many published items (N, L) find their published codes (N, L) by themselves."""
    same = np.asarray(old) == np.asarray(new)
    return (f"published items that find their ID by themselves: {percent(same.all(axis=1).mean())} of {len(same):,}; "
            f"their first code: {percent(same[:, 0].mean())}")


def holding_text(kept, chosen, held_error, free_error) -> str:
    """What it costs that published items keep their IDs; arguments as of `assessment.holding_cost`, and its result."""
    same = (np.asarray(kept) == np.asarray(chosen))
    # "-" of items all alike.
    held, free = ("-" if math.isnan(error) else f"{error:.4f}" for error in (held_error, free_error))
    return (f"holding on to published IDs: error {held} of the {counted(len(same), 'published item')} under the IDs "
            f"they keep, {free} under those that this model would choose; {percent(same.all(axis=1).mean())} would "
            f"choose the same, {percent(same[:, 0].mean())} the same first code")


def comparison_text(found, new, old) -> str:
    """`comparison.compare_ids` as lines; `new` and `old` are the two files."""
    header = ["of the items in both", "same as before", "under the best names", "pairs that shared it and still do"]
    return (f"{shown(new)} against {shown(old)}: "
            f"{counted(found['common'], 'item')} in both, {found['new']:,} new, {found['gone']:,} gone\n"
            + table(header, _what_is_left(found))
            + "\nRenaming codes changes no pair: what the last column lacks has really changed.")


def comparison_measures(found) -> list:
    """`comparison.compare_ids` for a page: a list of `assessment.Measure`."""
    return [Measure("left", "items in both, new and gone",
                    f"{found['common']:,} / {found['new']:,} / {found['gone']:,}"),
            *(Measure("left", f"same {name}", " / ".join(shares)) for name, *shares in _what_is_left(found))]


def _what_is_left(found):
    """For each beginning of an ID: its name and, in words, the shares that stayed as they are, under other names, and
    together."""
    shares = zip(found["kept"], found["kept_renamed"], found["neighbours"])
    return [[name, *("-" if math.isnan(share) else percent(share) for share in row)]
            for name, row in zip(_beginnings(len(found["kept"])), shares)]


def arrival_measures(found) -> list:
    """`comparison.compare_new` as a list of `assessment.Measure`."""
    names = _beginnings(len(found["known"]) + 1)
    return [*(Measure("arrived",
                      f"under a {name} of published items" if not place else f"under {name} of published items",
                      f"{percent(now)} ({percent(then)})")
              for place, (name, now, then) in enumerate(zip(names, found["known"], found["known_published"]))),
            Measure("arrived", "on the least used first codes",
                    f"{percent(found['rare'])} ({percent(found['rare_published'])})"),
            Measure("arrived", "ID is another item's, before they are told apart", percent(found["shared"]))]


def _beginnings(levels):
    return [*(f"first {length} codes" if length > 1 else "first code" for length in range(1, levels)), "whole ID"]


def freshness_text(error, then) -> str:
    """Whether new items fare as new items did when the model was trained, and whether a retraining pays; "" if unknown.

    Args:
        error: mean squared error of the new items, an element.
        then: the same of the items held out in training.
    """
    if not then or not error == error:
        return ""
    times = f"the error of new items is {error / then:.2f} times that of the items held out when the model was trained"
    if error <= RETRAIN_FROM * then:
        return (f"{times}: they fare as new items did then, and nothing asks for a retraining "
                f"(from {RETRAIN_FROM} times on)")
    return (f"WARNING: {times}; from {RETRAIN_FROM} times on a retraining pays, which keeps what is published: "
            "train --from CHECKPOINT --keep IDS --data ALL")


def prefix_table(codes) -> str:
    """How the items divide by the first code, the first two, ..., the whole ID (N, L)."""
    codes = torch.as_tensor(codes).reshape(len(codes), -1)
    rows = []
    for length, name in enumerate(_beginnings(codes.shape[1]), start=1):
        found = collision_report(codes[:, :length])
        rows.append([name, f"{found['distinct_ids']:,}", f"{found['colliding_items']:,}",
                     percent(found["colliding_items"] / found["items"]), f"{found['largest_collision']:,}"])
    return table(["how items divide by the", "groups", "items that share one", "of all", "largest group"], rows)


def summary(statistics, collisions, relative_mse=None, robust=None) -> str:
    """The figures of a tokenizer as text.

    Args:
        statistics: of `evaluation.code_statistics`.
        collisions: of `collision_report`.
        relative_mse: reconstruction error over the variance of the features, if known.
        robust: the same with what lies far out drawn in, where there is such.
    """
    lines = []
    if robust is not None and f"{robust:.3f}" != f"{relative_mse:.3f}":
        lines.append(f"reconstruction error: {robust:.3f} of the features' variance (0 is perfect, 1 is no better "
                     f"than the mean),\n  with what lies far out drawn in; {relative_mse:.3f} as they are, where few "
                     "rows or columns have most of the variance")
    elif relative_mse is not None and math.isnan(relative_mse):
        lines.append("reconstruction error: none to speak of, as all items have the same features")
    elif relative_mse is not None:
        lines.append(f"reconstruction error: {relative_mse:.3f} of the features' variance "
                     "(0 is perfect, 1 is no better than the mean)")
    lines.append(table(
        ["level", "codes used", "of", "perplexity"],
        [[level, used, codes_of(used, rate) if rate else "?", f"{evenness:.1f}"]
         for level, (used, rate, evenness) in enumerate(per_level(statistics), start=1)]))
    shared = (f"{counted(collisions['distinct_ids'], 'distinct ID')}, "
              f"at most {collisions['largest_collision']:,} items share one")
    lines.append(f"collision rate: {percent(collisions['collision_rate'])} ({counted(collisions['items'], 'item')}, "
                 f"{shared if collisions['largest_collision'] > 1 else 'no two share an ID'})")
    same = collisions.get("unavoidable_collisions")
    if same:
        lines.append(f"  of which {percent(same / collisions['items'])} for {counted(same, 'item')} with exactly the "
                     "features of an earlier one: no tokenizer can tell them apart")
    return "\n".join(lines)


def collapse_advice(statistics, advice, *, items=None) -> list:
    """A sentence for each level that uses few of its codes, with what to change; one for all where all do.

    Args:
        statistics: of `evaluation.code_statistics`.
        advice: what to change.
        items: how many they are of, where so few that they could not use all codes; or, for each level, how many the
            levels before had not told apart (`assessment.unsettled`), as only those have use for its codes.
    """
    levels = [(level, used, codes_of(used, rate))
              for level, (used, rate, _) in enumerate(per_level(statistics), start=1)]
    items = items if isinstance(items, list) else [items] * len(levels)
    collapsed = [(level, used, codes) for (level, used, codes), some in zip(levels, items)
                 if used < COLLAPSED * (codes if some is None else usable_codes(codes, some))]
    if 1 < len(collapsed) == len(statistics["usage_rate_per_level"]):
        counts = ", ".join(str(used) for _, used, _ in collapsed)
        sizes = sizes_in_words([codes for _, _, codes in collapsed])
        says = "nothing" if all(used == 1 for _, used, _ in collapsed) else "little"
        return [f"all {len(collapsed)} levels have collapsed: {counts} of {sizes} codes are used, so an ID says "
                f"{says} about its item; {advice}"]
    return [f"level {level} has collapsed: {used} of {codes} codes are used, so its code says "
            f"{'nothing' if used == 1 else 'little'} about an item; {advice}" for level, used, codes in collapsed]


def foreign_words(error) -> str:
    """What an error of `assessment.foreign_error` above FOREIGN means."""
    return (f"these are other features than the model's: rebuilt from their IDs they miss by {error:.2f} of the "
            "variance (1 is saying the mean each time), so the IDs mean nothing. Give features of the same encoder, "
            "columns and scale as in training")


def shared_prefixes(codes, names=None, *, groups=4, members=4, published=0) -> str:
    """A few items that share all but the last code, or as many as items do (with one level, the code), to be judged by
    eye.

    Args:
        codes: (N,) or (N, L) int64.
        names: of the items, in row order; their row numbers if None.
        groups: how many prefixes, taken evenly over those that at least two items share.
        members: how many items of each.
        published: the first so many were published before, and prefixes are wanted that one of the others has.
    """
    codes = np.asarray(codes).reshape(len(codes), -1)
    # Few items may have no more than their first code in common.
    for length in range(max(1, codes.shape[1] - 1), 0, -1):
        keys = id_keys(codes[:, :length])
        ordered = np.sort(keys)
        starts = run_starts(ordered)
        sizes = np.diff(starts, append=len(keys))
        if published:
            sizes = np.where(np.isin(ordered[starts], keys[published:]), sizes, 0)
        if sizes.max() >= 2:
            break
    else:
        return "no new item shares its prefix with another" if published else "no two items share a prefix"
    shared = np.flatnonzero(sizes >= min(3, sizes.max()))
    chosen = shared[np.linspace(0, len(shared) - 1, min(groups, len(shared))).round().astype(np.int64)]
    lines = ["new items and those that share their prefix:" if published else "items that share a prefix:"]
    for group in chosen:
        rows = np.flatnonzero(keys == ordered[starts[group]])
        prefix = " ".join(map(str, codes[rows[0], :length].tolist()))
        added = f", {(rows >= published).sum():,} new" if published else ""
        lines.append(f"  {prefix}  ({len(rows):,} items{added})")
        for row in np.roll(rows, (rows >= published).sum() if published else 0)[:members].tolist():     # new ones first
            mark = "new: " if published and row >= published else ""
            lines.append(f"      {' '.join(map(str, codes[row].tolist())):<14} {mark}"
                         f"{shown(names[row]) if names else f'row {row}'}")
        if len(rows) > members:
            lines.append(f"      and {len(rows) - members:,} more")
    return "\n".join(lines)
