"""The map of the items: components against an SVD, groups by hand, names that set a group apart."""

import numpy as np
import pytest
import torch

from rqvae import open_features
from rqvae.report.plane import GROUPS, POINTS, first_groups, plane
from samples import clustered


@pytest.mark.parametrize("groups", [2, 4])
def test_places_are_the_principal_components_of_the_groups_means_or_of_the_items(groups):
    features = clustered(500)
    codes = np.arange(500)[:, None] % groups
    features += 3 * torch.randn(groups, 12)[codes[:, 0]]
    found = plane(open_features(features), codes)
    centred = features - features.mean(dim=0)
    means = [centred[codes[:, 0] == code].mean(dim=0) for code in range(groups)]
    spread = torch.stack([mean / mean.norm() for mean in means]) if groups > 2 else centred
    directions = torch.linalg.svd(spread, full_matrices=False)[2][:2].T
    for axis in (0, 1):
        inside = (found.places[:, axis] > 0) & (found.places[:, axis] < 1)
        expected = (centred @ directions[:, axis]).numpy()
        expected = np.log(expected / expected.std() + np.sqrt((expected / expected.std()) ** 2 + 1))
        assert abs(np.corrcoef(found.places[inside, axis], expected[inside])[0, 1]) == pytest.approx(1, abs=1e-4)
    assert {group.code for group in found.groups} == set(range(groups))
    assert found.places.min() == 0 and found.places.max() == 1


def test_a_million_items_are_a_bounded_map():
    features, codes = np.zeros((50_000, 2), np.float32), np.arange(50_000)[:, None] % 40
    features[:, 0] = np.arange(50_000)
    found = plane(open_features(features), codes)
    assert len(found.places) == POINTS and len(found.groups) == GROUPS and (found.group == -1).any()


def test_groups_are_named_by_what_sets_them_apart():
    names = ["ftp login common", "ftp logins common", "ftp quit common", "decimal add common", "decimal sub common",
             None, "decimal 12 common"]
    groups = first_groups(np.array([5, 5, 5, 2, 2, 2, 2]), names)
    assert [(group.code, group.items) for group in groups] == [(2, 4), (5, 3)]
    assert [group.name for group in groups] == ["decimal", "ftp"]
    assert [group.name for group in first_groups(np.array([1, 1, 0]))] == ["", ""]
