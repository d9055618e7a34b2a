"""The tree of IDs against a dictionary of prefixes."""

import numpy as np
import torch

from rqvae.report.id_tree import IdTree


def test_children_are_the_codes_that_existing_ids_go_on_with():
    ids = np.random.default_rng(0).integers(5, size=(60, 3))
    tree = IdTree(ids)
    prefixes = [{prefix: number for number, prefix in enumerate(sorted({tuple(row[:length]) for row in ids.tolist()}))}
                for length in range(4)]
    for level in range(3):
        found = tree.children(level, torch.tensor([[*prefixes[level].values(), -1]]))[0].tolist()
        for prefix, number in prefixes[level].items():
            assert found[number] == [prefixes[level + 1].get((*prefix, code), -1) for code in range(tree.sizes[level])]
        assert set(found[-1]) == {-1}
    assert tree.of_item.tolist() == [prefixes[3][tuple(row)] for row in ids.tolist()]
    assert tree.held.sum() == 60 and (tree.held[tree.of_item] == [(ids == row).all(axis=1).sum() for row in ids]).all()
