"""A lock file is made by us or left alone. Two runs in a folder, and dying holders: tests/test_faults.py."""

import os

import pytest

from rqvae.storage.locks import locked


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder", "file of somebody else"])
def test_a_lock_file_that_is_not_ours_is_left_as_it_is(tmp_path, kind):
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_bytes(b"precious")
    run.mkdir()
    lock = run / ".lock"
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "dangling link":
        lock.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        os.link(precious, lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"run/.lock is a link, or a file of somebody else's"):
        with locked(run):
            pass
    assert precious.read_bytes() == b"precious" and not (tmp_path / "new").exists()
    assert os.path.lexists(lock)


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_bytes(b"process 1234 on host")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert os.listdir(tmp_path) == []
