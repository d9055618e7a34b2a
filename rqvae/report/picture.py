"""A training run and the use of its codes -> one picture, for slides and notebooks. Needs matplotlib.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import numpy as np

from ..codes import as_codes, level_sizes
from ..storage.files import write_atomically
from .words import sizes_in_words


def require_matplotlib() -> None:
    """Raise ImportError, with the way out, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("a .png report needs the package matplotlib: pip install matplotlib; a .html report needs "
                          "nothing") from None


def write_picture(path, *, title, history, codes, num_embeddings) -> None:
    """Loss, perplexity and use of the codes as a .png; arguments as in `report_page.write_page`.

    Raises:
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure        # and not pyplot, which would choose a screen
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title)
    loss, perplexity, use = figure.subplots(1, 3)
    epochs = [row["epoch"] + 1 for row in history]
    for key, label in (("train_recon_loss", "training"), ("val_recon_loss", "held out")):
        if any(row.get(key) is not None for row in history):
            loss.plot(epochs, [row.get(key, np.nan) for row in history], label=label)
    loss.set(title="Reconstruction loss", xlabel="epoch")
    rows = [row for row in history if row.get("perplexity")]
    for level, values in enumerate(zip(*(row["perplexity"] for row in rows)), start=1):
        perplexity.plot([row["epoch"] + 1 for row in rows], values, label=f"level {level}")
    codes = as_codes(codes)
    sizes = level_sizes(num_embeddings, codes.shape[1])
    perplexity.set(title=f"Perplexity, {sizes_in_words(sizes)} at best", xlabel="epoch", ylim=(0, max(sizes) * 1.05))
    for level, (column, size) in enumerate(zip(codes.T, sizes), start=1):
        use.plot(np.sort(np.bincount(column, minlength=size))[::-1], label=f"level {level}")
    for size in sorted(set(sizes)):
        use.axhline(len(codes) / size, color="gray", linestyle="--",
                    label="all alike" if len(set(sizes)) == 1 else f"{size} alike")
    use.set(title="Items on each code", xlabel="codes, the most used first", yscale="symlog")
    for axes in (loss, perplexity, use):
        if axes.lines:
            axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
