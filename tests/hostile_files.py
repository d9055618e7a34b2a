"""Small files that claim much, and what reading each of them holds: `python hostile_files.py`, in an empty folder.

Prints a JSON line a file: name, bytes, bytes that it claims, most bytes held while it was read, seconds, what the reader
said. Run by test_hostile_files.py. Each file is read in a process of its own, forked from this one, under a limit.

Words:  claim = bytes that the file would take by its own words, or if the reader did as naive ones do
"""

import gzip
import inspect
import io
import json
import os
import re
import resource
import struct
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from rqvae import RqVae, load_semantic_ids, open_features
from rqvae.ids.generations import manifest_path, read_manifest
from rqvae.ids.imports import import_semantic_ids
from rqvae.items.amazon_p5 import load_items, load_sequences
from rqvae.items.identifiers import load_item_ids
from rqvae.items.interactions import read_interactions
from rqvae.items.texts import read_texts

LIMIT = 3 << 29             # bytes of address space beyond what the process starts with
SECONDS = 60                # a reader that takes longer hangs
M = 10 ** 6
CASES = {}                  # "reader: what is odd" -> function(folder) -> (path, claim, read)


def case(reader, words, read):
    """Note a function that writes a file of the kind `reader`; it returns path and claim."""
    def note(write):
        CASES[f"{reader}: {words}"] = lambda folder: (*write(folder), read)
        return write
    return note


def features(path):
    table = open_features(path)
    table.check()
    table.checksum()


def item_ids(path):
    load_item_ids(path, 12)


def texts(path):
    read_texts(path, text_columns=["title"], id_column="id")


def interactions(path):
    read_interactions(path, 12)


def p5(path):
    load_items(path)
    load_sequences(path)


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- .npy and .npz

def npy(descr, shape, data=b""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


ROWS = npy("<f4", (2, 3), np.ones((2, 3), "<f4").tobytes())


@case("features .npy", "a header of 10^12 rows", features)
def _(folder):
    return put(folder / "x.npy", npy("<f4", (10 ** 12, 4), bytes(100))), 16 * 10 ** 12


@case("features .npz", "200 MB of zeros", features)
def _(folder):
    return npz(folder / "x.npz", x=npy("<f4", (M, 50), bytes(200 * M))), 200 * M


@case("features .npz", "item IDs whose header promises 10^10 numbers", features)
def _(folder):
    return npz(folder / "x.npz", x=ROWS, item_ids=npy("<i8", (10 ** 10,))), 8 * 10 ** 10


@case("features .npz", "10^9 item IDs of no width", features)
def _(folder):
    return npz(folder / "x.npz", x=ROWS, item_ids=npy("<U0", (10 ** 9,))), 8 * 10 ** 9


@case("features .npz", "10^9 rows of no item IDs", features)
def _(folder):
    return npz(folder / "x.npz", x=ROWS, item_ids=npy("<i8", (10 ** 9, 0))), 64 * 10 ** 9


@case("features .npz", "400 vectors of zeros, 1 MB each", features)
def _(folder):
    return npz(folder / "x.npz", **{f"i{row}": npy("<f4", (M // 4,), bytes(M)) for row in range(400)}), 400 * M


@case("features .npz", "1,000 names for one vector of 1 MB", features)
def _(folder):
    vector = npy("<f4", (M // 4,), np.random.default_rng(0).bytes(M))
    return overlapping(folder / "x.npz", vector, 1000), 1000 * M


def overlapping(path, content, count):
    """A zip whose index names the one record it has many times."""
    crc, out = zlib.crc32(content), io.BytesIO()
    name = b"i000000.npy"
    out.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, crc, len(content), len(content), len(name), 0) + name + content)
    start = out.tell()
    for row in range(count):
        out.write(struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, crc, len(content), len(content), 11, 0, 0, 0, 0,
                              0, 0) + f"i{row:06d}.npy".encode())
    size = out.tell() - start
    out.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0))
    return put(path, out.getvalue())


@case("features .npz", "an index that says 3 GB of a record of 100 bytes", features)
def _(folder):
    path = npz(folder / "x.npz", x=ROWS)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24:place + 28] = struct.pack("<L", 3 * 10 ** 9)
    return put(path, bytes(content)), 3 * 10 ** 9


# ---- .pt

def pt(path, content):
    torch.save(content, path)
    return path


@case("features .pt", "500 names for one vector of 1 MB", features)
def _(folder):
    vector = torch.randn(M // 4)
    return pt(folder / "x.pt", {f"i{row}": vector for row in range(500)}), 500 * M


@case("features .pt", "10^9 rows of no item IDs", features)
def _(folder):
    return pt(folder / "x.pt", {"x": torch.ones(2, 3), "item_ids": torch.empty(10 ** 9, 0, dtype=torch.int64)}), 64 * 10 ** 9


@case("features .pt", "one number shown 10^9 times", features)
def _(folder):
    return pt(folder / "x.pt", torch.ones(1).expand(M, 1000)), 4 * 10 ** 9


def raw_pt(path, index):
    """A file of torch with this pickle for its index."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", index)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
    return path


CHECKPOINT = RqVae.load_from_checkpoint


@case("checkpoint", "an index of 4 MB of memo entries", CHECKPOINT)
def _(folder):
    return raw_pt(folder / "x.ckpt", b"\x80\x02N" + b"\x94" * (4 * M) + b"."), 400 * M


@case("checkpoint", "an index of 4 MB of marks", CHECKPOINT)
def _(folder):
    return raw_pt(folder / "x.ckpt", b"\x80\x02" + b"N" * 1000 + b"(" * (4 * M) + b"."), 160 * M


@case("checkpoint", "an index of 4 MB of empty dicts", CHECKPOINT)
def _(folder):
    return raw_pt(folder / "x.ckpt", b"\x80\x02](" + b"}" * (4 * M) + b"e."), 280 * M


@case("checkpoint", "an index of 4 MB of short texts", CHECKPOINT)
def _(folder):
    return raw_pt(folder / "x.ckpt", b"\x80\x04](" + b"\x8c\x02ab" * M + b"e."), 80 * M


@case("checkpoint", "no zip, but 4 MB of pickled memo entries", CHECKPOINT)
def _(folder):
    return put(folder / "x.ckpt", b"\x80\x04N" + b"\x94" * (4 * M) + b"."), 400 * M


@case("checkpoint", "no zip, but 4 MB of pickled short texts", CHECKPOINT)
def _(folder):
    return put(folder / "x.ckpt", b"\x80\x04" + b"\x8c\x02ab" * M + b"cos\nsystem\n."), 80 * M


def shared_lists(levels):
    """A list that is twice one that is twice one ...: 2^levels texts, in some bytes a level."""
    lists = ["x"]
    for _ in range(levels):
        lists = [lists, lists]
    return lists


def in_notes(folder, value):
    model = RqVae(5, 6, 4, 8)
    return pt(folder / "x.ckpt", {"state_dict": model.state_dict(), "hyper_parameters": model.hyper_parameters,
                                  "rqvae": {"notes": {"seed": value}, "history": [{"epoch": value}]}})


@case("checkpoint", "a note of a list that is twice a list that is twice ...", CHECKPOINT)
def _(folder):
    return in_notes(folder, shared_lists(40)), 2 ** 40


@case("checkpoint", "a note of a list in itself", CHECKPOINT)
def _(folder):
    lists = []
    lists.append(lists)
    return in_notes(folder, lists), 2 ** 40


@case("checkpoint", "a note of 10^5 lists in one another", CHECKPOINT)
def _(folder):
    index = b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 10 ** 5 + b"a" * (10 ** 5 - 1) + b"s."
    return raw_pt(folder / "x.ckpt", index), 10 ** 7


@case("checkpoint", "a width of lists that are twice a list ...", CHECKPOINT)
def _(folder):
    model = RqVae(5, 6, 4, 8)
    return pt(folder / "x.ckpt", {"state_dict": model.state_dict(), "hyper_parameters": {
        **model.hyper_parameters, "hidden_dim": shared_lists(40)}}), 2 ** 40


@case("features .pt", "an entry of a list that is twice a list ...", features)
def _(folder):
    return pt(folder / "x.pt", {"x": torch.ones(2, 3), "item_ids": shared_lists(40)}), 2 ** 40


@case("checkpoint", "weights that are one number shown 10^9 times", CHECKPOINT)
def _(folder):
    return pt(folder / "x.ckpt", {"state_dict": {"a": torch.ones(1).expand(M, 1000)}}), 4 * 10 ** 9


@case("checkpoint", "hyper-parameters of 10^12 codes", CHECKPOINT)
def _(folder):
    model = RqVae(5, 6, 4, 8)
    return pt(folder / "x.ckpt", {"state_dict": model.state_dict(), "hyper_parameters": {
        **model.hyper_parameters, "num_embeddings": 10 ** 12}}), 16 * 10 ** 12


# ---- .safetensors

def safetensors(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return put(path, struct.pack("<Q", len(header)) + header + data)


@case("features .safetensors", "500 names for one vector of 1 MB", features)
def _(folder):
    entry = {"dtype": "F32", "shape": [M // 4], "data_offsets": [0, M]}
    return safetensors(folder / "x.safetensors", {f"i{row}": entry for row in range(500)}, np.random.default_rng(0).bytes(M)), 500 * M


@case("features .safetensors", "10^9 rows of no item IDs", features)
def _(folder):
    entry = {"dtype": "I64", "shape": [10 ** 9, 0], "data_offsets": [0, 0]}
    return safetensors(folder / "x.safetensors", {"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                                                  "item_ids": entry}, bytes(24)), 64 * 10 ** 9


@case("features .safetensors", "a header of 10^18 bytes", features)
def _(folder):
    return put(folder / "x.safetensors", struct.pack("<Q", 10 ** 18) + b"{" + b" " * 100), 10 ** 18


@case("features .safetensors", "a header of 4 MB of empty objects", features)
def _(folder):
    return safetensors(folder / "x.safetensors", b'{"a":[' + b"{}," * M + b"{}]}"), 100 * M


# ---- .parquet

def parquet(path, compression="zstd", schema=None, **columns):
    import pyarrow
    import pyarrow.parquet
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, compression=compression)
    return path


def repeated(value, count, kind=None):
    """An Arrow column of one value, many times, made of little memory."""
    import pyarrow
    indices = pyarrow.array(np.zeros(count, np.int32))
    return pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([value], kind))


def plain_dictionary(path, **columns):
    """Columns of text, stored as dictionary and numbers, that no note of the writer calls so."""
    import pyarrow
    import pyarrow.parquet
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd", store_schema=False)
    return path


def lying(path, **columns):
    """Pages as large as they can be, in a file whose index says of each column that it has 12 values, of 1,000 bytes."""
    import pyarrow
    from pyarrow import parquet
    table = pyarrow.table(columns)
    most = {"max_rows_per_page": 1 << 30} if "max_rows_per_page" in inspect.signature(parquet.write_table).parameters else {}
    parquet.write_table(table, path, row_group_size=len(table), compression="zstd", write_statistics=False, data_page_size=1 << 30, **most)
    whole = path.read_bytes()
    begin = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    group, index = parquet.read_metadata(path).row_group(0), whole[begin:-8]
    sizes = {group.total_byte_size: 1000, **{group.column(place).total_uncompressed_size: 1000 for place in range(group.num_columns)},
             **{group.column(place).num_values: 12 for place in range(group.num_columns)}, len(table): 12}
    for size, said in sizes.items():
        index = index.replace(varint(2 * size), varint(2 * said))
    return put(path, whole[:begin] + index + struct.pack("<I", len(index)) + b"PAR1")


def varint(number):
    """As Thrift's compact protocol has it."""
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


@case("item IDs .parquet", "a page of 320 MB, of which the index knows nothing", item_ids)
def _(folder):
    import pyarrow
    return lying(folder / "x.parquet", item_id=pyarrow.array(np.zeros(40 * M, np.int64))), 320 * M


@case("features .parquet", "a page of 256 MB, of which the index knows nothing", features)
def _(folder):
    import pyarrow
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(64 * M, np.float32)), 64).cast(pyarrow.list_(pyarrow.float32()))
    return lying(folder / "x.parquet", embedding=lists), 256 * M


@case("interactions .parquet", "8 * 10^7 times one user, of whom the index knows 12", interactions)
def _(folder):
    import pyarrow
    zeros = pyarrow.array(np.zeros(80 * M, np.int32))
    return lying(folder / "x.parquet", user=zeros, item=zeros), 640 * M


@case("features .parquet", "item IDs that repeat a text of 1 MB 2,000 times", features)
def _(folder):
    import pyarrow
    lists = pyarrow.array(np.ones((2000, 2), np.float32).tolist(), pyarrow.list_(pyarrow.float32()))
    return plain_dictionary(folder / "x.parquet", item_id=repeated("x" * M, 2000), embedding=lists), 2000 * M


@case("features .parquet", "lists that repeat one number 5 * 10^7 times", features)
def _(folder):
    import pyarrow
    offsets, count = pyarrow.array(np.arange(0, 50 * M + 1, 5 * M // 10, dtype=np.int32)), 50 * M
    lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(np.ones(count, np.float32)))
    return parquet(folder / "x.parquet", embedding=lists), 4 * count


@case("item IDs .parquet", "a text of 1 MB, 2,000 times", item_ids)
def _(folder):
    return plain_dictionary(folder / "x.parquet", item_id=repeated("x" * M, 2000)), 2000 * M


@case("item IDs .parquet", "a category of 1 MB, 2,000 times", item_ids)
def _(folder):
    return parquet(folder / "x.parquet", item_id=repeated("x" * M, 2000)), 2000 * M


@case("item IDs .parquet", "bytes of 1 MB, 2,000 times", item_ids)
def _(folder):
    import pyarrow
    return plain_dictionary(folder / "x.parquet", item_id=repeated(b"x" * M, 2000, pyarrow.binary())), 2000 * M


@case("item IDs .parquet", "one text of 300 MB", item_ids)
def _(folder):
    return parquet(folder / "x.parquet", item_id=["x" * (300 * M)]), 300 * M


@case("item IDs .parquet", "10^8 gaps", item_ids)
def _(folder):
    import pyarrow
    return parquet(folder / "x.parquet", item_id=pyarrow.nulls(50 * M, pyarrow.int64())), 800 * M


@case("item IDs .parquet", "5 * 10^7 times the same number", item_ids)
def _(folder):
    return parquet(folder / "x.parquet", item_id=np.ones(50 * M, np.int64)), 400 * M


@case("item IDs .parquet", "10^7 structs of nothing", item_ids)
def _(folder):
    import pyarrow
    column = pyarrow.StructArray.from_arrays([pyarrow.array(np.ones(10 * M, np.int8))], ["a"])
    return parquet(folder / "x.parquet", item_id=column), 10 ** 9


@case("semantic IDs .parquet", "codes that repeat one number 5 * 10^7 times", import_semantic_ids)
def _(folder):
    import pyarrow
    offsets, count = pyarrow.array(np.arange(0, 50 * M + 1, 5 * M, dtype=np.int32)), 50 * M
    lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(np.ones(count, np.int64)))
    return parquet(folder / "x.parquet", pid=list(range(10)), codes=lists), 8 * count


@case("semantic IDs .parquet", "an item ID of 1 MB, 2,000 times", import_semantic_ids)
def _(folder):
    import pyarrow
    lists = pyarrow.array([[1, 2]] * 2000, pyarrow.list_(pyarrow.int64()))
    return plain_dictionary(folder / "x.parquet", pid=repeated("x" * M, 2000), codes=lists), 2000 * M


@case("interactions .parquet", "a user of 1 MB, 2,000 times", interactions)
def _(folder):
    return plain_dictionary(folder / "x.parquet", user=repeated("x" * M, 2000), item=repeated("1", 2000)), 2000 * M


@case("interactions .parquet", "a time of 1 MB, 2,000 times", interactions)
def _(folder):
    return plain_dictionary(folder / "x.parquet", user=repeated("1", 2000), item=repeated("1", 2000),
                            time=repeated("1" * M, 2000)), 2000 * M


# ---- text: JSON

def json_cases(reader, suffix, read, wrap):
    for words, piece, cost in (("empty lists", "[]", 64), ("empty objects", "{}", 72), ("objects of one", '{"":0}', 200),
                               ("short texts", '"ab"', 59), ("texts of one wide letter", '"\U00010348"', 88), ("numbers", "0.5", 32)):
        def write(folder, piece=piece, cost=cost):
            count = 2 * M // (len(piece) + 1)
            return put(folder / f"x{suffix}", wrap(",".join([piece] * count))), count * cost
        case(f"{reader} {suffix}", f"2 MB of {words}", read)(write)
    for words, text in (("a number of 10^6 digits", "9" * M), ("10^6 brackets", "[" * M), ("10^5 nested objects", '{"a":' * 10 ** 5),
                        ("10^6 backslashes", '"' + "\\" * M), ("a wide letter in 10^6", '"\U00010348' + "a" * M + '"'),
                        ("900 lists in one another", "[" * 900 + "]" * 900)):
        case(f"{reader} {suffix}", words, read)(lambda folder, text=text: (put(folder / f"x{suffix}", wrap(text)), 4 * len(text)))


json_cases("item IDs", ".json", item_ids, "[{}]".format)
json_cases("semantic IDs", ".json", import_semantic_ids, '{{"0": [{}]}}'.format)
json_cases("semantic IDs", ".jsonl", load_semantic_ids, '{{"codes": [1], "x": [{}]}}\n'.format)
json_cases("FlashRec's", ".json", import_semantic_ids, '{{"1,2,3": [{}]}}'.format)
json_cases("texts", ".json", texts, '[{{"id": 1, "title": [{}]}}]'.format)
json_cases("texts", ".jsonl", texts, '{{"id": 1, "title": [{}]}}\n'.format)
json_cases("interactions", ".json", interactions, '{{"1": [{}]}}'.format)
json_cases("interactions", ".jsonl", interactions, "[{}]\n".format)


@case("FlashRec's .json", "10^5 items under one key of 400 codes", import_semantic_ids)
def _(folder):
    text = json.dumps({",".join(["1"] * 400): [{"pid": 1}] * 10 ** 5})
    return put(folder / "x.json", text), 32 * 10 ** 7


@case("texts .jsonl", "700,000 objects of nothing", texts)
def _(folder):
    return put(folder / "x.jsonl", '{"id":1,"title":"a"}\n' + "{}\n" * 700_000), 200 * M


@case("texts .csv", "10^6 lines of one letter", texts)
def _(folder):
    return put(folder / "x.csv", "id,title\n" + "1,a\n" * M), 400 * M


@case("texts .csv", "10 lines of 10^5 columns", texts)
def _(folder):
    names = ",".join(f"c{column}" for column in range(10 ** 5))
    return put(folder / "x.csv", f"id,title,{names}\n" + ("1,a" + "," * 10 ** 5 + "\n") * 10), 100 * M


@case("texts .csv", "a quotation mark that is never closed", texts)
def _(folder):
    return put(folder / "x.csv", 'id,title\n1,"' + "a\n" * M), 2 * M


@case("texts .jsonl", "20,000 places, on a long path", texts)
def _(folder):
    deep = folder.joinpath(*["d" * 200] * 4)
    deep.mkdir(parents=True)
    return put(deep / "x.jsonl", "".join(f'{{"id":{row},"title":"a"}}\n' for row in range(100_000))), 100 * M


# ---- text: lines

@case("item IDs .txt", "2 * 10^6 empty lines", item_ids)
def _(folder):
    return put(folder / "x.txt", "\n" * 2 * M), 16 * M


@case("item IDs .txt", "700,000 lines of two letters", item_ids)
def _(folder):
    return put(folder / "x.txt", "ab\n" * 700_000), 40 * M


@case("item IDs .csv", "2 * 10^6 columns", item_ids)
def _(folder):
    return put(folder / "x.csv", "," * 2 * M), 16 * M


@case("item IDs .csv", "10^6 lines", item_ids)
def _(folder):
    return put(folder / "x.csv", "id\n" + "a\n" * M), 8 * M


@case("item IDs .item2id", "10^6 lines", item_ids)
def _(folder):
    return put(folder / "x.item2id", "".join(f"{row}\t{row}\n" for row in range(200_000))), 20 * M


@case("item IDs .npy", "a text of 4 * 10^8 letters", item_ids)
def _(folder):
    return put(folder / "x.npy", npy("<U400000000", (1,), bytes(100))), 16 * 10 ** 8


@case("item IDs .npy", "10^9 texts of no width", item_ids)
def _(folder):
    return put(folder / "x.npy", npy("<U0", (10 ** 9,))), 8 * 10 ** 9


@case("item IDs .npz", "10^9 texts of no width", item_ids)
def _(folder):
    return npz(folder / "x.npz", item_ids=npy("<U0", (10 ** 9,))), 8 * 10 ** 9


@case("item IDs .npz", "10^10 numbers", item_ids)
def _(folder):
    return npz(folder / "x.npz", item_ids=npy("<i8", (10 ** 10,))), 8 * 10 ** 10


@case("item IDs .npz", "10^9 rows of no numbers", item_ids)
def _(folder):
    return npz(folder / "x.npz", item_ids=npy("<i8", (10 ** 9, 0))), 64 * 10 ** 9


@case("item IDs .npz", "600 MB of zeros, beside 5 MB of noise", item_ids)
def _(folder):
    return npz(folder / "x.npz", item_ids=npy("<i8", (75 * M,), bytes(600 * M)), noise=np.random.default_rng(0).bytes(5 * M)), 600 * M


@case("item IDs .pt", "10^9 rows of no numbers", item_ids)
def _(folder):
    return pt(folder / "x.pt", {"item_ids": torch.empty(10 ** 9, 0, dtype=torch.int64)}), 64 * 10 ** 9


@case("item IDs .pt", "400,000 empty lists", item_ids)
def _(folder):
    return pt(folder / "x.pt", {"item_ids": [[] for _ in range(400_000)]}), 28 * M


@case("semantic IDs .npy", "a header of 10^12 rows", load_semantic_ids)
def _(folder):
    return put(folder / "x.npy", npy("<i8", (10 ** 12, 3), bytes(100))), 24 * 10 ** 12


@case("semantic IDs .npy", "2 * 10^6 codes of one byte", load_semantic_ids)
def _(folder):
    return put(folder / "x.npy", npy("|u1", (M, 2), bytes(2 * M))), 16 * M


@case("semantic IDs .csv", "a header of 2 * 10^6 columns", load_semantic_ids)
def _(folder):
    return put(folder / "x.csv", "item_id,code_1" + "," * 2 * M), 16 * M


@case("semantic IDs .pt", "one code shown 10^9 times", import_semantic_ids)
def _(folder):
    return pt(folder / "x.pt", torch.ones(1, dtype=torch.int64).expand(M, 1000)), 8 * 10 ** 9


@case("semantic IDs .txt", "700,000 lines of one code", import_semantic_ids)
def _(folder):
    return put(folder / "x.txt", "1\n" * 700_000), 11 * M


@case("interactions .txt", "one line of 10^6 items", interactions)
def _(folder):
    return put(folder / "x.txt", "u " + "11 " * 700_000), 50 * M


@case("interactions .csv", "10^6 events", interactions)
def _(folder):
    return put(folder / "x.csv", "user,item\n" + "1,1\n" * 500_000), 50 * M


@case("interactions .npy", "10^12 pairs", interactions)
def _(folder):
    return put(folder / "x.npy", npy("<i8", (10 ** 12, 2), bytes(64))), 16 * 10 ** 12


# ---- P5

def p5_folder(folder, count, meta, sequences=b"1 1 2 3\n"):
    place = folder / "raw" / "beauty"
    place.mkdir(parents=True)
    put(place / "datamaps.json", json.dumps({"item2id": {f"B{row}": str(row + 1) for row in range(count)}}))
    put(place / "meta.json.gz", meta)
    put(place / "sequential_data.txt", sequences)
    return folder


@case("P5", "a line of 300 MB in meta.json.gz", p5)
def _(folder):
    return p5_folder(folder, 12, gzip.compress(b"{'asin': 'B1', 'title': '" + b"a" * 300 * M + b"'}\n", 9)), 300 * M


@case("P5", "1,000 titles of 250 kB in meta.json.gz", p5)
def _(folder):
    lines = b"".join(b"{'asin': 'B%d', 'title': '%s'}\n" % (row, b"a" * 250_000) for row in range(1000))
    return p5_folder(folder, 1000, gzip.compress(lines, 9)), 750 * M


@case("P5", "a sequence of 10^6 items", p5)
def _(folder):
    return p5_folder(folder, 12, gzip.compress(b"{'asin': 'B1', 'title': 'a'}\n"), b"1" + b" 1" * M + b"\n"), 16 * M


# ---- folders

@case("model folder", "a configuration of 2 MB of objects", RqVae.from_pretrained)
def _(folder):
    RqVae(5, 6, 4, 8).save_pretrained(folder / "m")
    put(folder / "m" / "config.json", '{"hidden_dim": [' + ",".join(['{"":0}'] * 250_000) + "]}")
    return folder / "m", 50 * M


@case("model folder", "10^9 codes", RqVae.from_pretrained)
def _(folder):
    RqVae(5, 6, 4, 8).save_pretrained(folder / "m")
    path = folder / "m" / "config.json"
    put(path, json.dumps({**json.loads(path.read_text()), "num_embeddings": 10 ** 9}))
    return folder / "m", 16 * 10 ** 9


@case("model folder", "parts of 10^5 widths", RqVae.from_pretrained)
def _(folder):
    RqVae(5, 6, 4, 8).save_pretrained(folder / "m")
    path = folder / "m" / "config.json"
    put(path, json.dumps({**json.loads(path.read_text()), "parts": [1] * 10 ** 6, "robust": True, "standardize": True,
                          "input_dim": 10 ** 6}))
    return folder / "m", 48 * M


@case("peer's folder", "codebooks whose header promises 10^10 numbers", RqVae.from_peer)
def _(folder):
    put(folder / "metadata.json", '{"type": "RQKMeans"}')
    return npz(folder / "codebooks.npz", codebook_0=npy("<f4", (10 ** 5, 10 ** 5))).parent, 4 * 10 ** 10


@case("peer's folder", "codebooks of 300 MB of zeros", RqVae.from_peer)
def _(folder):
    put(folder / "metadata.json", '{"type": "RQKMeans"}')
    return npz(folder / "codebooks.npz", codebook_0=npy("<f4", (10 ** 5, 750), bytes(300 * M))).parent, 300 * M


@case("peer's folder", "a codebook of 8,000 columns", RqVae.from_peer)
def _(folder):
    put(folder / "metadata.json", '{"type": "RQKMeans"}')
    return npz(folder / "codebooks.npz", codebook_0=npy("<f4", (2, 8000), bytes(64000))).parent, 2 * 4 * 8000 ** 2


@case("manifest", "2 MB of objects", lambda folder: read_manifest(folder / "x.json"))
def _(folder):
    path = put(folder / "x.json", "{}")
    put(manifest_path(path), '{"files": [' + ",".join(['{"":0}'] * 280_000) + "]}")
    return folder, 56 * M


# ---- reading each

def status(field):
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def length(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def measured(name, folder, out):
    """Write the file of a case and read it; in a process of its own."""
    path, claim, read = CASES[name](folder)
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            said = stream.read()
        _, code = os.waitpid(child, 0)
        row = json.loads(said) if said else {"held": LIMIT, "seconds": SECONDS, "said": f"died, {code}"}
        print(json.dumps({"name": name, "bytes": length(path), "claim": claim, **row}), file=out, flush=True)
        return
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + LIMIT,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS,) * 2)
    Path("/proc/self/clear_refs").write_text("5")           # the peak begins anew
    before, began = status("VmRSS"), time.process_time()
    try:
        read(path)
        said = ""
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    row = {"held": max(0, status("VmHWM") - before), "seconds": round(time.process_time() - began, 2),
           "said": said.replace(str(folder), "")[:2000], "named": not said or str(path) in said or str(folder) in said}
    os.write(writer, json.dumps(row).encode())
    os._exit(0)


def main(names, out=sys.stdout):
    torch.set_num_threads(1)
    try:
        import pyarrow.parquet          # noqa: F401
    except ImportError:
        pass
    for number, name in enumerate(names or CASES):
        folder = Path(f"case-{number}")
        folder.mkdir()
        try:
            measured(name, folder.resolve(), out)
        except ImportError:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
