"""Bytes on disk: written whole or not at all; folders tried, and tidied."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rqvae.storage.files import append_line, cache_folder, check_writable, remove_stale_temporaries, write_atomically

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
        from rqvae.storage import files, sets
        def die(*_, **__):
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """) + textwrap.dedent(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True)
    assert done.returncode == -9, done.stderr
    return done.stdout


def here(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


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
