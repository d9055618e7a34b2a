"""A kill at every point at which a command touches the disk or ends a batch: afterwards there is the old set or the new.

The points of a command are counted in one run of it: every `open` for writing, `write` to such a file by its number, `fsync`,
`link`, `replace`, `rename`, `unlink`, `mkdir` and change of a length, every training step and every chunk that is encoded.
Then it is run once for each point and killed before that one.
"""

import builtins
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY
from cli.test_blended import publish_and_grow, told        # noqa: F401
from test_faults import contents, needs_fork, origin, place, same_run       # noqa: F401
from rqvae import RqVae
from rqvae.storage.checkpoint import load_checkpoint
from rqvae.storage.files import mend
from rqvae.training import CHECKPOINTS

pytestmark = [pytest.mark.campaign, needs_fork]


def killed_at(point, work):
    """Run `work` in a child that is killed before its `point`th point; (how it ended, points that it passed)."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            counter = _inject(point, told)
            code = work()
            os.write(told, json.dumps(counter).encode())
        finally:
            os._exit(code)
    os.close(told)
    with os.fdopen(heard, "rb") as pipe:
        passed = json.loads(pipe.read() or b"null")
    return os.waitpid(child, 0)[1], passed


def _inject(point, told):
    counter = {}

    def count(kind):
        if sum(counter.values()) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        counter[kind] = counter.get(kind, 0) + 1

    def wrap(holder, name, kind=None, when=lambda *_: True):
        original = getattr(holder, name)

        def wrapped(*arguments, **options):
            if when(*arguments):
                count(kind or name)
            return original(*arguments, **options)
        setattr(holder, name, wrapped)

    for name in ("replace", "rename", "link", "fsync", "unlink", "mkdir", "ftruncate", "pwrite"):
        wrap(os, name)
    wrap(os, "write", "write", lambda handle, *_: handle > 2 and handle != told)
    wrap(os, "open", "open", lambda path, flags, *_: flags & (os.O_WRONLY | os.O_RDWR))
    wrap(builtins, "open", "open", lambda path, mode="r", *_: set(mode) & set("wxa+") and path != os.devnull)
    wrap(RqVae, "training_step", "batch")
    import rqvae.inference
    wrap(rqvae.inference, "chunk_ids", "batch")
    return counter


def campaign(name, work, check):
    """`check()` after a kill at each point of `work`, which is told where it starts by `check` itself."""
    began, outcomes = time.monotonic(), {}
    check.begin()
    code, points = killed_at(-1, work)
    assert code == 0, name
    check.learn()
    total = sum(points.values())
    for point in range(total):
        check.begin()
        code, _ = killed_at(point, work)
        assert code in (signal.SIGKILL, 0), (name, point, code)
        outcome = check.judge(point)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"\n{name}: {total} points ({', '.join(f'{number} {kind}' for kind, number in points.items())}); "
          f"{outcomes}; {time.monotonic() - began:.0f} s")
    assert total > 5


class Outputs:
    """Files of a folder that were written before, and are replaced: afterwards all are old, or all are new."""

    def __init__(self, folder, work, prepare=lambda: None):
        self.folder, self.work, self.prepare, self.old = Path(folder), work, prepare, None

    def begin(self):
        if self.old is None:
            self.old = contents(self.folder)
        for name in contents(self.folder):
            os.unlink(name)
        for name, content in self.old.items():
            Path(name).write_bytes(content)

    def learn(self):
        self.new = contents(self.folder)
        assert self.new != self.old and self.new.keys() == self.old.keys()

    def judge(self, point):
        from rqvae.storage.files import remove_stale_temporaries
        for folder in (self.folder, *filter(Path.is_dir, self.folder.rglob("*"))):      # what the next command begins with
            remove_stale_temporaries(folder)
        found = contents(self.folder)
        assert found in (self.old, self.new), (point, sorted(found))
        return "old set" if found == self.old else "new set"


@pytest.fixture
def two_models(place):
    """Besides the run in checkpoints/, another in other/, and item IDs."""
    assert train.main(["--data", "items.npy", "--epochs", "1", "--seed", "3", "--checkpoint-dir", "other", *TINY]) == 0
    Path("ids.json").write_text(json.dumps([f"item{row}" for row in range(200)]))
    Path("new.json").write_text(json.dumps([f"new{row}" for row in range(50)]))
    np.save("new.npy", np.load("items.npy")[:50] + 1)
    return place


ITEMS = ["--data", "items.npy", "--item-ids", "ids.json"]


@pytest.mark.parametrize("name, old, new", [
    ("infer", [*ITEMS, "--output", "out/ids.json"], [*ITEMS, "--output", "out/ids.json"]),
    ("infer, with a report", [*ITEMS, "--output", "out/ids.jsonl", "--report", "page.html"],
     [*ITEMS, "--output", "out/ids.jsonl", "--report", "page.html"]),
    ("export", [*ITEMS, "--format", "lcrec", "minionerec", "tiger", "grid", "--output", "out"],
     [*ITEMS, "--format", "lcrec", "minionerec", "tiger", "grid", "--output", "out"]),
    ("shard", [*ITEMS, "--shard", "1/1", "--output", "out/ids.json"], [*ITEMS, "--shard", "1/1", "--output", "out/ids.json"]),
])
def test_outputs_are_the_old_or_the_new(two_models, name, old, new):
    assert infer.main(["--ckpt", "other/best.ckpt", *old]) == 0
    work = lambda: infer.main(["--ckpt", "checkpoints/best.ckpt", *new, "--overwrite"])      # noqa: E731
    campaign(name, work, Outputs("out", work))


def test_a_merged_table_is_the_old_or_the_new(two_models):
    for ckpt, folder in (("other/best.ckpt", "out"), ("checkpoints/best.ckpt", "parts")):
        assert infer.main(["--ckpt", ckpt, *ITEMS, "--shard", "1/1", "--output", f"{folder}/ids.json"]) == 0
    assert infer.main(["--ckpt", "other/best.ckpt", *ITEMS, "--merge", "--output", "out/ids.json"]) == 0
    for path in Path("parts").iterdir():
        Path("out", path.name).write_bytes(path.read_bytes())
    work = lambda: infer.main(["--ckpt", "checkpoints/best.ckpt", *ITEMS, "--merge", "--output", "out/ids.json",     # noqa: E731
                               "--overwrite"])
    campaign("merge", work, Outputs("out", work))


def test_an_appended_table_is_the_old_or_the_new(two_models):
    assert infer.main(["--ckpt", *ITEMS, "--unique", "--output", "out/ids.json"]) == 0
    work = lambda: infer.main(["--ckpt", "--data", "new.npy", "--item-ids", "new.json", "--append-to", "out/ids.json",       # noqa: E731
                               "--output", "out/ids.json", "--overwrite"])
    campaign("append", work, Outputs("out", work))


def test_a_table_that_grows_with_what_users_did_is_the_old_or_the_new(told):
    grown = publish_and_grow()
    Path("out").mkdir()
    for name in ("old.json", "old.json.manifest"):
        Path("out", name).write_bytes(Path(name).read_bytes())
    work = lambda: infer.main([*grown, "--append-to", "out/old.json", "--output", "out/old.json", "--overwrite"])       # noqa: E731
    campaign("append, with interactions", work, Outputs("out", work))


class Pages(Outputs):
    """IDs, and a page in a folder of its own: each is the old or the new; no page is of IDs that never took their names."""

    def judge(self, point):
        from rqvae.storage.files import remove_stale_temporaries
        for folder in filter(Path.is_dir, Path("out").rglob("*")):
            remove_stale_temporaries(folder)
        found = contents(self.folder)
        assert found.keys() == self.old.keys(), (point, sorted(found))
        ids, page = ({name for name in found if part in name} for part in ("out/ids", "out/pages"))
        new = [all(found[name] == self.new[name] for name in names) for names in (ids, page)]
        old = [all(found[name] == self.old[name] for name in names) for names in (ids, page)]
        assert all(one or other for one, other in zip(new, old)), (point, new, old)
        return "new set" if all(new) else "old set" if all(old) else "new page, old IDs" if new[1] else "new IDs, old page"


@pytest.mark.parametrize("name, ids", [
    ("infer, its page in another folder", ["--output", "out/ids/ids.json"]),
    ("export of several formats, their page in another folder",
     ["--format", "lcrec", "grid", "tiger", "jsonl", "csv", "--output", "out/ids/sets"]),
])
def test_outputs_in_several_folders_are_each_the_old_or_the_new(two_models, name, ids):
    argv = [*ITEMS, *ids, "--report", "out/pages/page.html"]
    assert infer.main(["--ckpt", "other/best.ckpt", *argv]) == 0
    work = lambda: infer.main(["--ckpt", "checkpoints/best.ckpt", *argv, "--overwrite"])     # noqa: E731
    campaign(name, work, Pages("out", work))


def test_a_program_is_the_old_or_the_new(two_models):
    pytest.importorskip("onnx")
    for ckpt in ("other/best.ckpt", "checkpoints/best.ckpt"):
        work = lambda: infer.main(["--ckpt", ckpt, "--export", "out/model.onnx", "--overwrite"])     # noqa: E731, B023
        if ckpt.startswith("other"):
            assert work() == 0
    campaign("export of a program", work, Outputs("out", work))


def test_a_model_folder_is_the_old_or_the_new(two_models):
    assert infer.main(["--ckpt", "other/best.ckpt", "--save-pretrained", "out"]) == 0
    work = lambda: infer.main(["--ckpt", "checkpoints/best.ckpt", "--save-pretrained", "out", "--overwrite"])      # noqa: E731
    campaign("save-pretrained", work, Outputs("out", work))
    RqVae.from_pretrained("out")


class Cache:
    """A folder that was empty: afterwards the file is there or not, and what it is made for gives the same."""

    def __init__(self, work):
        self.work, self.folder = work, Path("cache")

    def begin(self):
        for path in self.folder.glob("*") if self.folder.exists() else ():
            path.unlink()

    def learn(self):
        self.whole = contents(self.folder)
        assert len(self.whole) == 1

    def judge(self, point):
        kept = next(iter(self.whole)) in contents(self.folder)
        self.work()
        assert contents(self.folder) == self.whole, (point, sorted(contents(self.folder)))
        return "kept" if kept else "made again"


def test_features_of_texts_are_kept_whole_or_made_again(place, monkeypatch):
    from rqvae.items import texts
    monkeypatch.setattr(texts, "encode_texts", lambda texts, *_, **__: torch.arange(12.0).reshape(3, 4))
    work = lambda: 0 * len(texts.encode_texts_once(["a", "b", "c"], "cache", "label", "encoder"))           # noqa: E731
    campaign("cache of encoded texts", work, Cache(work))


def test_a_catalogue_is_kept_whole_or_made_again(place):
    from rqvae.items import catalogue
    Path("library").mkdir()
    for number in range(40):
        Path(f"library/m{number}.py").write_text("".join(
            f'def f{number}_{one}():\n    """Returns the {one} of words {number * one} and more of them."""\n' for one in range(6)))
    work = lambda: 0 * len(catalogue._load(Path("library"), 4, "cache").names)                              # noqa: E731
    campaign("cache of the catalogue", work, Cache(work))


class Run:
    """A run that replaces another: whatever it was killed at, what comes next ends as a straight one, or the old is there."""

    argv = ["--data", "items.npy", "--checkpoint-dir", "run", "--epochs", "2", "--seed", "9", *TINY, "--batch-size", "100"]

    def __init__(self, argv=argv):
        self.argv = argv
        self.old = {path.name: path.read_bytes() for path in Path("other").iterdir()}

    def begin(self):
        Path("run").mkdir(exist_ok=True)
        for path in Path("run").iterdir():
            path.unlink()
        for name, content in self.old.items():
            Path("run", name).write_bytes(content)

    def learn(self):
        os.rename("run", "straight")

    def judge(self, point):
        last = Path("run/last.ckpt")
        mend(Path("run"), CHECKPOINTS)                                           # as what comes next begins
        if last.exists() and last.read_bytes() == self.old["last.ckpt"]:
            assert Path("run/best.ckpt").read_bytes() == self.old["best.ckpt"], point
            return "the old run, untouched"
        for name in ("last.ckpt", "best.ckpt"):
            if Path("run", name).exists():
                found = load_checkpoint(f"run/{name}")
                assert found["rqvae"]["notes"]["seed"] == 9 or name == "best.ckpt" and not last.exists(), point
        code, _ = killed_at(-1, lambda: train.main(["--resume", "--checkpoint-dir", "run"]))
        outcome = "resumed, as a straight one"
        if code:
            outcome = "begun again, as a straight one"
            code, _ = killed_at(-1, lambda: train.main([*self.argv, "--overwrite"]))
        assert code == 0 and same_run("run", "straight"), (point, outcome)
        assert sorted(os.listdir("run")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"], point
        return outcome


def test_a_run_that_replaces_another_is_the_one_or_the_other(two_models):
    campaign("train --overwrite", lambda: train.main([*Run.argv, "--overwrite"]), Run())


def test_a_run_that_keeps_published_ids_is_the_one_or_the_other(two_models):
    assert infer.main(["--ckpt", *ITEMS, "--output", "pub.json"]) == 0
    np.save("grown.npy", np.concatenate([np.load("items.npy"), np.load("new.npy")]))
    Path("grown.json").write_text(json.dumps([f"item{row}" for row in range(250)]))
    argv = ["--from", "checkpoints/best.ckpt", "--keep", "pub.json", "--data", "grown.npy", "--item-ids", "grown.json",
            "--checkpoint-dir", "run", "--epochs", "2", "--seed", "9", "--batch-size", "100"]
    campaign("train --keep --overwrite", lambda: train.main([*argv, "--overwrite"]), Run(argv))


class First(Run):
    """A run in a folder that has none: what it was killed at is resumed, or begun again without --overwrite."""

    def __init__(self):
        self.argv, self.old = Run.argv, {}

    def judge(self, point):
        code, outcome = 1, "begun again, as a straight one"
        if any(Path("run", name).exists() for name in CHECKPOINTS):
            code, outcome = killed_at(-1, lambda: train.main(
                ["--resume", "--checkpoint-dir", "run", "--epochs", "2"]))[0], "resumed, as a straight one"
        else:
            code, _ = killed_at(-1, lambda: train.main(self.argv))
        assert code == 0 and same_run("run", "straight"), (point, outcome)
        assert sorted(os.listdir("run")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"], point
        return outcome


def test_a_first_run_is_begun_again_or_resumed(place):
    campaign("train, the first run", lambda: train.main(Run.argv), First())


class Resumed(First):
    """A run of one epoch that goes on to two."""

    def __init__(self):
        self.argv, self.old = None, {path.name: path.read_bytes() for path in Path("begun").iterdir()}


def test_a_run_that_goes_on_is_resumed_again(place):
    assert train.main([*Run.argv[:2], "--checkpoint-dir", "begun", "--epochs", "1", *Run.argv[6:]]) == 0
    campaign("train --resume", lambda: train.main(["--resume", "--checkpoint-dir", "run", "--epochs", "2"]), Resumed())
