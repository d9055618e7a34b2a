"""Bytes on disk: written whole or not at all, and described for what they are."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rqvae.storage.files import (append_line, cache_folder, check_writable, describe_content, expect, expect_nothing, nearest_names,
                                 remove_stale_temporaries, together, write_atomically)

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


def writes(content):
    return lambda file: file.write(content)


def killed_in(tmp_path, script):
    """Run a script that kills itself with `die()`; what it printed before."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent("""
        import os, signal, sys
        from rqvae.storage import files
        def die(*_, **__):
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """) + textwrap.dedent(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True)
    assert done.returncode == -9, done.stderr
    return done.stdout


def here(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# ---- a set of files

def test_files_of_a_set_take_their_names_together(tmp_path):
    for content in (b"old", b"new"):
        with together():
            for name in ("side", "below/more", "main"):
                write_atomically(tmp_path / name, writes(content))
                assert content == b"old" or (tmp_path / name).read_bytes() == b"old"
        assert here(tmp_path) == {"side": content, "below/more": content, "main": content}


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("no")])
def test_a_set_of_which_one_fails_leaves_the_old_set(tmp_path, failure):
    old = {"side": b"old", "main": b"old"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)

    def fail(file):
        file.write(b"half")
        raise failure

    with pytest.raises(type(failure)):
        with together():
            write_atomically(tmp_path / "side", writes(b"new"))
            write_atomically(tmp_path / "third", writes(b"new"))
            write_atomically(tmp_path / "main", fail)
    assert here(tmp_path) == old


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_name_that_cannot_be_given_gives_back_those_before(tmp_path, monkeypatch, failing):
    old = {"side": b"old", "main": b"old"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    calls, replace = [], os.replace

    def refusing(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(OSError, match="Input/output error"):
        with together():
            for name in ("third", "side", "main"):
                write_atomically(tmp_path / name, writes(b"new"))
    assert here(tmp_path) == old


def test_a_set_whose_writer_is_killed_while_it_names_is_finished_by_the_next(tmp_path):
    for at in range(1, 5):                              # 1: the record, 2 to 4: the names
        for name in ("side", "below/more", "main"):
            write_atomically(tmp_path / name, writes(b"old"))
        killed_in(tmp_path, f"""
            replace, calls = os.replace, []
            def killing(source, target):
                calls.append(target)
                die() if len(calls) == {at} else replace(source, target)
            os.replace = killing
            with files.together():
                for name in ("side", "below/more", "main"):
                    files.write_atomically(name, lambda file: file.write(b"new"))
            """)
        remove_stale_temporaries(tmp_path)
        content = b"old" if at == 1 else b"new"
        remove_stale_temporaries(tmp_path / "below")
        assert here(tmp_path) == {"side": content, "below/more": content, "main": content}, at


def test_a_forged_record_names_nothing_outside_its_folder(tmp_path):
    pack, home = tmp_path / "pack", tmp_path / "home"
    pack.mkdir(), home.mkdir()
    (home / "precious").write_bytes(b"precious")
    (pack / "door").symlink_to(home)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    tail = f"{dead.pid}.0123abcd.tmp"
    (home / f".precious.{tail}").write_bytes(b"evil")
    (pack / f".precious.{tail}").write_bytes(b"evil")
    for names in ([[f".precious.{tail}", "../home/precious"]], [[f"door/.precious.{tail}", "door/precious"]],
                  [[str(home / f".precious.{tail}"), str(home / "precious")]], [["../x"]], {"a": 1}, 7):
        (pack / f".x.{dead.pid}.0123abcd.set").write_text(json.dumps(names))
        remove_stale_temporaries(pack)
        assert (home / "precious").read_bytes() == b"precious"


def test_a_file_that_appears_during_the_work_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "ids.json"

    def meanwhile(file):
        file.write(b"ours")
        path.write_bytes(b"theirs")

    with pytest.raises(FileExistsError, match="appeared or was changed while this was at work"):
        write_atomically(path, meanwhile, replace=False)
    assert here(tmp_path) == {"ids.json": b"theirs"}
    with pytest.raises(FileExistsError):
        with together():
            write_atomically(tmp_path / "side", writes(b"ours"), replace=False)
            write_atomically(path, writes(b"ours"), replace=False)
    assert here(tmp_path) == {"ids.json": b"theirs"}


def test_a_set_leaves_what_others_did_to_a_file_since_the_command_looked(tmp_path):
    path, new = tmp_path / "ids.json", tmp_path / "page.html"
    path.write_bytes(b"old")
    for meanwhile in (lambda: path.write_bytes(b"theirs"), lambda: new.write_bytes(b"theirs"), path.unlink, new.mkdir):
        path.write_bytes(b"old")
        new.unlink(missing_ok=True)
        expect(path), expect(new)
        before = meanwhile() and None, here(tmp_path)
        with pytest.raises(OSError):
            with together():
                write_atomically(path, writes(b"ours"))
                write_atomically(new, writes(b"ours"))
        assert here(tmp_path) == before[1]
    new.rmdir()
    path.write_bytes(b"old")
    expect(path), expect(new)
    for _ in range(2):
        write_atomically(path, writes(b"ours"))             # ours, and so it may be written again
        write_atomically(new, writes(b"ours"))
    expect(path)
    path.write_bytes(b"theirs")
    expect_nothing()
    write_atomically(path, writes(b"ours"))
    assert here(tmp_path) == {"ids.json": b"ours", "page.html": b"ours"}


@pytest.mark.parametrize("name", ["\U0001f600" * 60, "n" * 240, "\u732b" * 80, "\xe9" * 120])
def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path, name):
    with together():
        write_atomically(tmp_path / name, writes(b"new"))
        write_atomically(tmp_path / "other", writes(b"new"))
    assert here(tmp_path) == {name: b"new", "other": b"new"}


# ---- what is there already

def test_a_link_stays_and_what_it_names_is_replaced_with_its_mode(tmp_path):
    target = tmp_path / "disk" / "real"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o600)
    (tmp_path / "out").symlink_to(target)
    write_atomically(tmp_path / "out", writes(b"new"))
    assert (tmp_path / "out").is_symlink() and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600 and os.listdir(target.parent) == ["real"]


def test_a_device_a_pipe_and_a_folder_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "folder", "null"):
        with pytest.raises(OSError, match="device or a pipe|is a folder"):
            write_atomically(tmp_path / name, writes(b"new"))
    assert not Path("/dev/null").is_file() and sorted(os.listdir(tmp_path)) == ["folder", "null", "pipe"]


def test_a_very_long_name_is_written_too(tmp_path):
    write_atomically(tmp_path / ("n" * 250), writes(b"new"))
    assert os.listdir(tmp_path) == ["n" * 250]


def test_a_line_is_added_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, "one")
    script = """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            files.append_line("metrics.jsonl", "a line that does not fit")
        except OSError as error:
            print(error.filename, "|", error.strerror)
        die()
    """
    assert killed_in(tmp_path, script) == "metrics.jsonl | File too large\n"
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"


def test_only_the_leavings_of_dead_writers_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".last.ckpt.{dead.pid}.0123abcd.tmp", f".last.ckpt.{os.getpid()}.0123abcd.tmp", ".notes.tmp", "a.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_stale_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_what_is_no_file_of_ours_is_never_opened_or_removed(tmp_path):
    """A link or a pipe that is called like a temporary file of a dead writer."""
    (tmp_path / "precious").write_bytes(b"precious")
    names = [f".a.{2**22 + 7}.0123abcd.tmp", f".b.{2**22 + 7}.0123abcd.tmp", f".c.{2**22 + 7}.0123abcd.set"]
    (tmp_path / names[0]).symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / names[1])
    os.mkfifo(tmp_path / names[2])
    remove_stale_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [*sorted(names), "precious"]


def test_an_old_leaving_goes_though_its_number_is_that_of_a_live_process(tmp_path):
    leaving = tmp_path / f".last.ckpt.{os.getppid()}.0123abcd.tmp"
    leaving.touch()
    remove_stale_temporaries(tmp_path)
    assert leaving.exists()
    os.utime(leaving, (1e9, 1e9))
    remove_stale_temporaries(tmp_path)
    assert not leaving.exists()


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
