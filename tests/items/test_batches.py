"""Data sets and loaders: every row once, in an order that (seed, epoch) decides."""

import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rqvae.items.batches import (
    FeatureDataset, FeatureLoader, FeatureTable, open_features, sample_rows, split_rows,
)

ROWS = torch.arange(50 * 3, dtype=torch.float32).reshape(50, 3)     # row r holds 3r, 3r + 1, 3r + 2


def row_numbers(batches):
    return [(batch["features"][:, 0] / 3).int().tolist() for batch in batches]


def flat(batches):
    return sum(row_numbers(batches), [])


def counted_reads(monkeypatch):
    """A list that grows by one with each read from any table."""
    reads, rows = [], FeatureTable.rows
    monkeypatch.setattr(FeatureTable, "rows", lambda *given: reads.append(1) or rows(*given))
    return reads


@pytest.fixture(params=["tensor", "file"])
def source(request, tmp_path):
    np.save(tmp_path / "x.npy", ROWS.numpy())
    return ROWS if request.param == "tensor" else tmp_path / "x.npy"


# ---- FeatureDataset

def test_items_are_dicts_of_features(source):
    dataset = FeatureDataset(source, names=[f"item {row}" for row in range(50)], item_ids=range(50))
    assert len(dataset) == 50 and dataset.names[7] == "item 7" and dataset.table.item_ids[7] == 7
    assert torch.equal(dataset[7]["features"], ROWS[7])
    assert torch.equal(dataset[-1]["features"], ROWS[49])
    assert list(dataset[7]) == ["features"] and dataset[7]["features"].dtype == torch.float32
    with pytest.raises(IndexError):
        dataset[50]
    assert len(list(dataset)) == 50                 # iteration ends


def test_a_plain_data_loader_gets_every_row_in_one_gather_a_batch(source, monkeypatch):
    dataset = FeatureDataset(source)
    gathers = counted_reads(monkeypatch)
    batches = list(DataLoader(dataset, batch_size=16, shuffle=True))
    assert sorted(flat(batches)) == list(range(50)) and len(gathers) == 4
    batches = [batch["features"] for batch in DataLoader(dataset, batch_size=16)]
    assert torch.equal(torch.cat(batches), ROWS)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_with_workers_works(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    np.save(tmp_path / "x.npy", ROWS.numpy())
    dataset = FeatureDataset(tmp_path / "x.npy")
    dataset[0]                                      # the file is open when workers start
    loader = DataLoader(dataset, batch_size=16, num_workers=1, multiprocessing_context=method)
    assert flat(loader) == list(range(50))


def test_names_of_another_number_are_refused():
    with pytest.raises(ValueError, match="names has 2 entries, the features tensor has 50 rows"):
        FeatureDataset(ROWS, names=["a", "b"])


# ---- FeatureLoader

@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_every_row_comes_once_and_the_last_batch_may_be_short(source, batch_size):
    for shuffle in (False, True):
        loader = FeatureLoader(source, batch_size, shuffle=shuffle)
        batches = row_numbers(loader)
        assert sorted(sum(batches, [])) == list(range(50)) and loader.num_rows == 50
        assert len(loader) == len(batches)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert shuffle or sum(batches, []) == list(range(50))
    batch = next(iter(loader))["features"]
    assert batch.dtype == torch.float32 and batch.is_contiguous()


def test_the_order_is_a_function_of_seed_and_epoch_alone(source):
    loader = FeatureLoader(source, 8, shuffle=True, seed=3)
    first = flat(loader)
    assert flat(loader) == first                    # until set_epoch
    loader.set_epoch(1)
    second = flat(loader)
    torch.manual_seed(123)
    again = FeatureLoader(source, 16, shuffle=True, seed=3)
    assert flat(again) == first
    again.set_epoch(1)
    assert flat(again) == second != first
    orders = set()
    for seed in range(4):
        for epoch in range(4):
            loader = FeatureLoader(ROWS, 50, shuffle=True, seed=seed)
            loader.set_epoch(epoch)
            orders.add(tuple(flat(loader)))
    assert len(orders) == 16                        # (0, 1) is not (1, 0)


def test_a_loader_leaves_the_global_random_state_alone(source):
    before = torch.get_rng_state()
    list(FeatureLoader(source, 8, shuffle=True))
    split_rows(50, 0.2, 0)
    sample_rows(source, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rows", [None, torch.arange(49, 4, -2)])
def test_an_epoch_taken_up_in_the_middle_reads_only_the_rest(source, shuffle, rows, monkeypatch):
    loader = FeatureLoader(source, 8, shuffle=shuffle, rows=rows)
    loader.set_epoch(5)
    whole = row_numbers(loader)
    reads = counted_reads(monkeypatch)
    for start in range(len(whole) + 2):
        reads.clear()
        assert row_numbers(loader.batches_from(start)) == whole[start:]
        assert len(reads) == len(whole[start:])
    with pytest.raises(ValueError, match="start must be at least 0, got -1"):
        loader.batches_from(-1)


def test_an_epoch_that_has_begun_keeps_its_order():
    loader = FeatureLoader(ROWS, 8, shuffle=True)
    expected = flat(loader)
    batches = iter(loader)
    first = next(batches)
    loader.set_epoch(1)
    assert flat([first, *batches]) == expected


def test_a_subset_of_rows_is_all_that_is_seen(source):
    rows = torch.tensor([4, 40, 3, 17, 8])
    loader = FeatureLoader(source, 2, rows=rows)
    assert row_numbers(loader) == [[4, 40], [3, 17], [8]]
    assert (len(loader), loader.num_rows) == (3, 5)
    shuffled = FeatureLoader(source, 2, rows=rows.tolist(), shuffle=True)
    assert sorted(flat(shuffled)) == [3, 4, 8, 17, 40]
    nothing = FeatureLoader(source, 2, rows=torch.empty(0, dtype=torch.int64))
    assert (len(nothing), nothing.num_rows, list(nothing)) == (0, 0, [])


def test_batches_are_the_callers_to_change(source):
    for rows in (None, torch.arange(50)):
        loader = FeatureLoader(source, 20, rows=rows)
        for batch in loader:
            batch["features"].zero_()
        assert flat(loader) == list(range(50))


def test_a_data_set_is_taken_like_its_table():
    dataset = FeatureDataset(ROWS)
    assert FeatureLoader(dataset, 8).table is dataset.table is FeatureLoader(dataset.table, 8).table


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None, True])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got"):
        FeatureLoader(ROWS, batch_size)


@pytest.mark.parametrize("row", [50, -1])
def test_rows_outside_the_table_are_refused_before_any_work(row):
    for use in (FeatureLoader, sample_rows):
        with pytest.raises(IndexError, match=f"features tensor has 50 rows; there is no row {row}"):
            use(ROWS, 8, rows=[0, row])


def test_the_fingerprint_of_a_loader_tells_data_rows_order_and_batch_size():
    def fingerprint(features=ROWS, batch_size=8, **options):
        return FeatureLoader(features, batch_size, **options).fingerprint()

    assert fingerprint() == fingerprint(ROWS.clone()) == fingerprint(seed=5)    # no order to draw
    others = [fingerprint(), fingerprint(ROWS + 1), fingerprint(batch_size=9),
              fingerprint(rows=[1, 2]), fingerprint(rows=[2, 1]),
              fingerprint(shuffle=True), fingerprint(shuffle=True, seed=5)]
    assert len(set(others)) == len(others)


def test_reading_a_read_only_map_gives_no_warning(tmp_path):
    np.save(tmp_path / "x.npy", ROWS.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (tmp_path / "x.npy", np.load(tmp_path / "x.npy", mmap_mode="r")):
            assert flat(FeatureLoader(source, 8)) == list(range(50))
            assert flat(DataLoader(FeatureDataset(source), batch_size=8)) == list(range(50))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows", [None, [4, 40, 3, 17, 8]])
def test_batches_on_a_device_equal_those_on_the_cpu(source, fits, shuffle, rows, monkeypatch):
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 100))
    there = FeatureLoader(source, 8, shuffle=shuffle, rows=rows, device="cuda")
    assert (there._resident is not None) == fits
    for _ in range(2):
        batches = list(there)
        assert {batch["features"].device.type for batch in batches} == {"cuda"}
        here = FeatureLoader(source, 8, shuffle=shuffle, rows=rows)
        assert row_numbers(batches) == row_numbers(here)
        for batch in batches:
            batch["features"].zero_()               # reaches no later epoch


def test_without_room_on_the_device_rows_stay_where_they_are(monkeypatch):
    """The choice itself, on any machine; the copies need a device."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * ROWS.nbytes, 10**9))
    loader = FeatureLoader(ROWS, 8)
    assert loader._placed() is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * ROWS.nbytes + 1, 10**9))
    assert torch.equal(loader._placed(), ROWS)


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 40, 3, 17, 8])])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_that_were_placed_give_the_batches_of_those_that_were_not(rows, shuffle):
    plain, placed = (FeatureLoader(ROWS, 8, shuffle=shuffle, rows=rows) for _ in range(2))
    placed._resident = ROWS.clone() if rows is None else ROWS[rows]
    for epoch in range(2):
        plain.set_epoch(epoch)
        placed.set_epoch(epoch)
        assert row_numbers(placed) == row_numbers(plain)
        for batch in placed:
            batch["features"].zero_()


# ---- split_rows and sample_rows

@pytest.mark.parametrize("num_rows, val_fraction, held_out", [
    (1000, 0.05, 50), (1000, 0, 0), (10, 0.001, 1), (10, 0.999, 9), (2, 0.5, 1), (2, 0.01, 1),
    (1, 0.5, 0), (0, 0.5, 0), (3686, 0.05, 184),
])
def test_a_split_has_every_row_on_one_side(num_rows, val_fraction, held_out):
    train, val = split_rows(num_rows, val_fraction, seed=0)
    assert len(val) == held_out and train.dtype == val.dtype == torch.int64
    for side in (train, val):
        assert torch.equal(side, side.unique())     # sorted, each once
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(num_rows))


def test_a_split_is_decided_by_its_seed():
    assert torch.equal(split_rows(1000, 0.1, 7)[1], split_rows(1000, 0.1, 7)[1])
    assert not torch.equal(split_rows(1000, 0.1, 7)[1], split_rows(1000, 0.1, 8)[1])


@pytest.mark.parametrize("val_fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(val_fraction):
    with pytest.raises(ValueError, match="val_fraction must be at least 0 and below 1, got"):
        split_rows(10, val_fraction, 0)


def test_a_sample_has_no_row_twice_and_keeps_the_order_of_the_table(source):
    sample = sample_rows(source, 20, seed=1)
    numbers = row_numbers([{"features": sample}])[0]
    assert sample.shape == (20, 3) and sample.dtype == torch.float32
    assert numbers == sorted(set(numbers)) and numbers != list(range(20))
    assert torch.equal(sample, sample_rows(open_features(source), 20, seed=1))
    assert not torch.equal(sample, sample_rows(source, 20, seed=2))


def test_a_sample_of_more_rows_than_there_are_is_all_of_them(source):
    for max_rows in (50, 51, 10**9):
        assert torch.equal(sample_rows(source, max_rows), ROWS)
    assert torch.equal(sample_rows(source, 10, rows=torch.tensor([40, 3])), ROWS[[3, 40]])


def test_a_sample_of_some_rows_draws_from_those_alone(source):
    rows = torch.arange(1, 50, 2)
    numbers = row_numbers([{"features": sample_rows(source, 10, rows=rows)}])[0]
    assert len(numbers) == 10 and set(numbers) <= set(rows.tolist())


def test_each_row_is_as_likely_to_be_drawn_as_another():
    counts = torch.zeros(50)
    for seed in range(2000):
        counts[(sample_rows(ROWS, 5, seed=seed)[:, 0] / 3).long()] += 1
    assert (counts - 200).abs().max() < 6 * (2000 * 0.1 * 0.9) ** 0.5


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match="max_rows must be at least 1, got 0"):
        sample_rows(ROWS, 0)
