"""One feature file -> one block of rows, left on disk where the format allows. Knows formats only.

Nothing here runs code that a file holds, and no size that a header states is believed before it has
been compared with the file's own. Every refusal is one sentence: which file, what was found, what
is expected, what to do.

Shapes:  N rows (items)   D feature width
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..storage.files import describe_content, nearest_names
from ..storage.torch_files import CheckpointError, StoredTensor, find_torch_tensors
from .blocks import ArrayBlock, FileBlock, array_block, file_block, require_numbers, table_shape

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet")

_ID_COLUMNS = ("item_id", "pid", "ItemID")      # as OpenOneRec, TorchEasyRec and genrec write them
_SAVE = "save features with np.save('features.npy', array)"
_AGAIN = "copy or save it again"
_NPY, _ZIP, _PARQUET = b"\x93NUMPY", b"PK\x03\x04", b"PAR1"
_NPY_FIELDS = {     # not parsed as Python, whose documentation says that hostile text can crash it
    "descr": r"""['"]descr['"]\s*:\s*(?:['"]([^'"\s]{0,40})['"]|[\[(])""",
    "fortran_order": r"""['"]fortran_order['"]\s*:\s*(True|False)""",
    "shape": r"""['"]shape['"]\s*:\s*\(([\d\s,L]*)\)""",
}
_NPY_HEADER = 2**16                             # bytes; numpy writes 128
_SAFETENSORS_HEADER = 100 * 10**6               # bytes; the format's own bound
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}


class NpyHeader(NamedTuple):
    descr: str          # numpy's type string, such as "<f4"; "" for records
    fortran: bool       # stored column after column
    shape: tuple
    size: int           # bytes before the data


def read_features(path, key=None):
    """(list of blocks, item IDs or None) of one feature file.

    Args:
        path: a file with one of `SUFFIXES`.
        key: the array of a `.npz`, entry of a `.pt` or `.safetensors`, column of a `.parquet`.

    Raises:
        FileNotFoundError: there is no such file; similar names are offered.
        ValueError: it is of another kind, damaged, or not an (N, D) table of numbers.
    """
    path = Path(path)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        _refuse_key(path, key)
        return [_read_npy(path)], None
    if suffix == ".npz":
        return [_read_npz(path, key)], None
    if suffix in (".pt", ".pth"):
        return [_read_torch(path, key)], None
    if suffix == ".safetensors":
        return [_read_safetensors(path, key)], None
    if suffix == ".parquet":
        return _read_parquet(path, key)
    raise ValueError(f"{path} has the suffix {suffix!r} ({describe_content(path)}); "
                     f"expected one of {' '.join(SUFFIXES)}: {_SAVE}")


def require_file(path):
    """Refuse what is missing, a folder, or a pipe, for which one would wait for ever."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist{nearest_names(path)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file")
    if not path.is_file():
        raise ValueError(f"{path} is a device or a pipe; expected a regular file: copy it to one")


# ---- .npy and .npz

def npy_header(stream, where, size) -> NpyHeader:
    """The header of the `.npy` bytes in `stream`, of which there are `size`.

    Format: numpy.lib.format, versions 1.0 to 3.0.
    """
    start = stream.read(12)
    begin = 10 if start[6:7] == b"\x01" else 12     # where the text begins, after its length
    end = begin + int.from_bytes(start[8:begin], "little")
    if size < end or size < begin:
        raise ValueError(_cut_off(where, size, end))
    stream.seek(begin)
    text = stream.read(min(end - begin, _NPY_HEADER)).decode("latin1")
    fields = {name: re.search(pattern, text) for name, pattern in _NPY_FIELDS.items()}
    sizes = re.findall(r"\d+", fields["shape"][1]) if fields["shape"] else []
    if None in fields.values() or any(len(digits) > 18 for digits in sizes):
        raise ValueError(f"{where} has a damaged header ({text[:60]!r}); {_AGAIN}")
    fortran = fields["fortran_order"][1] == "True"
    return NpyHeader(fields["descr"][1] or "", fortran, tuple(map(int, sizes)), end)


def npy_file_header(path) -> NpyHeader:
    """The header of a `.npy` file; `require_size` compares its promise with the file."""
    return _npy_start(path)[0]


def _npy_start(path):
    """(header, what the file looked like when it was read)."""
    _require_start(path, _NPY, ".npy")
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno())
        return npy_header(file, path, seen.st_size), seen


def require_size(where, size, promised):
    """Refuse fewer bytes than a header promises; more of them are ignored with a warning."""
    if size < promised:
        raise ValueError(_cut_off(where, size, promised))
    if size > promised:
        warnings.warn(f"{where} has {size} bytes, its header promises {promised}; "
                      "what follows the first array is not used", stacklevel=2)


def _read_npy(path):
    header, seen = _npy_start(path)
    stored, shape = _table_in(path, header, seen.st_size)
    return file_block(path, header.size, shape, stored, fortran=header.fortran, seen=seen)


def _read_npz(path, key):
    _require_start(path, _ZIP, ".npz")
    with _decoding(path), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    members = {info.filename[:-4]: info for info in infos}
    name = _pick(path, members, key, "array")
    where = f"{path}[{name!r}]"
    if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where} is compressed as numpy never does; save it with np.savez")
    with _decoding(path), zipfile.ZipFile(path) as archive:
        content = archive.read(members[name])
    if not content.startswith(_NPY):
        raise ValueError(f"{where} is not a .npy array (starts with {content[:16]!r}); "
                         "save it with np.savez")
    header = npy_header(io.BytesIO(content), where, len(content))
    stored, shape = _table_in(where, header, len(content))
    flat = np.frombuffer(content, stored, shape[0] * shape[1], header.size)
    return array_block(flat.reshape(shape, order="F" if header.fortran else "C"), where)


def _table_in(where, header, size):
    """(numpy type, (N, D)) that a header states, if the `size` bytes there are bear it out."""
    stored = require_numbers(where, header.descr)
    shape = table_shape(where, header.shape)
    require_size(where, size, header.size + math.prod(shape) * stored.itemsize)
    return stored, shape


# ---- .pt and .safetensors

def _read_torch(path, key):
    """Its tensors stay in the file, which is read through once: the format has checksums."""
    _require_start(path, _ZIP, f"{path.suffix} (torch >= 1.6)")
    try:
        content, where = find_torch_tensors(path), path
    except CheckpointError as error:
        raise ValueError(f"{path} cannot be read as tensors alone: it "
                         f"{str(error)[len(str(path)) + 1:]}") from error
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, StoredTensor)}
        name = _pick(path, tensors, key, "tensor")
        content, where = tensors[name], f"{path}[{name!r}]"
    else:
        _refuse_key(path, key)
    if not isinstance(content, StoredTensor):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected one (items, width) "
                         "tensor, or a dict of them: save torch.stack(rows)")
    return _stored_block(path, content, where)


def _stored_block(path, tensor, where):
    shape, (first, size) = tensor.shape, tensor.storage
    kind = "<u2" if tensor.dtype == torch.bfloat16 else str(tensor.dtype).split(".")[1]
    stored = require_numbers(where, np.dtype(kind).str)
    table = table_shape(where, shape)
    if math.prod(shape) * stored.itemsize > size:
        raise ValueError(f"{where} has shape {tuple(shape)} but stores fewer numbers, "
                         "each of them shown many times; save tensor.contiguous()")
    how = {"bfloat16": tensor.dtype == torch.bfloat16, "seen": tensor.seen}
    if tensor.is_contiguous():
        return file_block(path, tensor.start, table, stored, **how)
    flat = FileBlock(path, first, (1, size // stored.itemsize), stored, seen=tensor.seen).raw(slice(0, 1))[0]
    flat = flat[(tensor.start - first) // stored.itemsize:]         # a view of other rows, such as a transposed one
    rows = np.lib.stride_tricks.as_strided(flat, shape, [step * stored.itemsize for step in tensor.stride])
    return ArrayBlock(rows.reshape(table), bfloat16=how["bfloat16"])


def _read_safetensors(path, key):
    """Format: github.com/huggingface/safetensors, "Format": the header's length, JSON, the data."""
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno())
        size = seen.st_size
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, _SAFETENSORS_HEADER))
    if not text.startswith(b"{"):
        raise ValueError(f"{path} is not a .safetensors file: {describe_content(path)}; {_SAVE}")
    if size < 8 + length:
        raise ValueError(_cut_off(path, size, 8 + length))
    try:
        entries = json.loads(text.decode())
        entries = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, RecursionError):
        raise ValueError(f"{path} has a damaged header ({text[:60]!r}); {_AGAIN}") from None
    name = _pick(path, entries, key, "tensor")
    where = f"{path}[{name!r}]"
    try:
        entry = entries[name]
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (first, last, *shape)):
            raise ValueError("not sizes")
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{where} has a damaged entry in the header; {_AGAIN}") from None
    if str(kind) not in _SAFETENSORS:
        raise ValueError(f"{where} has dtype {kind}; expected floats: save tensor.float()")
    stored, shape = np.dtype(_SAFETENSORS[kind]), table_shape(where, tuple(shape))
    promised = 8 + length + first + math.prod(shape) * stored.itemsize
    if promised != 8 + length + last or size < promised:
        raise ValueError(_cut_off(where, size, promised))
    return file_block(path, 8 + length + first, shape, stored, bfloat16=kind == "BF16", seen=seen)


# ---- .parquet

def _read_parquet(path, key):
    """All rows, held in memory as they come: the format has none that could be read alone."""
    _require_start(path, _PARQUET, ".parquet")
    try:
        from pyarrow import parquet, types
    except ImportError:
        raise ValueError(f"{path} needs a package that is not installed: pip install pyarrow, "
                         "or convert the file to .npy") from None
    with _decoding(path):
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    fields = [field for field in schema if any(test(field.type) for test in tests)]
    lists = {field.name: field.type.value_type for field in fields}
    wanted = "embedding" if key is None and "embedding" in lists else key
    column = _pick(path, lists, wanted, "list column")
    where = f"{path}[{column!r}]"
    if not (types.is_floating(lists[column]) or types.is_integer(lists[column])):
        raise ValueError(f"{where} holds lists of {lists[column]}; expected lists of floats")
    id_column = next((name for name in _ID_COLUMNS if name in schema.names), None)
    rows, blocks, item_ids = 0, [], []
    for features, ids in _batches(path, file, column, id_column):
        width = blocks[0].shape[1] if blocks else None
        blocks.append(array_block(_dense(where, features, rows, width), where))
        item_ids += ids
        rows += len(features)
    if not blocks:
        table_shape(where, (0, 0))                  # says that it holds no features
    return blocks, item_ids if id_column else None


def _batches(path, file, column, id_column):
    """(Arrow array of lists, their item IDs or []) of some thousand rows at a time."""
    with _decoding(path):
        for batch in file.iter_batches(columns=[column, id_column] if id_column else [column]):
            if len(batch):
                yield batch.column(column), batch.column(id_column).to_pylist() if id_column else []


def _dense(where, lists, first, width):
    """(rows, width) array of an Arrow array of lists; `first` is the number of its first row."""
    from pyarrow import compute
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise ValueError(f"{where} has missing values (null) between rows {first} and "
                         f"{first + len(lists) - 1}; fill or drop those rows")
    lengths = compute.list_value_length(lists).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if width is None else width
    others = np.flatnonzero(lengths != width)
    if len(others):
        raise ValueError(f"{where} has {lengths[others[0]]} values in row {first + others[0]} "
                         f"and {width} in row 0; expected lists of one length")
    return values.to_numpy(zero_copy_only=False).reshape(table_shape(where, (len(lists), width)))


# ---- words

def _pick(path, names, key, kind):
    """The name that `key` asks for, or the only one there is."""
    found = ", ".join(map(repr, list(names)[:20])) + (", ..." if len(names) > 20 else "")
    if not names:
        raise ValueError(f"{path} holds no {kind}; expected one of shape (items, width)")
    if key is None and len(names) > 1:
        raise ValueError(f"{path} holds several {kind}s: {found}; "
                         f"say which, for example key={next(iter(names))!r}")
    if key is not None and key not in names:
        raise ValueError(f"{path} holds no {kind} {key!r}; it holds {found}")
    return next(iter(names)) if key is None else key


def _refuse_key(path, key):
    if key is not None:
        raise ValueError(f"{path} holds one array and no {key!r} to choose; leave the key out")


def _require_start(path, start, kind):
    with open(path, "rb") as file:
        if file.read(len(start)) != start:
            raise ValueError(f"{path} is not a {kind} file: {describe_content(path)}; {_SAVE}")


def _cut_off(where, size, promised):
    return f"{where} has {size} bytes, its header promises {promised}: cut off or damaged; {_AGAIN}"


@contextlib.contextmanager
def _decoding(path):
    """Decoders fail in a hundred ways; a user gets one sentence."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise ValueError(f"{path} is damaged or incomplete ({reason}); {_AGAIN}") from error
