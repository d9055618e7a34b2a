"""A file that torch.save wrote -> tensors and plain values, read safely. Knows no keys of ours.

torch.load checks no CRC, believes the sizes it reads (older releases do), and even with
weights_only=True calls what allocates at will (torch.Tensor(10**10), bytearray). So a file is
verified first, torch sees only a copy of the verified records, and the result is measured.

Words:  record = one stored entry of the zip that torch.save writes   index = its pickled data.pkl
"""

import contextlib
import io
import os
import pickletools
import sys
import zipfile
from pathlib import Path

import torch

from .files import describe_content, nearest_names
from .protocols import in_protocol_2

_WAY_OUT = "use another copy of it, or an earlier one"
_CHUNK = 1 << 20                # bytes read at once where a record is only checked
_LONGEST_WORD = 200             # characters of a file's own words in a message
_INDEX_LIMIT = 32 << 20         # bytes of pickle; each can cost a hundred once it is objects
_CLAIM_LIMIT = 8                # bytes of tensors for each byte of data; more is a trick of strides
_LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."      # a magic number, before torch 1.6
STORAGES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16, "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8, "torch.BoolStorage": torch.bool}
_KNOWN = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2",
          "torch._utils._rebuild_parameter", *STORAGES}
# What the hyper-parameters in files of others are made of: read as inert stand-ins, never imported.
_ATTRIBUTE_DICTS = {f"{module}.AttributeDict" for module in (
    "lightning_fabric.utilities.data", "lightning.fabric.utilities.data",
    "lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing")}
_STAND_INS = {
    "argparse.Namespace", "collections.defaultdict", "typing.Any", "builtins.dict", "builtins.list",
    "builtins.int", "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", *(
        f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean"))}
_OTHER = object()               # an object on the rehearsal's stack that no check depends on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
              "EMPTY_DICT": _OTHER, "EMPTY_LIST": _OTHER}
_LITERALS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_POPS = {"APPEND": 1, "BUILD": 1, "SETITEM": 2, "REDUCE": 2, "NEWOBJ": 2, "TUPLE1": 1, "TUPLE2": 2,
         "TUPLE3": 3}


class CheckpointError(ValueError):
    """A file that is no usable checkpoint: the message names it, what it is, and what to do."""


class _Name(str):
    """A global on the rehearsal's stack: no text of the file can pose as one."""


class _StandIn:
    """Takes the place of a harmless class of others: keeps its plain value, runs nothing."""

    value = None

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        content = state.get("_content", state.get("_val", state))   # OmegaConf's; else a Namespace
        if isinstance(content, dict):
            content = {name: _value(item) for name, item in content.items()}
        elif isinstance(content, list):
            content = [_value(item) for item in content]
        self.value = content


def _value(item):
    """The plain value of a stand-in; anything else is its own."""
    if item is _StandIn:
        return None
    return item.value if isinstance(item, _StandIn) else item


def read_torch_file(path, map_location):
    """What torch.save wrote to `path`, or one CheckpointError for everything that can be wrong."""
    verified, asked = _verified(path)
    content = _loaded(path, verified, asked, map_location)
    claimed, held = _settle(content), verified.getbuffer().nbytes
    if claimed > _CLAIM_LIMIT * held:
        raise CheckpointError(f"{path} claims {claimed:,} bytes of tensors from {held:,} bytes of "
                              "data, which nothing that training writes does; do not use it")
    return content


def map_torch_file(path):
    """The same on the CPU, with tensors that stay in the file once its checksums were verified.

    A tensor that shows few numbers many times is not refused, as none is copied here.
    """
    verified, asked = _verified(path, copy_data=False)
    content = (_loaded(path, *_verified(path), "cpu") if verified is None
               else _loaded(path, path, asked, "cpu", mmap=True))
    _settle(content)
    return content


def _verified(path, copy_data=True) -> tuple:
    """`_verified_copy` of the file at `path`; every error names it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} not found{nearest_names(path)}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory; expected a checkpoint file, "
                              f"such as {path / 'last.ckpt'}")
    if not path.is_file():
        raise CheckpointError(f"{path} is a device or pipe; expected a checkpoint file")
    with open(path, "rb") as file:
        try:
            return _verified_copy(file, copy_data)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        except Exception as error:      # zipfile and pickletools have a zoo of their own
            raise CheckpointError(
                f"{path} is truncated or damaged ({_short(error)}); {_WAY_OUT}") from error


def _loaded(path, source, asked, map_location, mmap=False):
    """What torch makes of `source`, the verified copy of the file at `path` or that file itself."""
    stand_ins = [(dict if name in _ATTRIBUTE_DICTS else _StandIn, name) for name in asked - _KNOWN]
    allowed = torch.serialization.safe_globals(stand_ins) if stand_ins else contextlib.nullcontext()
    try:
        with allowed:
            return torch.load(source, map_location, weights_only=True, mmap=mmap)
    except Exception as error:
        if "deserialize object on" in str(error):
            raise CheckpointError(f"{path} cannot be read with map_location={map_location!r} "
                                  "on this machine; pass map_location='cpu'") from error
        raise CheckpointError(f"{path} is not what torch.save writes ({type(error).__name__} while "
                              f"its content was rebuilt); {_WAY_OUT}") from error


def _verified_copy(file, copy_data) -> tuple:
    """-> (BytesIO of a zip with the verified records of `file`, set of globals the index names).

    Without `copy_data` the records of tensors are verified as well, in pieces, and left out; None comes
    in place of the zip where torch reads only a copy, whose index is in an older protocol.
    """
    if file.read(4) != b"PK\x03\x04":
        raise CheckpointError(_what_it_is(file))
    copy, sizes, index, readable = io.BytesIO(), {}, b"", True
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as verified:
        entries, names = archive.infolist(), archive.namelist()
        folders = {name[:-len("data.pkl")] for name in names if name.endswith("/data.pkl")}
        if len(folders) != 1:
            raise CheckpointError("is a zip archive without the one data.pkl that torch.save "
                                  f"writes; it holds {some(names)}; pass a file of torch.save")
        folder = folders.pop()
        claimed, held = sum(e.file_size for e in entries), os.fstat(file.fileno()).st_size
        if claimed > held or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
            raise CheckpointError("holds compressed or overlapping records, which torch.save never "
                                  f"writes; {_WAY_OUT}")
        for entry in entries:
            name = entry.filename[len(folder):]
            if name.startswith("data/") and not copy_data:
                sizes[name] = entry.file_size
                with archive.open(entry) as stream:
                    while stream.read(_CHUNK):
                        pass                    # its end raises where the CRC does not match
                continue
            record = archive.read(entry)        # raises likewise
            if name == "byteorder" and record != sys.byteorder.encode():
                raise CheckpointError(f"was written in another byte order ({record[:20]!r}, here "
                                      f"it is {sys.byteorder}); save it again on such a machine")
            if name == "data.pkl":
                index = in_protocol_2(record, _INDEX_LIMIT)
                readable, record = index is record, index
            if name in ("data.pkl", "version", "byteorder") or name.startswith("data/"):
                sizes[name] = len(record)
                verified.writestr(zipfile.ZipInfo(f"archive/{name}"), record)
    if len(index) > _INDEX_LIMIT:
        raise CheckpointError(f"has an index of {len(index):,} bytes, above the {_INDEX_LIMIT:,} "
                              "that are read; save tensors as tensors, not as lists")
    asked = set(_globals_named_in(index))
    foreign = asked - _KNOWN - _ATTRIBUTE_DICTS - _STAND_INS
    if foreign:
        raise CheckpointError(_foreign(foreign))
    _rehearse(index, sizes)
    copy.seek(0)
    return copy if copy_data or readable else None, asked


def _globals_named_in(pickled) -> list:
    """Every global that a pickle names, as far as it can be parsed; nothing is looked up or run."""
    names, texts = [], ["", ""]
    with contextlib.suppress(Exception):        # a cut or damaged end hides what comes after it
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(_dotted(argument))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    return names


def _dotted(argument) -> str:
    """A pickle's "module name" as today's dotted name; protocol 2 writes those of Python 2."""
    dotted = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
    return "builtins.int" if dotted == "builtins.long" else dotted


def _rehearse(index, sizes) -> None:
    """Go through the index as torch will, with names in place of objects, and hold it to the rules.

    Refused are instructions that torch.save does not write, calls of anything but a known name,
    storages that are longer or shorter than their record, and dict keys other than text and numbers
    (to hash nested tuples can take for ever).
    """
    stack, marks, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(index):
        kind = opcode.name
        if kind == "MARK":
            marks.append(len(stack))
        elif kind in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif kind in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif kind in _LITERALS:
            stack.append(argument)
        elif kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind])
        elif kind == "GLOBAL":
            stack.append(_Name(_dotted(argument)))
        elif kind == "BINPERSID":
            _check_storage(stack.pop(), sizes)
            stack.append(_OTHER)
        elif kind in _POPS or kind in ("TUPLE", "SETITEMS", "APPENDS"):
            start = len(stack) - _POPS[kind] if kind in _POPS else marks.pop()
            popped, stack[start:] = stack[start:], []
            if kind.startswith("TUPLE"):
                stack.append(tuple(popped))
            elif kind in ("REDUCE", "NEWOBJ"):
                _check_call(*popped)
                stack.append(_OTHER)
            elif kind.startswith("SETITEM") and not all(map(_is_key, popped[::2])):
                raise CheckpointError("has dict keys that are neither text nor numbers; save it "
                                      "again with plain keys")
        elif kind not in ("PROTO", "STOP"):
            raise CheckpointError(f"uses the pickle instruction {kind}, which torch.save does not "
                                  f"write; {_WAY_OUT}")


def _is_key(key) -> bool:
    return key is None or type(key) in (str, int, float, bool)


def _check_call(callee, arguments) -> None:
    if type(callee) is not _Name or (callee == "collections.OrderedDict" and arguments != ()):
        raise CheckpointError(f"builds objects as torch.save never does; {_WAY_OUT}")


def _check_storage(identity, sizes) -> None:
    """A storage must be of a known type, and exactly as long as its record."""
    _, storage, key, _, count = identity
    held, claimed = sizes.get(f"data/{key}"), count * STORAGES[storage].itemsize
    if type(storage) is not _Name or held != claimed:
        raise CheckpointError(f"promises {claimed:,} bytes in the record data/{_short(key)}, which "
                              f"{'is missing' if held is None else f'has {held:,}'}; {_WAY_OUT}")


def _settle(content) -> int:
    """Put plain values in the place of stand-ins -> bytes that all tensors in `content` claim."""
    claimed, seen, waiting = 0, set(), [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):      # each time it is named: a model would copy it
            claimed += item.numel() * item.element_size()
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (dict, list)):
            for key, value in list(item.items() if isinstance(item, dict) else enumerate(item)):
                item[key] = _value(value)
                waiting.append(item[key])
        elif isinstance(item, tuple):
            waiting.extend(item)
    return claimed


def _what_it_is(file) -> str:
    """Words for a file that is no zip archive."""
    file.seek(0)
    head = file.read(_INDEX_LIMIT)
    if head.startswith(_LEGACY_HEAD):
        return ("is in the format of torch before 1.6, which has no checksums; convert it once, "
                "with torch.save(torch.load(old, weights_only=True), new)")
    names = _globals_named_in(head) if head.startswith(b"\x80") else []
    if names:
        return _foreign(names)
    return (f"is no checkpoint: {describe_content(file.name)}; "
            "pass a .ckpt file written by training")


def _foreign(names) -> str:
    names = sorted(set(map(_short, names)))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (f"asks for {', '.join(names[:10])}{more}, which could run code, so it was not opened "
            "and nothing was run; if you trust its source, save it again there with numbers, "
            "text, lists, dicts and tensors only")


def some(names) -> str:
    """The first three of `names`, and a sign that there are more."""
    names = [_short(name) for name in names]
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names) or "nothing"


def _short(words) -> str:
    """Words of a file as a message can take them: in one line, and not for ever."""
    return " ".join(str(words).split())[:_LONGEST_WORD]
