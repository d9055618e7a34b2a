"""Small files that would unpack to much: every reader of Parquet refuses them by both sizes, before the memory is full."""

import numpy as np
import pytest

from rqvae.ids.imports import import_semantic_ids
from rqvae.items.identifiers import load_item_ids
from rqvae.items.interactions import read_interactions
from rqvae.storage.packed import require_likely


def test_the_bound_is_64_mib_and_32_times_the_length(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    require_likely("x", 2**26 + 32_000, path, "save it")
    with pytest.raises(ValueError, match="x would be 67,140,865 bytes, from a file of 1,000: .*; save it"):
        require_likely("x", 2**26 + 32_001, path, "save it")


@pytest.fixture
def write(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        path = tmp_path / "x.parquet"
        parquet.write_table(pyarrow.table(columns), path, compression="zstd")
        assert path.stat().st_size < 300_000
        return path

    return write


def test_item_ids_semantic_ids_and_events_of_a_tiny_parquet_file_fill_no_memory(write):
    with pytest.raises(ValueError, match="would be .* bytes, from a file of .*save them as .txt"):
        load_item_ids(write(item_id=["a" * 1000] * 200_000), 200_000)
    with pytest.raises(ValueError, match="would be .*; save it as .jsonl"):
        import_semantic_ids(write(pid=["p" * 100] * 2_000_000, codes=[[1, 2, 3]] * 2_000_000))
    events = write(user_id=np.zeros(5_000_000, np.int64), item_id=np.zeros(5_000_000, np.int64))
    with pytest.raises(ValueError, match="would be 80,000,.* bytes, from a file of "):
        read_interactions(events, 10, None)
