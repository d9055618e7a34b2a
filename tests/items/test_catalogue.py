"""The built-in catalogue: what is collected, how it is weighed, and that it is kept faithfully."""

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from rqvae.items import catalogue as stdlib_docs
from rqvae.items.catalogue import load_stdlib_docs

REPOSITORY = Path(__file__).parents[2]

SOURCES = {
    "plain.py": '''
        """A module in words."""
        def said():
            """Say it.

            Twice."""
            def inner():
                """Not reachable by a dotted path."""
        def silent():
            pass
        def _private():
            """Hidden."""
        async def later():
            "Say it later."
        def line():
            """----"""
        class Thing:
            """A thing."""
            def __len__(self):
                """Size of a thing."""
            @property
            def name(self):
                """Name of the thing."""
            @name.setter
            def name(self, value):
                """Another text of the same name."""
            class Part:
                """A part of the thing."""
        again = said
        ''',
    "choice.py": '''
        try:
            import nowhere
        except ImportError:
            def pick():
                """The way without."""
        else:
            def pick():
                """The way with."""
        if True:
            class Under:
                """Under a condition."""
        ''',
    "pack/__init__.py": '"""A package."""\nfrom plain import said\n',
    "pack/inside.py": '"""Inside a package."""',
    "raises.py": '"""Raises on import."""\nraise SystemExit("imported")\n',
    "latin.py": '# -*- coding: latin-1 -*-\n"""Caf\u00e9."""\n'.encode("latin-1"),
    "undecodable.py": b'"""Caf\xe9."""\n',
    "unparsable.py": '"""Python 2."""\nprint "hello"\n',
    "nul.py": b'"""A zero."""\n\x00\n',
    "escape.py": '"""A bad \\d escape."""\n',
    "not-a-name.py": '"""Cannot be imported."""',
    "notes.txt": "no source",
    "test/test_plain.py": '"""A test."""',
    "pack/tests/deep.py": '"""A test."""',
    "site-packages/other.py": '"""Installed by somebody."""',
    "__pycache__/plain.pyc": b"\x00",
}
ITEMS = [
    ("choice.Under", "Under a condition."),
    ("choice.pick", "The way without."),
    ("escape", "A bad \\d escape."),
    ("latin", "Caf\u00e9."),
    ("pack", "A package."),
    ("pack.inside", "Inside a package."),
    ("plain", "A module in words."),
    ("plain.Thing", "A thing."),
    ("plain.Thing.Part", "A part of the thing."),
    ("plain.Thing.__len__", "Size of a thing."),
    ("plain.Thing.name", "Name of the thing."),
    ("plain.later", "Say it later."),
    ("plain.said", "Say it.\n\nTwice."),
    ("raises", "Raises on import."),
]


@pytest.fixture
def library(tmp_path):
    root = tmp_path / "lib"
    for name, content in SOURCES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes)
                         else textwrap.dedent(content).encode())
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return load_stdlib_docs(cache_dir=tmp_path_factory.mktemp("cache"))


def equal(one, other):
    return (torch.equal(one.features, other.features)
            and (one.names, one.texts) == (other.names, other.texts))


def never(*arguments):
    raise AssertionError("this should not have been called")


@pytest.mark.filterwarnings("error")
def test_it_collects_what_is_documented_public_and_importable(library):
    assert stdlib_docs._collect(stdlib_docs._sources(library)) == ITEMS
    assert "plain" not in sys.modules and "raises" not in sys.modules


def test_three_sentences_weigh_what_was_computed_by_hand():
    sentences = ["the cat sat", "the dog sat sat", "the bird"]
    got = stdlib_docs._tf_idf([stdlib_docs._words(s) for s in sentences]).to_dense()
    assert got.shape == (3, 8192) and got.dtype == torch.float32
    # ln(1 + 3/3) = 0.693147 (the), ln(1 + 3/2) = 0.916291 (sat), ln(1 + 3/1) = 1.386294 (others),
    # sat twice: 1.693147 * 0.916291 = 1.551416; lengths 1.800515, 2.192979, 1.549924
    expected = [{"the": .384971, "sat": .508905, "cat": .769943},
                {"the": .316076, "sat": .707447, "dog": .632151},
                {"the": .447214, "bird": .894427}]
    # the buckets are CRC-32 modulo 8192; these CRCs come from gzip
    bucket = {word: int(crc, 16) % 8192 for word, crc in
              [("the", "3c456de6"), ("sat", "8278e0d8"), ("cat", "9e5e43a8"), ("dog", "812c397d"),
               ("bird", "a0bbae0e")]}
    for row, weights in zip(got, expected):
        assert row.count_nonzero() == len(weights)
        for word, weight in weights.items():
            assert row[bucket[word]].item() == pytest.approx(weight, abs=2e-6)


def test_words_are_lower_case_and_keep_their_digits():
    words = stdlib_docs._words("IPv4_address, caf\u00c9: 2nd!")
    assert words == ["ipv4", "address", "caf\u00e9", "2nd"]


def test_the_projection_keeps_the_products_of_an_exact_svd():
    documents = [[f"w{word}" for word in np.random.default_rng(row).integers(0, 30, 12)]
                 for row in range(12)]
    matrix = stdlib_docs._tf_idf(documents)
    got = stdlib_docs._project(matrix, 6)
    u, s, _ = torch.linalg.svd(matrix.to_dense().double(), full_matrices=False)
    exact = u[:, :6] * s[:6]
    assert got.shape == (12, 6)
    assert torch.allclose(got.double() @ got.double().T, exact @ exact.T, atol=1e-5)


def test_the_global_random_state_neither_matters_nor_changes(library):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = stdlib_docs._load(library, 8, None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(one, stdlib_docs._load(library, 8, None))


def test_two_processes_with_other_hash_seeds_agree_to_the_byte(library):
    program = textwrap.dedent("""
        import sys, hashlib
        from rqvae.items import catalogue as stdlib_docs
        features, *rest = stdlib_docs._load(sys.argv[1], 8, None)
        print(hashlib.sha256(features.numpy().tobytes() + repr(rest).encode()).hexdigest())""")
    digests = {
        subprocess.run([sys.executable, "-c", program, str(library)], cwd=REPOSITORY, check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True).stdout
        for seed in ("1", "2")}
    here, *rest = stdlib_docs._load(library, 8, None)
    digests.add(hashlib.sha256(here.numpy().tobytes() + repr(rest).encode()).hexdigest().encode()
                + os.linesep.encode())
    assert len(digests) == 1


def test_an_item_without_a_direction_is_left_out_rather_than_nan(tmp_path):
    for name, text in {"a": "one two", "b": "one two", "c": "one two", "d": "lonely"}.items():
        (tmp_path / f"{name}.py").write_text(f"def {name}x():\n    '''{text}'''\n")
    catalogue = stdlib_docs._load(tmp_path, 1, None)
    assert catalogue.names == ["a.ax", "b.bx", "c.cx"]
    assert torch.allclose(catalogue.features.abs(), torch.ones(3, 1))


def test_the_second_call_reads_the_cache_and_gets_the_same(library, tmp_path, monkeypatch):
    first = stdlib_docs._load(library, 8, tmp_path / "cache")
    monkeypatch.setattr(stdlib_docs, "_build", never)
    assert equal(first, stdlib_docs._load(library, 8, tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_another_width_or_library_does_not_take_the_same_cache(library, tmp_path):
    cache = tmp_path / "cache"
    assert stdlib_docs._load(library, 8, cache).features.shape == (14, 8)
    assert stdlib_docs._load(library, 5, cache).features.shape == (14, 5)
    (library / "more.py").write_text('"""One more."""')
    assert len(stdlib_docs._load(library, 8, cache).names) == 15
    assert len(list(cache.iterdir())) == 3


def test_a_cache_damaged_anywhere_is_rebuilt_or_still_right(library, tmp_path):
    expected = stdlib_docs._load(library, 8, tmp_path / "cache")
    path, = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    damaged = [b"", b"PK\x03\x04", whole[:50], whole[:-1], whole[:len(whole) // 2], b"\x80\x04N."]
    for place in range(0, len(whole), 41):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1:])
    for content in damaged:
        path.write_bytes(content)
        assert equal(expected, stdlib_docs._load(library, 8, tmp_path / "cache"))


@pytest.mark.parametrize("features, items", [
    (np.zeros((2, 7), np.float32), b'[["a", "b"], ["x", "y"]]'),
    (np.zeros((2, 8), np.float64), b'[["a", "b"], ["x", "y"]]'),
    (np.zeros((2, 8), np.float32), b'[["a"], ["x"]]'),
    (np.zeros((2, 8), np.float32), b'[["a", "b"], ["x"]]'),
    (np.full((2, 8), np.nan, np.float32), b'[["a", "b"], ["x", "y"]]'),
    (np.zeros((2, 8), object), b'[["a", "b"], ["x", "y"]]'),
])
def test_a_cache_with_other_content_is_rebuilt(library, tmp_path, features, items):
    expected = stdlib_docs._load(library, 8, tmp_path / "cache")
    path, = (tmp_path / "cache").iterdir()
    np.savez(path, features=features, items=np.frombuffer(items, np.uint8))
    assert equal(expected, stdlib_docs._load(library, 8, tmp_path / "cache"))


def test_a_cache_folder_that_cannot_be_written_costs_only_time(library, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert stdlib_docs._load(library, 8, tmp_path / "file" / "cache").names[0] == "choice.Under"


@pytest.mark.parametrize("root", ["stripped", "missing"])
def test_a_python_without_sources_names_the_folder_and_the_way_out(tmp_path, monkeypatch, root):
    (tmp_path / "stripped" / "json").mkdir(parents=True)
    (tmp_path / "stripped" / "json" / "decoder.pyc").write_bytes(b"\x00")
    paths = {"stdlib": str(tmp_path / root)}
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_paths", lambda: paths)
    with pytest.raises(FileNotFoundError) as caught:
        load_stdlib_docs(cache_dir=tmp_path / "cache")
    assert f"{tmp_path / root} holds 0 documented items" in str(caught.value)
    assert "--data FILE" in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("width", [0, -1, 8193, 2.0, "256", True, None])
def test_a_wrong_width_is_refused_before_any_work(width, monkeypatch):
    monkeypatch.setattr(stdlib_docs, "_sources", never)
    rule = f"^width must be an integer from 1 to 8192, got {width!r}$"
    with pytest.raises(ValueError, match=rule):
        load_stdlib_docs(width=width)


def test_this_python_gives_thousands_of_items_with_unit_features(real):
    assert len(real.names) == len(real.texts) == len(real.features) > 3000
    assert real.features.shape[1] == 256 and real.features.dtype == torch.float32
    assert torch.allclose(real.features.norm(dim=1), torch.ones(len(real.names)), atol=1e-5)
    assert real.names == sorted(set(real.names))
    assert not any(".test." in name or "site-packages" in name for name in real.names)
    assert dict(zip(real.names, real.texts))["json.load"].startswith("Deserialize")


def test_few_items_share_their_features(real):
    distinct = len(torch.unique((real.features * 1e4).round(), dim=0))
    assert 1 - distinct / len(real.names) < 0.02


@pytest.mark.parametrize("name", ["ftplib.FTP.cwd", "_pydecimal.Decimal.exp", "mailbox.Mailbox.add",
                                  "xml.sax.handler.ContentHandler.endElement"])
def test_neighbours_come_from_the_same_module(real, name):
    nearest = (real.features @ real.features[real.names.index(name)]).topk(5).indices.tolist()
    assert real.names[nearest[0]] == name
    assert {real.names[row].split(".")[0] for row in nearest} == {name.split(".")[0]}
