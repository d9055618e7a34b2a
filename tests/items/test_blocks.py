"""Rows in arrays, tensors and files: every stored type, and what is refused."""

import os
import pickle
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from rqvae.items import blocks
from rqvae.items.blocks import ArrayBlock, FileBlock, MapBlock, array_block, file_block, table_shape, tensor_block

ROWS = np.random.default_rng(0).standard_normal((20, 3))
GATHER = np.array([19, 3, 3, 0, 4, 5])


def raw_file(tmp_path, array, offset=7):
    path = tmp_path / "rows.bin"
    path.write_bytes(b"x" * offset + array.tobytes("A"))
    return path, offset


@pytest.mark.parametrize("stored", ["<f4", ">f4", "<f8", ">f8", "<i2", ">i4", "|u1", "<f2", ">f2"])
def test_rows_in_a_file_equal_the_array_they_were_written_from(tmp_path, stored):
    array = (ROWS * 10 + 40).astype(stored)
    path, offset = raw_file(tmp_path, array)
    block = file_block(path, offset, array.shape, array.dtype)
    assert isinstance(block, FileBlock)
    for rows in (slice(0, 20), slice(4, 9), GATHER):
        got = block.read(rows)
        assert got.dtype.isnative and got.flags.c_contiguous and got.flags.writeable
        assert got.dtype == (np.float32 if array.dtype.itemsize == 2 and array.dtype.kind == "f"
                             else array.dtype.newbyteorder("="))
        np.testing.assert_array_equal(got, array[rows])


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    tensor = torch.tensor([[1.0, -2.5], [3.140625, 1e30], [float("inf"), 1e-40]]).bfloat16()
    bits = tensor.view(torch.int16).numpy().view("<u2")
    path, offset = raw_file(tmp_path, bits)
    block = file_block(path, offset, bits.shape, bits.dtype, bfloat16=True)
    assert block.dtype == "bfloat16"
    np.testing.assert_array_equal(block.read(slice(0, 3)), tensor.float().numpy())
    np.testing.assert_array_equal(tensor_block(tensor, "t").read(np.array([2, 0])),
                                  tensor.float().numpy()[[2, 0]])


@pytest.mark.parametrize("array", [
    np.asfortranarray(ROWS), ROWS[::-1], ROWS[::2], np.repeat(ROWS, 2, axis=1)[:, ::2],
    np.asfortranarray(ROWS).astype(np.float16), ROWS.astype(">f4")[::-1, ::-1],
], ids=["fortran", "reversed", "other rows", "other columns", "fortran half", "big-endian"])
def test_any_memory_layout_gives_contiguous_rows_of_ones_own(array):
    block = array_block(array, "the array")
    for rows in (slice(0, 10), np.array([9, 0, 0])):
        got = block.read(rows)
        assert got.flags.c_contiguous and not np.shares_memory(got, array)
        np.testing.assert_array_equal(got, array[rows])


def test_a_tensor_with_gradient_or_stride_is_read_where_it_lies():
    tensor = torch.randn(3, 20, requires_grad=True).t()
    got = tensor_block(tensor, "t").read(GATHER)
    np.testing.assert_array_equal(got, tensor.detach().numpy()[GATHER])


@pytest.mark.parametrize("stored", ["<f4", ">f8", "<f2", "<i2"])
@pytest.mark.parametrize("slow, near, piece", [(2**30, 0, 0), (0, 2**14, 2**20), (0, 4, 7), (0, 0, 1)],
                         ids=["small, so in memory", "in one piece", "in some pieces", "number by number"])
def test_columns_of_a_file_are_read_by_position(tmp_path, monkeypatch, stored, slow, near, piece):
    for name, value in (("_SLOW", slow), ("_NEAR", near), ("_PIECE", piece or 1)):
        monkeypatch.setattr(blocks, name, value)
    array = np.asfortranarray((ROWS * 10).astype(stored))
    path, offset = raw_file(tmp_path, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = file_block(path, offset, array.shape, array.dtype, fortran=True)
    assert isinstance(block, FileBlock) == (slow == 0)
    for rows in (slice(2, 8), slice(0, 20), slice(5, 6), slice(3, 3), GATHER, np.array([7])):
        got = block.read(rows)
        assert got.flags.c_contiguous and got.dtype.isnative
        np.testing.assert_array_equal(got, array[rows])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(block)).read(GATHER), array[GATHER])


@pytest.mark.parametrize("page, piece", [(2**12, 2**20), (50, 2**20), (50, 12), (0, 2**20), (2**12, 1)])
def test_rows_near_each_other_are_read_at_once_and_each_stands_where_it_was_asked_for(tmp_path, monkeypatch, page, piece):
    monkeypatch.setattr(blocks, "_PAGE", page)
    monkeypatch.setattr(blocks, "_PIECE", piece)
    array, generator = ROWS.repeat(10, axis=0) + np.arange(200)[:, None], np.random.default_rng(1)
    path, offset = raw_file(tmp_path, array)
    block = file_block(path, offset, array.shape, array.dtype)
    for rows in (np.arange(200), np.delete(np.arange(200), [5, 6, 90]), generator.integers(0, 200, 300),
                 np.array([199, 0, 0, 1, 2, 4, 3]), np.array([7]), np.empty(0, np.int64)):
        assert np.array_equal(block.read(rows), array[rows])


def test_a_large_fortran_file_is_called_slow_and_may_not_change(tmp_path):
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        file.truncate(2**31)                        # sparse: it takes no room on the disk
    with pytest.warns(UserWarning, match="large.npy is stored column by column .* np.ascontiguous"):
        block = file_block(path, 0, (2**28, 2), np.dtype("<f4"), fortran=True)
    assert not block.read(np.array([2**28 - 1, 0, 12345])).any()
    os.truncate(path, 2**30)
    with pytest.raises(ValueError, match="large.npy ends before byte .* cut short while in use"):
        block.read(slice(0, 1000))


def test_writing_to_rows_never_reaches_the_source(tmp_path):
    array = ROWS.copy()
    mapped = np.memmap(tmp_path / "map.bin", np.float64, "w+", shape=(20, 3))
    mapped[:] = ROWS
    tensor = torch.from_numpy(ROWS.copy())
    for block in (array_block(array, "a"), array_block(mapped, "m"), tensor_block(tensor, "t")):
        for rows in (slice(0, 20), np.arange(20)):
            block.read(rows)[:] = 0
            np.testing.assert_array_equal(block.read(slice(0, 20)), ROWS)


def test_what_was_written_to_a_private_map_is_not_lost(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    mapped[5] = 99
    block = array_block(mapped, "m")
    for _ in range(2):
        assert (block.read(np.array([5, 6]))[0] == 99).all()
        assert (block.read(slice(5, 6)) == 99).all()


def test_views_of_a_read_only_map_read_right_and_give_no_warning(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for view in (mapped, mapped[4:], np.asarray(mapped)[::-1], mapped[:, 1:]):
            block = array_block(view, "m")
            many = np.tile(np.arange(10), 10)       # more than are gathered from a map at once
            np.testing.assert_array_equal(block.read(many), np.array(view)[many])
            np.testing.assert_array_equal(block.read(slice(1, 7)), np.array(view)[1:7])


def test_a_file_that_shrinks_while_in_use_is_an_error_and_not_a_crash(tmp_path):
    path, offset = raw_file(tmp_path, ROWS)
    block = file_block(path, offset, ROWS.shape, ROWS.dtype)
    block.read(slice(0, 20))
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="rows.bin was changed or replaced while in use"):
        block.read(slice(0, 2))
    for rows in (slice(0, 20), np.array([0, 19])):
        with pytest.raises(ValueError, match="rows.bin ends before byte 487: it was cut short"):
            block.read(rows)


def test_a_replaced_file_does_not_change_rows_that_are_in_use(tmp_path):
    path, offset = raw_file(tmp_path, ROWS)
    block = file_block(path, offset, ROWS.shape, ROWS.dtype)
    block.read(slice(0, 1))
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)
    np.testing.assert_array_equal(block.read(slice(0, 20)), ROWS)


# ---- memory maps that somebody else made

on_linux = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="this system does not say what is mapped where")


def mapped(folder, how):
    """(a table of ROWS as float32 that lies in a map of a file, that file)."""
    path = folder / ("x.pt" if how == "torch.load" else "x.safetensors" if how == "safetensors" else "x.npy")
    rows = ROWS.astype(np.float32)
    if how == "torch.load":
        torch.save(torch.from_numpy(rows), path)
        return torch.load(path, mmap=True), path
    if how == "safetensors":
        pytest.importorskip("safetensors.torch").save_file({"x": torch.from_numpy(rows)}, path)
        return sys.modules["safetensors.torch"].load_file(path)["x"], path
    np.save(path, np.asfortranarray(rows) if how == "columns" else rows)
    array = np.load(path, mmap_mode={"read-write": "r+", "private": "c"}.get(how, "r"))
    if how == "torch":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.from_numpy(array), path
    return {"view": array[4:, 1:], "backwards": array[::-1], "every other": array[::2], "plain": np.asarray(array)}.get(how, array), path


MAPPED = ["read", "read-write", "private", "columns", "torch", "torch.load", "safetensors", "view", "backwards", "every other",
          "plain"]


def block_of(table):
    return tensor_block(table, "x") if isinstance(table, torch.Tensor) else array_block(table, "x")


@on_linux
@pytest.mark.parametrize("how", MAPPED)
def test_a_map_is_read_as_a_file_is_and_one_that_was_cut_off_is_an_error_and_no_bus_error(tmp_path, how):
    table, path = mapped(tmp_path, how)
    block, rows = block_of(table), np.array(table.numpy() if isinstance(table, torch.Tensor) else table)
    last = len(rows) - 1
    for index in (slice(1, 7), np.array([last, 0, 3, 3]), slice(0, 0)):
        np.testing.assert_array_equal(block.read(index), rows[index])
    again = pickle.loads(pickle.dumps(block))
    np.testing.assert_array_equal(again.read(slice(0, last)), rows[:last])
    assert type(block) is (MapBlock if how in ("private", "torch.load", "safetensors") else FileBlock)
    os.truncate(path, 0)
    for index in (slice(0, 5), np.array([last, 0])):
        with pytest.raises(ValueError, match=f"{path.name} .* was ?cut short while in use"):
            block.read(index)


@on_linux
def test_what_its_owner_writes_to_a_map_is_read_and_what_another_does_to_a_read_only_one_is_an_error(tmp_path):
    for how in ("read-write", "private"):
        table, _ = mapped(tmp_path, how)
        block = block_of(table)
        block.read(slice(0, 5))
        time.sleep(0.01)
        table[3] = 7
        assert (block.read(slice(3, 4)) == 7).all()
    table, path = mapped(tmp_path, "read")
    block = block_of(table)
    change(path, "written into")
    with pytest.raises(ValueError, match="x.npy was changed or replaced while in use"):
        block.read(slice(0, 5))


@on_linux
@pytest.mark.parametrize("how", ["read", "private"])
def test_a_map_of_a_file_that_has_another_name_or_none_is_read_all_the_same(tmp_path, how):
    table, path = mapped(tmp_path, how)
    rows = np.array(table)
    path.rename(tmp_path / "renamed.npy")
    np.testing.assert_array_equal(block_of(table).read(GATHER), rows[GATHER])
    np.save(path, rows * 0)                         # another file of the old name
    np.testing.assert_array_equal(block_of(table).read(GATHER), rows[GATHER])
    block = block_of(table)
    (tmp_path / "renamed.npy").unlink()
    for block in (block, block_of(table)):
        np.testing.assert_array_equal(block.read(GATHER), rows[GATHER])


@on_linux
@pytest.mark.parametrize("how", ["read", "private"])
def test_a_map_is_read_in_a_process_that_outlives_its_parent(tmp_path, how):
    table, _ = mapped(tmp_path, how)
    block, rows = block_of(table), np.array(table)
    block.read(slice(0, 2))
    heard, told = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3)                         # until the one in between is gone
            os.write(told, block.read(slice(0, 20)).tobytes())
        os._exit(0)
    os.close(told)
    os.wait()
    with os.fdopen(heard, "rb") as pipe:
        assert pipe.read() == rows.tobytes()


def test_a_disk_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    block = file_block(path, 128, ROWS.shape, ROWS.dtype)
    block._file = os.open(tmp_path, os.O_RDONLY)    # reading a folder fails as a bad disk does
    with pytest.raises(OSError, match="x.npy"):
        block.read(slice(0, 2))


def change(path, how):
    """Somebody else's doing, a moment after we have looked."""
    time.sleep(0.01)
    if how == "written into":
        with open(path, "r+b") as file:
            file.seek(200)
            file.write(b"other")
    elif how == "grown":
        with open(path, "ab") as file:
            file.write(b"more")
    elif how == "mapped":
        other = np.memmap(path, np.uint8, "r+")
        other[300] += 1
        other.flush()
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        other.replace(path)


@pytest.mark.parametrize("how", ["written into", "grown", "mapped"])
@pytest.mark.parametrize("rows", [slice(0, 5), np.array([19, 3])])
def test_a_file_that_is_written_to_while_in_use_is_an_error(tmp_path, how, rows):
    path, offset = raw_file(tmp_path, ROWS)
    block = file_block(path, offset, ROWS.shape, ROWS.dtype)
    block.read(rows)
    change(path, how)
    with pytest.raises(ValueError, match="rows.bin was changed or replaced while in use; leave it as it is"):
        block.read(rows)


@pytest.mark.parametrize("how", ["written into", "replaced"])
def test_what_was_opened_is_what_had_been_looked_at(tmp_path, how):
    """Blocks open their file at the first read, and anew in every process."""
    path, offset = raw_file(tmp_path, ROWS)
    fresh, closed = (file_block(path, offset, ROWS.shape, ROWS.dtype) for _ in range(2))
    closed.read(slice(0, 2))
    closed.close()
    change(path, how)
    for block in (fresh, closed, pickle.loads(pickle.dumps(closed))):
        with pytest.raises(ValueError, match="changed or replaced while in use"):
            block.read(slice(0, 2))


def test_a_block_travels_to_another_process_or_folder_and_can_be_closed(tmp_path, monkeypatch):
    path, offset = raw_file(tmp_path, ROWS)
    monkeypatch.chdir(tmp_path)
    block = file_block(path.name, offset, ROWS.shape, ROWS.dtype)
    monkeypatch.chdir("/")
    block.read(slice(0, 1))
    pickled = pickle.dumps(block)
    assert len(pickled) < 1000                      # the path, not the rows
    block.close()
    block.close()
    for again in (block, pickle.loads(pickled)):
        np.testing.assert_array_equal(again.read(GATHER), ROWS[GATHER])
    assert isinstance(pickle.loads(pickle.dumps(ArrayBlock(ROWS))), ArrayBlock)


@pytest.mark.parametrize("array, words", [
    (np.array([["a", "b"]]), "holds text (dtype <U1)"),
    (np.array([[b"a", b"b"]]), "holds text (dtype |S1)"),
    (np.zeros((2, 2), bool), "holds booleans (dtype |b1)"),
    (np.zeros((2, 2), complex), "holds complex numbers (dtype <c16)"),
    (np.zeros((2, 2), "M8[s]"), "holds dates (dtype <M8[s])"),
    (np.zeros((2, 2), "m8[s]"), "holds time spans"),
    (np.zeros((2, 2), [("a", "<f4")]), "holds records or raw bytes"),
    (np.zeros((2, 2), "V2"), "holds records or raw bytes (dtype |V2)"),
    (np.zeros((2, 2), np.longdouble), "holds unusual numbers"),
])
def test_what_is_not_real_numbers_is_refused_by_its_type(array, words):
    if array.dtype.itemsize == 8 and array.dtype.kind == "f":
        pytest.skip("long double is double on this machine")
    with pytest.raises(ValueError) as error:
        array_block(array, "my.npy")
    assert str(error.value).startswith(f"my.npy {words}")
    assert str(error.value).endswith("expected floats: save array.astype(np.float32)")


def test_an_object_array_is_explained_as_ragged_rows():
    ragged = np.empty(2, object)
    ragged[:] = [[1.0], [1.0, 2.0]]
    with pytest.raises(ValueError) as error:
        array_block(ragged, "x.npy")
    assert str(error.value) == (
        "x.npy holds Python objects, as numpy makes of rows of unequal length; they are never "
        "opened, because reading them can run code: give all rows one length and save "
        "np.stack(rows).astype(np.float32)")


@pytest.mark.parametrize("tensor, words", [
    (torch.zeros(2, 2, dtype=torch.bool), "holds booleans"),
    (torch.zeros(2, 2, dtype=torch.complex64), "holds complex numbers"),
    (torch.eye(2).to_sparse(), "is a sparse, quantized, nested or meta tensor"),
    (torch.zeros(2, 2, device="meta"), "is a sparse, quantized, nested or meta tensor"),
    (torch.zeros(2, 2).to(torch.float8_e4m3fn),
     "has dtype torch.float8_e4m3fn; expected floats of 16 bits or more: save tensor.float()"),
])
def test_a_tensor_that_is_no_table_is_refused(tensor, words):
    with pytest.raises(ValueError) as error:
        tensor_block(tensor, "x.pt")
    assert str(error.value).startswith(f"x.pt {words}")


def test_a_flattened_array_is_told_the_shape_that_is_expected():
    with pytest.raises(ValueError) as error:
        table_shape("x.npy", (4096000,))
    assert str(error.value) == ("x.npy has shape (4096000,); expected (items, width): "
                                "save array.reshape(-1, width)")


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4), (1, 5, 4), (5, 4, 1), (5, 1, 4, 1)])
def test_other_than_two_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"x.npy has shape \(.*\); expected \(items, width\)"):
        table_shape("x.npy", shape)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_a_table_without_rows_or_columns_is_refused(shape):
    with pytest.raises(ValueError, match="so it holds no features; expected at least one row"):
        table_shape("x.npy", shape)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_middle_axis_of_one_is_dropped_with_a_warning(order):
    array = np.array(ROWS[:, None, :], order=order)
    for make, source in ((array_block, array), (tensor_block, torch.from_numpy(array))):
        with pytest.warns(UserWarning, match=r"shape \(20, 1, 3\); its axis of size 1 is dropped"):
            block = make(source, "x")
        assert block.shape == (20, 3)
        np.testing.assert_array_equal(block.read(slice(0, 20)), ROWS)
