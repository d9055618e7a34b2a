"""One feature file -> one block of rows, left on disk where the format allows. Knows formats only.

Nothing here runs code that a file holds, and no size that a header states is believed before it has
been compared with the file's own. Every refusal is one sentence: which file, what was found, what
is expected, what to do.

Shapes:  N rows (items)   D feature width
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import torch

from ..storage.arrays import IDS, NPY, NUMBERS, ZIP, Npz, cut_off, npy_header, npy_start, require_size, require_start
from ..storage.item_ids import id_column as column_of_ids, id_values
from ..storage.parquet import ParquetTable
from ..storage.torch_files import CheckpointError, StoredTensor, find_torch_tensors
from ..storage.words import describe_content, nearest_names, warn
from .blocks import ArrayBlock, FileBlock, array_block, file_block, require_numbers, table_shape

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet")

_SAVE = "save features with np.save('features.npy', array)"
_AGAIN = "copy or save it again"
_STARTS = {".npy": (NPY, ".npy"), ".npz": (ZIP, ".npz"), ".pt": (ZIP, ".pt (torch >= 1.6)"),
           ".pth": (ZIP, ".pth (torch >= 1.6)"), ".parquet": (b"PAR1", ".parquet")}
_SAFETENSORS_HEADER = 100 * 10**6               # bytes; the format's own bound
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}


def read_features(path, key=None, id_column=None):
    """(list of blocks, item IDs or None) of one feature file.

    A `.npz`, `.pt` or `.safetensors` that has a vector under each item ID is read as the table of them.

    Args:
        path: a file with one of `SUFFIXES`.
        key: the array of a `.npz`, entry of a `.pt` or `.safetensors`, column of a `.parquet`.
        id_column: the array, entry or column with the item IDs; unless said, the first of `ID_COLUMNS` that is there.

    Raises:
        FileNotFoundError: there is no such file; similar names are offered.
        NoRows: it is a table without rows.
        ImportError: it is Parquet, and pyarrow is missing.
        ValueError: it is of another kind, damaged, or not an (N, D) table of numbers.
    """
    path = Path(path)
    require_file(path)
    suffix = path.suffix.lower()
    if suffix in _STARTS:
        require_start(path, *_STARTS[suffix], _SAVE)
    if suffix == ".npy":
        _refuse_key(path, key)
        if id_column is not None:
            raise ValueError(f"{path} holds one array and no {id_column!r} with item IDs; "
                             "give them in a file of their own")
        return [_read_npy(path)], None
    if suffix == ".npz":
        return _read_npz(path, key, id_column)
    if suffix in (".pt", ".pth"):
        return _read_torch(path, key, id_column)
    if suffix == ".safetensors":
        return _read_safetensors(path, key, id_column)
    if suffix == ".parquet":
        return _read_parquet(path, key, id_column)
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

def _read_npy(path):
    header, seen = npy_start(path)
    stored, shape = _table_in(path, header, seen.st_size)
    return file_block(path, header.size, shape, stored, fortran=header.fortran, seen=seen)


def _read_npz(path, key, id_column):
    with Npz(path) as archive:
        ids, names = _ids_apart(path, archive.names, key, id_column)
        if ids is not None:
            ids = id_values(archive.values(ids, IDS), archive.where(ids))
        elif key is None and len(names) > 1 and _one_vector_each({archive.header(name).shape for name in names}):
            return [_stacked(path, [archive.values(name, NUMBERS) for name in names])], names
        name = _pick(path, names, key, "array")
        where, content = archive.where(name), archive.content(name)
    header = npy_header(content, where)
    stored, shape = _table_in(where, header, len(content))
    flat = np.frombuffer(content, stored, shape[0] * shape[1], header.size)
    return [array_block(flat.reshape(shape, order="F" if header.fortran else "C"), where)], ids


def _table_in(where, header, size):
    """(numpy type, (N, D)) that a header states, if the `size` bytes there are bear it out."""
    stored = require_numbers(where, header.descr)
    shape = table_shape(where, header.shape)
    require_size(where, size, header.size + math.prod(shape) * stored.itemsize)
    return stored, shape


# ---- .pt and .safetensors

def _read_torch(path, key, id_column):
    """Its tensors stay in the file, which is read through once: the format has checksums."""
    try:
        content, where = find_torch_tensors(path), path
    except CheckpointError as error:
        raise ValueError(f"{path} cannot be read as tensors alone: it "
                         f"{str(error)[len(str(path)) + 1:]}") from error
    ids = None
    if isinstance(content, dict):
        name, _ = _ids_apart(path, content, key, id_column)
        tensors = {item: value for item, value in content.items()
                   if isinstance(value, StoredTensor) and (name is None or item != name)}
        if name is not None:
            ids = content[name]
            ids = id_values(stored_array(path, ids) if isinstance(ids, StoredTensor) else ids, f"{path}[{name!r}]")
        elif key is None and len(tensors) > 1 and _one_vector_each({value.shape for value in tensors.values()}):
            _require_own(path, sum(math.prod(value.shape) * value.dtype.itemsize for value in tensors.values()))
            rows = [stored_array(path, value) for value in tensors.values()]
            bfloat16 = {value.dtype == torch.bfloat16 for value in tensors.values()} == {True}
            return [_stacked(path, rows, bfloat16)], list(tensors)
        tensors = {str(item): value for item, value in tensors.items()}
        name = _pick(path, tensors, key, "tensor")
        content, where = tensors[name], f"{path}[{name!r}]"
    else:
        _refuse_key(path, key)
    if not isinstance(content, StoredTensor):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected one (items, width) "
                         "tensor, or a dict of them: save torch.stack(rows)")
    return [_stored_block(path, content, where)], ids


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


def stored_array(path, tensor) -> np.ndarray:
    """A small tensor of a torch file, bfloat16 as its bits.

    Raises:
        ValueError: it is no plain row of numbers.
    """
    kind = "<u2" if tensor.dtype == torch.bfloat16 else str(tensor.dtype).split(".")[1]
    stored = require_numbers(path, np.dtype(kind).str)
    count = math.prod(tensor.shape)
    if not tensor.is_contiguous() or count * stored.itemsize > tensor.storage[1]:
        raise ValueError(f"{path} holds a tensor of shape {tuple(tensor.shape)} that is a view of others; save "
                         "tensor.clone()")
    return np.fromfile(path, stored, count, offset=tensor.start).reshape(tensor.shape)


def _read_safetensors(path, key, id_column):
    """Format: github.com/huggingface/safetensors, "Format": the header's length, JSON, the data."""
    with open(path, "rb") as file:
        seen = os.fstat(file.fileno())
        size = seen.st_size
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, _SAFETENSORS_HEADER))
    if not text.startswith(b"{"):
        raise ValueError(f"{path} is not a .safetensors file: {describe_content(path)}; {_SAVE}")
    if size < 8 + length:
        raise ValueError(cut_off(path, size, 8 + length))
    try:
        entries = json.loads(text.decode())
        entries = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, RecursionError):
        raise ValueError(f"{path} has a damaged header ({text[:60]!r}); {_AGAIN}") from None
    ids, names = _ids_apart(path, entries, key, id_column)
    if ids is not None:
        ids = id_values(_safetensor(path, size, 8 + length, entries, ids)[1], f"{path}[{ids!r}]")
    elif key is None and len(names) > 1 and _one_vector_each({_shape_of(entries[name]) for name in names}):
        _require_own(path, sum(_safetensors_entry(path, size, 8 + length, entries, name)[4] for name in names))
        read = [_safetensor(path, size, 8 + length, entries, name) for name in names]
        if len({kind for kind, _ in read}) == 1:
            block = _stacked(path, [row for _, row in read], bfloat16=read[0][0] == "BF16")
            return [block], list(names)
    name = _pick(path, names, key, "tensor")
    where = f"{path}[{name!r}]"
    kind, stored, shape, begin, _ = _safetensors_entry(path, size, 8 + length, entries, name)
    shape = table_shape(where, shape)
    return [file_block(path, begin, shape, stored, bfloat16=kind == "BF16", seen=seen)], ids


def _shape_of(entry):
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return tuple(shape) if isinstance(shape, list) and all(type(number) is int for number in shape) else ()


def _safetensors_entry(path, size, start, entries, name):
    """(type name, numpy type, shape, first byte, bytes) of a tensor, once the file bears its entry out."""
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
    stored = np.dtype(_SAFETENSORS[kind])
    promised = start + first + math.prod(shape) * stored.itemsize
    if promised != start + last or size < promised:
        raise ValueError(cut_off(where, size, promised))
    return kind, stored, tuple(shape), start + first, last - first


def _safetensor(path, size, start, entries, name):
    """(type name, array) of a tensor that is small enough to be read whole."""
    kind, stored, shape, begin, _ = _safetensors_entry(path, size, start, entries, name)
    return kind, np.fromfile(path, stored, math.prod(shape), offset=begin).reshape(shape)


# ---- .parquet

def _read_parquet(path, key, id_column):
    """All rows, held in memory as they come: the format has none that could be read alone."""
    with ParquetTable(path, "convert the file to .npy") as file:
        column, id_column = _parquet_columns(path, file, key, id_column)
        where, rows, blocks, item_ids = f"{path}[{column!r}]", 0, [], []
        for features, *ids in file.batches([column, id_column] if id_column else [column]):
            width = blocks[0].shape[1] if blocks else None
            blocks.append(array_block(_dense(where, features, rows, width), where))
            item_ids += id_values(*ids, f"{path}[{id_column!r}]") if ids else []
            rows += len(features)
    return blocks, item_ids if id_column else None


def _parquet_columns(path, file, key, id_column):
    """(the column of features, that of item IDs or None)"""
    from pyarrow import types
    if not file.num_rows:               # what is in its columns is not said then, where pandas wrote it
        table_shape(path, (0, 0))
    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    fields = [field for field in file.schema if any(test(field.type) for test in tests)]
    lists = {field.name: field.type.value_type for field in fields}
    column = _pick(path, lists, "embedding" if key is None and "embedding" in lists else key, "list column")
    if not (types.is_floating(lists[column]) or types.is_integer(lists[column])):
        raise ValueError(f"{path}[{column!r}] holds lists of {lists[column]}; expected lists of floats")
    id_column = column_of_ids(file.schema.names, id_column, path)
    others = [field.name for field in file.schema if types.is_integer(field.type) or types.is_string(field.type)
              or types.is_large_string(field.type) or types.is_binary(field.type)]
    if id_column is None and others:
        warn(f"{path} has the columns {', '.join(others[:8])}, none of which is taken for the item IDs, so items "
             "are known by row number; name one by id_column (--id-column)")
    return column, id_column


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


# ---- item IDs beside features

def _ids_apart(path, names, key, id_column):
    """(the name of the item IDs or None, the other names) among the parts of a file.

    A part that is asked for as features, or is the only one, holds no item IDs unless that is said.
    """
    others = [name for name in names if name != key]
    ids = column_of_ids(others, id_column, path) if id_column is not None or len(names) > 1 else None
    return ids, [name for name in names if name != ids or ids is None]


def _one_vector_each(shapes):
    """Whether parts of these shapes are a vector for each item: {item ID: vector}."""
    return len(shapes) == 1 and len(next(iter(shapes))) == 1


def _require_own(path, total):
    """Refuse vectors that are more than their file holds, because some are the same bytes."""
    if total > path.stat().st_size:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, its vectors would be {total:,}: names share their "
                         "numbers; save each with its own, or all as one table")


def _stacked(path, rows, bfloat16=False):
    table = np.stack(rows)
    return ArrayBlock(table, bfloat16=True) if bfloat16 else array_block(table, path)


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
