"""How many CPUs there are to use, and that nothing is set over what the user has set."""

import os
import subprocess
import sys

import pytest
import torch

from rqvae import FeatureLoader, RqVae, batch_inference, recipe
from rqvae.cli import threads
from rqvae.cli.threads import CHOSEN_BY_USER, settle_threads, training_threads, usable_cpus
from samples import ROOT, clustered

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine(tmp_path, cgroup, **files):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.mark.parametrize("cgroup, files, quota", [
    ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
    ("0::/app/inner\n", {"app/inner/cpu.max": "max 100000\n", "app/cpu.max": "100000 100000\n"}, 1),  # the one above rules
    ("0::/host/name\n", {"cpu.max": "150000 100000\n"}, 1),                    # a container: another root
    ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),                              # a fifth of a CPU is still one thread
    ("0::/\n", {"cpu.max": "max 100000\n"}, HERE),
    ("0::/\n", {"cpu.max": "nonsense"}, HERE),
    ("0::/\n", {}, HERE),
    ("4:cpu,cpuacct:/docker/x\n0::/\n", {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "100000",
                                         "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"}, 1),
    ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, HERE),
    ("5:memory:/\n", {"memory/cpu.max": "100000 100000"}, HERE),
])
def test_a_quota_of_a_control_group_counts(tmp_path, cgroup, files, quota):
    assert usable_cpus(machine(tmp_path, cgroup, **files)) == min(quota, HERE)


def test_a_machine_without_control_groups_is_counted_by_affinity(tmp_path):
    assert usable_cpus(tmp_path) == HERE


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_counts():
    code = ("import os, sys\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "from rqvae.cli.threads import usable_cpus\nprint(usable_cpus())")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("content, beside", [("0.00 0.00 0.00 1/99 7", 0), ("9.0 1.0 1.0 4/99 7", 3), ("nonsense", 0)])
def test_what_runs_beside_is_counted(tmp_path, content, beside):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(content)
    assert threads.running_beside(tmp_path) == beside


@pytest.mark.parametrize("beside, expected", [(0, 4), (3, 1), (99, 1)])
def test_there_are_as_many_threads_as_cpus_are_free(monkeypatch, beside, expected):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "running_beside", lambda: beside)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    environ = {}
    settle_threads(environ)
    assert environ["OMP_NUM_THREADS"] == str(expected)


@pytest.mark.parametrize("name", CHOSEN_BY_USER)
def test_what_the_user_has_set_stays(monkeypatch, name):
    monkeypatch.delitem(sys.modules, "torch")
    environ = {name: "3"}
    settle_threads(environ)
    assert environ == {name: "3"}


def test_the_commands_settle_before_torch_is_loaded_and_the_library_never_does():
    plain = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_USER}
    code = ("import os, sys\nfrom rqvae.cli.main import train\ntrain(['--data', 'missing.npy'])\n"
            "import torch\nprint(os.environ['OMP_NUM_THREADS'], torch.get_num_threads())")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True)
    chosen, used = map(int, done.stdout.split())
    assert 1 <= chosen == used <= usable_cpus(), done.stderr
    code = "import os, rqvae\nrqvae.RqVae, rqvae.fit\nprint('OMP_NUM_THREADS' in os.environ)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("batch_size, ours, expected", [(16, True, 1), (32, True, 1), (63, True, 1), (64, True, 2),
                                                        (8192, True, 3), (32, False, 3)])
def test_small_steps_are_taken_with_fewer_threads_and_all_are_back_afterwards(batch_size, ours, expected):
    torch.set_num_threads(3)
    with training_threads(batch_size, {threads._SETTLED: "1"} if ours else {}):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 3


def test_the_semantic_ids_do_not_depend_on_the_number_of_threads():
    features = clustered(3000, width=64)
    torch.manual_seed(0)
    model = RqVae(**recipe.model_options(64))
    recipe.start(model, FeatureLoader(features, 64, shuffle=True))
    codes = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        codes.append(batch_inference(model, FeatureLoader(features, 64), device="cpu"))
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])
