"""A file that torch.save wrote -> tensors and plain values, read safely. Knows no keys of ours.

torch.load reads bytes that a checksum would refuse, believes the sizes it reads, calls what allocates at will, and
has a zip reader of its own, which another index of the same file can serve with other bytes than were verified. So it
is not asked: this one parser verifies the records, and builds from them what their index says (torch_index), with no
class or function of the file's choice, and no more bytes than the file has.

Words:  record = one stored entry of the zip that torch.save writes   index = its pickled data.pkl
"""

import os
import struct
import sys
import zipfile
from pathlib import Path

import torch

from .words import describe_content, nearest_names
from .torch_index import (INDEX_LIMIT, STORAGES, WAY_OUT, CheckpointError, StoredTensor, built, foreign, foreign_names,
                          globals_named_in, plain_value, short, some)
from .words import spelled

__all__ = ["STORAGES", "CheckpointError", "StoredTensor", "find_torch_tensors", "read_torch_file", "some"]

_CHUNK = 1 << 20                # bytes read at once where a record is only checked
_CLAIM_LIMIT = 8                # bytes of tensors for each byte of data; more is a trick of strides
_MOST_PLACES = 2_000_000        # of lists and dicts, each counted wherever it stands
_DEEPEST = 100
_LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."      # a magic number, before torch 1.6


@spelled
def read_torch_file(path, map_location=None):
    """What torch.save wrote to `path`, or one CheckpointError for everything that can be wrong.

    Args:
        path: the file.
        map_location: a device to put the tensors on; None is the CPU.
    """
    content, held = _read(path, in_memory=True)
    claimed = _settle(content, path, map_location)
    if claimed > _CLAIM_LIMIT * held:
        raise CheckpointError(f"{path} claims {claimed:,} bytes of tensors from {held:,} bytes of "
                              "data, which nothing that training writes does; do not use it")
    return content[0]


@spelled
def find_torch_tensors(path):
    """The same with a `StoredTensor` in the place of each tensor: checksums are verified, nothing is kept."""
    content, _ = _read(path, in_memory=False)
    _settle(content, path)
    return content[0]


def _read(path, in_memory) -> tuple:
    """([content], bytes of its records in memory); every error names the file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found{nearest_names(path)}")
    if path.is_dir():
        inside = next((f", such as {there}" for there in sorted(path.glob("*.ckpt"))), "")      # only what is there
        raise CheckpointError(f"{path} is a directory; expected a checkpoint file{inside}")
    if not path.is_file():
        raise CheckpointError(f"{path} is a device or pipe; expected a checkpoint file")
    with open(path, "rb") as file:
        try:
            index, records = _verified(file, in_memory)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        except Exception as error:      # zipfile and pickletools have a zoo of their own
            raise CheckpointError(
                f"{path} is truncated or damaged ({short(error)}); {WAY_OUT}") from error
        try:
            content = built(index, records, os.fstat(file.fileno()))
        except Exception as error:
            others = foreign_names(index)
            words = (foreign(others) if others else error if isinstance(error, CheckpointError) else
                     f"is not what torch.save writes ({type(error).__name__} while its content was rebuilt); {WAY_OUT}")
            raise CheckpointError(f"{path} {words}") from (None if isinstance(error, CheckpointError) else error)
    return [content], sum(len(record) for record in records.values()) if in_memory else 0


def _verified(file, in_memory) -> tuple:
    """-> (index, {name: record}) of an open file, once every checksum holds.

    A record is its bytes as a uint8 tensor, or without `in_memory` its (first byte, bytes) in the file.
    """
    if file.read(4) != b"PK\x03\x04":
        raise CheckpointError(_what_it_is(file))
    records, index = {}, b""
    held = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries, names = archive.infolist(), archive.namelist()
        folders = {name[:-len("data.pkl")] for name in names if name.endswith("/data.pkl")}
        if len(folders) != 1:
            raise CheckpointError("is a zip archive without the one data.pkl that torch.save "
                                  f"writes; it holds {some(names)}; pass a file of torch.save")
        folder = folders.pop()
        if (sum(e.file_size for e in entries) > held or any(e.compress_type != zipfile.ZIP_STORED for e in entries)):
            raise CheckpointError("holds compressed or overlapping records, which torch.save never "
                                  f"writes; {WAY_OUT}")
        for entry in entries:
            name = entry.filename[len(folder):]
            if name.startswith("data/"):
                records[name] = _record(archive, entry, in_memory)
                continue
            record = archive.read(entry)        # raises where the CRC does not match
            if name == "byteorder" and record != sys.byteorder.encode():
                raise CheckpointError(f"was written in another byte order ({record[:20]!r}, here "
                                      f"it is {sys.byteorder}); save it again on such a machine")
            if name == "data.pkl":
                index = record
    if len(index) > INDEX_LIMIT:
        raise CheckpointError(f"has an index of {len(index):,} bytes, above the {INDEX_LIMIT:,} "
                              "that are read; save tensors as tensors, not as lists")
    return index, records


def _record(archive, entry, in_memory):
    """The bytes of a record, or their place; either way its end raises where the CRC does not match."""
    with archive.open(entry) as stream:
        if not in_memory:
            while stream.read(_CHUNK):
                pass
            archive.fp.seek(entry.header_offset)
            header = struct.unpack("<26x2H", archive.fp.read(30))
            return entry.header_offset + 30 + sum(header), entry.file_size
        record = torch.empty(entry.file_size, dtype=torch.uint8)
        place, buffer = 0, memoryview(record.numpy())
        while chunk := stream.read(_CHUNK):
            buffer[place:place + len(chunk)] = chunk
            place += len(chunk)
    return record


def _settle(content, path, map_location=None) -> int:
    """Put plain values in the place of stand-ins, and tensors on their device -> bytes that all tensors claim.

    A list that stands in many places is looked at in each, and one that holds itself would be for ever: whatever goes
    through what this has seen comes to an end, and not far down.
    """
    claimed, waiting, moved, looked_at = 0, [([content], 0)], {}, 0
    while waiting:
        item, depth = waiting.pop()
        looked_at += 1
        if looked_at > _MOST_PLACES or depth > _DEEPEST:
            raise CheckpointError(f"{path} has lists and dicts within each other "
                                  f"{'very deep' if depth > _DEEPEST else 'many times'}, "
                                  f"as nothing that training writes; {WAY_OUT}")
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, value in pairs:
            if type(item) is not tuple and (isinstance(value, torch.Tensor) or plain_value(value) is not value):
                item[key] = value = _placed(plain_value(value), path, map_location, moved)
            if isinstance(value, torch.Tensor):         # each time it is named: a model would copy it
                claimed += value.numel() * value.element_size()
            elif isinstance(value, (dict, list, tuple)) and not isinstance(value, StoredTensor):
                waiting.append((value, depth + 1))
    return claimed


def _placed(item, path, map_location, moved):
    """`item` itself, or a tensor on the device that is wanted, the same one each time it is named."""
    if map_location is None or not isinstance(item, torch.Tensor):
        return item
    try:
        return moved.setdefault(id(item), (item, item.to(map_location)))[1]
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read with map_location={map_location!r} "
                              "on this machine; pass map_location='cpu'") from error


def _what_it_is(file) -> str:
    """Words for a file that is no zip archive."""
    file.seek(0)
    head = file.read(INDEX_LIMIT)
    if head.startswith(_LEGACY_HEAD):
        return ("is in the format of torch before 1.6, which has no checksums; convert it once, "
                "with torch.save(torch.load(old, weights_only=True), new)")
    names = globals_named_in(head) if head.startswith(b"\x80") else ()
    if names:
        return foreign(names)
    return (f"is no checkpoint: {describe_content(file.name)}; "
            "pass a .ckpt file written by training")
