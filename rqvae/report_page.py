"""A training run and its semantic IDs -> one HTML page that opens offline. Knows no model.

Everything on it is drawn here, without scripts: what comes from the data stands as escaped text in
HTML, and its charts are SVG that stretches with the page while their labels, being HTML, keep their
size. Each chart's numbers are in a table. The size is bounded for any number of items and epochs.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import html
import math
import re
from typing import NamedTuple

import numpy as np

from .files import write_atomically

VERDICTS = ("good", "fair", "poor", "")
FIRST_CODES, SUB_PREFIXES, NAMES = 24, 8, 6     # how much of the prefix tree is shown
LONGEST = 90            # characters of a name
TABLE_ROWS = 40         # epochs in the table
CURVE_BUCKETS = 200     # stretches of a long curve, each drawn by two points
STRIPS = 64             # places of a chart that answer the pointer
LOG_SPAN = 30           # a curve whose values differ by more than this factor gets a log scale
CLIP = 4                # top of the charts of use, times the even number of items

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_STYLE = """
:root{color-scheme:light;--paper:#f6f6f4;--card:#fff;--ink:#1b2026;--soft:#59626c;--line:#e0e3e6;
--grid:#ebedef;--accent:#1f5fae;--fill:#d3e2f4;--good:#1a7a45;--fair:#8f5b00;--poor:#b8322a;
--c0:#1f4fa3;--c1:#0b8580;--c2:#bd6f08;--c3:#b23a74;--c4:#6d4bc1;--c5:#6b7780}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--paper:#12151a;
--card:#1a1f25;--ink:#e7eaed;--soft:#a2acb6;--line:#2f363e;--grid:#282f36;--accent:#78b0f2;
--fill:#26425f;--good:#5cc98d;--fair:#e3ae4d;--poor:#f28b82;--c0:#7fb2ff;--c1:#45c9c0;--c2:#f0b458;
--c3:#f08fbb;--c4:#b69cf5;--c5:#a9b4be}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem clamp(1rem,4vw,2.5rem) 4rem;max-width:72rem;
background:var(--paper);color:var(--ink);overflow-wrap:anywhere;
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:clamp(1.5rem,1.2rem + 1.6vw,2.1rem);line-height:1.2;margin:.5rem 0}
h2{font-size:1.3rem;margin:3rem 0 .25rem}h3{font-size:1rem;margin:0}
p{margin:.25rem 0 1rem;max-width:52rem}.soft,caption,.tiles dt,.healthy{color:var(--soft)}
a{color:var(--accent)}nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.9rem}
summary{cursor:pointer}:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.tiles>div,figure,.table,.code{background:var(--card);border:1px solid var(--line);
border-radius:.6rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13rem),1fr));gap:.75rem;
margin:1.5rem 0 0}
.tiles>div{padding:.8rem 1rem;position:relative}.tiles dt{font-size:.875rem;padding-right:3.2rem}
.tiles dd{margin:0}.value{font-size:1.5rem;font-weight:650;line-height:1.3}
.healthy{font-size:.8125rem}.verdict{position:absolute;top:.8rem;right:1rem;font-size:.75rem;
font-weight:650;border:1px solid;border-radius:1rem;padding:0 .5rem}
.good{color:var(--good)}.fair{color:var(--fair)}.poor{color:var(--poor)}
.charts{display:grid;gap:.75rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,var(--least,21rem)),1fr))}
.small{--least:17rem}figcaption p{font-size:.875rem;margin:0}
figure{margin:0;padding:1rem;display:flex;flex-direction:column;justify-content:space-between}
.plot{position:relative;height:11.5rem;margin:1rem 4.4rem 1.4rem 3.2rem}
.thin{grid-column:1/-1}.thin .plot{height:4rem}.small .plot{margin-right:2.4rem;height:9rem}
.plot svg{display:block;width:100%;height:100%;overflow:visible}.small svg{overflow:hidden}
.plot span{position:absolute;font-size:.75rem;line-height:1rem;color:var(--soft);
white-space:nowrap;font-variant-numeric:tabular-nums}
.plot .y{right:100%;transform:translateY(-50%);padding-right:.5rem}
.plot .x{top:100%;transform:translateX(-50%);padding-top:.35rem}
.plot .axis{top:100%;right:100%;padding:.35rem .5rem 0 0}
.plot .end{left:100%;transform:translateY(-50%);padding-left:.45rem;color:var(--c)}
path{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round;
vector-effect:non-scaling-stroke}
.area{fill:var(--fill);stroke-width:1.5}.grid{stroke:var(--grid);stroke-width:1}
.dot{stroke-width:7}.mark{stroke-dasharray:4 4;stroke-width:1.25}
.hit{fill:var(--ink);opacity:0}.hit:hover{opacity:.1}
.table{overflow-x:auto;margin:.75rem 0}table{border-collapse:collapse;width:100%;font-size:.875rem;
font-variant-numeric:tabular-nums;overflow-wrap:normal}caption{text-align:left;padding:.6rem .9rem}
th,td{padding:.4rem .9rem;text-align:right;border-top:1px solid var(--line);font-weight:400;
white-space:nowrap}
thead th{color:var(--soft)}th:first-child{text-align:left}
.bar{display:block;height:.7rem;width:100%;min-width:4rem;background:var(--grid)}
.bar rect{fill:var(--accent)}.share{display:flex;align-items:center;gap:.5rem;min-width:10rem}
.share span{min-width:4.5rem}td:has(.share){width:45%}
.numbers{margin:.75rem 0;font-size:.9rem}.numbers>summary{color:var(--accent)}
.code{margin:.4rem 0}.code>summary{display:grid;align-items:center;gap:.1rem .9rem;
padding:.5rem 1rem;grid-template-columns:.8rem 2.6rem 6rem 6.5rem 1fr;list-style:none}
.code>summary::-webkit-details-marker{display:none}.code>summary::before{content:"\\25B8";
color:var(--soft)}.code[open]>summary::before{content:"\\25BE"}
.preview{color:var(--soft);font-size:.875rem;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis}
.groups{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));
gap:1.1rem 1.5rem;padding:.5rem 1rem 1rem 2.7rem}
.groups>:only-child{grid-column:1/-1}.groups>:only-child ul{columns:19rem}
.groups h3,.groups p{font-size:.875rem}
.groups h3{display:flex;justify-content:space-between;margin-bottom:.2rem;
border-bottom:1px solid var(--line)}
ul{list-style:none;margin:0;padding:0;font-size:.875rem}li{display:flex;gap:.6rem}
li code{flex:none;min-width:2rem;text-align:right;color:var(--soft)}
code,.groups b,summary b{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:40rem){.tiles{gap:.5rem}.tiles>div{padding:.5rem .8rem}.verdict{top:.55rem}
.groups{padding-left:1rem}th,td{padding:.4rem .6rem}
.code>summary{grid-template-columns:.8rem 2.6rem 1fr auto}.preview{grid-column:2/-1}}
@media print{html{font-size:11px}body{max-width:none;padding:0;background:none}
nav,.numbers:not([open]){display:none}table{font-size:.8rem}h2,section>p{break-after:avoid}
#use,#prefixes,p,figure,.tiles>div,.code,tr{break-inside:avoid}*{print-color-adjust:exact}}
"""


def write_page(path, *, title, description, metrics, history, codes, names=None,
               num_embeddings) -> None:
    """Write the report, in seconds for a million items.

    Args:
        path: the .html file, replaced if it exists.
        title: a few words, for the heading.
        description: a sentence on the items and the model.
        metrics: rows (label, value, what a healthy tokenizer has or "", one of VERDICTS).
        history: what `training.fit` returned; may be empty, and any figure may be missing in it.
        codes: (N,) or (N, L) int64, array or tensor.
        names: of the items, in row order; their row numbers if None.
        num_embeddings: K.

    Raises:
        ValueError: codes that are not below K, names of another number, an unknown verdict.
        OSError: the file cannot be written; the one that was there stays.
    """
    codes = _checked_codes(codes, num_embeddings)
    if names is not None and len(names) != len(codes):
        raise ValueError(f"names must hold one entry for each of the {len(codes)} items, "
                         f"got {len(names)}")
    tree = Tree(codes, *_id_order(codes), names)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p class="soft">{_text(description)}</p>
<nav aria-label="Sections"><a href="#training">Training</a><a href="#use">Use of the codes</a>
<a href="#prefixes">Shared prefixes</a><a href="#items">Items by first code</a></nav>
</header>
<main>
{_tiles(metrics)}
<section id="training"><h2>Training</h2>{_training(history, num_embeddings)}</section>
<section id="use"><h2>Use of the codes</h2>{_use(codes, num_embeddings)}</section>
<section id="prefixes"><h2>Shared prefixes</h2>{_prefixes(tree, num_embeddings)}</section>
<section id="items"><h2>Items by first code</h2>{_first_codes(tree)}</section>
</main>
</body>
</html>
"""
    write_atomically(path, lambda file: file.write(page.encode()))


def _checked_codes(codes, num_embeddings) -> np.ndarray:
    """(N, L) int64."""
    codes = np.asarray(codes.cpu() if hasattr(codes, "cpu") else codes)
    if codes.ndim not in (1, 2) or 0 in codes.shape or codes.dtype.kind not in "iu":
        raise ValueError("codes must be integers, (items,) or (items, levels) with at least one "
                         f"of each, got {codes.dtype} of shape {codes.shape}")
    if codes.min() < 0 or codes.max() >= num_embeddings:
        raise ValueError(f"codes must be from 0 to {num_embeddings - 1}, "
                         f"got {codes.min()} to {codes.max()}")
    return codes.reshape(len(codes), -1).astype(np.int64, copy=False)


# ----------------------------------------------------------------------------------------- sections

def _tiles(metrics) -> str:
    tiles = []
    for label, value, healthy, verdict in metrics:
        if verdict not in VERDICTS:
            raise ValueError(f"the verdict on {label} is {verdict!r}; it must be one of {VERDICTS}")
        tiles.append(f'<div><dt>{_text(label)}</dt><dd class="value">{_text(value)}</dd>')
        if verdict:
            tiles.append(f'<dd class="verdict {verdict}">{verdict}</dd>')
        if healthy:
            tiles.append(f'<dd class="healthy">healthy: {_text(healthy)}</dd>')
        tiles.append("</div>")
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _training(history, num_embeddings) -> str:
    if not history:
        return '<p class="soft">There is no record of how this model was trained.</p>'
    seconds = sum(row.get("seconds", 0) for row in history)
    words = f"{_count(len(history), 'epoch')} in {seconds:,.0f} s."
    loss = _curves(history, {"train_loss": "train", "val_loss": "validation"})
    best = None
    if loss:
        best, lowest = min(loss[-1].points, key=lambda point: point[1])
        words += (f" The {loss[-1].label} loss was lowest after epoch {best:,}: {_figure(lowest)}"
                  f"{', at the dashed line' if len(history) > 1 else ''}.")
    recon = _curves(history, {"train_recon_loss": "train", "val_recon_loss": "validation"})
    charts = [
        _over_epochs("Loss", "All that training lowers: errors of reconstruction and of "
                     "quantization.", loss, mark=best),
        _over_epochs("Reconstruction loss", "The part of it that compares the features with their "
                     "reconstruction.", recon, mark=best),
        _over_epochs("Perplexity", "How many codes a level uses in effect: all "
                     f"{num_embeddings:,} if it used them alike.",
                     _curves(history, {"perplexity": "level"}), least=num_embeddings),
        _over_epochs("Learning rate", "", _curves(history, {"lr": ""}), least=0, css="thin"),
    ]
    return (f'<p class="soft">{words}</p><div class="charts">{"".join(charts)}</div>'
            + _numbers(_history_table(history, best)))


def _history_table(history, best) -> str:
    """TABLE_ROWS epochs, with the first, the last and the best."""
    places = {*_evenly(0, len(history), TABLE_ROWS),
              *(place for place, row in enumerate(history) if row["epoch"] + 1 == best)}
    columns = [name for name in ("lr", "train_loss", "val_loss", "train_recon_loss",
                                 "val_recon_loss", "codes_used", "perplexity")
               if any(name in row for row in history)]
    rows = [[history[place]["epoch"] + 1, *(
        _figure(history[place].get(name), padded=name != "lr") for name in columns)]
        for place in sorted(places)]
    caption = "All epochs" if len(rows) == len(history) else f"{len(rows)} of {len(history)} epochs"
    return _table(caption, ["epoch", *(name.replace("_", " ") for name in columns)], rows)


def _use(codes, num_embeddings) -> str:
    even = len(codes) / num_embeddings
    counts = [np.sort(np.bincount(level, minlength=num_embeddings))[::-1] for level in codes.T]
    top = min(max(int(level[0]) for level in counts), CLIP * max(1, even))
    charts, rows = [], []
    for number, level in enumerate(counts, start=1):
        used = np.count_nonzero(level)
        summary = f"{used:,} of {num_embeddings:,} codes used, perplexity {_perplexity(level):.1f}"
        charts.append(_use_chart(f"Level {number}", summary, level, even, top))
        rows.append([number, f"{used:,}", f"{_perplexity(level):.1f}", *(
            f"{level[round(share * (num_embeddings - 1))]:,}" for share in (0, .1, .5, .9, 1))])
    header = ["level", "codes used", "perplexity", "most used", "at 10 %", "at 50 %", "at 90 %",
              "least used"]
    return ('<p class="soft">The items on each code, from the most used code to the least used. '
            "The closer to the dashed line, on which all codes are used alike, the more an item's "
            f"code says.</p><div class=\"charts small\">{''.join(charts)}</div>"
            + _numbers(_table("Items on the codes, by order of use", header, rows)))


def _use_chart(name, summary, counts, even, top) -> str:
    """The counts of one level, largest first, as steps over their ranks."""
    beyond = np.count_nonzero(counts > top)
    if beyond:
        summary += (f". The most used, with {counts[0]:,} items, reaches" if beyond == 1 else
                    f". The {beyond:,} most used, with up to {counts[0]:,} items, reach")
        summary += " beyond the chart"
    ends = [*_evenly(0, len(counts), 2 * CURVE_BUCKETS), len(counts)]
    points = [(0, 0)]
    for begin, end in zip(ends, ends[1:]):
        points += [(begin, counts[begin]), (end, counts[begin])]
    curves = [Curve("", "accent", [*points, (len(counts), 0)], "area"),
              Curve("even", "soft", [(0, even), (len(counts), even)], "mark")]
    ends = [*_evenly(0, len(counts), STRIPS), len(counts)]
    hits = [((begin + end) / 2, f"{counts[begin]:,} items on the code that is number {begin + 1:,} "
             "by use") for begin, end in zip(ends, ends[1:])]
    axes = _code_axis(len(counts)), _whole_axis(0, top)
    return _chart(name, summary + ".", curves, axes, x_name="codes", hits=hits)


def _perplexity(counts) -> float:
    """exp of the entropy of the shares."""
    shares = counts[counts > 0] / counts.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def _prefixes(tree, num_embeddings) -> str:
    items, levels = tree.codes.shape
    rows = []
    for length, starts in enumerate(tree.starts, start=1):
        sizes = np.diff(starts, append=items)
        shared = int(sizes[sizes > 1].sum())
        words = f"first {length} codes" if length > 1 else "first code"
        share = f"{_bar(shared / items)}<span>{_percent(shared / items)}</span>"
        rows.append([words if length < levels else "whole ID", f'<div class="share">{share}</div>',
                     f"{shared:,}", f"{len(sizes):,}",
                     f"{min(num_embeddings ** length, items):,}", f"{sizes.max():,}"])
    header = ["shared", "share of all items", "items", "distinct", "at most possible",
              "most items on one"]
    return ('<p class="soft">Items that are alike should share their first codes. Items that share '
            "their whole ID collide: nothing tells them apart.</p>"
            + _table("Items that share the start of their ID", header, rows))


# --------------------------------------------------------------------------------- the prefix tree

class Tree(NamedTuple):
    codes: np.ndarray       # (N, L)
    order: np.ndarray       # (N,) rows by ID
    starts: list            # for each prefix length, where in `order` a new prefix begins
    names: list             # by row, or None


def _id_order(codes):
    """`order` and `starts` of a Tree."""
    order = np.lexsort(codes.T[::-1])
    new, starts = np.zeros(len(codes), bool), []
    new[0] = True
    for level in codes.T:
        ordered = level[order]
        new[1:] |= ordered[1:] != ordered[:-1]
        starts.append(np.flatnonzero(new))
    return order, starts


def _first_codes(tree) -> str:
    groups, rest = _largest_groups(tree, 0, (0, len(tree.order)), FIRST_CODES)
    blocks = []
    for begin, end in groups:
        preview = ", ".join(_name(tree, place) for place in _evenly(begin, end, 3))
        inside = _sub_prefixes(tree, (begin, end)) if len(tree.starts) > 1 else \
            f"<div>{_items(tree, (begin, end), SUB_PREFIXES * NAMES)}</div>"
        blocks.append(
            f'<details class="code"{"" if blocks else " open"}><summary>'
            f"<b>{_prefix(tree, begin, 1)}</b>{_bar((end - begin) / (groups[0][1] - groups[0][0]))}"
            f'<span>{_count(end - begin, "item")}</span><span class="preview">{preview}</span>'
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
        f'{_count(end - begin, "item")}</span></h3>{_items(tree, (begin, end), NAMES)}</div>'
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
    for place in _evenly(*bounds, limit):
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
    name = "" if tree.names is None else _text(tree.names[row] or "", LONGEST)
    return f"<bdi>{name}</bdi>" if name else f"row {row}"


def _more(rest, noun) -> str:
    groups, items = rest
    return f'<p class="soft">and {_count(groups, f"more {noun}")} with ' \
           f'{_count(items, "item")}</p>' if groups else ""


# ------------------------------------------------------------------------------------------- charts

class Curve(NamedTuple):
    label: str              # written at its end
    color: str              # a variable of the style
    points: list            # of (x, y), by x
    kind: str = "line"      # or "area", "mark"


class Axis(NamedTuple):
    low: float
    high: float
    ticks: list
    log: bool = False

    def at(self, value) -> float:
        """Where a value stands: 0 at the low end, 1 at the high end."""
        scale = math.log if self.log else float
        low, high, value = scale(self.low), scale(self.high), scale(value)
        return (value - low) / (high - low)


def _linear_axis(low, high, count=4) -> Axis:
    """From a round number to a round number, with ticks at round distances."""
    if low == high:
        low, high = min(0, low), max(0, high) or 1
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(n for n in (1, 2, 5, 10) if magnitude * n >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, [n * step for n in range(first, last + 1)])


def _whole_axis(low, high) -> Axis:
    """Just from `low` to `high`, with ticks at round integers."""
    ticks = [int(tick) for tick in _linear_axis(low, high).ticks if tick == int(tick)]
    return Axis(low, high, [tick for tick in ticks if low <= tick <= high])


def _log_axis(low, high) -> Axis:
    low, high = low / 1.1, high * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = (1, 3) if len(decades) < 4 else (1,)
    ticks = [n * 10.0 ** decade for decade in decades for n in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return Axis(low, high, ticks[::math.ceil(len(ticks) / 6)], log=True)


def _code_axis(num_embeddings) -> Axis:
    """0 to K, in quarters where those are whole."""
    if num_embeddings % 4:
        return _whole_axis(0, num_embeddings)
    return Axis(0, num_embeddings, [n * num_embeddings // 4 for n in range(5)])


def _curves(history, labels) -> list:
    """A curve over the epochs, counted from 1, for each key that the history has.

    A figure that is a list gives a curve an entry, its label numbered.
    """
    curves = []
    for key, label in labels.items():
        rows = [(row["epoch"] + 1, row[key]) for row in history if row.get(key) is not None]
        if rows and isinstance(rows[0][1], (list, tuple)):
            curves += [(f"{label} {level + 1}", [(epoch, values[level]) for epoch, values in rows])
                       for level in range(len(rows[0][1]))]
        else:
            curves.append((label, rows))
    finite = [(label, [point for point in points if math.isfinite(point[1])])
              for label, points in curves]
    return [Curve(label, f"c{number % 6}", points)
            for number, (label, points) in enumerate(finite) if points]


def _over_epochs(name, text, curves, *, least=None, mark=None, css="") -> str:
    """A chart of curves over the epochs; "" without any.

    Args:
        least: the axis goes from 0 to this or further; by default it fits the values.
        mark: the epoch of a dashed line.
    """
    if not curves:
        return ""
    values = [value for curve in curves for _, value in curve.points]
    low, high = min(values), max(values)
    if least is None:
        flat = high - low < 5e-3 * abs(high)        # too close for ticks of four digits
        y = _log_axis(low, high) if 0 < LOG_SPAN * low < high else \
            _linear_axis(min(0, low) if flat else low, high)
    else:
        y = _code_axis(least) if 0 < high <= least else _linear_axis(0, high, 2)
    epochs = sorted({epoch for curve in curves for epoch, _ in curve.points})
    first, last = epochs[0], epochs[-1]
    x = _whole_axis(first, last) if first < last else Axis(first - 1, last + 1, [first])
    known = [(curve.label, dict(curve.points)) for curve in curves]
    hits = [(epoch, f"epoch {epoch}: " + ", ".join(
        f"{label} {_figure(points[epoch])}" for label, points in known if epoch in points))
        for epoch in (epochs[place] for place in _evenly(0, len(epochs), STRIPS))]
    drawn = [curve._replace(points=_thinned(curve.points)) for curve in curves]
    if mark is not None and first < last:
        drawn.insert(0, Curve("", "soft", [(mark, y.low), (mark, y.high)], "mark"))
    text += " Log scale." if y.log else ""
    return _chart(name, text, drawn, (x, y), x_name="epoch", hits=hits, css=css)


def _thinned(points) -> list:
    """At most two points for each of CURVE_BUCKETS stretches, the extremes: no spike is lost."""
    size = math.ceil(len(points) / CURVE_BUCKETS)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), size):
        stretch = range(begin, min(begin + size, len(points)))
        kept |= {extreme(stretch, key=lambda place: points[place][1]) for extreme in (min, max)}
    return [points[place] for place in sorted(kept)]


def _chart(name, text, curves, axes, *, x_name, hits, css="") -> str:
    """A figure: curves, grid and strips in a stretching square of 1000, labels around it.

    Args:
        hits: (x, words) by x; each shows its words to the pointer nearest to it.
    """
    x, y = axes
    grid = "".join(f"M0 {_px(1 - y.at(tick))}H1000" for tick in y.ticks)
    paths = [f'<path class="grid" d="{grid}"/>']
    for curve in curves:
        line = "L".join(f"{_px(x.at(a))} {_px(1 - y.at(b))}" for a, b in curve.points)
        kind, rest = (curve.kind, "") if len(curve.points) > 1 else ("dot", "h0")
        paths.append(f'<path class="{kind}" style="--c:var(--{curve.color})" d="M{line}{rest}"/>')
    middles = [(x.at(a) + x.at(b)) / 2 for (a, _), (b, _) in zip(hits, hits[1:])]
    for left, right, (_, words) in zip([0, *middles], [*middles, 1], hits):
        paths.append(f'<rect class="hit" x="{_px(left)}" width="{_px(right - left)}" '
                     f'height="1000"><title>{_text(words)}</title></rect>')
    labels = [f'<span class="y" style="top:{100 * (1 - y.at(tick)):.1f}%">{_figure(tick)}</span>'
              for tick in y.ticks]
    labels += [f'<span class="x" style="left:{100 * x.at(tick):.1f}%">{_figure(tick)}</span>'
               for tick in x.ticks]
    labels.append(f'<span class="axis">{x_name}</span>')
    named = [curve for curve in curves if curve.label]
    for curve, top in zip(named, _apart([1 - y.at(curve.points[-1][1]) for curve in named])):
        labels.append(f'<span class="end" style="--c:var(--{curve.color});top:{100 * top:.1f}%">'
                      f"{curve.label}</span>")
    return (f'<figure class="{css}"><figcaption><h3>{name}</h3><p class="soft">{text}</p>'
            '</figcaption><div class="plot"><svg viewBox="0 0 1000 1000" role="img" '
            f'preserveAspectRatio="none"><title>{name}</title><desc>{text}</desc>'
            f'{"".join(paths)}</svg>{"".join(labels)}</div></figure>')


def _apart(tops, gap=.09) -> list:
    """The heights of labels, 0 to 1, moved so that none lies on another."""
    gap = min(gap, 1 / max(1, len(tops)))
    order = sorted(range(len(tops)), key=tops.__getitem__)
    placed, above = list(tops), -gap
    for number, label in enumerate(order):
        below = 1 - gap * (len(tops) - 1 - number)          # leaves room for those that follow
        placed[label] = above = min(max(tops[label], above + gap), below)
    return placed


def _px(share) -> int:
    return round(1000 * share)


# -------------------------------------------------------------------------------------------- words

def _text(value, longest=None) -> str:
    """Anything as one line of HTML text that no browser can take for more."""
    words = " ".join(_UNPRINTABLE.sub(" ", str(value)).split())
    if longest is not None and len(words) > longest:
        words = words[:longest - 1] + "…"
    return html.escape(words)


def _figure(value, *, padded=False) -> str:
    """A number, or each of a list, with four digits; `padded` keeps zeros at the end."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return " / ".join(_figure(entry, padded=padded) for entry in value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:#.4g}" if padded else f"{value:.4g}"


def _count(number, noun) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share) -> str:
    """With two digits after the point, and never "0.00 %" for what is not nothing."""
    return f"{100 * share:.2f} %" if share == 0 or share >= 5e-5 else f"{100 * share:.1g} %"


def _evenly(begin, end, limit) -> list:
    """At most `limit` integers from `begin` to before `end`, the first and the last among them."""
    number = min(limit, end - begin)
    return np.linspace(begin, end - 1, number).round().astype(int).tolist()


def _bar(share) -> str:
    return ('<svg class="bar" viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect width="{_px(share)}" height="1"/></svg>')


def _table(caption, header, rows) -> str:
    """Cells are HTML; the first of a row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'
                   for first, *cells in rows)
    return (f'<div class="table" role="region" aria-label="{caption}" tabindex="0"><table>'
            f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


def _numbers(table) -> str:
    return f'<details class="numbers"><summary>The same in numbers</summary>{table}</details>'
