import json

import numpy as np
import pytest
import torch

from rqvae.ids.exports import FORMATS, export_semantic_ids
from rqvae.ids.imports import import_semantic_ids
from rqvae.ids.files import save_semantic_ids

CODES = np.array([[3, 9], [0, 1], [3, 9], [2, 2], [0, 1], [3, 9]])
COUNTED = {"grid": [1, 1, 2, 0, 2, 3], "minionerec-kmeans": [1, 1, 2, 0, 2, 3],
           "tiger": [0, 0, 1, 0, 1, 2], "semantic-id": [0, 0, 1, 0, 1, 2]}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_every_export_comes_back(tmp_path, format, told):
    if FORMATS[format].suffixes == (".parquet",):
        pytest.importorskip("pyarrow")
    paths = export_semantic_ids(CODES, format, tmp_path, num_embeddings=10)
    path = tmp_path / "tiger.pt" if format == "tiger" else paths[0]
    ids = import_semantic_ids(path, format if told else None)
    expected = np.column_stack([CODES, COUNTED[format]]) if format in COUNTED else CODES
    assert ids.codes.tolist() == expected.tolist() and ids.codes.dtype == np.int64
    assert ids.item_ids is None and ids.names is None


@pytest.mark.parametrize("format", ["openonerec", "torcheasyrec"])
def test_item_ids_come_back_from_parquet(tmp_path, format):
    pytest.importorskip("pyarrow")
    item_ids = ["5", "4", "3", "2", "1", "0"]
    paths = export_semantic_ids(CODES, format, tmp_path, num_embeddings=10, item_ids=item_ids)
    ids = import_semantic_ids(paths[0])
    if format == "openonerec":                          # whose own data has integers
        item_ids = [5, 4, 3, 2, 1, 0]
    assert ids.item_ids == item_ids and ids.codes.tolist() == CODES.tolist()


def test_info_of_minionerec_has_titles_and_item_ids(tmp_path):
    path = write(tmp_path / "info.txt", "<a_1><b_2>\tA drill\t17\n<a_1><b_3>\ttab\tin it\t4\n")
    ids = import_semantic_ids(path)
    assert ids.codes.tolist() == [[1, 2], [1, 3]] and ids.item_ids == ["17", "4"]
    assert ids.names == ["A drill", "tab\tin it"]


def test_info_and_text_as_exported_come_back_too(tmp_path):
    pytest.importorskip("pyarrow")
    titles = list("abcdef")
    for format in ("minionerec", "openonerec"):
        paths = export_semantic_ids(CODES, format, tmp_path, num_embeddings=10, names=titles)
        for told in (format, None):
            ids = import_semantic_ids(paths[-1], told)
            assert ids.codes.tolist() == CODES.tolist() and ids.item_ids is None
            assert ids.names == (titles if format == "minionerec" else None)


def test_an_index_in_any_order_of_row_numbers_is_put_in_row_order(tmp_path):
    index = {"1": ["<a_5>"], "2": ["<a_6>"], "0": ["<a_4>"]}
    path = write(tmp_path / "x.index.json", json.dumps(index))
    assert import_semantic_ids(path).codes.tolist() == [[4], [5], [6]]
    path = write(tmp_path / "y.index.json", json.dumps({"1": ["<a_5>"], "2": ["<a_6>"]}))
    ids = import_semantic_ids(path)
    assert ids.codes.tolist() == [[5], [6]] and ids.item_ids == ["1", "2"]


def test_a_kmeans_index_without_collisions_has_to_be_named(tmp_path):
    [path] = export_semantic_ids(CODES[:2], "minionerec-kmeans", tmp_path, num_embeddings=10)
    assert import_semantic_ids(path).codes.tolist() == (CODES[:2] + 1).tolist()
    assert import_semantic_ids(path, "minionerec-kmeans").codes.tolist() == CODES[:2].tolist()


def test_offsets_are_taken_off_only_when_told(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    offset = (CODES + [0, 4]).tolist()
    table = arrow.table({"item_id": list("abcdef"), "codes": offset})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert import_semantic_ids(tmp_path / "x.parquet").codes.tolist() == offset
    ids = import_semantic_ids(tmp_path / "x.parquet", "torcheasyrec-offset", num_embeddings=[4, 10])
    assert ids.codes.tolist() == CODES.tolist() and ids.item_ids == list("abcdef")
    with pytest.raises(ValueError, match="'torcheasyrec-offset' needs num_embeddings"):
        import_semantic_ids(tmp_path / "x.parquet", "torcheasyrec-offset")
    with pytest.raises(ValueError, match="codes without their offsets must be 0 or more .* got -"):
        import_semantic_ids(tmp_path / "x.parquet", "torcheasyrec-offset", num_embeddings=100)
    path = export_semantic_ids(CODES, "torcheasyrec", tmp_path, num_embeddings=[4, 10])[0]
    ids = import_semantic_ids(path, "torcheasyrec-offset", num_embeddings=[4, 10])
    assert ids.codes.tolist() == CODES.tolist()


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".npy"])
def test_our_own_files_are_read_as_well(tmp_path, suffix):
    save_semantic_ids(CODES, tmp_path / f"ids{suffix}")
    assert import_semantic_ids(tmp_path / f"ids{suffix}").codes.tolist() == CODES.tolist()


def test_wide_and_small_tensors_are_read_as_told(tmp_path):
    table = torch.tensor([[1, 2, 3], [4, 5, 6]])
    torch.save(table.T.contiguous().T, tmp_path / "ids.pt")         # a view, as GRID saves it
    assert import_semantic_ids(tmp_path / "ids.pt").codes.tolist() == table.T.tolist()
    assert import_semantic_ids(tmp_path / "ids.pt", "tiger").codes.tolist() == table.tolist()
    assert import_semantic_ids(tmp_path / "ids.pt", "grid").codes.tolist() == table.T.tolist()


class Danger:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from a file was run')",)


@pytest.mark.parametrize("content, words", [
    (Danger(), "cannot be read as a tensor: it asks for builtins.exec, which could run code"),
    ({"codes": torch.zeros(2, 2)}, "holds a dict; expected integers of shape"),
    (torch.zeros(2, 2), r"holds torch.float32 of shape \(2, 2\); expected integers"),
    (torch.zeros(2, dtype=torch.int64), r"holds torch.int64 of shape \(2,\); expected integers"),
    (torch.zeros(1, 1, dtype=torch.int64).expand(10 ** 6, 10 ** 6),
     "claims 8,000,000,000,000 bytes of tensors from 8 bytes"),
    (-torch.ones(2, 2, dtype=torch.int64), "codes must be 0 or more .*, got -1 in row 0"),
    (torch.zeros(2, 2, dtype=torch.int64).to_sparse(), "it asks for .*sparse"),
])
def test_tensors_that_are_no_ids_are_refused_and_nothing_is_run(tmp_path, content, words):
    torch.save(content, tmp_path / "ids.pt")
    with pytest.raises(ValueError, match=words) as caught:
        import_semantic_ids(tmp_path / "ids.pt")
    assert "ids.pt" in str(caught.value)


def test_a_tensor_file_that_is_none_or_is_damaged_is_refused(tmp_path):
    path = tmp_path / "ids.pt"
    torch.save(torch.arange(60).reshape(20, 3), path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(1, 2)) + bytes(7))] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ids.pt cannot be read as a tensor: it is truncated or damaged \(Bad CRC-32"):
        import_semantic_ids(path)
    path.write_text("1-2-3")
    with pytest.raises(ValueError, match=r"ids.pt is not a .pt \(torch >= 1.6\) file: starts with b'1-2-3'; save it"):
        import_semantic_ids(path)


@pytest.mark.parametrize("text, words", [
    ("3-9-1\n3-x\n", "line 2: expected codes such as 3-9-1, found '3-x'"),
    ("3-9\n\n", "line 2: expected codes such as 3-9-1, found ''"),
    ("1-2-3\n1\n", "has IDs of 1 to 3 codes; expected as many in each, or one more where items"),
    ("<a_1><b_2> title 0\n", "line 1: expected tokens, a tab, a title, a tab and an item ID"),
    ("<a_1><c_2>\tx\t0\n", "line 1: expected a token such as <b_12>, got '<c_2>'"),
    ("<|sid_begin|><s_a_1>\n", r"line 1: expected <\|sid_begin\|><s_a_340>"),
    ("9999999999999999999\n", "line 1: expected codes such as 3-9-1"),
    ("a\tb\tc\n", "line 1: expected codes such as 3-9-1, found"),
    (b"\xff\xfe3-9\n", "line 1: expected codes such as 3-9-1"),
])
def test_a_bad_line_of_text_is_refused_with_its_number(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        import_semantic_ids(write(tmp_path / "ids.txt", text))
    assert "ids.txt" in str(caught.value)


def test_an_index_that_counts_from_zero_cannot_be_the_kmeans_one(tmp_path):
    index = {"0": ["<a_0>", "<b_1>"], "1": ["<a_1>", "<b_1>", "<c_1>"]}
    path = write(tmp_path / "x.index.json", json.dumps(index))
    with pytest.raises(ValueError, match="has a code 0, but k-means indices .* count from 1"):
        import_semantic_ids(path)


def test_other_parquet_is_refused_in_words(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for columns, words in [
        ({"pid": [1], "embedding": [[0.5]]}, "has the columns pid, embedding; expected pid or"),
        ({"pid": [1], "codes": [7]}, "column codes holds int64; expected lists of integers"),
        ({"pid": [1, 2], "codes": [[1], [1, 2]]}, r"holds lists of \[1, 2\] codes; expected"),
        ({"pid": [1, 2], "codes": [[1], None]}, "expected equally many in each row"),
        ({"pid": [1, 2], "codes": [[1, 2], [3, None]]}, "lists with a code missing; expected equally many"),
        ({"pid": [1, 2], "codes": [[1], [None]]}, "lists with a code missing"),
        ({"pid": [1], "codes": [[0.5]]}, "codes must be integers, got float64"),
        ({"pid": [1, 1], "codes": [[1], [2]]}, "item_ids has the item ID '1' 2 times"),
    ]:
        parquet.write_table(arrow.table(columns), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=words) as caught:
            import_semantic_ids(tmp_path / "x.parquet")
        assert "x.parquet" in str(caught.value)
    with pytest.raises(ValueError, match="is not a .parquet file: starts with b'PARX"):
        import_semantic_ids(write(tmp_path / "x.parquet", "PARX" * 9))


def test_lists_of_fixed_size_and_of_narrow_integers_are_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for kind in (arrow.list_(arrow.int16(), 2), arrow.large_list(arrow.uint8())):
        table = arrow.table({"pid": [9, 8], "sid": arrow.array([[1, 2], [3, 4]], kind)})
        parquet.write_table(table, tmp_path / "x.parquet")
        assert import_semantic_ids(tmp_path / "x.parquet").codes.tolist() == [[1, 2], [3, 4]]


def test_random_damage_is_either_read_or_refused_with_a_value_error(tmp_path):
    pytest.importorskip("pyarrow")
    generator = np.random.default_rng(0)
    for format in FORMATS:
        for good in export_semantic_ids(CODES, format, tmp_path, num_embeddings=10):
            content = good.read_bytes()
            for _ in range(20):
                damaged = bytearray(content)
                for place in generator.integers(0, len(content), generator.integers(1, 4)):
                    damaged[place] = generator.integers(0, 256)
                if generator.random() < 0.2:
                    damaged = damaged[:generator.integers(1, len(content))]
                path = write(tmp_path / f"bad{good.suffix}", bytes(damaged))
                try:
                    assert import_semantic_ids(path).codes.ndim == 2
                except ValueError as error:
                    assert str(path) in str(error)


def test_unknown_formats_and_suffixes_are_refused_with_the_right_ones(tmp_path):
    path = write(tmp_path / "ids.txt", "1-2\n")
    with pytest.raises(ValueError, match="there is no import format 'genrec'; there are lcrec, "):
        import_semantic_ids(path, "genrec")
    with pytest.raises(ValueError, match="has the suffix '.txt'; expected .npy or .pt"):
        import_semantic_ids(path, "tiger")
    with pytest.raises(ValueError, match="has the suffix '.pkl'; expected .json or .jsonl or"):
        import_semantic_ids(write(tmp_path / "ids.pkl", "1"))
    with pytest.raises(FileNotFoundError, match="did you mean ids.txt"):
        import_semantic_ids(tmp_path / "idz.txt")


def test_the_table_that_torcheasyrec_writes_is_read_as_it_is(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"item_id": ["x", "y"], "codebook": [[3, 9], [0, 1]],
                                     "offset_codebook": [[3, 19], [0, 11]]}), tmp_path / "part-0.parquet")
    ids = import_semantic_ids(tmp_path / "part-0.parquet")
    assert ids.codes.tolist() == [[3, 9], [0, 1]] and ids.item_ids == ["x", "y"] and ids.codes.flags.writeable


def test_torcheasyrec_s_csv_has_codes_between_commas(tmp_path):
    path = write(tmp_path / "part-0.csv", 'item_id,codebook,offset_codebook\nx,"3,9","3,19"\n7,"0,1","0,11"\n')
    ids = import_semantic_ids(path)
    assert ids.codes.tolist() == [[3, 9], [0, 1]] and ids.item_ids == ["x", "7"]
    assert import_semantic_ids(path, "torcheasyrec-offset", num_embeddings=10).codes.tolist() == [[3, 9], [0, 1]]
    for content, words in (('item_id,codes\nx,"3,9"\ny,3\n', "line 3"), ("item_id,codes\nx,3;9\n", "183,70,232"),
                           ("item_id,codes\n", "no semantic IDs"), ("item_id,score\nx,3\n", "expected item_id")):
        with pytest.raises(ValueError, match=words):
            import_semantic_ids(write(tmp_path / "b.csv", content))


def test_a_catalogue_of_flashrec_is_read_with_items_and_without(tmp_path):
    path = write(tmp_path / "a.json", '{"3,9": [{"pid": "x"}, {"pid": "y"}], "0,1": [{"pid": "z"}]}')
    ids = import_semantic_ids(path)
    assert ids.codes.tolist() == [[3, 9], [3, 9], [0, 1]] and ids.item_ids == ["x", "y", "z"]
    ids = import_semantic_ids(write(tmp_path / "b.json", '{"3,9,1": 1, "0,1,1": 1}'))
    assert ids.codes.tolist() == [[3, 9, 1], [0, 1, 1]] and ids.item_ids is None


@pytest.mark.parametrize("content", ['{"3,9": [{"vid": 1}]}', '{"3,9": [1]}', '{"3,9": 1, "3": 1}', '{"3,9": ' + "[" * 99999,
                                     '{"3,-9": 1}', '{"3,9": [], "1,x": []}', "[]", '{"3,99999999999999999999": 1}'])
def test_another_catalogue_is_refused_in_one_sentence(tmp_path, content):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match="a.json"):
        import_semantic_ids(path, "flashrec")
