"""Columns of a Parquet file, some thousand rows at a time, no larger than its length allows. Knows no content.

A page of a few bytes can say one number, or one long text, a billion times. So what the columns would be is summed up
before anything is decoded: numbers by what the file says of its parts, texts from a dictionary of the different ones
and the places where they stand.
"""

from __future__ import annotations

import re

from .arrays import require_start
from .packed import decoding, require_likely

_ROWS = 2**12                       # decoded at once
_SAFE = (14, 0, 1)                  # the version of pyarrow from which on a schema leads to no code
# Bytes of a value once it is decoded; a text has its own in addition.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 16}


class ParquetTable:
    """An open Parquet file, to be used in a `with` statement.

    Attributes:
        schema: pyarrow's, with the names and types of the columns.
        num_rows: as the file says.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: it is no Parquet file, or damaged.
    """

    def __init__(self, path, way_out):
        """
        Args:
            path: the file.
            way_out: words on what to do with a file that is packed too small.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise ImportError(f"{path} needs a package that is not installed: pip install pyarrow, or {way_out}") from None
        if tuple(map(int, re.findall(r"\d+", pyarrow.__version__)[:3])) < _SAFE:
            raise ImportError(f"pyarrow {pyarrow.__version__} runs code that a Parquet file names (CVE-2023-47248), so {path} is not "
                              f"opened with it: pip install -U pyarrow, or {way_out}")
        self.path, self._way_out = path, way_out
        require_start(path, b"PAR1", ".parquet")
        with decoding(path):
            self._file = parquet.ParquetFile(path)
            self._metadata, self.schema = self._file.metadata, self._file.schema_arrow
        self.num_rows = self._metadata.num_rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def batches(self, columns):
        """Yield a list with an Arrow array of each of the `columns`, of some thousand rows at a time.

        Raises:
            ValueError: a column is of another kind than text, numbers or lists of numbers; all of it would be too large
                for its file; it is damaged.
        """
        from pyarrow import parquet, types
        kinds = {name: self.schema.field(name).type for name in columns}
        for name, kind in kinds.items():
            within = kind.value_type if _is_list(kind) else kind
            if types.is_nested(within) or within is not kind and not types.is_primitive(within):
                raise ValueError(f"{self.path}: column {name!r} holds {kind}; expected text, numbers, or lists of numbers")
        taken = self._numbers(columns)
        self._require(columns, taken)
        texts = [name for name, kind in kinds.items() if not types.is_primitive(kind) and not _is_list(kind)]
        with decoding(self.path):
            self._file.close()
            self._file = parquet.ParquetFile(self.path, metadata=self._metadata, read_dictionary=texts)
            batches = self._file.iter_batches(_ROWS, columns=columns)
        read = 0
        while True:
            with decoding(self.path):
                batch = next(batches, None)
                if batch is None:
                    if read != self.num_rows:
                        raise ValueError(f"{read:,} of the {self.num_rows:,} rows that it promises are there")
                    return
                read += len(batch)
                arrays = [batch.column(name) for name in columns]
                taken += sum(map(_text_bytes, arrays))
            self._require(columns, taken)
            with decoding(self.path):
                plain = [array.dictionary_decode() if types.is_dictionary(array.type) else array for array in arrays]
            if len(batch):
                yield plain

    def _numbers(self, columns) -> int:
        """Bytes that the columns would be, but for texts that are said more than once, as the file says of its parts."""
        total = 0
        with decoding(self.path):
            lengths = [max(0, self._file.schema.column(place).length or 0) for place in range(self._metadata.num_columns)]
            for number in range(self._metadata.num_row_groups):
                group = self._metadata.row_group(number)
                for place in range(group.num_columns):
                    chunk = group.column(place)
                    if chunk.file_path:
                        raise ValueError(f"it names another file, {chunk.file_path!r}, for its column")
                    if chunk.path_in_schema.split(".")[0] in columns:
                        width = _WIDTHS.get(chunk.physical_type, lengths[place])
                        total += max(chunk.num_values * width, chunk.total_uncompressed_size)
        return total

    def _require(self, columns, taken):
        require_likely(f"{self.path}[{' and '.join(map(repr, columns))}]", taken, self.path, self._way_out)


def _is_list(kind) -> bool:
    from pyarrow import types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _text_bytes(array) -> int:
    """Bytes of all texts of a dictionary's array, each as often as it stands there."""
    from pyarrow import compute, types
    if not types.is_dictionary(array.type) or types.is_primitive(array.type.value_type):
        return 0
    lengths = compute.binary_length(array.dictionary)
    return compute.sum(compute.cast(lengths, "int64").take(array.indices)).as_py() or 0
