"""Semantic IDs as CSV: read by another reader, and damage named by its line."""

import csv

import numpy as np
import pytest

from rqvae import load_semantic_ids, save_semantic_ids


@pytest.mark.parametrize("item_ids, names", [(None, None), (["a,b", 'say "x"'], ["Drill, 店", "line\nbreak"]), (["7", "3"], None),
                                             (["a\rb", "c"], ["\r", "x\r\ny"]), (None, ["\r", "a\x85\u2028\x1c"])])
def test_a_csv_is_what_any_reader_of_csv_makes_of_it_and_comes_back(tmp_path, item_ids, names):
    codes = np.array([[3, 1], [0, 255]])
    save_semantic_ids(codes, tmp_path / "ids.csv", item_ids=item_ids, names=names)
    with open(tmp_path / "ids.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[int(row["code_1"]), int(row["code_2"])] for row in rows] == codes.tolist()
    assert [row.get("item_id") for row in rows] == (item_ids or [None, None]) and [row.get("name") for row in rows] == (
        names or [None, None])
    loaded = load_semantic_ids(tmp_path / "ids.csv")
    assert np.array_equal(loaded.codes, codes) and loaded.item_ids == item_ids and loaded.names == names


@pytest.mark.parametrize("content, words", [
    ("", "empty"), ("id,code_1\n1,2\n", "its header is"), ("row,code_1,code_3\n0,1,2\n", "its header is"),
    ("row,code_1\n0,-1\n", "line 2 is"), ("row,code_1\n0\n", "line 2 is"), ("row,code_1\n", "holds no semantic IDs"),
    ("row,code_1\n1,1\n", "its rows are not 0 to 0"), ("row,code_1\n0,99999999999999999999\n", "ids.csv: "),
    ("item_id,code_1\na,1\na,2\n", "a"), ('row,code_1\n"0,1\n', "ids.csv: ")])
def test_a_csv_that_is_damaged_is_refused(tmp_path, content, words):
    (tmp_path / "ids.csv").write_text(content)
    with pytest.raises(ValueError, match=words):
        load_semantic_ids(tmp_path / "ids.csv")
