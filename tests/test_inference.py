"""Items to semantic IDs: the documented loop's results, for every batch size, and no trace left."""

import warnings

import pytest
import torch

from samples import clustered, loader
from rqvae import (FeatureDataset, RqVae, batch_inference, evaluate_quantization, evaluate_reconstruction,
                   evaluate_semantic_ids)
from rqvae.inference import fixed_chunks, resolve_device


def documented_loop(model, dataloader):
    model.eval()
    with torch.no_grad():
        return torch.cat([model.generate_semantic_ids(batch["features"]) for batch in dataloader])


@pytest.mark.parametrize("levels", [1, 3])
def test_batch_inference_gives_what_the_documented_loop_gives(levels):
    model = RqVae(12, 16, 8, 32, num_quantizers=levels)
    features = clustered(2100)
    assert torch.equal(batch_inference(model, loader(features), "cpu"), documented_loop(model, loader(features)))


def test_the_ids_are_the_same_for_every_batch_size():
    model = RqVae(12, 16, 8, 32, num_quantizers=3)
    features = clustered(1500)
    expected = batch_inference(model, loader(features, 1500), "cpu")
    for batch_size in (1, 7, 1024, 1499):
        assert torch.equal(batch_inference(model, loader(features, batch_size), "cpu"), expected)


def test_chunks_have_one_size_and_keep_every_row_in_order():
    rows = torch.arange(5000.0)[:, None]
    for sizes in ([5000], [1] * 3 + [4997], [1024] * 4 + [904], [700] * 7 + [100]):
        chunks = list(fixed_chunks(rows.split(sizes)))
        assert [len(chunk) for chunk in chunks] == [1024] * 4 + [904]
        assert torch.equal(torch.cat(chunks), rows)


def test_the_training_mode_of_every_part_is_given_back():
    model = RqVae(12, 16, 8, 32)
    model.train()
    model.decoder.eval()
    batch_inference(model, loader(clustered(10)), "cpu")
    assert model.training and model.encoder.training and not model.decoder.training


@pytest.mark.parametrize("options", [{}, {"num_quantizers": 3, "latent_norm": True}])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_rows_that_have_no_latents_get_no_code(options, value):
    """They got code 0 of each level."""
    rows = clustered(30)
    rows[7, 3] = value
    with pytest.raises(ValueError, match="row 7 of a batch of features has latents that are no numbers"):
        batch_inference(RqVae(12, 16, 8, 8, **options), rows, "cpu")


def test_no_item_is_an_error():
    with pytest.raises(ValueError, match="the loader yields no batch"):
        batch_inference(RqVae(12, 16, 8, 32), [], "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what must be missing")
@pytest.mark.parametrize("name", ["cuda", "cuda:7"])
def test_cuda_without_cuda_is_an_error_that_names_the_way_out(name):
    with pytest.raises(ValueError, match=f"device '{name}' was asked for, .* available here: auto, cpu"):
        resolve_device(name)


def test_a_device_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(ValueError, match="device 'gpu' is not a device; available here: auto, cpu"):
        resolve_device("gpu")
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_features_of_any_number_type_are_judged_and_encoded_as_fit_takes_them(dtype):
    model, features = RqVae(12, 16, 8, 32, num_quantizers=2), (8 * clustered(100)).to(dtype)
    plain = features.float()
    assert torch.equal(batch_inference(model, loader(features), "cpu"), batch_inference(model, loader(plain), "cpu"))
    for evaluate in (evaluate_reconstruction, evaluate_quantization, evaluate_semantic_ids):
        assert evaluate(model, loader(features), "cpu") == evaluate(model, loader(plain), "cpu")
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("name", ["mps", "xpu", "hpu", "xla", "meta", "ipu", "vulkan", "cpu:3", 7])
def test_a_device_that_cannot_compute_here_is_refused_at_once(name):
    if str(name) in ("mps", "xpu", "hpu") and getattr(torch, name, None) and getattr(torch, name).is_available():
        pytest.skip("it is there")
    with pytest.raises(ValueError, match="available here: auto, cpu"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what must be missing")
def test_where_no_device_is_named_the_cpu_stands_in_for_cuda_and_that_is_said():
    model, features = RqVae(12, 16, 8, 32), clustered(50)
    with pytest.warns(UserWarning, match="no device was named and there is no CUDA here"):
        ids = batch_inference(model, loader(features))
    assert torch.equal(ids, batch_inference(model, loader(features), "cpu"))
    for evaluate in (evaluate_reconstruction, evaluate_quantization, evaluate_semantic_ids):
        with pytest.warns(UserWarning, match="no device was named"):
            evaluate(model, loader(features))
        with pytest.raises(ValueError, match="'cuda' was asked for"):
            evaluate(model, loader(features), "cuda")
    with warnings.catch_warnings(record=True) as heard:         # Python's own filter: once
        warnings.simplefilter("default")
        for _ in range(3):
            batch_inference(model, loader(features))
    assert len(heard) == 1


def test_all_features_in_one_tensor_do_for_a_loader():
    model, features = RqVae(12, 16, 8, 32, num_quantizers=2), clustered(2100)
    expected = batch_inference(model, loader(features), "cpu")
    for given in (features, features.numpy(), features.double()):
        assert torch.equal(batch_inference(model, given, "cpu"), expected)
    assert evaluate_reconstruction(model, features, "cpu")["mse"] == pytest.approx(
        evaluate_reconstruction(model, loader(features), "cpu")["mse"])


@pytest.mark.parametrize("given, words", [
    (lambda rows: rows[0], r'"features" of a batch is of shape \(12,\)'),
    (lambda rows: [rows], "the loader yields Tensor; a batch must be a dict"),
    (lambda rows: FeatureDataset(rows), r"of shape \(12,\); it must be a tensor \(B, D\): give a DataLoader"),
    (lambda rows: [{"features": rows.numpy()}], '"features" of a batch is a ndarray'),
    (lambda rows: torch.utils.data.TensorDataset(rows), "the loader yields tuple"),
])
def test_what_is_no_loader_is_told_in_one_sentence(given, words):
    for use in (batch_inference, evaluate_reconstruction, evaluate_semantic_ids):
        with pytest.raises(ValueError, match=words):
            use(RqVae(12, 16, 8, 32), given(clustered(10)), "cpu")


@pytest.mark.parametrize("dtype, same", [(torch.float64, 1), (torch.bfloat16, 0.95), (torch.float16, 0.98)])
@pytest.mark.parametrize("levels", [1, 3])
def test_models_of_other_precision_encode_what_the_float32_model_does(dtype, same, levels):
    model, features = RqVae(12, 16, 8, 32, num_quantizers=levels, standardize=True), clustered(400)
    expected = batch_inference(model, features, "cpu").reshape(400, -1)[:, 0]
    error = evaluate_reconstruction(model, features, "cpu")["mse"]
    model.to(dtype)
    ids = batch_inference(model, features, "cpu").reshape(400, -1)[:, 0]
    assert (ids == expected).float().mean() >= same
    assert evaluate_reconstruction(model, features, "cpu")["mse"] == pytest.approx(error, rel=0.02)
