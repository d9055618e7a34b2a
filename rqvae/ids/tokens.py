"""Codes <-> the tokens that language models read. Knows no file.

Shapes:  N items   L levels   K codes of a level
"""

from __future__ import annotations

import re

import numpy as np

from ..codes import as_codes, level_sizes

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
            raise ValueError(f"expected a token such as <{letter}_12>, got {str(token)[:40]!r}")
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
    if style not in _STYLES:
        raise ValueError(f"style must be one of {', '.join(map(repr, _STYLES))}, got {style!r}")
    pattern, closing = _STYLES[style]
    sizes = level_sizes(num_embeddings, num_levels)
    return [pattern.format(letter, code) for letter, size in zip(level_letters(num_levels), sizes)
            for code in range(size)] + closing


def level_offsets(num_embeddings, num_levels) -> np.ndarray:
    """What to add to each level's codes so that all share one vocabulary: (L,) int64, first 0.

    Args and errors: as `special_tokens`.
    """
    return np.cumsum([0, *level_sizes(num_embeddings, num_levels)])[:-1]
