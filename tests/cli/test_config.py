"""Options from a file: what is typed comes before, what is wrong is named, a run hands on what it was."""

import json
from pathlib import Path

import numpy as np
import pytest

import infer
import train
from rqvae.storage.checkpoint import load_checkpoint
from samples import TINY, clustered


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(100).numpy())
    return tmp_path


def notes(path):
    return load_checkpoint(path)["rqvae"]["notes"]


def test_a_file_sets_options_and_what_is_typed_comes_before(folder):
    Path("run.json").write_text(json.dumps({"data": "items.npy", "epochs": 2, "num-embeddings": [8], "hidden_dim": [16],
                                            "latent-dim": 8, "batch_size": 32, "learning_rate": 0.002}))
    assert train.main(["--config", "run.json", "--epochs", "1"]) == 0
    found = notes("checkpoints/best.ckpt")
    assert found["epochs"] == 1 and found["learning_rate"] == 0.002 and found["hidden_dim"] == [16]


def test_toml_does_where_python_reads_it(folder, capsys):
    Path("run.toml").write_text('data = "items.npy"\nepochs = 0\nquiet = true\n')
    code = train.main(["--config", "run.toml", *TINY])
    assert code == 0 or "TOML needs Python 3.11" in capsys.readouterr().err


def test_a_run_hands_on_its_options(folder):
    assert train.main(["--data", "items.npy", "--epochs", "1", "--seed", "5", *TINY]) == 0
    assert train.main(["--config", "checkpoints/best.ckpt", "--checkpoint-dir", "again"]) == 0
    assert notes("again/best.ckpt") == notes("checkpoints/best.ckpt")


@pytest.mark.parametrize("content, words", [
    ('{"epoch": 3}', "sets epoch, which is no option; did you mean epochs?"),
    ('{"fro": "a.ckpt"}', "sets fro, which is no option; did you mean from?"),
    ('{"from": "none.ckpt"}', "--from and --keep go together"),
    ('{"epochs": "3"}', "sets epochs to '3'; it must be a whole number"),
    ('{"amp": 1}', "sets amp to 1; it must be true or false"),
    ('{"preset": "tigre"}', "it must be one of closed, documented"),
    ('{"hidden_dim": []}', "it must be a list of at least one"),
    ("[1]", "holds a list; expected options such as"),
    ("{", "cannot be read as .json"),
])
def test_what_is_wrong_with_a_file_is_named(folder, capsys, content, words):
    Path("run.json").write_text(content)
    assert train.main(["--config", "run.json"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_other_files_and_none_are_refused(folder, capsys):
    Path("run.yaml").write_text("epochs: 3")
    for path, words in (("run.yaml", "its suffix must be .json, .toml, or .ckpt"), ("no.json", "which is not a file")):
        assert train.main(["--config", path]) == 2
        assert words in capsys.readouterr().err


def test_quiet_leaves_warnings_and_errors(folder, capsys):
    assert train.main(["--data", "items.npy", "--epochs", "1", "--quiet", *TINY]) == 0
    assert infer.main(["--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and all(line.startswith("warning: ") for line in err.splitlines())
    assert infer.main(["--quiet"]) == 2 and "semantic_ids.json exists" in capsys.readouterr().err
