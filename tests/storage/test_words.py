"""Words of files and users are shown as they stand, and nothing in them is obeyed."""

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import rqvae
from rqvae import open_features
from rqvae.storage.words import counted, describe_content, nearest_names, one_line, pasted, shown, shown_lines, spelled, warn


@pytest.mark.parametrize("words, expected", [
    ("Drill 18 V, für große Löcher", "Drill 18 V, für große Löcher"), ("電動ドリル 🔧", "電動ドリル 🔧"),
    ("می\u200cخواهم", "می\u200cخواهم"),                      # Persian joins by it
    ("\x1b[2J", "\\x1b[2J"), ("\x1b]0;title\x07", "\\x1b]0;title\\x07"), ("\x9b31m", "\\x9b31m"),
    ("a\nb", "a\\nb"), ("a\r", "a\\r"), ("a\tb", "a\\tb"), ("a\0b", "a\\x00b"), ("a\u2028b", "a\\u2028b"),
    ("\u202egpj.exe", "\\u202egpj.exe"), ("\u2066x\u2069", "\\u2066x\\u2069"), ("\ufeffx", "\\ufeffx"),
    ("\udcff.npy", "\\udcff.npy"), ("\U000e0041", "\\U000e0041"),
])
def test_what_a_terminal_would_obey_is_spelled(words, expected):
    assert shown(words) == expected
    assert shown(words).isprintable() or "\u200c" in words


def test_lines_of_ours_stay_lines():
    assert shown_lines("one\ntwo\x1b") == "one\ntwo\\x1b"
    assert shown("abcdef", 3) == "abc"


@pytest.mark.parametrize("word", ["a b", "it's", "a\nb", "\x1b[2Jx", "\u202ea'\\b$(x)`y`", "\udcff\udcfe1.npy", "-x", "\ta", "\x011"])
def test_what_is_pasted_is_the_word_itself_for_a_shell(word):
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    done = subprocess.run(["bash", "-c", f"printf %s {pasted(word)}"], capture_output=True)
    assert done.stdout == os.fsencode(word) and pasted(word).isprintable()


def test_lines_of_a_library_become_one():
    assert one_line("torch says\n   more \r\nand a  name\x1b") == "torch says more and a  name\\x1b"


def test_what_a_function_raises_and_what_that_came_of_is_spelled():
    @spelled
    def read(word):
        try:
            raise KeyError(word)
        except KeyError as error:
            raise ValueError(f"{word} is odd", 3) from error

    with pytest.raises(ValueError) as caught:
        read("\x1b[2J\n")
    assert caught.value.args == ("\\x1b[2J\\n is odd", 3) and caught.value.__cause__.args == ("\\x1b[2J\\n",)


def test_warnings_are_spelled_and_point_at_who_called_the_package(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 1, 2), "f4"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn("a\x1b")
        open_features(tmp_path / "x.npy")
    assert str(caught[0].message) == "a\\x1b" and "axis of size 1" in str(caught[1].message)
    assert [warning.filename for warning in caught] == [__file__, __file__]


def test_nobody_warns_by_another_way():
    folder = Path(rqvae.__file__).parent
    found = [str(path) for path in folder.rglob("*.py") if re.search(r"warnings\.warn\(|logging\.", path.read_text("utf-8"))]
    assert found == [str(folder / "storage" / "words.py")]


def test_one_is_one_and_none_are_several():
    assert [counted(number, "item") for number in (0, 1, 1200)] == ["0 items", "1 item", "1,200 items"]


@pytest.mark.parametrize("content, words", [
    (b"", "the file is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
    (b"\n<!DOCTYPE HTML><html>", "an HTML page"),
    (b"\x93NUMPY\x01\x00", "a .npy array"),
    (b"PK\x03\x04....", "a zip archive"),
    (b"PAR1....", "a Parquet file"),
    (b"\x1f\x8b\x08", "a gzip file"),
    (b"\x80\x04\x95", "a Python pickle, which can run code"),
    (b"\x00" * 300, "begins with zeros"),
    (b'{"a": 1}', "looks like JSON"),
    (b"1.0,2.0\n", "starts with b'1.0,2.0"),
])
def test_contents_are_told_by_their_first_bytes(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    assert words in describe_content(tmp_path / "x")


def test_near_names_are_offered(tmp_path):
    (tmp_path / "items.npy").touch()
    assert nearest_names(tmp_path / "item.npy") == "; did you mean items.npy?"
    assert "nothing in" in nearest_names(tmp_path / "zzz")
    assert "does not exist" in nearest_names(tmp_path / "no" / "x")


def test_a_missing_package_is_named_in_shown_words():
    @spelled
    def reader():
        raise ImportError("a\x1b[31m.parquet needs a package")

    with pytest.raises(ImportError) as caught:
        reader()
    assert str(caught.value) == "a\\x1b[31m.parquet needs a package"
