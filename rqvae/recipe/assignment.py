"""Which code a row takes while training, where that is not simply the nearest. Encoding always takes the nearest.

A quantizer's forward calls `assign(residual, levels, depth, codes)` at each level, with the codes of the
levels before, and adds `assign.penalty` to its commitment loss. `RqVae.assign` holds the object.

Shapes:  N items   B rows of a batch   E vector width   K codes   L levels
"""

import math

import torch
from torch.nn import functional as F

from .. import distributed
from ..functional import balancing_potentials, count_codes, squared_distances

PULL_FROM, PULL_RISE = 0.3, 0.5     # shares of the training: where the pull sets in, and over which it rises


class SinkhornAssignment:
    """Codes of the last level by a balanced plan over the batch (LC-Rec, arXiv 2311.09049, section 3.2).

    Args:
        epsilon: temperature, in units of the batch's range of squared distances; LC-Rec uses 0.003.
        iterations: of Sinkhorn's rows and columns.
    """

    penalty = 0.0

    def __init__(self, epsilon: float = 0.003, iterations: int = 50):
        if not epsilon > 0 or iterations < 1:
            raise ValueError(f"epsilon is {epsilon} and iterations {iterations}; both must be above 0")
        self.epsilon, self.iterations = epsilon, iterations

    def of(self, batch):
        """This object, ready for a batch."""
        return self

    @torch.no_grad()
    def __call__(self, residual, levels, depth, codes):
        """(B,) int64 codes of the level `depth` for (B, E) residuals."""
        if depth < len(levels) - 1:
            return levels[depth].encode(residual)
        costs = squared_distances(residual, levels[depth].embeddings.weight)    # (B, K)
        low, high = costs.min(), costs.max()
        costs = (costs - (low + high) / 2) / (high - low + 1e-5)
        return (costs + balancing_potentials(costs, epsilon=self.epsilon, iterations=self.iterations)).argmin(dim=1)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state) -> None:
        pass


class BalancedAssignment:
    """Every code at a price that keeps all codes in use, and on the last level no two items the same ID.

    After each batch a code that more rows took than an even share gets dearer, one that fewer took
    cheaper, in proportion (the balancing of experts without a loss of Wang et al., arXiv 2408.15664, on
    distances). Prices fade out towards the end, when codes are plainly the nearest. On the last level a
    row whose nearest code another item of its prefix holds takes the nearest one that none holds; the
    penalty pulls its latent over the border, harder as training goes on.

    Args:
        num_items: N, the items trained on; batches name theirs by "positions" (B,), 0 to N - 1.
        quantizer: that will be trained.
        total_steps: of the training, which sets when prices fade and the pull grows.
        rate: by how much a code that took all rows of a batch gets dearer, over the mean squared distance.
        fade: share of the training over which prices are full; they are gone at twice that share.
        pull: weight of the penalty at the end.
    """

    def __init__(self, num_items, quantizer, total_steps, *, rate=0.3, fade=0.4, pull=5.5):
        self.sizes = [len(codebook) for codebook in quantizer.codebooks]
        num_codes = self.sizes[-1]
        device = quantizer.codebooks[0].device
        self.total_steps, self.rate, self.fade, self.pull = max(total_steps, 1), rate, fade, pull
        self.num_codes = num_codes
        self.steps, self.penalty, self.positions = 0, 0.0, None
        self.prices = torch.zeros(len(self.sizes), max(self.sizes), device=device)         # (L, K)
        self.cell = torch.full((num_items,), -1, device=device)                 # where an item is counted
        self.held = self._counted()

    def of(self, batch):
        """This object, ready for a batch.

        Raises:
            ValueError: the batch does not say which items it holds.
        """
        if "positions" not in batch:
            raise ValueError('the batch has no "positions"; train with a FeatureLoader')
        self.positions, self.penalty = batch["positions"].to(self.cell.device), 0.0
        return self

    def __call__(self, residual, levels, depth, codes):
        """(B,) int64 codes of the level `depth` for (B, E) residuals, which the penalty passes gradients to."""
        last = depth == len(levels) - 1
        codebook = levels[depth].embeddings.weight
        with torch.no_grad():
            distances = squared_distances(residual, codebook)                   # (B, K)
            strength, pull = self._strength(), self._pull()
            costs = distances + strength * self.prices[depth, :len(codebook)] if strength else distances
            nearest = chosen = costs.argmin(dim=1)
            if strength:
                self._reprice(depth, nearest, distances)
            if last and depth and pull:
                prefix = self._hash(codes)
                taken = self._taken_by_others(prefix)                           # (B, K)
                free = costs.masked_fill(taken, math.inf).argmin(dim=1)
                chosen = torch.where(taken.all(dim=1), nearest, free)
        if last and depth:
            if pull:
                gap = (residual - F.embedding(chosen, codebook).detach()).square().mean(dim=1) \
                    - (residual - F.embedding(nearest, codebook).detach()).square().mean(dim=1)     # (B,)
                self.penalty = pull * gap.clamp_min(0).mean()
            self._hold(self._hash(codes), chosen)
        self.steps += last
        return chosen

    def publish(self, positions, codes) -> None:
        """From here on these items (m,) hold the IDs `codes` (m, L), whatever else is trained."""
        self.cell[positions] = self._hash(list(codes.T[:-1])) * self.num_codes + codes[:, -1]
        self.held = self._counted()

    def state_dict(self) -> dict:
        """What must survive a restart; `held` is counted again."""
        return {"steps": self.steps, "prices": self.prices, "cell": self.cell}

    def load_state_dict(self, state) -> None:
        self.steps = int(state["steps"])
        self.prices.copy_(state["prices"])
        self.cell.copy_(state["cell"])
        self.held = self._counted()

    def __getstate__(self):
        """For copies and pickles: without the table, which is large and counted again, and without the last batch."""
        return {**vars(self), "held": None, "positions": None, "penalty": 0.0}

    def __setstate__(self, state):
        vars(self).update(state)
        self.held = self._counted()

    def _counted(self):
        """Who holds what: prefixes hashed to rows of a table; 8 cells an item make false alarms rare."""
        cells = min(max(8 * len(self.cell), 2**22), 2**26)
        held = torch.zeros(-(-cells // self.num_codes), self.num_codes, dtype=torch.int32, device=self.cell.device)
        # An item that is not held yet adds 0: nothing here depends on how many are, which a GPU would have to tell.
        held.view(-1).index_add_(0, self.cell.clamp_min(0), (self.cell >= 0).to(held.dtype))
        return held

    def _strength(self):
        return max(0.0, min(1.0, 2 - self.steps / (self.fade * self.total_steps)))

    def _reprice(self, depth, codes, distances):
        """Move this level's prices by what the batch took, over all processes."""
        size = self.sizes[depth]
        taken = count_codes(codes, size)                                        # (K,)
        sums = distributed.sum_(torch.cat([taken, distances.sum()[None]]))
        taken, rows = sums[:-1], sums[:-1].sum()
        scale = sums[-1] / (rows * size)                              # mean squared distance
        self.prices[depth, :size] += self.rate * scale * (taken / rows - 1 / size)

    def _pull(self):
        done = self.steps / self.total_steps
        return self.pull * min(1.0, max(0.0, (done - PULL_FROM) / PULL_RISE))

    def _hash(self, codes):
        """(B,) rows of `held` for prefixes, a list of (B,) codes."""
        mixed = torch.zeros_like(codes[0])
        for level, size in zip(codes, self.sizes):
            mixed = mixed * size + level
            mixed = mixed if mixed.numel() == 0 else mixed % (2**40)            # five levels of 256 fit below
        return mixed % len(self.held)

    def _taken_by_others(self, prefix):
        """(B, K): is this last code of the row's prefix held by another item?"""
        counts = self.held[prefix]
        own = self.cell[self.positions]                                         # (B,)
        mine = (own >= 0) & (own // self.num_codes == prefix)
        counts.scatter_add_(1, (own % self.num_codes)[:, None], -mine[:, None].to(counts.dtype))
        return counts > 0

    def _hold(self, prefix, last):
        positions = distributed.gather(self.positions)
        new = distributed.gather(prefix * self.num_codes + last)
        flat, old = self.held.view(-1), self.cell[positions]
        flat.index_add_(0, old.clamp_min(0), -(old >= 0).to(flat.dtype))        # an item not held yet: minus 0
        flat.index_add_(0, new, torch.ones_like(new, dtype=flat.dtype))
        self.cell[positions] = new
