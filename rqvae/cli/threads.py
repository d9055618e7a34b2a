"""How many threads torch gets, and how they wait. A decision of the commands, made before torch is loaded.

Torch's OpenMP threads spin while they wait for work. On a machine with nothing else to do that is the fastest; beside
other work, or under a quota of CPU time, the one that spins keeps the one that works from running. So there are as many
threads as CPUs are free when a command starts, they spin for SPINS rounds only, and training has one for every
ROWS_PER_THREAD rows of a batch. tests/benchmarks/bench_threads.py measures it.
"""

import contextlib
import math
import os
import sys
import time
from pathlib import Path

ROWS_PER_THREAD = 32        # of a training step; two threads are faster than one from 64 rows on
SPINS = 3000                # some 50 microseconds: as fast as spinning on, where CPUs are free
LOOKS, SECONDS_BETWEEN = 5, 0.01        # at what else runs
CHOSEN_BY_USER = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

_SETTLED = "RQVAE_THREADS_SETTLED"              # says that the settings are ours, to this process and to its workers


def settle_threads(environ=os.environ) -> None:
    """Set what OpenMP reads as torch is loaded; nothing where the user has set any of it, or torch is loaded
    already."""
    if "torch" in sys.modules or any(name in environ for name in CHOSEN_BY_USER):
        return
    environ["OMP_NUM_THREADS"] = str(max(1, min(usable_cpus(), (os.cpu_count() or 1) - running_beside())))
    environ["GOMP_SPINCOUNT"] = str(SPINS)
    environ[_SETTLED] = "1"


@contextlib.contextmanager
def training_threads(batch_size, environ=os.environ):
    """While the block lasts, no more threads than training steps of this size use; nothing where the user has
    chosen."""
    import torch
    threads = torch.get_num_threads()
    if _SETTLED in environ:
        torch.set_num_threads(max(1, min(threads, batch_size // ROWS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def usable_cpus(root="/") -> int:
    """CPUs that this process may really use: its affinity, and the quotas of its control groups (v1 and v2).

    Args:
        root: where proc and sys are mounted.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.floor(quota) for quota in _quotas(Path(root)))]))


def running_beside(root="/") -> int:
    """How many threads of others want to run now, the most of a few looks; 0 where nobody says."""
    found = 0
    for _ in range(LOOKS):
        try:
            running = (Path(root) / "proc/loadavg").read_text().split()[3].split("/")[0]
            found = max(found, int(running) - 1)                # this process looks
        except (OSError, ValueError, IndexError):
            return found
        time.sleep(SECONDS_BETWEEN)
    return found


def _quotas(root):
    """CPUs that each control group of this process may use, as far as it has a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:             # no Linux
        return
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup" / controllers, _quota_v1
        else:
            continue
        # The group's own folder and those above; in a container its name may be that of the host.
        path = Path(inside.lstrip("/"))
        for group in (path, *path.parents):
            quota = read(mount / group)
            if quota:
                yield quota


def _quota_v2(folder):
    """cpu.max holds "max 100000" or "150000 100000": microseconds in each period."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder):
    """-1 microseconds in a period are no limit."""
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
