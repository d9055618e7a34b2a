"""The tree of prefixes: the sets that a loop over the rows finds, for many beams at once."""

import itertools

import numpy as np
import pytest
import torch

from rqvae.ids.trie import CodeTrie


def some_codes(seed, size=4):
    generator = np.random.default_rng(seed)
    levels = int(generator.integers(1, 5))
    return generator.integers(0, size, (int(generator.integers(1, 60)), levels)), generator




def next_codes(codes, prefix, left_out=()):
    kept = [item for row, item in enumerate(codes.tolist()) if row not in left_out]
    return {item[len(prefix)] for item in kept if tuple(item[:len(prefix)]) == prefix and len(prefix) < len(item)}


def sets(mask):
    return [set(row.nonzero()[:, 0].tolist()) for row in mask]


@pytest.mark.parametrize("masks", ["kept", "made"])
@pytest.mark.parametrize("seed", range(10))
def test_every_prefix_allows_what_a_loop_over_the_rows_finds(seed, masks):
    codes, _ = some_codes(seed)
    levels, size = codes.shape[1], 4
    trie = CodeTrie(codes, size)
    if masks == "made":
        trie._masks = trie._masks[-1:]                  # as where the masks would take too much room
    for length in range(levels + 1):
        prefixes = list(itertools.product(range(-1, size + 1), repeat=length))
        states = trie.states(torch.tensor(prefixes).reshape(len(prefixes), length))
        wanted = [next_codes(codes, prefix) for prefix in prefixes]
        assert sets(trie.allowed(states)) == wanted
        following, children = trie.children(states)
        assert [set(row[there >= 0].tolist()) for row, there in zip(following, children)] == wanted
        known = [any(tuple(item[:length]) == prefix for item in codes.tolist()) for prefix in prefixes]
        assert (states >= 0).tolist() == known
        for prefix, rows in zip(prefixes, trie.rows_of(states)):
            assert rows.tolist() == [row for row, item in enumerate(codes.tolist()) if tuple(item[:length]) == prefix]


@pytest.mark.parametrize("seed", range(10))
def test_a_step_leads_where_the_longer_prefix_is_and_so_do_children(seed):
    codes, generator = some_codes(seed)
    trie = CodeTrie(codes)
    for length in range(codes.shape[1]):
        prefixes = torch.from_numpy(generator.integers(0, 4, (30, length + 1)))
        states = trie.states(prefixes[:, :-1])
        assert torch.equal(trie.advance(states, prefixes[:, -1].int()), trie.states(prefixes))
        following, children = trie.children(states)
        for state, row, there in zip(states, following, children):
            for code, child in zip(row[there >= 0], there[there >= 0]):
                assert trie.advance(state[None], code[None]).tolist() == [int(child)]


def test_beams_of_different_depths_stand_in_one_batch():
    trie = CodeTrie([[1, 2, 0], [1, 3, 2], [0, 0, 1]])
    states = torch.cat([trie.states([prefix]) for prefix in ([], [1], [1, 3], [1, 3, 2], [2])])
    assert sets(trie.allowed(states)) == [{0, 1}, {2, 3}, {2}, set(), set()]
    assert trie.advance(states, torch.tensor([0, 2, 2, 0, 0])).tolist() == [
        *trie.states([[0]]).tolist(), *trie.states([[1, 2]]).tolist(), *trie.states([[1, 3, 2]]).tolist(), -1, -1]


@pytest.mark.parametrize("seed", range(15))
def test_items_left_out_are_gone_and_so_are_prefixes_that_only_they_had(seed):
    codes, generator = some_codes(seed)
    trie, size = CodeTrie(codes, 4), len(codes)
    users = int(generator.integers(1, 4))
    lists = [generator.integers(0, size, int(generator.integers(0, size + 1))) for _ in range(users)]
    for everyone in ([], generator.integers(0, size, 2).tolist()):
        narrowed = trie.without(everyone).without(*lists) if everyone else trie.without(*lists)
        for length in range(codes.shape[1]):
            prefixes = torch.tensor(list(itertools.product(range(4), repeat=length))).reshape(4 ** length, length)
            states = narrowed.states(prefixes).repeat(users)
            wanted = [next_codes(codes, tuple(prefix), {*everyone, *rows.tolist()})
                      for rows in lists for prefix in prefixes.tolist()]
            assert sets(narrowed.allowed(states)) == wanted
            following, children = narrowed.children(states)
            assert [set(row[there >= 0].tolist()) for row, there in zip(following, children)] == wanted
            assert sets(trie.allowed(states)) == [next_codes(codes, tuple(p)) for p in prefixes.tolist()] * users


def test_an_id_goes_only_with_all_of_its_items():
    trie = CodeTrie([[5, 1], [5, 1], [5, 2]])
    assert sets(trie.without([0]).allowed(trie.states([[5]]))) == [{1, 2}]
    assert sets(trie.without([0, 1]).allowed(trie.states([[5]]))) == [{2}]
    assert sets(trie.without([0]).without([1, 2]).allowed(trie.start())) == [set()]


def test_log_probabilities_are_those_of_the_model_where_there_is_an_item():
    trie = CodeTrie([[0, 1], [0, 2], [2, 0]], 3)
    logits = torch.randn(3, 5)
    found = trie.log_probabilities(logits, torch.cat([trie.start(), trie.states([[0], [1]])]))
    for row, codes in zip(range(3), ([0, 2], [1, 2], [])):
        wanted = torch.full((5,), float("-inf"))
        wanted[codes] = (logits[row] - logits[row].exp().sum().log())[codes]
        assert torch.allclose(found[row], wanted)


def test_sizes_beyond_2_63_ids_and_a_level_of_its_own_for_suffixes():
    codes = np.random.default_rng(0).integers(0, 60_000, (300, 5))
    codes[:, 4] %= 3
    trie = CodeTrie(codes, [60_000] * 4 + [3])
    for length in range(5):
        for row, state in enumerate(trie.states(codes[:, :length])):
            assert sets(trie.allowed(state[None])) == [next_codes(codes, tuple(codes[row, :length].tolist()))]
    assert [rows.tolist() for rows in trie.rows_of(trie.states(codes))] == [[row] for row in range(300)]


def test_codes_as_large_as_hashes_take_no_room_of_their_own():
    trie = CodeTrie([[2 ** 30, 5], [7, 2 ** 29]])
    assert trie.nbytes < 1000
    assert [codes[there >= 0].tolist() for codes, there in zip(*trie.children(trie.states([[7], [2 ** 30], [5]])))] == [
        [2 ** 29], [5], []]


def test_it_takes_few_bytes_an_id():
    codes = np.random.default_rng(0).integers(0, 256, (300_000, 4))
    assert CodeTrie(codes, 256).nbytes < 100 * len(codes)


@pytest.mark.parametrize("arguments, error", [
    (([[0.5]],), "codes must be integers, got float64"),
    (([[3, 1]], 3), "codes of level 1 must be below 3, got 3 in row 0"),
    (([[2 ** 40]],), "do not fit 32-bit numbers")])
def test_what_is_no_catalogue_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        CodeTrie(*arguments)


@pytest.mark.parametrize("left_out, error", [
    (([3],), "there is no row 3 to leave out among these 3"), (([True],), "by their rows, a list of integers"),
    ((5,), "by their rows, a list of integers")])
def test_what_cannot_be_left_out_is_said(left_out, error):
    with pytest.raises(ValueError, match=error):
        CodeTrie([1, 2, 3]).without(*left_out)


def test_users_have_equally_many_rows():
    trie = CodeTrie([1, 2, 3]).without([0], [1])
    with pytest.raises(ValueError, match="left out for 2 users, but 3 rows are not equally many"):
        trie.allowed(trie.start(3))
    with pytest.raises(ValueError, match="left out for 2 users already, now for 3"):
        trie.without([0], [1], [2])
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3\); for 4 codes"):
        trie.log_probabilities(torch.zeros(2, 3), trie.start(2))
