"""Item IDs from sequences and files: one for each row, each once, and nothing that is no ID."""

import json
import re

import numpy as np
import pytest
import torch

from rqvae.items.identifiers import check_item_ids, load_item_ids

NAMES = ["B00X", "7", "ü ber", "x y"]


@pytest.mark.parametrize("source, kind", [
    (["5", 6, np.int64(7)], str), (("5", "6", "7"), str), (np.array([5, 6, 7]), int), (np.array(["5", "6", "7"]), str),
    (torch.tensor([5, 6, 7]), int), (range(5, 8), int), ((str(number) for number in (5, 6, 7)), str),
], ids=["mixed", "tuple", "integers", "strings", "tensor", "range", "generator"])
def test_item_ids_keep_their_kind_and_a_mixture_becomes_text(source, kind):
    ids = load_item_ids(source, 3)
    assert ids == list(map(kind, (5, 6, 7))) and {type(item) for item in ids} == {kind}


def write_ids(path, ids):
    if path.suffix == ".json":
        path.write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
    elif path.suffix == ".npy":
        np.save(path, np.array(ids))
    else:
        path.write_text("\n".join(map(str, ids)) + "\n", "utf-8")


@pytest.mark.parametrize("suffix", [".json", ".txt", ".npy"])
def test_every_kind_of_file_gives_its_ids_in_order(tmp_path, suffix):
    write_ids(tmp_path / f"ids{suffix}", NAMES)
    assert load_item_ids(str(tmp_path / f"ids{suffix}"), 4) == NAMES
    write_ids(tmp_path / f"ids{suffix}", [30, 10, 20])
    assert load_item_ids(tmp_path / f"ids{suffix}", 3) == (["30", "10", "20"] if suffix == ".txt" else [30, 10, 20])


def test_text_files_of_windows_and_of_no_last_newline_are_read(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert load_item_ids(path, 2) == ["a", "b"]
    path.write_bytes("a\u2028c\nb".encode())        # no line of ours; forms that others read by lines refuse it
    assert load_item_ids(path, 2) == ["a\u2028c", "b"]


def test_arrays_of_bytes_and_of_big_endian_text_are_read(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([b"a", b"bc"]))
    assert load_item_ids(tmp_path / "ids.npy", 2) == ["a", "bc"]
    np.save(tmp_path / "ids.npy", np.array(["a", "bü"], ">U2"))
    assert load_item_ids(tmp_path / "ids.npy", 2) == ["a", "bü"]


def sentence(source, count=3, error=ValueError):
    with pytest.raises(error) as caught:
        load_item_ids(source, count)
    assert caught.type is error and "\n" not in str(caught.value)
    return str(caught.value).replace(str(source), "FILE")


@pytest.mark.parametrize("suffix", [".json", ".txt", ".npy"])
def test_another_number_of_ids_than_rows_is_refused(tmp_path, suffix):
    write_ids(tmp_path / f"ids{suffix}", NAMES)
    assert sentence(tmp_path / f"ids{suffix}", 5) == (
        "FILE has 4 item IDs, the features have 5 rows; "
        "expected one for each row, in the same order")
    assert sentence(["a"], 5).startswith("item_ids has 1 item IDs, the features have 5 rows")


@pytest.mark.parametrize("suffix", [".json", ".txt", ".npy"])
def test_a_repeated_id_is_named_with_its_first_row(tmp_path, suffix):
    write_ids(tmp_path / f"ids{suffix}", ["a", "b", "c", "b", "c", "b"])
    assert sentence(tmp_path / f"ids{suffix}", 6) == (
        "FILE has the item ID 'b' 3 times, first for row 1, and 3 repeats in all; "
        "expected each ID once")


def test_one_and_the_text_one_are_the_same_id():
    assert "the item ID '1' 2 times" in sentence([1, "1"], 2)


@pytest.mark.parametrize("item, words", [
    (None, "'None' (NoneType)"), (1.0, "'1.0' (float)"), (True, "'True' (bool)"), (["a"], "(list)"),
    (b"a", "(bytes)"), ({"id": 3}, "(dict)"), ("", "'' (str)"), (float("nan"), "'nan' (float)"),
])
def test_what_is_no_id_is_refused_with_its_row(item, words):
    message = sentence(["a", item, "c"])
    assert words in message and "as the ID of row 1; expected text or a whole number" in message


def test_an_empty_line_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("a\n\nc\n")
    assert "as the ID of row 1" in sentence(tmp_path / "ids.txt")


def test_a_json_file_that_is_no_list_is_refused(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text('{"a": 1}')
    assert sentence(path) == "FILE holds a dict; expected a list of item IDs, one for each row"
    path.write_text('[{"id": 1}]')
    assert "(dict) as the ID of row 0" in sentence(path)
    for text in ("", '["a"', "[" * 100000):
        path.write_text(text)
        assert "FILE cannot be read as .json" in sentence(path, 1)
    path.write_text('["\\ud800"]')
    assert "FILE has item IDs that are not text" in sentence(path, 1)
    path.write_bytes(b'["\xff"]')
    assert "expected item IDs in UTF-8 text" in sentence(path, 1)


@pytest.mark.parametrize("array", [
    np.zeros(3), np.zeros((3, 1), int), np.zeros(3, bool), np.zeros((), int), np.zeros(3, "M8[s]"),
    np.array(["a", None, "b"], object), np.zeros(3, "i4,i4"),
])
def test_an_array_of_something_else_is_refused(tmp_path, array):
    np.save(tmp_path / "ids.npy", array)
    assert re.search("expected (a flat array of text or whole numbers|one item ID for each row)", sentence(tmp_path / "ids.npy"))


@pytest.mark.parametrize("descr, shape, words", [
    ("<U999999999", "(3,)", "dtype <U999999999"), ("<U0", "(999999999999,)", "dtype <U0"),
    ("<i3", "(3,)", "dtype <i3"), ("<i8", "(99999999999999,)", "its header promises"),
])
@pytest.mark.filterwarnings("ignore:.* what follows the first array:UserWarning")
def test_a_hostile_array_header_is_refused(tmp_path, descr, shape, words):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path = tmp_path / "ids.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))
    assert words in sentence(path)


def test_characters_that_do_not_exist_are_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.full((1, 3), 0x7FFFFFFF, "<u4").view("<U1")[0])
    assert "FILE holds damaged item IDs" in sentence(tmp_path / "ids.npy")


def test_missing_files_and_other_suffixes_are_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("a")
    message = sentence(tmp_path / "id.txt", error=FileNotFoundError)
    assert message == "FILE does not exist; did you mean ids.txt?"
    assert sentence(tmp_path, error=IsADirectoryError) == "FILE is a folder; expected a file"
    (tmp_path / "ids.xml").write_text("a")
    assert sentence(tmp_path / "ids.xml") == (
        "FILE has the suffix '.xml'; expected item IDs as .txt (one a line), .json, .npy, .item2id, .csv, .tsv, "
        ".parquet, .npz or .pt")
    (tmp_path / "ids.npy").write_text("a,b")
    assert sentence(tmp_path / "ids.npy").startswith("FILE is not a .npy file: starts with b'a,b'")


def test_ids_of_a_table_column_are_checked_alike():
    assert check_item_ids([3, 4], 2, "x.parquet") == [3, 4]
    with pytest.raises(ValueError, match=r"^x.parquet has 'None' \(NoneType\) as the ID of row 1"):
        check_item_ids(["a", None], 2, "x.parquet")
