import itertools

import numpy as np
import pytest
import torch

from rqvae.ids.lookup import SemanticIdIndex
from rqvae.ids.files import load_semantic_ids, save_semantic_ids


@pytest.mark.parametrize("seed", range(10))
def test_every_prefix_finds_what_a_loop_over_the_rows_finds(seed):
    generator = np.random.default_rng(seed)
    levels, size = int(generator.integers(1, 4)), 4
    codes = generator.integers(0, size, (int(generator.integers(1, 60)), levels))
    index = SemanticIdIndex(codes)
    for length in range(levels + 2):
        for prefix in itertools.product(range(-1, size + 1), repeat=length):
            rows = [row for row, item in enumerate(codes.tolist())
                    if length <= levels and tuple(item[:length]) == prefix]
            assert index.rows_of(prefix).tolist() == rows == index.items_of(prefix)
            following = sorted({int(codes[row, length]) for row in rows}) if length < levels else []
            assert index.next_codes(prefix).tolist() == following
    assert [index.id_of(row).tolist() for row in range(len(index))] == codes.tolist()


def test_item_ids_work_in_both_directions():
    index = SemanticIdIndex([[3, 1], [3, 2], [3, 1]], ["x", "7", "y"])
    assert index.id_of("7").tolist() == [3, 2] == index.id_of(7).tolist()      # one item, however it is spelled
    with pytest.raises(KeyError, match="there is no item 1 among these 3; codes\\[1\\] is that of row 1"):
        index.id_of(1)
    assert index.items_of([3, 1]) == ["x", "y"]
    assert index.items_of(torch.tensor([3])) == ["x", "7", "y"]
    assert index.rows_of([3, 1]).tolist() == [0, 2]
    assert index.next_codes(np.array([3])).tolist() == [1, 2]


def test_item_ids_that_are_integers_name_items_and_no_rows():
    codes = np.arange(1200).reshape(600, 2)
    index = SemanticIdIndex(codes, list(range(100, 700)))
    assert index.id_of(105).tolist() == [10, 11] == index.id_of("105").tolist() == index.id_of(np.int64(105)).tolist()
    assert index.items_of([10]) == [105] and type(index.items_of([10])[0]) is int
    with pytest.raises(KeyError, match="there is no item 5 "):
        index.id_of(5)


def test_a_single_level_is_asked_for_with_or_without_brackets():
    index = SemanticIdIndex(torch.tensor([5, 2, 5]))
    assert index.rows_of(5).tolist() == index.rows_of([5]).tolist() == [0, 2]
    assert index.next_codes().tolist() == [2, 5]


@pytest.mark.parametrize("item", ["z", 3, -1])
def test_an_unknown_item_is_a_key_error(item):
    with pytest.raises(KeyError, match="there is no item .* among these 3"):
        SemanticIdIndex([1, 2, 3], ["a", "b", "c"]).id_of(item)


def test_what_is_no_prefix_is_refused():
    with pytest.raises(ValueError, match="a prefix must be a sequence of integers"):
        SemanticIdIndex([1, 2, 3]).rows_of([0.5])


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".npy"])
def test_a_saved_file_is_all_that_an_index_needs(tmp_path, suffix):
    codes = np.random.default_rng(0).integers(0, 256, (500, 3))
    item_ids = None if suffix == ".npy" else [f"item {row}" for row in range(500)]
    save_semantic_ids(codes, tmp_path / f"ids{suffix}", item_ids=item_ids)
    ids = load_semantic_ids(tmp_path / f"ids{suffix}")
    index = SemanticIdIndex(ids.codes, ids.item_ids)
    assert index.items_of(codes[17]) == [17 if item_ids is None else "item 17"]


def test_walking_the_tree_of_next_codes_spells_every_id_and_no_other():
    codes = np.random.default_rng(1).integers(0, 5, (40, 3))
    index = SemanticIdIndex(codes)

    def spell(prefix):
        following = index.next_codes(prefix).tolist()
        return sum((spell([*prefix, code]) for code in following), []) if following else [prefix]

    assert spell([]) == sorted(map(list, set(map(tuple, codes.tolist()))))
