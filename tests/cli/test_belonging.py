"""What belongs together, each side replaced by another one: the right result, a refusal by name, or a warning; nothing wrong in silence.

One small world is made once: 1,100 items (two chunks, so two parts), their IDs in every form, another run, new items. Each case
copies it, changes one thing, and runs one command.
"""

import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import infer
import train
from samples import clustered
from rqvae import identity, load_semantic_ids
from rqvae.storage.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
ITEMS, NEW = 1100, 40
SIZES = ["--num-embeddings", "16", "--hidden-dim", "16", "--latent-dim", "8", "--batch-size", "128", "--epochs", "2"]
NAMED = ["--data", "items.npy", "--item-ids", "ids.txt"]
APPEND = ["--data", "new.npy", "--item-ids", "new_ids.txt", "--output", "next.json", "--append-to"]
GROWN = ["--data", "all.npy", "--item-ids", "all_ids.txt", "--output", "next.json", "--append-to"]
ROWS = ["--ckpt", "rows/best.ckpt", "--data", "all_rows.npy", "--output", "next.json", "--append-to", "rows.json"]
KEEP = ["--from", "checkpoints/best.ckpt", "--keep", "pub.json", "--data", "all.npy", "--item-ids", "all_ids.txt",
        "--checkpoint-dir", "grown", "--epochs", "1"]
KEEP_ROWS = ["--from", "rows/best.ckpt", "--keep", "rows.json", "--data", "all_rows.npy", "--checkpoint-dir", "grown", "--epochs", "1"]
TWO = ["--ckpt", "two/best.ckpt", "--data", "text.npy", "image.npy", "--item-ids", "all_ids.txt", "--output", "next.json",
       "--append-to", "two.json"]
RESUME, VERIFY, MERGE = ["--resume", "--epochs", "3"], ["--verify", "pub.json"], ["--merge", "--output", "parts.json"]


def lines(path, values=None):
    if values is None:
        return Path(path).read_text().splitlines()
    Path(path).write_text("".join(f"{value}\n" for value in values))


def did(script, *argv):
    assert script.main(list(argv)) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("world"), os.getcwd()
    os.chdir(folder)
    rows, ids = clustered(ITEMS + NEW, clusters=60).numpy(), [f"B{row:05d}" for row in range(ITEMS + NEW)]
    order = np.random.default_rng(0).permutation(ITEMS + NEW)
    for name, part in (("items", rows[:ITEMS]), ("new", rows[ITEMS:]), ("all", rows[order]), ("all_rows", rows)):
        np.save(f"{name}.npy", part)
    lines("ids.txt", ids[:ITEMS]), lines("new_ids.txt", ids[ITEMS:]), lines("all_ids.txt", [ids[row] for row in order])
    taken = np.random.default_rng(1).integers(0, ITEMS, (300, 6))
    lines("inter.jsonl", [json.dumps([ids[row] for row in user]) for user in taken])
    did(train, *NAMED, *SIZES)
    did(train, *NAMED, *SIZES, "--seed", "7", "--checkpoint-dir", "other")
    did(train, "--data", "items.npy", *SIZES, "--checkpoint-dir", "rows")
    for ckpt, name in (("checkpoints", "pub.json"), ("checkpoints", "pub.npy"), ("rows", "rows.json"), ("other", "other.json")):
        did(infer, "--ckpt", f"{ckpt}/best.ckpt", "--output", name)
    for part in ("1/2", "2/2"):
        did(infer, "--shard", part, "--output", "parts.json")
    did(infer, "--save-pretrained", "pack")
    os.chdir(before)
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")


# ------------------------------------------------------------------ changes: each makes another one of one of the things

def permuted(name="items.npy"):
    rows = np.load(name)
    np.save(name, rows[np.random.default_rng(3).permutation(len(rows))])


def one_row(name="items.npy"):
    rows = np.load(name)
    rows[77] += 1
    np.save(name, rows)


def doubled(name="items.npy"):
    np.save(name, 2 * np.load(name))


def made_again(name="all.npy"):
    """As the same encoder makes them elsewhere: the last bits differ."""
    rows = np.load(name)
    np.save(name, rows * (1 + 1e-6 * np.random.default_rng(4).standard_normal(rows.shape)).astype(np.float32))


def turned(name="items.npy"):
    """As an analysis made again gives them: the signs of two columns are others."""
    rows = np.load(name)
    rows[:, [1, 5]] *= -1
    np.save(name, rows)


def as_double():
    np.save("items.npy", np.load("items.npy").astype(np.float64))


def in_fortran_order():
    np.save("items.npy", np.asfortranarray(np.load("items.npy")))


def swapped_ids(name="ids.txt"):
    ids = lines(name)
    ids[3], ids[4] = ids[4], ids[3]
    lines(name, ids)


def shuffled_ids(name="all_ids.txt"):
    lines(name, np.random.default_rng(5).permutation(lines(name)))


def renamed_ids(name="ids.txt"):
    lines(name, [f"X{item}" for item in lines(name)])


def with_spaces(name="all_ids.txt"):
    lines(name, [f"{item} " for item in lines(name)])


def in_lower_case(name="all_ids.txt"):
    lines(name, [item.lower() for item in lines(name)])


def with_carriage_returns(name="all_ids.txt"):
    Path(name).write_bytes("".join(f"{item}\r\n" for item in lines(name)).encode())


def as_parquet():
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"item_id": lines("ids.txt"), "embedding": list(np.load("items.npy"))}), "items.parquet")


def another_activation():
    content = load_checkpoint("checkpoints/best.ckpt")
    content["hyper_parameters"]["activation"] = "relu" if content["hyper_parameters"]["activation"] != "relu" else "gelu"
    save_checkpoint(content, "checkpoints/best.ckpt")


def another_activation_in_the_folder():
    config = json.loads(Path("pack/config.json").read_text())
    Path("pack/config.json").write_text(json.dumps({**config, "activation": "relu"}))


def edited_origin(origin):
    config = json.loads(Path("pack/config.json").read_text())
    Path("pack/config.json").write_text(json.dumps({**config, "_origin": origin}))


def edited(change, manifest=False):
    """A table of published IDs that `change` was made to, (keys, entries by key), with or without its manifest."""
    def edit():
        table = json.loads(Path("pub.json").read_text())
        change(list(table), table)
        Path("pub.json").write_text(json.dumps(table))
        if not manifest:
            Path("pub.json.manifest").unlink()
    return edit


def twice(keys, table):
    table[keys[1]] = table[keys[0]]


def beyond(keys, table):
    table[keys[1]][0] = "<a_16>"


def exchanged(keys, table):
    table[keys[0]], table[keys[1]] = table[keys[1]], table[keys[0]]


def with_suffix(suffix):
    def change():
        did(infer, "--unique", "suffix", "--output", "pub.json", "--overwrite")
        edited(lambda keys, table: table.update({keys[5]: [*table[keys[6 if suffix is None else 5]][:3], suffix or table[keys[6]][3]]}))()
    return change


def other_names_of_rows():
    names = [line.split("\t")[0] for line in lines("pub.item2id")]
    lines("pub.item2id", [f"{name}\t{7 * row % ITEMS}" for row, name in enumerate(names)])


def copied(source, target):
    return lambda: shutil.copy(source, target)


def linked(source, target):
    return lambda: os.symlink(source, target)


def saved(folder, change=lambda: None):
    """`change`, and the model of a run as a folder of its own."""
    def make():
        change()
        did(infer, "--ckpt", f"{folder}/best.ckpt", "--save-pretrained", "own")
    return make


def grown_first(change=lambda: None):
    def both():
        did(train, *KEEP)
        change()
    return both


def published_otherwise():
    did(infer, "--unique", "nearest", "--output", "pub.json", "--overwrite")


def gone_on():
    did(infer, *APPEND, "pub.json")


def third(change=lambda: None):
    """A second generation, and a third catalogue in which two items of the second may have changed places."""
    def make():
        gone_on()
        np.save("all.npy", np.concatenate([np.load("all.npy"), clustered(20, seed=9).numpy()]))
        lines("all_ids.txt", [*lines("all_ids.txt"), *(f"Z{row}" for row in range(20))])
        change()
    return make


def swapped_two(*names):
    """Two items of other first codes change places in the catalogue that has grown."""
    def swap():
        ids = lines("all_ids.txt")
        one, other = map(ids.index, names)
        ids[one], ids[other] = ids[other], ids[one]
        lines("all_ids.txt", ids)
    return swap


def integers(order=None):
    """Item IDs as a .npy of integers, which interactions name."""
    def make():
        ids = np.arange(5000, 5000 + ITEMS) if order is None else np.random.default_rng(2).permutation(ITEMS)
        np.save("ids.npy", ids)
        taken = np.random.default_rng(1).integers(0, ITEMS, (300, 6))
        lines("taken.jsonl", [json.dumps(ids[user].tolist()) for user in taken])
    return make


def two_parts():
    rows = np.load("items.npy")
    image = clustered(ITEMS, 6, seed=3).numpy()
    image[::4] = np.nan
    np.save("text.npy", rows[:, :6])
    np.save("image.npy", image)
    did(train, "--data", "text.npy", "image.npy", *SIZES, "--checkpoint-dir", "two")


def two_parts_published(change=lambda: None):
    """IDs of items of two embeddings, and those items again with new ones behind."""
    def make():
        two_parts()
        did(infer, "--ckpt", "two/best.ckpt", "--data", "text.npy", "image.npy", "--item-ids", "ids.txt", "--output", "two.json")
        lines("all_ids.txt", lines("ids.txt") + lines("new_ids.txt"))
        for name in ("text", "image"):
            np.save(f"{name}.npy", np.concatenate([np.load(f"{name}.npy"), np.load("new.npy")[:, :6]]))
        change()
    return make


def other_nan():
    two_parts()
    image = np.load("image.npy")
    image.view(np.uint32)[np.isnan(image)] = 0xffc00001
    np.save("image.npy", image)


def parts_with_ids(first, second, without=False):
    def make():
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = np.load("items.npy")
        for name, ids in (("a", first), ("b", second)):
            parquet.write_table(pyarrow.table({"item_id": ids, "embedding": list(rows)}), f"{name}.parquet")
        np.save("c.npy", rows)
    return make


def blended(change_between=False):
    """A run on items and interactions, and its parts, between which a row of the second may change."""
    def make():
        named = ["--ckpt", "blended/best.ckpt", "--overwrite", "--output", "parts.json", *NAMED, "--interactions", "inter.jsonl"]
        did(train, *NAMED, "--interactions", "inter.jsonl", *SIZES, "--checkpoint-dir", "blended")
        did(infer, *named, "--shard", "1/2")
        if change_between:
            rows = np.load("items.npy")
            rows[1050] += 1
            np.save("items.npy", rows)
        did(infer, *named, "--shard", "2/2")
    return make


def in_bfloat16():
    did(train, *NAMED, *SIZES, "--amp", "--checkpoint-dir", "amp")


OTHER_DATA, OTHER_IDS = (f"has other {what} than checkpoints/last.ckpt" for what in ("features", "item IDs"))
NO_MORE, NOT_MADE = "items.npy does not hold the features any more", "does not hold the features that pub.json was made from"
RENAMED = "item IDs were renamed, or put in another order"
CHANGED, WRONG = "published items get other codes by all.npy than in", "does not hold the features of the items that it"
JUDGED = "items.npy does not hold, number for number, the features that pub.json was made from"
OTHERWISE = "1,100 of 1,140 new item IDs are written otherwise in pub.json"
RIGHT = ""

# What is changed, the command, the outcome: RIGHT, or words of an error (2) or of a warning (0).
CASES = {
    # the features, or the item IDs, of a run: every command that finds them again
    **{f"{command} {change.__name__}": (change, script, argv, code, words) for change, outcomes in {
        permuted: (OTHER_DATA, NO_MORE, NOT_MADE, NO_MORE, NO_MORE), turned: (OTHER_DATA, NO_MORE, NOT_MADE, NO_MORE, NO_MORE), one_row: (OTHER_DATA, NO_MORE, NOT_MADE, NO_MORE, NO_MORE),
        doubled: (OTHER_DATA, NO_MORE, NOT_MADE, NO_MORE, NO_MORE), as_double: (RIGHT,) * 5, in_fortran_order: (RIGHT,) * 5,
        swapped_ids: (OTHER_IDS, "the item IDs any more", RENAMED, "the item IDs any more", "the item IDs any more"),
        renamed_ids: (OTHER_IDS, "the item IDs any more", RENAMED, "the item IDs any more", "the item IDs any more"),
    }.items() for (command, script, argv), words in zip((
        ("resume", train, RESUME), ("infer", infer, ["--output", "out.json"]), ("verify", infer, VERIFY), ("merge", infer, MERGE),
        ("report", infer, ["--report"])), outcomes) for code in [2 if words else 0]},
    "resume parquet": (as_parquet, train, [*RESUME, "--data", "items.parquet"], 0, RIGHT),
    "verify parquet": (as_parquet, infer, [*VERIFY, "--data", "items.parquet"], 0, RIGHT),
    "merge parquet": (as_parquet, infer, [*MERGE, "--data", "items.parquet"], 0, RIGHT),
    "own IDs and others": (lambda: (as_parquet(), swapped_ids()), infer, ["--data", "items.parquet", "--item-ids", "ids.txt",
                           "--output", "out.json"], 2, "has its own item IDs, and ids.txt has the same in another order: row 3"),
    # the checkpoint
    "merge another run": (None, infer, [*MERGE, "--ckpt", "other/best.ckpt"], 2, "is of other weights"),
    "verify another run": (None, infer, [*VERIFY, "--ckpt", "other/best.ckpt"], 2, "pub.json was made by other weights"),
    "append another run": (None, infer, ["--ckpt", "other/best.ckpt", *APPEND, "pub.json"], 2, "pub.json was made by other weights"),
    "keep another run": (None, train, [*KEEP, "--from", "other/best.ckpt"], 2, "pub.json was made by other weights"),
    "against another run": (None, infer, [*NAMED, "--report", "--against", "other.json"], 2, "other.json was made by other weights"),
    "merge activation": (another_activation, infer, MERGE, 2, "is of other options"),
    "verify activation": (another_activation, infer, VERIFY, 2, "by a model whose activation was"),
    "append activation": (another_activation, infer, [*APPEND, "pub.json"], 2, "by a model whose activation was"),
    "a folder's activation": (another_activation_in_the_folder, infer, ["--ckpt", "pack", *APPEND, "pub.json"], 2,
                              "config.json was edited since"),
    "append folder": (None, infer, ["--ckpt", "pack", *APPEND, "pub.json"], 0, RIGHT),
    "append grown folder": (grown_first(saved("grown")), infer, ["--ckpt", "own", *GROWN, "pub.json"], 0, RIGHT),
    "a blended model's folder": (lambda: (blended()(), saved("blended")()), infer, ["--ckpt", "own", *NAMED, "--output", "next.json"], 0,
                                 "own was trained on features that know what users did"),
    "a folder's parts swapped": (saved("two", two_parts), infer, ["--ckpt", "own", "--data", "image.npy", "text.npy", "--output", "next.json"],
                                 2, "own was trained with text.npy image.npy"),
    "a folder's origin": (lambda: edited_origin({"ancestors": 3}), infer, ["--ckpt", "pack", *APPEND, "pub.json"], 2,
                          "config.json: ancestors is 3, which no run records"),
    "verify folder": (None, infer, ["--ckpt", "pack", *VERIFY], 0, RIGHT),
    "resume best of another run": (copied("other/best.ckpt", "checkpoints/best.ckpt"), train, RESUME, 2, "best.ckpt is not of the run"),
    "resume no best": (lambda: Path("checkpoints/best.ckpt").unlink(), train, RESUME, 0, RIGHT),
    "resume metrics of another run": (copied("other/metrics.jsonl", "checkpoints/metrics.jsonl"), train, RESUME, 0, RIGHT),
    "resume amp": (None, train, [*RESUME, "--amp"], 2, "--amp is True, checkpoints/last.ckpt was begun with False"),
    "resume weights": (two_parts, train, [*RESUME, "--checkpoint-dir", "two", "--weights", "1", "3"], 2, "--weights is 1.0 3.0"),
    "resume somewhere else": (None, train, [*RESUME[:1], "other/last.ckpt", "--checkpoint-dir", "new"], 2,
                              "--checkpoint-dir is new, but a run that is resumed goes on where it is, in other"),
    "resume with keep": (None, train, [*RESUME, "--from", "other/best.ckpt", "--keep", "other.json"], 2,
                         "--from is other/best.ckpt, checkpoints/last.ckpt was begun without; --keep is other.json"),
    # published items and their features
    "append": (None, infer, [*APPEND, "pub.json"], 0, RIGHT),
    "append all": (None, infer, [*GROWN, "pub.json"], 0, RIGHT),
    "append all, carriage returns": (with_carriage_returns, infer, [*GROWN, "pub.json"], 0, RIGHT),
    "append all, two IDs swapped": (swapped_two("B00000", "B00001"), infer, [*GROWN, "pub.json"], 0, "2 of 1,100 " + CHANGED),
    "append all, IDs shuffled": (shuffled_ids, infer, [*GROWN, "pub.json"], 2, WRONG),
    "append all, permuted": (lambda: permuted("all.npy"), infer, [*GROWN, "pub.json"], 2, WRONG),
    "append all, made again": (lambda: made_again(), infer, [*GROWN, "pub.json"], 0, RIGHT),
    "append all, turned": (lambda: turned("all.npy"), infer, [*GROWN, "pub.json"], 2, WRONG),
    "append all, one row": (lambda: one_row("all.npy"), infer, [*GROWN, "pub.json"], 0, CHANGED),
    "append all, doubled": (lambda: doubled("all.npy"), infer, [*GROWN, "pub.json"], 0, CHANGED),
    "append all, renamed": (lambda: renamed_ids("all_ids.txt"), infer, [*GROWN, "pub.json"], 0, "these are published twice"),
    "append all, spaces": (with_spaces, infer, [*GROWN, "pub.json"], 2, OTHERWISE),
    "append all, lower case": (in_lower_case, infer, [*GROWN, "pub.json"], 2, OTHERWISE),
    "report against, lower case": (in_lower_case, infer, [*GROWN[:4], "--report", "--against", "pub.json"], 2, OTHERWISE),
    "report against": (None, infer, [*GROWN[:4], "--report", "--against", "pub.json"], 0, RIGHT),
    "report against, IDs shuffled": (shuffled_ids, infer, [*GROWN[:4], "--report", "--against", "pub.json"], 2, WRONG),
    "report against, two IDs swapped": (swapped_two("B00000", "B00001"), infer, [*GROWN[:4], "--report", "--against", "pub.json"], 0,
                                        "2 of 1,100 " + CHANGED),
    "append a link": (linked("pub.npy", "current.npy"), infer, [*GROWN, "current.npy"], 0, RIGHT),
    "append a link, another run": (linked("pub.json", "current.json"), infer, ["--ckpt", "other/best.ckpt", *APPEND, "current.json"], 2,
                                   "current.json was made by other weights"),
    "append parts": (two_parts_published(), infer, TWO, 0, RIGHT),
    "append parts, two IDs swapped": (two_parts_published(lambda: swapped_ids("all_ids.txt")), infer, TWO, 0,
                                      "2 of 1,100 published items get other codes by text.npy and image.npy than in two.json"),
    "append rows again": (None, infer, ROWS, 2, "the first 1,100 rows of all_rows.npy are the items that rows.json has already"),
    "append third": (third(), infer, [*GROWN[:4], "--output", "last.json", "--append-to", "next.json"], 0, RIGHT),
    "append third, swapped": (third(swapped_two("B01105", "B01106")), infer, [*GROWN[:4], "--output", "last.json", "--append-to", "next.json"],
                              0, CHANGED),
    "append twice": (gone_on, infer, [*APPEND[:4], "--output", "fork.json", "--append-to", "pub.json"], 0,
                     "next.json went on from pub.json already"),
    "keep": (None, train, KEEP, 0, RIGHT),
    "keep, permuted": (lambda: permuted("all.npy"), train, KEEP, 2, WRONG),
    "keep, made again": (lambda: made_again(), train, KEEP, 0, RIGHT),
    "keep, doubled": (lambda: doubled("all.npy"), train, KEEP, 0, CHANGED),
    "keep, IDs shuffled": (shuffled_ids, train, KEEP, 2, WRONG),
    "keep, spaces": (with_spaces, train, KEEP, 2, OTHERWISE),
    "keep in the folder of the old model": (None, train, [*KEEP, "--checkpoint-dir", "checkpoints", "--overwrite"], 2,
                                            "which this run would replace"),
    "keep rows": (None, train, KEEP_ROWS, 0, RIGHT),
    "keep rows, permuted": (lambda: permuted("all_rows.npy"), train, KEEP_ROWS, 2, WRONG),
    # the published table, its manifest, the generation before
    "table of doubles": (edited(twice), infer, [*APPEND, "pub.json"], 0, "gives B00000 and B00001 one ID, and 0 more"),
    "table beyond": (edited(beyond), infer, [*APPEND, "pub.json"], 2, "codes of level 1 must be below 16, got 16 in row 1"),
    "table edited": (edited(exchanged, manifest=True), infer, [*APPEND, "pub.json"], 2, "it was edited"),
    "table edited, judged": (edited(exchanged, manifest=True), infer, ["--ids", "pub.json", "--report"], 2, "it was edited"),
    "suffix too large": (with_suffix("<d_999999999>"), infer, [*APPEND, "pub.json"], 2, "the suffix of row 5 is 999999999"),
    "suffix twice": (with_suffix(None), infer, [*APPEND, "pub.json"], 2, "though it has a suffix to tell them apart"),
    "manifest of another": (copied("other.json.manifest", "pub.json.manifest"), infer, [*APPEND, "pub.json"], 2,
                            "pub.json.manifest is of other.json, not of pub.json"),
    "names of other rows, judged": (other_names_of_rows, infer, ["--ids", "pub.npy", "--report"], 2, "pub.item2id is not the file"),
    "features permuted, judged": (permuted, infer, ["--ids", "pub.json", "--report", *NAMED], 0, JUDGED),
    "item IDs swapped, judged": (swapped_ids, infer, ["--ids", "pub.json", "--report", *NAMED], 0, JUDGED),
    "in its own order, judged": (None, infer, ["--ids", "pub.json", "--report", *NAMED], 0, RIGHT),
    "rows of other features, judged": (permuted, infer, ["--ids", "rows.json", "--report", "--data", "items.npy"], 0,
                                       "the features that rows.json was made from"),
    "sizes of the manifest": (None, infer, ["--ids", "pub.json", "--report"], 0, RIGHT),
    # what is written twice, or where something else stands
    "a manifest that is none": (lambda: lines("next.json.manifest", ["mine"]), infer, [*APPEND, "pub.json"], 2,
                                "next.json.manifest exists; replace it by --overwrite"),
    "metrics of another program": (lambda: (os.mkdir("own"), lines("own/metrics.jsonl", ["mine"])), train,
                                   [*NAMED, *SIZES, "--checkpoint-dir", "own"], 2, "own already holds metrics.jsonl"),
    "resume what was set aside": (lambda: [os.rename(f"other/{name}.ckpt", f"other/earlier-{name}.ckpt") for name in ("best", "last")],
                                  train, [*RESUME, "--checkpoint-dir", "other"], 2,
                                  "rename other/earlier-last.ckpt as last.ckpt and other/earlier-best.ckpt as best.ckpt"),
    "several formats in a folder": (None, infer, ["--format", "lcrec", "tiger", "json", "npy", "--output", "formats"], 0, RIGHT),
    "IDs beside a model": (None, infer, ["--ckpt", "pack", *NAMED, "--output", "pack/ids.json"], 0, RIGHT),
    "in place": (None, infer, [*APPEND[:4], "--append-to", "pub.json", "--output", "pub.json", "--overwrite"], 0, RIGHT),
    "merge other item IDs": (renamed_ids, infer, [*MERGE, *NAMED], 2, "is of other item IDs"),
    # a run that keeps IDs, resumed
    "resume keep": (grown_first(), train, [*RESUME, "--checkpoint-dir", "grown"], 0, RIGHT),
    "resume keep, other IDs": (grown_first(published_otherwise), train, [*RESUME, "--checkpoint-dir", "grown"], 2, "hold items to other"),
    "resume keep, edited": (grown_first(edited(exchanged)), train, [*RESUME, "--checkpoint-dir", "grown"], 2, "hold items to other IDs"),
    "resume keep, other model": (grown_first(copied("other/best.ckpt", "checkpoints/best.ckpt")), train,
                                 [*RESUME, "--checkpoint-dir", "grown"], 2, "pub.json was made by other weights"),
    # several embeddings, and interactions
    "parts": (two_parts, infer, ["--ckpt", "two/best.ckpt", "--output", "out.json"], 0, RIGHT),
    "parts, other NaN": (other_nan, infer, ["--ckpt", "two/best.ckpt", "--output", "out.json"], 0, RIGHT),
    "parts swapped": (two_parts, infer, ["--ckpt", "two/best.ckpt", "--data", "image.npy", "text.npy", "--output", "out.json"], 2,
                      "was trained with text.npy image.npy"),
    "parts of text and integers": (parts_with_ids([str(row) for row in range(ITEMS)], list(range(ITEMS))), train,
                                   ["--data", "a.parquet", "b.parquet", *SIZES, "--checkpoint-dir", "two"], 0, RIGHT),
    "parts of which one has no IDs": (parts_with_ids(list(range(ITEMS)), list(range(ITEMS))[::-1]), train,
                                      ["--data", "a.parquet", "b.parquet", "c.npy", *SIZES, "--checkpoint-dir", "two"], 2,
                                      "and c.npy has none, so nobody can tell"),
    "merge blended": (blended(), infer, ["--ckpt", "blended/best.ckpt", *MERGE, *NAMED, "--interactions", "inter.jsonl"], 0, RIGHT),
    "merge blended, changed between": (blended(True), infer, ["--ckpt", "blended/best.ckpt", *MERGE, *NAMED, "--interactions",
                                                              "inter.jsonl"], 2, "is of other features"),
    "interactions of integers": (integers(), infer, ["--data", "items.npy", "--item-ids", "ids.npy", "--report", "--interactions",
                                                     "taken.jsonl"], 0, RIGHT),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_another_one_of_what_belongs_together_gives_the_right_result_or_is_said(here, capsys, name):
    change, script, argv, code, words = CASES[name]
    if change:
        change()
    before = {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert script.main(argv) == code, capsys.readouterr().err
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "warning: "))]
    said = [line for line in said if "image.npy is missing for 275" not in line]
    assert any(words in line for line in said) if words else not said, said
    if code:
        assert {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()} == before
    elif "out.json" in argv and not words and "two/best.ckpt" not in argv:
        assert np.array_equal(load_semantic_ids("out.json").codes, load_semantic_ids("pub.json").codes)
    elif "--merge" in argv and "blended/best.ckpt" not in argv:
        assert np.array_equal(load_semantic_ids("parts.json").codes, load_semantic_ids("pub.json").codes)
    elif "--append-to" in argv:
        published, found = (load_semantic_ids(argv[argv.index(option) + 1]) for option in ("--append-to", "--output"))
        assert np.array_equal(found.codes[:len(published.codes)], published.codes)
        assert len(found.codes) - len(np.unique(found.codes, axis=0)) == ("doubles" in name)


COMPARE = {
    "`infer`": (infer, ["--output", "out.json"]),
    "`infer --data`": (infer, [*NAMED, "--output", "out.json"]),
    "`infer --report`": (infer, ["--report"]),
    "`infer --merge`": (infer, MERGE),
    "`infer --verify`": (infer, VERIFY),
    "`infer --append-to`": (infer, [*GROWN, "pub.json"]),
    "`infer --against`": (infer, [*NAMED, "--report", "--against", "pub.json"]),
    "`infer --ids`": (infer, ["--ids", "pub.json", "--report", *NAMED]),
    "`train --keep`": (train, KEEP),
    "`train --resume`, of a run with `--keep`": (train, ["--resume", "--checkpoint-dir", "grown", "--epochs", "2"]),
    "`train --resume`": (train, RESUME),
}


def test_what_each_command_compares_is_what_the_documentation_says(here, monkeypatch):
    rows = re.findall(r"^\| (`(?:infer|train).*) \| (.*) \|$", (ROOT / "docs/faults.md").read_text("utf-8"), flags=re.M)
    said = {command: set(parts.split(", ")) for command, parts in rows if command in COMPARE}
    assert said.keys() == COMPARE.keys()
    asked, compared = set(), identity.compared

    def watched(*arguments, **things):
        found = compared(*arguments, **things)
        asked.update(found)
        return found

    for module in [module for name, module in sys.modules.items() if name.startswith("rqvae")]:
        if getattr(module, "compared", None) is compared:
            monkeypatch.setattr(module, "compared", watched)
    for command, (script, argv) in COMPARE.items():
        asked.clear()
        did(script, *argv, *(["--overwrite"] if argv[-1] == "out.json" else []))
        assert asked == said[command], command


ODD = [[], {}, 3, None, "x", [[1]], -1, 1e400, True]


@pytest.mark.parametrize("argv", [[*APPEND, "pub.json"], VERIFY, ["--ids", "pub.json", "--report", *NAMED]], ids=lambda argv: argv[0])
def test_odd_fields_of_a_manifest_are_refused_in_its_name_or_change_nothing(here, capsys, argv):
    whole = json.loads(Path("pub.json.manifest").read_text())
    made, features = whole["checkpoint"], whole["features"]
    odd = [*((name, {**whole, name: value}) for name in whole for value in ODD),
           *((name, {**whole, "checkpoint": {**made, name: value}}) for name in made for value in ODD),
           *((name, {**whole, "features": {**features, name: value}}) for name in features for value in ODD),
           *((name, {**whole, "features": {**features, "places": {**features["places"], name: value}}})
             for name in ("data", "text_columns", "blended") for value in ODD)]
    for name, manifest in odd:
        Path("pub.json.manifest").write_text(json.dumps(manifest))
        code = infer.main([*argv, "--overwrite"] if "--output" in argv else argv)
        said = capsys.readouterr().err
        assert code in (0, 1) or code == 2 and "pub.json" in said, (name, manifest, said)


def test_integer_item_ids_that_look_like_rows_are_found_by_item_id(here, capsys):
    integers("permuted")()
    did(infer, "--data", "items.npy", "--item-ids", "ids.npy", "--report", "--interactions", "taken.jsonl")
    assert "named by item ID" in capsys.readouterr().out


def test_the_manifest_tells_how_many_codes_there_are(here, capsys):
    did(infer, "--ids", "pub.json", "--report")
    assert "3 levels of 16 codes" in capsys.readouterr().out


def test_a_run_in_bfloat16_is_resumed_in_bfloat16(here):
    in_bfloat16()
    did(train, "--resume", "--checkpoint-dir", "amp", "--epochs", "3")
    assert load_checkpoint("amp/last.ckpt")["rqvae"]["notes"]["amp"] is True


def test_a_best_checkpoint_that_is_gone_is_made_again(here):
    Path("checkpoints/best.ckpt").unlink()
    did(train, *RESUME, "--learning-rate", "1e-9")          # no epoch from here on is better than the best before
    assert load_checkpoint("checkpoints/best.ckpt")["rqvae"]["epoch"] == 3


def test_a_model_folder_and_ids_of_one_command_are_one_set(here, monkeypatch, capsys):
    """The disk fills up with the last of them: the folder is the old one, its other format included."""
    did(infer, "--save-pretrained", "pack", "--ckpt", "other/best.ckpt", "--overwrite")
    outdated = Path("pack", "pytorch_model.bin" if find_spec("safetensors") else "model.safetensors")
    outdated.write_bytes(b"old")
    before = {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()}

    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "out.json")

    with monkeypatch.context() as disk:
        disk.setattr("rqvae.cli.infer.write_outputs", full)
        assert infer.main(["--save-pretrained", "pack", "--output", "out.json", "--overwrite"]) == 1
    assert {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()} == before
    did(infer, "--save-pretrained", "pack", "--output", "out.json", "--overwrite")
    assert not outdated.exists()


@pytest.mark.parametrize("change, argv, words", [
    (lambda: os.mkdir("out.json.manifest"), ["--output", "out.json"], "out.json.manifest is a folder"),
    (None, ["--output", "x" * 248 + ".json"], "File name too long"),
])
def test_a_manifest_that_cannot_be_written_is_said_before_the_work(here, monkeypatch, capsys, change, argv, words):
    if change:
        change()
    monkeypatch.setattr("rqvae.cli.infer.encoded", lambda job: pytest.fail("it was encoded"))
    assert infer.main(argv) == 2 and words in capsys.readouterr().err
