"""Plans are refused before there are IDs; files hold what was asked for; published IDs stay what they are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from samples import ROOT
from rqvae.ids.generations import verified_manifest
from rqvae.ids.imports import import_semantic_ids
from rqvae.ids.publishing import (
    check_labels, labels_beside, load_published, plan_outputs, published_method, published_rows, which_keys,
    write_outputs)
from rqvae.ids.files import SemanticIds, load_semantic_ids, save_semantic_ids

CODES = np.array([[1, 2], [1, 2], [3, 0], [1, 2]])


def test_the_suffix_of_the_output_is_the_default_format(tmp_path):
    (output,) = plan_outputs(None, tmp_path / "ids.npy")
    assert write_outputs([output], CODES, [4, 4]) == [tmp_path / "ids.npy"]
    assert np.load(tmp_path / "ids.npy").tolist() == CODES.tolist()


def test_several_formats_go_into_one_folder(tmp_path):
    outputs = plan_outputs(["lcrec", "tiger", "jsonl", "lcrec"], tmp_path / "out")
    names = [path.name for path in write_outputs(outputs, CODES, [4, 4], names=list("wxyz"))]
    assert names == ["lcrec.index.json", "tiger.npy", "tiger.pt", "semantic_ids.jsonl"]
    assert torch.load(tmp_path / "out" / "tiger.pt", weights_only=True).tolist() == [
        [1, 2, 0], [1, 2, 1], [3, 0, 0], [1, 2, 2]]
    assert load_semantic_ids(tmp_path / "out" / "semantic_ids.jsonl").names == list("wxyz")


def test_a_suffix_is_a_level_of_its_own_but_where_the_format_counts_by_itself(tmp_path):
    unique = np.column_stack([CODES, [0, 1, 0, 2]])
    write_outputs(plan_outputs(["lcrec", "tiger", "grid"], tmp_path), unique, [4, 4])
    assert json.loads((tmp_path / "lcrec.index.json").read_text())["3"] == ["<a_1>", "<b_2>", "<c_2>"]
    assert np.load(tmp_path / "tiger.npy").tolist() == unique.tolist()
    assert import_semantic_ids(tmp_path / "grid.pt").codes.tolist() == [[1, 2, 1], [1, 2, 2], [3, 0, 0], [1, 2, 3]]


def test_published_suffixes_that_a_format_cannot_say_are_refused(tmp_path):
    with pytest.raises(ValueError, match="format tiger counts 0, 1, 2, .* the published suffixes leave some out"):
        write_outputs(plan_outputs(["tiger"], tmp_path), np.array([[1, 2, 0], [1, 2, 7]]), [4, 4])


@pytest.mark.parametrize("formats, output, words", [
    (["nope"], None, "there is no format 'nope'; there are json, jsonl, csv, npy, lcrec, "),
    (["lcrec", "grid"], "ids.json", "--output is ids.json, one file, but there are 2 formats; name a folder"),
    (["jsonl"], "ids.json", "--output is ids.json; --format jsonl writes .jsonl"),
    (["grid"], "ids.json", "ids.json has the suffix '.json'; format 'grid' writes .pt"),
    (None, "ids.tsv", "--output is ids.tsv; its suffix must be .json, .jsonl, .csv or .npy, unless a --format is named"),
])
def test_what_does_not_fit_is_refused_in_words(tmp_path, monkeypatch, formats, output, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        plan_outputs(formats, output)
    assert words in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("formats, name", [(None, "ids.json"), (["lcrec"], "out/lcrec.index.json"),
                                           (["json"], "out/semantic_ids.json")])
def test_a_file_that_exists_is_refused_unless_overwritten(tmp_path, formats, name):
    (tmp_path / "out").mkdir()
    (tmp_path / name).write_text("precious")
    target = tmp_path / (name if formats is None else "out")
    with pytest.raises(FileExistsError, match="exists; .*--overwrite"):
        plan_outputs(formats, target)
    assert plan_outputs(formats, target, overwrite=True)


@pytest.mark.filterwarnings("ignore:.*a.npy gives row 0 and row 1 one ID")
def test_published_ids_tell_how_they_were_made(tmp_path):
    save_semantic_ids(CODES, tmp_path / "a.npy")
    save_semantic_ids(np.column_stack([CODES, [0, 1, 0, 2]]), tmp_path / "b.npy")
    for name, method, other, words in (("a.npy", "optimal", "suffix", "without a suffix"),
                                       ("b.npy", "suffix", "nearest", "with a suffix")):
        published, manifest = load_published(tmp_path / name, [4, 4])
        assert manifest is None
        assert published_method(published, [4, 4], None, name) == method
        with pytest.raises(ValueError, match=f"--unique is {other}, but the IDs in {name} are {words}"):
            published_method(published, [4, 4], other, name)


@pytest.mark.parametrize("sizes, words", [
    ([4] * 4, "a.npy has 2 codes an item, the checkpoint gives 4, or 5 with a suffix; name the checkpoint"),
    ([4, 2], "a.npy: codes of level 2 must be below 2, got 2 in row 0"),
])
def test_ids_of_another_tokenizer_are_refused(tmp_path, sizes, words):
    save_semantic_ids(CODES, tmp_path / "a.npy")
    with pytest.raises(ValueError, match=words):
        load_published(tmp_path / "a.npy", sizes)


def test_labels_follow_the_published_ones():
    rows, named = SemanticIds(CODES, None, None), SemanticIds(CODES, list("abcd"), list("ABCD"))
    new = np.array([-1, 1, -1])                         # the second is published, as "b"
    assert labels_beside(rows, new, None, None) == (None, None)
    assert labels_beside(named, new, ["x", "b", "y"], None) == (list("abcdxy"), ["A", "B", "C", "D", "", ""])
    assert labels_beside(named, new, ["x", "b", "y"], list("XBY"))[1] == list("ABCDXY")


def test_item_ids_of_both_sides_are_of_one_kind_again():
    keys = SemanticIds(CODES, ["10", "11", "12", "13"], None)           # text, as keys of JSON are
    new = np.full(2, -1)
    assert labels_beside(keys, new, [20, 21], None)[0] == [10, 11, 12, 13, 20, 21]
    assert labels_beside(keys._replace(item_ids=[10, 11, 12, 13]), new, ["20", "21"], None)[0] == [10, 11, 12, 13, 20, 21]
    assert labels_beside(keys, new, ["x", "5"], None)[0] == ["10", "11", "12", "13", "x", "5"]
    assert labels_beside(SemanticIds(CODES, None, None), new, [20, 21], None)[0] == [0, 1, 2, 3, 20, 21]


def test_who_is_published_already_is_found_by_item_id():
    rows, named = SemanticIds(CODES, None, None), SemanticIds(CODES, list("abcd"), None)
    assert published_rows(named, "p", ["x", "d", "b"], 3).tolist() == [-1, 3, 1]
    assert published_rows(rows, "p", None, 2).tolist() == [-1, -1]      # the rows are the items, and go on counting
    assert published_rows(rows, "p", [3, 7], 2).tolist() == [3, -1]     # published keys are numbers, and so are these
    assert published_rows(rows, "p", ["3", "7"], 2).tolist() == [3, -1]
    with pytest.raises(ValueError, match="p has item IDs, the new items have none; give them by --item-ids"):
        published_rows(named, "p", None, 1)
    with pytest.raises(ValueError, match="p.npy knows its items by row number, but the new ones have item IDs such as "
                                         "'x', .* in p.item2id"):
        published_rows(rows, "p.npy", ["x", "y"], 2)
    with pytest.raises(ValueError, match="all 2 items are in p already, such as 'b', .*; there is nothing to add"):
        published_rows(named, "p", ["b", "a"], 2)


def test_item_ids_that_look_like_row_numbers_and_are_not_are_told_apart_by_format():
    outputs = plan_outputs(["json", "lcrec", "grid"], "nowhere")
    assert which_keys(outputs, None) == which_keys(outputs, [0, 1, 2]) == which_keys(outputs, [5, 1, 2]) == ""
    for ids in ([2, 0, 1], ["2", "0", "1"]):
        assert which_keys(outputs, ids) == (
            "the item IDs look like row numbers, but stand in another order; json: the item IDs are the keys; lcrec, "
            "grid: the keys are row numbers, and .item2id beside says which item each is")


def test_item_ids_that_lines_cannot_hold_are_refused_before_any_work(tmp_path):
    for formats in (["lcrec"], ["npy"], ["json", "semantic-id"]):
        with pytest.raises(ValueError, match="the item ID 'x.ty' of row 1 holds a tab or a line break, which .*item2id"):
            check_labels(plan_outputs(formats, tmp_path), ["a", "x\ty"])
    check_labels(plan_outputs(["json", "jsonl"], tmp_path), ["a", "x\ty", "b\u2028c"])
    assert not list(tmp_path.iterdir())


WRITER = """
import sys
import numpy as np
from rqvae.ids.publishing import plan_outputs, write_outputs
number = int(sys.argv[1])
codes = np.random.default_rng(number).permutation(4096)[:300]
codes = np.stack([codes // 256, codes // 16 % 16, codes % 16], axis=1)
for _ in range(25):
    write_outputs(plan_outputs(["json", "lcrec", "tiger"], "out", overwrite=True), codes, [16, 16, 16], overwrite=True,
                  item_ids=list(range(1000 * number, 1000 * number + 300)), made={"unique": None})
"""


def test_of_two_writers_of_one_set_the_files_of_one_stand_with_its_manifest(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(number)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
               for number in (1, 2)]
    assert 0 in [writer.wait(timeout=120) for writer in writers]        # who comes second may find that it is
    made = [verified_manifest(tmp_path / "out" / name)["generation"] for name in
            ("semantic_ids.json", "lcrec.index.json", "tiger.npy")]
    assert len(set(made)) == 1 and not list((tmp_path / "out").glob(".*"))


def test_ids_and_their_manifest_take_their_names_together(tmp_path, monkeypatch):
    """Where the manifest cannot be written there are no IDs either, and a first generation never looks like a file of 1.0."""
    monkeypatch.chdir(tmp_path)
    codes = np.array([[0, 1], [1, 0]])
    outputs = plan_outputs(None, "x.json")

    def full(*arguments):
        raise OSError(28, "No space left on device", "x.json.manifest")

    with monkeypatch.context() as broken:
        broken.setattr("rqvae.ids.publishing.write_manifest", full)
        with pytest.raises(OSError, match="No space"):
            write_outputs(outputs, codes, [2, 2], made={"unique": None})
    assert os.listdir() == []
    write_outputs(outputs, codes, [2, 2], made={"unique": None})
    assert verified_manifest("x.json")["items"] == 2
