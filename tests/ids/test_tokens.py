import numpy as np
import pytest
import torch

from rqvae.ids.tokens import from_tokens, level_offsets, special_tokens, to_tokens


def test_tokens_are_those_of_lc_rec():
    assert to_tokens([[183, 70, 232, 6]]) == [["<a_183>", "<b_70>", "<c_232>", "<d_6>"]]
    assert to_tokens(torch.tensor([7, 255])) == [["<a_7>"], ["<a_255>"]]


def test_tokens_of_any_width_come_back_untruncated():
    codes = np.random.default_rng(0).integers(0, 10 ** 15, (50, 26))
    assert (from_tokens(to_tokens(codes)) == codes).all()


def test_more_levels_than_letters_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="letters for 26 levels, but there are 27; save the codes"):
        to_tokens(np.zeros((1, 27), int))


@pytest.mark.parametrize("tokens, words", [
    ([], "at least one of each"),
    ([[]], "tokens of row 0: expected 1 to 26 tokens, got 0"),
    ([["<a_1>"], ["<a_1>", "<b_2>"]], "row 1 has 2 tokens, row 0 has 1; all items need equally"),
    ([["<a_1>", "<c_2>"]], "tokens of row 0: expected a token such as <b_12>, got '<c_2>'"),
    ([["<a_-1>"]], "expected a token such as <a_12>, got '<a_-1>'"),
    ([["<a_1>\n"]], "expected a token such as <a_12>"),
    ([["<a_\u0663>"]], "expected a token such as <a_12>"),        # a digit, but not one of ours
    ([["<a_1234567890123456789>"]], "expected a token such as <a_12>"),
    ([[3]], "expected a token such as <a_12>, got '3'"),
    ([["<a_1>"] * 27], "expected 1 to 26 tokens, got 27"),
])
def test_other_tokens_are_refused_in_words(tokens, words):
    with pytest.raises(ValueError, match=words):
        from_tokens(tokens)


def test_the_vocabulary_of_a_language_model_level_by_level():
    assert special_tokens(2, 2) == ["<a_0>", "<a_1>", "<b_0>", "<b_1>"]
    assert special_tokens([1, 2], 2, "openonerec") == ["<s_a_0>", "<s_b_0>", "<s_b_1>",
                                                       "<|sid_begin|>", "<|sid_end|>"]
    with pytest.raises(ValueError, match="style must be one of 'lcrec', 'openonerec', got 'gpt'"):
        special_tokens(2, 2, "gpt")


def test_offsets_point_at_the_tokens():
    sizes = [5, 3, 4]
    assert level_offsets(sizes, 3).tolist() == [0, 5, 8]
    assert level_offsets(256, 4).tolist() == [0, 256, 512, 768]
    vocabulary, codes = special_tokens(sizes, 3), [4, 0, 2]
    places = level_offsets(sizes, 3) + codes
    assert [vocabulary[place] for place in places] == to_tokens([codes])[0]
