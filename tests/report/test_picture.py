"""The picture: one sentence without matplotlib, a .png with it."""

import sys

import numpy as np
import pytest

from rqvae.report.picture import write_picture

FIGURES = dict(title="T", codes=np.array([[0, 1], [2, 3]]), num_embeddings=4)


def test_without_matplotlib_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="a .png report needs the package matplotlib: pip install matplotlib"):
        write_picture(tmp_path / "a.png", history=[], **FIGURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("history", [[], [{"epoch": 0, "train_recon_loss": 1.0, "perplexity": [1.0, 2.0]}]])
def test_a_png_is_written(tmp_path, history):
    pytest.importorskip("matplotlib")
    write_picture(tmp_path / "a.png", history=history, **FIGURES)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
