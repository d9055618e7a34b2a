"""What a packed file may unpack to: a bound by its own length, so that a small file cannot fill the memory.

Knows no content.
"""

from __future__ import annotations

import contextlib
import errno

SMALL, MOST_TIMES = 2**26, 32       # bytes that any file may hold; times its length that a packed one may


def require_likely(where, promised, path, way_out):
    """Refuse content that would be many times as large as its file: packed so small, it is a trick, or empty.

    Raises:
        ValueError: naming both sizes.
    """
    held = path.stat().st_size
    if promised > SMALL + MOST_TIMES * held:
        raise ValueError(f"{where} would be {promised:,} bytes, from a file of {held:,}: more than {MOST_TIMES} times "
                         f"as much is not read; {way_out}")


@contextlib.contextmanager
def decoding(path):
    """Decoders fail in a hundred ways; a user gets one sentence.

    Raises:
        ValueError: in place of whatever they raise, but for errors of the disk.
        MemoryError: it is too small; the file is named.
    """
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{path} does not fit into the memory that is free") from error
    except Exception as error:
        # EINVAL: a place before the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ValueError(f"{path} is damaged or incomplete ({reason}); copy or save it again") from error
