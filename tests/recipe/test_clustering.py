"""k-means, by what it promises."""

import pytest
import torch

from rqvae.functional import MANY_CODES
from rqvae.recipe.clustering import kmeans


def test_kmeans_finds_clusters_that_lie_far_apart():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]) + 1000
    x = centres.repeat_interleave(25, dim=0) + 0.1 * torch.randn(100, 2)
    found = kmeans(x, 4, generator=torch.Generator().manual_seed(1))
    found = found[torch.argsort((found - 1000) @ torch.tensor([1.0, 10.0]))]
    torch.testing.assert_close(found, x.reshape(4, 25, 2).mean(dim=1), rtol=0, atol=1e-3)


def test_kmeans_ends_where_each_centroid_is_the_mean_of_its_rows():
    x = torch.randn(200, 3)
    centroids = kmeans(x, 8, iterations=100, generator=torch.Generator().manual_seed(0))
    codes = torch.cdist(x.double(), centroids.double()).argmin(dim=1)
    means = torch.stack([x[codes == k].mean(dim=0) for k in range(8)])
    torch.testing.assert_close(centroids, means, rtol=1e-4, atol=1e-5)


def test_kmeans_depends_on_its_generator_alone():
    x = torch.randn(300, 4)
    runs = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        runs.append(kmeans(x, 16, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(*runs)


def test_kmeans_leaves_no_cluster_empty():
    x = torch.cat([torch.randn(500, 2) * 1e-3, torch.randn(20, 2) * 10])
    centroids = kmeans(x, 32, iterations=20, generator=torch.Generator().manual_seed(0))
    assert len(torch.cdist(x.double(), centroids.double()).argmin(dim=1).unique()) == 32


@pytest.mark.parametrize("rows", [torch.ones(5, 3), torch.randn(5, 3), torch.zeros(1, 3)])
def test_with_fewer_distinct_rows_than_clusters_every_centroid_still_differs(rows):
    centroids = kmeans(rows, 12, generator=torch.Generator().manual_seed(0))
    assert centroids.isfinite().all()
    assert len(centroids.unique(dim=0)) == 12


def test_kmeans_without_rows_is_refused():
    with pytest.raises(ValueError, match="needs at least one row"):
        kmeans(torch.zeros(0, 3), 4)


def test_thousands_of_codes_are_seeded_in_blocks_and_fit_about_as_well():
    """Against scipy-free Lloyd from random rows: not worse, no code wasted, and the same for the same seed."""
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    codes = MANY_CODES + 100
    found = kmeans(x, codes, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, kmeans(x, codes, generator=torch.Generator().manual_seed(1)))
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
        centroids = kmeans(x, 64, balance=balance, generator=torch.Generator().manual_seed(1))
        nearest = torch.cdist(x, centroids).min(dim=1)
        shares.append(nearest.indices.bincount(minlength=64).max().item())
        errors.append(nearest.values.square().sum().item())
    assert shares[1] < 0.8 * shares[0] and errors[1] < 1.15 * errors[0]


@pytest.mark.parametrize("codes", [64, 2000])
def test_with_fewer_rows_than_codes_each_row_is_a_centroid_at_once(codes):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    done = []
    found = kmeans(x, codes, balance=0.05, generator=torch.Generator().manual_seed(1), tick=done.append)
    assert found.shape == (codes, 3) and torch.cdist(x, found).min(dim=1).values.max() < 1e-6
    assert len(found.unique(dim=0)) == codes
    assert all(share <= 0.5 for share in done)
