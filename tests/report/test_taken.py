"""Figures of what users took: by hand and by brute force."""

import numpy as np
import pytest

from rqvae.items.interactions import Interactions
from rqvae.report.taken import next_items, prefix_recall, recommender_measures, taken_measures, thirds

IDS = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
TAKEN = Interactions(np.array([0, 2, 3, 1, 0, 3, 4], np.int32), np.array([0, 3, 5, 7]), "")


def labelled(measures):
    return {measure.label: measure for measure in measures}


def test_events_are_counted_and_not_items():
    found = labelled(taken_measures(IDS, TAKEN))
    shared = found["events whose item shares its ID"]
    assert shared.value == "42.86 %" and shared.verdict == "poor" and "--unique none" in shared.remedy
    unique = labelled(taken_measures(np.column_stack([IDS, [0, 1, 0, 0, 0, 0]]), TAKEN, levels=2))
    assert unique["events whose item shares its ID"].value == "0.00 %"
    assert unique["events whose item shares its ID"].verdict == "good" and "level 3: codes" not in str(unique)


def test_the_next_item_by_shared_prefix_is_what_drawing_orders_gives():
    draw = np.random.default_rng(0)
    ids, pairs = draw.integers(3, size=(60, 3)), draw.permutation(60).reshape(30, 2)
    hits = []
    for first, second in pairs:
        others = np.delete(np.arange(60), first)
        shared = np.cumprod(ids[others] == ids[first], axis=1).sum(axis=1)
        for _ in range(400):
            hits.append(second in others[np.lexsort((draw.random(59), -shared))][:10])
    assert prefix_recall(ids, pairs) == pytest.approx(np.mean(hits), abs=0.01)
    assert next_items(TAKEN).tolist() == [[0, 2], [2, 3], [1, 0], [3, 4]]


def test_head_middle_and_tail_have_a_third_of_the_events_each():
    assert [part.tolist() for part in thirds(np.array([1, 0, 6, 1, 3, 3, 1, 3]))] == [[2], [4, 5], [7, 0, 3, 6]]
    found = labelled(taken_measures(IDS, TAKEN))
    assert found["level 1: codes of the 2 / 1 / 2 items"].value == "2 / 1 / 2"


def test_items_that_nobody_took_are_reached_under_prefixes_that_others_have():
    found = labelled(taken_measures(IDS, TAKEN))["1 never taken: under prefixes of the others"]
    assert found.value == "0.00 %"


def test_the_trained_judge_says_an_interval():
    recall, ndcg = recommender_measures(np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]]), TAKEN)
    assert recall.label == "R@10 of a recommender, 3 users (the most taken)"
    assert recall.value == "1.0000 ± 0.0000 (1.0000)" and "±" in ndcg.value
