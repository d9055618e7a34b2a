"""Runs killed and disks filled at random moments, again and again: nothing is ever lost.

`python -m pytest -m campaign tests` runs all campaigns; each prints its figures with `-s`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from test_faults import RUN, TINY, environment, killed_runs, needs_fork, origin, place, same_run

pytestmark = pytest.mark.campaign
EPOCHS = 400
PROMISED = {-signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM,       # the latter two while Python starts
            128 + signal.SIGINT, 128 + signal.SIGTERM, 0}


def test_a_run_killed_twenty_times_ends_as_a_straight_one(place):
    began = time.monotonic()
    assert train.main([*RUN, "--epochs", str(EPOCHS), "--checkpoint-dir", "straight"]) == 0
    codes, leavings = killed_runs(20, EPOCHS, seed=7, numbers=(signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
    print(f"\nexit codes {codes}; {leavings} temporary files met; {time.monotonic() - began:.0f} s")
    assert set(codes) <= PROMISED and codes[-1] == 0
    assert sum(code != 0 for code in codes) >= 15           # the others came too late
    assert same_run("run", "straight")
    assert sorted(os.listdir("run")) == ["best.ckpt", "last.ckpt", "metrics.jsonl"]


KILLED_IN_SAVES = """
import json, os, random, signal, sys, time
import train
from rqvae.storage.checkpoint import load_checkpoint
kills, argv, generator = int(sys.argv[1]), sys.argv[2:], random.Random(3)
figures = {"kills": 0, "in a write": 0, "epochs": []}
def saved():
    return os.path.exists("run/last.ckpt") and os.stat("run/last.ckpt").st_mtime_ns
devnull = os.open(os.devnull, os.O_WRONLY)
for attempt in range(kills):
    resume = ["--resume"] if os.path.exists("run/last.ckpt") else []
    child = os.fork()
    if child == 0:
        os.dup2(devnull, 1), os.dup2(devnull, 2)
        os._exit(train.main([*argv, *resume]))
    before, until = saved(), time.monotonic() + 60
    while saved() == before and time.monotonic() < until:           # until it trains
        time.sleep(0.002)
    time.sleep(generator.uniform(0, 0.15))
    while attempt % 2 and time.monotonic() < until and not any(name.endswith(".tmp") for name in os.listdir("run")):
        pass                                                        # every other one within a write
    os.kill(child, signal.SIGKILL)
    code = os.waitpid(child, 0)[1]
    figures["kills"] += code == signal.SIGKILL
    for name in ("last.ckpt", "best.ckpt"):
        if os.path.exists(f"run/{name}"):
            load_checkpoint(f"run/{name}")
    if os.path.exists("run/last.ckpt"):
        figures["epochs"].append(load_checkpoint("run/last.ckpt")["rqvae"]["epoch"])
    figures["in a write"] += any(name.endswith(".tmp") for name in os.listdir("run")) if os.path.exists("run") else 0
code = train.main([*argv[:-1], str(figures["epochs"][-1] + 2), "--resume"])
json.dump([code, figures, sorted(os.listdir("run"))], sys.stdout)
"""


def test_a_worker_of_torchrun_that_is_killed_is_started_again_and_goes_on(place):
    """As the README says: torchrun itself restarts, and the run ends with the weights of an undisturbed one."""
    def launched(folder):
        return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", train.__file__,
                *RUN, "--epochs", "200", "--checkpoint-dir", folder]

    assert subprocess.run(launched("straight"), env=environment(), capture_output=True).returncode == 0
    run = subprocess.Popen(launched("run"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True)
    until = time.monotonic() + 60
    while not os.path.exists("run/best.ckpt") and time.monotonic() < until:
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said[-3000:]
    killed_at = [line for line in said.splitlines() if "SIGKILL" in line or "exitcode: -9" in line]
    print(f"\n{len(workers)} workers, the last one killed: {killed_at[:1]}")
    assert killed_at and same_run("run", "straight")


@needs_fork
def test_eighty_runs_killed_around_their_saves_leave_whole_files(place):
    """Epochs of one batch: the run does little but save."""
    argv = ["--data", "items.npy", "--checkpoint-dir", "run", *TINY, "--batch-size", "1000", "--epochs", "100000"]
    done = subprocess.run([sys.executable, "-c", KILLED_IN_SAVES, "80", *argv], env=environment(), text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    code, figures, names = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{figures['kills']} kills, {figures['in a write']} of them within a write; "
          f"{figures['epochs'][-1]} epochs kept")
    assert code == 0 and figures["kills"] >= 50 and figures["in a write"] > 10
    assert figures["epochs"] == sorted(figures["epochs"])
    assert names == ["best.ckpt", "last.ckpt", "metrics.jsonl"]


FULL_AT_RANDOM = """
import contextlib, io, json, os, random, subprocess, sys
from pathlib import Path
import train
from rqvae.storage.checkpoint import load_checkpoint
argv, generator, figures = sys.argv[1:], random.Random(5), {}
os.mkdir("disk")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", "disk"], check=True)
assert train.main([*argv, "--epochs", "1"]) == 0
for attempt in range(120):
    with open("disk/filler", "wb", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        filler.truncate(max(0, filler.tell() - 4096 * generator.randrange(80)))
    before = {path: path.read_bytes() for path in Path("disk").rglob("*.ckpt")}
    done = load_checkpoint("disk/run/last.ckpt")["rqvae"]["epoch"]
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = train.main([*argv, "--epochs", str(done + 2), "--resume"])
    errors = [line for line in said.getvalue().splitlines() if line.startswith(("error", "Traceback"))]
    assert code in (0, 1, 2) and len(errors) == (code > 0), (code, errors)
    assert code == 0 or "disk/run" in errors[0] and "No space left on device" in errors[0], errors
    after = {path: path.read_bytes() for path in Path("disk").rglob("*.ckpt")}
    assert code != 2 or after == before
    assert load_checkpoint("disk/run/last.ckpt")["rqvae"]["epoch"] >= done
    load_checkpoint("disk/run/best.ckpt")
    assert {path.name for path in Path("disk/run").iterdir()} == {"last.ckpt", "best.ckpt", "metrics.jsonl"}
    figures[code] = figures.get(code, 0) + 1
    os.remove("disk/filler")
print(json.dumps(figures))
"""


def test_a_disk_that_fills_up_at_random_moments_loses_nothing(place):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("this machine gives no mount namespace to make a small disk in")
    argv = ["--data", "items.npy", "--checkpoint-dir", "disk/run", *TINY]
    done = subprocess.run(["unshare", "-rm", sys.executable, "-c", FULL_AT_RANDOM, *argv], env=environment(),
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"\nof {sum(figures.values())} runs on a disk with 0 to 79 free pages: {figures} by exit code")
    assert figures["1"] >= 20 and figures["2"] >= 1
