"""Faults of the second list, made to happen: what a file may cause, what belongs together, what happens meanwhile."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY
from test_faults import RUN, contents, environment, origin, place, refused, same_run, signalled     # noqa: F401
from rqvae import RqVae, load_semantic_ids
from rqvae.storage.checkpoint import load_checkpoint, save_checkpoint


def rewritten(path, change):
    """A checkpoint of which `change` was made to the content, under right checksums."""
    content = load_checkpoint(path)
    change(content)
    save_checkpoint(content, path)


# ------------------------------------------------------------------ what a file may cause, rows 43 to 49

@pytest.fixture
def pack(place, monkeypatch):
    """A checkpoint whose notes name texts and an encoder that lie beside it; what was loaded of it."""
    loaded = []
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(
        SentenceTransformer=lambda name, **how: loaded.append(name)))
    Path("pack/encoder").mkdir(parents=True)
    Path("pack/encoder/modules.json").write_text("[]")
    Path("pack/texts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    for name in ("best.ckpt", "last.ckpt"):
        Path("pack", name).write_bytes(Path("checkpoints", name).read_bytes())
        rewritten(f"pack/{name}", lambda content: content["rqvae"]["notes"].update(
            data=None, texts="pack/texts.jsonl", text_columns=["text"], encoder="pack/encoder"))
    return loaded


@pytest.mark.parametrize("script, argv", [
    (infer, ["--ckpt", "pack/best.ckpt"]), (infer, ["--ckpt", "pack/best.ckpt", "--report"]),
    (infer, ["--ckpt", "pack/best.ckpt", "--texts", "pack/texts.jsonl"]),
    (train, ["--resume", "pack/last.ckpt"]), (train, ["--resume", "--checkpoint-dir", "pack"]),
])
def test_a_file_that_names_an_encoder_loads_none(pack, capsys, script, argv):
    assert "pack/encoder" in refused(script, argv, capsys)
    assert pack == []


def test_a_p5_folder_and_encoder_that_notes_name_are_not_loaded(pack, capsys, tmp_path):
    def change(content):
        content["rqvae"]["notes"].update(texts=None, text_columns=None, p5="pack", split="beauty")
    rewritten("pack/best.ckpt", change)
    refused(infer, ["--ckpt", "pack/best.ckpt"], capsys)
    assert pack == []


def test_a_folder_that_is_called_like_the_default_encoder_is_not_taken_for_it(place, monkeypatch, capsys):
    from rqvae.items import DEFAULT_ENCODER
    loaded = []
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(
        SentenceTransformer=lambda name, **how: loaded.append(name)))
    Path(DEFAULT_ENCODER).mkdir(parents=True)
    Path("texts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert "has the name of the default encoder" in refused(train, ["--texts", "texts.jsonl", "--checkpoint-dir", "new"], capsys)
    assert loaded == []


NASTY = "\x1b]0;owned\x07\x1b[2J\u202egnp\x9b31m"


@pytest.mark.parametrize("argv", [
    ["--data", f"{NASTY}.npy"], ["--data", f"items{NASTY}.npy"], ["--data", "items.npy", "--key", NASTY],
    ["--device", NASTY], [f"--{NASTY}"], ["--data", "named.npz"], ["--texts", "nasty.csv"], ["--resume", NASTY],
    ["--resume", "names.ckpt"],
])
def test_no_word_of_a_file_or_user_reaches_the_terminal_raw(place, capsys, argv):
    np.savez("named.npz", **{NASTY: np.zeros((2, 2)), "b": np.zeros((2, 2))})
    Path("nasty.csv").write_text(f"{NASTY},b\n1,2\n")
    Path(f"items{NASTY}.npy").write_bytes(b"junk")
    torch.save({"state_dict": {NASTY: torch.zeros(1)}, "hyper_parameters": {}}, "names.ckpt")
    for script in (train, infer):
        script.main(argv)
        captured = capsys.readouterr()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", captured.out + captured.err), captured


def test_names_and_paths_do_not_forge_lines_of_results(place, capsys):
    Path("names.json").write_text(json.dumps([f"name{NASTY}\nWARNING: forged {row}" for row in range(200)]))
    np.save(f"a\nforged{NASTY}.npy", np.load("items.npy"))
    assert infer.main(["--ckpt", "--data", f"a\nforged{NASTY}.npy", "--names", "names.json", "--report"]) == 0
    captured = capsys.readouterr()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", captured.out + captured.err)
    assert not any(line.startswith(("WARNING: forged", "forged")) for line in captured.out.splitlines())


@pytest.mark.parametrize("folder", [f"run\nforged: {NASTY}", "-x", "it's a run"])
def test_names_of_outputs_forge_no_lines_and_hints_can_be_pasted(place, capsys, folder):
    assert train.main(["--data", "items.npy", "--epochs", "0", "--seed", "1", f"--checkpoint-dir={folder}", *TINY]) == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    assert hint.startswith("next: ") and hint.isprintable()
    if shutil.which("bash"):
        typed = subprocess.run(["bash", "-c", f"printf '%s\\0' {hint[6:]}"], capture_output=True).stdout.decode().split("\0")[2:-1]
        assert infer.main([*typed, f"--output={folder}.json"]) == 0 and Path(f"{folder}.json").exists()
        for argv in (["--ids", f"./{folder}.json", "--report", "--against", f"./{folder}.json"], [f"--save-pretrained={folder} 2"],
                     [*typed, f"--report={folder}.html"]):
            assert infer.main(argv) == 0
        captured = capsys.readouterr()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|^forged", captured.out + captured.err, re.M)


def test_an_error_names_a_file_as_it_is_called(place, capsys):
    Path("a  b.npy").write_text("x")
    assert "a  b.npy" in refused(infer, ["--data", "a  b.npy"], capsys)
    assert infer.main(["--data", f"{NASTY}.npy", "--debug"]) == 2
    said = capsys.readouterr().err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert said.startswith("Traceback") and len(said.splitlines()) > 5
    *_, above, last = said.splitlines()
    assert last.startswith("error: ") and above.startswith("    ")          # the message once, below where it was raised


@pytest.mark.parametrize("odd", ["a\tb", "a\nb", "a\r\nb", "a\u2028b", "a\x85b", "a\0b", "a\x0bb"])
def test_item_ids_that_would_forge_lines_are_refused_before_any_work(place, capsys, odd):
    ids = [f"item{row}" for row in range(200)]
    ids[3] = odd
    Path("ids.json").write_text(json.dumps(ids))
    argv = ["--ckpt", "--item-ids", "ids.json", "--data", "items.npy"]
    assert "of row 3 holds a tab or a line break" in refused(infer, [*argv, "--format", "lcrec", "--output", "out"], capsys)
    assert infer.main([*argv, "--output", "out.jsonl"]) == 0            # which spells it
    assert load_semantic_ids("out.jsonl").item_ids == ids


ODD = [("rqvae", value) for value in (7, "x", [1], {"notes": 3}, {"notes": [1]}, {"history": {"a": 1}}, {"epoch": "x"})]
ODD += [(f"rqvae.{name}", value) for name, value in (
    ("history", [1]), ("history", [{"epoch": "x"}]), ("history", [{"epoch": [["a"]]}]), ("history", "x"), ("notes", "x"),
    ("epoch", None), ("epoch", "1"), ("batch", [1]), ("best", "low"), ("fingerprint", 7), ("rng", 1), ("means", [1]),
    ("epoch_rng", "x"), ("format", "new"), ("assign", 3))]
ODD += [(f"rqvae.notes.{name}", value) for name, value in (
    ("preset", "other"), ("preset", 7), ("preset", None), ("val_fraction", "x"), ("val_fraction", None), ("seed", "x"),
    ("seed", 1.5), ("seed", None), ("batch_size", "x"), ("batch_size", None), ("epochs", "x"), ("learning_rate", "fast"),
    ("data", 7), ("data", ["a"]), ("key", 3), ("item_ids", {}), ("texts", 1), ("text_columns", 3), ("encoder", [1]),
    ("held_out", "abc"), ("held_out", ["x"]), ("held_out", [[1]]), ("ancestors", 7), ("ancestors", [7]), ("features_checksum", [1]),
    ("folder", 3), ("item_ids_checksum", {}))]
ODD += [("hyper_parameters", 7), ("hyper_parameters", {}), ("epoch", "x"), ("global_step", None), ("lr_schedulers", [7]),
        ("optimizer_states", [7]), ("optimizer_states", [{"state": 1, "param_groups": []}]), ("state_dict", 7)]
ODD += [(f"hyper_parameters.{name}", value) for name, value in (
    ("learning_rate", "fast"), ("learning_rate", None), ("hidden_dim", "wide"), ("hidden_dim", [[1]]), ("input_dim", 12.0),
    ("num_embeddings", "x"), ("activation", 7), ("activation", "other"), ("num_quantizers", None), ("latent_dim", [8]))]


@pytest.mark.parametrize("where, value", ODD, ids=[f"{where}={value!r}"[:60] for where, value in ODD])
def test_an_odd_field_of_a_checkpoint_is_one_error_or_none(place, capsys, where, value):
    """Well-formed, under right checksums: of 46 such files 13 ended in a traceback."""
    def change(content):
        *path, last = where.split(".")
        for name in path:
            content = content[name]
        content[last] = value

    content = load_checkpoint("checkpoints/last.ckpt")
    change(content)
    Path("best.ckpt").write_bytes(Path("checkpoints/best.ckpt").read_bytes())
    with open("odd.ckpt", "wb") as file:
        torch.save(content, file)
    for script, argv in ((infer, ["--ckpt", "odd.ckpt", "--output", "o.json", "--unique", "none", "--overwrite"]),
                         (train, ["--resume", "odd.ckpt", "--epochs", "3"])):
        code = script.main(argv)
        err = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in err
        assert [line[:7] for line in err.splitlines()].count("error: ") == (code == 2)
        assert code == 0 or "held_out" not in where or "odd.ckpt" in err.split("error: ")[-1], err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_in_a_model_folder_is_refused_and_not_waited_for(tmp_path, name, kind):
    RqVae(5, 6, 4, 8).save_pretrained(tmp_path, safe_serialization=False)
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    done = subprocess.run([sys.executable, "-c", "import sys; from rqvae import RqVae; RqVae.from_pretrained(sys.argv[1])",
                           str(tmp_path)], env=environment(), text=True, capture_output=True, timeout=120)
    assert done.returncode == 1 and re.search("CheckpointError|FileNotFoundError", done.stderr)


@pytest.mark.parametrize("argv", [["--append-to", "pipe", "--data", "items.npy"], ["--append-to", "ids.json", "--data", "items.npy"],
                                  ["--ids", "items.npy", "--against", "pipe", "--report"]], ids=["IDs", "a manifest", "older IDs"])
def test_a_pipe_for_published_ids_or_their_manifest_is_refused_and_not_waited_for(place, capsys, argv):
    assert infer.main(["--ckpt", "--output", "ids.json", "--unique", "suffix"]) == 0
    os.mkfifo("pipe")
    os.unlink("ids.json.manifest")
    os.mkfifo("ids.json.manifest")
    if "--against" in argv:
        os.unlink("ids.json.manifest")
        argv = ["--ids", "ids.json", *argv[2:]]
    words = "is cut off or damaged" if argv[1] == "ids.json" and "--against" not in argv else "is a device or a pipe"
    assert words in refused(infer, ["--ckpt", *argv] if "--ids" not in argv else argv, capsys)


# ------------------------------------------------------------------ what belongs together, rows 50 to 58

def test_of_several_outputs_the_old_set_stays_when_the_disk_fills_up(place, monkeypatch, capsys):
    Path("ids.json").write_text(json.dumps([f"old{row}" for row in range(200)]))
    argv = ["--ckpt", "--data", "items.npy", "--item-ids", "ids.json", "--format", "lcrec", "tiger", "--output", "out"]
    assert infer.main(argv) == 0
    Path("ids.json").write_text(json.dumps([f"new{row}" for row in range(200)]))
    before, opened = contents(), []
    original = os.fsync

    def full(handle):
        opened.append(handle)
        if len(opened) == 4:
            raise OSError(28, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert infer.main([*argv, "--overwrite"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert contents() == before


def test_a_folder_with_another_model_is_not_destroyed_unasked(place, capsys):
    Path("bert").mkdir()
    for name in ("pytorch_model.bin", "model.safetensors"):
        Path("bert", name).write_bytes(b"precious")
        assert "--overwrite" in refused(infer, ["--ckpt", "--save-pretrained", "bert"], capsys)
        Path("bert", name).unlink()
    Path("bert/config.json").write_text('{"model_type": "bert"}')
    assert "--overwrite" in refused(infer, ["--ckpt", "--save-pretrained", "bert"], capsys)
    with pytest.raises(FileExistsError, match="holds a model of another kind .'bert' in config.json"):
        RqVae(5, 6, 4, 8).save_pretrained("bert")
    assert infer.main(["--ckpt", "--save-pretrained", "bert", "--overwrite"]) == 0
    RqVae.from_pretrained("bert").save_pretrained("bert")           # ours is replaced without a word


@pytest.mark.parametrize("safe", [False, None])
def test_weights_and_configuration_that_are_no_pair_are_refused(tmp_path, safe):
    one, other = RqVae(5, 6, 4, 8), RqVae(5, 6, 4, 8, activation="gelu")
    one.save_pretrained(tmp_path / "one", safe_serialization=safe)
    other.save_pretrained(tmp_path / "other", safe_serialization=safe)
    weights = next(path for path in (tmp_path / "one").iterdir() if path.suffix in (".bin", ".safetensors"))
    (tmp_path / "other" / weights.name).write_bytes(weights.read_bytes())
    with pytest.raises(ValueError, match=f"{weights.name} does not belong to config.json"):
        RqVae.from_pretrained(tmp_path / "other")
    config = tmp_path / "one" / "config.json"                       # of before, or of others: no pair is named
    content = json.loads(config.read_text())
    del content["weights"]
    config.write_text(json.dumps(content))
    RqVae.from_pretrained(tmp_path / "one")


@pytest.mark.parametrize("when, call", [
    ("rqvae.recipe.initialization.kmeans", 1), ("RqVae.training_step", 1), ("rqvae.storage.checkpoint.write_atomically", 1),
    ("rqvae.storage.checkpoint.write_atomically", 2)], ids=["k-means", "first step", "first save", "second save"])
def test_a_run_killed_while_it_replaces_another_is_not_taken_for_it(place, monkeypatch, capsys, when, call):
    again = [*RUN, "--checkpoint-dir", "checkpoints", "--epochs", "2", "--seed", "5", "--overwrite"]
    child = os.fork()
    if child == 0:
        signalled(monkeypatch, when, signal.SIGKILL, call)
        train.main(again)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    capsys.readouterr()
    code = train.main(["--resume", "--epochs", "2"])
    if call == 1:
        assert code == 2 and "there is no run to resume in checkpoints" in capsys.readouterr().err
        assert Path("checkpoints/earlier-last.ckpt").exists()
    else:                                               # best.ckpt of the new one stands
        assert code == 0 and load_checkpoint("checkpoints/last.ckpt")["rqvae"]["notes"]["seed"] == 5
    if call == 1:
        assert train.main(again) == 0
    assert load_checkpoint("checkpoints/best.ckpt")["rqvae"]["notes"]["seed"] == 5
    assert sorted(os.listdir("checkpoints")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"]


def test_a_run_killed_while_it_sets_another_aside_leaves_that_one(place, monkeypatch):
    before = contents("checkpoints")
    child = os.fork()
    if child == 0:
        replace, calls = os.replace, []

        def killing(source, target):
            replace(source, target)
            if "earlier-" in str(target):
                os.kill(os.getpid(), signal.SIGKILL)
        monkeypatch.setattr(os, "replace", killing)
        train.main([*RUN, "--checkpoint-dir", "checkpoints", "--epochs", "2", "--overwrite"])
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert train.main(["--resume", "--epochs", "3"]) == 0           # nothing to do
    after = contents("checkpoints")
    assert after.keys() - {"checkpoints/.lock"} == before.keys()
    assert all(after[name] == before[name] for name in before if name.endswith(".ckpt"))


def test_a_new_run_that_fails_before_its_first_save_puts_the_old_one_back(place, monkeypatch, capsys):
    before = contents("checkpoints")
    monkeypatch.setattr(RqVae, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    assert train.main([*RUN, "--checkpoint-dir", "checkpoints", "--epochs", "2", "--overwrite"]) == 1
    assert contents("checkpoints") == before                    # its metrics as well


@pytest.mark.parametrize("token, expected", [(None, 5), ("of now", 7)])
def test_what_torchrun_starts_again_takes_only_files_of_its_own_run(place, monkeypatch, capsys, token, expected):
    """Killed before its first save, a worker that was told to replace a run resumed that run."""
    from rqvae import distributed
    rewritten("checkpoints/last.ckpt", lambda content: content["rqvae"]["notes"].update(launch=token))
    monkeypatch.setattr(distributed, "restarted", lambda: True)
    monkeypatch.setattr(distributed, "launch", lambda: "of now")
    assert train.main(["--data", "items.npy", *TINY, "--epochs", str(expected), "--overwrite"]) == 0
    steps = load_checkpoint("checkpoints/last.ckpt")["rqvae"]["history"]
    resumed = "Training" in capsys.readouterr().out and len(steps) == expected
    assert resumed and load_checkpoint("checkpoints/last.ckpt")["rqvae"]["notes"]["launch"] == "of now"


# --------------------------------------------------------------- what happens meanwhile, rows 59 to 67

@pytest.mark.parametrize("how", ["saved again", "cut off", "renamed over", "written into"])
@pytest.mark.parametrize("script", [train, infer], ids=["train", "infer"])
def test_a_feature_file_that_changes_under_the_work_is_an_error_and_nothing_is_written(
        place, monkeypatch, capsys, script, how):
    rows = np.tile(np.load("items.npy"), (20, 1))
    np.save("more.npy", rows)

    def change(*_):
        if how == "saved again":
            np.save("more.npy", rows[::-1])
        elif how == "cut off":
            os.truncate("more.npy", 5000)
        elif how == "renamed over":
            np.save("other.npy", rows[::-1])
            os.replace("other.npy", "more.npy")
        else:
            with open("more.npy", "r+b") as file:
                file.seek(5000)
                file.write(np.float32(np.nan).tobytes())

    from rqvae.items.tables import FeatureTable
    checked = FeatureTable.check
    monkeypatch.setattr(FeatureTable, "check", lambda self, *a, **k: (checked(self, *a, **k), change())[0])
    argv = [*RUN, "--epochs", "1", "--data", "more.npy"] if script is train else ["--ckpt", "--data", "more.npy"]
    code, err = script.main(argv), capsys.readouterr().err
    if how == "renamed over" and code == 0:             # the file that was opened is read to its end
        return
    assert code in (1, 2) and re.search("changed or replaced while in use|cut short while in use", err), err
    assert not Path("semantic_ids.json").exists() and not Path("run/last.ckpt").exists()


def test_features_that_change_once_the_ids_are_made_leave_none(place, monkeypatch, capsys):
    """What a command shows at its end reads them again: it ended with 2, and the IDs stood there."""
    from rqvae.ids import publishing
    written = publishing.write_outputs
    monkeypatch.setattr("rqvae.cli.infer.write_outputs", lambda *a, **k: (written(*a, **k), os.truncate("items.npy", 5000))[0])
    before = sorted(contents())
    assert infer.main(["--ckpt", "--data", "items.npy"]) == 2
    said = capsys.readouterr().err
    assert sorted(contents()) == before and "items.npy ends before byte" in said and "cut short while in use" in said


@pytest.mark.parametrize("name", ["encoder.layers.0.weight", "quantizer.levels.1.embeddings.weight", "feature_scale",
                                  "decoder.layers.0.bias", "feature_mean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_weights_that_are_no_numbers_is_refused(place, capsys, name, value):
    rewritten("checkpoints/last.ckpt", lambda content: content["state_dict"][name].view(-1)[-1:].fill_(value))
    words = f"checkpoints/last.ckpt: 1 of its weights hold NaN, Inf, a scale of 0, a share below 0 or codes beyond 1e+15 ({name})"
    assert words in refused(infer, ["--ckpt", "checkpoints/last.ckpt"], capsys)
    assert words in refused(train, ["--resume", "checkpoints/last.ckpt", "--epochs", "4"], capsys)


@pytest.mark.parametrize("name, value, words", [
    ("encoder.layers.0.weight", 1e300, "hold NaN"), ("quantizer.levels.0.embeddings.weight", 1e20, "hold NaN"),
    ("column_scale", 0.0, "hold NaN"), ("encoder.layers.0.bias", 1e30, "no code is nearest"),
    ("encoder.linear.weight", 3e38, "no code is nearest"), ("feature_scale", 1e-40, "no code is nearest"),
    ("latent_share", -10.0, "hold NaN")])
def test_weights_that_are_numbers_and_make_none_are_refused(place, capsys, name, value, words):
    """Doubles beyond float32, and what overflows on the way: all such items got codes that were none of theirs."""
    def change(content):
        values = content["state_dict"][name] = content["state_dict"][name].double()
        values.view(-1)[-1:].fill_(value)
    rewritten("checkpoints/last.ckpt", change)
    assert words in refused(infer, ["--ckpt", "checkpoints/last.ckpt", "--data", "items.npy", "--output", "ids.json"], capsys)
    assert not Path("ids.json").exists()


def test_an_output_that_appears_during_the_work_is_left_as_it_is(place, monkeypatch, capsys):
    from rqvae.cli import infer as command
    original = command.batch_inference
    for name, argv in (("ids.json", ["--output", "ids.json"]), ("out/tiger.npy", ["--format", "tiger", "--output", "out"])):
        def meanwhile(*arguments):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(b"of another")
            return original(*arguments)
        monkeypatch.setattr(command, "batch_inference", meanwhile)
        assert infer.main(["--ckpt", "--data", "items.npy", *argv]) == 1
        assert re.search("appeared or was changed while this was at work|exists; choose another name", capsys.readouterr().err)
        assert Path(name).read_bytes() == b"of another" and len(os.listdir(Path(name).parent)) in (1, 3)


@pytest.mark.parametrize("name, place_, argv", [
    ("page.html", "rqvae.cli.infer.batch_inference", ["--output", "ids.json", "--report", "page.html"]),
    ("ids.json.manifest", "rqvae.cli.infer.batch_inference", ["--output", "ids.json"]),
    ("model.pt2", "rqvae.cli.infer.export_program", ["--export", "model.pt2"]),
    ("out/config.json", "RqVae.save_pretrained", ["--save-pretrained", "out"]),
    ("pub.json", "rqvae.cli.infer.batch_inference", ["--output", "pub.json", "--overwrite"]),
    ("pub.json", "rqvae.cli.infer.batch_inference", ["--append-to", "pub.json", "--output", "pub.json", "--overwrite",
                                                     "--item-ids", "new.json"]),
], ids=["a page", "a manifest", "a program", "a model folder", "replaced meanwhile", "published meanwhile"])
def test_whatever_others_put_where_a_command_will_write_is_left_as_it_is(place, monkeypatch, capsys, name, place_, argv):
    """Two that appended to one table at once both ended well, and the items of the first were gone."""
    Path("old.json").write_text(json.dumps([f"old{row}" for row in range(200)]))
    Path("new.json").write_text(json.dumps([f"new{row}" for row in range(200)]))
    assert infer.main(["--ckpt", "--data", "items.npy", "--item-ids", "old.json", "--output", "pub.json"]) == 0
    module, function = place_.rsplit(".", 1)
    holder = RqVae if module == "RqVae" else sys.modules[module]
    original = getattr(holder, function)

    def meanwhile(*arguments, **options):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b'{"of": "another"}')
        return original(*arguments, **options)
    monkeypatch.setattr(holder, function, meanwhile)
    before = contents()
    assert infer.main(["--ckpt", "--data", "items.npy", *argv]) == 1
    assert re.search("appeared or was changed while this was at work, and was left as it is|holds a model of another kind",
                     capsys.readouterr().err)
    assert contents() == {**before, name: b'{"of": "another"}'}


def test_a_run_that_appears_in_the_folder_after_the_look_is_left_as_it_is(place, monkeypatch, capsys):
    from rqvae.cli import train as command
    original = command.open_named

    def meanwhile(*arguments, **options):
        Path("run").mkdir(exist_ok=True)
        for name in ("last.ckpt", "best.ckpt"):
            Path("run", name).write_bytes(Path("checkpoints", name).read_bytes())
        return original(*arguments, **options)
    monkeypatch.setattr(command, "open_named", meanwhile)
    assert train.main([*RUN, "--epochs", "1"]) == 2
    assert "already holds last.ckpt and best.ckpt of an earlier run" in capsys.readouterr().err
    assert Path("run/last.ckpt").read_bytes() == Path("checkpoints/last.ckpt").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_terminal_that_closes_ends_a_run_as_sigterm_does(place, monkeypatch, capsys):
    assert train.main([*RUN, "--checkpoint-dir", "straight", "--epochs", "2"]) == 0
    signalled(monkeypatch, "RqVae.training_step", signal.SIGHUP, 8)
    assert train.main([*RUN, "--epochs", "2"]) == 129
    assert "Stopped by SIGHUP; saved." in capsys.readouterr().out
    assert train.main(["--resume", "run/last.ckpt"]) == 0
    assert same_run("run", "straight")
    signalled(monkeypatch, "rqvae.inference.chunk_ids", signal.SIGHUP, 1)
    assert infer.main(["--ckpt"]) == 129 and not Path("semantic_ids.json").exists()


@pytest.mark.parametrize("argv, words", [
    (["--report", "folder.html"], "--report is folder.html, a folder"),
    (["--output", "n" * 300 + ".json"], "name too long"),
    (["--format", "lcrec", "--output", "n" * 300 + ".json"], "name too long"),
    (["--save-pretrained", "n" * 300], "name too long"), (["--report", "n" * 300 + ".html"], "name too long"),
    (["--output", "circle.json"], "Too many levels of symbolic links"),
])
def test_places_that_cannot_be_written_are_refused_before_the_work(place, capsys, argv, words):
    Path("folder.html").mkdir()
    Path("circle.json").symlink_to("circle.json")
    assert words in refused(infer, ["--ckpt", *argv], capsys)


@pytest.mark.parametrize("argv, named", [
    (["--data", "items.npy", "--output", "items.npy"], "--data is items.npy"), (["--output", "items.npy"], "--data is "),
    (["--data", "here", "--output", "here/items.npy"], "--data is here"), (["--data", "it*s.npy", "--output", "items.npy"], "--data is "),
    (["--data", "items.npy", "--item-ids", "ids.json", "--output", "ids.json"], "--item-ids is ids.json"),
    (["--names", "ids.json", "--output", "link.json"], "--names is ids.json"),
    (["--data", "items.npy", "--output", "model/config.json", "--save-pretrained", "model"], "is of the model folder, and another output")])
def test_what_a_command_reads_it_does_not_write_over(place, capsys, argv, named):
    Path("ids.json").write_text(json.dumps([f"item{row}" for row in range(200)]))
    Path("here").mkdir()
    Path("here/items.npy").write_bytes(Path("items.npy").read_bytes())
    Path("link.json").symlink_to("ids.json")
    before = contents()
    assert named in refused(infer, ["--ckpt", *argv, "--overwrite"], capsys)
    assert contents() == before


def test_a_run_does_not_replace_the_one_that_it_goes_on_from(place, capsys):
    assert infer.main(["--ckpt", "--output", "ids.json"]) == 0
    before = contents()
    argv = ["--from", "checkpoints/best.ckpt", "--keep", "ids.json", "--data", "items.npy", "--epochs", "1", "--overwrite"]
    assert "--from is checkpoints/best.ckpt, which this run would replace" in refused(train, argv, capsys)
    assert contents() == before


@pytest.mark.parametrize("script, option", [
    (train, "data"), (train, "checkpoint_dir"), (train, "resume"), (infer, "data"), (infer, "output"), (infer, "ckpt"), (infer, "names")])
@pytest.mark.parametrize("value, words", [("", "is empty"), ("a\0b", "holds a NUL"), ("a\ud800", "holds half a character")])
def test_what_is_no_name_is_told_by_its_option(place, capsys, script, option, value, words):
    """An empty --data was the built-in catalogue, an empty --checkpoint-dir the current folder. In a file of options
    the file is named, and not an option that nobody typed."""
    flag = f"--{option.replace('_', '-')}"
    if (value, option) != ("", "resume"):           # which is --resume alone
        assert f"{flag} is" in (said := refused(script, [f"{flag}={value}"], capsys)) and words in said
        for written in (value, [value]) if option in ("data",) else (value,):
            Path("config.json").write_text(json.dumps({option: written}))
            said = refused(script, ["--config", "config.json"], capsys)
            assert f"config.json sets {option} to" in said and "--" not in said
            assert ("a name without a NUL or half a character" if value else "a text that is not empty") in said


def test_more_levels_than_a_form_has_letters_for_are_refused_before_the_work(place, capsys):
    assert train.main(["--data", "items.npy", "--epochs", "1", "--preset", "documented", "--num-quantizers", "27",
                       "--checkpoint-dir", "deep", *TINY]) == 0
    for output in (["--output", "a.json"], ["--output", "a.jsonl"], ["--format", "openonerec"], ["--format", "lcrec"]):
        pytest.importorskip("pyarrow")
        assert "level" in refused(infer, ["--ckpt", "deep/best.ckpt", "--unique", "none", *output], capsys)
    assert infer.main(["--ckpt", "deep/best.ckpt", "--output", "a.npy"]) == 0


def test_what_a_killed_infer_left_is_gone_after_the_next(place, monkeypatch):
    child = os.fork()
    if child == 0:
        signalled(monkeypatch, "rqvae.ids.files.to_tokens", signal.SIGKILL, 1)
        infer.main(["--ckpt", "--output", "out/ids.json"])
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert len(list(Path("out").glob(".*.tmp"))) == 1
    assert infer.main(["--ckpt", "--output", "out/ids.json"]) == 0
    assert sorted(os.listdir("out")) == ["ids.json", "ids.json.manifest"] and len(load_semantic_ids("out/ids.json").codes) == 200


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("preset", ["tiger", "documented", "closed"])
def test_one_or_two_rows_are_trained_on(place, rows, preset):
    np.save("few.npy", np.load("items.npy")[:rows])
    assert train.main(["--data", "few.npy", "--epochs", "2", "--preset", preset, "--checkpoint-dir", "few", *TINY]) == 0
    assert infer.main(["--ckpt", "few/best.ckpt", "--output", "few.npz.npy"]) == 0
    assert load_semantic_ids("few.npz.npy").codes.shape[0] == rows
    assert train.main(["--data", "few.npy", "--epochs", "1", "--preset", preset, "--checkpoint-dir", "wide"]) == 0   # as large as by default


@pytest.mark.parametrize("rows", [np.ones((1, 12)), np.full((3, 12), 2.5), np.arange(8.0).reshape(2, 4)], ids=["one", "equal", "two"])
def test_few_items_or_equal_ones_go_through_every_command(place, capsys, rows):
    """Of one item there was no page, of equal ones no training on several embeddings and no program."""
    pytest.importorskip("onnx")
    pytest.importorskip("matplotlib")
    np.save("few.npy", rows.astype(np.float32))
    np.save("grown.npy", np.concatenate([rows, rows[:1] + 1]).astype(np.float32))
    np.save("new.npy", rows[:1].astype(np.float32) + 1)
    for name, ids in (("few", range(len(rows))), ("grown", [*range(len(rows)), "new"]), ("new", ["new"])):
        Path(f"{name}.json").write_text(json.dumps([f"item{number}" for number in ids]))
    few = ["--data", "few.npy", "--item-ids", "few.json"]
    grown = ["--data", "grown.npy", "--item-ids", "grown.json"]
    for script, argv in (
            (train, [*few, "--epochs", "1", "--checkpoint-dir", "few"]),
            (train, ["--data", "few.npy", "few.npy", "--epochs", "1", "--checkpoint-dir", "twice"]),
            (infer, ["--ckpt", "few/best.ckpt", "--output", "few.ids.json"]),
            (infer, ["--ckpt", "few/best.ckpt", "--report", "few.html"]), (infer, ["--ckpt", "few/best.ckpt", "--report", "few.png"]),
            (infer, ["--ids", "few.ids.json", "--report", *few]), (infer, ["--ckpt", "few/best.ckpt", "--verify", "few.ids.json"]),
            (infer, ["--ckpt", "few/best.ckpt", "--export", "few.onnx"]),
            (infer, ["--ckpt", "few/best.ckpt", "--data", "new.npy", "--item-ids", "new.json", "--append-to", "few.ids.json",
                     "--output", "more.json"]),
            (train, [*grown, "--from", "few/best.ckpt", "--keep", "few.ids.json", "--epochs", "1", "--checkpoint-dir", "kept"]),
            (infer, [*grown, "--ckpt", "kept/best.ckpt", "--append-to", "few.ids.json", "--output", "kept.json"])):
        code = script.main(argv)
        said = capsys.readouterr()
        assert code == 0 and not re.search(r"\bnan\b", said.out + said.err), (argv, said)
