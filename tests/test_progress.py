"""What a person sees of a running training, on a terminal and elsewhere."""

import fcntl
import io
import itertools
import os
import pty
import struct
import subprocess
import sys
import termios
import types
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from samples import TINY, clustered, loader
from rqvae import RqVae, fit, progress
from rqvae.recipe.initialization import initialize
from rqvae.progress import write_events

ROOT = Path(__file__).parents[1]


def test_on_a_terminal_one_bar_shows_losses_and_use_of_the_codes(tmp_path):
    np.save(tmp_path / "items.npy", clustered(200).numpy())
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--data", "items.npy", "--epochs", "30", *TINY], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stderr=slave,
        stdout=subprocess.PIPE)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:                 # the other end is closed
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=60) == 0
    shown = shown.decode()
    assert "100%" in shown and "codes used" in shown and "perplexity" in shown and "loss" in shown
    assert shown.count("\n") < 5        # one bar that is drawn over, not a line an epoch


def test_the_bar_moves_within_an_epoch(monkeypatch):
    class Bar(tqdm):
        seen = []

        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "disable": False, "file": io.StringIO()})

        def set_postfix_str(self, words, *rest):
            self.seen.append((self.n, self.desc))

    monkeypatch.setattr(progress, "bar_class", lambda notebook: Bar)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress.time, "monotonic", itertools.count().__next__)
    fit(RqVae(12, 8, 4, 8), loader(clustered(80), 20), max_epochs=2, device="cpu")
    within = [n for n, words in Bar.seen if "batch" in words]
    assert len(within) >= 6 and all(0 < n % 1 < 1 or n in (1, 2) for n in within) and within == sorted(within)
    assert any("batch 1 of 4" in words for _, words in Bar.seen)
    assert [(n, words.strip(": ")) for n, words in Bar.seen if "batch" not in words] == [(1, "epoch 1/2"), (2, "epoch 2/2")]


def test_a_collapse_is_said_while_it_happens_once_and_with_a_way_out(capsys):
    fit(RqVae(12, 8, 4, 64), loader(clustered(300)), max_epochs=3, device="cpu")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(said) == 1
    assert "level 1 uses" in said[0] and "of 64 codes in epoch 1" in said[0] and "--preset tiger" in said[0]


@pytest.mark.filterwarnings("ignore:20 rows")
def test_few_items_cannot_use_many_codes_and_that_is_no_collapse(capsys):
    model = RqVae(12, 8, 4, 512)
    features = clustered(20)
    initialize(model, features)
    fit(model, loader(features), max_epochs=1, device="cpu")
    assert "WARNING" not in capsys.readouterr().err


def test_silence_is_silent(capsys):
    fit(RqVae(12, 8, 4, 8), loader(clustered(40)), max_epochs=2, device="cpu", progress=False)
    assert capsys.readouterr() == ("", "")


def test_lists_become_a_scalar_a_level():
    class Writer:
        seen = {}

        def add_scalar(self, tag, value, step):
            self.seen[tag] = (value, step)

        def flush(self):
            pass

    write_events(Writer(), {"epoch": 4, "train_loss": 0.5, "codes_used": [7, 8]})
    assert Writer.seen == {"epoch": (4, 4), "train_loss": (0.5, 4), "codes_used/level 1": (7, 4),
                           "codes_used/level 2": (8, 4)}


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    history = fit(RqVae(12, 8, 4, 8), loader(clustered(40)), max_epochs=3, device="cpu", progress=False,
                  checkpoint_dir=tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert seen == [(row["epoch"], pytest.approx(row["train_loss"])) for row in history]


def test_tensorboard_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        fit(RqVae(12, 8, 4, 8), loader(clustered(40)), max_epochs=1, device="cpu", progress=False,
            checkpoint_dir=tmp_path, tensorboard=True)


def test_in_a_notebook_a_bar_moves_within_an_epoch_and_nothing_is_red(monkeypatch, capsys):
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=tqdm))       # of a kernel without widgets
    fit(RqVae(12, 16, 8, 32), loader(clustered(200)), max_epochs=2, device="cpu")
    out, err = capsys.readouterr()
    assert err == "" and "epoch 1/2, batch 1" in out and "no validation items" in out
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    fit(RqVae(12, 16, 8, 32), loader(clustered(200)), max_epochs=2, device="cpu")
    out, err = capsys.readouterr()
    assert out == "" and "epoch 2/2" in err


@pytest.mark.parametrize("told, room", [
    ((120, 40), {"dynamic_ncols": True}), ((80, 0), {"ncols": 79, "nrows": 24}), ((0, 0), {"ncols": 79, "nrows": 24})])
def test_a_terminal_that_does_not_tell_its_rows_has_bars_as_well(monkeypatch, told, room):
    monkeypatch.setattr("os.get_terminal_size", lambda handle: os.terminal_size(told))
    assert progress._room(sys.__stderr__) == room
