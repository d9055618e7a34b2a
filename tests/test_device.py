"""Parity of a device with the CPU: on a GPU where there is one. RQVAE_TEST_DEVICE=cpu rehearses every line without."""

import os

import pytest
import torch

from rqvae import FeatureLoader, RqVae, batch_inference, evaluate_reconstruction, fit, recipe
from rqvae.storage.checkpoint import load_checkpoint
from samples import clustered

DEVICE = os.environ.get("RQVAE_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")
ITEMS = clustered(3000, width=64, clusters=200)


def started(seed=0):
    torch.manual_seed(seed)
    model = RqVae(**recipe.model_options(64))
    recipe.start(model, FeatureLoader(ITEMS, 256, shuffle=True), seed)
    return model


def trained(device, epochs=3, **options):
    model = started().to(device)
    loader = FeatureLoader(ITEMS, 256, shuffle=True, device=device)
    optimizers = recipe.configure_optimizers(model, epochs * len(loader))
    history = fit(model, recipe.training(model, loader, epochs), max_epochs=epochs, device=device, fused=True,
                  optimizers=optimizers, progress=False, **options)
    return model, history


def test_codes_are_those_of_the_cpu_but_for_a_few_that_lie_between_two():
    model = started()
    here = batch_inference(model, FeatureLoader(ITEMS, 512), device="cpu")
    there = batch_inference(model, FeatureLoader(ITEMS, 512, device=DEVICE), device=DEVICE)
    assert (here == there).all(dim=1).double().mean() >= 0.999


def test_training_gives_the_losses_of_the_cpu_to_a_thousandth_in_the_first_epoch_and_its_quality_at_the_end():
    (here, rows), (there, other) = trained("cpu"), trained(DEVICE)
    assert other[0]["train_recon_loss"] == pytest.approx(rows[0]["train_recon_loss"], rel=2e-3)
    errors = [evaluate_reconstruction(model, FeatureLoader(ITEMS, 512), device="cpu")["relative_mse"]
              for model in (here, there)]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_a_resumed_run_ends_as_a_straight_one_to_the_bit(tmp_path):
    trained(DEVICE, 4, checkpoint_dir=tmp_path / "straight")
    model = started().to(DEVICE)
    loader = FeatureLoader(ITEMS, 256, shuffle=True, device=DEVICE)

    def run(epochs, **options):
        fit(model, recipe.training(model, loader, 4), max_epochs=epochs, device=DEVICE, fused=True, progress=False,
            optimizers=recipe.configure_optimizers(model, 4 * len(loader)), checkpoint_dir=tmp_path / "run", **options)
    run(2)
    model = RqVae.load_from_checkpoint(tmp_path / "run" / "last.ckpt").to(DEVICE)
    run(4, resume_from=tmp_path / "run" / "last.ckpt")
    one, other = (load_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("straight", "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.skipif(DEVICE != "cuda", reason="only CUDA says who waits for it")
def test_no_step_waits_for_the_card():
    model = started().to(DEVICE)
    loader = recipe.training(model, FeatureLoader(ITEMS, 256, shuffle=True, device=DEVICE), 2)
    optimizer = recipe.configure_optimizers(model, 20)["optimizer"]
    batches = list(loader)
    model.train()
    for waits in ("warn", "error"):                 # a first step may set things up
        torch.cuda.set_sync_debug_mode("default" if waits == "warn" else waits)
        try:
            for batch in batches[:4]:
                optimizer.zero_grad()
                model.training_step(batch, 0).backward()
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(DEVICE != "cuda", reason="memory of a card")
def test_encoding_holds_a_chunk_and_not_the_table():
    model = started().to(DEVICE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    batch_inference(model, FeatureLoader(torch.randn(200_000, 64), 4096), device=DEVICE)
    assert torch.cuda.max_memory_allocated() - before < 400 * 2**20
