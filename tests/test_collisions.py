import collections

import numpy as np
import pytest
import torch

from rqvae.collisions import collision_ranks, collision_report, id_keys, row_keys, sharing


def by_hand(codes):
    counts = collections.Counter(map(tuple, codes.tolist()))
    return {"items": len(codes), "distinct_ids": len(counts),
            "collision_rate": 1 - len(counts) / len(codes),
            "colliding_items": sum(n for n in counts.values() if n > 1),
            "largest_collision": max(counts.values())}


def test_a_report_typed_out_by_hand():
    codes = [[1, 2], [1, 2], [1, 3], [0, 2], [1, 2], [0, 2]]
    assert collision_report(codes) == {"items": 6, "distinct_ids": 3, "collision_rate": 0.5,
                                       "colliding_items": 5, "largest_collision": 3}


def test_without_collisions_the_largest_is_one_item():
    assert collision_report([3, 1, 2]) == {"items": 3, "distinct_ids": 3, "collision_rate": 0,
                                           "colliding_items": 0, "largest_collision": 1}


@pytest.mark.parametrize("seed", range(20))
def test_the_report_equals_a_count_by_dictionary(seed):
    generator = np.random.default_rng(seed)
    levels, size = generator.integers(1, 5), generator.integers(1, 6)
    codes = generator.integers(0, size, (generator.integers(1, 300), levels))
    assert collision_report(codes) == by_hand(codes)


def test_tensors_arrays_lists_and_single_levels_are_all_accepted():
    codes = np.array([4, 4, 7])
    reports = [collision_report(form) for form in (
        codes, codes[:, None], codes.astype(np.uint8), codes.tolist(), torch.tensor(codes),
        torch.tensor(codes).int())]
    assert all(report == reports[0] for report in reports)


def test_identical_features_make_collisions_unavoidable():
    groups = torch.tensor([7, 7, -5, 3, 7])
    report = collision_report([[1], [1], [1], [2], [1]], features_groups=groups)
    assert report["unavoidable_collisions"] == 2
    assert "unavoidable_collisions" not in collision_report([[1], [1]])


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"one label for each of the 3 items, got shape \(2,\)"):
        collision_report([1, 2, 3], features_groups=[0, 1])


@pytest.mark.parametrize("codes, words", [
    ([[0.0, 1.0]], "codes must be integers, got float64"),
    ([[True]], "codes must be integers, got bool"),
    ([[1, 2], [3, -4]], "codes must be 0 or more and fit int64, got -4 in row 1"),
    (np.array([[1, 2 ** 63]], np.uint64), "fit int64, got 9223372036854775808 in row 0"),
    (np.zeros((2, 2, 2), int), r"codes must be .items, levels., .* got shape \(2, 2, 2\)"),
    (np.zeros((0, 3), int), r"at least one of each, got shape \(0, 3\)"),
    ([], r"at least one of each, got shape \(0,\)"),
])
def test_what_are_no_codes_is_refused_in_words(codes, words):
    with pytest.raises(ValueError, match=words):
        collision_report(codes)


@pytest.mark.parametrize("high", [3, 2 ** 20, 2 ** 40, 2 ** 62])
def test_keys_order_ids_as_tuples_are_ordered_however_large_the_codes(high):
    generator = np.random.default_rng(high % 1000)
    pool = generator.integers(0, high, (40, 5))
    codes = pool[generator.integers(0, 40, 200)]
    codes[:, 0] = codes[:, 0] % 3 + (high - 3)
    keys = id_keys(codes)
    tuples = list(map(tuple, codes.tolist()))
    ranks = {key: rank for rank, key in enumerate(sorted(set(tuples)))}
    _, key_ranks = np.unique(keys, return_inverse=True)
    assert key_ranks.tolist() == [ranks[item] for item in tuples]


def test_ranks_count_within_an_id_in_row_order():
    rank, size = collision_ranks(np.array([[5, 1], [2, 2], [5, 1], [0, 0], [5, 1], [2, 2]]))
    assert rank.tolist() == [0, 0, 1, 0, 2, 1]
    assert size.tolist() == [3, 2, 3, 1, 3, 2]


def test_keys_of_rows_are_equal_for_equal_rows_only():
    features = torch.randn(5000, 3).half().float()
    features[:3] = torch.tensor([[0.0, 1.0, 2.0], [-0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])
    keys = row_keys(features.numpy())
    assert keys[0] == keys[1] != keys[2]
    assert len(np.unique(keys)) == len(features.unique(dim=0))


@pytest.mark.parametrize("items", [1, 2, 500])
def test_items_that_share_an_id_are_those_whose_id_occurs_twice(items):
    codes = np.random.default_rng(items).integers(0, 30, (items, 2))
    counts = collections.Counter(map(tuple, codes.tolist()))
    assert sharing(codes).tolist() == [counts[tuple(row)] > 1 for row in codes.tolist()]
