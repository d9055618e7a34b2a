"""Faults that are made to happen: what a user gets, and that nothing is lost. The long ones are in campaigns/."""

import contextlib
import io
import json
import os
import pickle
import random
import shlex
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import clustered, in_a_process, TINY
from rqvae import FeatureLoader, RqVae, open_features
from rqvae.storage import files, locks
from rqvae.storage.checkpoint import build_checkpoint, load_checkpoint, save_checkpoint
from rqvae.ids.imports import import_semantic_ids
from rqvae.items.identifiers import load_item_ids

ROWS = clustered(200).numpy()
RUN = ["--data", "items.npy", "--checkpoint-dir", "run", "--val-fraction", "0.2", *TINY]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A folder with 200 items of 12 features, and a run of 3 epochs on them in checkpoints/."""
    folder = tmp_path_factory.mktemp("origin")
    before = os.getcwd()
    os.chdir(folder)
    np.save("items.npy", ROWS)
    assert train.main(["--data", "items.npy", "--epochs", "3", *TINY]) == 0
    os.chdir(before)
    return folder


@pytest.fixture
def place(origin, tmp_path, monkeypatch):
    """A folder of one's own, the current one, with copies of `origin`'s files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("items.npy", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/metrics.jsonl"):
        (tmp_path / name).write_bytes((origin / name).read_bytes())
    return tmp_path


def contents(folder="."):
    """path -> bytes of every regular file below `folder`."""
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def refused(script, argv, capsys, code=2):
    """Run a script that must refuse: one line on stderr, nothing changed on disk. Gives the line."""
    before = contents()
    capsys.readouterr()
    assert script.main(argv) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert contents() == before
    return lines[0]


def same_run(one, other):
    """Whether two runs ended alike to the bit: weights, optimizer, history, and the best checkpoint."""
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (load_checkpoint(Path(folder, name)) for folder in (one, other))
        for extra in (a, b):
            extra["rqvae"].pop("notes")                             # which folder it was, and the like
            for row in extra["rqvae"]["history"]:
                row.pop("seconds")
        if not _equal(a, b):
            return False
    return True


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


# ------------------------------------------------------------------------------ feature files, row 1 to 24

class Malice:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def torch_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def ragged():
    rows = np.empty(2, object)
    rows[:] = [[1.0], [1.0, 2.0]]
    return rows


def changed(row, column, value, dtype=np.float32):
    rows = ROWS.astype(dtype)
    rows[row, column] = value
    return rows


UNUSABLE = {
    "empty.npy": (b"", "the file is empty"),
    "cut.npy": (npy(ROWS)[:5000], "has 5000 bytes, its header promises 9728"),
    "text.npy": (b"1.0,2.0\n3.0,4.0\n", "is not a .npy file: starts with b'1.0,2.0"),
    "pickle.npy": (pickle.dumps(Malice()), "this is a Python pickle, which can run code"),
    "lfs.npy": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
    "page.npy": (b"<!DOCTYPE html><html>log in</html>", "this is an HTML page"),
    "zeros.npy": (bytes(4096), "begins with zeros"),
    "ragged.npy": (npy(ragged()), "rows of unequal length"),
    "hostile.npy": (npy(np.array([Malice()], object)), "never opened, because reading them can run code"),
    "words.npy": (npy(np.array([["a", "b"]])), "holds text"),
    "flags.npy": (npy(ROWS > 0), "holds booleans"),
    "complex.npy": (npy(ROWS.astype(complex)), "holds complex numbers"),
    "dates.npy": (npy(np.zeros((4, 3), "M8[s]")), "holds dates"),
    "records.npy": (npy(np.zeros(4, [("a", "f4")])), "holds records"),
    "flat.npy": (npy(ROWS.ravel()), "has shape (2400,); expected (items, width)"),
    "cube.npy": (npy(ROWS.reshape(50, 4, 12)), "has shape (50, 4, 12); expected (items, width)"),
    "rowless.npy": (npy(ROWS[:0]), "holds no features"),
    "columnless.npy": (npy(ROWS[:, :0]), "holds no features"),
    "nan.npy": (npy(changed([7, 30], 2, np.nan)), "has NaN or Inf in 2 of 200 rows (7, 30)"),
    "inf.npy": (npy(changed(199, 11, -np.inf)), "has NaN or Inf in 1 of 200 rows (199)"),
    "huge.npy": (npy(changed(0, 0, 1e30)), "numbers as large as 1e+30, whose squares overflow float32; scale"),
    "double.npy": (npy(changed(0, 0, 1e300, np.float64)), "scale the features first"),
    "two.npz": (npz(a=ROWS, b=ROWS), "holds several arrays: 'a', 'b'; say which"),
    "two.pt": (torch_bytes({"a": torch.zeros(3, 2), "b": torch.zeros(3, 2)}), "holds several tensors: 'a', 'b'"),
    "hostile.pt": (torch_bytes([Malice()]), "asks for posix.mkdir, which could run code"),
    "cut.pt": (torch_bytes(torch.zeros(50, 12))[:900], "truncated or damaged"),
    "table.csv": (b"1,2\n", "has the suffix '.csv'"),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("script", [train, infer], ids=["train", "infer"])
def test_an_unusable_feature_file_ends_in_one_sentence_before_any_work(script, name, place, capsys):
    content, words = UNUSABLE[name]
    Path(name).write_bytes(content)
    where = ["--checkpoint-dir", "new"] if script is train else ["--ckpt"]
    message = refused(script, [*where, "--data", name], capsys)
    assert name in message and words in message
    assert "Traceback" not in message and "allow_pickle" not in message and not os.path.exists("code-ran")


@pytest.mark.parametrize("script", [train, infer], ids=["train", "infer"])
def test_what_is_no_file_is_refused_as_well(script, place, capsys):
    os.mkdir("folder")
    where = ["--checkpoint-dir", "new"] if script is train else ["--ckpt"]
    assert "did you mean items.npy?" in refused(script, [*where, "--data", "item.npy"], capsys)
    assert "is a folder without feature files" in refused(script, [*where, "--data", "folder"], capsys)
    assert "no file matches" in refused(script, [*where, "--data", "part_*.npy"], capsys)
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.npy")
        assert "is a device or a pipe" in refused(script, [*where, "--data", "pipe.npy"], capsys)


@pytest.mark.parametrize("ids, words", [
    ([f"item-{row}" for row in range(199)], "ids.json has 199 item IDs, the features have 200 rows"),
    (["a", "a", *range(198)], "has the item ID 'a' 2 times, first for row 0"),
])
def test_item_ids_that_do_not_fit_are_refused_before_any_output(place, capsys, ids, words):
    Path("ids.json").write_text(json.dumps(ids))
    assert words in refused(infer, ["--ckpt", "--item-ids", "ids.json"], capsys)
    assert words in refused(train, ["--data", "items.npy", "--item-ids", "ids.json", "--checkpoint-dir", "new"], capsys)


UNUSUAL = {
    "half": (ROWS.astype(np.float16), ""),
    "double": (ROWS.astype(np.float64), ""),
    "big-endian": (ROWS.astype(">f4"), ""),
    "columns": (np.asfortranarray(ROWS), ""),
    "integers": (np.round(ROWS * 100).astype(np.int16), "has integer features"),
    "middle-axis": (ROWS[:, None, :], "its axis of size 1 is dropped"),
    "constant-column": (changed(slice(None), 3, 0.5), "has 1 constant columns of 12 (3)"),
    "zero-row": (changed(5, slice(None), 0), "has 1 row of zeros only (5)"),
    "one-row": (ROWS[:1], ""),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_features_are_used_and_what_is_doubtful_is_warned_of(name, place, capsys):
    array, words = UNUSUAL[name]
    np.save("unusual.npy", array)
    capsys.readouterr()
    assert infer.main(["--ckpt", "--data", "unusual.npy", "--output", "ids.npy", "--unique", "none"]) == 0
    err = capsys.readouterr().err
    assert words in err and ("warning" in err) == bool(words)
    model = RqVae.load_from_checkpoint("checkpoints/best.ckpt")
    rows = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32).reshape(-1, 12))
    assert np.array_equal(np.load("ids.npy"), model.generate_semantic_ids(rows).numpy())


def test_a_read_only_memory_map_with_negative_strides_is_used_without_a_word(place):
    reversed_rows = np.load("items.npy", mmap_mode="r")[::-1, ::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = next(iter(FeatureLoader(reversed_rows, 200)))
    assert np.array_equal(batch["features"].numpy(), ROWS[::-1, ::-1])


def test_fewer_rows_than_codes_train_with_a_warning_of_both_numbers(place, capsys):
    np.save("few.npy", ROWS[:5])
    assert train.main(["--data", "few.npy", "--epochs", "2", "--checkpoint-dir", "new", *TINY]) == 0
    assert "5 rows to train on are fewer than the 8 codes" in capsys.readouterr().err       # of so few none is held out


# ------------------------------------------------------------------------------ checkpoints, row 29 to 32

def flipped(content):
    """One bit of a weight turned over: the longest run of bytes in the file that looks like one."""
    weight = load_checkpoint("checkpoints/last.ckpt")["state_dict"]["encoder.layers.0.weight"].numpy().tobytes()
    place = content.index(weight) + len(weight) // 2
    return content[:place] + bytes([content[place] ^ 64]) + content[place + 1:]


BROKEN = {
    "empty": (lambda content: b"", "the file is empty"),
    "cut": (lambda content: content[:-len(content) // 3], "truncated or damaged"),
    "flipped": (flipped, "Bad CRC-32"),
    "foreign": (lambda content: npy(ROWS), "this is a .npy array"),
    "page": (lambda content: b"<html>", "an HTML page"),
    "hostile": (lambda content: torch_bytes({"state_dict": Malice()}), "asks for posix.mkdir, which could run code"),
    "pickle": (lambda content: pickle.dumps(Malice()), "could run code"),
    "no-dict": (lambda content: torch_bytes(torch.zeros(3)), "not a checkpoint dict"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("script", [train, infer], ids=["resume", "infer"])
def test_a_file_that_is_no_good_checkpoint_ends_in_one_sentence(script, name, place, capsys):
    damage, words = BROKEN[name]
    Path("broken.ckpt").write_bytes(damage(Path("checkpoints/last.ckpt").read_bytes()))
    argv = ["--resume", "broken.ckpt"] if script is train else ["--ckpt", "broken.ckpt"]
    message = refused(script, argv, capsys)
    assert "broken.ckpt" in message and words in message and not os.path.exists("code-ran")


def test_weights_alone_cannot_be_resumed_from(place, capsys):
    found = load_checkpoint("checkpoints/last.ckpt")
    save_checkpoint(build_checkpoint(epoch=0, global_step=0, state_dict=found["state_dict"],
                                     hyper_parameters=found["hyper_parameters"]), "weights.ckpt")
    assert "holds weights but no optimizer state" in refused(train, ["--resume", "weights.ckpt"], capsys)


def test_a_resume_finds_its_way_when_both_checkpoints_are_damaged(place, capsys):
    for name in ("last", "best"):
        Path(f"checkpoints/{name}.ckpt").write_bytes(b"")
    assert "best.ckpt is no checkpoint: the file is empty" in refused(train, ["--resume"], capsys)


# ------------------------------------------------------------------ disks that are full or read-only, row 33 to 35

ON_A_SMALL_DISK = """
import contextlib, importlib.util, io, json, os, resource, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import train, infer
from rqvae.ids.exports import export_semantic_ids
from rqvae import RqVae
place, tiny, results = Path(sys.argv[1]), sys.argv[2].split(), {}
os.chdir(place)
os.mkdir("disk")
run = ["--data", "items.npy", "--checkpoint-dir", "disk/run", *tiny]

def contents():
    return {str(path): path.read_bytes() for path in Path("disk").rglob("*") if path.is_file()}

def mount(*options):
    subprocess.run(["mount", *options, "disk"], check=True)

def leave(pages):
    with open("disk/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
        filler.truncate(max(0, filler.tell() // 4096 * 4096 - pages * 4096))

def attempt(name, act):
    before = contents()
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = act()
    lines = [line for line in said.getvalue().splitlines() if line.startswith(("error", "Traceback"))]
    after = contents()
    results[name] = [code, lines, [path for path in before if after.get(path) != before[path]],
                     [path for path in after if path not in before]]

mount("-t", "tmpfs", "-o", "size=1m", "none")
assert train.main([*run, "--epochs", "2"]) == 0
for name in ("ids.npy", "ids.json", "ids.jsonl"):
    Path("disk", name).write_text("precious")
EXPORTS = {"lcrec": "lcrec.json", "grid": "grid.pt", "tiger": "tiger.npy", "semantic-id": "semantic-id.txt"}
if importlib.util.find_spec("pyarrow"):
    EXPORTS["openonerec"] = "openonerec.parquet"
for name in EXPORTS.values():
    Path("disk", name).write_text("precious")
os.mkdir("disk/folder")
model = RqVae.load_from_checkpoint("checkpoints/best.ckpt")
model.save_pretrained("disk/folder", safe_serialization=False)

leave(3)
attempt("train", lambda: train.main(["--resume", "disk/run/last.ckpt", "--epochs", "4"]))
leave(1)
for suffix in ("npy", "json", "jsonl"):
    attempt(suffix, lambda: infer.main(["--ckpt", "--overwrite", "--output", f"disk/ids.{suffix}"]))
codes = np.random.default_rng(0).integers(0, 8, (2000, 3))
for format, file in EXPORTS.items():
    def export():
        try:
            export_semantic_ids(codes, format, f"disk/{file}", num_embeddings=8, overwrite=True)
        except OSError as error:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
    attempt(format, export)
def save_folder():
    try:
        RqVae(64, 64, 8, 8).save_pretrained("disk/folder", safe_serialization=False)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
attempt("folder", save_folder)
leave(0)
attempt("train at the start", lambda: train.main([*run[:2], "--checkpoint-dir", "disk/new", *tiny]))
attempt("infer at the start", lambda: infer.main(["--ckpt", "--output", "disk/new.json"]))
os.remove("disk/filler")
results["afterwards"] = train.main(["--resume", "disk/run/last.ckpt", "--epochs", "4"])
shutil.copytree("disk/run", "resumed")

mount("-o", "remount,ro")
attempt("train read-only", lambda: train.main([*run[:2], "--checkpoint-dir", "disk/new", *tiny]))
attempt("resume read-only", lambda: train.main(["--resume", "disk/run/last.ckpt", "--epochs", "6"]))
attempt("infer read-only", lambda: infer.main(["--ckpt", "--output", "disk/new.json"]))
subprocess.run(["umount", "disk"], check=True)

shutil.copytree("resumed", "disk/run")
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
attempt("train with a file limit", lambda: train.main(["--resume", "disk/run/last.ckpt", "--epochs", "6"]))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
attempt("infer with a file limit", lambda: infer.main(["--ckpt", "--output", "disk/new.json"]))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
json.dump(results, open("results.json", "w"))
"""


@pytest.fixture(scope="module")
def small_disk(origin, tmp_path_factory):
    """What came of everything in ON_A_SMALL_DISK: name -> exit code, error lines, files changed, files added."""
    probe = "mkdir -p {0} && mount -t tmpfs -o size=1m none {0} && mount -o remount,ro {0}"
    folder = tmp_path_factory.mktemp("small")
    try:
        subprocess.run(["unshare", "-rm", "sh", "-c", probe.format(folder / "probe")], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine gives no mount namespace to make a small disk in ({error})")
    (folder / "checkpoints").mkdir()
    for name in ("items.npy", "checkpoints/best.ckpt"):
        (folder / name).write_bytes((origin / name).read_bytes())
    command = ["unshare", "-rm", sys.executable, "-c", ON_A_SMALL_DISK, str(folder), " ".join(TINY)]
    done = subprocess.run(command, env=environment(), cwd=Path(train.__file__).parent, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "results.json").read_text())


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(train.__file__).parent), "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("name, words", [
    ("train", "error: disk/run/best.ckpt: No space left on device"),
    ("npy", "error: disk/ids.npy: it could not be written whole, as on a full disk (600 requested and 496 written)"),
    ("json", "error: disk/ids.json: No space left on device"),
    ("jsonl", "error: disk/ids.jsonl: No space left on device"),
    ("lcrec", "error: disk/lcrec.json: No space left on device"),
    ("grid", "error: disk/grid.pt: No space left on device"),
    ("tiger", "error: disk/tiger.npy: it could not be written whole, as on a full disk "
              "(8000 requested and 496 written)"),
    ("semantic-id", "error: disk/semantic-id.txt: No space left on device"),
    ("openonerec", "error: disk/openonerec.txt: No space left on device"),
    ("folder", "error: disk/folder/pytorch_model.bin: No space left on device"),
    ("train with a file limit", "error: disk/run/best.ckpt: File too large"),
    ("infer with a file limit", "error: disk/new.json: File too large"),
])
def test_a_disk_that_fills_up_leaves_every_old_file_and_nothing_else(small_disk, name, words):
    if name not in small_disk[1]:
        pytest.skip("this format needs pyarrow")
    code, lines, changed_files, added = small_disk[1][name]
    lines = [line.replace("last.ckpt", "best.ckpt") for line in lines]          # whichever of the two came first
    assert (code, lines) == (1, [words])
    # The log follows the epochs, of which one more was trained; it is written anew on the next start.
    assert [path for path in changed_files if not path.endswith("metrics.jsonl")] == [] and added == []


@pytest.mark.parametrize("name, words", [
    ("train at the start", "error: disk/new: cannot write here (No space left on device); name another folder"),
    ("infer at the start", "error: disk: cannot write here (No space left on device); name another folder"),
    ("train read-only", "error: disk/new: cannot write here (Read-only file system); name another folder"),
    ("resume read-only", "error: disk/run: cannot write here (Read-only file system); name another folder (options are taken from "
     "disk/run/last.ckpt)"),
    ("infer read-only", "error: disk: cannot write here (Read-only file system); name another folder"),
])
def test_a_disk_that_takes_nothing_is_noticed_before_any_work(small_disk, name, words):
    code, lines, changed_files, added = small_disk[1][name]
    assert (code, lines, changed_files, added) == (2, [words], [], [])


def test_a_run_that_met_a_full_disk_goes_on_to_the_bit(small_disk, monkeypatch):
    folder, results = small_disk
    monkeypatch.chdir(folder)
    assert results["afterwards"] == 0
    assert train.main(["--data", "items.npy", "--checkpoint-dir", "straight", "--epochs", "2", *TINY]) == 0
    assert train.main(["--resume", "straight/last.ckpt", "--epochs", "4"]) == 0
    assert same_run("resumed", "straight")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_run_outlives_its_output_streams(place):
    """Both on a full disk: the run is worth more than its log."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, train.__file__, *RUN, "--epochs", "2"], env=environment(),
                              stdout=full, stderr=full)
    assert done.returncode == 0
    assert load_checkpoint("run/last.ckpt")["rqvae"]["epoch"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_results_that_cannot_be_shown_are_missed_aloud(capsys, monkeypatch):
    from rqvae.cli.console import say
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        say("a result")
        say("another")
    assert capsys.readouterr().err == ("warning: the standard output fails (No space left on device); "
                                       "results are not shown from here on\n")


# ------------------------------------------------------------------------------------- signals, row 36

def signalled(monkeypatch, place, number, call):
    """Send this process `number` when the function at `place` is called for the `call`th time."""
    module, name = place.rsplit(".", 1)
    holder = RqVae if module == "RqVae" else sys.modules[module]
    original, calls = getattr(holder, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)
    monkeypatch.setattr(holder, name, wrapped)
    return calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when, call", [
    ("rqvae.recipe.initialization.kmeans", 2), ("rqvae.recipe.presets.nearest_items", 1), ("RqVae.training_step", 8),
    ("RqVae.validation_step", 2), ("rqvae.storage.checkpoint.write_atomically", 3),
], ids=["k-means", "neighbours", "training", "validation", "saving"])
def test_a_signal_saves_and_the_resumed_run_ends_as_a_straight_one(place, monkeypatch, capsys, number, when, call):
    assert train.main([*RUN, "--checkpoint-dir", "straight", "--epochs", "4"]) == 0
    calls = signalled(monkeypatch, when, number, call)
    capsys.readouterr()
    assert train.main([*RUN, "--epochs", "4"]) == 128 + number
    assert len(calls) >= call
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (f"Stopped by {number.name}; saved. Resume with: python train.py --resume run/last.ckpt")
    assert not list(Path("run").glob(".*"))
    assert train.main(shlex.split(said.split("train.py ")[1])) == 0
    assert same_run("run", "straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", ["rqvae.inference.chunk_ids", "rqvae.ids.files.to_tokens"],
                         ids=["encoding", "writing"])
def test_a_signal_in_encoding_leaves_the_old_output_and_nothing_else(place, monkeypatch, capsys, number, when):
    Path("ids.json").write_text("precious")
    signalled(monkeypatch, when, number, 1)
    before = contents()
    assert infer.main(["--ckpt", "--output", "ids.json", "--overwrite"]) == 128 + number
    assert contents() == before and "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_the_result_is_judged_ends_the_script(place, monkeypatch):
    signalled(monkeypatch, "rqvae.cli.train.evaluate_reconstruction", signal.SIGINT, 1)
    assert train.main([*RUN, "--epochs", "1"]) == 130
    load_checkpoint("run/last.ckpt")


SLOW_STEPS = """
import sys, time, train
from rqvae import RqVae
def step(self, batch, batch_idx=0):
    print("in a step", flush=True)
    time.sleep(60)
RqVae.training_step = step
sys.exit(train.main(sys.argv[1:]))
"""


def test_a_second_signal_leaves_at_once(place):
    process = subprocess.Popen([sys.executable, "-c", SLOW_STEPS, *RUN, "--epochs", "2"], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.stdout.readline() != "in a step\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "once more to leave at once" in process.stderr.readline() + process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143 and time.monotonic() - began < 5


# --------------------------------------------------------------------------- kill -9, row 37

def killed_runs(kills, epochs, seed, numbers=(signal.SIGKILL,)):
    """Train into run/, killed at random moments and resumed each time; exit codes, and temporary files met."""
    generator, codes, leavings = random.Random(seed), [], 0
    for number in [generator.choice(numbers) for _ in range(kills)] + [None]:
        resume = ["--resume"] if os.path.exists("run/last.ckpt") else []
        process = in_a_process(*RUN, "--epochs", str(epochs), *resume)
        if number is not None:
            if generator.random() < 0.8:                            # else anywhere, starting included
                for line in process.stderr:
                    if line.startswith("epoch "):
                        break
                time.sleep(generator.uniform(0, 0.25))
            else:
                time.sleep(generator.uniform(0, 3))
            process.send_signal(number)
        process.communicate()
        codes.append(process.returncode)
        if os.path.exists("run/last.ckpt"):
            load_checkpoint("run/last.ckpt")
        leavings += len(list(Path("run").glob(".*.tmp")))
    return codes, leavings


def test_a_run_that_is_killed_and_resumed_ends_as_a_straight_one(place):
    assert train.main([*RUN, "--epochs", "60", "--checkpoint-dir", "straight"]) == 0
    codes, _ = killed_runs(3, 60, seed=1)
    assert codes[-1] == 0 and set(codes[:-1]) <= {-signal.SIGKILL, 0}
    assert same_run("run", "straight")
    assert not list(Path("run").glob(".*"))


def test_a_run_that_dies_between_its_two_checkpoints_keeps_the_best_all_the_same(place, monkeypatch):
    assert train.main([*RUN, "--epochs", "4", "--checkpoint-dir", "straight"]) == 0
    original, seen = os.replace, []

    def replace(source, target):
        seen.append(Path(target).name)
        if seen.count("best.ckpt") + seen.count("last.ckpt") == 4:      # the second file of the second epoch
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert train.main([*RUN, "--epochs", "4"]) == 130
    monkeypatch.setattr(os, "replace", original)
    assert train.main(["--resume", "run/last.ckpt"]) == 0
    assert same_run("run", "straight")


@needs_fork
def test_what_a_killed_writer_left_is_gone_after_the_next_start(place):
    child = os.fork()
    if child == 0:
        files.write_atomically("checkpoints/last.ckpt", lambda file: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    assert len(list(Path("checkpoints").glob(".*.tmp"))) == 1
    assert train.main(["--resume", "--epochs", "4"]) == 0
    assert sorted(os.listdir("checkpoints")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"]


def test_a_temporary_file_older_than_this_process_is_not_its_own(tmp_path):
    """In a container every run may have the same process number."""
    path = tmp_path / f".last.ckpt.{os.getpid()}.0123abcd.tmp"
    path.touch()
    files.remove_stale_temporaries(tmp_path)
    assert path.exists()
    os.utime(path, (1e9, 1e9))
    files.remove_stale_temporaries(tmp_path)
    assert not path.exists()


@needs_fork
def test_the_temporary_file_of_a_live_writer_stays_whatever_its_number_says(tmp_path):
    pytest.importorskip("fcntl")

    def tidied_meanwhile(file):
        ours, = tmp_path.glob(".*.tmp")
        dead = ours.with_name(ours.name.replace(f".{os.getpid()}.", f".{gone}."))
        ours.rename(dead)                                           # as a writer of another machine would look
        files.remove_stale_temporaries(tmp_path)
        assert dead.exists()
        dead.rename(ours)

    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    files.write_atomically(tmp_path / "file", tidied_meanwhile)


# ------------------------------------------------------------------------- two runs in a folder, row 38

@pytest.fixture
def other_run(tmp_path):
    """Another process that holds run/; its number."""
    pytest.importorskip("fcntl")
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with locks.locked(tmp_path / "run"):
            os.write(told, b"!")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_run_in_a_folder_is_refused_and_told_of_the_first(place, other_run, capsys):
    message = refused(train, [*RUN, "--epochs", "1"], capsys)
    assert f"run is in use by another run, process {other_run} on" in message


def test_a_folder_is_held_by_one_process_and_free_again_when_that_dies(tmp_path, other_run):
    with pytest.raises(ValueError, match=f"is in use by another run, process {other_run} on .*; wait for its end"):
        with locks.locked(tmp_path / "run"):
            pass
    os.kill(other_run, signal.SIGKILL)
    for _ in range(100):
        with contextlib.suppress(ValueError):
            with locks.locked(tmp_path / "run"):
                break
        time.sleep(0.02)
    else:
        raise AssertionError("still locked")
    assert os.listdir(tmp_path / "run") == []


def test_a_process_may_take_its_folder_twice_and_gives_it_back_once(tmp_path):
    with locks.locked(tmp_path):
        with locks.locked(tmp_path / "."):
            pass
        assert ".lock" in os.listdir(tmp_path)
    assert os.listdir(tmp_path) == []


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.locked(tmp_path):
        assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------ diverging, row 40

def test_a_loss_that_is_no_number_ends_the_run_with_its_place(place, capsys):
    before = contents("checkpoints")
    assert train.main(["--resume", "checkpoints/last.ckpt", "--epochs", "3"]) == 0      # nothing to do
    assert contents("checkpoints").keys() == before.keys()
    capsys.readouterr()
    argv = [*RUN, "--epochs", "3", "--preset", "documented", "--learning-rate", "1e30"]
    assert train.main(argv) == 1
    err = capsys.readouterr().err
    assert "error: the loss is" in err and "in epoch 1, batch" in err and "lower the learning rate" in err
    assert not os.path.exists("run/last.ckpt")


def test_memory_that_does_not_suffice_is_said(capsys, monkeypatch, place):
    def exhausted(*_, **__):
        raise MemoryError
    monkeypatch.setattr("rqvae.cli.infer.batch_inference", exhausted)
    assert "error: out of memory" in refused(infer, ["--ckpt"], capsys, code=1)


# ----------------------------------------------------------------------- what fuzzing found, see campaigns/

def seconds(read, path):
    """CPU time until `path` is refused."""
    began = time.process_time()
    with pytest.raises(ValueError):
        read(path)
    return time.process_time() - began


@pytest.mark.parametrize("read", [open_features, import_semantic_ids])
def test_a_tensor_file_that_asks_for_a_long_name_is_refused_at_once(tmp_path, read):
    """100 kB of name take 100 seconds."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02c" + b"x" * 12_000 + b"\nname\n.")
        archive.writestr("a/version", b"3\n")
    assert seconds(read, tmp_path / "a.pt") < 0.3


def test_a_model_that_claims_a_billion_levels_is_refused_at_once(tmp_path):
    """A billion of them take a day, and all memory."""
    RqVae(5, 6, 4, 8).save_pretrained(tmp_path, safe_serialization=False)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_quantizers": 1', '"num_quantizers": 4000'))
    assert seconds(RqVae.from_pretrained, tmp_path) < 0.3


def test_a_size_beyond_64_bits_is_refused_in_one_line(tmp_path):
    RqVae(5, 6, 4, 8).save_pretrained(tmp_path, safe_serialization=False)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"latent_dim": 4', '"latent_dim": 18446744073709551616'))
    with pytest.raises(ValueError) as refusal:
        RqVae.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_damaged_header_of_item_ids_is_refused_in_one_line(tmp_path):
    content = npy(np.array(["one", "two"]))
    (tmp_path / "ids.npy").write_bytes(content.replace(b"'<U3'", b"'<\nU'"))
    with pytest.raises(ValueError) as refusal:
        load_item_ids(tmp_path / "ids.npy", 2)
    assert "\n" not in str(refusal.value)
