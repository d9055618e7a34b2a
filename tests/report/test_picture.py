"""The picture: one sentence without matplotlib, a .png with it."""

import sys

import numpy as np
import pytest

from rqvae import open_features
from rqvae.report.assessment import assess
from rqvae.report.picture import headlines, write_picture
from rqvae.report.plane import plane
from samples import clustered

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


def test_the_picture_has_a_headline_figure_for_each_question_and_the_map(tmp_path):
    pytest.importorskip("matplotlib")
    features, codes = open_features(clustered(200)), np.arange(200)[:, None] % 4
    measures = assess(codes, 4, features=features)
    assert [measure.label for measure in headlines(measures)] == ["level 1: codes used", "collision rate", "lift of neighbours"]
    write_picture(tmp_path / "a.png", title="T", history=[], codes=codes, num_embeddings=4, measures=measures,
                  plane=plane(features, codes, [f"name {row % 4}" for row in range(200)]))
    assert len((tmp_path / "a.png").read_bytes()) > 20_000
