"""Published items are held to their codes in training: who takes which, and what pulls whom."""

import pytest
import torch

from rqvae import RqVae, recipe
from rqvae.quantize import ResidualQuantizer
from rqvae.recipe.assignment import BalancedAssignment
from rqvae.recipe.keeping import MARGIN, PULL, HeldAssignment

PUBLISHED = torch.tensor([[0, 1], [1, 2], [-1, -1], [2, 0], [-1, -1]])


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return ResidualQuantizer(2, 3, 4)


def assigned(quantizer, latents, positions):
    held = HeldAssignment(PUBLISHED, BalancedAssignment(len(PUBLISHED), quantizer, 100, fade=1e-9))
    held.of({"positions": positions})
    return quantizer(latents, held), held.penalty


def test_published_items_take_their_codes_and_new_ones_the_nearest(quantizer):
    latents = torch.randn(5, 4)
    order = torch.tensor([3, 2, 0, 4, 1])
    codes = assigned(quantizer, latents, order)[0].encoding_indices
    nearest = quantizer.encode(latents)
    for row, item in enumerate(order.tolist()):
        expected = PUBLISHED[item] if PUBLISHED[item, 0] >= 0 else nearest[row]
        assert codes[row].tolist() == expected.tolist()


def test_the_penalty_is_of_published_items_outside_their_cells_alone(quantizer):
    books = [book.detach() for book in quantizer.codebooks]
    inside = books[0][1] + books[1][2]
    outside = books[0][0] + books[1][0]                             # its own last code is 1
    latents = torch.stack([outside, inside, torch.randn(4)]).requires_grad_()
    out, penalty = assigned(quantizer, latents, torch.tensor([0, 1, 2]))
    rest = latents.detach()[0] - books[0][0]
    own, other = ((rest - books[1][code]).square().mean().item() for code in (1, 0))
    first = [(latents.detach()[0] - book).square().mean().item() for book in books[0]]
    gaps = max(0, first[0] * (1 + MARGIN) - min(first[1:])) + max(0, own * (1 + MARGIN) - other)
    assert own > other and float(penalty.detach()) == pytest.approx(PULL * gaps / 3, rel=1e-4)
    penalty.backward()
    assert latents.grad[0].any() and not latents.grad[2].any()
    assert all(book.grad is None for book in quantizer.codebooks)       # the cells stay where they are


def test_the_encoder_is_not_decayed_where_items_are_held():
    model = RqVae(5, 8, 4, 16, num_quantizers=2)
    groups = recipe.configure_optimizers(model, 100, held=True)["optimizer"].param_groups
    decayed = {id(parameter) for parameter in groups[0]["params"]}
    assert decayed == set(map(id, model.decoder.layers.parameters())) and groups[0]["weight_decay"] == 1
    assert len(decayed) + len(groups[1]["params"]) == len(list(model.parameters())) and groups[1]["weight_decay"] == 0
