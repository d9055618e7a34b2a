"""Codes <-> the tokens that language models read, as text and as numbers. Knows no file.

Shapes:  N items   L levels   K codes of a level   E width of their vectors   V tokens   H width of a language model
"""

from __future__ import annotations

import re

import numpy as np
import torch

from ..codes import as_codes, level_sizes
from ..storage.words import brief

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"<([a-z])_([0-9]{1,18})>")         # 18 digits always fit int64
_STYLES = {"lcrec": ("<{}_{}>", []),
           "openonerec": ("<s_{}_{}>", ["<|sid_begin|>", "<|sid_end|>"])}


def level_letters(num_levels) -> str:
    """A letter for each level: "abc" for three.

    Raises:
        ValueError: there are more levels than letters.
    """
    if num_levels > len(_LETTERS):
        raise ValueError(f"tokens have letters for {len(_LETTERS)} levels, but there are "
                         f"{num_levels}; save the codes as .npy")
    return _LETTERS[:num_levels]


def to_tokens(codes) -> list[list[str]]:
    """Codes (N, L) or (N,) as LC-Rec's tokens, [["<a_183>", "<b_70>"], ...]: a letter is a level.

    Raises:
        ValueError: not codes, or more than 26 levels.
    """
    codes = as_codes(codes)
    columns = [[f"<{letter}_{code}>" for code in column]
               for letter, column in zip(level_letters(codes.shape[1]), codes.T.tolist())]
    return [list(tokens) for tokens in zip(*columns)]


def from_tokens(tokens) -> np.ndarray:
    """The inverse of `to_tokens`: N lists of L tokens -> (N, L) int64.

    Raises:
        ValueError: no rows, rows of different lengths, or another token than the level's.
    """
    rows = []
    for row, item_tokens in enumerate(tokens):
        try:
            rows.append(token_codes(item_tokens))
        except ValueError as error:
            raise ValueError(f"tokens of row {row}: {error}") from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(f"row {row} has {len(rows[-1])} tokens, row 0 has {len(rows[0])}; "
                             "all items need equally many")
    return as_codes(rows, "tokens")


def token_codes(tokens) -> list[int]:
    """The codes of one item's tokens "<a_183>", "<b_70>", ... in this order: [183, 70, ...].

    Raises:
        ValueError: no tokens, more than 26, or another token than the level's.
    """
    if not 0 < len(tokens) <= len(_LETTERS):
        raise ValueError(f"expected 1 to {len(_LETTERS)} tokens, got {len(tokens)}")
    codes = []
    for letter, token in zip(_LETTERS, tokens):
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if not match or match[1] != letter:
            raise ValueError(f"expected a token such as <{letter}_12>, got {brief(token, 40)!r}")
        codes.append(int(match[2]))
    return codes


def special_tokens(num_embeddings, num_levels, style="lcrec") -> list[str]:
    """Every token that an ID can have, level by level, for a language model's vocabulary.

    Code i of level l stands at `level_offsets(...)[l] + i`.

    Args:
        num_embeddings: K, or one for each level. A suffix is a level of its own, with as many
            codes as the largest collision has items.
        num_levels: L.
        style: "lcrec" for `<a_0>` (LC-Rec, LETTER, MiniOneRec); "openonerec" for `<s_a_0>`, with
            `<|sid_begin|>` and `<|sid_end|>` behind all others.

    Raises:
        ValueError: an unknown style, sizes that do not fit the levels, more than 26 levels.
    """
    pattern, closing = _pattern(style), _STYLES[style][1]
    sizes = level_sizes(num_embeddings, num_levels)
    return [pattern.format(letter, code) for letter, size in zip(level_letters(num_levels), sizes)
            for code in range(size)] + closing


def level_offsets(num_embeddings, num_levels) -> np.ndarray:
    """What to add to each level's codes so that all share one vocabulary: (L,) int64, first 0.

    Args and errors: as `special_tokens`.
    """
    return np.cumsum([0, *level_sizes(num_embeddings, num_levels)])[:-1]


def _pattern(style):
    if style not in _STYLES:
        raise ValueError(f"style must be one of {', '.join(map(repr, _STYLES))}, got {style!r}")
    return _STYLES[style][0]


class IdTokens:
    """Codes <-> the numbers of their tokens in one language model's vocabulary.

    Args:
        levels: for each level the token numbers of its codes 0, 1, ...: L times (K,) integers.
    """

    def __init__(self, levels):
        self.levels = [torch.as_tensor(numbers, dtype=torch.int64) for numbers in levels]
        self._codes = []                # for each level (its largest number + 2,) the code of a token, or -1
        for numbers in self.levels:
            codes = torch.full((int(numbers.max()) + 2,), -1)
            codes[numbers] = torch.arange(len(numbers))
            self._codes.append(codes)

    @classmethod
    def of(cls, tokenizer, style="lcrec") -> IdTokens:
        """Those of a Hugging Face tokenizer that has them already, such as one saved after `add_id_tokens`.

        Args: as `special_tokens`; how many levels and codes there are, the vocabulary says.

        Raises:
            ValueError: it has none, or one is missing between others.
        """
        pattern = _pattern(style)
        shape = re.compile(re.escape(pattern).replace(r"\{\}", "([a-z])", 1).replace(r"\{\}", "([0-9]{1,9})", 1))
        numbers = {}
        for token, number in tokenizer.get_vocab().items():
            match = shape.fullmatch(token)
            if match:
                numbers.setdefault(match[1], {})[int(match[2])] = number
        letters = level_letters(max(1, len(numbers)))
        sizes = {letter: max(numbers.get(letter, [0])) + 1 for letter in letters}
        missing = [pattern.format(letter, code) for letter in letters for code in range(sizes[letter])
                   if code not in numbers.get(letter, ())]
        if missing:
            raise ValueError(f"the tokenizer lacks {missing[0]}, the token of a code; add tokens by add_id_tokens")
        return cls([[numbers[letter][code] for code in range(sizes[letter])] for letter in letters])

    def encode(self, codes) -> torch.Tensor:
        """(N, l) codes of the first l levels -> (N, l) token numbers."""
        codes = torch.as_tensor(codes, dtype=torch.int64)
        return torch.stack([numbers.to(codes.device)[column]
                            for numbers, column in zip(self.levels, codes.unbind(dim=1))], dim=1)

    def decode(self, tokens) -> torch.Tensor:
        """(N, l) token numbers -> (N, l) codes; -1 for a token that is none of its level's."""
        tokens = torch.as_tensor(tokens)
        codes = [known.to(tokens.device)[column.clamp_max(len(known) - 1)]
                 for known, column in zip(self._codes, tokens.unbind(dim=1))]
        return torch.stack(codes, dim=1) if codes else tokens


def add_id_tokens(tokenizer, model, codebooks, *, suffix_codes=0, style="lcrec", seed=0) -> IdTokens:
    """Teach a Hugging Face tokenizer and model the tokens of semantic IDs.

    A code's embedding begins where its codebook has it: the vectors of a level, around their mean, are
    projected to the model's width (turned at random, which keeps distances; onto the directions in which
    they differ most where the model is narrower), scaled to the spread of the model's own embeddings and
    put around their mean. Likewise the rows of the output layer, where it has weights of its own.

    Args:
        tokenizer, model: of transformers; both are changed.
        codebooks: L times (K, E), `rqvae_model.quantizer.codebooks`.
        suffix_codes: how many codes a suffix needs, as a level of its own behind them; `codes[:, -1].max() + 1`.
        style: as in `special_tokens`.
        seed: of the projection, and of the suffix' embeddings, which no codebook has.

    Returns:
        The numbers of the new tokens.

    Raises:
        ValueError: the tokenizer has some of the tokens already.
    """
    sizes = [len(codebook) for codebook in codebooks] + [int(suffix_codes)] * bool(suffix_codes)
    tokens = special_tokens(sizes, len(sizes), style)
    known = tokenizer.get_vocab()
    present = [token for token in tokens if token in known]
    if present:
        raise ValueError(f"the tokenizer has {present[0]} already; take the numbers of its tokens by IdTokens.of, or "
                         "begin with a tokenizer and a model without them")
    old = len(tokenizer)
    tokenizer.add_tokens(tokens)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:       # some models have rows to spare
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    numbers = IdTokens.of(tokenizer, style)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    for weight in {id(layer.weight): layer.weight for layer in layers if layer is not None}.values():
        _begin_at(weight.data, numbers.levels, old, codebooks, torch.Generator().manual_seed(seed))
    return numbers


def _begin_at(weight, levels, old, codebooks, generator):
    """Fill the rows of new tokens in (V, H) from the codebooks; a level more than those from noise."""
    known = weight[:old].float()
    mean, width = known.mean(dim=0), weight.shape[1]
    spread = (known - mean).norm(dim=1).mean()
    centred = [codebook.detach().to(mean) - codebook.detach().to(mean).mean(dim=0) for codebook in codebooks]
    narrow = centred[0].shape[1]
    if narrow <= width:
        projection = torch.linalg.qr(torch.randn(width, narrow, generator=generator))[0].T         # (E, H)
    else:
        projection = torch.linalg.svd(torch.cat(centred).cpu(), full_matrices=False)[2][:width].T
    for place, numbers in enumerate(levels):
        vectors = (centred[place] @ projection.to(mean) if place < len(centred)
                   else torch.randn(len(numbers), width, generator=generator).to(mean))            # (K, H)
        scale = spread / vectors.norm(dim=1).mean().clamp_min(1e-12)
        weight[numbers.to(weight.device)] = (mean + vectors * scale).to(weight.dtype)
