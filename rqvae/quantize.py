"""Vectors to codes and back: one codebook, or a stack of them. Knows nothing of features or files.

Shapes:  B rows   E vector width   K codes   L levels
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from . import distributed, functional
from .codes import level_sizes

EMA_EPSILON = 1e-5      # arXiv 1711.00937, appendix A.1
SHARE_DECAY = 0.99      # of the moving share of rows that tells a dead code


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
        rotation_trick: pass gradients by `functional.rotation_trick` instead of straight through.
        ema_decay: None learns the codebook by gradient (documented). A number in (0, 1) makes it the
            moving average of the rows it stands for, kept by `update` (arXiv 1711.00937, appendix A);
            the embedding loss is then 0.
        restart_below: None leaves unused codes alone (documented). A number makes `update` move each
            code onto a random row of the batch when its moving share of the rows falls below that part
            of an even share (Jukebox, arXiv 2005.00341, section 3.1; SoundStream, arXiv 2107.03312).

    Raises:
        ValueError: a size is below 1, a weight is out of its range.
    """

    _prepared = None                        # the codebook as `_codebook` made it last

    def __init__(self, num_embeddings: int, embedding_dim: int, commitment_cost: float = 0.25, *,
                 rotation_trick: bool = False, ema_decay: float = None, restart_below: float = None):
        super().__init__()
        _check_options(locals())
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.rotation_trick, self.ema_decay, self.restart_below = rotation_trick, ema_decay, restart_below
        self.embeddings = nn.Embedding(num_embeddings, embedding_dim)
        self._crowded = None, False         # what of the weights was looked at, and what was found
        if ema_decay is not None:
            self.embeddings.weight.requires_grad_(False)
            self.register_buffer("ema_counts", torch.ones(num_embeddings))
            self.register_buffer("ema_sums", self.embeddings.weight.clone())
        if restart_below is not None:
            self.register_buffer("shares", torch.ones(num_embeddings))      # 1 is an even share

    @property
    def levels(self) -> list:
        """The quantizer of each level, here this one."""
        return [self]

    @property
    def codebooks(self) -> list:
        """The codebook of each level, here one: [(K, E)]."""
        return [self.embeddings.weight]

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """Nearest codes: (B, E) -> (B,) int64."""
        _check_width(inputs, self.embedding_dim)
        return functional.nearest_codes(inputs, self._codebook(), exact=self._exactly(inputs))

    def _codebook(self):
        """The codebook, prepared as `nearest_codes` takes it, of a copy that is kept for as long as it is equal.

        In training it never is.
        """
        weight = self.embeddings.weight.detach()
        if self.training or not functional.may_look(weight) or weight.dtype != torch.float32:
            return weight
        if self._prepared is None or not torch.equal(self._prepared.vectors, weight):
            self._prepared = functional.prepared(weight.clone())
        return self._prepared

    def _exactly(self, inputs):
        """Whether codes are so `crowded` that a GPU would mistake them.

        Asked once for a codebook, and not in training.
        """
        if self.training or inputs.device.type == "cpu" or torch.compiler.is_compiling():
            return False
        weight = self.embeddings.weight
        seen = weight.data_ptr(), weight._version
        if self._crowded[0] != seen:
            self._crowded = seen, functional.crowded(weight)
        return self._crowded[1]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Vectors of codes: (B,) int64 -> (B, E)."""
        return self.embeddings(codes)

    def losses(self, inputs: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Commitment and embedding loss (arXiv 1711.00937, equation 3), each a mean over rows and width."""
        commitment = self.commitment_cost * F.mse_loss(vectors.detach(), inputs)
        embedding = F.mse_loss(vectors, inputs.detach()) if self.ema_decay is None else inputs.new_zeros(())
        return commitment, embedding

    def forward(self, inputs: torch.Tensor, assign: Callable | None = None) -> Quantized:
        """(B, E) -> `Quantized`, with codes (B,).

        Args:
            inputs: (B, E).
            assign: how codes are chosen in training, see `assignment`; None takes the nearest.
        """
        codes = self.encode(inputs) if assign is None else assign(inputs, [self], 0, [])
        vectors = self.decode(codes)                                # (B, E)
        estimate = functional.rotation_trick if self.rotation_trick else functional.straight_through
        commitment, embedding = self.losses(inputs, vectors)
        if assign is not None:
            commitment = commitment + assign.penalty
        return Quantized(estimate(inputs, vectors), commitment, embedding, codes)

    @torch.no_grad()
    def update(self, inputs: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Let the codebook follow a training batch, as far as `ema_decay` and `restart_below` ask for it.

        Args:
            inputs: (B, E) what was quantized.
            codes: (B,) int64, what it became.

        Returns:
            (K,) bool, the codes that were restarted, of which an optimizer should forget what it knows;
            None without `restart_below`.
        """
        if self.ema_decay is None and self.restart_below is None:
            return None
        inputs, codes = distributed.gather(inputs), distributed.gather(codes)
        counts = functional.count_codes(codes, self.num_embeddings)             # (K,)
        if self.ema_decay is not None:
            self._follow(inputs, codes, counts)
        if self.restart_below is None:
            return None
        self.shares.lerp_(counts * (self.num_embeddings / len(codes)), 1 - SHARE_DECAY)
        dead = self.shares < self.restart_below                                 # (K,)
        # A row for every code, wanted or not: to ask how many are dead would wait for a GPU.
        drawn = torch.randint(len(inputs), (self.num_embeddings,), device=inputs.device)
        distributed.broadcast([drawn])
        rows = inputs[drawn]                                                    # (K, E)
        self.embeddings.weight.copy_(torch.where(dead[:, None], rows, self.embeddings.weight))
        self.shares.masked_fill_(dead, 1.0)
        if self.ema_decay is not None:          # or the next average would undo the restart
            self.ema_counts.masked_fill_(dead, 1.0)
            self.ema_sums.copy_(torch.where(dead[:, None], rows, self.ema_sums))
        return dead

    def _follow(self, inputs, codes, counts):
        """Appendix A.1 of arXiv 1711.00937: N and M decay towards this batch's counts and sums."""
        sums = torch.zeros_like(self.ema_sums).index_add_(0, codes, inputs)                 # (K, E)
        self.ema_counts.lerp_(counts, 1 - self.ema_decay)
        self.ema_sums.lerp_(sums, 1 - self.ema_decay)
        total = self.ema_counts.sum()
        smoothed = (self.ema_counts + EMA_EPSILON) / (total + self.num_embeddings * EMA_EPSILON) * total
        self.embeddings.weight.copy_(self.ema_sums / smoothed[:, None])

    @torch.no_grad()
    def set_codebook(self, vectors: torch.Tensor, counts: torch.Tensor = None) -> None:
        """Replace the codebook by (K, E) vectors, and the averages with it.

        Args:
            vectors: (K, E).
            counts: (K,) rows that each stands for, one each if None.
        """
        self.embeddings.weight.copy_(vectors)
        if self.ema_decay is not None:
            self.ema_counts.copy_(torch.ones_like(self.ema_counts) if counts is None else counts)
            self.ema_sums.copy_(self.embeddings.weight * self.ema_counts[:, None])


class ResidualQuantizer(nn.Module):
    """L codebooks, each quantizing what the levels before it left over (Lee et al., arXiv 2203.01941;
    TIGER, arXiv 2305.05065, section 3.1).

    The walk runs on detached codes and one straight-through estimator spans the whole sum: the encoder
    sees the identity gradient from the reconstruction and the commitment of *every* level. With one
    level this is `VectorQuantizer`.

    Args:
        num_quantizers: L, the number of levels.
        num_embeddings: K, the number of codes of each level, or a list of L numbers.
        embedding_dim: E, the width of a vector.
        commitment_cost, rotation_trick, ema_decay, restart_below: see `VectorQuantizer`.

    Raises:
        ValueError: a size is below 1, a weight is out of its range.
    """

    def __init__(self, num_quantizers: int, num_embeddings: int | list, embedding_dim: int,
                 commitment_cost: float = 0.25, *, rotation_trick: bool = False, ema_decay: float = None,
                 restart_below: float = None):
        super().__init__()
        if num_quantizers < 1:
            raise ValueError(f"num_quantizers is {num_quantizers}; it must be at least 1")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.rotation_trick = rotation_trick
        self.levels = nn.ModuleList(
            VectorQuantizer(size, embedding_dim, commitment_cost, ema_decay=ema_decay,
                            restart_below=restart_below)
            for size in level_sizes(num_embeddings, num_quantizers)
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

    def forward(self, inputs: torch.Tensor, assign: Callable | None = None) -> Quantized:
        """(B, E) -> `Quantized`, with codes (B, L) and losses summed over the levels.

        Args:
            inputs: (B, E).
            assign: how codes are chosen in training, see `assignment`; None takes the nearest.
        """
        residual, total, codes, losses = inputs, torch.zeros_like(inputs), [], []
        for depth, level in enumerate(self.levels):
            codes.append(level.encode(residual) if assign is None
                         else assign(residual, self.levels, depth, codes))
            vectors = level.decode(codes[-1])                       # (B, E)
            losses.append(level.losses(residual, vectors))
            total = total + vectors.detach()
            residual = residual - vectors.detach()                  # what this level could not say
        estimate = functional.rotation_trick if self.rotation_trick else functional.straight_through
        commitment, embedding = (sum(terms) for terms in zip(*losses))
        if assign is not None:
            commitment = commitment + assign.penalty
        return Quantized(estimate(inputs, total), commitment, embedding, torch.stack(codes, dim=1))

    @torch.no_grad()
    def update(self, inputs: torch.Tensor, codes: torch.Tensor) -> list:
        """`VectorQuantizer.update` of each level, with what the levels before it left over.

        Returns:
            For each level what its `update` returns.
        """
        residual, restarted = inputs, []
        for level, column in zip(self.levels, codes.unbind(dim=1)):
            vectors = level.decode(column)
            restarted.append(level.update(residual, column))
            residual = residual - vectors
        return restarted


def _check_options(options):
    rules = (
        ("num_embeddings", "at least 1", lambda value: value >= 1),
        ("embedding_dim", "at least 1", lambda value: value >= 1),
        ("commitment_cost", "0 or more", lambda value: value >= 0),
        ("ema_decay", "between 0 and 1, or None", lambda value: value is None or 0 < value < 1),
        ("restart_below", "between 0 and 1, or None", lambda value: value is None or 0 < value < 1),
    )
    for name, rule, holds in rules:
        if not holds(options[name]):
            raise ValueError(f"{name} is {options[name]}; it must be {rule}")


def _check_width(inputs, width):
    if inputs.dim() != 2 or inputs.shape[1] != width:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}; a quantizer of {width}-wide vectors takes "
                         f"(rows, {width})")
