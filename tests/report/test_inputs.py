"""What a report needs beside the IDs, and how other files are refused."""

import json

import numpy as np
import pytest

from rqvae import open_features
from rqvae.items.batches import FeatureLoader, split_rows
from rqvae.report.inputs import in_order_of, load_names, load_pairs, trained_and_held_out, training_history
from rqvae.ids.exports import export_semantic_ids
from rqvae.ids.files import SemanticIds, save_semantic_ids
from rqvae.ids.imports import import_semantic_ids


def test_the_history_is_the_whole_run_s_where_it_is_the_same_run(tmp_path):
    rows = [{"epoch": epoch, "train_loss": 1.0 / (epoch + 1)} for epoch in range(4)]
    extra = {"history": rows[:2]}
    marked = [rows[0], {**rows[1], "chosen": True}]
    assert training_history(tmp_path / "best.ckpt", {}) == []
    assert training_history(tmp_path / "best.ckpt", extra) == marked
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_history(tmp_path / "best.ckpt", extra) == [*marked, *rows[2:]]
    for other in ('{"epoch": 0, "train_loss": 7.0}\n' * 3, "not json", "[1]\n[2]\n[3]\n"):
        (tmp_path / "metrics.jsonl").write_text(other)
        assert training_history(tmp_path / "best.ckpt", extra) == marked


def test_the_split_is_found_again_for_the_very_table_only():
    features = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    train_rows, val_rows = split_rows(50, 0.1, 7)
    loader = FeatureLoader(features, 8, shuffle=True, seed=7, rows=train_rows)
    extra = {"notes": {"val_fraction": 0.1, "seed": 7, "batch_size": 8}, "fingerprint": f"{loader.fingerprint()} mixed"}
    found = trained_and_held_out(extra, open_features(features))
    assert [rows.tolist() for rows in found] == [train_rows.tolist(), val_rows.tolist()]
    assert trained_and_held_out(extra, open_features(features[:40])) is None
    assert trained_and_held_out(extra, open_features(features + 1)) is None
    assert trained_and_held_out({}, open_features(features)) is None


def test_names_are_lines_or_a_list(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\n", "utf-8")
    (tmp_path / "a.json").write_text('["one", "one"]')
    assert load_names(tmp_path / "a.txt", 3) == ["one", "", "three"]
    assert load_names(tmp_path / "a.json", 2) == ["one", "one"]


@pytest.mark.parametrize("name, content, words", [
    ("a.csv", b"x", "has the suffix '.csv'; expected names as a .txt"),
    ("a.json", b"[1, 2]", "holds other values than text"),
    ("a.json", b"<html>", "this is an HTML page"),
    ("a.txt", b"\xff\xfe", "cannot be read as .txt"),
    ("a.txt", b"one", "has 1 name for 2 items; expected one for each"),
])
def test_other_names_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_names(tmp_path / name, 2)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", ">i8"])
def test_pairs_are_read_from_any_integers(tmp_path, dtype):
    np.save(tmp_path / "p.npy", np.array([[0, 1], [2, 0]], dtype))
    assert load_pairs(tmp_path / "p.npy", 3).tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize("pairs, words", [
    (np.zeros((3, 2), np.float32), r"holds dtype <f4 of shape \(3, 2\); expected integers"),
    (np.zeros((3, 3), int), r"of shape \(3, 3\)"),
    (np.zeros((0, 2), int), r"has shape \(0, 2\), so it holds nothing"),
    (np.array([[0, 5]]), "names the rows 0 to 5, but there are rows 0 to 4"),
    (np.array([[-1, 2]]), "names the rows -1 to 2"),
])
def test_other_pairs_are_refused(tmp_path, pairs, words):
    np.save(tmp_path / "p.npy", pairs)
    with pytest.raises(ValueError, match=words):
        load_pairs(tmp_path / "p.npy", 5)


def test_truncated_pairs_name_both_sizes(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros((5, 2), int))
    (tmp_path / "p.npy").write_bytes((tmp_path / "p.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="200 bytes.* promises 208"):
        load_pairs(tmp_path / "p.npy", 5)


def test_ids_are_put_into_the_order_of_the_features():
    table = open_features(np.zeros((3, 2), np.float32), item_ids=["a", "b", "c"])
    ids = SemanticIds(np.array([[1], [2], [3]]), ["c", "a", "b"], ["C", "A", "B"])
    ordered = in_order_of(table, ids, "ids.jsonl")
    assert (ordered.codes[:, 0].tolist(), ordered.item_ids, ordered.names) == ([2, 3, 1], list("abc"), list("ABC"))
    plain = SemanticIds(ids.codes, None, None)
    assert in_order_of(table, plain, "ids.jsonl") is plain
    with pytest.raises(ValueError, match="ids.jsonl has no ID for 1 of the items of .*, such as 'b'"):
        in_order_of(table, ids._replace(item_ids=["c", "a", "x"]), "ids.jsonl")
    with pytest.raises(ValueError, match="ids.jsonl has 2 items, .* has 3; give the features of the same items"):
        in_order_of(table, SemanticIds(ids.codes[:2], None, None), "ids.jsonl")


def test_numbers_for_keys_are_item_ids_or_rows_and_never_guessed(tmp_path):
    order = [2, 0, 1]
    table = open_features(np.zeros((3, 2), np.float32), item_ids=order)
    codes = np.array([[7], [8], [9]])                               # of the rows, so of the items 2, 0, 1
    save_semantic_ids(codes, tmp_path / "ours.json", item_ids=order)
    export_semantic_ids(codes, "lcrec", tmp_path / "theirs.index.json", num_embeddings=10, item_ids=order)
    for name in ("ours.json", "theirs.index.json"):
        ordered = in_order_of(table, import_semantic_ids(tmp_path / name), tmp_path / name)
        assert ordered.codes.tolist() == codes.tolist() and ordered.item_ids == order, name
    (tmp_path / "theirs.item2id").unlink()
    path = tmp_path / "theirs.index.json"
    with pytest.raises(ValueError, match="does not say whether its own numbers are item IDs or rows; put its "
                                         "theirs.item2id beside it, or leave --item-ids out"):
        in_order_of(table, import_semantic_ids(path), path)


def test_item_ids_of_two_kinds_name_the_same_items():
    table = open_features(np.zeros((3, 2), np.float32), item_ids=[30, 10, 20])
    ordered = in_order_of(table, SemanticIds(np.array([[1], [2], [3]]), ["10", "20", "30"], None), "ids.json")
    assert ordered.codes[:, 0].tolist() == [3, 1, 2] and ordered.item_ids == [30, 10, 20]
