"""The small recommender: its beam search against all IDs said out in full, and that it learns what comes next."""

import numpy as np
import pytest
import torch

from rqvae.report.id_tree import IdTree
from rqvae.report.judging import judge, Split
from rqvae.report.recommender import Recommender, train_recommender


@pytest.fixture
def model():
    """Untrained, with weights so large that IDs differ in likelihood."""
    torch.manual_seed(0)
    model = Recommender([4, 3, 5], width=16, heads=2).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return model


def test_beams_that_hold_all_ids_rank_them_by_their_likelihood(model):
    draw = np.random.default_rng(1)
    ids = np.unique(draw.integers([4, 3, 5], size=(20, 3)), axis=0)
    tree, history = IdTree(ids), torch.from_numpy(draw.integers([4, 3, 5], size=(2, 3, 3)))
    found = model.recommend(history, tree, len(ids))
    chances = torch.zeros(2, len(ids))
    with torch.no_grad():
        for number, codes in enumerate(torch.from_numpy(ids)):
            states = model.read(torch.cat([history, codes.expand(2, 1, 3)], 1))[0]
            for level in range(3):
                alike = (ids[:, :level] == codes[:level].numpy()).all(axis=1)
                allowed = sorted(set(ids[alike, level].tolist()))
                logits = model.logits(states[:, 9 + level], level)[:, allowed].log_softmax(-1)
                chances[:, number] += logits[:, allowed.index(int(codes[level]))]
    assert torch.equal(found, chances.argsort(1, descending=True))
    assert torch.equal(model.recommend(history, tree, len(ids) + 3)[:, :-3], found)
    assert model.recommend(history, tree, len(ids) + 3)[:, -3:].eq(-1).all()


def test_nothing_is_known_of_what_comes_later(model):
    codes = torch.randint(3, (1, 4, 3))
    before = model.read(codes)[0]
    codes[0, 3, 1] = (codes[0, 3, 1] + 1) % 3
    after = model.read(codes)[0]
    assert torch.allclose(before[:, :11], after[:, :11]) and not torch.allclose(before[:, 11:], after[:, 11:])


def test_the_loss_leaves_out_what_is_behind_a_history_s_end(model):
    short = torch.randint(3, (1, 2, 3))
    long = torch.cat([short, torch.full((1, 3, 3), -1)], 1)
    assert torch.allclose(model.loss(short), model.loss(long))


def test_a_round_dance_is_learned():
    """Every item is followed by the next one; IDs tell a recommender nothing before it is trained."""
    items = 24
    ids = np.random.default_rng(0).permutation(64)[:items]
    ids = np.stack([ids // 16, ids // 4 % 4, ids % 4], 1)
    begins = np.arange(240)
    walk = (begins[:, None] + np.arange(6)) % items
    split = Split(walk[:, :5].copy(), walk[:, :5].copy(), walk[:, 5].copy(), begins)
    assert judge(ids, split).ndcg.mean() > 0.5             # by chance 0.19
    model, again = (train_recommender(ids, walk[:60], 3, epochs=1) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters()))


def test_ids_of_a_single_code_are_judged_too():
    items = np.arange(30)
    histories = (items[:, None] + np.arange(4)) % 30
    found = judge(items[:, None], Split(histories[:, :3], histories[:, :3], histories[:, 3], items))
    assert found.recall.shape == (30,) and ((0 <= found.recall) & (found.recall <= 1)).all()
