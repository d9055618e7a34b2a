"""What a file cannot lead to: an import, a download, an unpickling, a process, a file written or shown that nobody named.

docs/faults.md has the list of the ways from a file's content to one of these; each of them is tried here or in the tests that
the list names.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY
from test_faults import contents, environment, origin, place, refused           # noqa: F401
from rqvae import RqVae, open_features, save_semantic_ids
from rqvae.cli.config import options_of
from rqvae.ids.generations import read_manifest
from rqvae.ids.imports import import_semantic_ids
from rqvae.items.amazon_p5 import load_items
from rqvae.items.identifiers import load_item_ids
from rqvae.items.interactions import read_interactions
from rqvae.items.texts import read_texts
from rqvae.storage.checkpoint import load_checkpoint, save_checkpoint

WATCHED = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo", "pickle.find_class"}
_seen, _on = [], []
sys.addaudithook(lambda event, arguments: _seen.append((event, arguments)) if _on and (event in WATCHED or event == "open") else None)


@pytest.fixture
def events():
    """What happens during a test: processes, connections, unpickling, files opened."""
    del _seen[:]
    _on.append(True)
    yield _seen
    _on.clear()


def opened(events, name):
    return any(event == "open" and isinstance(arguments[0], str) and Path(arguments[0]).name == name for event, arguments in events)


def rewritten(path, to, **notes):
    content = load_checkpoint(path)
    content["rqvae"]["notes"].update(notes)
    save_checkpoint(content, to)


def test_options_of_a_checkpoint_name_nothing_to_write_or_replace(place, capsys):
    Path("precious.json").write_text("mine")
    rewritten("checkpoints/best.ckpt", "odd.ckpt", output="precious.json", overwrite=True, checkpoint_dir="elsewhere", export="precious.json",
              save_pretrained="elsewhere", report="precious.json", resume="checkpoints/last.ckpt", debug=True, quiet=True,
              tensorboard=True, append_to="precious.json", ckpt="checkpoints/best.ckpt", encoder="pack/encoder", names="precious.json")
    infer.main(["--config", "odd.ckpt", "--ckpt", "checkpoints/best.ckpt", "--num-embeddings", "8"])
    assert train.main(["--config", "odd.ckpt", "--checkpoint-dir", "new", "--epochs", "0"]) == 0
    assert Path("precious.json").read_text() == "mine" and not Path("elsewhere").exists()
    assert "already holds" in refused(train, ["--config", "odd.ckpt"], capsys)         # overwrite is not taken from it


@pytest.mark.parametrize("value, words", [({"epochs": [1]}, "epochs is '[1]', which no run records"), ({"epochs": -1}, "--epochs is -1")])
def test_an_odd_option_of_a_checkpoint_names_it(place, capsys, value, words):
    content = load_checkpoint("checkpoints/best.ckpt")
    content["hyper_parameters"].update(value)
    content["rqvae"]["notes"].pop("epochs")
    save_checkpoint(content, "odd.ckpt")
    said = refused(train, ["--config", "odd.ckpt", "--checkpoint-dir", "new"], capsys)
    assert words in said and "odd.ckpt" in said


@pytest.mark.parametrize("path", ["\\\\host\\share\\x.npy", "//host/share/x.npy"])
def test_a_place_on_the_network_that_a_checkpoint_names_is_not_opened(place, capsys, events, path):
    rewritten("checkpoints/best.ckpt", "odd.ckpt", data=path)
    assert "is on the network, about which a file is not believed" in refused(infer, ["--ckpt", "odd.ckpt"], capsys)
    assert not opened(events, "x.npy")


def test_a_file_that_a_checkpoint_names_is_refused_in_its_name(place, capsys):
    Path("secret.npy").write_text("root:x:0:0")
    for notes in ({"data": "secret.npy"}, {"key": "a"}, {"item_ids": "secret.npy"}, {"split": "x"}):
        rewritten("checkpoints/best.ckpt", "odd.ckpt", **notes)
        assert "odd.ckpt" in refused(infer, ["--ckpt", "odd.ckpt"], capsys)
        rewritten("checkpoints/last.ckpt", "checkpoints/odd.ckpt", **notes)
        assert "odd.ckpt" in refused(train, ["--resume", "checkpoints/odd.ckpt"], capsys)


@pytest.mark.parametrize("path", ["/**/*.npy", "*/*.npy", "a/**"])
def test_many_folders_that_a_checkpoint_names_are_not_searched(place, capsys, path):
    rewritten("checkpoints/best.ckpt", "odd.ckpt", data=path)
    assert "is sought in many folders" in refused(infer, ["--ckpt", "odd.ckpt"], capsys)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name, argv", [
    ("checkpoints/best.ckpt", ["--resume", "--epochs", "4"]), ("checkpoints/last.ckpt", ["--resume", "--epochs", "4"]),
    ("checkpoints/metrics.jsonl", ["--resume", "--epochs", "4"]),
    ("checkpoints/metrics.jsonl", ["--data", "items.npy", "--epochs", "1", "--overwrite", *TINY]),
    ("o.json", ["--output", "o.json", "--overwrite"]), ("r.html", ["--report", "r.html", "--overwrite"]),
    ("m.pt2", ["--export", "m.pt2", "--overwrite"]), ("o.json.manifest", ["--output", "o.json", "--overwrite"]),
])
def test_what_is_no_file_where_one_will_be_written_is_refused_before_the_work(place, capsys, name, argv, kind):
    Path(name).unlink(missing_ok=True)
    no_file(Path(name), kind)
    assert name in refused(train if name.startswith("checkpoints") else infer, argv, capsys)


def test_a_pipe_for_the_lines_of_a_run_is_not_waited_for(place):
    Path("checkpoints/metrics.jsonl").unlink()
    os.mkfifo("checkpoints/metrics.jsonl")
    assert infer.main(["--report"]) == 0


@pytest.mark.parametrize("name, script, argv", [
    ("checkpoints/metrics.jsonl", train, ["--resume", "--epochs", "4"]), ("o.json.manifest", infer, ["--output", "o.json"])])
def test_a_link_where_nobody_asked_to_write_is_left_as_it_is(place, capsys, name, script, argv):
    Path("precious").write_text("mine")
    Path(name).unlink(missing_ok=True)
    Path(name).symlink_to(Path("precious").resolve())
    assert name in refused(script, argv, capsys)


def test_a_link_to_nothing_is_said_to_be_one(place, capsys):
    Path("k").symlink_to("nowhere")
    Path("k.npy").symlink_to("nowhere.npy")
    for argv, words in ((["--data", "items.npy", "--checkpoint-dir", "k"], "k is a link to nowhere, where there is nothing"),
                        (["--data", "k.npy", "--checkpoint-dir", "new"], "k.npy does not exist; it is a link to nowhere.npy")):
        assert words in refused(train, argv, capsys)


def test_a_file_that_the_disk_cannot_read_is_named(place, capsys):
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs a file whose first byte cannot be read")
    assert "/proc/self/mem: Input/output error" in refused(infer, ["--data", "/proc/self/mem"], capsys)


def model_folder(folder):
    RqVae(5, 6, 4, 8).save_pretrained(folder, safe_serialization=False)
    return folder


def test_a_model_folder_reads_its_two_files_and_no_others(tmp_path, events):
    folder = model_folder(tmp_path / "model")
    outside = tmp_path / "outside.bin"
    outside.write_bytes((folder / "pytorch_model.bin").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.update({"weights": {"file": "../outside.bin", "crc32": 0}, "auto_map": {"AutoModel": "evil.Model"}, "_target_": "os.system",
                   "architectures": ["evil"], "trust_remote_code": True, "_name_or_path": "owner/model"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"encoder.layers.0.weight": "../outside.bin"}}))
    del events[:]
    RqVae.from_pretrained(folder)
    assert not opened(events, "outside.bin") and not opened(events, "evil.py") and not opened(events, "model.safetensors.index.json")
    assert not [event for event, _ in events if event in WATCHED]
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="holds neither model.safetensors nor pytorch_model.bin"):
        RqVae.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin"])
def test_links_in_a_model_folder_lead_to_files_alone(tmp_path, name):
    folder = model_folder(tmp_path / "model")
    (folder / name).rename(tmp_path / "kept")
    (folder / name).symlink_to(tmp_path / "kept")       # as the hub's client keeps them
    RqVae.from_pretrained(folder)
    for target in ("/dev/zero", str(tmp_path / "nothing"), str(tmp_path)):
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        with pytest.raises((ValueError, FileNotFoundError), match="model"):
            RqVae.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../typo/x", "./x/y", "-x/y", "x/..", ".hidden/x"])
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)       # whose import would be said
    with pytest.raises((FileNotFoundError, ValueError)):
        RqVae.from_pretrained(name)


def test_names_in_archives_lead_nowhere(tmp_path, events):
    content = np.ones((3, 2), "f4")
    np.save(tmp_path / "x.npy", content)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.npz", "w") as archive:
        archive.writestr("../../escaped.npy", (tmp_path / "x.npy").read_bytes())
    assert open_features(tmp_path / "in" / "x.npz").shape == (3, 2)
    torch.save({"a": torch.ones(3, 2)}, tmp_path / "in" / "x.pt")
    with zipfile.ZipFile(tmp_path / "in" / "x.pt", "a") as archive:
        archive.writestr("../../../escaped", "x")
    with pytest.raises(ValueError):
        open_features(tmp_path / "in" / "x.pt", key="b")
    assert not list(tmp_path.parent.glob("escaped*")) and not list(tmp_path.glob("escaped*"))


def test_a_manifest_shows_nothing_of_the_files_that_it_names(place, capsys):
    Path("secret").write_text("root:x:0:0:secret words")
    assert infer.main(["--ckpt", "checkpoints/best.ckpt", "--output", "ids.json"]) == 0
    path = Path("ids.json.manifest")
    content = json.loads(path.read_text())
    for name in ("../" + Path.cwd().name + "/secret", str(Path("secret").resolve()), "/dev/zero", "."):
        path.write_text(json.dumps({**content, "files": {**content["files"], name: {"bytes": 1, "sha256": "0" * 64}}}))
        said = refused(infer, ["--ckpt", "checkpoints/best.ckpt", "--verify", "ids.json"], capsys)
        assert "secret words" not in said


HOSTILE = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--", "</title><base href=//x>", "]]>", "{{7*7}}",
           "<svg/onload=alert(1)>", "\u202e</style>", "&lt;script&gt;", "$\\frac{$"]


def test_names_of_items_are_no_part_of_the_page(place, tmp_path):
    Path("names.json").write_text(json.dumps((HOSTILE * 20)[:200]))
    np.save("<b>a$.npy", np.load("items.npy"))
    assert infer.main(["--ckpt", "checkpoints/best.ckpt", "--data", "<b>a$.npy", "--names", "names.json", "--report", "r.html"]) == 0
    page = Path("r.html").read_text()
    assert "default-src 'none'" in page
    for tag in ("<script", "<img", "<base", "<!--", "<b>a", "<svg/", "]]>", "\u202e"):
        assert tag not in page, tag
    pytest.importorskip("matplotlib")
    assert infer.main(["--ckpt", "checkpoints/best.ckpt", "--data", "<b>a$.npy", "--names", "names.json", "--report", "r.png"]) == 0


def test_a_table_whose_names_a_spreadsheet_would_run_is_warned_of(tmp_path):
    codes = np.arange(6).reshape(3, 2)
    with pytest.warns(UserWarning, match="1 item IDs or names, such as '=HYPERLINK.*, look like formulas to a spreadsheet"):
        save_semantic_ids(codes, tmp_path / "x.csv", item_ids=["-5", "b", "c"], names=["=HYPERLINK(\"//x\")", "b", "5"])


def test_a_parquet_file_leads_to_no_code_and_no_other_file(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({"embedding": [[1.0, 2.0]] * 3}), tmp_path / "x.parquet")
    monkeypatch.setattr(pyarrow, "__version__", "14.0.0")           # runs what a schema pickles
    with pytest.raises(ImportError, match="CVE-2023-47248"):
        open_features(tmp_path / "x.parquet")
    monkeypatch.setattr(pyarrow, "__version__", "14.0.1")
    assert open_features(tmp_path / "x.parquet").shape == (3, 2)
    metadata = parquet.read_metadata(tmp_path / "x.parquet")
    metadata.set_file_path("../outside.parquet")
    metadata.write_metadata_file(tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="it names another file, '../outside.parquet'"):
        open_features(tmp_path / "y.parquet")


def test_modules_that_lie_among_the_data_are_not_imported(tmp_path):
    for name in ("torch", "numpy", "pyarrow", "safetensors", "json"):
        (tmp_path / f"{name}.py").write_text("open('code-was-run', 'w')")
    np.save(tmp_path / "features.dat", np.ones((3, 2)))
    where = str(Path(train.__file__).parent)
    for start in (["-m", "rqvae", "infer"], [os.path.join(where, "infer.py")]):
        done = subprocess.run([sys.executable, *start, "--ckpt", "none.ckpt"], cwd=tmp_path, text=True, capture_output=True,
                              env={**environment(), "PYTHONPATH": where})
        assert done.returncode == 2 and "none.ckpt" in done.stderr, done.stderr
        assert not (tmp_path / "code-was-run").exists(), start


def test_a_run_opens_nothing_beside_what_it_is_told(place, events):
    """Training, encoding, report: no connection, no process, no unpickling."""
    assert train.main(["--data", "items.npy", "--checkpoint-dir", "new", "--epochs", "1", *TINY]) == 0
    assert infer.main(["--ckpt", "new/best.ckpt", "--output", "o.json", "--report", "r.html"]) == 0
    assert not [event for event, _ in events if event in WATCHED]
    assert contents()


def no_file(path, kind):
    """Something at `path` that is no regular file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)               # a socket's name may have no more than 108 bytes
            server.bind(path.name)
    else:
        path.symlink_to({"device": "/dev/zero", "link to nothing": "nothing", "link to itself": path.name}[kind])


READERS = {
    **{f"features x{suffix}": open_features for suffix in (".npy", ".npz", ".pt", ".safetensors", ".parquet")},
    **{f"ids x{suffix}": lambda path: load_item_ids(path, 3)
       for suffix in (".txt", ".json", ".npy", ".npz", ".csv", ".parquet", ".item2id", ".pt")},
    **{f"semantic ids x{suffix}": import_semantic_ids for suffix in (".json", ".jsonl", ".npy", ".csv", ".pt", ".parquet", ".txt")},
    **{f"interactions x{suffix}": lambda path: read_interactions(path, 3) for suffix in (".json", ".jsonl", ".txt", ".csv", ".parquet", ".npy")},
    **{f"texts x{suffix}": lambda path: read_texts(path, text_columns="a") for suffix in (".json", ".jsonl", ".csv", ".tsv")},
    "checkpoint x.ckpt": RqVae.load_from_checkpoint, "peer x.pth": RqVae.from_peer,
    "options x.json": lambda path: options_of(path, {}), "options x.toml": lambda path: options_of(path, {}),
    "options x.ckpt": lambda path: options_of(path, {}),
    "manifest x.json.manifest": lambda path: read_manifest(path.with_suffix("")),
    "P5 raw/beauty/datamaps.json": lambda path: load_items(path.parents[2]),
    "peer's folder metadata.json": lambda path: RqVae.from_peer(path.parent),
}


EVIL = "\x1b]0;owned\x07\u202e\nerror: forged\u2028\x9b31m"


def raw(words):
    return [word for word in words if re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e]", word)]


@pytest.mark.parametrize("reader", [*READERS, "folder config.json"])
def test_what_is_raised_and_warned_of_shows_no_word_raw(tmp_path, monkeypatch, reader):
    """Also for who calls a reader from Python: names of files, and whatever can be a name in one."""
    monkeypatch.chdir(tmp_path)
    place, read = Path(EVIL, reader.split()[-1]), READERS.get(reader, lambda path: RqVae.from_pretrained(path.parent))
    place.parent.mkdir(parents=True)
    content = [EVIL, json.dumps({EVIL: EVIL}), json.dumps({EVIL: [EVIL]}), json.dumps([EVIL, EVIL, EVIL]), f'"{EVIL}",b\n1,2\n']
    held = {EVIL: torch.zeros(2, 2), "b": torch.zeros(2, 2)}
    for write in [*(lambda path, words=words: path.write_text(words) for words in content), lambda path: torch.save(held, path.open("wb")),
                  lambda path: np.savez(path.open("wb"), **{name: part.numpy() for name, part in held.items()})]:
        write(place)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                read(place)
            except (ValueError, OSError, ImportError) as error:
                assert not raw([str(error), str(error.__cause__)]), str(error)
        assert not raw([str(warning.message) for warning in caught])


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "link to nothing", "link to itself"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_what_is_no_file(tmp_path, monkeypatch, reader, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / reader.split()[-1]
    no_file(path, kind)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(20)
    try:
        with pytest.raises((ValueError, OSError)) as caught:
            READERS[reader](path)
        assert path.name.replace(".manifest", "") in str(caught.value) or str(tmp_path) in str(caught.value), caught.value
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
