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
    ('{"from": "run.json"}', "--from and --keep go together"),         # a file that is there
    ('{"epochs": "3"}', "sets epochs to '3'; it must be a whole number"),
    ('{"amp": 1}', "sets amp to 1; it must be true or false"),
    ('{"activation": ""}', "sets activation to ''; it must be a text that is not empty"),
    ('{"preset": "tigre"}', "it must be one of closed, documented"),
    ('{"hidden_dim": []}', "it must be a list of at least one"),
    ("[1]", "holds a list; expected options such as"),
    ('{"epochs": 1, "epochs": 2}', "run.json sets epochs twice"), ('{"batch-size": 1, "batch_size": 2}', "sets batch_size twice"),
    ('{"data": null}', "sets data to nothing (null); leave it out"), ('{"config": "a.json"}', "run.json sets config, which is no option\n"),
    ('{"output": "ids.json"}', "sets output, which is an option of infer and not of train; keep a file for each"),
    ('{"epochs": %s}' % ("9" * 5000), "run.json cannot be read as .json"), ('{"epochs": %s}' % ("[" * 10 ** 5), "cannot be read as .json"),
    ("{", "cannot be read as .json"),
])
def test_what_is_wrong_with_a_file_is_named(folder, capsys, content, words):
    Path("run.json").write_text(content)
    assert train.main(["--config", "run.json"]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_options_of_a_run_are_those_of_train(folder, capsys):
    """infer takes the checkpoint itself, and the items that it was trained on."""
    assert train.main(["--data", "items.npy", "--epochs", "0", *TINY]) == 0
    Path("both.json").write_text('{"data": "items.npy", "epochs": 1}')
    capsys.readouterr()
    for argv, words in ((["--config", "checkpoints/best.ckpt"], "infer takes it by --ckpt checkpoints/best.ckpt"),
                        (["--config", "both.json"], "sets epochs, which is an option of train and not of infer")):
        assert infer.main(argv) == 2
        assert words in capsys.readouterr().err


def test_what_may_stand_alone_is_true_in_a_file_and_a_mark_of_utf_8_is_none_of_its_words(folder):
    Path("run.json").write_text('\ufeff{"report": true, "unique": true, "ckpt": true}', "utf-8")
    assert train.main(["--data", "items.npy", "--epochs", "0", *TINY]) == 0
    assert infer.main(["--config", "run.json"]) == 0


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
