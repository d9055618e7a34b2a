"""Beams that can only be items: for a decoder of one's own, and for Hugging Face's `generate`.

Needs no transformers: what `generate` takes is told by what it is called with.

Shapes:  U users   b beams a user   L levels   K codes of a level   V tokens of a language model
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .tokens import IdTokens
from .trie import NO_STATE, CodeTrie


class Beams(NamedTuple):
    """What `beam_search` returns: for each user the best IDs first."""

    codes: torch.Tensor         # (U, b, L) int64; -1 where there are fewer IDs than beams
    scores: torch.Tensor        # (U, b)    log p of each, -inf where there is none
    states: torch.Tensor        # (U, b)    for `CodeTrie.rows_of`, -1 where there is none


@torch.no_grad()
def beam_search(step, trie: CodeTrie, beams: int = 20, *, users: int = 1, reorder=None) -> Beams:
    """The most probable IDs of items by beam search, level by level.

    With as many beams as there are prefixes the result is exact: every item, by its probability.

    Args:
        step: the decoder: codes so far (U * b, l) -> logits (U * b, K or more) of the next code, the
            rows of a user side by side. It is called L times, first with (U, 0), one beam a user.
        trie: of the items that there are; `trie.without(...)` leaves some out, for all or user by user.
        beams: b at most; fewer where fewer prefixes are there.
        users: U.
        reorder: for a decoder that keeps a state for each row: called before every `step` but the first
            with the (U * b,) rows, of the step before, that the new ones go on from.

    Raises:
        ValueError: a size below 1, or logits of another shape.
    """
    for name, value in (("beams", beams), ("users", users)):
        if value < 1:
            raise ValueError(f"{name} is {value}, must be 1 or more")
    states, scores = trie.start(users), torch.zeros(users, 1, device=trie.device)
    codes = torch.zeros(users, 0, dtype=torch.int64, device=trie.device)       # (U * b, l)
    for size in trie.sizes:
        logits = step(codes)
        if logits.dim() != 2 or len(logits) != len(codes) or logits.shape[1] < size:
            raise ValueError(f"step gave logits of shape {tuple(logits.shape)} for level {codes.shape[1] + 1}; "
                             f"expected ({len(codes)}, {size}), or wider")
        following, children = trie.children(states)                             # (U * b, W)
        there = children != NO_STATE
        following = torch.where(there, following, 0)
        gains = logits.float().log_softmax(dim=1).gather(1, following).masked_fill(~there, float("-inf"))
        scores, best = (scores.reshape(-1, 1) + gains).reshape(users, -1).topk(min(beams, gains.numel() // users))
        rows = (torch.arange(users, device=trie.device) * gains.numel() // users)[:, None] + best
        rows = rows.flatten()                                                   # of (U * b, W), flat
        parents, states = rows // gains.shape[1], children.flatten()[rows]
        codes = torch.cat([codes[parents], following.flatten()[rows][:, None]], dim=1)
        if reorder is not None and codes.shape[1] < trie.num_levels:
            reorder(parents)
    codes = codes.masked_fill((states == NO_STATE)[:, None], NO_STATE)
    return Beams(codes.reshape(users, -1, trie.num_levels), scores, states.reshape(users, -1))


class IdConstraint:
    """Holds Hugging Face's `generate` to the IDs of items: `generate(..., logits_processor=[IdConstraint(...)])`.

    What follows the prompt is one ID, and behind it `end`. Beams may be reordered at will: nothing is
    kept between two calls. Have no more beams than there are items, or some of them hold none.

    Args:
        trie: of the items that there are, on the model's device.
        tokens: which token stands for which code.
        prompt_length: tokens before the ID: `input_ids.shape[1]`, or 1 for an encoder-decoder, whose
            decoder begins with a token of its own.
        end: the token behind an ID, such as `tokenizer.eos_token_id`; None where `max_new_tokens` is the
            number of levels, so that none is needed.

    Raises:
        ValueError: the tokens are not of as many levels, or not enough for the trie's codes.
    """

    def __init__(self, trie: CodeTrie, tokens: IdTokens, prompt_length: int, end: int = None):
        sizes = [len(level) for level in tokens.levels]
        if len(sizes) != trie.num_levels or any(size < needed for size, needed in zip(sizes, trie.sizes)):
            raise ValueError(f"the tokens have {sizes} codes level by level, the items' IDs {trie.sizes}; give the "
                             "tokens that were made for these IDs (a suffix is a level, too)")
        self.trie, self.tokens, self.prompt_length, self.end = trie, tokens, prompt_length, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) of the token behind (B, T) tokens, -inf for what makes no ID of an item."""
        numbers, allowed = self._allowed(input_ids)
        found = torch.full_like(scores, float("-inf"))
        found[:, numbers] = scores[:, numbers].masked_fill(~allowed, float("-inf"))
        return found

    def prefix_allowed_tokens_fn(self, batch_id: int, input_ids: torch.Tensor) -> list:
        """The same for one beam, (T,) -> tokens, for those who take `generate(prefix_allowed_tokens_fn=...)`."""
        if self.trie.has_users:
            raise ValueError("a prefix_allowed_tokens_fn sees one beam at a time and cannot tell users apart; pass the "
                             "constraint itself as a logits_processor")
        numbers, allowed = self._allowed(input_ids[None])
        return numbers[allowed[0]].tolist()

    def _allowed(self, input_ids):
        """Tokens that may come next for some beam, and for which: (M,), (B, M) bool."""
        level, device = input_ids.shape[1] - self.prompt_length, input_ids.device
        if level < 0:
            raise ValueError(f"prompt_length is {self.prompt_length}, but there are {input_ids.shape[1]} tokens; it is "
                             "the number of tokens before the ID (1 for an encoder-decoder)")
        if level < self.trie.num_levels:
            states = self.trie.states(self.tokens.decode(input_ids[:, self.prompt_length:]))
            size = self.trie.sizes[level]
            return self.tokens.levels[level][:size].to(device), self.trie.allowed(states)[:, :size].to(device)
        if self.end is None:
            raise ValueError(f"an ID has {self.trie.num_levels} tokens and nothing is said of what follows; pass "
                             f"max_new_tokens={self.trie.num_levels} to generate, or end= to IdConstraint")
        return (torch.tensor([self.end], device=device),
                torch.ones(len(input_ids), 1, dtype=torch.bool, device=device))
