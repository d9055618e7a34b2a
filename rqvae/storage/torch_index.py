"""The index of a file of torch, a pickle -> what it says, built from the records. Knows no file.

Of a pickle only the few instructions are followed that torch.save writes. No class or function of its choice is
called, and what it makes is bounded by its length.

Words:  record = one stored entry of the zip that torch.save writes   index = its pickled data.pkl
"""

import contextlib
import math
import os
import pickletools
from collections import OrderedDict, deque
from typing import NamedTuple

import torch

from .words import shown

WAY_OUT = "use another copy of it, or an earlier one"
_LONGEST_WORD = 200             # characters of a file's own words in a message
INDEX_LIMIT = 32 << 20          # bytes of pickle; each can cost eight once it is a list of nothing
_MOST_OBJECTS = 500_000         # a byte of pickle makes an empty dict, which takes seventy
_BYTES_NOTED = 5                # of pickle for each mark and each thing that may be named again, which takes a hundred
STORAGES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16, "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8, "torch.BoolStorage": torch.bool}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ORDERED, _SET = "collections.OrderedDict", "builtins.set"
_KNOWN = {_ORDERED, _TENSOR, _PARAMETER, *STORAGES}
# What the hyper-parameters in files of others are made of: read as inert stand-ins, never imported.
_ATTRIBUTE_DICTS = {f"{module}.AttributeDict" for module in (
    "lightning_fabric.utilities.data", "lightning.fabric.utilities.data",
    "lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing")}
# The whole models of others, which stand in their files beside the weights.
_PACKAGES = {
    "torch.nn.modules": "activation.ReLU activation.SiLU container.ModuleList container.Sequential dropout.Dropout "
                        "linear.Identity linear.Linear sparse.Embedding",
    "modules": "encoder.MLP loss.CategoricalReconstuctionLoss loss.QuantizeLoss loss.ReconstructionLoss "
               "normalize.L2NormalizationLayer quantize.Quantize quantize.QuantizeDistance "
               "quantize.QuantizeForwardMode rqvae.RqVae",
    "genrec": "models.rqvae.Quantize models.rqvae.QuantizeDistance models.rqvae.QuantizeForwardMode "
              "models.rqvae.RqVae modules.encoder.MLP modules.loss.CategoricalReconstructionLoss "
              "modules.loss.QuantizeLoss modules.loss.ReconstructionLoss modules.normalize.L2Norm",
    "rectokens": "codebooks.euclidean.EuclideanCodebook quantizers.kmeans.KMeansQuantizer "
                 "quantizers.residual.ResidualQuantizer tokenizers.rq_kmeans.RQKMeansTokenizer"}
_MODELS = {f"{package}.{name}" for package, names in _PACKAGES.items() for name in names.split()}
_STAND_INS = {
    *_MODELS, _SET, "argparse.Namespace", "collections.defaultdict", "typing.Any", "builtins.dict", "builtins.list",
    "builtins.int", "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", *(
        f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean"))}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_MAKERS = {"EMPTY_DICT", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BINPERSID"}
_MARKS = {"MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT"}
_PUTS, _GETS = ("MEMOIZE", "BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_POPS = {"APPEND": 1, "BUILD": 1, "SETITEM": 2, "REDUCE": 2, "NEWOBJ": 2, "TUPLE1": 1, "TUPLE2": 2,
         "TUPLE3": 3, "STACK_GLOBAL": 2}


class CheckpointError(ValueError):
    """A file that is no usable checkpoint: the message names it, what it is, and what to do."""


class StoredTensor(NamedTuple):
    """A tensor that was left in its file."""

    dtype: torch.dtype
    shape: tuple
    stride: tuple
    start: int              # byte in the file at which its first number lies
    storage: tuple          # (first byte, bytes) of the record that it is in
    seen: os.stat_result    # of the file when its checksums were verified

    def is_contiguous(self) -> bool:
        """Whether its numbers lie one after the other, row by row."""
        expected, contiguous = 1, True
        for size, stride in zip(reversed(self.shape), reversed(self.stride)):
            contiguous &= size == 1 or stride == expected
            expected *= size
        return contiguous


class _Name(str):
    """A global on the stack: no text of the file can pose as one."""


class _Storage(NamedTuple):
    dtype: torch.dtype
    count: int
    record: object          # (bytes,) uint8 of a record in memory, or the place of one that stays in the file


class _StandIn:
    """Takes the place of a harmless class of others: keeps its plain value, runs nothing."""

    value = None

    def take(self, state):
        content = state.get("_content", state.get("_val", state))   # OmegaConf's; else a Namespace
        if isinstance(content, dict):
            content = {name: plain_value(item) for name, item in content.items()}
        elif isinstance(content, list):
            content = [plain_value(item) for item in content]
        self.value = content


def plain_value(item):
    """The plain value of a stand-in, None for the name of a class; anything else is its own."""
    return None if isinstance(item, _Name) else item.value if isinstance(item, _StandIn) else item


def globals_named_in(pickled) -> set:
    """The globals that a pickle names, as far as it can be parsed, but not for ever; nothing is looked up or run."""
    names, texts, memo, last = set(), deque(["", ""], 2), {}, None
    with contextlib.suppress(Exception):        # a cut or damaged end hides what comes after it
        for opcode, argument, _ in pickletools.genops(pickled):
            kind = opcode.name
            if kind in _PUTS:
                memo[len(memo) if kind == "MEMOIZE" else argument] = last
                if len(memo) > 1000 + len(pickled) // _BYTES_NOTED:
                    break
                continue
            last = memo.get(argument) if kind in _GETS else argument if kind in _LITERALS else None
            if kind in ("GLOBAL", "INST"):
                names.add(_dotted(argument))
            elif kind == "STACK_GLOBAL":
                names.add(_dotted(".".join(texts)))
            elif isinstance(last, str):
                texts.append(last)
    return names


def _dotted(argument) -> str:
    """A pickle's "module name" as today's dotted name; protocol 2 writes those of Python 2."""
    dotted = argument.replace(" ", ".").replace("__builtin__.", "builtins.")
    return "builtins.int" if dotted == "builtins.long" else dotted


def built(index, records, seen):
    """What the index says, built from the records.

    Refused are instructions that torch.save does not write, calls of anything but a known name, storages that are
    longer or shorter than their record, and dict keys other than text and numbers (to hash nested tuples can take for
    ever).
    """
    stack, marks, memo, made, noted = [], [], {}, 0, 0
    for opcode, argument, _ in pickletools.genops(index):
        kind = opcode.name
        made += kind in _MAKERS
        noted += kind in _MARKS
        if made > _MOST_OBJECTS or noted > 1000 + len(index) // _BYTES_NOTED:
            raise CheckpointError(f"has more than {_MOST_OBJECTS:,} lists, dicts and tensors in its index, or notes "
                                  "more than it says; save many numbers as one tensor")
        if kind == "MARK":
            marks.append(len(stack))
        elif kind in _PUTS:
            memo[len(memo) if kind == "MEMOIZE" else argument] = stack[-1]
        elif kind in _GETS:
            stack.append(memo[argument])
        elif kind in _LITERALS:
            stack.append(argument)
        elif kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind])
        elif kind in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if kind == "EMPTY_DICT" else [])
        elif kind == "GLOBAL":
            stack.append(_known(argument))
        elif kind == "BINPERSID":
            stack.append(_storage(stack.pop(), records))
        elif kind in _POPS or kind in ("TUPLE", "SETITEMS", "APPENDS"):
            start = len(stack) - _POPS[kind] if kind in _POPS else marks.pop()
            popped, stack[start:] = stack[start:], []
            if kind.startswith("TUPLE"):
                stack.append(tuple(popped))
            elif kind == "STACK_GLOBAL":
                stack.append(_known(".".join(popped)))
            elif kind in ("REDUCE", "NEWOBJ"):
                stack.append(_called(*popped, seen))
            else:
                _fill(kind, stack[-1], popped)
        elif kind == "STOP":
            return stack.pop()
        elif kind not in ("PROTO", "FRAME"):
            raise CheckpointError(f"uses the pickle instruction {kind}, which torch.save does not "
                                  f"write; {WAY_OUT}")


def _known(words):
    name = _Name(_dotted(words))
    if name not in _KNOWN and name not in _ATTRIBUTE_DICTS and name not in _STAND_INS:
        raise CheckpointError(foreign([name]))
    return name


def _fill(kind, target, popped):
    """Put what was popped into a dict, a list, or the stand-in of an object."""
    if kind.startswith("SETITEM"):
        if not all(key is None or type(key) in (str, int, float, bool) for key in popped[::2]):
            raise CheckpointError("has dict keys that are neither text nor numbers; save it "
                                  "again with plain keys")
        if len(popped) % 2 or not isinstance(target, dict):
            raise TypeError
        target.update(zip(popped[::2], popped[1::2]))
    elif kind.startswith("APPEND"):
        if type(target) is not list:
            raise TypeError
        target.extend(popped)
    elif isinstance(target, _StandIn):
        target.take(*popped)
    elif not isinstance(target, dict):          # whose attributes, such as a state_dict's, nobody reads
        raise TypeError


def _called(callee, arguments, seen):
    """What a known function or class makes of its arguments."""
    if type(callee) is not _Name or type(arguments) is not tuple or (callee == _ORDERED and arguments) or (
            callee == _SET and arguments != ([],)):             # each module of torch has an empty one
        raise CheckpointError(f"builds objects as torch.save never does; {WAY_OUT}")
    if callee == _TENSOR:
        return _tensor(*arguments[:4], seen)
    if callee == _PARAMETER:
        return arguments[0]
    if callee == _ORDERED:
        return OrderedDict()
    if callee in _ATTRIBUTE_DICTS or callee == "collections.defaultdict":
        return {}
    if callee in _STAND_INS:
        return _StandIn()
    raise CheckpointError(f"builds objects as torch.save never does; {WAY_OUT}")


def _storage(identity, records):
    """A storage must be of a known type, and exactly as long as its record."""
    _, kind, key, _, count = identity
    dtype = STORAGES[kind]
    record, claimed = records.get(f"data/{key}"), count * dtype.itemsize
    held = None if record is None else len(record) if torch.is_tensor(record) else record[1]
    if type(kind) is not _Name or held != claimed:
        raise CheckpointError(f"promises {claimed:,} bytes in the record data/{short(key)}, which "
                              f"{'is missing' if held is None else f'has {held:,}'}; {WAY_OUT}")
    return _Storage(dtype, count, record)


def _tensor(storage, offset, size, stride, seen):
    """The tensor of a storage, in memory or left in the file; no number of it lies outside."""
    numbers = (offset, *size, *stride)
    if type(storage) is not _Storage or len(size) != len(stride) or not all(
            type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise TypeError
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if math.prod(size) and last >= storage.count or math.prod(size) >= 2**62:
        raise ValueError
    if torch.is_tensor(storage.record):
        flat = storage.record.view(storage.dtype) if storage.count else torch.empty(0, dtype=storage.dtype)
        return flat.as_strided(size, stride, offset if math.prod(size) else 0)
    return StoredTensor(storage.dtype, size, stride, storage.record[0] + offset * storage.dtype.itemsize,
                        storage.record, seen)


def foreign_names(pickled) -> set:
    """The globals in a pickle that are neither built nor kept as inert stand-ins."""
    return globals_named_in(pickled) - _KNOWN - _ATTRIBUTE_DICTS - _STAND_INS


def foreign(names) -> str:
    names = sorted(set(map(short, names)))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (f"asks for {', '.join(names[:10])}{more}, which could run code, so it was not opened "
            "and nothing was run; if you trust its source, save it again there with numbers, "
            "text, lists, dicts and tensors only")


def some(names) -> str:
    """The first three of `names`, and a sign that there are more."""
    names = [short(name) for name in names]
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names) or "nothing"


def short(words) -> str:
    """Words of a file as a message can take them: in one line, and not for ever."""
    return shown(" ".join(str(words)[:4 * _LONGEST_WORD].split()), _LONGEST_WORD)
