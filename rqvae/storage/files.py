"""Bytes to disk, whole or not at all; and whether a folder takes them, tidied after writers that were killed.

A file is written beside its place (`temporaries`), reaches the disk, and only then takes its name; several files of
one command take theirs together (`sets`). No crash, full disk, signal or second writer leaves half a file, or half
of a set. Knows no format of ours.
"""

import contextlib
import os
import sys
from pathlib import Path

from . import locks, sets, temporaries


def write_atomically(path, write, *, replace=True) -> None:
    """Replace `path` by what `write(file)` produces, or leave it exactly as it was.

    Inside a `sets.together` block it takes its name at the end of that. The folder is created if missing. Where
    `path` is a link, what it names is replaced; an old file's mode is kept. Any failure, an interrupt included,
    leaves no temporary file.

    Args:
        path: where the file shall be.
        write: called once with a binary file open for writing.
        replace: False refuses a file that is there, even if it appears while `write` is at work.

    Raises:
        OSError: the disk is full, the folder is read-only, ...; the message names `path`.
        FileExistsError: it is there and shall not be replaced, or it is a device or a pipe.
    """
    with sets.together():
        sets.add_to_set(path, write, replace)


def followed(path) -> Path:
    """`path`, or where that is a link what it names: files that belong to it stand beside that, under its name."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def append_line(path, text) -> None:
    """Add one line to the end of a file, whole or not at all; nothing of ours follows a link there.

    Raises:
        OSError: the disk is full, ...; the message names `path`.
    """
    with temporaries.naming(path):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | locks.NO_LINKS
        handle = os.open(os.path.realpath(path), flags, 0o666)
        try:
            before = os.fstat(handle).st_size
            line = (text + "\n").encode()
            try:
                while line:
                    line = line[os.write(handle, line):]
            except BaseException:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def check_writable(folder) -> None:
    """Make sure, by trying, that files can be written into `folder`, or into the nearest folder above it that
    exists. Nothing is left behind, and what a killed writer left in `folder` is gone.

    Raises:
        OSError: it is a file, read-only, full, ...; the message names it.
    """
    folder = Path(folder)
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not there.exists():
            raise FileNotFoundError(f"{there} is a link to {os.readlink(there)}, where there is nothing; "
                                    "make that folder, or name another")
        if not there.is_dir():
            raise FileExistsError
        probe = temporaries.beside(there / "probe")
        try:
            with open(probe, "xb") as file:
                file.write(b"probe")
        finally:
            probe.unlink(missing_ok=True)
        remove_stale_temporaries(folder)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file; name a folder to write into") from None
    except OSError as error:
        if not error.errno:
            raise
        raise OSError(error.errno, f"cannot write here ({error.strerror}); name another folder", str(folder)) from error


def remove_stale_temporaries(folder) -> None:
    """Tidy `folder` after writers that were killed: finish a set of files that was taking its names, and delete the
    temporary files of those that are no longer alive."""
    for path in Path(folder).glob(".*.set"):
        match = sets.RECORD.fullmatch(path.name)
        with contextlib.suppress(OSError, ValueError, TypeError):
            if match and locks.abandoned(path, int(match["pid"])):
                sets.finish(path)
    for path in Path(folder).glob(".*.tmp"):
        match = temporaries.NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):                      # another process tidies up, too
            if match and locks.abandoned(path, int(match["pid"])):
                path.unlink()


@contextlib.contextmanager
def set_aside(folder, names, along=()):
    """Put files of `folder` out of the way of new ones of the same names, while a `with` block lasts.

    None does nothing. They are called `earlier-NAME` until `remove_aside` is called, when the new ones stand, so that
    nobody takes the ones for the others. If none of the new ones stands in the end, they are put back.

    Args:
        names: in the order in which they are set aside; the new ones are written in the same.
        along: files that go with those, if there are any, and come back with them.
    """
    if folder is None:
        yield
        return
    mend(folder, names)
    if any((folder / name).exists() for name in names):
        for name in (*names, *along):
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / name, folder / f"earlier-{name}")
    try:
        yield
    finally:
        if not any((folder / name).exists() for name in names):
            for name in (*along, *reversed(names)):
                with contextlib.suppress(OSError):
                    os.replace(folder / f"earlier-{name}", folder / name)


def mend(folder, names) -> None:
    """Put back what a process had set aside that was killed before it had set all aside.

    Then the last is still there.
    """
    *others, last = names
    if (folder / last).exists() and not (folder / f"earlier-{last}").exists():
        for name in others:
            if not (folder / name).exists():
                with contextlib.suppress(OSError):
                    os.replace(folder / f"earlier-{name}", folder / name)


def remove_aside(folder, names) -> None:
    """Delete what was set aside: what took its place stands."""
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(folder / f"earlier-{name}")


def cache_folder():
    """Where this platform keeps what can be made again; None for a user without a home."""
    try:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME", "")
            if not os.path.isabs(base):             # the XDG specification says to ignore such
                base = Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base, "rqvae")
