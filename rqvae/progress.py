"""What a person sees while something runs: a bar on a terminal or in a notebook, plain lines elsewhere.

On stderr; in a notebook, which shows that in red, on stdout.
"""

import os
import sys
import time
import warnings

from tqdm import tqdm

_WIDE = 100             # columns of a terminal on which the number of the batch leaves room for the rest
COLLAPSED = 0.25        # a level that uses less than this share of the codes it could use is collapsing


class EpochReport:
    """Progress of a training run.

    Args:
        max_epochs: epochs in all.
        run: a `RunState`.
        show: False for silence.
        events: a TensorBoard writer that gets each epoch, too, or None.
    """

    def __init__(self, max_epochs, run, show=True, events=None):
        self.max_epochs, self.run, self.show, self.events = max_epochs, run, show, events
        notebook = in_notebook()
        self.stream = sys.stdout if notebook else sys.stderr
        self.alive = show and (notebook or sys.stderr.isatty())         # somebody looks at what moves
        self.drawn, self.warned = 0.0, False
        self.bar = bar_class(notebook)(
            total=max_epochs, initial=run.epoch, disable=not self.alive, unit="epoch",
            file=self.stream, **({"dynamic_ncols": True} if notebook else _room(self.stream)),
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )
        if run.val_loader is None:
            self.say("no validation items: " + ("best.ckpt is the last epoch" if run.every_step else
                                                "the learning rate and best.ckpt follow train_loss"))

    def say(self, sentence) -> None:
        """A sentence of its own, above the bar."""
        if self.show:
            tqdm.write(sentence, file=self.stream)

    def batch(self) -> None:
        """Redraw, a few times a second at most: reading losses from a GPU waits for it."""
        now = time.monotonic()
        if self.alive and now - self.drawn > 0.2:
            self.drawn = now
            batches = _length(self.run.train_loader)
            batch = f", batch {self.run.batch}" + (f" of {batches}" if batches else "")
            batch = "" if (self.bar.ncols or _WIDE) < _WIDE else batch
            self.bar.n = self.run.epoch + (min(self.run.batch / batches, 1.0) if batches else 0)
            self.bar.set_description(f"epoch {self.run.epoch + 1}/{self.max_epochs}{batch}", False)
            so_far = self.run.means.values().get("train_loss", float("nan"))
            self.bar.set_postfix_str(f"loss {so_far:.4g}, {_use(self.run.means.code_use())}")

    def epoch(self, row) -> None:
        """An epoch ended with this row of history; the first to show a collapse is said so."""
        self.bar.set_description(f"epoch {row['epoch'] + 1}/{self.max_epochs}", False)
        self.bar.update(row["epoch"] + 1 - self.bar.n)
        if self.events is not None:
            write_events(self.events, row)
        if self.alive:
            self.bar.set_postfix_str(_losses(row))
        elif self.show:
            print(f"epoch {row['epoch'] + 1}/{self.max_epochs}  {_losses(row)}", file=self.stream, flush=True)
        if not self.warned:
            self.warned = self._warn_of_collapse(row)

    def _warn_of_collapse(self, row):
        sizes = [len(codebook) for codebook in self.run.model.quantizer.codebooks]
        for level, (used, codes) in enumerate(zip(row.get("codes_used", []), sizes), start=1):
            begun = self.run.model.latent_norm          # of the recipe, from the data
            if level > 1 and (self.run.items < 2 * sizes[0] or begun):
                break               # the first level may tell them apart, and no other has anything left to say
            if used < COLLAPSED * min(codes, self.run.items):
                self.say(f"WARNING: level {level} uses {used} of {codes} codes in epoch {row['epoch'] + 1}: " + (
                    "unless many items are alike, lower the learning rate, or use fewer codes" if begun else
                    "it is collapsing, and IDs will say little. Begin from the data (train.py --preset tiger, "
                    "or rqvae.recipe.start), lower the learning rate, or use fewer codes"))
                return True
        return False

    def close(self) -> None:
        self.bar.close()
        if self.events is not None:
            self.events.close()


def _length(loader) -> int:
    """Batches of an epoch; 0 where the loader cannot tell."""
    try:
        return len(loader)
    except TypeError:
        return 0


def shown(work, what, progress=True):
    """An iterable as it is, with a bar on a terminal while it is gone through."""
    return tqdm(work, desc=what, leave=False, delay=0.5, disable=None if progress else True, **_room(sys.stderr),
                bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed} of about {remaining}")


def _room(stream) -> dict:
    """How large a bar may be, for tqdm, which shows none on a terminal that does not tell how many rows it has."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns, rows = 0, 0
    return {"dynamic_ncols": True} if columns and rows else {"ncols": (columns or 80) - 1, "nrows": 24}


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def bar_class(notebook):
    """tqdm's bar for where it is shown: in a notebook a widget, where those are installed."""
    if not notebook:
        return tqdm
    with warnings.catch_warnings():         # of widgets that are not installed, and need not be
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm as fitting
    return fitting


def event_writer_class():
    """TensorBoard's `SummaryWriter`.

    Raises:
        ImportError: the optional package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard files need the package tensorboard: pip install tensorboard") from error
    return SummaryWriter


def write_events(writer, row) -> None:
    """An epoch's row of history as TensorBoard scalars, one a level for what is a list."""
    for name, value in row.items():
        values = {f"{name}/level {level}": entry for level, entry in enumerate(value, start=1)} \
            if isinstance(value, list) else {name: value}
        for tag, number in values.items():
            writer.add_scalar(tag, number, row["epoch"])
    writer.flush()


def _losses(row):
    parts = [f"loss {row['train_loss']:.4g}"]
    if "val_loss" in row:
        parts.append(f"val {row['val_loss']:.4g}")
    return ", ".join([*parts, _use(row), f"lr {row['lr']:.2g}"])


def _use(row):
    if "codes_used" not in row:
        return "codes ?"
    used = "/".join(map(str, row["codes_used"]))
    return f"codes used {used}, perplexity " + "/".join(f"{value:.0f}" for value in row["perplexity"])
