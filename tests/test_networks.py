"""The documented layers, and what may be varied."""

import pytest
import torch
from torch import nn

from rqvae import Decoder, Encoder


def shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_the_encoder_has_the_documented_layers():
    assert shapes(Encoder(768, 512, 256)) == {
        "layers.0.weight": (512, 768), "layers.0.bias": (512,),
        "layers.2.weight": (512, 512), "layers.2.bias": (512,),
        "layers.4.weight": (256, 512), "layers.4.bias": (256,),
    }
    assert [type(layer) for layer in Encoder(4, 3, 2).layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_the_decoder_has_the_documented_layers():
    assert shapes(Decoder(256, 512, 768)) == {
        "layers.0.weight": (512, 256), "layers.0.bias": (512,),
        "layers.2.weight": (512, 512), "layers.2.bias": (512,),
        "layers.4.weight": (768, 512), "layers.4.bias": (768,),
    }


def test_the_forward_pass_is_the_matrix_products_written_out():
    encoder = Encoder(5, 4, 3)
    x = torch.randn(7, 5)
    w = encoder.state_dict()
    hidden = torch.clamp(x @ w["layers.0.weight"].T + w["layers.0.bias"], min=0)
    hidden = torch.clamp(hidden @ w["layers.2.weight"].T + w["layers.2.bias"], min=0)
    torch.testing.assert_close(encoder(x), hidden @ w["layers.4.weight"].T + w["layers.4.bias"])


def test_a_list_of_widths_gives_one_layer_each():
    encoder = Encoder(10, [8, 6, 4], 2, activation="gelu")
    assert [layer.out_features for layer in encoder.layers if isinstance(layer, nn.Linear)] == [8, 6, 4, 2]
    assert isinstance(encoder.layers[1], nn.GELU)


@pytest.mark.parametrize("widths", [0, [], [8, 0], [8, 2.5]])
def test_impossible_widths_are_named(widths):
    with pytest.raises(ValueError, match="hidden_dim is .* positive integer"):
        Encoder(4, widths, 2)


def test_an_unknown_activation_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="activation is 'tanh'; it must be one of relu, gelu, silu"):
        Encoder(4, 4, 2, activation="tanh")
