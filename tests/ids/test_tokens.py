import numpy as np
import pytest
import torch

from rqvae.ids.tokens import IdTokens, add_id_tokens, from_tokens, level_offsets, special_tokens, to_tokens


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


def test_numbers_of_tokens_and_back():
    tokens = IdTokens([[7, 8, 9], [20, 12]])
    codes = [[2, 0], [0, 1]]
    assert tokens.encode(codes).tolist() == [[9, 20], [7, 12]]
    assert tokens.decode(tokens.encode(codes)).tolist() == codes
    assert tokens.decode([[9], [8]]).tolist() == [[2], [1]]
    assert tokens.decode([[20, 7], [0, 999], [8, 13]]).tolist() == [[-1, -1], [-1, -1], [1, -1]]


class Vocabulary:
    """As much of a tokenizer as add_id_tokens asks for."""

    def __init__(self, words):
        self.words = list(words)

    def __len__(self):
        return len(self.words)

    def get_vocab(self):
        return {word: number for number, word in enumerate(self.words)}

    def add_tokens(self, tokens):
        self.words += tokens


class Model:
    """As much of a language model; `spare` rows more than tokens, and an output layer of its own if not `tied`."""

    def __init__(self, tokens, width, spare=0, tied=True):
        torch.manual_seed(0)
        self.layers = [torch.nn.Embedding(tokens + spare, width) for _ in range(1 if tied else 2)]
        with torch.no_grad():
            for place, layer in enumerate(self.layers):
                layer.weight.mul_(0.02 * (place + 1)).add_(1.0)

    def get_input_embeddings(self):
        return self.layers[0]

    def get_output_embeddings(self):
        return self.layers[-1]

    def resize_token_embeddings(self, size, mean_resizing):
        for layer in self.layers:
            fresh = torch.nn.Embedding(size, layer.weight.shape[1])
            fresh.weight.data[:len(layer.weight)] = layer.weight.data
            layer.weight = fresh.weight


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 100])
@pytest.mark.parametrize("width", [32, 4])
def test_new_embeddings_keep_the_codebooks_geometry_at_the_model_s_own_scale(width, spare, tied):
    codebooks = list(torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(3)) + 5)
    tokenizer, model = Vocabulary(f"word {number}" for number in range(50)), Model(50, width, spare, tied)
    before = [layer.weight.detach().clone() for layer in model.layers]
    tokens = add_id_tokens(tokenizer, model, codebooks, suffix_codes=np.array([[4, 2]])[:, -1].max() + 1)
    assert [len(level) for level in tokens.levels] == [16, 16, 3] and len(tokenizer) == 85
    assert [tokenizer.words[number] for number in tokens.levels[1][:2]] == ["<b_0>", "<b_1>"]
    for layer, old in zip(model.layers, before):
        weight = layer.weight.detach()
        assert len(weight) == max(85, 50 + spare) and torch.equal(weight[:50], old[:50])
        mean, spread = old[:50].mean(0), (old[:50] - old[:50].mean(0)).norm(dim=1).mean()
        for numbers, codebook in zip(tokens.levels, [*codebooks, None]):
            vectors = weight[numbers] - mean
            assert torch.isclose(vectors.norm(dim=1).mean(), spread, rtol=1e-4)
            if codebook is not None and width > 8:
                wanted, found = torch.cdist(codebook, codebook), torch.cdist(vectors, vectors)
                assert torch.allclose(found * (wanted.sum() / found.sum()), wanted, atol=0.05)
    again = IdTokens.of(tokenizer)
    assert all(torch.equal(*pair) for pair in zip(again.levels, tokens.levels))


def test_tokens_that_are_there_and_tokens_that_are_not():
    tokenizer = Vocabulary(["a", "<a_0>"])
    with pytest.raises(ValueError, match="the tokenizer has <a_0> already; .* by IdTokens.of"):
        add_id_tokens(tokenizer, Model(2, 4), [torch.randn(2, 4)])
    for words, lacking in (["word"], "<a_0>"), (["<a_0>", "<a_2>"], "<a_1>"), (["<a_0>", "<c_0>"], "<b_0>"):
        with pytest.raises(ValueError, match=f"the tokenizer lacks {lacking}, the token of a code"):
            IdTokens.of(Vocabulary(words))


def test_tokens_of_another_style_are_found_in_a_vocabulary():
    tokens = special_tokens([3, 2], 2, "openonerec")
    found = IdTokens.of(Vocabulary(["<a_0>", *reversed(tokens)]), "openonerec")
    assert [level.tolist() for level in found.levels] == [[7, 6, 5], [4, 3]]
