"""Bytes on disk: atomic writes, and words for what a file looks like. Knows no format of ours.

Every room that writes goes through `write_atomically`, so that no crash, full disk or second writer
ever leaves half a file behind; every room that reads asks `describe_content` before it complains.
"""

import contextlib
import difflib
import errno
import os
import platform
import re
import secrets
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:                 # Windows
    fcntl = None

_LOADED = time.time()               # a file older than this is not of this process, whatever its name says
_held = set()                       # (folder, pid) of the locks of this process
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
_LFS = b"version https://git-lfs"


def write_atomically(path, write) -> None:
    """Replace `path` by what `write(file)` produces, or leave it exactly as it was.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name.
    The folder is created if missing. Any failure, an interrupt included, removes the temporary file.

    Args:
        path: where the file shall be.
        write: called once with a binary file open for writing.

    Raises:
        OSError: the disk is full, the folder is read-only, ...; the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _lock(file.fileno())                    # who tidies up elsewhere sees that its writer lives
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save buries it in its own
        if not isinstance(cause, OSError):
            raise
        # numpy's short writes carry no errno
        reason = cause.strerror or f"it could not be written whole, as on a full disk ({cause})"
        raise OSError(cause.errno or errno.EIO, reason, str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(path.parent)


def check_writable(folder) -> None:
    """Make sure, by trying, that files can be written into `folder`, or into the nearest folder above it that
    exists. Nothing is left behind.

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
            probe.write_bytes(b"probe")
        finally:
            probe.unlink(missing_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file; name a folder to write into") from None
    except OSError as error:
        raise OSError(error.errno, f"cannot write here ({error.strerror}); name another folder", str(folder)) from error


def remove_stale_temporaries(folder) -> None:
    """Delete the temporary files in `folder` whose writer is no longer alive (kill -9, power loss)."""
    for path in Path(folder).glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):            # another process tidies up, too
            if match and _abandoned(path, int(match["pid"])):
                path.unlink()


@contextlib.contextmanager
def locked(folder):
    """Keep a folder to this process while a `with` block lasts; the kernel ends that with the process, too.

    Process and host stand in `<folder>/.lock`, which is removed at the end. A process that takes a
    folder again inside its own block keeps it. Where there are no such locks, on Windows and on some
    network disks, nothing is kept. The folder is created if missing.

    Raises:
        ValueError: another process has it; the message names that process.
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


def nearest_names(path) -> str:
    """`"; did you mean a.npy or b.npy?"`, or a word on the folder when nothing in it is similar."""
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist"
    names = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(names)}?" if names else f"; nothing in {folder} has a similar name"


def describe_content(path) -> str:
    """What the file at `path` appears to hold, judged by its first bytes, in words for a message.

    Returns one of the phrases below, or `"starts with b'...'"` where nothing is recognised.
    """
    with open(path, "rb") as file:
        head = file.read(256)
    text = head.lstrip().lower()
    if not head:
        return "the file is empty"
    if head.startswith(_LFS):
        return "this is a Git LFS pointer, not the data itself: run `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is an HTML page, probably a login or error page saved by a download"
    if head.startswith(b"\x93NUMPY"):
        return "this is a .npy array"
    if head.startswith(b"PK\x03\x04"):
        return "this is a zip archive (.npz, .pt and .ckpt files are)"
    if head.startswith(b"PAR1"):
        return "this is a Parquet file"
    if head.startswith(b"\x1f\x8b"):
        return "this is a gzip file: decompress it first"
    if head.startswith(b"\x89HDF"):
        return "this is an HDF5 file"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "this is a Python pickle, which can run code when it is read, so it is not opened"
    if not head.strip(b"\x00"):
        return "the file begins with zeros, as one does that was never fully written"
    if head[:1] in b"{[":
        return "this looks like JSON text"
    return f"starts with {head[:16]!r}"


def _sync_folder(folder) -> None:
    """Make the new name itself survive a power loss; not every file system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _take(path) -> int:
    """The handle of the lock file, locked."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(handle):
            holder = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise ValueError(f"{path.parent} is in use by another run, {holder}; wait for its end, stop it, or "
                             "choose another folder")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)                                        # its holder removed it in between
    with contextlib.suppress(OSError):                          # on a full disk the lock holds all the same
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
    return handle


def _lock(handle) -> bool:
    """Lock an open file until it is closed; False if another process has it."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:                                             # a file system without locks
        pass
    return True


def _abandoned(path, pid) -> bool:
    """Whether nobody writes this temporary file any more.

    The process number tells on one host only, and in a container every run may have the same one; the
    lock tells wherever the file system has locks.
    """
    if _alive(pid) and not (pid == os.getpid() and path.stat().st_mtime < _LOADED - 1):
        return False
    with open(path, "r+b") as file:
        return _lock(file.fileno())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
