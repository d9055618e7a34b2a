"""Vectors to codes and back: one codebook, or a stack of them. Knows nothing of features or files.

Shapes:  B rows   E vector width   K codes   L levels
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from . import functional


class Quantized(NamedTuple):
    """What a quantizer's forward returns; it unpacks like the documented tuple."""

    quantized: torch.Tensor             # (B, E)  value of the codes' vectors, gradient of the inputs
    commitment_loss: torch.Tensor       # ()      commitment_cost included
    embedding_loss: torch.Tensor        # ()
    encoding_indices: torch.Tensor      # (B,) or (B, L) int64


class VectorQuantizer(nn.Module):
    """One codebook: each row becomes its nearest vector (van den Oord et al., arXiv 1711.00937).

    Args:
        num_embeddings: K, the number of codes.
        embedding_dim: E, the width of a vector.
        commitment_cost: beta, the weight of the loss that holds the inputs near their codes.

    Raises:
        ValueError: a size is below 1, or commitment_cost is negative or not a number.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, commitment_cost: float = 0.25):
        super().__init__()
        for name, value in (("num_embeddings", num_embeddings), ("embedding_dim", embedding_dim)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not commitment_cost >= 0:
            raise ValueError(f"commitment_cost is {commitment_cost}; it must be 0 or more")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.embeddings = nn.Embedding(num_embeddings, embedding_dim)

    @property
    def codebooks(self) -> list:
        """The codebook of each level, here one: [(K, E)]."""
        return [self.embeddings.weight]

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Nearest codes: (B, E) -> (B,) int64."""
        _check_width(inputs, self.embedding_dim)
        return functional.nearest_codes(inputs, self.embeddings.weight)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of codes: (B,) int64 -> (B, E)."""
        return self.embeddings(codes)

    def losses(self, inputs, vectors):
        """Commitment and embedding loss (arXiv 1711.00937, equation 3), each a mean over rows and width."""
        commitment = self.commitment_cost * F.mse_loss(vectors.detach(), inputs)
        embedding = F.mse_loss(vectors, inputs.detach())
        return commitment, embedding

    def forward(self, inputs: torch.Tensor) -> Quantized:
        """(B, E) -> `Quantized`, with codes (B,)."""
        codes = self.encode(inputs)
        vectors = self.decode(codes)                                # (B, E)
        return Quantized(functional.straight_through(inputs, vectors), *self.losses(inputs, vectors), codes)


class ResidualQuantizer(nn.Module):
    """L codebooks, each quantizing what the levels before it left over (Lee et al., arXiv 2203.01941;
    TIGER, arXiv 2305.05065, section 3.1).

    The walk runs on detached codes and one straight-through estimator spans the whole sum: the encoder
    sees the identity gradient from the reconstruction and the commitment of *every* level. With one
    level this is `VectorQuantizer`.

    Args:
        num_quantizers: L, the number of levels.
        num_embeddings: K, the number of codes of each level.
        embedding_dim: E, the width of a vector.
        commitment_cost: beta, see `VectorQuantizer`.

    Raises:
        ValueError: a size is below 1, or commitment_cost is negative or not a number.
    """

    def __init__(self, num_quantizers, num_embeddings, embedding_dim, commitment_cost=0.25):
        super().__init__()
        if num_quantizers < 1:
            raise ValueError(f"num_quantizers is {num_quantizers}; it must be at least 1")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.levels = nn.ModuleList(
            VectorQuantizer(num_embeddings, embedding_dim, commitment_cost) for _ in range(num_quantizers)
        )

    @property
    def codebooks(self) -> list:
        """The codebook of each level: L times (K, E)."""
        return [level.embeddings.weight for level in self.levels]

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Nearest codes level by level: (B, E) -> (B, L) int64."""
        residual, codes = inputs.detach(), []
        for level in self.levels:
            codes.append(level.encode(residual))
            residual = residual - level.decode(codes[-1]).detach()
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sum of the codes' vectors: (B, L) int64 -> (B, E). Fewer columns decode a prefix."""
        return sum(level.decode(column) for level, column in zip(self.levels, codes.unbind(dim=1)))

    def forward(self, inputs: torch.Tensor) -> Quantized:
        """(B, E) -> `Quantized`, with codes (B, L) and losses summed over the levels."""
        residual, total, codes, losses = inputs, torch.zeros_like(inputs), [], []
        for level in self.levels:
            codes.append(level.encode(residual))
            vectors = level.decode(codes[-1])                       # (B, E)
            losses.append(level.losses(residual, vectors))
            total = total + vectors.detach()
            residual = residual - vectors.detach()                  # what this level could not say
        quantized = functional.straight_through(inputs, total)
        commitment, embedding = (sum(terms) for terms in zip(*losses))
        return Quantized(quantized, commitment, embedding, torch.stack(codes, dim=1))


def _check_width(inputs, width):
    if inputs.dim() != 2 or inputs.shape[1] != width:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}; a quantizer of {width}-wide vectors takes "
                         f"(rows, {width})")
