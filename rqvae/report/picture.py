"""A training run and the use of its codes -> one picture, for slides and notebooks. Needs matplotlib.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import numpy as np

from ..codes import as_codes, level_sizes
from ..storage.files import write_atomically

VERDICT_COLORS = {"good": "#1a7a45", "fair": "#8f5b00", "poor": "#b8322a"}
GROUP_COLORS = ["#1f5fd0", "#d9480f", "#0a8a5f", "#a61e8c", "#b58900", "#0b8fa8", "#c2255c", "#6741d9"]


def require_matplotlib() -> None:
    """Raise ImportError, with the way out, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("a .png report needs the package matplotlib: pip install matplotlib; a .html report needs "
                          "nothing") from None


def write_picture(path, *, title, history, codes, num_embeddings, measures=(), plane=None) -> None:
    """The headline figures, a map of the items, the loss and the use of the codes as a .png.

    Args:
        path, title, history, codes, num_embeddings, plane: as in `page.write_page`.
        measures: of `assessment.assess`.

    Raises:
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure        # and not pyplot, which would choose a screen
    figure = Figure(figsize=(12, 6), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=15, fontweight="bold", x=0.01, ha="left")
    heads = headlines(measures)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 4]) if heads else (None, figure)
    for place, measure in enumerate(heads):
        _tile(above, (place + 0.04) / len(heads), measure)
    charts = list(below.subplots(1, 3 if plane is not None else 2))
    if plane is not None:
        _draw_map(charts.pop(0), plane)
    _draw_loss(charts[0], history)
    codes = as_codes(codes)
    _draw_use(charts[1], codes, level_sizes(num_embeddings, codes.shape[1]))
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def headlines(measures) -> list:
    """A measure for each question, the one that says most.

    It is the last with a verdict for new items, levels and unique IDs.
    """
    wanted = ("items held out", "of these items", "codes used", "resolving", "collision rate", "neighbours found, item",
              "lift of")
    found, questions = [], set()
    for words in wanted:
        for measure in measures:
            if words in measure.label and measure.question not in questions and "before" not in measure.label:
                found.append(measure)
                questions.add(measure.question)
    order = [measure.question for measure in measures]
    return sorted(found, key=lambda measure: order.index(measure.question))


def _tile(figure, left, measure):
    figure.text(left, 0.78, measure.label, fontsize=10, color="#59626c", va="center")
    figure.text(left, 0.42, measure.value, fontsize=20, fontweight="bold", va="center", color="#1b2026")
    words = "  ".join(filter(None, [measure.verdict, measure.healthy and f"healthy: {measure.healthy}"]))
    figure.text(left, 0.08, words, fontsize=9.5, va="center", color=VERDICT_COLORS.get(measure.verdict, "#59626c"))


def _draw_map(axes, plane):
    axes.scatter(*plane.places[plane.group < 0].T, s=3, color="#d3d8dd", linewidths=0)
    for number, group in enumerate(plane.groups):
        label = f"{group.code} {group.name}".strip()
        axes.scatter(*plane.places[plane.group == number].T, s=7, color=GROUP_COLORS[number], linewidths=0,
                     label=label if len(label) < 34 else label[:33] + "…")
    axes.set(title="Items by first code", xticks=[], yticks=[])
    if plane.groups:
        axes.legend(title="first code, and words of its items", title_fontsize=7.5, fontsize=7.5, ncols=2,
                    loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False,
                    markerscale=2, handletextpad=0.1, columnspacing=0.8)


def _draw_loss(axes, history):
    epochs = [row["epoch"] + 1 for row in history]
    for key, label in (("train_recon_loss", "training"), ("val_recon_loss", "held out")):
        if any(row.get(key) is not None for row in history):
            axes.plot(epochs, [row.get(key, np.nan) for row in history], label=label)
    axes.set(title="Reconstruction loss", xlabel="epoch")
    axes.set_ylabel("squared units of the features", fontsize=8)
    if axes.lines:
        axes.legend(frameon=False)


def _draw_use(axes, codes, sizes):
    most = 1
    for level, (column, size) in enumerate(zip(codes.T, sizes), start=1):
        items = np.sort(np.bincount(column, minlength=size))[::-1]
        axes.plot(items, label=f"level {level}")
        most = max(most, items[0])
    for size in sorted(set(sizes)):
        axes.axhline(len(codes) / size, color="gray", linestyle="--",
                     label="all alike" if len(set(sizes)) == 1 else f"{size} alike")
    axes.set(title="Items on each code", xlabel="codes, the most used first", yscale="symlog")
    axes.set_ylim(bottom=0, top=1.5 * most)         # below which one code may stand far above all others
    axes.legend(frameon=False)
