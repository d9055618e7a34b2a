"""Checksums of rows, by sums in Python's own integers."""

import hashlib
import zlib

import numpy as np
import pytest

from rqvae import open_features
from rqvae.collisions import row_sums
from rqvae.items.checksums import BlockChecksums
from rqvae.items.tables import TableRows

ROWS = np.random.default_rng(0).standard_normal((2500, 6)).astype(np.float32)
FACTORS = np.frombuffer(hashlib.shake_128(b"words of a row").digest(8 * 3), "<u8") | 1


@pytest.mark.parametrize("width", [1, 2, 5, 6])
def test_a_row_s_sum_is_that_of_words_times_odd_factors(width):
    rows = np.ascontiguousarray(ROWS[:7, :width])
    drawn = hashlib.shake_128(b"words of a row").digest(8 * 3)
    for row, found in zip(rows, row_sums(rows).tolist()):
        stored = row.tobytes() + bytes(4 * (width % 2))
        words = [int.from_bytes(stored[place:place + 8], "little") for place in range(0, len(stored), 8)]
        factors = [int.from_bytes(drawn[place:place + 8], "little") | 1 for place in range(0, len(drawn), 8)]
        assert found == sum((word ^ word >> 29) * factor for word, factor in zip(words, factors)) % 2**64


def test_a_checksum_is_of_the_crc_of_each_thousand_rows():
    blocks = [zlib.crc32(row_sums(ROWS[first:first + 1024]).tobytes()) for first in range(0, 2500, 1024)]
    content = b"2500 6" + b"".join(crc.to_bytes(4, "little") for crc in blocks)
    expected = "3:" + hashlib.blake2b(content, digest_size=16).hexdigest()
    table = open_features(ROWS)
    assert table.checksum() == expected == open_features(ROWS.astype(">f4")).checksum()
    assert table.has_checksum(expected) and not open_features(ROWS[:-1]).has_checksum(expected)


def test_every_bit_and_the_place_of_every_number_counts():
    before = open_features(ROWS).checksum()
    for bit in range(32):
        other = ROWS.copy()
        other.view(np.uint32)[1700, 3] ^= np.uint32(1 << bit)
        assert open_features(other).checksum(range(0, 2500)) != before
    for one, two in [((0, 0), (0, 1)), ((5, 2), (5, 4)), ((1023, 5), (1024, 0)), ((3, 1), (2400, 1))]:
        other = ROWS.copy()
        other[one], other[two] = ROWS[two], ROWS[one]
        assert open_features(other).checksum() != before


@pytest.mark.parametrize("turned", [[1, 5], [1, 3], [0, 1, 2, 3], list(range(6)), [0, 4]], ids=str)
@pytest.mark.parametrize("change", [np.negative, lambda x: 2 * x, lambda x: x / 2, lambda x: x[:, ::-1], np.abs],
                         ids=["signs", "doubled", "halved", "order", "absolute"])
def test_what_is_done_to_whole_columns_counts(change, turned):
    """As an analysis made again does it: the signs of its columns are anybody's."""
    other = ROWS.copy()
    other[:, turned] = change(ROWS[:, turned])
    assert not (row_sums(other) == row_sums(ROWS)).any() or change is np.abs
    assert open_features(other).checksum() != open_features(ROWS).checksum()


def test_rows_in_another_order_or_some_of_them_have_their_own_checksum():
    numbers = np.random.default_rng(1).permutation(2500)[:1500]
    for table in (open_features(ROWS), open_features({"a": ROWS[:, :2], "b": ROWS[:, 2:]})):
        assert table.checksum(numbers) == open_features(ROWS[numbers]).checksum()
        assert table.checksum(np.arange(2500), form="2:") == table.checksum(form="2:") != table.checksum()


@pytest.mark.parametrize("form, content", [("", lambda rows: rows), ("2:", lambda rows: rows.view("<u8") @ FACTORS)], ids=["1.1", "1.2"])
def test_what_earlier_versions_recorded_is_still_known(form, content):
    """By its own arithmetic: the CRC of the rows themselves, or of the sums of their words as they are."""
    content = b"2500 6" + b"".join(zlib.crc32(content(ROWS[first:first + 1024]).tobytes()).to_bytes(4, "little")
                                   for first in range(0, 2500, 1024))
    recorded = form + hashlib.blake2b(content, digest_size=16).hexdigest()
    table = open_features(ROWS)
    assert table.has_checksum(recorded) and table.checksum(form=form) == recorded
    assert not open_features(ROWS[::-1]).has_checksum(recorded)
    assert open_features({"a": ROWS[:, :2], "b": ROWS[:, 2:]}).has_checksum(recorded)
    part = table.checksum(range(1024, 2048), form=form)
    assert table.has_checksum(part, range(1024, 2048)) and not table.has_checksum(part, range(1024, 2500))
    assert not table.has_checksum(None) and not table.has_checksum("")


def test_pieces_of_any_size_make_the_same():
    whole, pieces = BlockChecksums(), BlockChecksums()
    whole.add(0, ROWS)
    for first in range(0, 2500, 300):
        pieces.add(first, ROWS[first:first + 300])
    assert whole.of(range(2500), 6) == pieces.of(range(2500), 6) is not None


class Unreadable:
    def read(self, rows):
        raise AssertionError("the rows are read once more")


@pytest.mark.filterwarnings("ignore:the features array has")
@pytest.mark.parametrize("width", [1, 5, 6])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_who_has_the_same_features_is_known_from_the_pass_that_looks_at_them(kind, width):
    """Whatever the signs of zeros, which a checksum tells apart; and no row is read for it again."""
    rows = np.random.default_rng(2).integers(-1, 2, (3000, width)).astype(kind)
    rows[:5] = np.array([-0.0, 0.0, -0.0, 1.0, -1.0])[:, None]
    rows[2900:] *= -1
    table, numbers = open_features(rows), np.arange(2999, -1, -3)
    read = table.row_keys(numbers)
    table.check()
    table._blocks = [Unreadable()]
    keys = table.row_keys(numbers)
    assert (keys == read).all()
    assert (TableRows(table, [5, 2999, 0]).row_keys([1, 0]) == table.row_keys(np.array([2999, 5]))).all()
    _, groups = np.unique(rows[numbers] + 0, axis=0, return_inverse=True)
    pairs = set(zip(keys.tolist(), groups.tolist()))
    assert len(pairs) == len(set(keys.tolist())) == len(set(groups.tolist()))


def test_equal_features_of_a_table_that_was_seen_in_part_are_read():
    table = open_features(ROWS)
    expected = table.row_keys(np.arange(2500))
    table.check(rows=range(1024, 2500))
    table.checksum(range(1500))
    assert (table.row_keys(np.arange(2500)) == expected).all()
    parts = open_features({"a": ROWS[:, :2], "b": ROWS[:, 2:]})
    parts.check()
    assert (parts.row_keys(np.arange(2500)) == expected).all()
