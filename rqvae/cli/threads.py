"""How many threads torch gets, and how they wait. A decision of the commands, made before torch is loaded.

Torch's OpenMP threads spin while they wait for work. On a machine with nothing else to do that saves a few
microseconds a call; beside other work, or under a quota of CPU time, the one that spins keeps the one that works from
running. tests/benchmarks/bench_threads.py measures it.
"""

import math
import os
import sys
from pathlib import Path

CHOSEN_BY_USER = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def settle_threads(environ=os.environ) -> None:
    """Set what OpenMP reads as torch is loaded; nothing where the user has set any of it, or torch is loaded already."""
    if "torch" in sys.modules or any(name in environ for name in CHOSEN_BY_USER):
        return
    environ["OMP_NUM_THREADS"] = str(usable_cpus())
    environ["OMP_WAIT_POLICY"] = "PASSIVE"


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
