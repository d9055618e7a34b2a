"""A file beside its place, until it has its name: the one way in which a file is made.

Knows no sets, and no format of ours.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path

from . import locks

NAME = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.tmp")
APPEARED = ("it appeared or was changed while this was at work, and was left as it is; "
            "choose another name, or begin again")
_LONGEST = 100                      # bytes of a name that its temporary file's name repeats


class Waiting:
    """A file that is written beside its place and waits for its name."""

    def __init__(self, path, replace):
        self.path, self.replace = Path(path), replace
        self.target = Path(os.path.realpath(path))      # of a link, what it names is replaced
        folder = self.target.parent
        self.made = [each for each in (folder, *folder.parents) if not each.exists()]       # the deepest first
        folder.mkdir(parents=True, exist_ok=True)
        self.temporary = beside(self.target)
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
            kept = beside(self.target)
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
        for path in filter(None, (self.temporary, self.old)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        with contextlib.suppress(OSError):              # those with a file in them stay
            for folder in self.made:
                os.rmdir(folder)
        if self.handle is not None:
            os.close(self.handle)


@contextlib.contextmanager
def naming(path):
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


def identity(path):
    """What tells a file from another, and from itself after somebody wrote to it; None where nothing is."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def beside(path, suffix=".tmp"):
    """A name in the same folder that nobody else has, and that tells whose it is."""
    return path.with_name(f".{short(path.name)}.{os.getpid()}.{secrets.token_hex(4)}{suffix}")


def short(name):
    """As much of a file's name as that of its temporary file repeats."""
    cut = os.fsencode(name)[:_LONGEST]
    return os.fsdecode(cut) if len(cut) < _LONGEST else cut.decode(errors="ignore")     # half a letter would be none


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
        raise FileExistsError(errno.EEXIST, APPEARED, str(target)) from None
    except OSError:                                             # a file system without second names
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "it exists", str(target)) from None
        os.rename(temporary, target)
