"""The stateless math against brute force, autograd and numbers typed out by hand."""

import math
from functools import partial

import pytest
import torch

from rqvae import functional


def brute_force_codes(x, codebook):
    """Squared differences written out in float64: no expansion, nothing to cancel."""
    x, codebook = x.double(), codebook.double()
    return torch.stack([(row - codebook).square().sum(dim=1).argmin() for row in x])


@pytest.mark.parametrize("rows, codes, width", [(1, 2, 1), (7, 5, 3), (40, 30, 8), (3000, 64, 32)])
def test_nearest_codes_are_those_of_a_brute_force_search(rows, codes, width):
    x, codebook = torch.randn(rows, width), torch.randn(codes, width)
    assert torch.equal(functional.nearest_codes(x, codebook), brute_force_codes(x, codebook))


@pytest.mark.parametrize("far", [30, 1e3, 1e5])
@pytest.mark.parametrize("groups", [2, 5])
def test_nearest_codes_are_right_in_groups_far_apart(far, groups):
    """The offset of each group is large, that of all is not: subtracting it does not help."""
    generator = torch.Generator().manual_seed(0)
    centres = far * torch.nn.functional.normalize(torch.randn(groups, 16, generator=generator), dim=1)
    centres = torch.cat([centres, -centres])
    codebook = (centres[:, None] + torch.randn(2 * groups, 20, 16, generator=generator)).flatten(0, 1)
    x = (centres[:, None] + torch.randn(2 * groups, 60, 16, generator=generator)).flatten(0, 1)
    table = (x.double()[:, None] - codebook.double()).square().sum(dim=2)
    two = table.topk(2, largest=False).values
    clear = (two[:, 1] - two[:, 0]) > 1e-3 * two[:, 1]              # what float32 rows themselves can tell
    assert clear.float().mean() > 0.9
    assert torch.equal(functional.nearest_codes(x, codebook)[clear], table.argmin(dim=1)[clear])


KINDS = {
    "plain": lambda c: c, "half far": lambda c: c.index_add(0, torch.arange(0, len(c), 2), c.new_full((len(c) + 1 >> 1, c.shape[1]), 1e5)),
    "one far": lambda c: torch.cat([c[:1] * 1e6, c[1:]]), "lengths": lambda c: c * torch.logspace(-6, 6, len(c))[:, None],
    "copies": lambda c: c[:3][torch.arange(len(c)) % min(3, len(c))], "zeros": lambda c: c * 0,
    "opposite": lambda c: (c + 1e4) * (1 - 2 * (torch.arange(len(c)) % 2))[:, None]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-8, 1.0, 1e8])
def test_the_code_is_as_near_as_the_nearest_wherever_codes_lie_and_however_large_they_are(kind, scale):
    """Squares of small numbers vanish, those of groups far apart cancel; nearer than a ten thousandth nobody asks."""
    generator = torch.Generator().manual_seed(0)
    for codes, width, rows in ((2, 1, 3), (8, 1, 300), (300, 3, 300), (64, 16, 26)):
        codebook = KINDS[kind](torch.randn(codes, width, generator=generator)) * scale
        x = codebook[torch.randint(codes, (rows,), generator=generator)] + 0.3 * scale * torch.randn(rows, width, generator=generator)
        table = (x.double()[:, None] - codebook.double()).norm(dim=2)
        for exact in (False, True):
            found = table.gather(1, functional.nearest_codes(x, codebook, exact=exact)[:, None])[:, 0]
            assert (found <= table.amin(dim=1) * (1 + 1e-4) + 1e-45).all(), (codes, exact)
    assert functional.crowded(codebook) == (kind in ("half far", "copies", "opposite")) or kind in ("lengths", "zeros")


def test_rows_that_are_codes_find_themselves_without_a_second_look_at_all_codes(monkeypatch):
    """As in k-means with thousands of clusters, where every other row may be one: the first of equal codes, too."""
    generator = torch.Generator().manual_seed(0)
    rows = 5 * torch.randn(600, 32, generator=generator)
    codebook = torch.cat([rows[:300], rows[100:150], rows[400:450] + 1e-4])
    looked, cdist = [], torch.cdist

    def counting(a, b, **options):
        looked.append(b.shape[-2] if "donot" in options.get("compute_mode", "") else 0)
        return cdist(a, b, **options)

    monkeypatch.setattr(torch, "cdist", counting)
    assert torch.equal(functional.nearest_codes(rows, codebook), brute_force_codes(rows, codebook))
    assert 0 < max(looked) < 20
    crowd = rows[:1] + 1e-3 * torch.randn(40, 32, generator=generator)       # more codes than that as near
    assert torch.equal(functional.nearest_codes(crowd.repeat(2, 1), torch.cat([codebook, crowd])),
                       brute_force_codes(crowd.repeat(2, 1), torch.cat([codebook, crowd])))
    assert max(looked) == len(codebook) + len(crowd)


@pytest.mark.parametrize("offset", [100.0, 1000.0])
@pytest.mark.parametrize("width", [32, 256])
def test_nearest_codes_are_right_far_from_the_origin(offset, width):
    direction = torch.nn.functional.normalize(torch.randn(width), dim=0) * width ** 0.5
    x, codebook = torch.randn(400, width), torch.randn(64, width)
    x, codebook = x + offset * direction, codebook + offset * direction
    plain = torch.cdist(x, codebook).argmin(dim=1)
    expected = brute_force_codes(x, codebook)
    assert (plain != expected).any()                    # what this guards against does happen
    assert torch.equal(functional.nearest_codes(x, codebook), expected)


def test_near_the_origin_the_distances_are_plain_cdist_to_the_bit():
    x, codebook = torch.randn(500, 16), torch.nn.Embedding(128, 16).weight
    assert torch.equal(functional.nearest_codes(x, codebook), torch.cdist(x, codebook).argmin(dim=1))


@pytest.fixture
def products():
    """The process's setting of float32 products, put back afterwards."""
    yield torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "by its new name"])
def test_distances_off_the_cpu_are_never_taken_in_tf32(monkeypatch, products, precision):
    """On the meta device, which like a GPU is not the CPU: the setting is off in the product, and back after it."""
    seen, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *pair: seen.append(products.allow_tf32) or cdist(*pair))
    if precision != "by its new name":
        torch.set_float32_matmul_precision(precision)
        setting = torch.get_float32_matmul_precision
    elif hasattr(products, "fp32_precision"):
        products.fp32_precision = "tf32"
        setting = partial(getattr, products, "fp32_precision")
    else:
        pytest.skip("this torch has the old name only")
    before = setting()
    codes = functional.nearest_codes(torch.empty(20_000, 8, device="meta"), torch.empty(64, 8, device="meta"))
    assert seen == [False, False] and codes.shape == (20_000,)
    assert setting() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_codes_on_a_gpu_that_may_use_tf32_are_those_of_a_brute_force_search(products, offset):
    x, codebook = torch.randn(2000, 32) + offset, torch.randn(256, 32) + offset
    torch.set_float32_matmul_precision("high")
    codes = functional.nearest_codes(x.cuda(), codebook.cuda()).cpu()
    assert (codes != brute_force_codes(x, codebook)).float().mean() < 0.002


def test_a_tie_goes_to_the_lowest_code():
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    assert functional.nearest_codes(torch.zeros(3, 2), codebook).tolist() == [1, 1, 1]


def test_a_row_that_is_not_a_number_gets_a_code_in_range_and_spoils_no_other():
    x, codebook = torch.randn(50, 4), torch.randn(30, 4)
    spoiled = x.clone()
    spoiled[7] = math.nan
    codes = functional.nearest_codes(spoiled, codebook)
    others = torch.arange(50) != 7
    assert torch.equal(codes[others], functional.nearest_codes(x, codebook)[others])
    assert 0 <= codes[7] < 30


def test_straight_through_has_the_value_of_the_codes_and_the_gradient_of_the_inputs():
    z = torch.randn(6, 3, requires_grad=True)
    quantized = torch.randn(6, 3, requires_grad=True)
    out = functional.straight_through(z, quantized)
    torch.testing.assert_close(out, quantized)
    (out * torch.arange(18.0).reshape(6, 3)).sum().backward()
    assert torch.equal(z.grad, torch.arange(18.0).reshape(6, 3))
    assert quantized.grad is None


def test_the_rotation_trick_has_the_value_of_the_codes():
    z, quantized = torch.randn(20, 8), 3 * torch.randn(20, 8)
    torch.testing.assert_close(functional.rotation_trick(z, quantized), quantized)


def test_the_rotation_trick_passes_gradients_through_a_scaled_rotation():
    z, quantized = torch.randn(5, requires_grad=True), torch.randn(5)
    jacobian = torch.autograd.functional.jacobian(
        lambda row: functional.rotation_trick(row[None], quantized[None])[0], z)
    scale = quantized.norm() / z.detach().norm()
    torch.testing.assert_close(jacobian @ jacobian.T, scale**2 * torch.eye(5), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(jacobian @ z.detach(), quantized)        # it turns z onto q
    assert torch.linalg.det(jacobian) > 0                               # a rotation, no reflection


@pytest.mark.parametrize("z, quantized", [
    ([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([1.0, 1.0], [-2.0, -2.0]),
])
def test_where_there_is_no_rotation_the_gradient_goes_straight_through(z, quantized):
    z = torch.tensor([z], requires_grad=True)
    out = functional.rotation_trick(z, torch.tensor([quantized]))
    torch.testing.assert_close(out, torch.tensor([quantized]))
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones(1, 2))


def test_kmeans_finds_clusters_that_lie_far_apart():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]) + 1000
    x = centres.repeat_interleave(25, dim=0) + 0.1 * torch.randn(100, 2)
    found = functional.kmeans(x, 4, generator=torch.Generator().manual_seed(1))
    found = found[torch.argsort((found - 1000) @ torch.tensor([1.0, 10.0]))]
    torch.testing.assert_close(found, x.reshape(4, 25, 2).mean(dim=1), rtol=0, atol=1e-3)


def test_kmeans_ends_where_each_centroid_is_the_mean_of_its_rows():
    x = torch.randn(200, 3)
    centroids = functional.kmeans(x, 8, iterations=100, generator=torch.Generator().manual_seed(0))
    codes = brute_force_codes(x, centroids)
    means = torch.stack([x[codes == k].mean(dim=0) for k in range(8)])
    torch.testing.assert_close(centroids, means, rtol=1e-4, atol=1e-5)


def test_kmeans_depends_on_its_generator_alone():
    x = torch.randn(300, 4)
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        runs.append(functional.kmeans(x, 16, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(*runs)


def test_kmeans_leaves_no_cluster_empty():
    x = torch.cat([torch.randn(500, 2) * 1e-3, torch.randn(20, 2) * 10])
    centroids = functional.kmeans(x, 32, iterations=20, generator=torch.Generator().manual_seed(0))
    assert len(brute_force_codes(x, centroids).unique()) == 32


@pytest.mark.parametrize("rows", [torch.ones(5, 3), torch.randn(5, 3), torch.zeros(1, 3)])
def test_with_fewer_distinct_rows_than_clusters_every_centroid_still_differs(rows):
    centroids = functional.kmeans(rows, 12, generator=torch.Generator().manual_seed(0))
    assert centroids.isfinite().all()
    assert len(centroids.unique(dim=0)) == 12


def test_kmeans_without_rows_is_refused():
    with pytest.raises(ValueError, match="needs at least one row"):
        functional.kmeans(torch.zeros(0, 3), 4)


def test_perplexity_of_known_distributions():
    counts = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]])
    torch.testing.assert_close(functional.perplexity(counts), torch.tensor([4.0, 1.0, 2.0]))


def test_thousands_of_codes_are_seeded_in_blocks_and_fit_about_as_well():
    """Against scipy-free Lloyd from random rows: not worse, no code wasted, and the same for the same seed."""
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    codes = functional.MANY_CODES + 100
    found = functional.kmeans(x, codes, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, functional.kmeans(x, codes, generator=torch.Generator().manual_seed(1)))
    centroids = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[:codes]]
    for _ in range(10):
        nearest = torch.cdist(x, centroids).argmin(dim=1)
        for code in nearest.unique():
            centroids[code] = x[nearest == code].mean(dim=0)
    ours, theirs = (torch.cdist(x, c).min(dim=1).values.square().sum() for c in (found, centroids))
    assert ours < theirs
    assert len(torch.cdist(x, found).argmin(dim=1).unique()) == codes


def test_balance_brings_codes_nearer_to_even_shares_at_about_the_same_error():
    """Half of the rows lie in one heap, which plain k-means gives few centroids."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([0.3 * torch.randn(2000, 8, generator=generator), 3 * torch.randn(2000, 8, generator=generator)])
    shares, errors = [], []
    for balance in (None, 0.05):
        centroids = functional.kmeans(x, 64, balance=balance, generator=torch.Generator().manual_seed(1))
        nearest = torch.cdist(x, centroids).min(dim=1)
        shares.append(nearest.indices.bincount(minlength=64).max().item())
        errors.append(nearest.values.square().sum().item())
    assert shares[1] < 0.8 * shares[0] and errors[1] < 1.15 * errors[0]


@pytest.mark.parametrize("codes", [64, 2000])
def test_with_fewer_rows_than_codes_each_row_is_a_centroid_at_once(codes):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    done = []
    found = functional.kmeans(x, codes, balance=0.05, generator=torch.Generator().manual_seed(1), tick=done.append)
    assert found.shape == (codes, 3) and torch.cdist(x, found).min(dim=1).values.max() < 1e-6
    assert len(found.unique(dim=0)) == codes
    assert all(share <= 0.5 for share in done)
