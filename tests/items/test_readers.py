"""Feature files: what each format gives, and the sentence that each fault gets."""

import importlib.util
import io
import json
import os
import random
import re
import struct
import sys
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch

from rqvae.items.blocks import NoRows
from rqvae.items.readers import SUFFIXES, read_features
from rqvae.items.tables import open_features

ROWS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
TORCH_TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32]


def npy_bytes(header, data=b"", version=1):
    """A .npy with any header text at all."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def header(shape, descr="'<f4'", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def safetensors_bytes(entries, data):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_all(path, key=None):
    blocks, ids = read_features(path, key)
    return np.concatenate([block.read(slice(0, block.shape[0])) for block in blocks]), ids


def sentence(path, key=None, error=ValueError):
    """What a user is told about this file, which is one line that names it."""
    with pytest.raises(error) as caught:
        read_all(path, key)
    message = str(caught.value)
    assert caught.type in (error, NoRows) and "\n" not in message and str(path) in message
    return message.replace(str(path), "FILE")


# ---- .npy

@pytest.mark.parametrize("stored", [
    ROWS, ROWS.astype(">f4"), ROWS.astype(np.float16), ROWS.astype(np.float64),
    ROWS.astype(np.int64), np.asfortranarray(ROWS), ROWS[::-1],
], ids=["float32", "big-endian", "float16", "float64", "int64", "fortran", "reversed"])
def test_every_array_that_numpy_saves_comes_back(tmp_path, stored):
    np.save(tmp_path / "x.npy", stored)
    rows, ids = read_all(tmp_path / "x.npy")
    np.testing.assert_array_equal(rows, stored)
    assert ids is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_npy_format_is_read(tmp_path, version):
    path = tmp_path / "x.npy"
    path.write_bytes(npy_bytes(header("(2, 3)"), np.arange(6, dtype="<f4").tobytes(), version))
    assert read_all(path)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("text", [
    "{'shape': (2L, 3L), 'fortran_order': False, 'descr': '<f4'}",          # Python 2
    '{"descr": "<f4", "fortran_order": False, "shape": (2,3)}',
    "{'descr':'<f4','fortran_order':False,'shape':( 2 , 3 , ),}      ",
])
def test_headers_of_other_writers_are_read(tmp_path, text):
    path = tmp_path / "x.npy"
    path.write_bytes(npy_bytes(text, np.arange(6, dtype="<f4").tobytes()))
    assert read_all(path)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nothing_is_read_before_rows_are_asked_for(tmp_path):
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        file.write(npy_bytes(header("(100000000, 768)")))
        file.truncate(file.tell() + 10**8 * 768 * 4)                        # 307 GB, sparse
    (block,), _ = read_features(path)
    assert block.shape == (10**8, 768)
    assert not block.read(np.array([99_999_999, 0])).any()


def test_an_empty_file_is_called_empty(tmp_path):
    for suffix in (".npy", ".npz", ".pt", ".safetensors", ".parquet"):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(b"")
        assert f"FILE is not a {suffix}" in sentence(path) and "the file is empty" in sentence(path)


def test_a_truncated_npy_names_both_sizes(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    assert sentence(path) == ("FILE has 300 bytes, its header promises 368: cut off or damaged; "
                              "copy or save it again")
    path.write_bytes(whole[:60])
    assert sentence(path).startswith("FILE has 60 bytes, its header promises 128: cut off")
    path.write_bytes(whole[:7])
    assert sentence(path).startswith("FILE has 7 bytes, its header promises 10: cut off")


def test_bytes_after_the_array_are_ignored_with_a_warning(tmp_path):
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        np.save(file, ROWS)
        np.save(file, ROWS)
    with pytest.warns(UserWarning, match="has 736 bytes, its header promises 368; what follows"):
        np.testing.assert_array_equal(read_all(path)[0], ROWS)


@pytest.mark.parametrize("content, words", [
    (b"id,title,price\n1,drill,3\n",
     "FILE is not a .npy file: starts with b'id,title,price\\n1'; save features with np.save("),
    (b"\x80\x04\x95\x0b",
     "this is a Python pickle, which can run code when it is read, so it is not opened"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
     "this is a Git LFS pointer, not the data itself: run `git lfs pull`"),
    (b"<!DOCTYPE html><html><body>Sign in", "this is an HTML page"),
    (b"PK\x03\x04" + bytes(50), "this is a zip archive"),
    (bytes(400), "the file begins with zeros"),
])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_a_file_that_is_something_else_is_told_what_it_is(tmp_path, content, words, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    message = sentence(path)
    assert words.replace(".npy file", f"{suffix} file") in message


@pytest.mark.parametrize("array, words", [
    (np.array([["a"]]), "holds text (dtype <U1)"),
    (np.zeros((2, 2), bool), "holds booleans"),
    (np.zeros((2, 2), complex), "holds complex numbers"),
    (np.zeros((2, 2), "M8[ns]"), "holds dates (dtype <M8[ns])"),
    (np.zeros((2, 2), [("a", "<f4"), ("b", "<i4")]), "holds records or raw bytes"),
    (np.zeros(9), "has shape (9,); expected (items, width): save array.reshape(-1, width)"),
    (np.zeros((2, 3, 4)), "has shape (2, 3, 4); expected (items, width)"),
    (np.zeros(()), "has shape (); expected (items, width)"),
    (np.zeros((0, 4)), "has shape (0, 4), so it holds no features"),
    (np.zeros((4, 0)), "has shape (4, 0), so it holds no features"),
])
def test_arrays_that_are_no_features_are_refused_alike_in_npy_and_npz(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", array)
    assert sentence(tmp_path / "x.npy").startswith(f"FILE {words}")
    assert sentence(tmp_path / "x.npz").startswith(f"FILE['arr_0'] {words}")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def test_objects_are_explained_as_ragged_rows_and_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ragged = np.empty(2, object)
    ragged[:] = [[1.0], Evil()]
    np.save("x.npy", ragged)
    np.savez("x.npz", ragged)
    torch.save(ragged, "x.pt")
    torch.save({"features": Evil()}, "y.pt")
    for name in ("x.npy", "x.npz"):
        assert "holds Python objects, as numpy makes of rows of unequal length" in sentence(name)
    assert sentence("x.pt").startswith("FILE cannot be read as tensors alone: it asks for ")
    assert "numpy.ndarray" in sentence("x.pt")
    assert "it asks for posix.mkdir, which could run code" in sentence("y.pt") or os.name == "nt"
    assert not os.path.exists("code-was-run")


@pytest.mark.parametrize("text", [
    header("(4611686018427387904, 4611686018427387904)"), header("(1000000000000, 768)"),
    header("(2, 3)") + " " * 60000, header("(-2, -3)"), header("(2, 3"), header("2"),
    header("(2.0, 3)"), header("(" + "9" * 5000 + ",)"), header("(2, 3)", fortran="1"),
    header("(2, 3)", "'<f3'"), header("(2, 3)", "'<f99999999999999999999'"),
    header("(2, 3)", "'<U999999999999'"), header("(2, 3)", "'f4,f4'"),
    header("(2, 3)", "('<f4', (9999999999,))"), header("(2, 3)", "''"), header("(2, 3)", "None"),
    header("(2, 3)", "'|O'"), "", "{}", "[" * 60000, "-" * 60000, "'shape': (" * 6000,
    "'descr': '" * 6000, "'descr'" + " " * 60000, "__import__('os').abort()",
    "\x00" * 100, "{'descr': '<f4', 'fortran_order': False}",
])
@pytest.mark.parametrize("version", [1, 2, 9])
def test_a_hostile_npy_header_gets_a_sentence_at_once(tmp_path, text, version):
    path = tmp_path / "x.npy"
    path.write_bytes(npy_bytes(text, bytes(20), version))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(path, "a.npy")
    start = time.process_time()
    assert sentence(path).startswith("FILE ")
    assert sentence(tmp_path / "x.npz").startswith("FILE")
    assert time.process_time() - start < 0.5


def test_a_header_length_of_gigabytes_is_compared_with_the_file(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}")
    assert sentence(path).startswith("FILE has 14 bytes, its header promises 4294967307")


# ---- .npz, .pt, .safetensors

@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_of_one_array_needs_no_key(tmp_path, save, order):
    save(tmp_path / "x.npz", features=np.array(ROWS, order=order))
    np.testing.assert_array_equal(read_all(tmp_path / "x.npz")[0], ROWS)
    np.testing.assert_array_equal(read_all(tmp_path / "x.npz", "features")[0], ROWS)


def write_many(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".pt":
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save({**tensors, "epoch": 3}, path)
    else:
        entries, data = {"__metadata__": {"format": "pt"}}, b""
        for name, array in arrays.items():
            entries[name] = {"dtype": "F32", "shape": array.shape,
                             "data_offsets": [len(data), len(data) + array.nbytes]}
            data += array.tobytes()
        path.write_bytes(safetensors_bytes(entries, data))


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_several_arrays_are_listed_and_one_is_asked_for(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_many(path, {"text": ROWS, "image": ROWS + 1})
    np.testing.assert_array_equal(read_all(path, "image")[0], ROWS + 1)
    np.testing.assert_array_equal(read_all(path, "text")[0], ROWS)
    kind = "array" if suffix == ".npz" else "tensor"
    assert sentence(path) == (f"FILE holds several {kind}s: 'text', 'image'; "
                              "say which, for example key='text'")
    assert sentence(path, "txet") == f"FILE holds no {kind} 'txet'; it holds 'text', 'image'"


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_a_file_without_arrays_says_so(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_many(path, {"only": ROWS})
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "nothing here")
    else:
        write_many(path, {})
    kind = "array" if suffix == ".npz" else "tensor"
    assert sentence(path) == f"FILE holds no {kind}; expected one of shape (items, width)"


def test_a_key_for_a_file_of_one_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    torch.save(torch.from_numpy(ROWS), tmp_path / "x.pt")
    for name in ("x.npy", "x.pt"):
        assert sentence(tmp_path / name, "a") == (
            "FILE holds one array and no 'a' to choose; leave the key out")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".PT"])
@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_a_tensor_file_of_any_dtype_is_read(tmp_path, suffix, dtype):
    tensor = (torch.from_numpy(ROWS) * 10).to(dtype)
    torch.save(tensor, tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(read_all(tmp_path / f"x{suffix}")[0], tensor.double().numpy())


def test_a_view_or_parameter_in_a_tensor_file_is_read(tmp_path):
    torch.save(torch.nn.Parameter(torch.from_numpy(ROWS.T.copy()).t()[2:]), tmp_path / "x.pt")
    np.testing.assert_array_equal(read_all(tmp_path / "x.pt")[0], ROWS[2:])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_tensor_files_that_are_no_features_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save([torch.zeros(3), torch.zeros(4)], path)
    assert sentence(path) == ("FILE holds a list; expected one (items, width) tensor, or a dict of "
                              "them: save torch.stack(rows)")
    torch.save({"a": torch.zeros(3)}, path)
    assert sentence(path).startswith("FILE['a'] has shape (3,); expected (items, width)")
    torch.save(torch.zeros(1).expand(10**12, 768), path)
    assert "but stores fewer numbers, each of them shown many times" in sentence(path)
    torch.save(torch.eye(3).to_sparse(), path)
    assert "sparse" in sentence(path)
    torch.save(torch.from_numpy(ROWS), path, _use_new_zipfile_serialization=False)
    assert sentence(path).startswith("FILE is not a .pt (torch >= 1.6) file: this is a Python pick")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert sentence(path).startswith("FILE cannot be read as tensors alone")


@pytest.mark.parametrize("code, stored", [
    ("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("I64", "<i8"), ("I8", "|i1"), ("U16", "<u2"),
])
def test_every_number_type_of_safetensors_is_read_without_the_package(tmp_path, code, stored):
    array = (ROWS * 10 + 50).astype(stored)
    entry = {"dtype": code, "shape": array.shape, "data_offsets": [0, array.nbytes]}
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes({"x": entry}, array.tobytes()))
    np.testing.assert_array_equal(read_all(tmp_path / "x.safetensors")[0], array)


@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_files_of_the_safetensors_package_are_read(tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors.torch")
    tensor = (torch.from_numpy(ROWS) * 10).to(dtype)
    safetensors.save_file({"x": tensor}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(read_all(tmp_path / "x.safetensors")[0], tensor.double().numpy())


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}


@pytest.mark.parametrize("entries, words", [
    ({"x": entry(shape=[2, 2**40], data_offsets=[0, 2**43])},
     "FILE['x'] has 120 bytes, its header promises 8796093022304"),
    ({"x": entry(shape=[2, 2])}, "its header promises"),
    ({"x": entry(data_offsets=[8, 32])}, "its header promises"),
    ({"x": entry(shape=[6])}, "FILE['x'] has shape (6,); expected (items, width)"),
    ({"x": entry(dtype="BOOL")}, "FILE['x'] has dtype BOOL; expected floats"),
    ({"x": entry(dtype=["F32"])}, "FILE['x'] has dtype ['F32']; expected floats"),
    ({"x": entry(shape=[-2, -3])}, "FILE['x'] has a damaged entry in the header"),
    ({"x": entry(shape=[True, 3])}, "damaged entry"),
    ({"x": entry(shape=[2.0, 3])}, "damaged entry"),
    ({"x": entry(shape=None)}, "damaged entry"),
    ({"x": entry(data_offsets=[0])}, "damaged entry"),
    ({"x": {}}, "damaged entry"), ({"x": 5}, "damaged entry"), ({"x": []}, "damaged entry"),
    ({}, "holds no tensor"),
])
def test_a_hostile_safetensors_header_gets_a_sentence(tmp_path, entries, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(entries, bytes(24)))
    assert words in sentence(path)


def test_a_damaged_safetensors_header_gets_a_sentence(tmp_path):
    path = tmp_path / "x.safetensors"
    for text in (b'{"x":', b"{" * 100, b'{"a":' * 50000, b'{"x": \xff}', b"{7: 1}"):
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        assert sentence(path).startswith("FILE has a damaged header (b'{")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert sentence(path).startswith(f"FILE has 10 bytes, its header promises {2**60 + 8}")


def test_a_damaged_zip_is_called_damaged(tmp_path):
    np.savez(tmp_path / "x.npz", ROWS)
    torch.save(torch.from_numpy(ROWS), tmp_path / "x.pt")
    for name in ("x.npz", "x.pt"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-30])
        assert "damaged or incomplete" in sentence(path) or "truncated or damaged" in sentence(path)


def test_a_flipped_bit_of_a_number_in_a_tensor_file_is_found_by_its_checksum(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(torch.from_numpy(ROWS), path)
    content = bytearray(path.read_bytes())
    content[content.index(ROWS.tobytes()) + 7] ^= 1
    path.write_bytes(content)
    assert re.fullmatch(r"FILE cannot be read as tensors alone: it is truncated or damaged \(Bad CRC-32 for file "
                        r"'x/data/0'\); use another copy of it, or an earlier one", sentence(path))


def test_a_line_break_in_the_type_of_an_npy_is_damage(tmp_path):
    (tmp_path / "x.npy").write_bytes(npy_bytes(header("(2, 3)", "'<\nf4'"), bytes(24)))
    assert sentence(tmp_path / "x.npy").startswith("FILE has a damaged header")


def test_an_npz_that_numpy_would_not_write_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    buffer = io.BytesIO()
    np.save(buffer, ROWS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    assert sentence(path) == "FILE['a'] is compressed as numpy never does; save it with np.savez"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", "no array")
    assert sentence(path) == ("FILE['a'] is not a .npy array (starts with b'no array'); "
                              "save it with np.save or np.savez")


# ---- .parquet

def write_parquet(path, **columns):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow
    parquet.write_table(pyarrow.table(columns), path, row_group_size=5)


def test_a_parquet_file_gives_rows_and_their_ids(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    names = [f"B{row:03}" for row in range(12)]
    flat = pyarrow.array(ROWS.reshape(-1))
    for column in (pyarrow.array(ROWS.tolist(), pyarrow.list_(pyarrow.float32())),
                   pyarrow.array(ROWS.tolist(), pyarrow.large_list(pyarrow.float32())),
                   pyarrow.FixedSizeListArray.from_arrays(flat, 5)):
        for id_column in ("item_id", "pid", "ItemID"):
            write_parquet(path, **{"title": names, id_column: names, "embedding": column})
            rows, ids = read_all(path)
            np.testing.assert_array_equal(rows, ROWS)
            assert ids == names
    write_parquet(path, vector=column)
    assert read_all(path)[1] is None
    for kind in (pyarrow.float64(), pyarrow.float16(), pyarrow.int8()):
        values = np.arange(12.0).reshape(4, 3).astype(kind.to_pandas_dtype())
        write_parquet(path, vector=pyarrow.array(list(values), pyarrow.list_(kind)))
        np.testing.assert_array_equal(read_all(path)[0], values)


def test_the_list_column_of_a_parquet_file_is_chosen_by_name(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, tags=ROWS.astype(int).tolist(), embedding=ROWS.tolist())
    np.testing.assert_array_equal(read_all(path)[0], ROWS)
    np.testing.assert_array_equal(read_all(path, "tags")[0], ROWS.astype(int))
    assert sentence(path, "title") == ("FILE holds no list column 'title'; "
                                       "it holds 'tags', 'embedding'")
    write_parquet(path, a=ROWS.tolist(), b=ROWS.tolist())
    assert sentence(path) == ("FILE holds several list columns: 'a', 'b'; "
                              "say which, for example key='a'")


@pytest.mark.parametrize("values, words", [
    ([[1.0, 2.0]] * 6 + [[1.0]],
     "FILE['embedding'] has 1 values in row 6 and 2 in row 0; expected lists of one length"),
    ([[1.0, 2.0]] * 6 + [None],
     "FILE['embedding'] has missing values (null) between rows 0 and 6; fill or drop those rows"),
    ([[1.0, 2.0]] * 6 + [[1.0, None]], "FILE['embedding'] has missing values (null)"),
    ([["a"]], "FILE['embedding'] holds lists of string; expected lists of floats"),
    ([[[1.0]]], "FILE['embedding'] holds lists of list<"),
    ([1.0, 2.0], "FILE holds no list column"),
])
def test_parquet_columns_that_are_no_features_are_refused(tmp_path, values, words):
    write_parquet(tmp_path / "x.parquet", embedding=values)
    assert words in sentence(tmp_path / "x.parquet")


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    nothing = pyarrow.array([], pyarrow.list_(pyarrow.float32()))
    write_parquet(tmp_path / "x.parquet", embedding=nothing)
    with pytest.raises(NoRows, match="so it holds no features"):
        open_features(tmp_path / "x.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(20))
    assert sentence(tmp_path / "x.parquet", error=ImportError) == (
        "FILE needs a package that is not installed: pip install pyarrow, "
        "or convert the file to .npy")


# ---- paths

def test_a_missing_file_offers_the_nearest_names(tmp_path):
    np.save(tmp_path / "features.npy", ROWS)
    message = sentence(tmp_path / "feature.npy", error=FileNotFoundError)
    assert message == "FILE does not exist; did you mean features.npy?"
    assert "the folder" in sentence(tmp_path / "no" / "x.npy", error=FileNotFoundError)


def test_a_folder_a_pipe_and_an_unknown_suffix_are_refused(tmp_path):
    assert sentence(tmp_path, error=IsADirectoryError) == "FILE is a folder; expected a file"
    (tmp_path / "x.csv").write_text("1,2\n")
    assert sentence(tmp_path / "x.csv") == (
        f"FILE has the suffix '.csv' (starts with b'1,2\\n'); expected one of "
        f"{' '.join(SUFFIXES)}: save features with np.save('features.npy', array)")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "x.npy")
        assert "is a device or a pipe; expected a regular file" in sentence(tmp_path / "x.npy")


# ---- mutations

def samples(folder):
    """Small whole files, one of each format that this machine can write."""
    np.save(folder / "plain.npy", ROWS)
    np.save(folder / "fortran.npy", np.asfortranarray(ROWS))
    np.savez(folder / "plain.npz", ROWS)
    np.savez_compressed(folder / "small.npz", ROWS)
    torch.save(torch.from_numpy(ROWS), folder / "plain.pt")
    torch.save({"a": torch.from_numpy(ROWS).bfloat16(), "b": [1, 2]}, folder / "dict.pt")
    write_many(folder / "plain.safetensors", {"a": ROWS})
    if importlib.util.find_spec("pyarrow"):
        columns = {"item_id": list("abcdefghijkl"), "embedding": ROWS.tolist()}
        write_parquet(folder / "plain.parquet", **columns)


def mutate(whole, generator):
    """The file cut off somewhere, or with a few bits flipped."""
    if generator.random() < 0.5:
        return whole[:generator.randrange(len(whole))]
    damaged = bytearray(whole)
    for _ in range(generator.choice((1, 1, 1, 2, 8))):
        bit = generator.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def check_mutations(folder, count, seed=0):
    """Each mutation of each file is read, or refused in one line that names it; nothing else."""
    samples(folder)
    generator = random.Random(seed)
    outcomes = {}
    for original in sorted(folder.glob("*.*")):
        whole, path = original.read_bytes(), folder / f"mutation{original.suffix}"
        for _ in range(count):
            path.write_bytes(mutate(whole, generator))
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read_all(path)
                outcome = "read"
            except ValueError as error:
                assert type(error) is ValueError
                assert str(path) in str(error) and "\n" not in str(error)
                outcome = "refused"
            assert time.perf_counter() - start < 5
            outcomes[original.name, outcome] = outcomes.get((original.name, outcome), 0) + 1
        path.unlink()
    return outcomes


def test_a_mutated_feature_file_is_read_or_refused_and_nothing_else(tmp_path):
    outcomes = check_mutations(tmp_path, 25)
    assert all(outcomes[name, "refused"] > 5 for name, _ in outcomes)


@pytest.mark.campaign
def test_thousands_of_mutated_feature_files_are_read_or_refused(tmp_path):
    print(check_mutations(tmp_path, 2000, seed=1))


def test_what_is_packed_too_small_is_refused(tmp_path):
    """6.6 MB of zeros took 13 GB, 18 kB of Parquet 3.8 GB."""
    np.savez_compressed(tmp_path / "a.npz", np.zeros((40_000, 768), np.float32))
    assert (tmp_path / "a.npz").stat().st_size < 2**18
    with pytest.raises(ValueError, match="would be 122,880,128 bytes, from a file of .*: more than 32 times as much is"):
        open_features(tmp_path / "a.npz")
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    flat = arrow.array(np.zeros(40_000 * 768, np.float32))
    table = arrow.table({"embedding": arrow.FixedSizeListArray.from_arrays(flat, 768)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2**18
    with pytest.raises(ValueError, match="would be 122,880,...? bytes, from a file of .*: more than 32 times as much is"):
        open_features(tmp_path / "a.parquet")


def test_a_parquet_file_without_all_the_rows_that_it_promises_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet
    path = tmp_path / "x.parquet"
    write_parquet(path, embedding=ROWS[:5].tolist())
    whole, found = path.read_bytes(), 0
    for place in [place for place in range(len(whole)) if whole[place] == 10]:      # 5, as the index has it
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1:])
        try:
            metadata = parquet.read_metadata(path)
            odd = metadata.num_rows == 5 and metadata.row_group(0).num_rows == 0
        except Exception:
            continue
        if odd:
            found += 1
            with pytest.raises(ValueError, match=re.escape(str(path))):
                open_features(path)
    assert found


def test_an_npz_whose_index_lies_before_the_file_is_refused_in_its_name(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, ROWS)
    content = bytearray(path.read_bytes())
    content[-6:-2] = struct.pack("<I", struct.unpack("<I", content[-6:-2])[0] + 10)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        open_features(path)
