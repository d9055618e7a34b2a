"""A training run and its semantic IDs -> one HTML page that opens offline. Knows no model.

Everything on it is drawn here, without scripts: what comes from the data stands as escaped text in
HTML, and its charts are SVG that stretches with the page while their labels, being HTML, keep their
size. Each chart's numbers are in a table. The size is bounded for any number of items and epochs.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import math

import numpy as np

from ..codes import level_sizes
from ..storage.files import write_atomically
from ..storage.words import counted
from .charts import (CURVE_BUCKETS, STRIPS, Curve, bar, chart, code_axis, epoch_curves, escaped, evenly, figure,
                     html_table, in_numbers, item_map, over_epochs, whole_axis)
from .prefix_tree import Tree, first_codes, id_order
from .words import percent, sizes_in_words

VERDICTS = ("good", "fair", "poor", "")
TABLE_ROWS = 40         # epochs in the table
CLIP = 4                # top of the charts of use, times the even number of items

_STYLE = """
:root{color-scheme:light;--paper:#f6f6f4;--card:#fff;--ink:#1b2026;--soft:#59626c;--line:#e0e3e6;
--grid:#ebedef;--accent:#1f5fae;--fill:#d3e2f4;--good:#1a7a45;--fair:#8f5b00;--poor:#b8322a;
--g0:#1f5fd0;--g1:#d9480f;
--g2:#0a8a5f;--g3:#a61e8c;--g4:#b58900;--g5:#0b8fa8;--g6:#c2255c;--g7:#6741d9;--rest:#d3d8dd;
--c0:#1f4fa3;--c1:#0b8580;--c2:#bd6f08;--c3:#b23a74;--c4:#6d4bc1;--c5:#6b7780}
@media screen and (prefers-color-scheme:dark){:root{color-scheme:dark;--paper:#12151a;
--card:#1a1f25;--ink:#e7eaed;--soft:#a2acb6;--line:#2f363e;--grid:#282f36;--accent:#78b0f2;
--fill:#26425f;--g0:#74a9ff;--g1:#ff8f5c;
--g2:#3fd39a;--g3:#e58ad6;--g4:#e6c34a;--g5:#4fd0e6;--g6:#ff7b9f;--g7:#b197fc;--rest:#3a434c;\
--good:#5cc98d;--fair:#e3ae4d;--poor:#f28b82;--c0:#7fb2ff;--c1:#45c9c0;--c2:#f0b458;
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
margin:.75rem 0 0}.ask{margin:1.75rem 0 0}
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
.map{display:grid;grid-template-columns:minmax(0,1fr) 17rem;gap:1rem 1.5rem;background:var(--card);
border:1px solid var(--line);border-radius:.6rem;padding:1rem;align-items:center}
.map svg{display:block;width:100%;height:min(32rem,80vw)}.map ul{display:grid;gap:.5rem}
.map i{flex:none;width:.75rem;height:.75rem;border-radius:50%;background:var(--c);margin-top:.3rem}
.points{stroke-width:4.5;stroke-linecap:round;opacity:.85}
.change{display:grid;gap:.4rem;margin-top:.4rem}.change li{display:block;padding-left:1rem;
border-left:3px solid var(--accent)}
.groups{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));
gap:1.1rem 1.5rem;padding:.5rem 1rem 1rem 2.7rem}
.groups>:only-child{grid-column:1/-1}.groups>:only-child ul{columns:19rem}
.groups h3,.groups p{font-size:.875rem}
.groups h3{display:flex;justify-content:space-between;margin-bottom:.2rem;
border-bottom:1px solid var(--line)}
ul{list-style:none;margin:0;padding:0;font-size:.875rem}li{display:flex;gap:.6rem}
li code{flex:none;min-width:2rem;text-align:right;color:var(--soft)}
code,.groups b,summary b{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:40rem){.map{grid-template-columns:minmax(0,1fr)}.tiles{gap:.5rem}\
.tiles>div{padding:.5rem .8rem}.verdict{top:.55rem}
.groups{padding-left:1rem}table{font-size:.8125rem}th,td{padding:.4rem}thead th{white-space:normal}
.share{min-width:0;justify-content:end}.share .bar{display:none}.share span{min-width:0}
td:has(.share){width:auto}
.code>summary{grid-template-columns:.8rem 2.6rem 1fr auto}.preview{grid-column:2/-1}}
@media print{html{font-size:11px}body{max-width:none;padding:0;background:none}
nav,.numbers:not([open]){display:none}table{font-size:.8rem}h2,section>p{break-after:avoid}
#use,#prefixes,p,figure,.tiles>div,.code,tr{break-inside:avoid}*{print-color-adjust:exact}}
"""


def write_page(path, *, title, description, metrics, history, codes, names=None,
               num_embeddings, plane=None) -> None:
    """Write the report, in seconds for a million items.

    Args:
        path: the .html file, replaced if it exists.
        title: a few words, for the heading.
        description: a sentence on the items and the model.
        metrics: rows (label, value, what a healthy tokenizer has or "", one of VERDICTS), and (title,
            words) before rows that they explain; words may be a list of lines.
        history: what `training.fit` returned; may be empty, and any figure may be missing in it. A row with
            "chosen" is that of the checkpoint.
        codes: (N,) or (N, L) int64, array or tensor.
        names: of the items, in row order; their row numbers if None.
        num_embeddings: K, or one for each level.
        plane: the items' `plane.Plane`, or None where their features are not known.

    Raises:
        ValueError: codes that are not below K, names of another number, an unknown verdict.
        OSError: the file cannot be written; the one that was there stays.
    """
    codes, sizes = _checked_codes(codes, num_embeddings)
    if names is not None and len(names) != len(codes):
        raise ValueError(f"names must hold one entry for each of the {len(codes)} items, "
                         f"got {len(names)}")
    tree = Tree(codes, *id_order(codes), names)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
<p class="soft">{escaped(description)}</p>
<nav aria-label="Sections"><a href="#training">Training</a><a href="#use">Use of the codes</a>
<a href="#prefixes">Shared prefixes</a>{'<a href="#map">Map</a>' if plane else ""}\
<a href="#items">Items by first code</a></nav>
</header>
<main>
{_tiles(metrics)}
<section id="training"><h2>Training</h2>{_training(history, sizes)}</section>
<section id="use"><h2>Use of the codes</h2>{_use(codes, sizes)}</section>
<section id="prefixes"><h2>Shared prefixes</h2>{_prefixes(tree, sizes)}</section>
{item_map(plane)}<section id="items"><h2>Items by first code</h2>{first_codes(tree)}</section>
</main>
</body>
</html>
"""
    write_atomically(path, lambda file: file.write(page.encode()))


def _checked_codes(codes, num_embeddings) -> tuple:
    """(N, L) int64, and L sizes."""
    codes = np.asarray(codes.cpu() if hasattr(codes, "cpu") else codes)
    if codes.ndim not in (1, 2) or 0 in codes.shape or codes.dtype.kind not in "iu":
        raise ValueError("codes must be integers, (items,) or (items, levels) with at least one "
                         f"of each, got {codes.dtype} of shape {codes.shape}")
    codes = codes.reshape(len(codes), -1).astype(np.int64, copy=False)
    sizes = level_sizes(num_embeddings, codes.shape[1])
    for columns, size in ((codes, sizes[0]),) if len(set(sizes)) == 1 else zip(codes.T, sizes):
        if columns.min() < 0 or columns.max() >= size:
            raise ValueError(f"codes must be from 0 to {size - 1}, got {columns.min()} to {columns.max()}")
    return codes, sizes


def _tiles(metrics) -> str:
    blocks, tiles = [], []

    def close():
        blocks.append(f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else "")
        tiles.clear()

    for row in metrics:
        if len(row) == 2:
            close()
            words = f'<p class="soft">{escaped(row[1])}</p>' if isinstance(row[1], str) else \
                f'<ul class="change">{"".join(f"<li>{escaped(line)}</li>" for line in row[1])}</ul>'
            blocks.append(f'<h3 class="ask">{escaped(row[0])}</h3>{words}')
            continue
        label, value, healthy, verdict = row
        if verdict not in VERDICTS:
            raise ValueError(f"the verdict on {label} is {verdict!r}; it must be one of {VERDICTS}")
        tiles.append(f'<div><dt>{escaped(label)}</dt><dd class="value">{_unbroken(escaped(value))}</dd>')
        if verdict:
            tiles.append(f'<dd class="verdict {verdict}">{verdict}</dd>')
        if healthy:
            tiles.append(f'<dd class="healthy">healthy: {escaped(healthy)}</dd>')
        tiles.append("</div>")
    close()
    return "".join(blocks)


def _unbroken(value):
    """Several percentages in a tile break between, and not before the sign."""
    return value.replace(" %", "\u00a0%")


def _training(history, sizes) -> str:
    if not history:
        return '<p class="soft">There is no record of how this model was trained.</p>'
    seconds = sum(row.get("seconds", 0) for row in history)
    words = f"{counted(len(history), 'epoch')} in {seconds:,.0f} s."
    loss = epoch_curves(history, {"train_loss": "train", "val_loss": "validation"})
    chosen = next((row["epoch"] + 1 for row in history if row.get("chosen")), None)
    if chosen is not None:
        words += f" This checkpoint is of epoch {chosen:,}{', the dashed line' if len(history) > 1 else ''}."
    elif loss:
        chosen, lowest = min(loss[-1].points, key=lambda point: point[1])
        words += (f" The {loss[-1].label} loss was lowest after epoch {chosen:,}: {figure(lowest)}"
                  f"{', at the dashed line' if len(history) > 1 else ''}.")
    recon = epoch_curves(history, {"train_recon_loss": "train", "val_recon_loss": "validation"})
    charts = [
        over_epochs("Loss", "All that training lowers: errors of reconstruction and of "
                    "quantization.", loss, mark=chosen),
        over_epochs("Reconstruction loss", "The part of it that compares the features with their "
                    "reconstruction.", recon, mark=chosen),
        over_epochs("Perplexity", "How many codes a level uses in effect: all "
                    f"{sizes_in_words(sizes)} if it used them alike.",
                    epoch_curves(history, {"perplexity": "level"}), least=max(sizes)),
        over_epochs("Learning rate", "", epoch_curves(history, {"lr": ""}), least=0, css="thin"),
    ]
    return (f'<p class="soft">{words}</p><div class="charts">{"".join(charts)}</div>'
            + in_numbers(_history_table(history, chosen)))


def _history_table(history, chosen) -> str:
    """TABLE_ROWS epochs, with the first, the last and the one that was chosen."""
    places = {*evenly(0, len(history), TABLE_ROWS),
              *(place for place, row in enumerate(history) if row["epoch"] + 1 == chosen)}
    columns = [name for name in ("lr", "train_loss", "val_loss", "train_recon_loss",
                                 "val_recon_loss", "codes_used", "perplexity")
               if any(name in row for row in history)]
    rows = [[history[place]["epoch"] + 1, *(
        figure(history[place].get(name), padded=name != "lr") for name in columns)]
        for place in sorted(places)]
    caption = "All epochs" if len(rows) == len(history) else f"{len(rows)} of {len(history)} epochs"
    return html_table(caption, ["epoch", *(name.replace("_", " ") for name in columns)], rows)


def _use(codes, sizes) -> str:
    counts = [np.sort(np.bincount(level, minlength=size))[::-1] for level, size in zip(codes.T, sizes)]
    top = min(max(int(level[0]) for level in counts), CLIP * max(1, len(codes) / min(sizes)))
    charts, rows = [], []
    for number, level in enumerate(counts, start=1):
        used = np.count_nonzero(level)
        summary = f"{used:,} of {len(level):,} codes used, perplexity {_perplexity(level):.1f}"
        charts.append(_use_chart(f"Level {number}", summary, level, len(codes) / len(level), top))
        rows.append([number, f"{used:,}", f"{_perplexity(level):.1f}", *(
            f"{level[round(share * (len(level) - 1))]:,}" for share in (0, .1, .5, .9, 1))])
    header = ["level", "codes used", "perplexity", "most used", "at 10 %", "at 50 %", "at 90 %",
              "least used"]
    return ('<p class="soft">The items on each code, from the most used code to the least used. '
            "The closer to the dashed line, on which all codes are used alike, the more an item's "
            f"code says.</p><div class=\"charts small\">{''.join(charts)}</div>"
            + in_numbers(html_table("Items on the codes, by order of use", header, rows)))


def _use_chart(name, summary, counts, even, top) -> str:
    """The counts of one level, largest first, as steps over their ranks."""
    beyond = np.count_nonzero(counts > top)
    if beyond:
        summary += (f". The most used, with {counts[0]:,} items, reaches" if beyond == 1 else
                    f". The {beyond:,} most used, with up to {counts[0]:,} items, reach")
        summary += " beyond the chart"
    ends = [*evenly(0, len(counts), 2 * CURVE_BUCKETS), len(counts)]
    points = [(0, 0)]
    for begin, end in zip(ends, ends[1:]):
        points += [(begin, counts[begin]), (end, counts[begin])]
    curves = [Curve("", "accent", [*points, (len(counts), 0)], "area"),
              Curve("even", "soft", [(0, even), (len(counts), even)], "mark")]
    ends = [*evenly(0, len(counts), STRIPS), len(counts)]
    hits = [((begin + end) / 2, f"{counts[begin]:,} items on the code that is number {begin + 1:,} "
             "by use") for begin, end in zip(ends, ends[1:])]
    axes = code_axis(len(counts)), whole_axis(0, top)
    return chart(name, summary + ".", curves, axes, x_name="codes", hits=hits)


def _perplexity(counts) -> float:
    """exp of the entropy of the shares."""
    shares = counts[counts > 0] / counts.sum()
    return math.exp(-(shares * np.log(shares)).sum())


def _prefixes(tree, sizes) -> str:
    items, levels = tree.codes.shape
    rows = []
    for length, starts in enumerate(tree.starts, start=1):
        groups = np.diff(starts, append=items)
        shared = int(groups[groups > 1].sum())
        words = f"first {length} codes" if length > 1 else "first code"
        share = f"{bar(shared / items)}<span>{percent(shared / items)}</span>"
        rows.append([words if length < levels else "whole ID", f'<div class="share">{share}</div>',
                     f"{shared:,}", f"{len(groups):,}",
                     f"{min(math.prod(sizes[:length]), items):,}", f"{groups.max():,}"])
    header = ["shared", "share of all items", "items", "distinct", "at most possible",
              "most items on one"]
    return ('<p class="soft">Items that are alike should share their first codes. Items that share '
            "their whole ID collide: nothing tells them apart.</p>"
            + html_table("Items that share the start of their ID", header, rows))
