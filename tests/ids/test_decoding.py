"""Beams that can only be items: against every item's probability, and through Hugging Face's generate."""

import numpy as np
import pytest
import torch

from rqvae.ids.decoding import IdConstraint, beam_search
from rqvae.ids.tokens import IdTokens, add_id_tokens
from rqvae.ids.trie import CodeTrie
from samples import language_model


def decoder(users, size, seed=0):
    """A step whose logits depend on the user and on all codes so far, with a column to spare; and its log p."""
    def logits(user, prefix):
        generator = torch.Generator().manual_seed(seed + hash((user, *prefix)) % 2 ** 31)
        return torch.randn(size + 1, generator=generator)

    def step(codes):
        beams = len(codes) // users
        return torch.stack([logits(row // beams, tuple(prefix)) for row, prefix in enumerate(codes.tolist())])

    def log_p(user, item):
        return sum(logits(user, tuple(item[:length])).log_softmax(0)[code].item() for length, code in enumerate(item))

    return step, log_p


@pytest.mark.parametrize("seed", range(8))
def test_wide_beams_rank_every_item_by_its_probability(seed):
    generator = np.random.default_rng(seed)
    users, levels, size = int(generator.integers(1, 4)), int(generator.integers(1, 4)), 4
    codes = np.unique(generator.integers(0, size, (30, levels)), axis=0)
    left_out = [generator.integers(0, len(codes), 3).tolist() for _ in range(users)]
    trie, (step, log_p) = CodeTrie(codes, size).without(*left_out), decoder(users, size, seed)
    found = beam_search(step, trie, 200, users=users)
    for user, (ids, scores, states) in enumerate(zip(*found)):
        kept = [item for row, item in enumerate(codes.tolist()) if row not in left_out[user]]
        ranked = sorted(kept, key=lambda item: -log_p(user, item))
        assert ids[:len(kept)].tolist() == ranked
        assert torch.allclose(scores[:len(kept)], torch.tensor([log_p(user, item) for item in ranked]), atol=1e-5)
        assert [codes[rows].tolist() for rows in trie.rows_of(states[:len(kept)])] == [[item] for item in ranked]
        assert (ids[len(kept):] == -1).all() and (states[len(kept):] == -1).all()
        assert (scores[len(kept):] == float("-inf")).all()


def test_narrow_beams_are_those_of_a_loop_over_lists():
    codes = np.random.default_rng(0).integers(0, 6, (80, 3))
    trie, (step, log_p), legal = CodeTrie(codes, 6), decoder(1, 6), set(map(tuple, codes.tolist()))
    beams = [()]
    for length in range(1, 4):
        prefixes = {item[:length] for item in legal if item[:length - 1] in beams}
        beams = sorted(prefixes, key=lambda prefix: -log_p(0, prefix))[:5]
    assert beam_search(step, trie, 5).codes[0].tolist() == [list(prefix) for prefix in beams]


def test_a_decoder_that_keeps_a_state_is_told_whence_its_rows_come():
    codes = np.random.default_rng(0).integers(0, 5, (60, 3))
    plain, _ = decoder(2, 5)
    kept = {"prefixes": [()] * 2}

    def step(found):
        if found.shape[1]:
            kept["prefixes"] = [(*prefix, code) for prefix, code in zip(kept["prefixes"], found[:, -1].tolist())]
        assert kept["prefixes"] == [tuple(prefix) for prefix in found.tolist()]
        return plain(found)

    def reorder(parents):
        kept["prefixes"] = [kept["prefixes"][row] for row in parents.tolist()]

    wanted = beam_search(plain, CodeTrie(codes, 5), 4, users=2)
    found = beam_search(step, CodeTrie(codes, 5), 4, users=2, reorder=reorder)
    assert all(torch.equal(*pair) for pair in zip(found, wanted))


def test_with_everything_left_out_there_is_nothing_to_find():
    codes = np.random.default_rng(0).integers(0, 5, (60, 3))
    step, _ = decoder(2, 5)
    found = beam_search(step, CodeTrie(codes, 5).without(range(60), [3]), 4, users=2)
    assert (found.codes[0] == -1).all() and (found.scores[0] == float("-inf")).all() and (found.states[0] == -1).all()
    assert (found.codes[1] >= 0).all()


def test_what_is_no_beam_search_is_refused():
    trie = CodeTrie([[1, 2]])
    with pytest.raises(ValueError, match="beams is 0, must be 1 or more"):
        beam_search(None, trie, 0)
    with pytest.raises(ValueError, match=r"logits of shape \(1, 1\) for level 1; expected \(1, 2\), or wider"):
        beam_search(lambda codes: torch.zeros(1, 1), trie)


def codebooks(levels=3, size=8, width=6):
    return list(torch.randn(levels, size, width, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("way", ["processor", "prefix_fn"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_generate_gives_items_and_only_those_allowed(kind, way):
    tokenizer, model = language_model(kind)
    tokens = add_id_tokens(tokenizer, model, codebooks())
    codes = np.unique(np.random.default_rng(0).integers(0, 8, (40, 3)), axis=0)
    sold_out = [0, 5, 6]
    trie = CodeTrie(codes, 8).without(sold_out)
    prompts = ["a user took <a_1><b_2><c_3>", "took then <a_7><b_0><c_0> a user"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    start = 1 if kind == "t5" else batch["input_ids"].shape[1]
    constraint = IdConstraint(trie, tokens, start, end=tokenizer.eos_token_id)
    how = ({"logits_processor": [constraint]} if way == "processor"
           else {"prefix_allowed_tokens_fn": constraint.prefix_allowed_tokens_fn})
    out = model.generate(**batch, num_beams=6, num_return_sequences=6, max_new_tokens=4, **how)
    assert out.shape == (12, start + 4) and (out[:, -1] == tokenizer.eos_token_id).all()
    found = tokens.decode(out[:, start:-1])
    rows = [rows.tolist() for rows in trie.rows_of(trie.states(found))]
    assert all(len(each) == 1 and each[0] not in sold_out for each in rows)
    assert len({tuple(each) for each in rows[:6]}) == 6 == len({tuple(each) for each in rows[6:]})


def test_generate_finds_what_our_own_search_finds_with_the_same_model():
    tokenizer, model = language_model("gpt2")
    tokens = add_id_tokens(tokenizer, model, codebooks())
    codes = np.unique(np.random.default_rng(2).integers(0, 8, (60, 3)), axis=0)
    trie = CodeTrie(codes, 8)
    prompt = tokenizer("a user took", return_tensors="pt")["input_ids"]
    out = model.generate(prompt, num_beams=10, num_return_sequences=10, max_new_tokens=3, length_penalty=0.0,
                         logits_processor=[IdConstraint(trie, tokens, 3)])

    def step(found):
        text = torch.cat([prompt.expand(len(found), -1), tokens.encode(found)], dim=1) if found.shape[1] else prompt
        logits = model(text).logits[:, -1]
        # over the whole vocabulary, as generate's: the codes' columns first, and all others behind them
        numbers = tokens.levels[found.shape[1]]
        others = [number for number in range(logits.shape[1]) if number not in numbers.tolist()]
        return torch.cat([logits[:, numbers], logits[:, others]], dim=1)

    assert tokens.decode(out[:, 3:]).tolist() == beam_search(step, trie, 10).codes[0].tolist()


def test_items_left_out_for_one_user_stay_there_for_the_other():
    tokenizer, model = language_model("gpt2")
    tokens = add_id_tokens(tokenizer, model, codebooks())
    trie = CodeTrie([[row, row, row] for row in range(8)], 8).without([0, 1, 2, 3], [4, 5, 6, 7])
    prompt = tokenizer(["a user took", "a user took"], return_tensors="pt")["input_ids"]
    constraint = IdConstraint(trie, tokens, 3)
    out = model.generate(prompt, num_beams=4, num_return_sequences=4, max_new_tokens=3, logits_processor=[constraint])
    found = [{row[0] for row in tokens.decode(rows[:, 3:]).tolist()} for rows in out.split(4)]
    assert found == [{4, 5, 6, 7}, {0, 1, 2, 3}]
    with pytest.raises(ValueError, match="sees one beam at a time and cannot tell users apart"):
        constraint.prefix_allowed_tokens_fn(0, prompt[0])


def test_sampled_ids_are_items_too():
    tokenizer, model = language_model("gpt2")
    tokens = add_id_tokens(tokenizer, model, codebooks())
    codes = np.unique(np.random.default_rng(2).integers(0, 8, (20, 3)), axis=0)
    prompt = tokenizer("a user took", return_tensors="pt")["input_ids"]
    out = model.generate(prompt, do_sample=True, num_return_sequences=50, max_new_tokens=3,
                         logits_processor=[IdConstraint(CodeTrie(codes, 8), tokens, 3)])
    found = set(map(tuple, tokens.decode(out[:, 3:]).tolist()))
    assert len(found) > 5 and found <= set(map(tuple, codes.tolist()))


def test_what_does_not_fit_is_said():
    tokens = IdTokens([[7, 8], [9, 10]])
    with pytest.raises(ValueError, match=r"have \[2, 2\] codes level by level, the items' IDs \[3, 1\]"):
        IdConstraint(CodeTrie([[2, 0]]), tokens, 1)
    constraint = IdConstraint(CodeTrie([[1, 0]]), tokens, 3)
    with pytest.raises(ValueError, match="prompt_length is 3, but there are 2 tokens"):
        constraint(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 20))
    with pytest.raises(ValueError, match="pass max_new_tokens=2 to generate, or end= to IdConstraint"):
        constraint(torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 20))


def test_a_prompt_that_ended_wrongly_is_led_nowhere():
    constraint = IdConstraint(CodeTrie([[1, 0], [0, 1]]), IdTokens([[7, 8], [9, 10]]), 1)
    scores = constraint(torch.tensor([[0, 8], [0, 7], [0, 3], [0, 9]]), torch.zeros(4, 12))
    assert [row.isfinite().nonzero()[:, 0].tolist() for row in scores] == [[9], [10], [], []]
