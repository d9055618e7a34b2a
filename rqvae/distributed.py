"""Several processes as one: rank, sums, gathering. Alone, every function does nothing and torch.distributed
is not even imported.

Work is dealt out by turns: of a batch of B rows, the process of rank r has the rows r, r + world, ...

Shapes:  B rows of the whole batch   b rows of it that this process has
"""

import contextlib
import json
import os
import time
import uuid

import torch

from . import __version__
from .identity import differences

MEETING_SECONDS = 600   # that processes which start together may take to find each other
SETTLING_SECONDS = 0.1  # for the threads of a group to put down what they hold

_group = None           # torch.distributed once `process_group` has started it


def rank() -> int:
    """Number of this process, 0 when alone."""
    return _group.get_rank() if _group else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return _group.get_world_size() if _group else 1


@contextlib.contextmanager
def process_group(device):
    """Join the processes that `torchrun` started, while the block lasts; alone, do nothing.

    Args:
        device: of this process; NCCL joins GPUs, gloo everything else.
    """
    global _group
    if launched_world() < 2 or "RANK" not in os.environ:
        yield
        return
    import torch.distributed
    # Its functions take the group of the moment as a default. An optimizer imports it, and if that were the first
    # time, the group could never be destroyed, and its threads could abort the process at its end.
    import torch.distributed.nn.functional
    store, rank, world = next(torch.distributed.rendezvous("env://"))
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world,
                                         store=_untouched(store, rank, world))
    _group = torch.distributed
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            raise RuntimeError(f"process {rank} of {world} lost the others: one of them has ended, and says why "
                               "unless it was killed") from error
        raise
    finally:
        _group = None
        # To destroy the group waits for its threads and, in torch 2.6, holds Python's lock meanwhile; a thread that is
        # about to free a tensor of the last sum waits for that lock. Asleep we hand it over.
        time.sleep(SETTLING_SECONDS)
        torch.distributed.destroy_process_group()


def _untouched(store, rank, world):
    """A part of the store that nobody has written to, the same one for all processes.

    Workers that torchrun starts again meet on the store of those before them (torch 2.13, c10d rendezvous), and
    who reads the address of a dead process there waits for it for half an hour. Rank 0 offers a new name, the
    others answer with a name of their own, and go there once it has said that it has heard just them.

    Raises:
        TimeoutError: they do not find each other.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + MEETING_SECONDS
    if rank == 0:
        store.set("offer", own)
    while time.monotonic() < until:                 # never in the store's own wait, which no signal ends
        if rank == 0:
            answers = [f"{own}/{other}" for other in range(1, world)]
            if store.check(answers):
                store.set(f"{own}/heard", b" ".join(map(store.get, answers)))
                return torch.distributed.PrefixStore(own, store)
        elif store.check(["offer"]):
            offer = store.get("offer").decode()     # of now, or still of those before
            store.set(f"{offer}/{rank}", own)
            if store.check([f"{offer}/heard"]) and own in store.get(f"{offer}/heard").decode().split():
                return torch.distributed.PrefixStore(offer, store)
        time.sleep(0.01)
    raise TimeoutError(f"process {rank} of {world} has not met the others for {MEETING_SECONDS} seconds; "
                       "start them again")


def local_device(device) -> torch.device:
    """The GPU of this process where `torchrun` started several on a machine; else `device` itself."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def launched_rank() -> int:
    """The rank that `torchrun` gave this process, before `process_group` has joined it to the others."""
    return int(os.environ.get("RANK", "0"))


def launched_world() -> int:
    """The number of processes that `torchrun` started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def restarted() -> bool:
    """Did `torchrun --max-restarts` start this process again after a failure?"""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch():
    """What the processes of one call of `torchrun` have in common, those that it starts again included; None alone."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return None
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} {os.getppid() if one_machine else os.environ.get('MASTER_ADDR')}"


def require_same(seen: dict) -> None:
    """Refuse processes that do not see the same, before they work on it together.

    Args:
        seen: part, as in `identity`, or option -> what tells it from any other: a checksum, or its value.

    Raises:
        ValueError: another process has something else; all of them raise it.
    """
    if not _group:
        return
    seen = {"version": f"rqvae {__version__}, torch {torch.__version__}", **seen}
    text = json.dumps({what: json.dumps(value, default=str) for what, value in seen.items()})     # null is known, too
    device = "cuda" if _group.get_backend() == "nccl" else "cpu"
    everyones = _everyones(torch.tensor(list(text.encode()), dtype=torch.int64, device=device))
    found = [json.loads(bytes(one.tolist())) for one in everyones]
    nothing = {what: "null" for one in found for what in one}           # what only some have is not the same for all
    first, *others = ({**nothing, **one} for one in found)
    for number, other in enumerate(others, start=1):
        for different in differences(first, other):
            now, then = (str(json.loads(one[different])) for one in (other, first))
            raise ValueError(f"not the same for all processes: {different} ({_brief(now)} in process {number}, "
                             f"{_brief(then)} in process 0); give every process the same files and options")


def _brief(text):
    return text if len(text) < 30 else f"{text[:16]}..."        # enough of a checksum


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Everyone's rows in the order of the whole batch, undoing the turns: (b, ...) -> (B, ...), without gradient."""
    if not _group:
        return rows
    parts = _everyones(rows)
    out = rows.new_empty((sum(map(len, parts)), *rows.shape[1:]))
    for place, part in enumerate(parts):
        out[place::world_size()] = part
    return out


def join(rows: torch.Tensor) -> torch.Tensor:
    """Everyone's rows, those of rank 0 first, for work that was dealt out in one piece a process."""
    return torch.cat(_everyones(rows)) if _group else rows


def _everyones(rows):
    """The rows of each process, which may differ in number."""
    rows = rows.detach().contiguous()
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    counts = sum_(counts).tolist()
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[:len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    _group.all_gather(parts, padded)
    return [part[:count] for part, count in zip(parts, counts)]


def sum_(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if _group:
        _group.all_reduce(tensor)
    return tensor


def any_of(flag: bool, device="cpu") -> bool:
    """Does any process say so?"""
    return bool(sum_(torch.tensor([float(flag)], device=device))) if _group else flag


def broadcast(tensors) -> None:
    """Give every process the tensors of rank 0, in place."""
    if _group:
        for tensor in tensors:
            _group.broadcast(tensor, src=0)


def average_gradients(parameters, loss, rows):
    """Gradients and loss of the whole batch's mean, from means over each process's rows.

    Args:
        parameters: with gradients of `loss`; every process has the same ones.
        loss: (), the mean over this process's rows.
        rows: how many those are, 0 included.

    Returns:
        (), the loss of the whole batch, without gradient.
    """
    loss = loss.detach()
    if not _group:
        return loss
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    own = loss * rows if rows else torch.zeros_like(loss)
    flat = torch.cat([gradient.flatten() * rows for gradient in gradients] + [own[None], own.new_tensor([rows])])
    sum_(flat)
    flat = flat[:-1] / flat[-1]
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start:start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
    return flat[-1]
