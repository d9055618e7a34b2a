"""A small generative recommender, to judge semantic IDs by: it reads the codes of what a user took, and says the codes
of what comes next. Knows no features, no files and no model that made the IDs.

A causal transformer whose tokens are codes, one item after the other. How a position looks at another depends on how
many items lie between them and on their levels, not on where in the history they stand; so one pass trains on every
beginning of it.

Shapes:  B histories   T items of each   L levels   K codes of a level
         S positions (T * L)   H heads   d width   W beams
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

REACH = 10              # items of a history that are looked at, the last ones
NOWHERE = -1e9          # the log-likelihood of what is impossible; sums of it stay finite


class Layer(nn.Module):
    """Attention, then a network for each position, both on normalised input and added to it."""

    def __init__(self, width, heads, levels, dropout):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.mixed = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        # What a query of one level thinks of a key of another, so many items before: the start counts as a level.
        self.affinity = nn.Parameter(torch.zeros(heads, REACH + 1, levels + 1, levels + 1))

    def project(self, x):
        """(..., S, d) -> queries, keys and values (..., H, S, d / H)."""
        parts = self.to_qkv(self.before(x)).unflatten(-1, (3, self.heads, -1))
        return parts.movedim(-3, 0).transpose(-3, -2)

    def bias(self, queries, keys):
        """(H, queries, keys); each is (item, level) of its positions."""
        distance = (queries[0][:, None] - keys[0]).clamp(0, REACH)
        return self.affinity[:, distance, queries[1][:, None], keys[1]]

    def finish(self, x, attended):
        """The layer's output, given (..., H, S, d / H) of its attention."""
        x = x + self.dropout(self.mixed(attended.transpose(-3, -2).flatten(-2)))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.between(x)), approximate="tanh")))


class Recommender(nn.Module):
    """Codes of a history -> logits of the code that comes next.

    Args:
        sizes: K of each level.
    """

    def __init__(self, sizes, *, width=96, layers=2, heads=4, dropout=0.2):
        super().__init__()
        self.sizes, self.width, self.levels = list(sizes), width, len(sizes)
        self.first = [0, *np.cumsum(sizes).tolist()]            # row of each level's code 0; the last row is the start
        self.embedding = nn.Embedding(self.first[-1] + 1, width)
        self.popularity = nn.Parameter(torch.zeros(self.first[-1]))
        self.sharpness = nn.Parameter(torch.ones(()))
        self.layers = nn.ModuleList(Layer(width, heads, self.levels, dropout) for _ in range(layers))
        self.last_norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if name.endswith("weight") and "before" not in name and "between" not in name and "norm" not in name:
                deep = name.split(".")[-2] in ("mixed", "narrow")
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def places(self, count):
        """(item, level) of the first `count` positions. The start belongs to no item: it is item 0, level L."""
        at = torch.arange(count) - 1
        return at.div(self.levels, rounding_mode="floor") + 1, torch.where(at < 0, self.levels, at % self.levels)

    def embed(self, codes, levels):
        """(..., S) codes of `levels` (S,) -> (..., S, d)."""
        rows = codes + torch.tensor(self.first)[levels]
        return self.dropout(self.embedding(rows) * math.sqrt(self.width))

    def read(self, codes):
        """The states (B, 1 + T * L, d) after the start and after each code (B, T, L); each layer's keys and values."""
        tokens = F.pad(codes.flatten(1), (1, 0))
        places = self.places(tokens.shape[1])
        x, memory = self.embed(tokens, places[1]), []
        future = torch.full((tokens.shape[1],) * 2, NOWHERE).triu(1)
        for layer in self.layers:
            query, key, value = layer.project(x)
            memory.append((key, value))
            mask = layer.bias(places, places) + future
            x = layer.finish(x, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
        return x, memory

    def logits(self, x, level):
        """(..., d) -> (..., K); a code's vector is what it is read by and what it is said by."""
        rows = slice(self.first[level], self.first[level + 1])
        return F.linear(self.last_norm(x), self.embedding.weight[rows] * self.sharpness, self.popularity[rows])

    def loss(self, codes):
        """Mean over levels of the cross entropy of every code (B, T, L), given all before it.

        A code of -1 stands after a history's end.
        """
        x = self.read(codes.clamp(min=0))[0][:, :-1].unflatten(1, (-1, self.levels))       # (B, T, L, d)
        known = codes[:, :, 0] >= 0
        return sum(F.cross_entropy(self.logits(x[:, :, level][known], level), codes[:, :, level][known])
                   for level in range(self.levels)) / self.levels

    @torch.no_grad()
    def recommend(self, codes, tree, width) -> torch.Tensor:
        """(B, width) the most likely IDs by their number in `tree`, best first, by beam search; -1 where it has fewer.

        Args:
            codes: (B, T, L), histories of one length.
            tree: the `id_tree.IdTree` of the IDs that exist.
        """
        x, memory = self.read(codes)
        places = self.places(x.shape[1])
        state, score = x[:, -1:], torch.zeros(len(codes), 1)
        prefix, said = torch.zeros(len(codes), 1, dtype=torch.int64), torch.empty(len(codes), 1, 0, dtype=torch.int64)
        for level in range(self.levels):
            state = self._go_on(said, memory, places) if level else state          # (B, W, d)
            children = tree.children(level, prefix)                                # (B, W, K)
            chance = self.logits(state, level).masked_fill(children < 0, NOWHERE).log_softmax(-1)
            chance = (score[:, :, None] + chance.masked_fill(children < 0, NOWHERE)).flatten(1)     # (B, W * K)
            score, best = chance.topk(min(width, chance.shape[1]))
            parent, code = best.div(children.shape[2], rounding_mode="floor"), best % children.shape[2]
            prefix = children.flatten(1).gather(1, best)
            said = said.gather(1, parent[:, :, None].expand(-1, -1, level))
            said = torch.cat([said, code[:, :, None]], -1)
        return F.pad(prefix, (0, width - prefix.shape[1]), value=-1)

    def _go_on(self, said, memory, places):
        """(B, W, d) the state after the first codes (B, W, l) of an item, behind a history whose keys and values are
        `memory`."""
        count = said.shape[-1]
        levels = torch.arange(count)
        here = torch.full_like(levels, int(places[0][-1]) + 1), levels
        x = self.embed(said, levels)                                               # (B, W, l, d)
        future = torch.full((count, count), NOWHERE).triu(1)
        for layer, (keys, values) in zip(self.layers, memory):
            query, key, value = layer.project(x)                                   # (B, W, H, l, d / H)
            scale = query.shape[-1] ** -0.5
            back = query @ keys[:, None].transpose(-1, -2) * scale + layer.bias(here, places)
            own = query @ key.transpose(-1, -2) * scale + layer.bias(here, here) + future
            weight = torch.cat([back, own], -1).softmax(-1)
            attended = weight[..., :-count] @ values[:, None] + weight[..., -count:] @ value
            x = layer.finish(x, attended)
        return x[:, :, -1]


def train_recommender(ids, histories, seed=0, *, epochs=12, users=96, learning_rate=4e-3, weight_decay=0.05):
    """A `Recommender` trained on what users took.

    The settings were chosen once, on IDs that no method of ours made, and are the same for all IDs.

    Args:
        ids: (N, L) int64.
        histories: (U, T) rows of items, the oldest first, -1 after the last; none is empty.
        users: of a batch.
    """
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    ids, histories = torch.as_tensor(ids), torch.as_tensor(np.asarray(histories)).long()
    lengths = (histories >= 0).sum(1).numpy()
    model = Recommender((ids.max(0).values + 1).tolist())
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embedding" not in name]
    others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in matrices)]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                                   {"params": others, "weight_decay": 0.0}], lr=learning_rate, betas=(0.9, 0.98))
    total = epochs * -(-len(histories) // users)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / total / 0.05) * max(
        0.02, 0.5 + 0.5 * math.cos(math.pi * (step + 1) / total)))
    model.train()
    for _ in range(epochs):
        order = np.lexsort((draw.random(len(lengths)), lengths))            # of like length, so that little is padding
        batch_of = (np.cumsum(lengths[order]) - 1) // (users * lengths.mean())          # and of as many items
        batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
        for at in draw.permutation(len(batches)):
            rows = histories[batches[at], :int(lengths[batches[at]].max())]
            loss = model.loss(torch.where(rows[:, :, None] >= 0, ids[rows.clamp(min=0)], -1))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()
