import builtins
import json
import warnings

import numpy as np
import pytest
import torch

from rqvae.ids import exports
from rqvae.ids.exports import FORMATS, check_export, export_semantic_ids

# Three items collide at [3, 9], and two at [0, 1].
CODES = np.array([[3, 9], [0, 1], [3, 9], [2, 2], [0, 1], [3, 9]])
IDS = ["B0", "B1", "B2", "B3", "B4", "B5"]
SIZES = [4, 10]


def export(format, place, codes=CODES, **options):
    return export_semantic_ids(codes, format, place, num_embeddings=SIZES, **options)


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_lcrec_is_the_index_by_row_number_and_item_ids_stand_beside_it(tmp_path):
    paths = export("lcrec", tmp_path, item_ids=IDS)
    assert names(paths, tmp_path) == ["lcrec.index.json", "lcrec.item2id"]
    assert paths[0].read_bytes() == (
        b'{"0": ["<a_3>", "<b_9>"], "1": ["<a_0>", "<b_1>"], "2": ["<a_3>", "<b_9>"], '
        b'"3": ["<a_2>", "<b_2>"], "4": ["<a_0>", "<b_1>"], "5": ["<a_3>", "<b_9>"]}')
    assert paths[1].read_text() == "B0\t0\nB1\t1\nB2\t2\nB3\t3\nB4\t4\nB5\t5\n"


@pytest.mark.parametrize("format", FORMATS)
def test_the_main_file_is_written_last(tmp_path, monkeypatch, format):
    if "parquet" in FORMATS[format].suffixes[0]:
        pytest.importorskip("pyarrow")
    written, original = [], exports.write_atomically
    monkeypatch.setattr(exports, "write_atomically", lambda path, write, **how: (written.append(path), original(path, write, **how)))
    paths = export(format, tmp_path, item_ids=IDS)
    assert written[-1] == paths[0] and sorted(written) == sorted(paths)


def test_lcrec_as_its_data_set_reads_it(tmp_path):
    [path] = export("lcrec", tmp_path / "Games.index.json")
    assert path.name == "Games.index.json"
    index = json.loads(path.read_text())
    history = [0, 3]                                        # integers, as in its inter.json
    assert ["".join(index[str(item)]) for item in history] == ["<a_3><b_9>", "<a_2><b_2>"]
    new_tokens = sorted({token for tokens in index.values() for token in tokens})
    assert new_tokens == ["<a_0>", "<a_2>", "<a_3>", "<b_1>", "<b_2>", "<b_9>"]


def test_minionerec_has_a_line_of_info_for_each_item(tmp_path):
    titles = ["Drill", "Tab\there", "two\r\nlines", "", "\u87ba\u4e1d", "Last"]
    paths = export("minionerec", tmp_path / "Industrial.index.json", names=titles)
    assert names(paths, tmp_path) == ["Industrial.index.json", "info/Industrial.txt"]
    assert paths[1].read_text("utf-8") == (
        "<a_3><b_9>\tDrill\t0\n<a_0><b_1>\tTab here\t1\n<a_3><b_9>\ttwo lines\t2\n"
        "<a_2><b_2>\t\t3\n<a_0><b_1>\t\u87ba\u4e1d\t4\n<a_3><b_9>\tLast\t5\n")


def test_minionerec_as_its_evaluation_reads_it(tmp_path):
    _, info = export("minionerec", tmp_path)
    lines = info.read_text().splitlines(keepends=True)
    assert [line.split("\t")[0].strip() for line in lines][:2] == ["<a_3><b_9>", "<a_0><b_1>"]
    assert [line.split("\t")[1] for line in lines][:2] == ["Item_0", "Item_1"]
    assert [int(line.split("\t")[2]) for line in lines] == list(range(6))


def test_minionerec_kmeans_counts_from_one_and_marks_only_collisions(tmp_path):
    [path] = export("minionerec-kmeans", tmp_path, CODES[:4])
    assert path.name == "minionerec-kmeans.index.json"
    assert path.read_bytes() == b"""{
  "0": [
    "<a_4>",
    "<b_10>",
    "<c_1>"
  ],
  "1": [
    "<a_1>",
    "<b_2>"
  ],
  "2": [
    "<a_4>",
    "<b_10>",
    "<c_2>"
  ],
  "3": [
    "<a_3>",
    "<b_3>"
  ]
}"""
    index = json.loads(path.read_text())
    assert path.read_text() == json.dumps(index, indent=2)


def test_grid_is_a_tensor_of_levels_and_items_with_collisions_from_one(tmp_path):
    [path] = export("grid", tmp_path)
    table = torch.load(path, weights_only=True)
    assert path.name == "grid.pt" and table.dtype == torch.int64
    assert table.tolist() == [[3, 0, 3, 2, 0, 3], [9, 1, 9, 2, 1, 9], [1, 1, 2, 0, 2, 3]]


def test_tiger_counts_each_collision_from_zero(tmp_path):
    expected = [[3, 9, 0], [0, 1, 0], [3, 9, 1], [2, 2, 0], [0, 1, 1], [3, 9, 2]]
    paths = export("tiger", tmp_path)
    assert names(paths, tmp_path) == ["tiger.npy", "tiger.pt"]
    assert np.load(paths[0]).tolist() == expected and np.load(paths[0]).dtype == np.int64
    table = torch.load(paths[1], weights_only=True)
    assert table.tolist() == expected and table.dtype == torch.int64
    assert names(export("tiger", tmp_path / "beauty.pt"), tmp_path) == ["beauty.pt"]
    assert names(export("tiger", tmp_path / "ids.npy", item_ids=IDS), tmp_path) == ["ids.npy",
                                                                                    "ids.item2id"]


def test_semantic_id_text_numbers_the_repeats(tmp_path):
    [path] = export("semantic-id", tmp_path)
    assert path.read_bytes() == b"3-9\n0-1\n3-9-1\n2-2\n0-1-1\n3-9-2\n"


def test_openonerec_has_pid_and_codes_and_the_text_form(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    codes = [[340, 6566, 5603], [1, 2, 3]]
    paths = export_semantic_ids(codes, "openonerec", tmp_path, num_embeddings=8192,
                                item_ids=["900", "17"])
    assert names(paths, tmp_path) == ["openonerec.parquet", "openonerec.txt"]
    table = parquet.read_table(paths[0])
    assert str(table.schema.field("pid").type) == "int64"
    assert str(table.schema.field("codes").type).startswith("list<") and "int64" in str(
        table.schema.field("codes").type)
    # its tokenizer writes "codes"; its data scripts look for the same under "sid"
    assert table.to_pydict() == {"pid": [900, 17], "codes": codes, "sid": codes}
    assert paths[1].read_text() == ("<|sid_begin|><s_a_340><s_b_6566><s_c_5603><|sid_end|>\n"
                                    "<|sid_begin|><s_a_1><s_b_2><s_c_3><|sid_end|>\n")
    pattern = "<|sid_begin|><s_a_{c0}><s_b_{c1}><s_c_{c2}><|sid_end|>"     # as its scripts have it
    sid_of = dict(zip(table["pid"].to_pylist(), table["sid"].to_pylist()))
    text = pattern.format(c0=sid_of[900][0], c1=sid_of[900][1], c2=sid_of[900][2])
    assert text == paths[1].read_text().splitlines()[0]


@pytest.mark.parametrize("item_ids, pids", [
    (None, [0, 1]), (["7", "-3"], [7, -3]), (["07", "8"], ["07", "8"]), (["B1", "2"], ["B1", "2"]),
    (["1" * 19, "2"], [int("1" * 19), 2]), ([2 ** 62, 1], [2 ** 62, 1]), (["1" * 20, "2"], [int("1" * 20), 2]), (["1" * 21, "2"], ["1" * 21, "2"])])
def test_openonerec_pids_are_integers_only_if_nothing_is_lost(tmp_path, item_ids, pids):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = export_semantic_ids([[1], [2]], "openonerec", tmp_path, num_embeddings=3,
                                item_ids=item_ids)
    assert parquet.read_table(paths[0])["pid"].to_pylist() == pids


def test_torcheasyrec_has_codes_offset_codes_and_the_items_of_each_id(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = export("torcheasyrec", tmp_path, item_ids=IDS)
    assert names(paths, tmp_path) == ["torcheasyrec.parquet", "torcheasyrec.groups.parquet"]
    table = parquet.read_table(paths[0])
    assert str(table.schema.field("item_id").type) == "string"
    assert "int64" in str(table.schema.field("codes").type)
    assert table.to_pydict() == {
        "item_id": IDS, "codes": CODES.tolist(),
        "offset_codebook": [[3, 13], [0, 5], [3, 13], [2, 6], [0, 5], [3, 13]]}
    assert parquet.read_table(paths[1]).to_pydict() == {
        "codebook": [[0, 1], [2, 2], [3, 9]],
        "itemids": [["B1", "B4"], ["B3"], ["B0", "B2", "B5"]]}


def test_parquet_is_the_same_however_many_rows_are_written_at_once(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    codes = np.random.default_rng(0).integers(0, 5, (100, 2))
    tables = []
    for rows in (1000, 7):
        monkeypatch.setattr(exports, "_ROWS_AT_ONCE", rows)
        paths = export_semantic_ids(codes, "torcheasyrec", tmp_path / str(rows), num_embeddings=5)
        tables.append([parquet.read_table(path).to_pydict() for path in paths])
    assert tables[0] == tables[1]
    groups = dict(zip(map(tuple, tables[0][1]["codebook"]), tables[0][1]["itemids"]))
    assert all(row in groups[tuple(item)] for row, item in enumerate(codes.tolist()))
    assert sum(map(len, groups.values())) == 100


@pytest.mark.parametrize("format", FORMATS)
def test_existing_files_are_refused_before_anything_is_written(tmp_path, format):
    if FORMATS[format].suffixes == (".parquet",):
        pytest.importorskip("pyarrow")
    paths = export(format, tmp_path, item_ids=IDS)
    paths[0].unlink()                                       # only a companion is left, or nothing
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    check_export(format, tmp_path / "elsewhere", has_item_ids=True)
    if before:
        with pytest.raises(FileExistsError, match="exists; choose another name"):
            export(format, tmp_path, item_ids=IDS)
        with pytest.raises(FileExistsError):
            check_export(format, tmp_path, has_item_ids=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    check_export(format, tmp_path, has_item_ids=True, overwrite=True)
    assert export(format, tmp_path, item_ids=IDS, overwrite=True) == paths


def test_all_formats_fit_into_one_folder(tmp_path):
    pytest.importorskip("pyarrow")
    written = [path for format in FORMATS for path in export(format, tmp_path, item_ids=IDS)]
    assert len(set(written)) == len(written) and all(path.is_file() for path in written)


def test_a_folder_may_have_a_dot_in_its_name(tmp_path):
    assert names(export("grid", tmp_path / "v1.0"), tmp_path) == ["v1.0/grid.pt"]
    (tmp_path / "ids.json").mkdir()
    assert names(export("lcrec", tmp_path / "ids.json"), tmp_path) == ["ids.json/lcrec.index.json"]
    assert names(export("lcrec", tmp_path / "plain.json"), tmp_path) == ["plain.json"]


@pytest.mark.parametrize("arguments, words", [
    (("genrec", "x"), "there is no export format 'genrec'; there are lcrec, minionerec, "),
    (("grid", "x.npy"), "x.npy has the suffix '.npy'; format 'grid' writes .pt, or into a folder"),
    (("lcrec", "x.parquet"), "writes .index.json or .json, or into a folder"),
])
def test_an_unknown_format_or_suffix_is_refused_with_the_right_ones(tmp_path, arguments, words):
    format, name = arguments
    for refuse in (export, check_export):
        with pytest.raises(ValueError, match=words):
            refuse(format, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options, words", [
    (dict(num_embeddings=9), "codes of level 2 must be below 9, got 9 in row 0"),
    (dict(num_embeddings=[4]), "one for each of the 2 levels"),
    (dict(num_embeddings=10, item_ids=IDS[:3]), "one entry for each of the 6 items, got 3"),
    (dict(num_embeddings=10, item_ids=IDS[:5] + ["B0"]), "the item ID 'B0' 2 times, first for row 0"),
    (dict(num_embeddings=10, names=["x"]), "names must hold one entry for each of the 6 items"),
])
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        export_semantic_ids(CODES, "minionerec", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format, levels", [("lcrec", 27), ("minionerec", 27), ("openonerec", 27),
                                            ("minionerec-kmeans", 26)])
def test_more_levels_than_letters_are_refused_where_levels_are_letters(tmp_path, format, levels):
    if format == "openonerec":
        pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="letters for 26 levels, but there are 27"):
        export_semantic_ids(np.zeros((2, levels), int), format, tmp_path, num_embeddings=1)
    assert list(tmp_path.iterdir()) == []
    export_semantic_ids(np.zeros((2, levels), int), "grid", tmp_path, num_embeddings=1)


def test_without_pyarrow_parquet_says_how_to_get_it(tmp_path, monkeypatch):
    plain_import = builtins.__import__

    def without_pyarrow(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    for format in ("openonerec", "torcheasyrec"):
        with pytest.raises(ImportError, match="needs the package pyarrow: pip install pyarrow"):
            export(format, tmp_path)
    assert list(tmp_path.iterdir()) == []
    export("lcrec", tmp_path)


def test_torcheasyrec_gets_ranked_alternatives_as_whole_ids_one_after_the_other(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    ranked = np.array([[9, 1, 0], [1, 2, 3], [9, 0, 1], [2, 9, 8], [1, 3, 2], [9, 8, 7]])
    paths = export("torcheasyrec", tmp_path, candidates=ranked)
    column = parquet.read_table(paths[0])["candidate_codes"].to_pylist()
    assert column[0] == [3, 9, 3, 1, 3, 0] and column[3] == [2, 2, 2, 9, 2, 8]
    assert np.array_equal(np.array(column).reshape(6, 3, 2)[..., 1], ranked)
    assert "candidate_codes" not in parquet.read_table(export("torcheasyrec", tmp_path / "b")[0]).column_names
    for wrong in (ranked[:5], ranked + 1):
        with pytest.raises(ValueError, match="expected a row for each of the 6 items, and last codes below 10"):
            export("torcheasyrec", tmp_path / "c", candidates=wrong)


def test_flashrec_is_a_catalogue_from_each_id_to_its_items(tmp_path):
    paths = export("flashrec", tmp_path, item_ids=IDS)
    assert names(paths, tmp_path) == ["flashrec.json"]
    text = paths[0].read_text()
    assert json.loads(text) == {"0,1": [{"pid": "B1"}, {"pid": "B4"}], "2,2": [{"pid": "B3"}],
                                "3,9": [{"pid": "B0"}, {"pid": "B2"}, {"pid": "B5"}]}
    assert text == json.dumps(json.loads(text)) and list(json.loads(text)) == ["0,1", "2,2", "3,9"]
    assert json.loads(export("flashrec", tmp_path / "b")[0].read_text())["2,2"] == [{"pid": 3}]


def test_rectokens_is_the_tensor_of_codes(tmp_path):
    paths = export("rectokens", tmp_path, item_ids=IDS)
    assert names(paths, tmp_path) == ["rectokens.pt", "rectokens.item2id"]
    found = torch.load(paths[0])
    assert found.dtype == torch.int64 and found.tolist() == CODES.tolist()


FOUR = np.array([[0, 1, 2, 0], [0, 1, 2, 1], [3, 4, 5, 0], [3, 4, 6, 0]])


@pytest.mark.parametrize("format, system", [("minionerec", "MiniOneRec"), ("openonerec", "OpenOneRec")])
def test_readers_of_three_codes_are_warned_of_before_they_merge_items(tmp_path, format, system):
    if format == "openonerec":
        pytest.importorskip("pyarrow")
    place, ids = tmp_path / "a", ["1", "2", "3", "4"]
    with pytest.warns(UserWarning) as said:
        export_semantic_ids(FOUR, format, place, num_embeddings=10, item_ids=ids)
    assert [str(each.message) for each in said] == [
        f"{system} reads the first three codes of an ID, and these have 4: 2 of 4 items are told from all others by those; "
        "train with --num-quantizers 3, and let --unique optimal do what a suffix does"]
    with pytest.warns(UserWarning, match=f"{system} reads three codes of an ID, and these have 2; train with"):
        export_semantic_ids(FOUR[:, :2], format, tmp_path / "b", num_embeddings=10, item_ids=ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_semantic_ids(FOUR[:, :3], format, tmp_path / "c", num_embeddings=10, item_ids=ids)
        export_semantic_ids(FOUR[1:, :3], "minionerec-kmeans", tmp_path / "e", num_embeddings=10)
        export_semantic_ids(FOUR, "lcrec", tmp_path / "d", num_embeddings=10)


def test_a_fourth_token_of_colliding_items_is_not_read_either(tmp_path):
    with pytest.warns(UserWarning, match="MiniOneRec numbers colliding items by a fourth token, but reads three: 2 of 4 items"):
        export_semantic_ids(FOUR[:, :3], "minionerec-kmeans", tmp_path, num_embeddings=10)


def test_openonerec_takes_pid_0_for_no_item(tmp_path):
    pytest.importorskip("pyarrow")
    for ids in (None, ["7", "0", "2", "3"]):
        with pytest.warns(UserWarning, match="takes pid 0 for no item, and one has it; number the items from 1 on, by"):
            export_semantic_ids(FOUR[:, :3], "openonerec", tmp_path / str(ids), num_embeddings=10, item_ids=ids)


@pytest.mark.parametrize("format, system", [("lcrec", "LC-Rec and LETTER"), ("minionerec", "MiniOneRec")])
def test_an_index_under_a_name_that_their_scripts_do_not_look_for_draws_a_warning(tmp_path, format, system):
    with pytest.warns(UserWarning, match=f"games.json: the scripts of {system} look for NAME.index.json; name it so"):
        export_semantic_ids(FOUR[:, :3], format, tmp_path / "games.json", num_embeddings=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_semantic_ids(FOUR[:, :3], format, tmp_path / "b" / "games.index.json", num_embeddings=10)
