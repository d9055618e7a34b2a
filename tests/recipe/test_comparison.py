"""Old and new IDs compared: by a loop over the pairs, and a renaming told from a change."""

import itertools

import numpy as np
import pytest

from rqvae.ids.files import SemanticIds
from rqvae.recipe.comparison import compare_ids, compare_new


def test_a_renaming_is_told_from_a_change():
    generator = np.random.default_rng(0)
    old = generator.integers(0, 8, (400, 3))
    new = np.column_stack([generator.permutation(8)[column] for column in old.T])
    found = compare_ids(SemanticIds(new, None, None), SemanticIds(old, None, None))
    assert found["kept"][2] < 0.05 and found["kept_renamed"] == [1.0] * 3 and found["neighbours"] == [1.0] * 3
    other = compare_ids(SemanticIds(generator.integers(0, 8, (400, 3)), None, None), SemanticIds(old, None, None))
    assert other["kept_renamed"][2] < 0.1 and other["neighbours"][0] < 0.2


def test_items_are_matched_by_their_ids_and_pairs_counted_as_a_loop_counts_them():
    old = SemanticIds(np.array([[1, 1], [1, 2], [1, 2], [2, 0]]), [10, 11, 12, 13], None)
    new = SemanticIds(np.array([[5, 5], [1, 2], [1, 2], [1, 1]]), ["99", "12", "11", "10"], None)
    found = compare_ids(new, old)
    assert (found["common"], found["new"], found["gone"]) == (3, 1, 1) and found["kept"] == [1.0, 1.0]
    generator = np.random.default_rng(1)
    after, before = (generator.integers(0, 3, (30, 2)) for _ in range(2))
    found = compare_ids(SemanticIds(after, None, None), SemanticIds(before, None, None))["neighbours"]
    for length in (1, 2):
        pairs = [pair for pair in itertools.combinations(range(30), 2)
                 if (before[pair[0], :length] == before[pair[1], :length]).all()]
        still = sum((after[a, :length] == after[b, :length]).all() for a, b in pairs)
        assert found[length - 1] == pytest.approx(still / len(pairs))


def test_new_items_are_counted_among_published_ones_as_a_loop_counts_them():
    generator = np.random.default_rng(2)
    published, new = generator.integers(0, 9, (120, 3)) // [1, 2, 1], generator.integers(0, 10, (40, 3)) // [1, 2, 1]
    found = compare_new(new, published)
    old, added = list(map(tuple, published.tolist())), list(map(tuple, new.tolist()))
    for length in (1, 2):
        starts = [code[:length] for code in old]
        assert found["known"][length - 1] == pytest.approx(sum(code[:length] in starts for code in added) / 40)
        assert found["known_published"][length - 1] == pytest.approx(sum(starts.count(start) > 1 for start in starts) / 120)
    assert found["shared"] == pytest.approx(sum((old + added).count(code) > 1 for code in added) / 40)
    counts = sorted((sum(code[0] == first for code in old), first) for first in range(10))
    rare, held = set(), 0
    for count, first in counts:
        if held + count > 12:
            break
        rare, held = rare | {first}, held + count
    assert found["rare"] == pytest.approx(sum(code[0] in rare for code in added) / 40) and found["rare_published"] == held / 120
    assert found["rare"] > 0                                        # the code 9, which no published item has


def test_files_that_cannot_be_compared_are_refused():
    codes = np.array([[1, 2]])
    with pytest.raises(ValueError, match="one of the two files has item IDs and the other has none"):
        compare_ids(SemanticIds(codes, ["a"], None), SemanticIds(codes, None, None))
    with pytest.raises(ValueError, match="no item in common"):
        compare_ids(SemanticIds(codes, ["a"], None), SemanticIds(codes, ["b"], None))
