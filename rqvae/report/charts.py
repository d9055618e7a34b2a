"""Figures of a report page: curves, axes, bars and tables as SVG and HTML. Knows nothing of models and codes.

A chart is SVG that stretches with the page, in a square of 1000; its labels, being HTML, keep their size.
Whatever comes from the data has to pass `escaped`.
"""

from __future__ import annotations

import html
import math
import re
from typing import NamedTuple

import numpy as np

from ..storage.words import counted, shown

CURVE_BUCKETS = 200     # stretches of a long curve, each drawn by two points
STRIPS = 64             # places of a chart that answer the pointer
LOG_SPAN = 30           # a curve whose values differ by more than this factor gets a log scale

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


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


def whole_axis(low, high) -> Axis:
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


def code_axis(num_embeddings) -> Axis:
    """0 to K, in quarters where those are whole."""
    if num_embeddings % 4:
        return whole_axis(0, num_embeddings)
    return Axis(0, num_embeddings, [n * num_embeddings // 4 for n in range(5)])


def epoch_curves(history, labels) -> list:
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


def over_epochs(name, text, curves, *, least=None, mark=None, css="") -> str:
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
        y = code_axis(least) if 0 < high <= least else _linear_axis(0, high, 2)
    epochs = sorted({epoch for curve in curves for epoch, _ in curve.points})
    first, last = epochs[0], epochs[-1]
    x = whole_axis(first, last) if first < last else Axis(first - 1, last + 1, [first])
    known = [(curve.label, dict(curve.points)) for curve in curves]
    hits = [(epoch, f"epoch {epoch}: " + ", ".join(
        f"{label} {figure(points[epoch])}" for label, points in known if epoch in points))
        for epoch in (epochs[place] for place in evenly(0, len(epochs), STRIPS))]
    drawn = [curve._replace(points=_thinned(curve.points)) for curve in curves]
    if mark is not None and first < last:
        drawn.insert(0, Curve("", "soft", [(mark, y.low), (mark, y.high)], "mark"))
    text += " Log scale." if y.log else ""
    return chart(name, text, drawn, (x, y), x_name="epoch", hits=hits, css=css)


def _thinned(points) -> list:
    """At most two points for each of CURVE_BUCKETS stretches, the extremes: no spike is lost."""
    size = math.ceil(len(points) / CURVE_BUCKETS)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), size):
        stretch = range(begin, min(begin + size, len(points)))
        kept |= {extreme(stretch, key=lambda place: points[place][1]) for extreme in (min, max)}
    return [points[place] for place in sorted(kept)]


def chart(name, text, curves, axes, *, x_name, hits, css="") -> str:
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
                     f'height="1000"><title>{escaped(words)}</title></rect>')
    labels = [f'<span class="y" style="top:{100 * (1 - y.at(tick)):.1f}%">{figure(tick)}</span>'
              for tick in y.ticks]
    labels += [f'<span class="x" style="left:{100 * x.at(tick):.1f}%">{figure(tick)}</span>'
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

def escaped(value, longest=None) -> str:
    """Anything as one line of HTML text that no browser can take for more."""
    # Marks of direction are spelled as on a terminal.
    words = shown(" ".join(_UNPRINTABLE.sub(" ", str(value)).split()))
    if longest is not None and len(words) > longest:
        words = words[:longest - 1] + "…"
    return html.escape(words)


def figure(value, *, padded=False) -> str:
    """A number, or each of a list, with four digits; `padded` keeps zeros at the end."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return " / ".join(figure(entry, padded=padded) for entry in value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:#.4g}" if padded else f"{value:.4g}"


def evenly(begin, end, limit) -> list:
    """At most `limit` integers from `begin` to before `end`, the first and the last among them."""
    number = min(limit, end - begin)
    return np.linspace(begin, end - 1, number).round().astype(int).tolist()


def bar(share) -> str:
    return ('<svg class="bar" viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect width="{_px(share)}" height="1"/></svg>')


def html_table(caption, header, rows) -> str:
    """Cells are HTML; the first of a row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'
                   for first, *cells in rows)
    return (f'<div class="table" role="region" aria-label="{caption}" tabindex="0"><table>'
            f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


def in_numbers(table) -> str:
    return f'<details class="numbers"><summary>The same in numbers</summary>{table}</details>'


def item_map(plane) -> str:
    """The items as points, the largest groups in colour, each with its name; "" without a plane."""
    if plane is None:
        return ""
    paths, legend = [], []
    for number, color in [(-1, "rest"), *((n, f"g{n}") for n in range(len(plane.groups)))]:
        points = plane.places[plane.group == number]
        dots = "".join(f"M{round(1000 * x)} {round(1000 * (1 - y))}h0" for x, y in points)
        paths.append(f'<path class="points" style="--c:var(--{color})" d="{dots}"/>' if dots else "")
    for number, group in enumerate(plane.groups):
        name = f" {escaped(group.name, 60)}" if group.name else ""
        legend.append(f'<li><i style="--c:var(--g{number})"></i><span><b>{group.code}</b>{name} '
                      f'<span class="soft">{counted(group.items, "item")}</span></span></li>')
    words = ("Each point is an item. In colour are the most frequent first codes, seen from the side from which they "
             "lie farthest apart; the words are those that set their names apart from the others'.")
    return (f'<section id="map"><h2>Map of the items</h2><p class="soft">{words}</p><div class="map"><svg '
            'viewBox="-10 -10 1020 1020" preserveAspectRatio="none" role="img"><title>Map of the items</title>'
            f'{"".join(paths)}'
            f'</svg><ul>{"".join(legend)}</ul></div></section>')
