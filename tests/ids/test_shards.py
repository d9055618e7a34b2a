"""Parts of a table: they cover it, and fit together into what one process gives."""

from pathlib import Path

import numpy as np
import pytest

from samples import clustered
from rqvae import RqVae, open_features, save_semantic_ids
from rqvae.ids import shards
from rqvae.ids.shards import Shard, find_shards, merge_shards, parse_shard


@pytest.mark.parametrize("num_rows", [1, 1024, 1025, 5000, 10_241])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_cover_every_row_once_and_begin_at_chunks(num_rows, count):
    rows = [Shard(index, count).rows(num_rows) for index in range(1, count + 1)]
    assert [row for part in rows for row in part] == list(range(num_rows))
    assert all(part[0] % 1024 == 0 for part in rows if len(part))


def test_a_shard_is_named_by_the_output_and_parsed_from_the_option():
    assert parse_shard("2/4") == Shard(2, 4)
    assert Shard(2, 4).path("out/ids.json") == Path("out/ids.shard-002-of-004.npy")
    assert Shard(2, 4).path("out/v1.2") == Path("out/v1.2.shard-002-of-004.npy")


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "-1/4", "1/0", "2/4/8"])
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match="must be such as 2/4, the second of 4 parts"):
        parse_shard(text)


def test_more_parts_than_chunks_are_refused():
    with pytest.raises(ValueError, match="3,000 items are 3 chunks of 1024 rows, too few for 4 shards; ask for 3 or"):
        Shard(1, 4).check(3000)
    Shard(1, 3).check(3000)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_CHUNK", 16)
    model, features = RqVae(12, 16, 8, 8, num_quantizers=2), clustered(100)
    codes = model.generate_semantic_ids(features)
    for index in (1, 2, 3):
        shard = Shard(index, 3)
        save_semantic_ids(codes[shard.rows(100)], shard.path(tmp_path / "ids.json"))
    return model, open_features(features), codes, tmp_path / "ids.json"


def test_merged_parts_are_the_codes_of_one_process(parts):
    model, table, codes, output = parts
    assert np.array_equal(merge_shards(find_shards(output), output, model, table), codes.numpy())


def test_missing_parts_are_named(parts):
    *_, output = parts
    Shard(2, 3).path(output).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 parts are missing, the first .*ids.shard-002-of-003.npy; make "
                                                "it by --shard 2/3"):
        find_shards(output)
    with pytest.raises(FileNotFoundError, match="there is no .*other.shard-001-of-004.npy or the like"):
        find_shards(output.with_name("other.json"))


def test_parts_of_two_divisions_are_refused(parts):
    *_, output = parts
    save_semantic_ids([[1, 2]], Shard(1, 2).path(output))
    with pytest.raises(ValueError, match="there are parts of 2 and 3; remove"):
        find_shards(output)


def test_a_part_of_another_checkpoint_or_of_other_rows_is_refused(parts):
    model, table, codes, output = parts
    path = Shard(2, 3).path(output)
    save_semantic_ids((codes[Shard(2, 3).rows(100)] + 1) % 8, path, overwrite=True)
    with pytest.raises(ValueError, match="is not of this checkpoint and these items: 0% of its first IDs agree; make it "
                                         "again by --shard 2/3 --overwrite"):
        merge_shards(find_shards(output), output, model, table)
    save_semantic_ids(codes[:5], path, overwrite=True)
    with pytest.raises(ValueError, match="holds 5 items of 2 codes, expected 32 of 2"):
        merge_shards(find_shards(output), output, model, table)
