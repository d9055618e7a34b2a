"""Encoder and Decoder: the two multilayer perceptrons. They know nothing of codes.

Shapes:  B rows   D feature width   E latent width
"""

from __future__ import annotations

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def hidden_widths(hidden_dim) -> list:
    """The widths of the hidden layers: the documented two equal ones for an int, else the list itself.

    Raises:
        ValueError: a width is not a positive integer, or there is none.
    """
    widths = [hidden_dim, hidden_dim] if isinstance(hidden_dim, int) else list(hidden_dim)
    if not widths or any(not isinstance(w, int) or isinstance(w, bool) or w < 1 for w in widths):
        raise ValueError(f"hidden_dim is {hidden_dim!r}; it must be a positive integer (two layers of that "
                         "width) or a list of positive integers (one layer each)")
    return widths


class Encoder(nn.Module):
    """Features to latents: Linear, activation, ..., Linear, and beside them, if asked for, one plain Linear.

    Args:
        input_dim: D, the feature width.
        hidden_dim: width of the two hidden layers, or a list with the width of each.
        latent_dim: E, the latent width.
        activation: "relu" (documented), "gelu" or "silu".
        linear_path: add a matrix product to the perceptron, whose last layer then starts at zero: what
            is linear need not be learned through it.
    """

    def __init__(self, input_dim: int, hidden_dim: int | list[int], latent_dim: int, *, activation: str = "relu",
                 linear_path: bool = False):
        super().__init__()
        self.layers = _stack([input_dim, *hidden_widths(hidden_dim), latent_dim], activation)
        self.linear = _beside(self.layers, input_dim, latent_dim) if linear_path else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, E)."""
        latents = self.layers(features)
        return latents if self.linear is None else latents + self.linear(features)


class Decoder(nn.Module):
    """Latents to features; a list of widths is used in the order given.

    Args:
        latent_dim: E, the latent width.
        hidden_dim: width of the two hidden layers, or a list with the width of each.
        output_dim: D, the feature width.
        activation: "relu" (documented), "gelu" or "silu".
        linear_path: as in `Encoder`.
    """

    def __init__(self, latent_dim: int, hidden_dim: int | list[int], output_dim: int, *, activation: str = "relu",
                 linear_path: bool = False):
        super().__init__()
        self.layers = _stack([latent_dim, *hidden_widths(hidden_dim), output_dim], activation)
        self.linear = _beside(self.layers, latent_dim, output_dim) if linear_path else None

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, E) -> (B, D)."""
        features = self.layers(latents)
        return features if self.linear is None else features + self.linear(latents)


def _stack(widths, activation):
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}")
    layers = []
    for fan_in, fan_out in zip(widths, widths[1:]):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def _beside(layers, fan_in, fan_out):
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return nn.Linear(fan_in, fan_out, bias=False)


class Undrawn(torch.overrides.TorchFunctionMode):
    """Inside a `with` block modules are built without drawing weights: on the device "meta", which has none, torch
    would load its compiler for that, more than a second."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
