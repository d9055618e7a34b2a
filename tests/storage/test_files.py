"""Bytes on disk: written whole or not at all, and described for what they are."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rqvae.storage.files import (cache_folder, check_writable, describe_content, nearest_names, remove_stale_temporaries,
                         write_atomically)

ROOT = Path(__file__).parents[2]


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"one", b"two"):
        write_atomically(path, lambda file: file.write(content))
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("failure", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_named_with_its_path_and_keeps_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    script = textwrap.dedent("""
        import resource, signal, sys
        from rqvae.storage.files import write_atomically
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomically(sys.argv[1], lambda file: file.write(bytes(10_000)))
        except OSError as error:
            print(error.filename, "|", error.strerror)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.stdout == f"{tmp_path / 'file'} | File too large\n", done.stderr
    assert (tmp_path / "file").read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_written_files_have_the_mode_of_ordinary_ones(tmp_path):
    write_atomically(tmp_path / "ours", lambda file: None)
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_only_the_leavings_of_dead_writers_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".last.ckpt.{dead.pid}.0123abcd.tmp", f".last.ckpt.{os.getpid()}.0123abcd.tmp", ".notes.tmp", "a.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_stale_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_a_folder_is_tried_by_writing(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    for taken in ("file", "file/below"):
        with pytest.raises(OSError, match="file"):
            check_writable(tmp_path / taken)


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


def test_the_cache_lies_where_the_user_keeps_such_things(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rqvae"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "rqvae"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "rqvae"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "rqvae"


def test_a_user_without_a_home_gets_no_cache(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cache_folder() is None
