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


def test_perplexity_of_known_distributions():
    counts = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]])
    torch.testing.assert_close(functional.perplexity(counts), torch.tensor([4.0, 1.0, 2.0]))


def test_rows_on_a_code_that_lies_alone_are_settled_without_a_second_look(monkeypatch):
    """As a catalogue has thousands of rows of zeros."""
    codebook = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(functional, "_nearest_exactly", None)
    assert torch.equal(functional.nearest_codes(codebook[5].repeat(100, 1), codebook), torch.full((100,), 5))
