"""Tables: rows of files, shards and arrays, what a check says of them, and their item IDs."""

import io
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rqvae.items.blocks import NoRows
from rqvae.items.tables import open_features

ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)


def shards(folder, sizes=(7, 1, 12, 10)):
    """part_8.npy, part_9.npy, part_10.npy, ...: their names sort otherwise than their numbers."""
    folder.mkdir(exist_ok=True)
    start = 0
    for number, size in enumerate(sizes, start=8):
        np.save(folder / f"part_{number}.npy", ROWS[start:start + size])
        start += size
    return folder


def refused(source, error=ValueError, **options):
    with pytest.raises(error) as caught:
        open_features(source, **options)
    assert caught.type is error and "\n" not in str(caught.value)
    return str(caught.value)


def complaint(source):
    with pytest.raises(ValueError) as caught:
        open_features(source).check(chunk_rows=4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def warned(source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_features(source).check(chunk_rows=4)
    assert {warning.filename for warning in caught} <= {__file__}       # each points at the caller
    return [str(warning.message) for warning in caught]


# ---- rows

@pytest.fixture(params=["file", "shards", "array", "tensor", "map", "many shards"])
def table(request, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    return open_features({
        "file": lambda: path,
        "shards": lambda: shards(tmp_path / "s"),
        "many shards": lambda: shards(tmp_path / "m", [1] * 30),
        "array": lambda: ROWS,
        "tensor": lambda: torch.from_numpy(ROWS),
        "map": lambda: np.load(path, mmap_mode="r"),
    }[request.param]())


@pytest.mark.parametrize("index", [
    slice(None), slice(5, 21), slice(7, 8), slice(9, 3), slice(40, 50), slice(-3, None),
    slice(0, 30, 7), slice(None, None, -1), [], [0], [29, 0, 7, 8, 8, 19, 20], [-1, -30],
    np.array([3, 1], np.int32), np.array([], np.int64), torch.tensor([29, 3, 3]), torch.arange(30),
    (5, 6), range(4, 9),
], ids=str)
def test_rows_are_those_that_numpy_would_give(table, index):
    got = table.rows(index)
    key = index if isinstance(index, slice) else np.asarray(index).astype(np.int64)
    assert got.dtype == torch.float32 and got.is_contiguous() and got.device.type == "cpu"
    np.testing.assert_array_equal(got.numpy(), ROWS[key])
    got.fill_(7)                                    # its owner may write to it
    np.testing.assert_array_equal(table.rows(slice(None)).numpy(), ROWS)


@pytest.mark.parametrize("index, words", [
    ([30], "there is no row 30 in a table of 30 rows"), ([0, -31], "there is no row -31"),
    ([1.5], "got float64"), (["a"], "flat list of integers"),
    (np.ones(30, bool), "row numbers must be a flat list of integers, got bool of shape (30,)"),
    (torch.zeros(2, 2, dtype=torch.int64), "got int64 of shape (2, 2)"),
])
def test_row_numbers_that_are_none_are_refused(table, index, words):
    with pytest.raises(IndexError, match=re.escape(words)):
        table.rows(index)


def test_a_table_says_what_it_is(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, ROWS.astype(np.float16))
    table = open_features(path)
    assert (table.shape, table.dtype, len(table)) == ((30, 4), "float16", 30)
    assert table.source == path and table.item_ids is None
    assert repr(table) == f"FeatureTable({path}: 30 x 4 float16)"
    assert open_features(table) is table
    assert open_features(torch.from_numpy(ROWS).bfloat16()).dtype == "bfloat16"


def test_a_table_goes_to_other_processes_without_its_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.tile(ROWS, (1000, 1)))
    table = open_features(tmp_path / "x.npy")
    table.rows([1])
    pickled = pickle.dumps(table)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).rows([29, 2]).numpy(), ROWS[[29, 2]])


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", ">f8", "<i8", "|u1"])
def test_every_stored_type_comes_as_float32(tmp_path, dtype):
    stored = (ROWS * 10 + 50).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    np.testing.assert_array_equal(open_features(tmp_path / "x.npy").rows([4, 3]).numpy(),
                                  stored[[4, 3]].astype(np.float32))


def test_float64_beyond_float32_is_refused_in_rows_and_in_check():
    features = ROWS.astype(np.float64)
    features[20, 1] = -1e39
    table = open_features(features)
    table.rows(slice(0, 20))
    for index in (slice(None), [20]):
        with pytest.raises(ValueError, match="features array has numbers that overflow float32"):
            table.rows(index)
    assert "has numbers as large as 1e+39, whose squares overflow float32" in complaint(features)


# ---- sources

def test_shards_are_one_table_in_natural_order(tmp_path):
    folder = shards(tmp_path / "s")
    (folder / ".hidden.npy").write_bytes(b"")
    (folder / "notes.txt").write_text("not a shard")
    for source in (folder, str(folder), folder / "part_*.npy", str(folder / "part_?*.npy")):
        table = open_features(source)
        assert table.shape == (30, 4)
        np.testing.assert_array_equal(table.rows(slice(None)).numpy(), ROWS)
    assert table.source == f"{folder / 'part_8.npy'} and 3 more"


def test_a_list_of_shards_keeps_its_own_order(tmp_path):
    folder = shards(tmp_path / "s", (10, 20))
    table = open_features([folder / "part_9.npy", str(folder / "part_8.npy")])
    expected = np.concatenate([ROWS[10:], ROWS[:10]])
    np.testing.assert_array_equal(table.rows(slice(None)).numpy(), expected)


def test_more_shards_than_files_may_be_open_work(tmp_path):
    resource = pytest.importorskip("resource")
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(200):
        np.save(folder / f"{number}.npy", ROWS[:2] + number)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        table = open_features(folder)
        table.check()
        assert torch.equal(table.rows(torch.arange(0, 400, 2)), torch.from_numpy(
            np.stack([ROWS[0] + np.float32(number) for number in range(200)])))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_shards_of_other_types_or_formats_make_one_table(tmp_path):
    folder = shards(tmp_path / "s", (10, 10))
    torch.save(torch.from_numpy(ROWS[20:]).half(), folder / "rest.pt")
    table = open_features([folder / "part_8.npy", folder / "part_9.npy", folder / "rest.pt"])
    assert table.dtype == "float16 and float32"
    np.testing.assert_allclose(table.rows(slice(None)).numpy(), ROWS, atol=2e-3)
    assert refused(folder) == (f"{folder} is a folder of .npy and .pt files; say which with a glob "
                               f"such as '{folder}{os.sep}*.npy'")


def test_shards_of_two_widths_name_the_one_that_differs(tmp_path):
    folder = shards(tmp_path / "s", (10, 10))
    np.save(folder / "part_9.npy", ROWS[:, :3])
    first, second = folder / "part_8.npy", folder / "part_9.npy"
    assert refused(folder) == f"{second} has 3 columns, {first} has 4; expected shards of one width"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_parts_without_rows_are_passed_over(tmp_path, suffix):
    folder = tmp_path / "parts"
    folder.mkdir()

    def write(number, rows):
        path = folder / f"part_{number}{suffix}"
        if suffix == ".npy":
            np.save(path, rows)
        elif suffix == ".npz":
            np.savez(path, x=rows)
        elif suffix == ".pt":
            torch.save(torch.from_numpy(rows), path)
        else:
            pytest.importorskip("safetensors.numpy").save_file({"x": rows}, path)

    for number, rows in enumerate([ROWS[:0], ROWS[:10], ROWS[:0], ROWS[10:], ROWS[:0]]):
        write(number, rows)
    table = open_features(folder)
    np.testing.assert_array_equal(table.rows(slice(None)).numpy(), ROWS)
    for number in (1, 3):
        write(number, ROWS[:0])
    assert "has shape (0, 4), so it holds no features" in refused(folder, NoRows)
    write(3, ROWS[:, :3])
    write(4, ROWS)
    assert refused(folder) == (f"{folder / f'part_4{suffix}'} has 4 columns, {folder / f'part_3{suffix}'} has 3; expected shards "
                               "of one width")


def test_a_part_that_pandas_wrote_without_rows_has_columns_of_no_type(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    parquet.write_table(pyarrow.table({"embedding": pyarrow.array(ROWS.tolist())}), tmp_path / "part_1.parquet")
    parquet.write_table(pyarrow.table({"embedding": pyarrow.nulls(0)}), tmp_path / "part_2.parquet")
    assert len(open_features(tmp_path)) == 30
    assert "so it holds no features" in refused(tmp_path / "part_2.parquet", NoRows)


def test_a_missing_source_offers_names_or_says_what_was_looked_for(tmp_path):
    np.save(tmp_path / "features.npy", ROWS)
    assert "did you mean features.npy?" in refused(tmp_path / "featurs.npy", FileNotFoundError)
    assert refused(tmp_path / "*.pt", FileNotFoundError) == f"no file matches {tmp_path / '*.pt'}"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", IsADirectoryError) == (
        f"{tmp_path / 'empty'} is a folder without feature files; expected a file or a folder of "
        "files that end in .npy, .npz, .pt, .pth, .safetensors, .parquet")


def test_a_file_with_glob_signs_in_its_name_is_opened(tmp_path):
    np.save(tmp_path / "x[1]*.npy", ROWS)
    assert len(open_features(tmp_path / "x[1]*.npy")) == 30


@pytest.mark.parametrize("source, words", [
    (None, "got NoneType"), (5, "got int"), ([], "a list must hold paths"),
    ([[1.0, 2.0]], "a list must hold paths; for features themselves use np.array(rows)"),
    ({}, "got dict"), ({"a": 1}, "got int"), (io.BytesIO(), "got BytesIO"),
])
def test_what_is_no_source_is_refused(source, words):
    assert words in refused(source, TypeError)


def test_a_key_chooses_and_is_refused_where_there_is_nothing_to_choose(tmp_path):
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS[:5])
    assert open_features(tmp_path / "x.npz", key="b").shape == (5, 4)
    for source in (ROWS, torch.from_numpy(ROWS), open_features(ROWS)):
        assert refused(source, key="a") == (
            "key='a' names a part of a file, but the features are no file; leave it out")


def test_arrays_in_memory_are_held_to_the_same_rules():
    assert refused(ROWS.reshape(-1)).startswith(
        "the features array has shape (120,); expected (items, width)")
    assert refused(torch.zeros(3, 4) > 0).startswith("the features tensor holds booleans")
    with pytest.warns(UserWarning, match="its axis of size 1 is dropped"):
        assert open_features(ROWS[:, None]).shape == (30, 4)


# ---- item IDs

def test_item_ids_are_given_to_a_copy_of_the_table(tmp_path):
    (tmp_path / "ids.txt").write_text("\n".join(f"i{row}" for row in range(30)))
    plain = open_features(ROWS)
    named = open_features(plain, item_ids=tmp_path / "ids.txt")
    assert plain.item_ids is None and named.item_ids[29] == "i29"
    assert open_features(named) is named
    assert open_features(named, item_ids=range(30)).item_ids[:2] == [0, 1]
    message = refused(ROWS, item_ids=range(29))
    assert "item_ids has 29 item IDs, the features have 30 rows" in message


def test_item_ids_of_parquet_shards_are_joined_and_checked(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(name, rows, ids):
        columns = {"embedding": ROWS[rows].tolist(), **({"pid": ids} if ids else {})}
        parquet.write_table(pyarrow.table(columns), tmp_path / name)

    write("part_1.parquet", slice(0, 10), list(range(10)))
    write("part_2.parquet", slice(10, 30), list(range(10, 30)))
    table = open_features(tmp_path)
    assert table.item_ids == list(range(30))
    np.testing.assert_array_equal(table.rows([5, 15]).numpy(), ROWS[[5, 15]])
    assert open_features(tmp_path, item_ids=[f"i{row}" for row in range(30)]).item_ids[0] == "i0"
    write("part_2.parquet", slice(10, 30), list(range(9, 29)))
    assert "has the item ID '9' 2 times, first for row 9" in refused(tmp_path)
    write("part_2.parquet", slice(10, 30), None)
    assert refused(tmp_path) == (f"{tmp_path / 'part_2.parquet'} has no item IDs, other shards "
                                 "have; give item_ids for all")


# ---- check

def test_good_features_pass_without_a_word(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chunk_rows in (None, 1, 7, 100):
            table.check(chunk_rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ">f4"])
def test_rows_with_nan_or_inf_are_counted_and_the_first_are_listed(tmp_path, dtype):
    features = ROWS.astype(dtype)
    features[17, 2], features[3, 0], features[21] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "x.npy", features)
    assert complaint(tmp_path / "x.npy") == (
        f"{tmp_path / 'x.npy'} has NaN or Inf in 3 of 30 rows (3, 17, 21); "
        "repair or remove those rows")
    features[:] = np.nan
    assert "has NaN or Inf in 30 of 30 rows (0, 1, 2, 3, 4, 5, 6, 7, ...)" in complaint(features)


def test_a_part_of_a_table_is_checked_alone():
    features = ROWS.copy()
    features[17, 2], features[25] = np.nan, 0
    table = open_features(features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.check(rows=range(0, 17))
        table.check(4, range(18, 25))
    with pytest.raises(ValueError, match=r"the features array, rows 10 to 19, has NaN or Inf in 1 of 10 rows \(17\)"):
        table.check(rows=range(10, 20))
    with pytest.warns(UserWarning, match=r"array, rows 20 to 29, has 1 row of zeros only \(25\)"):
        table.check(rows=range(20, 30))


def test_broken_rows_of_shards_are_numbered_through(tmp_path):
    folder = shards(tmp_path / "s", (10, 20))
    rows = ROWS[10:].copy()
    rows[5] = np.nan
    np.save(folder / "part_9.npy", rows)
    assert "part_8.npy and 1 more has NaN or Inf in 1 of 30 rows (15)" in complaint(folder)


@pytest.mark.parametrize("value", [1e30, -1e30, 2e15])
def test_huge_numbers_are_refused_with_advice(value):
    features = ROWS.copy()
    features[9, 3] = value
    assert complaint(features) == (
        f"the features array has numbers as large as {abs(value):.2g}, whose squares overflow "
        "float32; scale the features first, to rows of length 1 for example")
    features[9, 3] = 9e14
    assert warned(features) == []
    assert "as large as 9.2e+18" in complaint(np.full((3, 2), np.iinfo(np.int64).min))


def test_integers_are_used_with_a_warning():
    assert warned(np.arange(60).reshape(30, 2)) == [
        "the features array has integer features (int64), used as numbers, "
        "which is wrong if they are item numbers or codes"]


def test_rows_that_are_all_equal_are_warned_of():
    assert warned(np.tile(ROWS[0], (30, 1))) == [
        "the features array has 30 rows that are all equal; all items will get one semantic ID"]
    assert warned(ROWS[:1]) == []                   # one row cannot differ


def test_constant_columns_and_rows_of_zeros_are_warned_of():
    features = ROWS.copy()
    features[:, 2] = 0
    features[[5, 29]] = 0
    assert warned(features) == [
        "the features array has 1 constant columns of 4 (2); they tell no item from another",
        "the features array has 2 rows of zeros only (5, 29); these items will get one semantic ID"]
    features = np.hstack([ROWS, np.ones((30, 20), np.float32)])
    assert "has 20 constant columns of 24 (4, 5, 6, 7, 8, 9, 10, 11, ...)" in warned(features)[0]
    assert len(warned(np.zeros((30, 4), np.float32))) == 2


# ---- checksum

def test_the_same_content_has_the_same_checksum_wherever_it_lies(table):
    assert table.checksum() == open_features(ROWS).checksum() == open_features(ROWS.astype(np.float64)).checksum()
    assert re.fullmatch("3:[0-9a-f]{32}", table.checksum())


def test_any_change_of_shape_order_or_number_changes_the_checksum():
    other = ROWS.copy()
    other[13, 2] = np.nextafter(other[13, 2], np.float32(10))
    variants = [ROWS, other, ROWS[::-1], ROWS[:-1], ROWS.reshape(15, 8), ROWS[:, ::-1]]
    assert len({open_features(variant).checksum() for variant in variants}) == len(variants)


@pytest.mark.parametrize("row", [0, 1023, 1024, 7777, 49_998, 49_999])
def test_every_row_of_a_long_table_counts_in_its_checksum(row):
    """Of 40,000 rows 35,904 could be others unnoticed, when 4,096 stood for all."""
    long = np.zeros((50_000, 2), np.float32)
    before = open_features(long).checksum()
    long[row, 1] = 1e-30
    assert open_features(long).checksum() != before


def test_the_checksum_rides_on_the_check_whatever_its_pieces(monkeypatch, tmp_path):
    rows = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    for part in range(3):
        np.save(tmp_path / f"{part}.npy", rows[2000 * part:2000 * part + 2000])
    expected = open_features(rows).checksum()
    for source, chunk_rows in [(rows, 1), (rows, 1000), (rows, 4096), (str(tmp_path), 777)]:
        table = open_features(source)
        table.check(chunk_rows)
        with monkeypatch.context() as patched:
            patched.setattr(type(table), "_chunks", None)       # no second pass
            assert table.checksum() == expected
            assert table.checksum(range(2048, 5000))
    assert table.checksum(range(2048, 5000)) == open_features(rows[2048:]).checksum()


def test_a_part_has_a_checksum_of_its_own():
    rows = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    table = open_features(rows)
    table.check(rows=range(1024, 3072))
    assert table.checksum(range(1024, 3072)) == open_features(rows[1024:3072]).checksum()
    table.check(rows=range(7, 9))                               # of which nobody asks for a checksum
    with pytest.raises(ValueError, match="rows begin at 7; a checksum begins at a multiple of 1024"):
        table.checksum(range(7, 9))


def test_numbers_beyond_float32_have_a_checksum_all_the_same():
    assert open_features(np.array([[1e300]])).checksum() == open_features(np.array([[np.inf]])).checksum()


# ---- larger than memory

LARGER = """
import os, re, resource, sys
import numpy as np, torch
from rqvae.items.batches import FeatureLoader, open_features, sample_rows

def resident():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

table = open_features(np.load(sys.argv[1], mmap_mode="r") if sys.argv[2] == "map" else sys.argv[1])
table.rows([0])
before = resident()
for batch in FeatureLoader(table, 1024): pass
for number, batch in zip(range(50), FeatureLoader(table, 1024, shuffle=True)): pass
sample_rows(table, 2000)
table.checksum()
try:
    table.check()
except ValueError as error:
    assert "as large as 1e+20" in str(error)
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory use from /proc")
@pytest.mark.parametrize("how", ["path", "map"])
@pytest.mark.parametrize("rows", [300_000, pytest.param(6_600_000, marks=pytest.mark.campaign)])
def test_memory_stays_flat_whatever_the_size_of_the_file(tmp_path, how, rows):
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, 768)})
        start = file.tell()
        file.truncate(start + rows * 768 * 4)       # 0.9 or 20 GB, sparse: no room on the disk
        file.seek(start + 222_222 * 768 * 4)
        file.write(np.float32(1e20).tobytes())
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", LARGER, str(path), how],
                            capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 150               # MB


def test_rows_are_looked_at_as_they_are_used():
    small = np.full((5, 3), 1e-300)
    small[1] = 1.0
    with pytest.warns(UserWarning, match="4 rows of zeros only"):
        open_features(small).check()
