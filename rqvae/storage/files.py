"""Bytes to disk: the one place that opens a file for writing. Knows no format of ours.

A file is written beside its place, reaches the disk, and only then takes its name; several files of one command take
theirs together. No crash, full disk, signal or second writer leaves half a file, or half of a set.
"""

import contextlib
import contextvars
import errno
import json
import os
import re
import secrets
import stat
import sys
import time
from pathlib import Path

from . import locks
from .locks import locked
from .words import brief, describe_content, nearest_names, shown

__all__ = ["append_line", "brief", "cache_folder", "check_writable", "describe_content", "expect", "expect_nothing",
           "locked", "nearest_names", "remove_stale_temporaries", "shown", "together", "write_atomically"]

_LOADED = time.time()               # a file older than this is not of this process, whatever its name says
_YOUNG = 60                         # seconds in which the file of a live process is not touched, locked or not
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
_RECORD = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.set")
_LONGEST = 100                      # bytes of a name that its temporary file's name repeats
_RECORD_LIMIT = 2**20               # bytes
_APPEARED = "it appeared or was changed while this was at work, and was left as it is; choose another name, or begin again"
_set = contextvars.ContextVar("files that wait for their names", default=None)
_expected = {}                      # real path -> what was there when a command looked, before its work
_outdated = contextvars.ContextVar("files that go when those have them", default=None)


class _Waiting:
    """A file that is written beside its place and waits for its name."""

    def __init__(self, path, replace):
        self.path, self.replace = Path(path), replace
        self.target = Path(os.path.realpath(path))      # of a link, what it names is replaced
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = _beside(self.target)
        self.existed = os.path.lexists(self.target)
        self.old = None                                 # a second name of what was there, until all have theirs
        self.named = False
        self.handle = None

    def write(self, write):
        mode = _mode(self.path, self.target)
        with open(self.temporary, "xb") as file:
            locks.lock(file.fileno())                   # who tidies up elsewhere sees that its writer lives
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if locks.fcntl is not None:
                self.handle = os.dup(file.fileno())     # and with it the lock

    def keep_old(self):
        if self.target.exists():
            kept = _beside(self.target)
            with contextlib.suppress(OSError):          # a file system without second names
                os.link(self.target, kept)
                self.old = kept

    def take_name(self):
        if self.replace:
            os.replace(self.temporary, self.target)
        else:
            _give_new_name(self.temporary, self.target)
        self.named = True

    def give_back(self):
        with contextlib.suppress(OSError):
            if self.old:
                os.replace(self.old, self.target)
            elif self.named and not self.existed:
                os.unlink(self.target)

    def leave_nothing(self):
        _expected.pop(self.target, None)
        for path in filter(None, (self.temporary, self.old)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        if self.handle is not None:
            os.close(self.handle)


def write_atomically(path, write, *, replace=True) -> None:
    """Replace `path` by what `write(file)` produces, or leave it exactly as it was.

    Inside a `together` block it takes its name at the end of that. The folder is created if missing. Where `path` is
    a link, what it names is replaced; an old file's mode is kept. Any failure, an interrupt included, leaves no
    temporary file.

    Args:
        path: where the file shall be.
        write: called once with a binary file open for writing.
        replace: False refuses a file that is there, even if it appears while `write` is at work.

    Raises:
        OSError: the disk is full, the folder is read-only, ...; the message names `path`.
        FileExistsError: it is there and shall not be replaced, or it is a device or a pipe.
    """
    with together():
        with _naming(path):
            waiting = _Waiting(path, replace)
            _set.get().append(waiting)
            waiting.write(write)


@contextlib.contextmanager
def together():
    """Every file that is written in this `with` block takes its name at the end of it: all of them, or none.

    Killed in between, the next command that writes into the folder of most of them finishes what was begun there and
    below. Files in other folders are named before. Blocks inside a block belong to it.
    """
    if _set.get() is not None:
        yield
        return
    waiting, gone = [], []
    token, outdated = _set.set(waiting), _outdated.set(gone)
    try:
        yield
        if waiting:
            _name_all(waiting)
        for path in gone:
            path.unlink(missing_ok=True)
    finally:
        _set.reset(token)
        _outdated.reset(outdated)
        for file in waiting:
            file.leave_nothing()


def expect(path) -> None:
    """Have the set that `path` will be written in refuse what others put there from now on, or do to what is there."""
    target = Path(os.path.realpath(path))
    _expected[target] = _identity(target)


def expect_nothing() -> None:
    """A command begins or ends: what another one looked at is nobody's concern any more."""
    _expected.clear()


def remove_outdated(path) -> None:
    """Delete a file that those of this `together` block replace, once they have their names."""
    with together():
        _outdated.get().append(Path(path))


def unnamed(path) -> Path:
    """Where the content of `path` is: beside it, if it was written in this `together` block and waits for its name."""
    target = Path(os.path.realpath(path))
    return next((file.temporary for file in _set.get() or () if file.target == target), Path(path))


def append_line(path, text) -> None:
    """Add one line to the end of a file, whole or not at all; nothing of ours follows a link there.

    Raises:
        OSError: the disk is full, ...; the message names `path`.
    """
    with _naming(path):
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
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise FileExistsError
        probe = there / f".probe.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            with open(probe, "xb") as file:
                file.write(b"probe")
        finally:
            probe.unlink(missing_ok=True)
        remove_stale_temporaries(folder)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file; name a folder to write into") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot write here ({error.strerror}); name another folder", str(folder)) from error


def remove_stale_temporaries(folder) -> None:
    """Tidy `folder` after writers that were killed: finish a set of files that was taking its names, and delete the
    temporary files of those that are no longer alive."""
    for path in Path(folder).glob(".*.set"):
        match = _RECORD.fullmatch(path.name)
        with contextlib.suppress(OSError, ValueError, TypeError):
            if match and _abandoned(path, int(match["pid"])):
                _finish(path)
    for path in Path(folder).glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(OSError):                      # another process tidies up, too
            if match and _abandoned(path, int(match["pid"])):
                path.unlink()


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


@contextlib.contextmanager
def _naming(path):
    """Every failure to write says which file it was."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save buries it in its own
        if not isinstance(cause, OSError):
            raise
        # numpy's short writes carry no errno
        reason = cause.strerror or f"it could not be written whole, as on a full disk ({cause})"
        raise OSError(cause.errno or errno.EIO, reason, str(path)) from error


def _beside(path):
    return path.with_name(f".{_short(path.name)}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _short(name):
    cut = os.fsencode(name)[:_LONGEST]
    return os.fsdecode(cut) if len(cut) < _LONGEST else cut.decode(errors="ignore")     # half a letter would be none


def _identity(path):
    """What tells a file from another, and from itself after somebody wrote to it; None where nothing is."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _mode(path, target):
    """The mode of the regular file that is there, or None; anything else is refused."""
    try:
        found = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file", str(path))
    if not stat.S_ISREG(found):
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe; name a regular file", str(path))
    return stat.S_IMODE(found)


def _give_new_name(temporary, target):
    """Rename, but never over a file that is there."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, _APPEARED, str(target)) from None
    except OSError:                                             # a file system without second names
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it exists", str(target)) from None
        os.rename(temporary, target)


def _name_all(waiting):
    """Give all their names; a failure gives back those that were given."""
    record = None
    def below(folder):
        return [file for file in waiting if folder in (file.target.parent, *file.target.parent.parents)]

    folders = [file.target.parent for file in reversed(waiting)]
    # A file that lies alone, such as a page above the folder of its IDs, is no place that the next writer of these tidies.
    home = max([folder for folder in folders if folders.count(folder) > 1] or folders, key=lambda folder: len(below(folder)))
    inside = below(home)
    order = [*(file for file in waiting if file not in inside), *inside]
    with locks.naming_in(file.target.parent for file in waiting):
        try:
            for file in order:
                now = _identity(file.target)
                if _expected.get(file.target, now) != now or now and not file.replace:
                    raise FileExistsError(errno.EEXIST, _APPEARED, str(file.path))
                if len(waiting) > 1:
                    file.keep_old()
            if len(inside) > 1:
                record = _write_record(home, inside)
            for file in order:
                with _naming(file.path):
                    file.take_name()
        except BaseException:
            for file in reversed(order):
                file.give_back()
            raise
        finally:
            if record:
                with contextlib.suppress(OSError):
                    os.unlink(record)
        for folder in {file.target.parent for file in waiting}:
            _sync_folder(folder)


def _write_record(home, files):
    """Which temporary file gets which name, on disk before the first of them has it."""
    temporary = _beside(home / files[-1].target.name)
    record = temporary.with_suffix(".set")
    names = [[str(file.temporary.relative_to(home)), str(file.target.relative_to(home))] for file in files]
    try:
        with open(temporary, "xb") as file:
            file.write(json.dumps(names).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, record)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync_folder(home)
    return record


def _finish(record):
    """Give the names that a writer recorded and was killed over. A record names files of its own folder, no others."""
    home = Path(os.path.realpath(record.parent))
    if record.stat().st_size > _RECORD_LIMIT:
        return
    with locks.naming_in([home]):
        for temporary, name in json.loads(record.read_bytes()):
            source, target = home / temporary, home / name
            match = _TEMPORARY.fullmatch(source.name)
            if (match and _short(target.name) == match["name"] and source.parent == target.parent
                    and Path(os.path.realpath(source)) == source and home in source.parents and source.is_file()):
                os.replace(source, target)
        record.unlink()


def _sync_folder(folder) -> None:
    """Make the new name itself survive a power loss; not every file system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _abandoned(path, pid) -> bool:
    """Whether nobody writes this temporary file any more.

    The lock tells wherever the file system has locks. The process number tells on one host only; in a container
    every run may have the same one, and a long-lived one may have got that of a dead.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return False
    ours = pid == os.getpid() and found.st_mtime < _LOADED - 1
    if _alive(pid) and not ours and (found.st_mtime > time.time() - _YOUNG or locks.fcntl is None):
        return False
    handle = os.open(path, os.O_RDWR | locks.NO_LINKS)
    try:
        free = locks.lock(handle)
        return bool(free) or free is None and (ours or not _alive(pid))
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
