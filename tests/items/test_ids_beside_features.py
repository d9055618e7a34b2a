"""Item IDs that lie in the file of the features, in a column of another file, or are the names of the vectors."""

import json

import numpy as np
import pytest
import torch

from rqvae.items.identifiers import load_item_ids
from rqvae.items.tables import open_features
from rqvae.storage.item_ids import read_item_numbers

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
TEXT, WHOLE = ["B0", "B1", "B2", "B3"], [30, 10, 2 ** 62 + 1, 20]


def write(path, features, ids, name):
    """Features with item IDs beside them, under `name`."""
    whole = type(ids[0]) is int
    if path.suffix == ".npz":
        np.savez(path, features=features, **{name: np.array(ids)})
    elif path.suffix == ".pt":
        torch.save({"features": torch.from_numpy(features), name: torch.tensor(ids) if whole else ids}, path)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors")
        from safetensors.torch import save_file
        save_file({"features": torch.from_numpy(features), name: torch.tensor(ids)}, path)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet
        parquet.write_table(pyarrow.table({"title": ["x"] * len(ids), name: ids, "embedding": features.tolist()}), path)


@pytest.mark.parametrize("ids", [TEXT, WHOLE], ids=["text", "integers"])
@pytest.mark.parametrize("suffix", [".npz", ".pt", ".parquet", ".safetensors"])
def test_ids_beside_the_features_are_found_and_keep_their_kind(tmp_path, suffix, ids):
    if suffix == ".safetensors" and ids is TEXT:
        pytest.skip("holds tensors only")
    for name, column in (("item_id", None), ("asin", None), ("id", None), ("code", "code")):
        path = tmp_path / f"{name}{suffix}"
        write(path, ROWS, ids, name)
        table = open_features(path, id_column=column)
        assert table.item_ids == ids and table.rows([2])[0].tolist() == ROWS[2].tolist()
        assert open_features(path, item_ids=TEXT, key="embedding" if suffix == ".parquet" else "features").item_ids == TEXT
        with pytest.raises(ValueError, match="has no column 'nope' for the item IDs; it has .*"):
            open_features(path, id_column="nope")


@pytest.mark.filterwarnings("error")
def test_a_parquet_column_that_nobody_takes_for_ids_is_not_passed_over_in_silence(tmp_path):
    write(tmp_path / "x.parquet", ROWS, TEXT, "sku")
    with pytest.raises(UserWarning, match="has the columns title, sku, none of which is taken for the item IDs"):
        open_features(tmp_path / "x.parquet")
    assert open_features(tmp_path / "x.parquet", id_column="sku").item_ids == TEXT
    assert open_features(tmp_path / "x.parquet", item_ids=TEXT).item_ids == TEXT


def test_binary_ids_of_parquet_are_the_text_that_they_spell(tmp_path):
    write(tmp_path / "x.parquet", ROWS, [b"a", "ü".encode(), b"c", b"d"], "item_id")
    assert open_features(tmp_path / "x.parquet").item_ids == ["a", "ü", "c", "d"]
    write(tmp_path / "x.parquet", ROWS, [b"a", b"\xff", b"c", b"d"], "item_id")
    with pytest.raises(ValueError, match="has item IDs of bytes that spell no text"):
        open_features(tmp_path / "x.parquet")


def test_a_part_without_rows_is_passed_over(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    write(tmp_path / "part_1.parquet", ROWS, TEXT, "item_id")
    schema = parquet.read_schema(tmp_path / "part_1.parquet")
    parquet.write_table(schema.empty_table(), tmp_path / "part_2.parquet")
    write(tmp_path / "part_3.parquet", ROWS, ["x", "y", "z", "w"], "item_id")
    table = open_features(tmp_path)
    assert table.item_ids == [*TEXT, "x", "y", "z", "w"] and len(table) == 8
    parquet.write_table(schema.empty_table(), tmp_path / "part_1.parquet")
    parquet.write_table(schema.empty_table(), tmp_path / "part_3.parquet")
    with pytest.raises(ValueError, match="so it holds no features"):
        open_features(tmp_path)
    assert pyarrow


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_under_each_item_id_is_a_table(tmp_path, suffix, dtype):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **dict(zip(TEXT, ROWS)))
    else:
        vectors = {name: torch.from_numpy(row).to(dtype) for name, row in zip(TEXT, ROWS)}
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
            from safetensors.torch import save_file
            save_file(vectors, path)
        else:
            torch.save(vectors, path)
    table = open_features(path)
    assert table.item_ids == TEXT and table.rows(slice(0, 4)).tolist() == ROWS.tolist()
    if suffix == ".pt":
        torch.save(dict(zip(WHOLE, map(torch.from_numpy, ROWS))), path)
        assert open_features(path).item_ids == WHOLE


def test_vectors_of_several_widths_are_still_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=ROWS[0], b=ROWS[1, :2])
    with pytest.raises(ValueError, match="holds several arrays: 'a', 'b'"):
        open_features(tmp_path / "x.npz")


@pytest.mark.parametrize("ids", [TEXT, WHOLE], ids=["text", "integers"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".pt"])
def test_a_column_of_another_file_gives_item_ids(tmp_path, suffix, ids):
    path = tmp_path / f"x{suffix}"
    if suffix in (".csv", ".tsv"):
        separator = "," if suffix == ".csv" else "\t"
        path.write_text("\n".join(separator.join(map(str, row)) for row in [("title", "sku"), *(("t", i) for i in ids)]))
    else:
        write(path, ROWS, ids, "sku")
    assert load_item_ids(path, 4, "sku") == (list(map(str, ids)) if suffix in (".csv", ".tsv") else ids)
    with pytest.raises(ValueError, match="x.* has the columns .*; say which holds the item IDs"):
        load_item_ids(path, 4)
    with pytest.raises(ValueError, match="has no column 'nope' for the item IDs; it has "):
        load_item_ids(path, 4, "nope")


def test_the_file_that_numbers_items_is_read_in_the_order_of_its_numbers(tmp_path):
    path = tmp_path / "x.item2id"
    path.write_text("B2\t2\nB0\t0\nB 1\t1\n")
    assert load_item_ids(path, 3) == read_item_numbers(path) == ["B0", "B 1", "B2"]
    for text, words in (("B0\t0\nB1\t0\n", "line 2: the row 0 of 'B1' is there twice"), ("B0\t1\n", "is not below the 1 lines"),
                        ("B0 0\n", "line 1: expected an item ID, a tab and a row number"), ("", "line 1: expected"),
                        ("a\t0\na\t1\n", "has the item ID 'a' 2 times")):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            load_item_ids(path, 2)


def test_json_integers_stay_integers_and_giants_are_text_s(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([2 ** 62, 5]))
    assert load_item_ids(tmp_path / "ids.json", 2) == [2 ** 62, 5]
    (tmp_path / "ids.json").write_text(json.dumps([2 ** 64, 5]))
    with pytest.raises(ValueError, match="as the ID of row 0, which has more than 64 bits; write it as text"):
        load_item_ids(tmp_path / "ids.json", 2)
