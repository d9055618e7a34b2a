import itertools

import numpy as np
import pytest
import torch

from rqvae.ids import resolution
from rqvae.collisions import collision_report
from rqvae.ids.resolution import resolve_collisions


def problem(seed, items, sizes, width=3, spread=1.0):
    """Latents, codebooks and codes by greedy residual quantization, one row after the other."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((items, width)) * spread
    codebooks = [generator.standard_normal((size, width)) for size in sizes]
    codes = np.array([greedy(z, codebooks) for z in latents])
    return codes, latents, codebooks


def greedy(z, codebooks):
    codes = []
    for codebook in codebooks:
        codes.append(int(((z - codebook) ** 2).sum(axis=1).argmin()))
        z = z - codebook[codes[-1]]
    return codes


def squared_distance(z, codebooks, ids, level, code):
    """Of the residual behind the first `level` codes to a code of that level, with plain sums."""
    residual = z - sum((book[i] for book, i in zip(codebooks[:level], ids)), np.zeros_like(z))
    return float(np.float32(((residual - codebooks[level][code]) ** 2).sum()))


def resolve_one_by_one(codes, latents, codebooks, taken=()):
    """The rule as the docstring tells it, with sets and loops: the other road."""
    levels, sizes = len(codebooks), [len(book) for book in codebooks]
    result, taken = [tuple(row) for row in codes.tolist()], {tuple(row) for row in taken}
    claim = [squared_distance(z, codebooks, row, levels - 1, row[-1])
             for z, row in zip(latents, result)]
    groups = {}
    for row, item in enumerate(result):
        groups.setdefault(item, []).append(row)
    movers = []
    for item, rows in groups.items():
        rows.sort(key=lambda row: (claim[row], row))
        movers += rows if item in taken else rows[1:]
    held = taken | set(result)

    def has_room(prefix):
        ends = itertools.product(*(range(size) for size in sizes[len(prefix):]))
        return any(prefix + end not in held for end in ends)

    while movers:
        queues = {}
        for row in sorted(movers):
            prefix = ()
            for level in range(levels - 1):
                own = tuple(codes[row][:level + 1])
                if prefix + (codes[row][level],) != own or not has_room(own):
                    roomy = [code for code in range(sizes[level]) if has_room(prefix + (code,))]
                    own = prefix + (min(roomy, key=lambda code: (squared_distance(
                        latents[row], codebooks, prefix, level, code), code)),)
                prefix = own
            queues.setdefault(prefix, []).append(row)
        placed = set()
        for prefix, rows in queues.items():
            for row in sorted(rows, key=lambda row: (claim[row], row)):
                free = [code for code in range(sizes[-1]) if prefix + (code,) not in held]
                if free:
                    last = min(free, key=lambda code: (squared_distance(
                        latents[row], codebooks, prefix, levels - 1, code), code))
                    result[row] = prefix + (last,)
                    held.add(result[row])
                    placed.add(row)
        movers = [row for row in movers if row not in placed]
    return np.array(result)


def check_promises(codes, resolved, sizes, taken=(), one_stays=True):
    """All distinct, in range, and whatever did not collide is where it was."""
    ids = list(map(tuple, codes.tolist()))
    new = list(map(tuple, resolved.codes.tolist()))
    published = set(map(tuple, taken))
    assert len(set(new)) == len(new) and not published & set(new)
    assert all(0 <= code < size for row in new for code, size in zip(row, sizes))
    for row, item in enumerate(ids):
        if ids.count(item) == 1 and item not in published:
            assert new[row] == item
    moved = [row for row, item in enumerate(ids) if new[row] != item]
    assert resolved.moved.tolist() == moved
    for item in set(ids) - published if one_stays else ():      # exactly one item keeps each ID
        assert sum(new[row] == item for row in range(len(ids)) if ids[row] == item) == 1


@pytest.mark.parametrize("seed", range(60))
def test_nearest_equals_the_rule_played_item_by_item(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, 7, generator.integers(1, 4)).tolist()
    room = int(np.prod(sizes))
    items = int(generator.integers(1, min(room, 200) + 1))          # up to every ID in use
    codes, latents, codebooks = problem(seed, items, sizes)
    resolved = resolve_collisions(codes, latents, codebooks)
    check_promises(codes, resolved, sizes)
    assert resolved.codes.tolist() == resolve_one_by_one(codes, latents, codebooks).tolist()
    assert resolved.before == collision_report(codes)
    assert resolved.after == collision_report(resolved.codes)
    assert resolved.after["collision_rate"] == 0


@pytest.mark.parametrize("seed", range(30))
def test_new_items_never_meet_published_ones_and_follow_the_same_rule(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, 6, generator.integers(1, 4)).tolist()
    room = int(np.prod(sizes))
    new = int(generator.integers(1, min(room, 100) + 1))
    everything = np.array(list(itertools.product(*map(range, sizes))))
    taken = generator.permutation(everything)[:generator.integers(1, max(2, room - new + 1))]
    if len(taken) + new > room:
        new = room - len(taken)
    if not new:
        return
    codes, latents, codebooks = problem(seed, new, sizes)
    before = taken.copy()
    resolved = resolve_collisions(codes, latents, codebooks, taken=taken)
    assert (taken == before).all() and resolved.after["items"] == len(taken) + new
    check_promises(codes, resolved, sizes, taken.tolist())
    expected = resolve_one_by_one(codes, latents, codebooks, taken.tolist())
    assert resolved.codes.tolist() == expected.tolist()


@pytest.mark.parametrize("method", ["nearest", "optimal"])
@pytest.mark.parametrize("seed", range(10))
def test_small_blocks_change_nothing(seed, method, monkeypatch):
    codes, latents, codebooks = problem(seed, 150, [4, 5, 8])
    whole = resolve_collisions(codes, latents, codebooks, method=method).codes
    monkeypatch.setattr(resolution, "_NUMBERS_AT_ONCE", 9)
    assert resolve_collisions(codes, latents, codebooks, method=method).codes.tolist() == whole.tolist()


def added(codes, resolved, latents, codebooks):
    """Squared distance of all items to what their IDs stand for, after less before."""
    before, after = (sum(squared_distance(z, codebooks, row, len(codebooks) - 1, row[-1]) for z, row in zip(latents, ids))
                     for ids in (codes, resolved.codes))
    return after - before


def least_added(codes, latents, codebooks, taken):
    """What the cheapest of all ways costs in which items that share an ID get last codes, prefix by prefix."""
    ids, size = list(map(tuple, codes.tolist())), len(codebooks[-1])
    total = 0.0
    for prefix in {item[:-1] for item in ids}:
        sharing = [row for row, item in enumerate(ids) if item[:-1] == prefix and (ids.count(item) > 1 or item in taken)]
        others = {item for item in ids if item[:-1] == prefix} - {ids[row] for row in sharing} | set(taken)
        free = [code for code in range(size) if (*prefix, code) not in others]
        costs = [[squared_distance(latents[row], codebooks, ids[row], len(codebooks) - 1, code) for code in free]
                 for row in sharing]
        now = sum(squared_distance(latents[row], codebooks, ids[row], len(codebooks) - 1, ids[row][-1]) for row in sharing)
        total += min(sum(cost[code] for cost, code in zip(costs, chosen))
                     for chosen in itertools.permutations(range(len(free)), len(sharing))) - now
    return total


@pytest.mark.parametrize("published", [0, 3])
@pytest.mark.parametrize("seed", range(15))
def test_optimal_adds_the_least_distance_of_all_ways(seed, published):
    codes, latents, codebooks = problem(seed, 20, [3, 3, 6])
    most = max(np.unique(codes[:, 0] * 3 + codes[:, 1], return_counts=True)[1])
    keep = np.ones(20, bool)
    while most > 6 - published:                                 # thin out what is too full, or too many ways to try
        prefixes = codes[:, 0] * 3 + codes[:, 1]
        values, counts = np.unique(prefixes[keep], return_counts=True)
        keep[np.flatnonzero(keep & (prefixes == values[counts.argmax()]))[-1]] = False
        most = np.unique(prefixes[keep], return_counts=True)[1].max()
    codes, latents = codes[keep], latents[keep]
    taken = np.unique(codes, axis=0)[:published]
    resolved = resolve_collisions(codes, latents, codebooks, method="optimal", taken=taken if published else None)
    check_promises(codes, resolved, [3, 3, 6], taken.tolist(), one_stays=False)
    assert (resolved.codes[:, :2] == codes[:, :2]).all()
    best = least_added(codes, latents, codebooks, set(map(tuple, taken.tolist())))
    assert added(codes, resolved, latents, codebooks) == pytest.approx(best, abs=1e-5)
    one_by_one = resolve_collisions(codes, latents, codebooks, taken=taken if published else None)
    assert best <= added(codes, one_by_one, latents, codebooks) + 1e-5


def test_optimal_lets_the_closest_leave_where_that_costs_less():
    codebooks = [np.array([[0.0], [1.0], [3.0]])]
    latents = np.array([[0.3], [-0.4]])                         # to 1 adds .4 for the one and 1.8 for the other
    assert resolve_collisions([0, 0], latents, codebooks).codes.tolist() == [[0], [1]]
    assert resolve_collisions([0, 0], latents, codebooks, method="optimal").codes.tolist() == [[1], [0]]


@pytest.mark.parametrize("seed", range(20))
def test_optimal_keeps_every_promise_where_prefixes_are_full(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, 6, 3).tolist()
    codes, latents, codebooks = problem(seed, int(np.prod(sizes)), sizes)      # every ID in use
    shuffled = generator.permutation(len(codes))
    resolved = resolve_collisions(codes, latents, codebooks, method="optimal")
    check_promises(codes, resolved, sizes, one_stays=False)
    again = resolve_collisions(codes[shuffled], latents[shuffled], codebooks, method="optimal")
    assert again.codes.tolist() == resolved.codes[shuffled].tolist()


def test_a_mover_takes_the_nearest_free_code_and_the_closest_stays():
    codebooks = [np.array([[0.0], [100.0]]), np.array([[0.0], [1.0], [2.0], [4.0]])]
    latents = np.array([[1.3], [1.1], [2.1], [100.0]])              # the first two collide at 1
    resolved = resolve_collisions([[0, 1], [0, 1], [0, 2], [1, 0]], latents, codebooks)
    assert resolved.codes.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]      # 0.3 is nearer than 2.7
    assert resolved.moved.tolist() == [0]


def test_a_full_prefix_sends_the_farthest_to_the_next_nearest_prefix():
    codebooks = [np.array([[0.0], [10.0], [-6.0]]), np.array([[0.0], [1.0]])]
    latents = np.array([[0.0], [0.1], [0.2]])
    resolved = resolve_collisions([[0, 0]] * 3, latents, codebooks)
    # Row 1 gets the last free code; row 2 goes to -6 and not to 10; its residual is 6.2, next to 1.
    assert resolved.codes.tolist() == [[0, 0], [0, 1], [2, 1]]


def test_ties_go_to_the_lower_row_and_the_lower_code():
    codebooks = [np.array([[0.0], [1.0], [-1.0], [1.0]])]
    resolved = resolve_collisions([0, 0, 0, 0], np.zeros((4, 1)), codebooks)
    assert resolved.codes.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("sizes, items", [([2], 2), ([2], 1), ([1, 1, 3], 3), ([3, 2], 6)])
def test_identical_items_fill_the_whole_code_space(sizes, items):
    codebooks = [np.random.default_rng(0).standard_normal((size, 2)) for size in sizes]
    codes = np.zeros((items, len(sizes)), int)
    resolved = resolve_collisions(codes, np.zeros((items, 2)), codebooks)
    assert len(set(map(tuple, resolved.codes.tolist()))) == items
    assert resolved.codes[0].tolist() == [0] * len(sizes)       # equal distance: the first stays


def test_more_items_than_ids_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="5 items cannot all differ among 4 possible IDs; "
                                         "use method='suffix'"):
        resolve_collisions(np.zeros((5, 2), int), np.zeros((5, 1)), [np.zeros((2, 1))] * 2)
    with pytest.raises(ValueError, match="3 items cannot all differ among 2 possible IDs"):
        resolve_collisions([0, 1], np.zeros((2, 1)), [np.zeros((2, 1))], taken=[1])


def test_the_order_of_rows_changes_only_the_order_of_the_result():
    codes, latents, codebooks = problem(5, 190, [5, 6, 7])
    shuffled = np.random.default_rng(0).permutation(190)
    plain = resolve_collisions(codes, latents, codebooks).codes
    again = resolve_collisions(codes[shuffled], latents[shuffled], codebooks).codes
    assert again.tolist() == plain[shuffled].tolist()


def test_levels_beyond_64_bits_are_resolved_too():
    generator = np.random.default_rng(1)
    codebooks = [generator.standard_normal((256, 4)) for _ in range(12)]
    codes = np.repeat(generator.integers(0, 256, (3, 12)), 300, axis=0)     # over 256 in a prefix
    resolved = resolve_collisions(codes, generator.standard_normal((900, 4)), codebooks)
    check_promises(codes, resolved, [256] * 12)
    assert (resolved.codes[:, :10] == codes[:, :10]).all()


def test_a_large_common_offset_does_not_blur_the_distances():
    codes, latents, codebooks = problem(2, 120, [4, 5, 8])
    expected = resolve_collisions(codes, latents, codebooks).codes
    codebooks[0] = codebooks[0] + 1000.0
    assert (resolve_collisions(codes, latents + 1000.0, codebooks).codes == expected).all()


def test_tensors_of_any_precision_are_taken_and_nothing_is_changed_in_place():
    codes, latents, codebooks = problem(3, 100, [4, 4, 8])
    given = torch.tensor(codes), torch.tensor(latents, dtype=torch.bfloat16, requires_grad=True)
    books = torch.nn.ParameterList(torch.tensor(book).float() for book in codebooks)
    resolved = resolve_collisions(*given, list(books))
    check_promises(codes, resolved, [4, 4, 8])
    assert (given[0].numpy() == codes).all() and resolved.codes.dtype == np.int64


@pytest.mark.parametrize("seed", range(10))
def test_a_suffix_counts_within_each_collision_in_row_order(seed):
    codes = np.random.default_rng(seed).integers(0, 3, (50, 3))
    seen, expected = {}, []
    for item in map(tuple, codes.tolist()):
        expected.append([*item, seen.get(item, 0)])
        seen[item] = seen.get(item, 0) + 1
    resolved = resolve_collisions(codes)                # without vectors: the suffix
    assert resolved.codes.tolist() == expected
    assert resolved.moved.tolist() == [row for row, item in enumerate(expected) if item[-1]]
    assert resolved.after["collision_rate"] == 0
    half = resolve_collisions(codes[:25]).codes
    rest = resolve_collisions(codes[25:], taken=half)   # new items go on counting
    assert np.concatenate([half, rest.codes]).tolist() == expected
    assert rest.before == collision_report(codes) and rest.after == resolved.after


def test_a_suffix_skips_the_gaps_of_published_items():
    resolved = resolve_collisions([[1], [1], [2]], taken=[[1, 0], [1, 7], [3, 2]])
    assert resolved.codes.tolist() == [[1, 8], [1, 9], [2, 0]]


@pytest.mark.parametrize("arguments, words", [
    (dict(method="sinkhorn"), "method must be 'optimal', 'nearest' or 'suffix', got 'sinkhorn'"),
    (dict(method="nearest"), "method 'nearest' needs latents and codebooks; pass both, or method='suffix'"),
    (dict(method="optimal"), "method 'optimal' needs latents and codebooks; pass both, or method='suffix'"),
    (dict(latents=np.zeros((2, 1)), codebooks=[np.zeros((4, 1))] * 2),
     r"latents must be \(3, width\), one row for each item, got shape \(2, 1\)"),
    (dict(latents=np.zeros((3, 1)), codebooks=[np.zeros((4, 1))]),
     "codes have 2 levels, but there are 1 codebooks"),
    (dict(latents=np.zeros((3, 1)), codebooks=[np.zeros((4, 1)), np.zeros((4, 2))]),
     r"codebook of level 2 must be \(codes, 1\), as wide as the latents, got shape \(4, 2\)"),
    (dict(latents=np.zeros((3, 1)), codebooks=[np.zeros((2, 1)), np.zeros((4, 1))]),
     "codes of level 1 must be below 2, got 3 in row 2"),
    (dict(latents=np.full((3, 1), np.nan), codebooks=[np.zeros((4, 1))] * 2),
     "latents have values that are not finite"),
    (dict(latents=np.zeros((3, 1)), codebooks=[np.full((4, 1), np.inf)] * 2),
     "codebook of level 1 has values that are not finite"),
    (dict(num_embeddings=3), "codes of level 1 must be below 3, got 3 in row 2"),
    (dict(num_embeddings=[4, 4, 4]), "one for each of the 2 levels, got \\[4, 4, 4\\]"),
    (dict(taken=[[1, 1]]), "taken has 2 codes an item, but method 'suffix' gives 3"),
    (dict(latents=np.zeros((3, 1)), codebooks=[np.zeros((4, 1))] * 2, taken=[[0, 9]]),
     "taken of level 2 must be below 4, got 9 in row 0"),
])
def test_parts_that_do_not_fit_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        resolve_collisions([[0, 1], [0, 1], [3, 0]], **arguments)
