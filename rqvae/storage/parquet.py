"""Columns of a Parquet file, some thousand rows at a time, no larger than its length allows. Knows no content.

A page of a few bytes can say one number, or one long text, a billion times, and the index of the file can say nothing
of it. So what the columns would be is summed up before anything is decoded: numbers by what each page says of itself,
texts from a dictionary of the different ones and the places where they stand.
"""

from __future__ import annotations

import re

from .arrays import require_start
from .packed import decoding, require_likely

_ROWS = 2**12                       # decoded at once
_SAFE = (14, 0, 1)                  # the version of pyarrow from which on a schema leads to no code
# Bytes of a value once it is decoded; a text has its own in addition.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 16}

_BEGINNING = 2**14              # bytes of a page in which its header ends, statistics and all
_DEEPEST = 8                    # structs in one another; the format has three
# Fields of a PageHeader: two sizes, and the header of each kind of page.
_UNPACKED, _PACKED, _KINDS = 2, 3, (5, 7, 8)


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
            raise ImportError(f"{path} needs a package that is not installed: "
                              f"pip install pyarrow, or {way_out}") from None
        if tuple(map(int, re.findall(r"\d+", pyarrow.__version__)[:3])) < _SAFE:
            raise ImportError(f"pyarrow {pyarrow.__version__} runs code that a Parquet file names (CVE-2023-47248), "
                              f"so {path} is not opened with it: pip install -U pyarrow, or {way_out}")
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
                raise ValueError(f"{self.path}: column {name!r} holds {kind}; "
                                 "expected text, numbers, or lists of numbers")
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
                read += len(batch) if batch else 0
                if read > self.num_rows or batch is None and read < self.num_rows:
                    raise ValueError(f"it has {read:,} rows{', and more' if batch else ''}, "
                                     f"and its index promises {self.num_rows:,}")
                if batch is None:
                    return
                arrays = [batch.column(name) for name in columns]
                taken += sum(map(_text_bytes, arrays))
            self._require(columns, taken)
            with decoding(self.path):
                plain = [array.dictionary_decode() if types.is_dictionary(array.type) else array for array in arrays]
            if len(batch):
                yield plain

    def _numbers(self, columns) -> int:
        """Bytes that the columns would be, but for texts that are said more than once, as index and pages say."""
        total = 0
        with decoding(self.path), open(self.path, "rb") as file:
            lengths = [max(0, self._file.schema.column(place).length or 0)
                       for place in range(self._metadata.num_columns)]
            for number in range(self._metadata.num_row_groups):
                group = self._metadata.row_group(number)
                for place in range(group.num_columns):
                    chunk = group.column(place)
                    if chunk.file_path:
                        raise ValueError(f"it names another file, {chunk.file_path!r}, for its column")
                    if chunk.path_in_schema.split(".")[0] in columns:
                        # There, a text is a part of all before.
                        if chunk.physical_type == "BYTE_ARRAY" and "DELTA_BYTE_ARRAY" in chunk.encodings:
                            raise ValueError("its texts are packed as DELTA_BYTE_ARRAY, which is not read")
                        width = _WIDTHS.get(chunk.physical_type, lengths[place])
                        begin = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
                        found = sum(max(unpacked, count * width)
                                    for unpacked, count in _pages(file, begin, chunk.total_compressed_size))
                        total += max(chunk.num_values * width, chunk.total_uncompressed_size, found)
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


def _pages(file, begin, length):
    """Yield (bytes unpacked, number of values) of each page of a part that lies in an open file, as its header says.

    Format: parquet.thrift, PageHeader, in Thrift's compact protocol; three numbers are wanted, the rest is passed over.

    Raises:
        ValueError: a header is damaged, or its page leads out of the part.
    """
    place, end = begin, begin + length
    while place < end:
        file.seek(place)
        header = _Header(file.read(min(_BEGINNING, end - place)))
        fields = header.struct()
        unpacked, packed = fields.get(_UNPACKED), fields.get(_PACKED)
        kind = next((fields[name] for name in _KINDS if isinstance(fields.get(name), dict)), {})
        sizes = (unpacked, packed, kind.get(1, 0))
        if not all(type(size) is int and size >= 0 for size in sizes) or place + header.place + packed > end:
            raise ValueError(f"the page at byte {place:,} has a damaged header")
        yield unpacked, sizes[2]
        place += header.place + packed


class _Header:
    """The bytes of a struct of Thrift, and how far they are read."""

    def __init__(self, content):
        self.content, self.place = content, 0

    def struct(self, depth=0) -> dict:
        """field number -> its number, or its fields; of other kinds nothing is kept."""
        fields, field = {}, 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.number()
            fields[field] = self.value(head & 15, depth)
        return fields

    def value(self, kind, depth):
        if kind in (1, 2):                      # true and false, which stand in the head
            return None
        if kind in (4, 5, 6):
            return self.number()
        if kind == 12 and depth < _DEEPEST:
            return self.struct(depth + 1)
        if kind not in (3, 7, 8):               # lists and maps, of which a page's header has none
            raise ValueError("the header of a page has a field of another kind")
        length = self.unsigned() if kind == 8 else {3: 1, 7: 8}[kind]
        self.place += length

    def number(self) -> int:
        coded = self.unsigned()
        return coded >> 1 if coded % 2 == 0 else -(coded + 1 >> 1)

    def unsigned(self) -> int:
        found = shift = 0
        while shift < 70:
            byte = self.byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
        raise ValueError("the header of a page has a number of more than 64 bits")

    def byte(self) -> int:
        if self.place >= len(self.content):
            raise ValueError("the header of a page is cut off")
        self.place += 1
        return self.content[self.place - 1]
