"""Pickles of protocols 3 to 5 -> protocol 2, which torch reads safely. Runs nothing, looks nothing up.

`torch.save(..., pickle_protocol=4)` frames its index and names a global by two texts on the stack.
The same index in the words of protocol 2 says no more and no less; what has no such words stays, for
the reader to refuse.
"""

import pickletools
import struct

_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_PUTS = {"MEMOIZE", "BINPUT", "LONG_BINPUT"}


def in_protocol_2(index: bytes, limit: int) -> bytes:
    """`index` itself if it is of protocol 2 or older, else what it says in protocol 2, cut after `limit` bytes."""
    if index[:1] != b"\x80" or index[1:2] <= b"\x02":
        return index
    written, size, memo = [], 0, {}
    texts, last = [], None          # pushed without another instruction between; by the last instruction, if it did
    for opcode, argument, start, stop in _instructions(index):
        kind = opcode.name
        if kind in ("FRAME", "PROTO"):
            word = b"\x80\x02" if kind == "PROTO" else b""
        elif kind in _PUTS:
            place = len(memo) if kind == "MEMOIZE" else argument
            memo[place] = last
            word = b"" if last is not None else b"r" + struct.pack("<I", place)
        elif kind == "STACK_GLOBAL" and len(texts) == 2 and "\n" not in "".join(texts):
            word, last = "c{}\n{}\n".format(*texts).encode("utf-8", "replace"), None
            size -= sum(map(len, written[-2:]))
            del written[-2:], texts[:]
        else:
            last = argument if kind in _TEXTS else memo.get(argument) if kind in ("BINGET", "LONG_BINGET") else None
            word = index[start:stop] if last is None else _text(last)
            texts = [] if last is None else [*texts[-1:], last]
        if word:
            written.append(word)
            size += len(word)
        if size > limit:
            break
    return b"".join(written)


def _instructions(index):
    """(opcode, argument, start, stop) of each."""
    found = None
    for opcode, argument, start in pickletools.genops(index):
        if found:
            yield (*found, start)
        found = opcode, argument, start
    yield (*found, len(index))


def _text(words) -> bytes:
    encoded = words.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded
