"""What a packed file may unpack to: a bound by its own length, so that a small file cannot fill the memory. Knows no content."""

from __future__ import annotations

SMALL, MOST_TIMES = 2**26, 32       # bytes that any file may hold; times its length that a packed one may
ROWS = 2**12                        # of Parquet, decoded at once


def require_likely(where, promised, path, way_out):
    """Refuse content that would be many times as large as its file: packed so small, it is a trick, or empty.

    Raises:
        ValueError: naming both sizes.
    """
    held = path.stat().st_size
    if promised > SMALL + MOST_TIMES * held:
        raise ValueError(f"{where} would be {promised:,} bytes, from a file of {held:,}: more than {MOST_TIMES} times "
                         f"as much is not read; {way_out}")


def parquet_batches(path, file, columns, way_out):
    """Some thousand rows at a time of an open `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: as `require_likely`, once so much was decoded.
    """
    taken = 0
    for batch in file.iter_batches(ROWS, columns=columns):
        taken += batch.nbytes
        require_likely(f"{path} is packed too small: it", taken, path, way_out)
        yield batch
