"""Scale that single rows and columns do not decide, and what is said of them."""

import math

import pytest
import torch

from samples import clustered
from rqvae import RqVae, open_features
from rqvae.functional import draw_in, draw_out, row_lengths, within
from rqvae.recipe import MODEL
from rqvae.recipe.initialization import initialize
from rqvae.recipe.scaling import attainable_error, robust_scaling, unusual


def test_of_clean_rows_it_is_mean_and_deviation_and_nothing_is_drawn_in():
    features = 7 * clustered(400) + 100
    found = robust_scaling(features)
    torch.testing.assert_close(found.mean, features.mean(dim=0))
    torch.testing.assert_close(found.scale, (features - features.mean(dim=0)).square().mean().sqrt())
    assert torch.equal(found.columns, torch.ones(12))
    assert found.farthest == found.reach


@pytest.mark.parametrize("unit", [1e-40, 1e-25, 1.0, 1e12])
def test_it_follows_the_unit_of_the_features_whatever_that_is(unit):
    expected, found = robust_scaling(clustered(300)), robust_scaling(clustered(300) * unit)
    tolerance = {"rtol": 1e-3, "atol": 0} if unit > 1e-38 else {"rtol": 1e-2, "atol": 1e-44}    # few bits are left there
    torch.testing.assert_close(found.scale.double() / unit, expected.scale.double(), **tolerance)
    torch.testing.assert_close(found.reach, expected.reach, rtol=1e-2, atol=0)


def test_a_row_of_another_scale_moves_neither_mean_nor_scale():
    features = clustered(300)
    before = robust_scaling(features)
    features[7] *= 1e6
    after = robust_scaling(features)
    assert (after.mean - before.mean).norm() < 0.05 * before.scale * math.sqrt(12)
    assert 0.95 < after.scale / before.scale < 1.1


def test_a_column_of_another_scale_is_brought_to_that_of_the_others():
    features = clustered(300)
    features[:, 5] *= 1000
    columns = robust_scaling(features).columns
    assert 300 < columns[5] < 3000 and (columns[[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]] == 1).all()


def test_rare_ones_of_a_binary_column_are_no_outliers_without_scale():
    features = (torch.arange(600).reshape(200, 3) % 67 == 0).float()
    assert robust_scaling(features).columns.tolist() == [1, 1, 1]


def test_rows_are_drawn_in_and_out_again():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6e10, 8e10], [2e30, 0.0], [5e-30, 0.0]])
    reach = torch.tensor(10.0)
    drawn = draw_in(rows, reach)
    assert torch.equal(drawn[[0, 1, 4]], rows[[0, 1, 4]])
    torch.testing.assert_close(row_lengths(drawn)[2, 0].item(), 10 * (1 + math.log(1e10)), rtol=1e-6, atol=0)
    torch.testing.assert_close(draw_out(drawn, reach, torch.tensor(1e9)), rows, rtol=1e-3, atol=0)
    assert row_lengths(draw_out(drawn, reach, torch.tensor(20.0))).max() < 10 * math.e + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reach", [1e-30, 1e-9, 1.0, 27.7, 1e15])
def test_a_look_at_all_rows_at_once_never_says_that_one_is_within_reach_which_is_not(reach, dtype):
    rows = torch.nn.functional.normalize(torch.randn(400, 768, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    for length in (1e-3, 0.99, 1.0, 1.001, 1.1, 1e6, math.inf, math.nan):
        one = (rows * reach * torch.cat([torch.full((399,), 1e-3), torch.tensor([length])])[:, None]).to(dtype)
        beyond = not bool((one.double().square().sum(dim=1).sqrt() <= reach).all())
        found = within(one, torch.tensor(reach))
        assert not (found and beyond)
        assert found or not length < 0.98 or reach <= 1e-9, "it saves nothing"
        if found:
            assert draw_in(one, torch.tensor(reach)) is one and draw_out(one, torch.tensor(reach), torch.tensor(reach)) is one


def test_a_model_that_is_traced_draws_in_what_it_was_not_traced_with():
    reach, far = torch.tensor(10.0), torch.tensor([[30.0, 40.0]])
    traced = torch.jit.trace(lambda x: draw_in(x, reach), torch.ones(1, 2))
    torch.testing.assert_close(traced(far), draw_in(far, reach))


def test_attainable_error_of_a_line_a_plane_and_of_more_directions_than_bits():
    nothing = torch.zeros(())
    assert attainable_error(torch.tensor([5.0, 0.0]), nothing, 10) == pytest.approx(2.0 ** -10)
    assert attainable_error(torch.ones(2), nothing, 10) == pytest.approx(2.0 ** -5)
    # one bit goes to the first direction, which it brings down to the second one
    assert attainable_error(torch.tensor([4.0, 1.0]), nothing, 1) == pytest.approx((2 / 5) ** 0.5)
    assert attainable_error(torch.ones(2), torch.tensor(2.0), 200) == pytest.approx(0.5 ** 0.5)
    assert attainable_error(torch.zeros(3), nothing, 24) == 0


def robust(features, **options):
    model = RqVae(features.shape[1], **{**MODEL, "hidden_dim": [16], "num_embeddings": 16, **options}, latent_dim=16)
    initialize(model, features)
    return model.eval()


def test_what_is_unusual_is_named_with_what_is_done_and_how_to_overrule():
    features = clustered(300)
    features[:, 5] *= 1000
    features[[40, 7]] *= 1e6
    columns, rows = unusual(robust(features), open_features(features).rows, 300)
    assert "1 of 12 columns (5)" in columns and "--no-robust" in columns
    assert "2 of 300 rows (7, 40)" in rows and "drawn in" in rows and "--no-robust" in rows
    assert unusual(robust(clustered(300)), clustered(300).__getitem__, 300) == []


@pytest.mark.parametrize("far, offset", [(1, 0), (1, 30), (9, 0), (11, 0), (50, 0), (50, 1000)])
@pytest.mark.parametrize("column", [1, 1000])
def test_where_the_longest_row_is_not_far_out_none_is_read_and_nothing_else_is_said(far, offset, column):
    """Of rows of one length around an offset, one of which is so many times as long; `check` knows the longest."""
    features = torch.nn.functional.normalize(torch.randn(3000, 40, generator=torch.Generator().manual_seed(0)), dim=1)
    features[2000] *= far
    features[:, 3] *= column
    features += offset
    model, table, read = robust(features), open_features(features), []
    expected = unusual(model, table.rows, 3000)
    table.check()
    assert unusual(model, lambda rows: read.append(rows) or table.rows(rows), 3000, table.longest) == expected
    assert table.longest == pytest.approx(features.double().norm(dim=1).max().item(), rel=1e-6)
    assert not read or far > 9 or offset > 1 or column > 1
    assert read or far < 10


def test_of_two_items_neither_is_far_out():
    two = torch.nn.functional.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert unusual(robust(two), two.__getitem__, 2) == []


@pytest.mark.parametrize("features", [
    torch.linspace(-3, 3, 200)[:, None], torch.linspace(-3, 3, 200)[:, None] * torch.randn(1, 40),
    clustered(200) * 1e-25, torch.cat([clustered(199), 1e5 * clustered(1)]),
], ids=["one column", "rank one", "tiny", "an outlier"])
def test_the_start_tells_all_items_apart(features):
    model = robust(features, num_embeddings=64)
    ids = model.generate_semantic_ids(features)
    assert len(ids.unique(dim=0)) == 200


def test_reconstructions_are_in_the_units_of_the_features():
    features = clustered(300) * 1e-22
    features[3] *= 1000
    model = robust(features, num_embeddings=64)
    with torch.no_grad():
        said = model(features).reconstructed.double()
        torch.testing.assert_close(model.decode(model.generate_semantic_ids(features)).double(), said)
    errors = (said - features).norm(dim=1) / features.double().norm(dim=1)
    assert errors.median() < 0.5


def test_robust_needs_standardize():
    with pytest.raises(ValueError, match="robust is True, which needs standardize=True"):
        RqVae(12, robust=True)
