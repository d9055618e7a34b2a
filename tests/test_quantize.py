"""The quantizers against their definition: values by loops, gradients by hand."""

import copy

import pytest
import torch

from rqvae import ResidualQuantizer, VectorQuantizer


def residual_quantizer(levels=3, codes=7, width=4, cost=0.25):
    return ResidualQuantizer(levels, codes, width, cost)


def test_one_level_returns_the_documented_tuple():
    quantizer = VectorQuantizer(16, 4, commitment_cost=0.5)
    inputs = torch.randn(10, 4)
    quantized, commitment_loss, embedding_loss, indices = quantizer(inputs)
    table = quantizer.embeddings.weight
    expected = torch.stack([((row - table) ** 2).sum(1).argmin() for row in inputs])
    assert torch.equal(indices, expected) and indices.dtype == torch.int64
    torch.testing.assert_close(quantized, table[expected])
    torch.testing.assert_close(embedding_loss, ((table[expected] - inputs) ** 2).mean())
    torch.testing.assert_close(commitment_loss, 0.5 * embedding_loss)
    assert list(quantizer.state_dict()) == ["embeddings.weight"]


def test_each_loss_moves_only_its_own_side():
    quantizer = VectorQuantizer(8, 3)
    inputs = torch.randn(5, 3, requires_grad=True)
    out = quantizer(inputs)
    table, = torch.autograd.grad(out.embedding_loss, quantizer.embeddings.weight, retain_graph=True)
    vectors = quantizer.embeddings.weight[out.encoding_indices]
    by_hand = torch.zeros(8, 3).index_add_(0, out.encoding_indices, 2 * (vectors - inputs) / 15)
    torch.testing.assert_close(table, by_hand.detach())
    side, = torch.autograd.grad(out.commitment_loss, inputs, retain_graph=True)
    torch.testing.assert_close(side, (0.25 * 2 * (inputs - vectors) / 15).detach())
    for loss, other in ((out.embedding_loss, inputs), (out.commitment_loss, quantizer.embeddings.weight)):
        assert torch.autograd.grad(loss, other, retain_graph=True, allow_unused=True)[0] is None


def test_one_residual_level_is_the_documented_quantizer_to_the_bit():
    single, stack = VectorQuantizer(32, 6), residual_quantizer(1, 32, 6)
    stack.levels[0].load_state_dict(single.state_dict())
    inputs = torch.randn(100, 6)
    one, other = single(inputs), stack(inputs)
    for a, b in zip(one, other):
        assert torch.equal(a.squeeze(-1) if a is other[3] else a, b[:, 0] if b is other[3] else b)


def test_the_residual_walk_is_the_loop_of_the_definition():
    quantizer = residual_quantizer()
    inputs = torch.randn(20, 4)
    out = quantizer(inputs)
    commitment = embedding = 0.0
    for row in range(20):
        residual = inputs[row]
        for level, table in enumerate(quantizer.codebooks):
            code = ((residual - table) ** 2).sum(1).argmin()
            assert out.encoding_indices[row, level] == code
            embedding += ((table[code] - residual) ** 2).sum() / 80
            commitment += 0.25 * ((table[code] - residual) ** 2).sum() / 80
            residual = residual - table[code]
        torch.testing.assert_close(out.quantized[row], inputs[row] - residual)
    torch.testing.assert_close(out.embedding_loss, embedding)
    torch.testing.assert_close(out.commitment_loss, commitment)


def test_the_encoder_sees_the_identity_gradient_of_the_sum_and_not_one_a_level():
    quantizer = residual_quantizer(levels=3)
    inputs = torch.randn(1, 4, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda z: quantizer(z).quantized[0], inputs)[:, 0]
    assert torch.equal(jacobian, torch.eye(4))


def test_the_commitment_of_every_level_reaches_the_encoder():
    quantizer = residual_quantizer(levels=3)
    inputs = torch.randn(6, 4, requires_grad=True)
    out = quantizer(inputs)
    gradient, = torch.autograd.grad(out.commitment_loss, inputs)
    by_hand = torch.zeros(6, 4)
    residual = inputs.detach()
    for level, table in enumerate(quantizer.codebooks):
        residual = residual - table[out.encoding_indices[:, level]].detach()
        assert residual.abs().sum() > 0
        by_hand += 0.25 * 2 * residual / 24                 # d mse(q, r) / d r, for this level alone
    torch.testing.assert_close(gradient, by_hand)


def test_each_level_learns_from_its_own_residual_alone():
    quantizer = residual_quantizer(levels=2, codes=3)
    inputs = torch.randn(9, 4)
    out = quantizer(inputs)
    gradients = torch.autograd.grad(out.embedding_loss, quantizer.codebooks)
    residual = inputs
    for level, (table, gradient) in enumerate(zip(quantizer.codebooks, gradients)):
        codes = out.encoding_indices[:, level]
        by_hand = torch.zeros(3, 4).index_add_(0, codes, 2 * (table[codes] - residual).detach() / 36)
        torch.testing.assert_close(gradient, by_hand)
        residual = (residual - table[codes]).detach()


def test_encode_and_decode_are_the_halves_of_forward():
    for quantizer in (VectorQuantizer(9, 4), residual_quantizer()):
        inputs = torch.randn(15, 4)
        out = quantizer(inputs)
        codes = quantizer.encode(inputs)
        assert torch.equal(codes, out.encoding_indices)
        torch.testing.assert_close(quantizer.decode(codes), out.quantized)


def test_a_batch_of_one_keeps_its_axes():
    assert VectorQuantizer(9, 4).encode(torch.randn(1, 4)).shape == (1,)
    assert residual_quantizer().encode(torch.randn(1, 4)).shape == (1, 3)


def test_decoding_a_prefix_gives_the_coarse_vector():
    quantizer = residual_quantizer()
    codes = quantizer.encode(torch.randn(5, 4))
    expected = quantizer.codebooks[0][codes[:, 0]] + quantizer.codebooks[1][codes[:, 1]]
    torch.testing.assert_close(quantizer.decode(codes[:, :2]), expected)


def test_a_forward_pass_changes_nothing():
    for quantizer in (VectorQuantizer(9, 4), residual_quantizer()):
        before = {name: value.clone() for name, value in quantizer.state_dict().items()}
        quantizer.train()(torch.randn(15, 4))
        quantizer.eval()(torch.randn(15, 4))
        assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"inputs have shape \(3, 5\); a quantizer of 4-wide vectors"):
        VectorQuantizer(9, 4)(torch.randn(3, 5))
    with pytest.raises(ValueError, match="num_embeddings is 0; it must be at least 1"):
        VectorQuantizer(0, 4)
    with pytest.raises(ValueError, match="commitment_cost is -1; it must be 0 or more"):
        VectorQuantizer(4, 4, -1)
    with pytest.raises(ValueError, match="num_quantizers is 0"):
        ResidualQuantizer(0, 4, 4)


# ---- options

def ema_quantizer(**options):
    return VectorQuantizer(5, 3, ema_decay=0.9, **options)


def test_the_moving_average_is_the_recursion_of_the_paper():
    quantizer = ema_quantizer()
    n, m = [1.0] * 5, quantizer.embeddings.weight.double().clone()
    for step in range(20):
        inputs = torch.randn(12, 3)
        codes = quantizer.encode(inputs)
        quantizer.update(inputs, codes)
        for k in range(5):
            chosen = inputs[codes == k].double()
            n[k] = 0.9 * n[k] + 0.1 * len(chosen)
            m[k] = 0.9 * m[k] + 0.1 * chosen.sum(dim=0)
        smoothed = [(value + 1e-5) / (sum(n) + 5e-5) * sum(n) for value in n]
        expected = torch.stack([m[k] / smoothed[k] for k in range(5)])
        torch.testing.assert_close(quantizer.embeddings.weight.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_codebook_of_averages_is_no_optimizer_s_business():
    quantizer = ema_quantizer()
    inputs = torch.randn(12, 3, requires_grad=True)
    out = quantizer(inputs)
    assert out.embedding_loss == 0 and not quantizer.embeddings.weight.requires_grad
    out.commitment_loss.backward()
    assert inputs.grad.abs().sum() > 0
    assert list(quantizer.state_dict()) == ["ema_counts", "ema_sums", "embeddings.weight"]


def test_a_codebook_that_was_set_keeps_its_size_at_the_first_average():
    """Where the sum is set to the mean instead of mean times count, the first average shrinks it."""
    quantizer = ema_quantizer()
    centroids = 5 * torch.randn(5, 3)
    quantizer.set_codebook(centroids, counts=torch.full((5,), 40.0))
    inputs = centroids.repeat(8, 1)
    quantizer.update(inputs, quantizer.encode(inputs))
    torch.testing.assert_close(quantizer.embeddings.weight, centroids, rtol=1e-4, atol=1e-4)


def test_the_average_counts_every_row_once():
    quantizer = ema_quantizer()
    for _ in range(300):
        inputs = torch.randn(12, 3)
        quantizer.update(inputs, quantizer.encode(inputs))
    assert quantizer.ema_counts.sum().item() == pytest.approx(12, rel=1e-4)


@pytest.mark.parametrize("ema_decay", [None, 0.99])
def test_a_dead_code_is_moved_onto_a_row_and_stays_there(ema_decay):
    quantizer = VectorQuantizer(4, 2, restart_below=0.1, ema_decay=ema_decay)
    with torch.no_grad():
        quantizer.embeddings.weight[3] = 1000.0             # nothing is near
    quantizer.set_codebook(quantizer.embeddings.weight)
    restarted = []
    for step in range(300):
        inputs = torch.randn(16, 2)
        dead = quantizer.update(inputs, quantizer.encode(inputs))
        if dead.any():
            restarted.append(step)
            assert dead.tolist() == [False, False, False, True]
            assert (quantizer.embeddings.weight[3] == inputs).all(dim=1).any()
            quantizer.update(inputs, quantizer.encode(inputs))
            assert quantizer.embeddings.weight[3].abs().max() < 5       # the next average does not undo it
            break
    assert restarted and 200 < restarted[0] < 260           # 0.99^t < 0.1 from t = 230 on


def test_codes_in_use_are_not_restarted():
    quantizer = VectorQuantizer(4, 2, restart_below=0.05)
    for _ in range(400):
        inputs = quantizer.embeddings.weight.detach().repeat(4, 1)
        before = quantizer.embeddings.weight.clone()
        assert not quantizer.update(inputs, quantizer.encode(inputs)).any()
        assert torch.equal(quantizer.embeddings.weight, before)


def test_every_level_follows_its_own_residual():
    quantizer = ResidualQuantizer(2, 5, 3, ema_decay=0.9)
    inputs = torch.randn(40, 3)
    codes = quantizer.encode(inputs)
    first = quantizer.codebooks[0][codes[:, 0]].clone()
    alone = VectorQuantizer(5, 3, ema_decay=0.9)
    alone.set_codebook(quantizer.codebooks[1])
    alone.update(inputs - first, codes[:, 1])
    quantizer.update(inputs, codes)
    torch.testing.assert_close(quantizer.codebooks[1], alone.embeddings.weight)


def test_without_options_an_update_changes_nothing():
    for quantizer in (VectorQuantizer(9, 4), residual_quantizer()):
        before = [table.clone() for table in quantizer.codebooks]
        inputs = torch.randn(15, 4)
        quantizer.update(inputs, quantizer.encode(inputs))
        assert all(torch.equal(*tables) for tables in zip(before, quantizer.codebooks))


def test_the_rotation_spans_the_sum_of_all_levels():
    quantizer = ResidualQuantizer(3, 7, 4, rotation_trick=True)
    inputs = torch.randn(1, 4)
    out = quantizer(inputs)
    total = quantizer.decode(out.encoding_indices)
    torch.testing.assert_close(out.quantized, total)
    jacobian = torch.autograd.functional.jacobian(lambda z: quantizer(z).quantized[0], inputs)[:, 0]
    torch.testing.assert_close(jacobian @ inputs[0], total[0])


@pytest.mark.parametrize("option", ["ema_decay", "restart_below"])
@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} is .*; it must be between 0 and 1, or None"):
        VectorQuantizer(4, 4, **{option: value})


@pytest.mark.parametrize("change", [
    lambda level: level.embeddings.weight.data.mul_(-1), lambda level: level.set_codebook(level.embeddings.weight.flip(0)),
    lambda level: level.load_state_dict({name: -value for name, value in level.state_dict().items()}),
    lambda level: setattr(level.embeddings, "weight", torch.nn.Parameter(level.embeddings.weight.detach() + 100)),
    lambda level: level.double(), lambda level: level.half().float(), lambda level: level.embeddings.weight.detach().numpy().fill(7)],
    ids=["behind autograd's back", "set", "loaded", "replaced", "double", "half and back", "by numpy"])
def test_codes_are_of_the_codebook_as_it_is_and_not_as_it_was_when_rows_were_encoded_last(change):
    torch.manual_seed(0)
    level, inputs = VectorQuantizer(20, 4).eval(), torch.randn(50, 4)
    before = level.encode(inputs)
    assert torch.equal(before, level.encode(inputs)) and len(level.state_dict()) == 1
    change(level)
    weight = level.embeddings.weight.detach()
    expected = (inputs.double()[:, None] - weight.double()).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(level.encode(inputs.to(weight)), expected)
    assert torch.equal(copy.deepcopy(level).encode(inputs.to(weight)), expected)
