"""Scores by brute force, splits and baselines by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch

from rqvae.items.interactions import Interactions
from rqvae.report import judging
from rqvae.report.judging import (content_neighbours, half_interval, leave_last_out, popularity, ranks, scores, Split,
                                  times_taken)


def interactions(*lists):
    return Interactions(np.concatenate(lists).astype(np.int32), np.cumsum([0, *map(len, lists)]), "")


def test_the_last_item_is_left_out_and_ten_before_it_are_looked_at():
    split = leave_last_out(interactions([3, 4], [7], range(15), [1, 2, 5]))
    assert split.target.tolist() == [4, 14, 5] and split.user.tolist() == [0, 2, 3]
    assert split.history[0].tolist() == [3] + [-1] * 9 and split.history[2].tolist() == [1, 2] + [-1] * 8
    assert split.history[1].tolist() == list(range(4, 14))
    assert len(leave_last_out(interactions([3, 4], [1, 2], [5, 6]), users=2).target) == 2
    with pytest.raises(ValueError, match="no user took two items"):
        leave_last_out(interactions([3], [4]))


@pytest.mark.parametrize("rank, share", [(0, 1), (9, 1), (10, 1), (8, 4), (0, 3), (3, 20)])
def test_items_that_share_a_place_are_counted_in_every_order(rank, share):
    places = [rank + order.index(0) for order in permutations(range(share))] if share < 6 else \
        list(range(rank, rank + share))
    found = scores(np.array([rank]), np.array([share]))
    assert found.recall[0] == pytest.approx(np.mean([place < 10 for place in places]))
    assert found.ndcg[0] == pytest.approx(np.mean([1 / np.log2(place + 2) if place < 10 else 0 for place in places]))


def test_an_id_that_items_share_takes_a_place_for_each():
    class Always:
        """Lists the IDs 1, 0, 2 to everybody."""

        def recommend(self, codes, tree, beams):
            return torch.tensor([[1, 0, 2]]).expand(len(codes), 3)

    ids = np.array([[0], [1], [1], [1], [2], [3]])
    tree = judging.IdTree(ids)
    history = np.array([[0, -1], [1, 2], [0, 1], [5, -1]])
    assert ranks(Always(), torch.from_numpy(ids), tree, history, np.array([0, 3, 4, 5]), 3).tolist() == [3, 0, 3, 3]
    assert ranks(Always(), torch.from_numpy(ids), tree, history, np.array([0, 3, 4, 5]), 9).tolist() == [3, 0, 4, 9]


def test_the_interval_is_that_of_means_over_users():
    values = np.random.default_rng(0).random(400)
    assert half_interval(values, np.arange(400)) == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert half_interval(values.repeat(3), np.arange(400).repeat(3)) == pytest.approx(
        half_interval(values, np.arange(400)), rel=0.05)


def test_lists_without_ids():
    history = np.array([[0, 1], [2, -1], [2, -1]])
    split = Split(history, history, np.array([2, 0, 3]), np.arange(3))
    assert times_taken(split, 14).tolist() == [1, 1, 2] + [0] * 11
    # One item was taken more often than item 0, and another as often; eleven share the last places, of which 7 count.
    assert popularity(split, 14).recall == pytest.approx([1, 1, 7 / 11])
    features = torch.eye(14)
    features[3, 2] = 5
    assert content_neighbours(features, split).recall[2] == 1
