"""Files that take their names together: all of them, or none. Knows no format of ours.

While several take theirs, a record beside them says which gets which: who comes next finishes what was begun.
"""

import contextlib
import contextvars
import errno
import json
import os
import re
from pathlib import Path

from . import locks
from .temporaries import APPEARED, NAME, Waiting, beside, identity, naming, short

RECORD = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.set")
_RECORD_LIMIT = 2**20               # bytes
_set = contextvars.ContextVar("files that wait for their names", default=None)
_expected = {}                      # real path -> what was there when a command looked, before its work
_led = {}                           # path as it was named -> the real one then
_outdated = contextvars.ContextVar("files that go when those have them", default=None)


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
        for file in reversed(waiting):              # the first of them made the folders
            _expected.pop(file.target, None)
            file.leave_nothing()


def expect(path) -> None:
    """Have the set that `path` will be written in refuse what others put there from now on, or do to what is there."""
    target = Path(os.path.realpath(path))
    for other in _expected:
        if target in other.parents or other in target.parents:
            raise ValueError(
                f"{min(target, other)} and {max(target, other)} are both to be written, but nothing is a file and a "
                "folder; choose another name for one of them")
    _expected[target] = identity(target)
    _led[os.path.abspath(path)] = target


def is_expected(path) -> bool:
    """Whether this command will write there."""
    return Path(os.path.realpath(path)) in _expected


def expect_nothing() -> None:
    """A command begins or ends: what another one looked at is nobody's concern any more."""
    _expected.clear()
    _led.clear()


def remove_outdated(path) -> None:
    """Delete a file that those of this `together` block replace, once they have their names."""
    with together():
        _outdated.get().append(Path(path))


def unnamed(path) -> Path:
    """Where the content of `path` is: beside it, if it was written in this `together` block and waits for its name."""
    target = Path(os.path.realpath(path))
    return next((file.temporary for file in _set.get() or () if file.target == target), Path(path))


def add_to_set(path, write, replace) -> None:
    """Write a file beside its place, to have its name when the `together` block ends that is open.

    Args: as of `files.write_atomically`.
    """
    with naming(path):
        waiting = Waiting(path, replace)
        _set.get().append(waiting)
        waiting.write(write)


def finish(record):
    """Give the names that a writer recorded and was killed over. A record names files of its own folder, no others."""
    home = Path(os.path.realpath(record.parent))
    if record.stat().st_size > _RECORD_LIMIT:
        return
    with locks.naming_in([home]):
        for temporary, name in json.loads(record.read_bytes()):
            source, target = home / temporary, home / name
            match = NAME.fullmatch(source.name)
            if (match and short(target.name) == match["name"] and source.parent == target.parent
                    and Path(os.path.realpath(source)) == source and home in source.parents and source.is_file()):
                os.replace(source, target)
        record.unlink()


def _name_all(waiting):
    """Give all their names; a failure gives back those that were given."""
    def below(folder):
        return [file for file in waiting if folder in (file.target.parent, *file.target.parent.parents)]

    folders = [file.target.parent for file in reversed(waiting)]
    # A file that lies alone, such as a page above the folder of its IDs, is no place that the next writer of these
    # tidies.
    home = max([folder for folder in folders if folders.count(folder) > 1] or folders,
               key=lambda folder: len(below(folder)))
    inside = below(home)
    order = [*(file for file in waiting if file not in inside), *inside]
    record = Waiting(beside(home / inside[-1].target.name, ".set"), True) if len(inside) > 1 else None
    with locks.naming_in(file.target.parent for file in waiting):
        try:
            for file in order:
                now = identity(file.target)
                led = _led.get(os.path.abspath(file.path), file.target)         # a link may have taken its place
                if _expected.get(file.target, now) != now or led != file.target or now and not file.replace:
                    raise FileExistsError(errno.EEXIST, APPEARED, str(file.path))
                if len(waiting) > 1:
                    file.keep_old()
            if record:
                _write_record(record, home, inside)
            for file in order:
                with naming(file.path):
                    file.take_name()
        except BaseException:
            for file in reversed(order):
                file.give_back()
            raise
        finally:
            if record:
                with contextlib.suppress(OSError):
                    os.unlink(record.target)
                record.leave_nothing()
        for folder in {file.target.parent for file in waiting}:
            _sync_folder(folder)


def _write_record(record, home, files):
    """Which temporary file gets which name, on disk before the first of them has it."""
    names = [[str(file.temporary.relative_to(home)), str(file.target.relative_to(home))] for file in files]
    record.write(lambda file: file.write(json.dumps(names).encode()))
    record.take_name()
    _sync_folder(home)


def _sync_folder(folder) -> None:
    """Make the new name itself survive a power loss; not every file system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
