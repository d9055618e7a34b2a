"""Several processes, real ones, against one: the same training to rounding, the same codebooks to the bit."""

import json
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from samples import TINY, clustered
from rqvae import distributed
from rqvae.cli.console import StopSignals
from rqvae.storage.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]

WORKER = textwrap.dedent("""
    import glob, sys, torch
    sys.path[:0] = [{root!r}, {tests!r}]
    from samples import clustered
    from rqvae import FeatureLoader, RqVae, distributed, fit, recipe
    torch.set_num_threads(1)
    out, kind = sys.argv[1:]
    with distributed.process_group(torch.device("cpu")):
        rank, world = distributed.rank(), distributed.world_size()
        torch.manual_seed(5 + 10 * rank)            # every process starts elsewhere: rank 0 must win
        options = {{"tiger": {{**recipe.MODEL, "num_embeddings": 8, "hidden_dim": [16], "latent_dim": 8}},
                   "ema": {{"num_quantizers": 2, "ema_decay": 0.9, "restart_below": 0.2}}}}[kind]
        model = RqVae(**{{"input_dim": 12, "hidden_dim": 16, "latent_dim": 8, "num_embeddings": 8, **options}})
        features = clustered(203)                   # the last batch has 11 rows, and 203 = 6 * 32 + 11
        loader = FeatureLoader(features, 32, shuffle=True, share=(rank, world))
        val = FeatureLoader(clustered(50, seed=1), 16, share=(rank, world))
        settings = {{}}
        if kind == "tiger":
            distributed.broadcast(model.state_dict().values())
            recipe.start(model, loader)
            settings = {{"optimizers": recipe.configure_optimizers(model, 6 * len(loader))}}
            loader = recipe.training(model, loader, 6)
        history = fit(model, loader, val, max_epochs=6, device="cpu", progress=False, **settings)
        torch.save({{"weights": model.state_dict(), "history": history}}, f"{{out}}.{{world}}.{{rank}}.pt")
    threads = [open(name).read() for name in glob.glob("/proc/self/task/*/comm")]
    # A thread that still holds a tensor when the interpreter ends aborts the process, once in twenty runs.
    assert not [name for name in threads if "gloo" in name], threads
""")


def launch(arguments, processes, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
                   **environment}
    command = [sys.executable, *arguments] if processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    if "No module named 'importlib_metadata'" in done.stderr:
        pytest.skip("torchrun of torch 2.6 wants the package importlib_metadata under Python 3.9")
    return done


def results(kind, processes, folder):
    script = folder / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT), tests=str(ROOT / "tests")))
    done = launch([str(script), str(folder / kind), kind], processes, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{kind}.{processes}.{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize("kind, processes", [("tiger", 3), ("ema", 2)])
def test_several_processes_train_what_one_trains(tmp_path, kind, processes):
    alone, = results(kind, 1, tmp_path)
    together = results(kind, processes, tmp_path)
    for other in together[1:]:
        for name, value in together[0]["weights"].items():
            assert torch.equal(value, other["weights"][name]), f"{name} differs between processes"
        assert [row["val_loss"] for row in other["history"]] == [row["val_loss"] for row in together[0]["history"]]
    for name, value in alone["weights"].items():
        torch.testing.assert_close(together[0]["weights"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for one, other in zip(alone["history"], together[0]["history"]):
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-3)
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)
        assert other["codes_used"] == one["codes_used"]


def test_torchrun_train_py_gives_the_checkpoint_of_one_process_and_one_voice(tmp_path):
    np.save(tmp_path / "items.npy", clustered(200).numpy())
    options = [str(ROOT / "train.py"), "--data", "items.npy", "--epochs", "4", *TINY, "--checkpoint-dir"]
    alone, together = (launch([*options, f"by{n}"], n, tmp_path) for n in (1, 2))
    assert (alone.returncode, together.returncode) == (0, 0), together.stderr[-3000:]
    assert together.stdout.splitlines()[0].endswith("on cpu, in 2 processes")
    assert together.stdout.count("Training on") == together.stdout.count("collision rate") == 1
    assert together.stderr.count("epoch 4/4") == 1
    one, other = (load_checkpoint(tmp_path / folder / "last.ckpt") for folder in ("by1", "by2"))
    assert one["global_step"] == other["global_step"]
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_torchrun_infer_py_writes_the_file_of_one_process_and_speaks_once(tmp_path):
    np.save(tmp_path / "items.npy", clustered(2500).numpy())
    trained = launch([str(ROOT / "train.py"), "--data", "items.npy", "--epochs", "1", *TINY, "--num-embeddings", "32"],
                     1, tmp_path)
    assert trained.returncode == 0, trained.stderr
    options = [str(ROOT / "infer.py"), "--ckpt", "--unique", "--output"]
    alone, together = (launch([*options, f"by{n}.json"], n, tmp_path) for n in (1, 2))
    assert (alone.returncode, together.returncode) == (0, 0), together.stderr[-3000:]
    assert (tmp_path / "by1.json").read_bytes() == (tmp_path / "by2.json").read_bytes()
    assert together.stdout.replace("by2", "by1") == alone.stdout


def test_processes_that_see_other_data_are_refused_before_any_work(tmp_path):
    """The same path names another file on another machine; here the processes take another one each."""
    rows = clustered(200).numpy()
    for rank in (0, 1):
        rows[77, 3] += rank
        np.save(tmp_path / f"items{rank}.npy", rows)
    script = tmp_path / "each.py"
    script.write_text(f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport train\n"
                      "sys.exit(train.main([*sys.argv[1:], '--data', f\"items{os.environ['RANK']}.npy\"]))\n")
    done = launch([str(script), "--epochs", "1", *TINY], 2, tmp_path)
    assert done.returncode != 0
    assert "not the same for all processes: features (3:" in done.stderr
    assert not list((tmp_path / "checkpoints").glob("*.ckpt"))


EACH = textwrap.dedent("""
    import contextlib, io, json, os, sys
    sys.path.insert(0, {root!r})
    import infer, train
    import rqvae.distributed
    rank = int(os.environ["RANK"])
    found = {{}}
    for name, (script, first, second) in json.load(open("cases.json")).items():
        rqvae.distributed.__version__ = "1.0" if rank and name == "version" else "1.2"
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = {{"train": train, "infer": infer}}[script].main(second if rank else first)
        found[name] = code, said.getvalue()
    json.dump(found, open(f"found{{rank}}.json", "w"))
""")


def test_processes_that_differ_in_anything_that_counts_are_refused_by_name(tmp_path):
    """One start of two processes, which take each case one after the other; another rank's options or files stand second."""
    rows = clustered(200).numpy()
    for name, content in (("items", rows), ("reversed", rows[::-1]), ("double", rows.astype(np.float64)), ("two", rows[:2])):
        np.save(tmp_path / f"{name}.npy", content)
    (tmp_path / "ids.txt").write_text("".join(f"B{row}\n" for row in range(200)))
    (tmp_path / "other.txt").write_text("".join(f"B{row}\n" for row in range(200))[::-1].strip() + "\n")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for folder, more in (("a", []), ("b", ["--seed", "7"])):
            assert train.main(["--data", "items.npy", "--item-ids", "ids.txt", "--epochs", "1", *TINY, "--checkpoint-dir", folder, *more]) == 0
            assert infer.main(["--ckpt", f"{folder}/best.ckpt", "--output", f"{folder}.json"]) == 0
        assert infer.main(["--ckpt", "a/best.ckpt", "--unique", "suffix", "--output", "suffixed.json"]) == 0
    finally:
        os.chdir(here)
    new = ["--data", "items.npy", "--epochs", "1", *TINY, "--checkpoint-dir", "new", "--overwrite"]
    named = [*new, "--item-ids", "ids.txt"]
    keep = [*named[:4], "--item-ids", "ids.txt", "--from", "a/best.ckpt", "--checkpoint-dir", "new", "--overwrite", "--keep"]
    again = ["--resume", "a/last.ckpt", "--epochs", "2"]
    out = ["--overwrite", "--output", "out.json", "--ckpt"]
    (tmp_path / "changed.json").write_text((tmp_path / "a.json").read_text().replace("<a_1>", "<a_2>", 1))
    cases = {
        "as they are": ("train", new, new, ""), "the same numbers": ("train", new, [*new, "--data", "double.npy"], ""),
        "other order": ("train", new, [*new, "--data", "reversed.npy"], "features (3:"),
        "other item IDs": ("train", named, [*named, "--item-ids", "other.txt"], "item IDs ("),
        "seed": ("train", new, [*new, "--seed", "3"], "--seed (3 in process 1, 0 in process 0)"),
        "precision": ("train", new, [*new, "--amp"], "--amp (True in process 1"),
        "version": ("train", new, new, "version (rqvae 1.0, torch"),
        "checkpoint": ("train", again, ["--resume", "b/last.ckpt", "--epochs", "2"], "checkpoint to resume ("),
        "kept by one alone": ("train", [*keep, "a.json"], named, "published IDs (None in process 1"),
        "kept IDs": ("train", [*keep, "a.json"], [*keep, "changed.json"], "published IDs ("),
        "a model": ("infer", [*out, "a/best.ckpt"], [*out, "b/best.ckpt"], "weights ("),
        "fewer rows than processes": ("train", [*new, "--data", "two.npy"], [*new, "--data", "two.npy"], ""),
    }
    (tmp_path / "cases.json").write_text(json.dumps({name: case[:3] for name, case in cases.items()}))
    (tmp_path / "each.py").write_text(EACH.format(root=str(ROOT)))
    done = launch([str(tmp_path / "each.py")], 2, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"found{rank}.json").read_text())
        for name, (*_, words) in cases.items():
            code, said = found[name]
            assert code == (2 if words else 0), (name, said)
            assert not words or f"error: not the same for all processes: {words}" in said, (name, said)


def test_more_processes_than_chunks_encode_what_there_is(tmp_path):
    np.save(tmp_path / "items.npy", clustered(300).numpy())
    options = ["--data", "items.npy", "--epochs", "1", *TINY]
    assert launch([str(ROOT / "train.py"), *options], 1, tmp_path).returncode == 0
    done = launch([str(ROOT / "infer.py"), "--ckpt", "--output", "ids.npy"], 2, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.load(tmp_path / "ids.npy").shape[0] == 300


def test_a_restarted_worker_goes_on_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("items.npy", clustered(200).numpy())
    options = ["--data", "items.npy", *TINY]
    train.main([*options, "--epochs", "6", "--checkpoint-dir", "straight"])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    stop = iter([False] * 9)
    monkeypatch.setattr(StopSignals, "__call__", lambda self: next(stop, True))
    train.main([*options, "--epochs", "6"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train.main([*options, "--epochs", "6"]) == 0
    one, other = (load_checkpoint(f"{folder}/last.ckpt")["state_dict"] for folder in ("straight", "checkpoints"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_processes_started_again_do_not_meet_where_those_before_them_met(late):
    """On one store, as torchrun has it; in the second round one process comes after the others."""
    store, places = torch.distributed.HashStore(), []

    def meet(rank, delay):
        time.sleep(delay)
        mine = distributed._untouched(store, rank, 3)
        mine.set(f"address {rank}", f"of round {len(places)}")
        return mine

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            met = list(pool.map(meet, range(3), [0.2 * (rank == late) for rank in range(3)]))
        assert {other.get("address 2") for other in met} == {f"of round {len(places)}".encode()}
        places.append(met[0])
    assert places[0].get("address 2") == b"of round 0"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_meets_nobody_says_so(monkeypatch, rank):
    """And never waits within the store, where no signal would reach it: torchrun would kill it after half a minute."""
    store = torch.distributed.HashStore()
    store.set("offer", "of a process long dead")
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match=f"process {rank} of 2 has not met the others"):
        distributed._untouched(store, rank, 2)


@pytest.mark.parametrize("error, said", [
    (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"), "lost the others"),
    (torch.distributed.DistBackendError("NCCL error in ProcessGroupNCCL.cpp"), "lost the others"),
    (RuntimeError("of its own"), "of its own"),
])
def test_a_process_whose_others_are_gone_says_that_and_not_what_the_library_says(monkeypatch, error, said):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(None, 1, 3)]))
    monkeypatch.setattr(distributed, "_untouched", lambda store, rank, world: store)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=said), distributed.process_group(torch.device("cpu")):
        raise error


def test_alone_everything_is_as_it_was():
    rows = torch.arange(6)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.gather(rows) is rows and distributed.join(rows) is rows
    assert distributed.any_of(True) is True and distributed.any_of(False) is False
    with distributed.process_group(torch.device("cpu")):
        assert distributed.world_size() == 1


def test_train_py_alone_never_touches_torch_distributed(tmp_path):
    np.save(tmp_path / "items.npy", clustered(60).numpy())
    script = textwrap.dedent(f"""
        import torch, torch.distributed
        for name in ("init_process_group", "all_reduce", "all_gather", "broadcast", "is_initialized"):
            def refuse(*args, name=name, **options):
                raise AssertionError(name)
            setattr(torch.distributed, name, refuse)
        import train
        raise SystemExit(train.main({["--data", "items.npy", "--epochs", "1", *TINY]!r}))
    """)
    done = launch(["-c", script], 1, tmp_path)
    assert done.returncode == 0, done.stderr
