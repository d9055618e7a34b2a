"""Who may write where, now: a folder for the length of a run, a name for a moment; and whether a writer lives. Knows no
format of ours."""

import contextlib
import os
import platform
import stat
import time
from pathlib import Path

from .words import shown

try:
    import fcntl
except ImportError:                 # Windows
    fcntl = None

NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

_held = set()                       # (folder, pid) of the locks of this process
_LOADED = time.time()               # a file older than this is not of this process, whatever its name says
_YOUNG = 60                         # seconds in which the file of a live process is not touched, locked or not
_HOLDER = b"process "               # what a lock file of ours begins with


@contextlib.contextmanager
def locked(folder):
    """Keep a folder to this process while a `with` block lasts; the kernel ends that with the process, too.

    Process and host stand in `<folder>/.lock`, which is removed at the end. A process that takes a
    folder again inside its own block keeps it. Where there are no such locks, on Windows and on some
    network disks, nothing is kept. The folder is created if missing.

    Raises:
        ValueError: another process has it; the message names that process. Or `.lock` is a link, or a file of
            somebody else's, which is left as it is.
        OSError: the folder cannot be written; the message names it.
    """
    folder = Path(folder)
    key = os.path.realpath(folder), os.getpid()                 # a forked child is another process
    if fcntl is None or key in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    handle = _take(path)
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        with contextlib.suppress(OSError):
            path.unlink()                                       # while it is still ours
        os.close(handle)


def lock(handle):
    """Lock an open file until it is closed: True, False if another process has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:                                             # a file system without locks
        return None
    return True


@contextlib.contextmanager
def naming_in(folders):
    """Let nobody else give names in these folders while a `with` block lasts, which is a moment."""
    handles = []
    try:
        with contextlib.suppress(OSError):
            for folder in sorted(set(map(os.path.realpath, folders))) if fcntl else ():
                handles.append(os.open(folder, os.O_RDONLY | NO_LINKS))
                fcntl.flock(handles[-1], fcntl.LOCK_EX)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def abandoned(path, pid) -> bool:
    """Whether nobody writes this temporary file any more.

    The lock tells wherever the file system has locks. The process number tells on one host only; in a container
    every run may have the same one, and a long-lived one may have got that of a dead.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return False
    ours = pid == os.getpid() and found.st_mtime < _LOADED - 1
    if _alive(pid) and not ours and (found.st_mtime > time.time() - _YOUNG or fcntl is None):
        return False
    handle = os.open(path, os.O_RDWR | NO_LINKS)
    try:
        free = lock(handle)
        return bool(free) or free is None and (ours or not _alive(pid))
    finally:
        os.close(handle)


def _take(path) -> int:
    """The handle of the lock file, locked."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666)
        except OSError as error:
            if os.path.islink(path) or os.path.isdir(path):
                raise ValueError(_foreign(path)) from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode) or os.fstat(handle).st_nlink > 1:
                raise ValueError(_foreign(path))
            holder = os.read(handle, 200)
            if holder and not holder.startswith(_HOLDER):
                raise ValueError(_foreign(path))
            if lock(handle) is False:
                words = shown(holder.decode(errors="replace")) or "another process"
                raise ValueError(f"{path.parent} is in use by another run, {words}; wait for its end, stop it, or "
                                 "choose another folder")
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        except FileNotFoundError:                               # its holder removed it in between
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    with contextlib.suppress(OSError):                          # on a full disk the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, _HOLDER + f"{os.getpid()} on {platform.node()}".encode(), 0)
    return handle


def _foreign(path):
    return (f"{path} is a link, or a file of somebody else's, and not the lock of a run; it was left as it is: "
            "remove it, or choose another folder")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
