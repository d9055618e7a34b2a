"""Files that take their names together, or not at all."""

import json
import os
import subprocess
import sys

import pytest

from rqvae.storage import sets
from rqvae.storage.files import remove_stale_temporaries, write_atomically
from rqvae.storage.sets import expect, expect_nothing, together
from storage.test_files import here, killed_in, writes


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
            with sets.together():
                for name in ("side", "below/more", "main"):
                    files.write_atomically(name, lambda file: file.write(b"new"))
            """)
        remove_stale_temporaries(tmp_path)
        content = b"old" if at == 1 else b"new"
        remove_stale_temporaries(tmp_path / "below")
        assert here(tmp_path) == {"side": content, "below/more": content, "main": content}, at


@pytest.mark.parametrize("call", [1, 2])
def test_a_signal_while_the_record_or_the_names_reach_the_disk_leaves_nothing_beside_the_set(tmp_path, monkeypatch, call):
    for name in ("side", "main"):
        write_atomically(tmp_path / name, writes(b"old"))
    calls, sync = [], sets._sync_folder

    def interrupted(folder):
        calls.append(folder)
        if len(calls) == call:
            raise KeyboardInterrupt
        sync(folder)

    monkeypatch.setattr(sets, "_sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with together():
            for name in ("side", "main"):
                write_atomically(tmp_path / name, writes(b"new"))
    content = b"old" if call == 1 else b"new"
    assert here(tmp_path) == {"side": content, "main": content}


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
    path.unlink()
    (tmp_path / "theirs").write_bytes(b"theirs")
    expect(path)
    path.symlink_to("theirs")                               # where nothing was
    with pytest.raises(FileExistsError, match="appeared or was changed while this was at work"):
        write_atomically(path, writes(b"ours"))
    assert (tmp_path / "theirs").read_bytes() == b"theirs" and path.is_symlink()
    path.unlink(), (tmp_path / "theirs").unlink()
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


def test_no_output_lies_in_another_one(tmp_path):
    sets.expect_nothing()
    sets.expect(tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="m.pt2 and .*config.json are both to be written, but nothing is a file and a folder"):
        sets.expect(tmp_path / "m.pt2" / "config.json")
    sets.expect_nothing()
    sets.expect(tmp_path / "a" / "ids.json")
    with pytest.raises(ValueError, match="/a and .*ids.json are both to be written"):
        sets.expect(tmp_path / "a")
    sets.expect_nothing()


def test_a_set_that_fails_leaves_no_folder_that_it_made(tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(RuntimeError), sets.together():
        for place in ("model/deep/b", "model/a", "kept/c"):
            sets.add_to_set(tmp_path / place, lambda file: file.write(b"x"), False)
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
