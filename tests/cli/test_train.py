"""The command line of train.py: what it says, what it writes, and how it refuses."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from rqvae.cli.console import StopSignals
from rqvae.cli.train import prepare
from rqvae.cli.options import train_parser
from samples import ROOT, TINY, clustered, in_a_process
from rqvae import RqVae, identity
from rqvae.items.tables import FeatureTable
from rqvae.storage.checkpoint import load_checkpoint



@pytest.fixture
def features(tmp_path, monkeypatch):
    """Inside an empty folder: 200 items of 12 features in items.npy."""
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    return "items.npy"


def refused(argv, capsys, code=2):
    """Run, and give the one line on stderr that says why not."""
    assert train.main(argv) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


def weights(path):
    return load_checkpoint(path)["state_dict"]


def test_it_says_what_it_trains_on_and_what_came_of_it(features, capsys):
    assert train.main(["--data", features, "--epochs", "3", *TINY]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "Training on 200 items of 12 features from items.npy, on cpu"
    for word in ("reconstruction error", "codes used", "perplexity", "collision rate", "checkpoints/best.ckpt"):
        assert word in out
    assert lines[-1] == "next: python infer.py --ckpt checkpoints/best.ckpt"
    assert sum(line.startswith("epoch ") for line in err.splitlines()) == 3
    assert sorted(os.listdir("checkpoints")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"]


def test_the_infer_command_it_names_works(features, capsys):
    """Also of a second run and a third, which leave the IDs of those before as they are."""
    for name in ("semantic_ids.json", "semantic_ids-2.json", "semantic_ids-3.json"):
        train.main(["--data", features, "--epochs", "1", "--checkpoint-dir", "a folder", "--overwrite", *TINY])
        command = shlex.split(capsys.readouterr().out.splitlines()[-1].split("next: ")[1])
        assert command[:2] == ["python", "infer.py"] and (name in command) == (name != "semantic_ids.json")
        assert infer.main(command[2:]) == 0
        assert len(json.loads(Path(name).read_text())) == 200


def test_without_data_it_trains_on_the_built_in_catalogue_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--epochs", "1"]) == 0
    assert "from the built-in catalogue" in capsys.readouterr().out.splitlines()[0]
    assert infer.main(["--ckpt"]) == 0
    assert "items that share a prefix" in capsys.readouterr().out


def test_the_documented_preset_is_the_documented_model(features):
    assert train.main(["--data", features, "--preset", "documented", "--epochs", "0", "--epochs", "1"]) == 0
    model = RqVae.load_from_checkpoint("checkpoints/best.ckpt")
    assert model.hyper_parameters == RqVae(input_dim=12).hyper_parameters


@pytest.mark.parametrize("preset, layers", [("tiger", [16]), ("documented", [16, 16])])
def test_one_hidden_width_is_a_layer_or_the_documented_two(features, preset, layers):
    assert train.main(["--data", features, "--preset", preset, "--epochs", "1", *TINY]) == 0
    model = RqVae.load_from_checkpoint("checkpoints/best.ckpt")
    assert [layer.out_features for layer in model.encoder.layers if hasattr(layer, "out_features")] == [*layers, 8]


def test_a_collapsed_codebook_is_said_in_words(features, capsys):
    assert train.main(["--data", features, "--preset", "documented", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: level 1 has collapsed: " in out and "of 1024 codes are used" in out and "--preset tiger" in out
    np.save("same.npy", np.ones((50, 12), dtype=np.float32))
    assert train.main(["--data", "same.npy", "--preset", "documented", "--epochs", "1", "--checkpoint-dir", "same"]) == 0
    out = capsys.readouterr().out
    assert "no tokenizer can tell them apart" in out and "collapsed" not in out         # it is not the codebook's fault


def test_presets_choose_width_and_length(features):
    found = {}
    for preset in ("tiger", "fine", "closed"):
        job = prepare(train_parser().parse_args(["--data", features, "--preset", preset, "--checkpoint-dir", preset]))
        found[preset] = (job.model.hyper_parameters["hidden_dim"], job.settings["epochs"])
    assert found == {"tiger": ([256], 10), "fine": ([1024], 30), "closed": ([1024], 60)}


def test_a_closed_catalogue_keeps_its_last_epoch_though_new_items_fared_better_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("noise.npy", torch.randn(120, 12, generator=torch.Generator().manual_seed(0)).numpy())
    assert train.main(["--data", "noise.npy", "--preset", "closed", "--epochs", "24", *TINY]) == 0
    errors = [json.loads(line)["val_recon_loss"] for line in Path("checkpoints/metrics.jsonl").read_text().splitlines()]
    assert min(errors) < errors[-1]
    best, last = weights("checkpoints/best.ckpt"), weights("checkpoints/last.ckpt")
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_one_seed_gives_one_result(features):
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        train.main(["--data", features, "--epochs", "2", "--checkpoint-dir", folder, "--seed", seed, *TINY])
    one, same, other = (weights(f"{folder}/last.ckpt") for folder in "abc")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_resume_finds_the_run_and_its_options_again(features, capsys):
    options = ["--data", features, "--checkpoint-dir", "run", "--val-fraction", "0.2", *TINY]
    train.main([*options, "--epochs", "6", "--checkpoint-dir", "straight"])
    stop = iter([False] * 13)                   # in the third epoch of five batches
    original = StopSignals.__call__
    StopSignals.__call__ = lambda self: setattr(self, "number", signal.SIGINT) or next(stop, True)
    try:
        assert train.main([*options, "--epochs", "6"]) == 130
    finally:
        StopSignals.__call__ = original
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "Stopped by SIGINT; saved. Resume with: python train.py --resume run/last.ckpt"
    assert train.main(shlex.split(said.split("train.py ")[1])) == 0
    one, other = weights("straight/last.ckpt"), weights("run/last.ckpt")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_resume_past_the_asked_epochs_has_nothing_to_do(features, capsys):
    options = ["--data", features, *TINY]
    train.main([*options, "--epochs", "3"])
    capsys.readouterr()
    assert train.main([*options, "--epochs", "2", "--resume"]) == 0
    assert "already trained 3 of 2 epochs" in capsys.readouterr().out


def test_an_input_that_is_not_there_is_said_before_a_run_that_is(features, capsys):
    assert train.main(["--data", features, "--epochs", "0", *TINY]) == 0
    for argv in (["--data", "none.npy"], ["--data", features, "none.npy"], ["--data", features, "--item-ids", "none.npy"],
                 ["--texts", "none.npy"], ["--data", features, "--from", "none.npy", "--keep", "none.npy"]):
        assert "none.npy does not exist" in refused(argv, capsys)


def test_resume_without_a_path_passes_over_a_damaged_file_and_says_so(features, capsys):
    options = ["--data", features, *TINY]
    train.main([*options, "--epochs", "3"])
    Path("checkpoints/last.ckpt").write_bytes(Path("checkpoints/last.ckpt").read_bytes()[:1000])
    assert train.main([*options, "--epochs", "4", "--resume"]) == 0
    assert "warning: passing over a damaged checkpoint: checkpoints/last.ckpt" in capsys.readouterr().err


def test_resume_on_changed_data_is_refused(features, capsys):
    options = ["--data", features, *TINY]
    train.main([*options, "--epochs", "1"])
    np.save(features, clustered(200, seed=5).numpy())
    capsys.readouterr()
    assert train.main([*options, "--epochs", "2", "--resume"]) == 2
    assert "items.npy has other features than checkpoints/last.ckpt was begun with" in capsys.readouterr().err


def test_every_row_counts_when_a_run_is_resumed(tmp_path, monkeypatch, capsys):
    """Of 6,000 rows 1,000 were others, and none of the 4,096 that were looked at."""
    monkeypatch.chdir(tmp_path)
    rows = clustered(6000, 4).numpy()
    np.save("items.npy", rows)
    run = ["--data", "items.npy", "--preset", "documented", *TINY, "--batch-size", "1024"]
    assert train.main([*run, "--epochs", "1"]) == 0
    kept = np.linspace(0, 5999, 4096).astype(np.int64)
    others = np.setdiff1d(np.arange(6000), kept)[:1000]
    rows[others] = rows[others[::-1]]
    np.save("items.npy", rows)
    assert train.main([*run, "--epochs", "2", "--resume"]) == 2
    assert "items.npy has other features than" in capsys.readouterr().err


CHECKSUM = FeatureTable.checksum


def sample_alone(table, rows=None):
    return table.sampled_fingerprint()


@pytest.mark.parametrize("kept", [sample_alone, lambda table, rows=None: CHECKSUM(table, form=""),
                                  lambda table, rows=None: CHECKSUM(table, form="2:")],
                         ids=["a sample of its rows, as 1.0", "another checksum, as 1.1", "another one, as 1.3.0"])
def test_a_run_of_an_earlier_version_which_kept_something_else_goes_on(tmp_path, monkeypatch, capsys, kept):
    monkeypatch.chdir(tmp_path)
    rows = clustered(300).numpy()
    np.save("items.npy", rows)
    for preset in ("documented", "tiger"):
        run = ["--data", "items.npy", "--preset", preset, *TINY, "--checkpoint-dir", preset]
        with monkeypatch.context() as earlier:
            earlier.setattr(FeatureTable, "checksum", kept)
            if kept is sample_alone:                                        # and nothing of the items in the notes
                earlier.setattr(identity, "of_items", lambda table: {})
            assert train.main([*run, "--epochs", "1"]) == 0
        begun = load_checkpoint(f"{preset}/best.ckpt")["rqvae"]["fingerprint"]
        assert train.main([*run, "--epochs", "2", "--resume"]) == 0
        # Kept: a best.ckpt of before is told from another run's by it.
        assert load_checkpoint(f"{preset}/last.ckpt")["rqvae"]["fingerprint"] == begun
    np.save("items.npy", rows[::-1])
    assert train.main([*run, "--epochs", "3", "--resume"]) == 2
    assert "items.npy has other features than" in capsys.readouterr().err


def test_every_row_counts_once_a_run_of_1_0_was_gone_on_with(tmp_path, monkeypatch, capsys):
    """Its batches stay known by a sample of the rows, and 1,904 others of 6,000 were trained on without a word."""
    monkeypatch.chdir(tmp_path)
    rows = clustered(6000, 4).numpy()
    np.save("items.npy", rows)
    run = ["--data", "items.npy", "--preset", "documented", *TINY, "--batch-size", "1024"]
    with monkeypatch.context() as earlier:
        earlier.setattr(FeatureTable, "checksum", sample_alone)
        earlier.setattr(identity, "of_items", lambda table: {})
        assert train.main([*run, "--epochs", "1"]) == 0
    assert train.main([*run, "--epochs", "2", "--resume"]) == 0
    others = np.setdiff1d(np.arange(6000), np.linspace(0, 5999, 4096).astype(np.int64))
    rows[others] = rows[others[::-1]]
    np.save("items.npy", rows)
    before = Path("checkpoints/last.ckpt").read_bytes()
    assert train.main([*run, "--epochs", "3", "--resume"]) == 2
    assert "items.npy has other features than checkpoints/last.ckpt was begun with" in capsys.readouterr().err
    assert Path("checkpoints/last.ckpt").read_bytes() == before


def test_a_real_interrupt_saves_and_the_resumed_run_equals_a_straight_one(features):
    options = ["--data", features, "--epochs", "60", "--seed", "1", *TINY]
    straight = in_a_process(*options, "--checkpoint-dir", "straight")
    interrupted = in_a_process(*options, "--checkpoint-dir", "run")
    for line in interrupted.stderr:
        if line.startswith("epoch 3/"):
            interrupted.send_signal(signal.SIGINT)
            break
    out, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130, err
    assert f"Resume with: python {ROOT / 'train.py'} --resume run/last.ckpt" in out
    assert "Traceback" not in err
    assert not [name for name in os.listdir("run") if name.endswith(".tmp")]
    resumed = in_a_process("--resume", "run/last.ckpt")
    assert resumed.communicate(timeout=120)[1] is not None and resumed.returncode == 0
    assert straight.communicate(timeout=120)[1] is not None and straight.returncode == 0
    one, other = weights("straight/last.ckpt"), weights("run/last.ckpt")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_closed_pipe_is_met_in_silence(features):
    process = in_a_process("--data", features, "--epochs", "2", *TINY)
    assert process.stdout.readline().startswith("Training on 200 items")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in err and "BrokenPipe" not in err and "Exception" not in err
    assert os.path.exists("checkpoints/best.ckpt")


def test_an_existing_run_is_not_overwritten_unasked(features, capsys):
    train.main(["--data", features, "--epochs", "1", *TINY])
    before = Path("checkpoints/last.ckpt").read_bytes()
    capsys.readouterr()
    message = refused(["--data", features, "--epochs", "1", *TINY], capsys)
    assert "checkpoints already holds last.ckpt and best.ckpt" in message and "--overwrite" in message
    assert Path("checkpoints/last.ckpt").read_bytes() == before
    assert train.main(["--data", features, "--epochs", "1", "--overwrite", "--seed", "9", *TINY]) == 0
    assert Path("checkpoints/last.ckpt").read_bytes() != before


def test_every_bad_value_is_in_one_message(features, capsys):
    message = refused(["--data", features, "--epochs", "-1", "--learning-rate", "nan", "--num-embeddings", "1",
                       "--num-quantizers", "0", "--val-fraction", "1", "--batch-size", "0"], capsys)
    for flag in ("--epochs", "--learning-rate", "--num-embeddings", "--num-quantizers", "--val-fraction", "--batch-size"):
        assert f"{flag} is" in message


def test_a_seed_that_torch_cannot_take_is_refused(features, capsys):
    for seed in (str(2 ** 64), "-1"):
        assert f"--seed is {seed}, must be from 0 to 18446744073709551615" in refused(
            ["--data", features, "--seed", seed], capsys)


def test_an_unknown_flag_is_answered_with_the_closest(capsys):
    assert refused(["--epoch", "3"], capsys) == "error: unknown argument --epoch; did you mean --epochs?"
    assert "did you mean --learning-rate?" in refused(["--lr", "3"], capsys)
    assert "did you mean --batch-size?" in refused(["--bs", "3"], capsys)


@pytest.mark.parametrize("device, words", [
    ("gpu", "device 'gpu' is not a device; available here: auto, cpu"),
    pytest.param("cuda", "'cuda' was asked for, but there is no CUDA here", marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason="asks for what must be missing")),
])
def test_a_device_that_is_not_there_is_refused_at_once(features, capsys, device, words):
    assert words in refused(["--data", features, "--device", device], capsys)
    assert not os.path.exists("checkpoints")


def test_tf32_is_refused_where_no_gpu_trains(features, capsys):
    assert "--tf32 is for a GPU, and this run is on cpu" in refused(["--data", features, "--tf32", "--device", "cpu"],
                                                                    capsys)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("faster", [["--tf32"], ["--amp"], ["--compile"]])
def test_faster_products_on_a_gpu_give_ids_as_good(features, capsys, faster):
    errors = []
    for name, more in (("plain", []), ("faster", faster)):
        assert train.main(["--data", features, "--epochs", "3", "--checkpoint-dir", name, "--device", "cuda", *TINY,
                           *more]) == 0
        errors.append(load_checkpoint(f"{name}/last.ckpt")["rqvae"]["history"][-1]["train_recon_loss"])
    assert torch.get_float32_matmul_precision() == "highest"
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_a_missing_file_is_answered_with_similar_names(features, capsys):
    message = refused(["--data", "item.npy"], capsys)
    assert "item.npy" in message and "items.npy" in message
    assert not os.path.exists("checkpoints")


def test_rows_that_are_not_numbers_are_refused_by_row(features, capsys):
    rows = clustered(50).numpy()
    rows[[7, 30]] = np.nan
    np.save("bad.npy", rows)
    message = refused(["--data", "bad.npy"], capsys)
    assert "7" in message and "30" in message


def test_checkpoints_cannot_go_where_a_file_is(features, capsys):
    Path("taken").write_text("x")
    assert "taken is a file" in refused(["--data", features, "--checkpoint-dir", "taken"], capsys)


def test_fewer_rows_than_a_batch_are_trained_on(features, capsys):
    np.save("few.npy", clustered(10).numpy())
    assert train.main(["--data", "few.npy", "--epochs", "2", "--batch-size", "64", "--val-fraction", "0"]) == 0
    assert load_checkpoint("checkpoints/last.ckpt")["global_step"] == 2


def test_identical_rows_train_and_are_counted(features, capsys):
    np.save("same.npy", np.tile(clustered(1).numpy(), (40, 1)))
    assert train.main(["--data", "same.npy", "--epochs", "2", *TINY]) == 0
    out, err = capsys.readouterr()
    assert "equal" in err and "collision rate: 97.50 %" in out


@pytest.mark.parametrize("flag, value, was", [
    ("--num-embeddings", "16", "8"), ("--activation", "relu", "gelu"), ("--preset", "closed", "tiger"), ("--seed", "7", "0"),
    ("--batch-size", "64", "32"), ("--val-fraction", "0.5", "0.05"), ("--hidden-dim", "32", "16")])
def test_what_a_resumed_run_cannot_take_is_refused_by_name(features, capsys, flag, value, was):
    assert train.main(["--data", features, "--epochs", "1", *TINY]) == 0
    capsys.readouterr()
    message = refused(["--epochs", "2", "--resume", flag, value], capsys)
    assert f"{flag} is {value}, checkpoints/last.ckpt was begun with {was}; a run that is resumed keeps that" in message
    assert refused(["--resume", flag, value, "--epochs", "-1"], capsys)
    assert train.main(["--epochs", "2", "--resume", flag, was]) == 0


@pytest.mark.parametrize("preset", ["tiger", "documented"])
def test_the_learning_rate_of_a_resumed_run_takes_effect_and_is_recorded(features, preset):
    options = ["--data", features, "--epochs", "4", "--preset", preset, *TINY]
    assert train.main([*options, "--checkpoint-dir", "straight"]) == 0
    assert train.main([*options, "--checkpoint-dir", "run", "--epochs", "2"]) == 0
    assert train.main(["--resume", "run/last.ckpt", "--epochs", "4", "--learning-rate", "1e-5"]) == 0
    one, other = (load_checkpoint(f"{name}/last.ckpt") for name in ("straight", "run"))
    rates = [[row["lr"] for row in loaded["rqvae"]["history"]] for loaded in (one, other)]
    assert rates[1][3] == pytest.approx(rates[0][3] * 1e-5 / one["hyper_parameters"]["learning_rate"])
    assert other["hyper_parameters"]["learning_rate"] == other["rqvae"]["notes"]["learning_rate"] == 1e-5


def test_the_help_names_every_option_and_its_default(capsys):
    with_help = train.main(["--help"])
    out = capsys.readouterr().out
    assert with_help == 0 and "default: 10;" in out.replace("\n", "") and "--val-fraction" in out and "default: tiger" in out


def test_rows_far_out_are_named_before_the_training_and_rule_nothing(features, capsys):
    rows = clustered(200).numpy()
    rows[[7, 30]] *= 1e5
    np.save("odd.npy", rows)
    assert train.main(["--data", "odd.npy", "--epochs", "2", "--num-embeddings", "32", "--hidden-dim", "16"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 200 rows (7, 30) lie more than 10 times as far out" in err and "--no-robust" in err
    assert int(re.search(r"([\d,]+) distinct IDs", out)[1].replace(",", "")) > 150


def test_a_resumed_run_on_columns_of_other_scales_ends_as_a_straight_one(features, monkeypatch):
    rows = np.load(features)
    np.save("odd.npy", rows * np.array([3000, 200] + [1] * 10, np.float32))
    options = ["--data", "odd.npy", *TINY]
    assert train.main([*options, "--epochs", "4", "--checkpoint-dir", "straight"]) == 0
    stop = iter([False] * 9)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "__call__", lambda self: next(stop, True))
        assert train.main([*options, "--epochs", "4", "--checkpoint-dir", "run"]) == 143
    assert train.main(["--resume", "run/last.ckpt"]) == 0
    one, other = weights("straight/last.ckpt"), weights("run/last.ckpt")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_no_epoch_gives_the_starting_point_as_a_checkpoint_that_encodes_and_can_be_gone_on_with(features, capsys):
    assert train.main(["--data", features, "--epochs", "0", *TINY]) == 0
    out = capsys.readouterr().out
    assert "The starting point, with no epoch trained" in out and "next: python infer.py" in out
    assert infer.main(["--ckpt", "--unique", "none", "--output", "ids.npy"]) == 0
    model = RqVae.load_from_checkpoint("checkpoints/best.ckpt")
    rows = torch.from_numpy(np.load(features))
    residual, expected = model.encode(rows), []
    for codebook in model.quantizer.codebooks:              # by the definition: nearest, level by level
        expected.append((residual[:, None] - codebook).square().sum(dim=2).argmin(dim=1))
        residual = residual - codebook[expected[-1]]
    assert np.array_equal(np.load("ids.npy"), torch.stack(expected, dim=1).numpy())
    assert not model.latent_norm and "optimizer_states" not in load_checkpoint("checkpoints/last.ckpt")
    error = (model.decode(torch.stack(expected, dim=1)) - rows).square().mean() / rows.var(dim=0, correction=0).mean()
    assert error < 0.5                                      # 200 items around 20 centres, 8 x 8 x 8 codes
    assert "checkpoints/last.ckpt is a starting point" in refused(["--resume", "--epochs", "2"], capsys)


@pytest.mark.parametrize("sizes", [[4, 16, 8], [16, 8], [32]])
def test_levels_may_be_of_different_sizes_from_training_to_the_report(features, capsys, sizes):
    words = list(map(str, sizes))
    assert train.main(["--data", features, "--epochs", "2", "--num-quantizers", str(len(sizes)), *TINY[2:],
                       "--num-embeddings", *words]) == 0
    out = capsys.readouterr().out
    for level, size in enumerate(sizes, start=1):
        assert re.search(rf"^\s*{level} +\d+ +{size} ", out, re.MULTILINE)
    argv = ["--data", features, "--report", "page.html",
            "--ckpt", "checkpoints/best.ckpt", "--output", "ids.json", "--unique", "nearest" if len(sizes) > 2 else "suffix"]
    assert infer.main(argv) == 0
    said = capsys.readouterr().out
    if len(sizes) > 1:
        assert f"{len(sizes)} levels of {', '.join(words[:-1])} and {words[-1]} codes" in said
    assert train.main(["--data", features, "--epochs", "3", "--resume"]) == 0


def test_sizes_and_levels_that_differ_are_refused(features, capsys):
    message = refused(["--data", features, "--num-embeddings", "4", "8", "--num-quantizers", "3"], capsys)
    assert "--num-embeddings names 2 sizes" in message and "leave --num-quantizers out" in message


@pytest.mark.parametrize("content, code", [
    ('{"epoch": 0, "train_loss": 1.5}\n', 0), ("", 0), ('{"epoch": 0}\n{"epoch": 1}\n', 2), ('{"loss": 3}\n', 2), ("mine\n", 2)],
    ids=["killed in its first epoch", "killed before", "two epochs", "another program's", "no JSON"])
def test_metrics_without_a_checkpoint_are_kept_but_those_of_a_first_epoch(features, capsys, content, code):
    Path("checkpoints").mkdir()
    Path("checkpoints/metrics.jsonl").write_text(content)
    assert train.main(["--data", features, "--epochs", "1", *TINY]) == code
    assert code == 0 or Path("checkpoints/metrics.jsonl").read_text() == content
