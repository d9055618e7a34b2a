"""Training that goes on where published items have their codes: these are held to them while the model learns new ones.

Shapes:  N items   B rows of a batch   E vector width   L levels   K codes of a level
"""

import torch
from torch.nn import functional as F

from ..functional import squared_distances

PULL = 50.0             # weight of the penalty on latents that have left their published cell
MARGIN = 0.1            # by which they are wanted inside it, as a share of the squared distance to its centre
LEARNING_RATE = 0.5     # share of the old run's highest
EPOCHS = 4              # times what the recipe has for a new model: published items find back to their cells slowly


class HeldAssignment:
    """Published items take their published codes, whatever is nearest; all others go by another assignment.

    The penalty pulls a latent that has left its published cell back over the border, so that encoding, which knows
    nothing of what is published, finds the published codes by itself.

    Args:
        codes: (N, L) int64 of the items trained on, -1 on all levels for new ones; batches name theirs by "positions".
        others: how the others are assigned, a `BalancedAssignment`; it never gives them an ID that is held here.
        pull, margin: see PULL and MARGIN.
    """

    def __init__(self, codes, others, *, pull=PULL, margin=MARGIN):
        self.codes, self.others, self.pull, self.margin = codes, others, pull, margin
        self.penalty, self.published, self.new = 0.0, None, None
        held = (codes[:, 0] >= 0).nonzero().squeeze(1)
        others.publish(held, codes[held])

    def of(self, batch):
        """This object, ready for a batch."""
        positions = batch["positions"].to(self.codes.device)
        self.published = self.codes[positions]                                  # (B, L)
        self.new = (self.published[:, 0] < 0).nonzero().squeeze(1)
        self.others.of({"positions": positions[self.new]})
        self.penalty = 0.0
        return self

    def __call__(self, residual, levels, depth, codes):
        """(B,) int64 codes of the level `depth` for (B, E) residuals, which the penalty passes gradients to."""
        chosen = self.published[:, depth].clone()
        if len(self.new):
            chosen[self.new] = self.others(residual[self.new], levels, depth, [code[self.new] for code in codes])
        codebook = levels[depth].embeddings.weight.detach()
        with torch.no_grad():
            costs = squared_distances(residual, codebook)                       # (B, K)
            costs.scatter_(1, chosen[:, None], float("inf"))
            rival = costs.argmin(dim=1)
        own, other = ((residual - F.embedding(code, codebook)).square().mean(dim=1) for code in (chosen, rival))
        gap = own * (1 + self.margin) - other
        gap = torch.where(self.published[:, depth] >= 0, gap, torch.zeros_like(gap))
        self.penalty = self.penalty + self.pull * gap.clamp_min(0).mean()
        if depth == len(levels) - 1 and len(self.new):
            self.penalty = self.penalty + self.others.penalty * (len(self.new) / len(residual))
        return chosen

    def state_dict(self) -> dict:
        return self.others.state_dict()

    def load_state_dict(self, state) -> None:
        self.others.load_state_dict(state)

    def __getstate__(self):
        return {**vars(self), "published": None, "new": None, "penalty": 0.0}
