"""Words of files and users are shown as they stand, and nothing in them is obeyed."""

import pytest

from rqvae.storage.words import counted, describe_content, nearest_names, shown, shown_lines


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
