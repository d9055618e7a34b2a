"""Two ways to do one thing, timed in turn: what every bench_*.py here prints its table with.

Run on one thread and meant for shared machines: a time by itself says little there, so only
ratios of runs made one after the other count, as the median of several pairs with its quartiles.
On the CPU each way has a process of its own, whose CPU time counts: in one process, what one of
them allocates and frees decides how often another must ask the system for memory. On a GPU all
share a process, and the time is that between two events on its stream.

Import this module before torch: it sets how threads wait.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

# Threads that spin beside a busy process are 32 times slower than threads that wait.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]   # and the tests

import torch

torch.set_num_threads(1)

COLUMNS = "{:<64} {:>12} {:>12}   {:<20} {}"


def parse(description, **options):
    """The command line: --device, --pairs, and one option for each keyword with its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs (default: 7)")
    for name, default in options.items():
        listed = isinstance(default, list)
        kind = type(default[0] if listed else default)
        parser.add_argument("--" + name.replace("_", "-"), default=default, type=kind,
                            nargs="+" if listed else None, help=f"default: {default}")
    arguments = parser.parse_args()
    if arguments.pairs < 5:
        parser.error(f"--pairs is {arguments.pairs}; fewer than 5 say nothing")
    return arguments


def cost(work, device="cpu") -> float:
    """Seconds that `work()` takes: of this process on the CPU, of the stream on a GPU.

    A `work` that times itself returns its seconds, as a float, on any device.
    """
    if torch.device(device).type == "cpu":
        began = time.process_time()
        measured = work()
        return measured if isinstance(measured, float) else time.process_time() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    measured = work()
    last.record()
    torch.cuda.synchronize()
    return measured if isinstance(measured, float) else first.elapsed_time(last) / 1e3


def interleave(works, pairs, device="cpu") -> dict:
    """name -> list of seconds, one a round: each work in turn, in every other round backwards.

    Args:
        works: name -> callable without arguments; each runs once beforehand, untimed.
        pairs: rounds.
        device: where they work.
    """
    own_process = torch.device(device).type == "cpu"
    with contextlib.ExitStack() as stack:
        costs = {name: stack.enter_context(_forked(work)) if own_process else partial(cost, work, device)
                 for name, work in works.items()}
        for run in costs.values():
            run()
        seconds = {name: [] for name in works}
        for number in range(pairs):
            for name in list(works)[::-1 if number % 2 else 1]:
                seconds[name].append(costs[name]())
    return seconds


@contextlib.contextmanager
def _forked(work):
    """A callable that has a process forked here do `work` and returns its `cost`."""
    here, there = multiprocessing.Pipe()

    def serve():
        here.close()
        while there.recv():
            there.send(cost(work))

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    there.close()

    def run():
        here.send(True)
        return here.recv()          # EOFError: the work failed; its traceback stands above

    try:
        yield run
    finally:
        process.terminate()
        process.join()


def device_name(device) -> str:
    """The card's name, or the CPU's threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} thread"


def heading(title, ours="ours", peer="peer") -> None:
    print(f"\n{title}")
    print(COLUMNS.format("", ours, peer, "ratio median [q1, q3]", "target"), flush=True)


def row(name, seconds, ours, peer, *, target="", rate=None, inverted=False) -> float:
    """Print peer's seconds over ours, pair by pair; returns the median.

    Args:
        name: of the row.
        seconds: what `interleave` returned.
        ours, peer: two of its names.
        target: what the ratio should be, in words.
        rate: how many things one run does; then things a second are shown instead of milliseconds.
        inverted: print our seconds over peer's.
    """
    ratios = [a / b if inverted else b / a for a, b in zip(seconds[ours], seconds[peer])]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(COLUMNS.format(name, _figure(seconds[ours], rate), _figure(seconds[peer], rate),
                         f"{middle:.2f} [{low:.2f}, {high:.2f}]", target), flush=True)
    return middle


def line(name, ours="", peer="", value="", target="") -> None:
    """A row of words or of figures that are not times."""
    print(COLUMNS.format(name, ours, peer, value, target), flush=True)


def missing(name, package, target="") -> None:
    """The row of a peer that is not installed."""
    line(name, value="not measured", target=f"{target}   (pip install {package})")


def _figure(seconds, rate):
    middle = statistics.median(seconds)
    return f"{middle * 1e3:.2f} ms" if rate is None else f"{rate / middle:,.0f} /s"


def fresh_python(program, *arguments) -> str:
    """What a program prints in an interpreter of its own, which finds rqvae and this module."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], check=True, text=True,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
    return done.stdout.strip()


def extra_megabytes(work, device="cpu") -> float:
    """Memory that `work()` holds at its peak, above what was held before, in MB of 2^20 bytes.

    On the CPU that is resident memory, and means something in a `fresh_python` only: a process that
    worked before has memory at hand that it need not ask for.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")       # proc(5): resets the peak, VmHWM
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 2**10


def _resident(name):
    """A line of /proc/self/status, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(next(text for text in status.splitlines() if text.startswith(name)).split()[1])
