import io
import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from rqvae.ids import files as semantic_ids
from rqvae.ids.files import check_output, load_semantic_ids, save_semantic_ids

CODES = np.array([[183, 70, 232], [3, 9, 1], [0, 255, 7]])


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_is_the_index_of_lc_rec_byte_for_byte(tmp_path):
    save_semantic_ids(CODES, tmp_path / "ids.json")
    assert (tmp_path / "ids.json").read_bytes() == (
        b'{"0": ["<a_183>", "<b_70>", "<c_232>"], "1": ["<a_3>", "<b_9>", "<c_1>"], '
        b'"2": ["<a_0>", "<b_255>", "<c_7>"]}')


def test_json_equals_what_json_dump_writes_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(semantic_ids, "_ROWS_AT_ONCE", 7)
    codes = np.random.default_rng(0).integers(0, 300, (50, 4))
    save_semantic_ids(codes, tmp_path / "ids.json")
    expected = {row: [f"<{letter}_{code}>" for letter, code in zip("abcd", item)]
                for row, item in enumerate(codes.tolist())}
    file = io.StringIO()
    json.dump(expected, file)
    assert (tmp_path / "ids.json").read_text() == file.getvalue()
    assert (load_semantic_ids(tmp_path / "ids.json").codes == codes).all()


def test_json_has_the_item_ids_as_keys(tmp_path):
    save_semantic_ids([[1], [2]], tmp_path / "ids.json", item_ids=['B"1', "\u5546"])
    assert (tmp_path / "ids.json").read_text("utf-8") == (
        '{"B\\"1": ["<a_1>"], "\u5546": ["<a_2>"]}')
    assert load_semantic_ids(tmp_path / "ids.json").item_ids == ['B"1', "\u5546"]


def test_jsonl_has_a_line_for_each_item(tmp_path):
    save_semantic_ids([[183, 70], [3, 9]], tmp_path / "ids.jsonl", item_ids=["B01", "B02"],
                      names=["Drill", "\u87ba\u4e1d"])
    assert (tmp_path / "ids.jsonl").read_text("utf-8") == (
        '{"row": 0, "item_id": "B01", "name": "Drill", "codes": [183, 70], '
        '"tokens": ["<a_183>", "<b_70>"]}\n'
        '{"row": 1, "item_id": "B02", "name": "\u87ba\u4e1d", "codes": [3, 9], '
        '"tokens": ["<a_3>", "<b_9>"]}\n')
    save_semantic_ids([[183, 70]], tmp_path / "bare.jsonl")
    assert (tmp_path / "bare.jsonl").read_text() == (
        '{"row": 0, "codes": [183, 70], "tokens": ["<a_183>", "<b_70>"]}\n')


def test_npy_is_int64_of_items_and_levels(tmp_path):
    save_semantic_ids(torch.tensor([5, 6], dtype=torch.int32), tmp_path / "ids.npy")
    table = np.load(tmp_path / "ids.npy")
    assert table.dtype == np.int64 and table.tolist() == [[5], [6]]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".npy"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (300, 1), (300, 4)])
def test_what_is_saved_comes_back(tmp_path, suffix, shape, monkeypatch):
    monkeypatch.setattr(semantic_ids, "_ROWS_AT_ONCE", 64)
    codes = np.random.default_rng(0).integers(0, 2 ** 40, shape)
    item_ids = [f"id {row} \ud800\u2028\t" for row in range(shape[0])]     # breaks UTF-8, lines
    item_ids = list(range(shape[0], 0, -1)) if suffix == ".npy" else item_ids
    names = ["", "a\nb"] * (shape[0] // 2) + ["last"] * (shape[0] % 2)
    save_semantic_ids(codes, tmp_path / f"ids{suffix}", item_ids=item_ids, names=names)
    ids = load_semantic_ids(tmp_path / f"ids{suffix}")
    assert ids.codes.dtype == np.int64 and ids.codes.tolist() == codes.tolist()
    assert ids.item_ids == (list(map(str, item_ids)) if suffix == ".npy" else item_ids)
    assert ids.names == (names if suffix == ".jsonl" else None)


def test_row_numbers_as_keys_are_no_item_ids_but_other_numbers_are(tmp_path):
    save_semantic_ids(CODES, tmp_path / "rows.json")
    assert load_semantic_ids(tmp_path / "rows.json").item_ids is None
    save_semantic_ids(CODES, tmp_path / "ids.json", item_ids=[1, 2, 0])
    ids = load_semantic_ids(tmp_path / "ids.json")
    assert ids.item_ids == ["1", "2", "0"] and ids.codes.tolist() == CODES.tolist()


def test_json_in_another_layout_is_read_as_well(tmp_path):
    text = b'\xef\xbb\xbf \n{\n  "a" : [ "\\u003ca_1\\u003e",\n"<b_2>" ] }\n'
    ids = load_semantic_ids(write(tmp_path / "ids.json", text))
    assert ids.codes.tolist() == [[1, 2]] and ids.item_ids == ["a"]


def test_the_folder_is_made_and_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "new" / "folder" / "ids.json"
    save_semantic_ids([[1]], path)
    with pytest.raises(FileExistsError, match=r"ids.json exists; .*overwrite=True, --overwrite"):
        save_semantic_ids([[2]], path)
    assert path.read_text() == '{"0": ["<a_1>"]}'
    save_semantic_ids([[2]], path, overwrite=True)
    assert path.read_text() == '{"0": ["<a_2>"]}'
    with pytest.raises(FileExistsError):
        check_output(path)
    assert check_output(path, overwrite=True) == path
    assert [file.name for file in path.parent.iterdir()] == ["ids.json"]


@pytest.mark.parametrize("name", ["ids.xls", "ids", "ids.pt"])
def test_another_suffix_is_refused_with_the_right_ones(tmp_path, name):
    with pytest.raises(ValueError, match="has the suffix .*; .* saved as .json, .jsonl, .csv or .npy"):
        save_semantic_ids([[1]], tmp_path / name)
    write(tmp_path / name, "1")
    with pytest.raises(ValueError, match="read from .json, .jsonl, .csv or .npy, .* import_semantic_ids"):
        load_semantic_ids(tmp_path / name)


def test_labels_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "ids.jsonl"
    with pytest.raises(ValueError, match="item_ids must hold .* each of the 3 items, got 2"):
        save_semantic_ids(CODES, path, item_ids=["a", "b"])
    with pytest.raises(ValueError, match="the item ID 'a' 2 times, first for row 0"):
        save_semantic_ids(CODES, path, item_ids=["a", "a", "b"])
    with pytest.raises(ValueError, match="names must hold .* each of the 3 items, got 1"):
        save_semantic_ids(CODES, path, names=["a"])
    with pytest.raises(ValueError, match="letters for 26 levels, but there are 27"):
        save_semantic_ids(np.zeros((1, 27), int), path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "ids.json"
    save_semantic_ids([[1]], path)
    script = (f"import resource, signal, numpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
              f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
              f"from {semantic_ids.__name__} import save_semantic_ids;"
              f"save_semantic_ids(numpy.zeros((10000, 3), int), {str(path)!r}, overwrite=True)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          cwd=Path(semantic_ids.__file__).parents[2])
    assert done.returncode == 1 and str(path) in done.stderr.strip().splitlines()[-1]
    assert path.read_text() == '{"0": ["<a_1>"]}'
    assert [file.name for file in tmp_path.iterdir()] == ["ids.json"]


def test_a_missing_file_offers_the_nearest_names(tmp_path):
    write(tmp_path / "items.json", "{}")
    with pytest.raises(FileNotFoundError, match="item.json does not exist; .* mean items.json"):
        load_semantic_ids(tmp_path / "item.json")
    with pytest.raises(IsADirectoryError, match="is a folder; expected a file of semantic IDs"):
        load_semantic_ids(tmp_path)
    with pytest.raises(ValueError, match="empty.json: the file is empty"):
        load_semantic_ids(write(tmp_path / "empty.json", ""))


@pytest.mark.parametrize("content, words", [
    ("[1, 2]", "is not an index of semantic IDs: this looks like JSON text"),
    ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\xff\xfe{", "is not an index of semantic IDs: starts with"),
    (pickle.dumps({}), "not an index of semantic IDs: .*pickle, .* not opened"),
    ("{}", "its first entry: expected .* found '}'"),
    ('{"0": ["<a_1>"], "1": ["<a_2>"', "the entry after '0': expected .* found '\"1\": "),
    ('{"0": ["<a_1>"],}', "the entry after '0': expected .* found '}'"),
    ('{"0": ["<a_1>"]} x', "the index ends, but 'x' follows"),
    ('{"0": ["<a_1>"]}{', "the index ends, but '{' follows"),
    ('{"0": ["<a_1>"] "1": ["<a_1>"]}', "its first entry: expected"),
    ('{"0": "<a_1>"}', "its first entry: expected"),
    ('{"0": [["<a_1>"]]}', "its first entry: expected"),
    ('{"0": []}', "key '0': expected 1 to 26 tokens, got 0"),
    ('{"0": [1, 2]}', "key '0': expected a token such as <a_12>, got '1'"),
    ('{"0": ["<a_1>"], "7": ["<b_1>"]}', "key '7': expected a token such as <a_12>, got '<b_1>'"),
    ('{"0": ["<a_1>"], "1": ["<a_1>", "<b_2>"]}', "key '1': 2 tokens, but 1 in each entry before"),
    ('{"x": ["<a_1>"], "x": ["<a_2>"]}', "item_ids has the item ID 'x' 2 times, first for row 0"),
    ('{"0": [' + '"<a_1>", ' * 9999 + '"<a_1>"]}', "its first entry: expected"),
    ('{"0": ' + "[" * 100_000, "its first entry: expected"),
    ('{"0": [' + "1" * 4000 + "]}", "key '0': expected a token"),
    ('{"0\n": ["<a_1>"]}', "its first entry: expected"),
])
def test_a_json_that_is_no_index_is_refused_in_words(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_semantic_ids(write(tmp_path / "ids.json", content))
    assert "ids.json" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("line, words", [
    ("", "line 2: expected an object such as"),
    ("[" * 100_000, "line 2: expected an object such as"),
    ('{"row": 1}', "line 2: expected an object such as"),
    ('{"codes": 5}', "line 2: expected an object such as"),
    ('{"codes": [1, 2.0]}', r"line 2: codes must be integers of 0 or more, found \[1, 2.0\]"),
    ('{"codes": [1, true]}', "line 2: codes must be integers of 0 or more"),
    ('{"codes": [1, -1]}', "line 2: codes must be integers of 0 or more"),
    ('{"codes": [1, 9223372036854775808]}', "line 2: codes must be integers of 0 or more"),
    ('{"codes": [1]}', "line 2: 1 codes, but 2 in each line before"),
    ('{"row": 2, "codes": [1, 2]}', "line 2: its row is 2, but it stands in the place of row 1"),
    ('{"codes": [1, 2], "item_id": [1]}', "line 2: item_id must be text"),
    ('{"codes": [1, 2], "name": "x"}', "1 of its 2 lines have 'name'; expected it in all"),
    ('{"codes": [1, 2], "name": "' + "x" * 2 ** 20 + '"}', "line 2: expected an object such as"),
    (b'{"codes": [1, 2], "name": "\xff"}', "line 2: expected an object such as"),
])
def test_a_bad_line_is_refused_with_its_number(tmp_path, line, words):
    good = b'{"row": 0, "codes": [1, 2]}\n'
    line = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(ValueError, match=words) as caught:
        load_semantic_ids(write(tmp_path / "ids.jsonl", good + line + b"\n"))
    assert "ids.jsonl" in str(caught.value) and len(str(caught.value)) < 500


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("content, words", [
    ("0 1 2\n", "is not a .npy file: starts with"),
    (pickle.dumps([1]), "is not a .npy file: this is a Python pickle"),
    (npy(np.arange(9))[:-8], "has 192 bytes, its header promises 200: cut off"),
    (npy(np.arange(9))[:50], "has 50 bytes, its header promises 128: cut off"),
    (npy(np.zeros((2, 2))), r"holds dtype <f8 of shape \(2, 2\); expected integers"),
    (npy(np.array([{}])), r"holds dtype \|O of shape \(1,\); expected integers"),
    (npy(np.zeros((2, 2, 2), int)), r"holds int64 of shape \(2, 2, 2\)"),
    (npy(np.zeros((0, 3), int)), r"has shape \(0, 3\), so it holds nothing"),
    (npy(np.array([[1, -5]])), "codes must be 0 or more and fit int64, got -5 in row 0"),
    (npy(np.arange(3)).replace(b"(3,), }" + b" " * 14, b"(999999999999999,), }"),
     "its header promises 8000000000000120"),
])
def test_a_bad_npy_is_refused_in_words_and_never_unpickled(tmp_path, content, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_semantic_ids(write(tmp_path / "ids.npy", content))
    assert "ids.npy" in str(caught.value)


def test_npy_of_other_layouts_is_read(tmp_path):
    for array in (np.asfortranarray(CODES), CODES.astype(">i2"), CODES.astype(np.uint8)[:, 0]):
        path = write(tmp_path / "ids.npy", npy(array))
        expected = array.reshape(3, -1).tolist()
        assert load_semantic_ids(path).codes.tolist() == expected


@pytest.mark.parametrize("entry, suffix", [
    ('"%d": ["<a_1>", "<b_2>"], ', ".json"), ('{"codes": [1, 2], "item_id": "%d"}\n', ".jsonl")])
def test_reading_takes_a_small_multiple_of_the_size_of_the_file(tmp_path, entry, suffix):
    text = "".join(entry % (10 ** 9 + row) for row in range(20_000))
    text = "{" + text[:-2] + "}" if suffix == ".json" else text
    path = write(tmp_path / f"ids{suffix}", text)
    tracemalloc.start()
    load_semantic_ids(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(text)


def test_writing_holds_only_some_rows_as_text(tmp_path):
    codes = np.zeros((80_000, 3), np.int64)
    tracemalloc.start()
    save_semantic_ids(codes, tmp_path / "ids.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_random_damage_is_either_read_or_refused_with_a_value_error(tmp_path):
    generator = np.random.default_rng(0)
    for suffix in (".json", ".jsonl", ".npy"):
        save_semantic_ids(CODES, tmp_path / f"good{suffix}")
        good = (tmp_path / f"good{suffix}").read_bytes()
        for _ in range(150):
            damaged = bytearray(good)
            for place in generator.integers(0, len(good), generator.integers(1, 4)):
                damaged[place] = generator.integers(0, 256)
            cut = generator.integers(1, len(good) + 1)
            path = write(tmp_path / f"bad{suffix}", bytes(damaged[:cut]))
            try:
                assert load_semantic_ids(path).codes.ndim == 2
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("item_ids", [[2, 0, 1], ["2", "0", "1"], ["a", "b", "c"], [2 ** 63, 5, 6], [-7, 0, 2 ** 62]])
def test_item_ids_keep_their_kind_in_jsonl_and_their_text_everywhere(tmp_path, item_ids):
    for suffix in (".jsonl", ".json", ".npy"):
        path = tmp_path / f"ids{suffix}"
        save_semantic_ids([[1], [2], [3]], path, item_ids=item_ids)
        loaded = load_semantic_ids(path)
        assert loaded.item_ids == (item_ids if suffix == ".jsonl" else list(map(str, item_ids)))
        assert loaded.codes.tolist() == [[1], [2], [3]]


def test_a_npy_has_its_item_ids_beside_it_and_never_those_of_other_items(tmp_path):
    path, beside = tmp_path / "ids.npy", tmp_path / "ids.item2id"
    save_semantic_ids([[1], [2]], path, item_ids=["x", "y"])
    assert beside.read_text() == "x\t0\ny\t1\n"
    with pytest.raises(FileExistsError):
        save_semantic_ids([[1], [2], [3]], path)
    save_semantic_ids([[1], [2], [3]], path, overwrite=True)
    assert beside.read_text() == "0\t0\n1\t1\n2\t2\n" and load_semantic_ids(path).item_ids is None
    beside.write_text("x\t0\ny\t1\n")
    with pytest.raises(ValueError, match="ids.item2id names 2 items, expected 3; it is of other items, or cut off"):
        load_semantic_ids(path)
    with pytest.raises(ValueError, match="the item ID 'y.nz' of row 1 holds a tab or a line break"):
        save_semantic_ids([[1], [2]], tmp_path / "b.npy", item_ids=["x", "y\nz"])
    assert not (tmp_path / "b.npy").exists()


def test_no_reader_of_lines_sees_more_lines_than_items(tmp_path):
    odd = ["a\u2028b", "c\x85d", "e\nf", "g\th", "i\r\nj", "k\x0bl"]
    save_semantic_ids([[code] for code in range(6)], tmp_path / "ids.jsonl", item_ids=odd, names=odd)
    assert len((tmp_path / "ids.jsonl").read_text("utf-8").splitlines()) == 6
    loaded = load_semantic_ids(tmp_path / "ids.jsonl")
    assert loaded.item_ids == odd and loaded.names == odd


def test_what_was_loaded_shows_in_a_line_whatever_it_holds(tmp_path):
    save_semantic_ids(np.arange(6000).reshape(2000, 3), tmp_path / "ids.jsonl", item_ids=[f"B{row}" for row in range(2000)])
    assert repr(load_semantic_ids(tmp_path / "ids.jsonl")) == "SemanticIds(codes: 2000 x 3, item_ids: 'B0', ..., names: None)"
