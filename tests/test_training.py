"""fit against Lightning where it is installed, against a straight run where it was interrupted, and
against the words it promises."""

import contextlib
import json
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from samples import clustered, loader
from rqvae import FeatureLoader, RqVae, fit
from rqvae.recipe.assignment import BalancedAssignment
from rqvae.storage.checkpoint import CheckpointError, load_checkpoint
from rqvae.run_state import RunState
from rqvae.training import TrainingDiverged, TrainingInterrupted

ROOT = Path(__file__).parents[1]
LIVELY = 0.1            # a learning rate whose val_loss rises now and then, so that the plateau scheduler acts
SMALL = {"input_dim": 12, "hidden_dim": 16, "latent_dim": 8, "num_embeddings": 32}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return RqVae(**{**SMALL, **options})


def quiet(*args, **options):
    return fit(*args, device="cpu", progress=False, **options)


def assert_equal_weights(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_history_holds_the_documented_metrics_for_every_epoch():
    history = quiet(small(), loader(clustered(100)), loader(clustered(40, seed=1)), max_epochs=3)
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["global_step"] for row in history] == [4, 8, 12]
    for row in history:
        assert set(row) == {"epoch", "global_step", "lr", "seconds", "train_loss", "train_recon_loss",
                            "train_commitment_loss", "train_embedding_loss", "val_loss", "val_recon_loss",
                            "codes_used", "perplexity"}
        assert row["train_loss"] == pytest.approx(
            row["train_recon_loss"] + row["train_commitment_loss"] + row["train_embedding_loss"], rel=1e-5)


def test_what_a_step_logged_before_does_not_leak_into_the_means():
    model = small()
    model.validation_step({"features": 100 * clustered(10)})
    row, = quiet(model, loader(clustered(64)), loader(clustered(8, seed=1)), max_epochs=1)
    assert row["val_loss"] < 10
    assert row["train_loss"] == pytest.approx(
        row["train_recon_loss"] + row["train_commitment_loss"] + row["train_embedding_loss"], rel=1e-5)


def test_means_are_weighted_by_the_rows_of_a_batch():
    model, features = small(learning_rate=1e-12), clustered(50)
    with torch.no_grad():
        expected = model.validation_step({"features": features}).item()
    row, = quiet(model, loader(features, 32), loader(features, 32), max_epochs=1)
    assert row["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_without_a_validation_loader_the_scheduler_follows_train_loss_and_says_so(capsys):
    model = small(learning_rate=1e-7)             # nothing gets better, so the plateau is soon there
    history = fit(model, loader(torch.ones(8, 12)), max_epochs=16, device="cpu")
    assert "follow train_loss" in capsys.readouterr().err
    assert history[-1]["lr"] < history[0]["lr"]


def test_any_iterable_of_batch_dicts_will_do_and_nothing_else():
    batches = list(clustered(64).double().split(16))
    history = quiet(small(), [{"features": rows, "name": "extra"} for rows in batches], max_epochs=2)
    assert history[-1]["global_step"] == 8
    with pytest.raises(ValueError, match='loader yields Tensor; a batch must be a dict with "features"'):
        quiet(small(), batches, max_epochs=1)
    with pytest.raises(ValueError, match="yields no batches"):
        quiet(small(), [], max_epochs=1)


def test_files_are_written_where_asked_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet(small(), loader(clustered(40)), max_epochs=1)
    assert list(tmp_path.iterdir()) == []
    history = quiet(small(), loader(clustered(40)), max_epochs=3, checkpoint_dir="a/b")
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["best.ckpt", "last.ckpt", "metrics.jsonl"]
    assert [json.loads(line) for line in open("a/b/metrics.jsonl")] == history


def test_best_is_the_epoch_with_the_lowest_val_loss(tmp_path):
    losses = iter([5.0, 3.0, 4.0, 2.5, 9.0])

    class Scripted(RqVae):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", torch.tensor(next(losses)))

    quiet(Scripted(**SMALL), loader(clustered(60)), loader(clustered(20)), max_epochs=5, checkpoint_dir=tmp_path)
    assert load_checkpoint(tmp_path / "best.ckpt")["epoch"] == 3
    assert load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 4


def test_a_loss_that_is_no_number_stops_before_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    features = clustered(64)
    quiet(small(), loader(features), max_epochs=2, checkpoint_dir=tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    spoiled = features.clone()
    spoiled[40] = math.nan
    model = small()
    with pytest.raises(TrainingDiverged, match="loss is nan in epoch 3, batch 2; .* learning rate"):
        quiet(model, loader(spoiled), max_epochs=4, checkpoint_dir=tmp_path, resume_from=tmp_path / "last.ckpt")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert (tmp_path / "last.ckpt").read_bytes() == before


RESUME = textwrap.dedent("""
    import sys, torch
    sys.path[:0] = [{root!r}, {tests!r}]
    from samples import clustered, loader
    from rqvae import RqVae, fit
    torch.set_num_threads(1)
    torch.manual_seed(99)                       # nothing of this process's own may matter
    model = RqVae(**{small!r}, num_quantizers=2)
    fit(model, loader(clustered(100), shuffle=True), loader(clustered(40, seed=1)), max_epochs=6, device="cpu",
        resume_from=sys.argv[1], progress=False)
    torch.save(model.state_dict(), sys.argv[2])
""")


def resume_in_another_process(checkpoint, tmp_path):
    script = RESUME.format(root=str(ROOT), tests=str(ROOT / "tests"), small=SMALL)
    subprocess.run([sys.executable, "-c", script, str(checkpoint), str(tmp_path / "end.pt")], check=True)
    return torch.load(tmp_path / "end.pt", weights_only=True)


def shuffled_run(**options):
    model = small(num_quantizers=2)
    quiet(model, loader(clustered(100), shuffle=True), loader(clustered(40, seed=1)), **options)
    return model


def test_six_epochs_straight_equal_three_and_three_from_another_process(tmp_path):
    straight = shuffled_run(max_epochs=6)
    shuffled_run(max_epochs=3, checkpoint_dir=tmp_path)
    ended = resume_in_another_process(tmp_path / "last.ckpt", tmp_path)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, ended[name]), name


@pytest.mark.parametrize("boundary", [1, 6, 9, 10, 11, 12])
def test_a_run_stopped_at_any_batch_goes_on_to_the_same_end(tmp_path, boundary):
    """Four training and two validation batches an epoch: the boundaries lie in both, and at their ends."""
    straight = shuffled_run(max_epochs=6)
    seen = []
    with pytest.raises(TrainingInterrupted) as interrupted:
        shuffled_run(max_epochs=6, checkpoint_dir=tmp_path, stop=lambda: seen.append(0) or len(seen) > boundary)
    assert interrupted.value.path == tmp_path / "last.ckpt"
    torch.manual_seed(5)
    resumed = small(seed=7, num_quantizers=2)
    history = quiet(resumed, loader(clustered(100), shuffle=True), loader(clustered(40, seed=1)), max_epochs=6,
                    resume_from=tmp_path / "last.ckpt", checkpoint_dir=tmp_path)
    assert_equal_weights(straight, resumed)
    assert [row["epoch"] for row in history] == list(range(6))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_loader_s_own_generator_is_resumed_too(tmp_path):
    def run(model, **options):
        own = torch.Generator().manual_seed(3)
        quiet(model, loader(clustered(100), shuffle=True, generator=own), **options)
        return model

    straight = run(small(), max_epochs=4)
    run(small(), max_epochs=2, checkpoint_dir=tmp_path)
    assert_equal_weights(straight, run(small(seed=8), max_epochs=4, resume_from=tmp_path / "last.ckpt"))


def test_resuming_weights_alone_is_refused(tmp_path):
    from rqvae.storage.checkpoint import build_checkpoint, save_checkpoint
    model = small()
    save_checkpoint(build_checkpoint(epoch=0, global_step=0, state_dict=model.state_dict(),
                                     hyper_parameters=model.hyper_parameters), tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="holds weights but no optimizer state"):
        quiet(small(), loader(clustered(40)), resume_from=tmp_path / "w.ckpt")


@pytest.mark.parametrize("damage", [
    lambda ckpt: ckpt["optimizer_states"].__setitem__(0, {"state": 5}),
    lambda ckpt: ckpt["optimizer_states"][0]["param_groups"][0].__setitem__("params", []),
    lambda ckpt: ckpt["optimizer_states"][0]["param_groups"][0].update(params=[99] * 10),
    lambda ckpt: ckpt["optimizer_states"][0].update(
        state={str(index): moments for index, moments in ckpt["optimizer_states"][0]["state"].items()}),
    lambda ckpt: ckpt["rqvae"].update(epoch=9),
    lambda ckpt: ckpt["rqvae"]["history"].extend(ckpt["rqvae"]["history"]),
    lambda ckpt: ckpt["rqvae"].pop("rng"),
    lambda ckpt: ckpt["rqvae"]["rng"].__setitem__("torch", torch.zeros(3)),
    lambda ckpt: ckpt["rqvae"].__setitem__("epoch", "many"),
])
def test_a_damaged_training_state_is_one_clear_error(tmp_path, damage):
    from rqvae.storage.checkpoint import save_checkpoint
    quiet(small(), loader(clustered(40)), max_epochs=1, checkpoint_dir=tmp_path)
    ckpt = load_checkpoint(tmp_path / "last.ckpt")
    damage(ckpt)
    save_checkpoint(ckpt, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="bad.ckpt: (its weights fit, but its training state is damaged|epoch is many, which no run records)"):
        quiet(small(), loader(clustered(40)), max_epochs=2, resume_from=tmp_path / "bad.ckpt")


@pytest.mark.parametrize("name, value", [
    ("step", math.inf), ("step", 1e30), ("exp_avg", math.nan), ("exp_avg", 1e300), ("exp_avg", 1e30), ("exp_avg", -10.0),
    ("exp_avg_sq", math.inf), ("exp_avg_sq", -1.0), ("lr", math.nan), ("lr", -1.0), ("lr", 1e30), ("lr", 10 ** 30),
    ("weight_decay", 1e30), ("betas", (0.9, 1.0)), ("min_lrs", math.nan), ("train_loss", math.nan)])
def test_a_training_state_that_no_step_leaves_is_refused(tmp_path, name, value):
    """With some the next loss was NaN, and the learning rate was blamed; with others a weight never moved again."""
    model = RqVae(12, 8, 4, 8)
    with pytest.raises(TrainingInterrupted):
        fit(model, loader(clustered(64)), max_epochs=2, device="cpu", checkpoint_dir=tmp_path, progress=False, stop=lambda: True)
    content = load_checkpoint(tmp_path / "last.ckpt")
    optimizer = content["optimizer_states"][0]
    group = optimizer["param_groups"][0]
    places = {**optimizer["state"][2], "lr": group, "weight_decay": group, "betas": group, "min_lrs": content["lr_schedulers"][0],
              "train_loss": content["rqvae"]["means"]["sums"]}
    if isinstance(places[name], dict):
        places[name][name] = [value] if name == "min_lrs" else torch.tensor(value) if name == "train_loss" else value
    else:
        places[name] = optimizer["state"][2][name] = places[name].double()
        places[name].view(-1)[-1:].fill_(value)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=f"odd.ckpt.*{name}.* hold NaN, Inf or a number that no step leaves there"):
        fit(RqVae(12, 8, 4, 8), loader(clustered(64)), max_epochs=2, device="cpu", resume_from=tmp_path / "odd.ckpt", progress=False)


def test_rates_of_another_number_of_groups_are_refused(tmp_path):
    def optimizers(model):
        adam = torch.optim.Adam(model.parameters())
        return {"optimizer": adam, "lr_scheduler": torch.optim.lr_scheduler.StepLR(adam, 1)}
    model, again = small(), small()
    quiet(model, loader(clustered(40)), max_epochs=1, checkpoint_dir=tmp_path, optimizers=optimizers(model))
    content = load_checkpoint(tmp_path / "last.ckpt")
    content["lr_schedulers"][0]["base_lrs"] = [0.5, 0.5]
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="odd.ckpt: .*base_lrs are 2, optimizer.param_groups are 1"):
        quiet(again, loader(clustered(40)), max_epochs=2, resume_from=tmp_path / "odd.ckpt", optimizers=optimizers(again))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9), (0.9, 0.9), (0.99, 0.5)])
def test_what_steps_of_adam_leave_is_taken_up_again(tmp_path, betas):
    """Gradients that are long the same, come once, or turn to nothing."""
    for gradients in ([1.0] * 200, [0.0] * 50 + [1e6], [1e6] + [0.0] * 50, [1e-20] * 20, [1e15, -1e-3] * 10):
        model = RqVae(12, 8, 4, 8)
        optimizer = torch.optim.AdamW(model.parameters(), betas=betas, lr=1e-12)
        for gradient in gradients:
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            optimizer.step()
        quiet(model, loader(clustered(64)), max_epochs=1, checkpoint_dir=tmp_path, optimizers=optimizer)
        again = RqVae(12, 8, 4, 8)
        assert len(quiet(again, loader(clustered(64)), max_epochs=2, resume_from=tmp_path / "last.ckpt",
                         optimizers=torch.optim.AdamW(again.parameters(), betas=betas, lr=1e-12))) == 2


@pytest.mark.parametrize("name, value", [("ema_counts", -1.0), ("ema_counts", 1e30), ("ema_sums", 1e30), ("shares", -1.0),
                                         ("shares", math.nan)])
def test_averages_that_no_step_leaves_are_refused(tmp_path, name, value):
    """The codebook that they led to was trained on, and written where nobody could read it again."""
    def model():
        return RqVae(12, 8, 4, 8, ema_decay=0.9, restart_below=0.05)
    quiet(model(), loader(clustered(64)), max_epochs=1, checkpoint_dir=tmp_path)
    content = load_checkpoint(tmp_path / "last.ckpt")
    content["state_dict"][f"quantizer.{name}"].view(-1)[-1] = value
    torch.save(content, tmp_path / "odd.ckpt")
    for use in (lambda: RqVae.load_from_checkpoint(tmp_path / "odd.ckpt"),
                lambda: quiet(model(), loader(clustered(64)), max_epochs=2, resume_from=tmp_path / "odd.ckpt")):
        with pytest.raises(CheckpointError, match=f"odd.ckpt: 1 of its weights hold NaN.* \\(quantizer.{name}\\)"):
            use()


def test_codes_that_nobody_could_load_reach_no_checkpoint(tmp_path):
    model = RqVae(12, 8, 4, 8)
    model.quantizer.embeddings.weight.data[-1] = 1e16
    with pytest.raises(TrainingDiverged, match="quantizer.embeddings.weight hold NaN, Inf or codes beyond"):
        quiet(model, loader(clustered(64)), max_epochs=1, checkpoint_dir=tmp_path)
    assert not list(tmp_path.glob("*.ckpt"))


def test_weights_that_the_last_step_ruined_reach_no_checkpoint(tmp_path):
    """No loss tells of them any more, and without validation nothing else did."""
    model = RqVae(12, 8, 4, 8)
    ruin = torch.optim.SGD(model.parameters(), lr=math.inf)
    with pytest.raises(TrainingDiverged, match="hold NaN, Inf or codes beyond 1e\\+15 after epoch 1; .* learning rate"):
        fit(model, loader(clustered(32), batch_size=32), max_epochs=1, device="cpu", checkpoint_dir=tmp_path, progress=False,
            optimizers=ruin)
    assert not list(tmp_path.glob("*.ckpt"))


def test_resuming_another_architecture_says_what_differs(tmp_path):
    quiet(small(), loader(clustered(40)), max_epochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="num_embeddings is 32 in the file, 64 in the model"):
        quiet(small(num_embeddings=64), loader(clustered(40)), resume_from=tmp_path / "last.ckpt")


def test_a_run_that_has_its_epochs_is_left_as_it_is(tmp_path):
    quiet(small(), loader(clustered(40)), max_epochs=3, checkpoint_dir=tmp_path)
    model = small(seed=4)
    history = quiet(model, loader(clustered(40)), max_epochs=2, resume_from=tmp_path / "last.ckpt")
    assert len(history) == 3
    assert_equal_weights(model, RqVae.load_from_checkpoint(tmp_path / "last.ckpt"))


def test_the_optimizer_forgets_what_it_knew_of_a_restarted_code():
    model = small(num_quantizers=2, restart_below=0.5)
    features = clustered(64)
    optimizers = model.configure_optimizers()
    quiet(model, loader(features), max_epochs=1, optimizers=optimizers)
    first = model.quantizer.levels[0]
    moments = optimizers["optimizer"].state[first.embeddings.weight]
    moments["exp_avg"][:], moments["exp_avg_sq"][:] = 7.0, 7.0
    with torch.no_grad():
        first.embeddings.weight[5] = 1e3                 # nobody's nearest, and unused for long
        first.shares[5] = 0.0
    run = RunState(model, loader(features), optimizers=optimizers)
    model.training_step({"features": features}).backward()
    assert model.restarted[0][5]
    run.forget_restarted()
    others = ~model.restarted[0]
    assert (moments["exp_avg"][5] == 0).all() and (moments["exp_avg_sq"][5] == 0).all()
    assert (moments["exp_avg"][others] == 7).all() and moments["step"] > 0
    run.optimizer.step()
    assert first.embeddings.weight[5].abs().max() < 100


@pytest.mark.parametrize("options, balanced, done", [
    ({}, False, 0),
    ({"num_quantizers": 3, "rotation_trick": True, "latent_norm": True, "standardize": True}, False, 0),
    ({"num_quantizers": 2, "ema_decay": 0.9, "restart_below": 0.1}, False, 0),
    ({"num_quantizers": 3}, True, 1),           # prices in full
    ({"num_quantizers": 3}, True, 45),          # prices fading, and the pull
    ({"num_quantizers": 3}, True, 99),          # the pull alone
])
def test_a_step_asks_nothing_of_the_device(options, balanced, done):
    """A GPU that is asked for a value has to finish everything before it. The meta device has no values: asking
    it for one is an error, and so is every operation whose result has a size that depends on values."""
    model = small(**options).to("meta")
    if balanced:
        model.assign = BalancedAssignment(200, model.quantizer, 100)
        model.assign.steps = done
    run = RunState(model, loader(clustered(64)))
    for _ in range(2):
        batch = {"features": torch.empty(32, 12, device="meta"), "positions": torch.arange(32, device="meta")}
        run.optimizer.zero_grad()
        model.training_step(batch).backward()
        run.forget_restarted()
        run.count(batch)
        for parameter in model.parameters():            # Adam itself makes its state on the device's terms
            assert not parameter.requires_grad or parameter.grad.shape == parameter.shape


def test_the_fused_step_differs_by_rounding_only():
    plain, fused = small(), small()
    for model, option in ((plain, False), (fused, True)):
        quiet(model, loader(clustered(200)), max_epochs=3, fused=option)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, fused.state_dict()[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
def test_bfloat16_products_train_the_same_model_within_bounds(levels):
    runs = []
    for amp in (False, True):
        model = small(num_quantizers=levels)
        runs.append(quiet(model, loader(clustered(512)), loader(clustered(100, seed=1)), max_epochs=6, amp=amp))
        assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    assert runs[0][0]["train_loss"] != runs[1][0]["train_loss"]
    for row, other in zip(*runs):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=0.02)
        assert other["val_loss"] == pytest.approx(row["val_loss"], rel=0.02)


def test_distances_stay_float32_among_bfloat16_products(monkeypatch):
    seen, cdist = set(), torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b: seen.update((a.dtype, b.dtype)) or cdist(a, b))
    quiet(small(num_quantizers=2), loader(clustered(64)), max_epochs=1, amp=True)
    assert seen == {torch.float32}


@pytest.mark.campaign       # compiling takes half a minute
def test_a_compiled_model_is_the_same_model(tmp_path):
    runs = []
    for compiled in (False, True):
        model = small(num_quantizers=2)
        try:
            history = quiet(model, loader(clustered(128)), max_epochs=3, compile=compiled, checkpoint_dir=tmp_path)
        except Exception as error:
            if "compiler" in str(error).lower() or "g++" in str(error):
                pytest.skip(f"no C++ compiler here: {error}")
            raise
        runs.append((history, model.state_dict()))
    for row, other in zip(runs[0][0], runs[1][0]):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-3)
    assert list(runs[0][1]) == list(runs[1][1])
    assert_equal_weights(model, RqVae.load_from_checkpoint(tmp_path / "last.ckpt"))


def test_lines_instead_of_a_bar_where_there_is_no_terminal(capsys):
    fit(small(num_quantizers=2), loader(clustered(40)), max_epochs=2, device="cpu")
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING")]
    assert len(lines) == 3 and lines[1].startswith("epoch 1/2  loss ") and "codes used" in lines[2]


# ---- beside the real thing

def documented_runs(tmp_path, max_epochs):
    """The documented module under pl.Trainer, and ours under fit, from the same weights and data."""
    pytest.importorskip("pytorch_lightning")
    import lightning_reference as lightning
    torch.manual_seed(11)
    theirs = lightning.RqVae(**SMALL, learning_rate=LIVELY)
    ours = RqVae(**SMALL, learning_rate=LIVELY)
    ours.load_state_dict(theirs.state_dict())
    train, val = clustered(200), clustered(50, seed=1)
    loaders = [(loader(train, shuffle=True), loader(val)) for _ in range(2)]
    torch.manual_seed(12)
    _, trainer, their_history = lightning.run_lightning(theirs, *loaders[0], max_epochs, dirpath=tmp_path / "theirs")
    torch.manual_seed(12)
    our_history = quiet(ours, *loaders[1], max_epochs=max_epochs, checkpoint_dir=tmp_path / "ours")
    return theirs, their_history, ours, our_history


def test_fit_is_lightning_to_the_bit_through_drops_of_the_learning_rate(tmp_path):
    theirs, their_history, ours, our_history = documented_runs(tmp_path, max_epochs=25)
    assert_equal_weights(theirs, ours)
    assert [row["val_loss"] for row in our_history] == [row["val_loss"] for row in their_history]
    assert [row["lr"] for row in our_history] == [row["lr"] for row in their_history]
    assert len({row["lr"] for row in our_history}) > 2


@pytest.mark.parametrize("rows", [200, 192])        # 192 is a whole number of batches
def test_a_shuffling_loader_with_its_own_generator_keeps_lightning_s_order(rows):
    pytest.importorskip("pytorch_lightning")
    import lightning_reference as lightning
    theirs, ours = lightning.RqVae(**SMALL, learning_rate=LIVELY), RqVae(**SMALL, learning_rate=LIVELY)
    ours.load_state_dict(theirs.state_dict())
    features, val = clustered(rows), clustered(50, seed=1)
    lightning.run_lightning(theirs, lightning.loader(features, 32, shuffle_seed=3), loader(val), 5)
    quiet(ours, lightning.loader(features, 32, shuffle_seed=3), loader(val), max_epochs=5)
    assert_equal_weights(theirs, ours)


def test_the_count_of_epochs_is_right_in_every_kind_of_lightning_s_files(tmp_path):
    pytest.importorskip("pytorch_lightning")
    import lightning_reference as lightning
    _, trainer, _ = lightning.run_lightning(lightning.RqVae(**SMALL), loader(clustered(64)), loader(clustered(8)), 3)
    trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
    history = quiet(RqVae(**SMALL), loader(clustered(64)), loader(clustered(8)), max_epochs=5,
                    resume_from=tmp_path / "by_hand.ckpt")
    assert [(row["epoch"], row["global_step"]) for row in history] == [(3, 8), (4, 10)]


def test_lightning_goes_on_with_our_checkpoint_at_the_right_epoch_and_step(tmp_path):
    theirs, their_history, _, _ = documented_runs(tmp_path, max_epochs=4)
    import lightning_reference as lightning
    ckpt = tmp_path / "ours" / "last.ckpt"
    loaded = lightning.RqVae.load_from_checkpoint(ckpt)
    assert_equal_weights(theirs, loaded)
    train, val = clustered(200), clustered(50, seed=1)
    module, trainer, history = lightning.run_lightning(
        lightning.RqVae(**SMALL, learning_rate=LIVELY), loader(train), loader(val), 6, ckpt_path=ckpt)
    assert [row["epoch"] for row in history] == [4, 5]
    assert trainer.global_step == 6 * 7


def test_we_go_on_with_a_checkpoint_of_lightning(tmp_path):
    theirs, _, _, _ = documented_runs(tmp_path, max_epochs=3)
    ckpt = next((tmp_path / "theirs").glob("epoch=2*.ckpt"))
    loaded = RqVae.load_from_checkpoint(ckpt)
    assert_equal_weights(theirs, loaded)
    features = clustered(30)
    for a, b in zip(theirs(features), loaded(features)):
        assert torch.equal(a, b)
    history = quiet(RqVae(**SMALL), loader(clustered(200)), loader(clustered(50, seed=1)), max_epochs=5, resume_from=ckpt)
    assert [(row["epoch"], row["global_step"]) for row in history] == [(3, 28), (4, 35)]


def test_our_file_needs_no_allow_list(tmp_path):
    quiet(small(), loader(clustered(40)), loader(clustered(20)), max_epochs=1, checkpoint_dir=tmp_path,
          notes={"data": Path("x.npy")})
    found = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert sorted(found) == sorted(["epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks",
                           "optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters", "rqvae"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision_train(dtype):
    model = RqVae(12, 16, 8, 32, num_quantizers=2).to(dtype)
    history = fit(model, loader(clustered(200)), max_epochs=4, device="cpu", progress=False)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with pytest.raises(ValueError, match=r"float16, .* train it as model.float\(\), with amp=True"):
        fit(model.half(), loader(clustered(200)), max_epochs=1, device="cpu", progress=False)


def test_an_optimizer_alone_or_with_any_scheduler_does_and_is_resumed(tmp_path):
    def configured(kind, model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"alone": optimizer, "dict": {"optimizer": optimizer},
                "scheduled": {"optimizer": optimizer, "lr_scheduler": step},
                "every batch": {"optimizer": optimizer, "lr_scheduler": {"scheduler": step, "interval": "step"}}}[kind]

    for kind, rates in (("alone", [0.1] * 3), ("dict", [0.1] * 3), ("scheduled", [0.1, 0.05, 0.025]),
                        ("every batch", [0.1 / 4, 0.1 / 16, 0.1 / 64])):
        def run(epochs, folder, model=None, kind=kind, **options):
            torch.manual_seed(0)
            model = RqVae(12, 16, 8, 32)
            return model, fit(model, loader(clustered(60)), max_epochs=epochs, device="cpu", progress=False,
                              optimizers=configured(kind, model), checkpoint_dir=tmp_path / folder, **options)
        straight, history = run(3, f"{kind} straight")
        assert [row["lr"] for row in history] == pytest.approx(rates)
        run(1, kind)
        resumed, _ = run(3, kind, resume_from=tmp_path / kind / "last.ckpt")
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())


def test_what_is_no_optimizer_is_told():
    for given in ("adam", {"lr_scheduler": None}, [1]):
        with pytest.raises(ValueError, match="it must be an optimizer of torch.optim, or {"):
            fit(RqVae(12, 16, 8, 32), loader(clustered(20)), max_epochs=1, device="cpu", optimizers=given)


def test_ctrl_c_saves_the_run_and_is_raised_and_a_second_one_at_once(tmp_path):
    def pressing(times, at):
        for number, batch in enumerate(loader(clustered(96))):
            for _ in range(times if number == at else 0):
                signal.raise_signal(signal.SIGINT)
            yield batch

    class Loader:
        def __init__(self, times=0):
            self.times = times

        def __iter__(self):
            return pressing(self.times, at=1)

    def model():
        torch.manual_seed(0)
        return RqVae(12, 16, 8, 32)

    options = dict(max_epochs=2, device="cpu", progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), Loader(1), checkpoint_dir=tmp_path / "run", **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    saved = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert saved["global_step"] == 2 and saved["rqvae"]["batch"] == 2       # of the first epoch, which is not lost
    straight, resumed = model(), model()
    fit(straight, Loader(), **options)
    fit(resumed, Loader(), resume_from=tmp_path / "run" / "last.ckpt", **options)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())
    with pytest.raises(KeyboardInterrupt):
        fit(model(), Loader(2), checkpoint_dir=tmp_path / "other", **options)
    assert not (tmp_path / "other" / "last.ckpt").exists()
    with pytest.raises(KeyboardInterrupt):
        fit(model(), Loader(1), **options)


@pytest.mark.parametrize("optimizers, words", [
    (lambda model: torch.optim.SGD(model.parameters(), lr=.1), "optimizers is SGD, .* was begun with another"),
    (lambda model: None, "optimizers is with a schedule, .* was begun with another"),
    (lambda model: torch.optim.AdamW(model.parameters(), lr=.1), None)], ids=["SGD", "a schedule", "one that knows the state"])
def test_an_optimizer_of_another_kind_is_refused_and_not_called_damage(tmp_path, optimizers, words):
    loader = FeatureLoader(torch.randn(64, 8), 32)
    options = {"device": "cpu", "progress": False, "checkpoint_dir": tmp_path}
    model = RqVae(8, 8, 4, 8)
    fit(model, loader, max_epochs=1, optimizers=torch.optim.Adam(model.parameters(), lr=.1), **options)
    again = RqVae(8, 8, 4, 8)
    with pytest.raises(ValueError, match=words) if words else contextlib.nullcontext():
        fit(again, loader, max_epochs=2, optimizers=optimizers(again), resume_from=tmp_path / "last.ckpt", **options)
