"""Which run lies in a folder of checkpoints, whether it may be gone on with or replaced, and by whom."""

import json
from pathlib import Path

from .. import distributed
from ..identity import compared, differences, of_items, recorded
from ..ids.generations import file_checksum
from ..storage.checkpoint import CheckpointError, load_checkpoint, require_training_state
from ..storage.files import remove_stale_temporaries
from ..storage.words import nearest_names, warn
from ..training import CHECKPOINTS, METRICS
from .keep import made_of
from .item_options import INTERACTIONS, OPTIONS


def find_run(path, folder) -> tuple:
    """The checkpoint to go on from, and what it holds.

    Without a path it is the newest in the folder that can be read, and a damaged one is named.
    """
    candidates = [Path(path)] if path else [folder / "last.ckpt", folder / "best.ckpt"]
    if not path and not any(candidate.exists() for candidate in candidates):
        aside = [f"{folder / f'earlier-{name}'} as {name}"
                 for name in reversed(CHECKPOINTS) if (folder / f"earlier-{name}").exists()]
        hint = (", which was to be replaced by a run that was killed; to go on with the old one, "
                f"rename {' and '.join(aside)}") if aside \
            else "" if folder.exists() else nearest_names(folder)
        raise FileNotFoundError(f"there is no run to resume in {folder}{hint}; "
                                "name its --checkpoint-dir, or start a new run without --resume")
    for candidate in candidates:
        try:
            loaded = load_checkpoint(candidate)
            if (loaded.get("rqvae", {}).get("notes") or {}).get("epochs") == 0:
                raise ValueError(f"{candidate} is a starting point, of a run of no epochs; "
                                 "begin a run with --overwrite instead of --resume")
            require_training_state(loaded, candidate)
        except (CheckpointError, FileNotFoundError) as error:
            if candidate is candidates[-1]:
                raise
            warn(f"passing over a damaged checkpoint: {error}; trying {candidates[-1]}")
        else:
            _require_own_best(candidate, loaded)
            return candidate, loaded


def is_of_this_launch(path) -> bool:
    """Whether this launch of torchrun wrote a checkpoint; one that cannot be read is of nobody."""
    try:
        then = recorded("checkpoint", load_checkpoint(path).get("rqvae"))
    except (CheckpointError, OSError):
        return False
    return compared(then, {"launch": distributed.launch()}).get("launch", False)


def refuse_what_is_no_file(folder) -> None:
    """Of what a run writes; a link is followed from a checkpoint, but not from the lines that are added to."""
    for path in (folder / name for name in (*CHECKPOINTS, METRICS)):
        if path.exists() and not path.is_file() or path.suffix == ".jsonl" and path.is_symlink():
            raise FileExistsError(f"{path} is a {'link' if path.is_symlink() else 'folder, a device or a pipe'}, "
                                  "where the run is to write; remove it, or choose another --checkpoint-dir")


def refuse_to_overwrite(folder) -> None:
    remove_stale_temporaries(folder)
    there = [name for name in reversed(CHECKPOINTS) if (folder / name).exists()]
    if not there and (folder / METRICS).exists() and not _is_of_a_first_epoch(folder / METRICS):
        there = [METRICS]
    if there:
        raise ValueError(f"{folder} already holds {' and '.join(there)} of an earlier run; go on with it by --resume, "
                         "replace it by --overwrite, or choose another --checkpoint-dir")


def _is_of_a_first_epoch(path) -> bool:
    """Whether a run was killed after its first epoch had this line, and before it had a checkpoint: nothing is lost."""
    try:
        row = json.loads(path.read_bytes() or b'{"epoch": 0}') if path.stat().st_size < 2**16 else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.get("epoch") == 0


def _require_own_best(path, loaded) -> None:
    """Refuse a best.ckpt of another run beside the checkpoint that is resumed: it would be taken for this one's."""
    best = path.with_name("best.ckpt")
    try:
        other = load_checkpoint(best).get("rqvae") or {} if best != path else {}
    except (CheckpointError, OSError):
        return                              # a damaged one is replaced
    own, then = (_with_first_epoch(run_of) for run_of in (loaded.get("rqvae") or {}, other))
    if differences(then, own):
        raise ValueError(f"{best} is not of the run of {path}; put the right one back, or remove it: "
                         "the best epoch from here on takes its place")


def _with_first_epoch(run_of):
    first = next(({**row, "seconds": 0} for row in run_of.get("history") or ()), None)
    return {"batches": recorded("checkpoint", run_of).get("batches"), "first epoch": first}


def seen(job) -> dict:
    """What all processes that train together have to have alike, for a Job of `train`; paths are each machine's own."""
    table = job.items.dataset.table
    found = {**of_items(table), "checkpoint to resume": job.resume_from and file_checksum(job.resume_from),
             **made_of(job.kept)}
    options = {**job.settings, "compile": job.how["compile"]}
    return {**found, **{"--" + name.replace("_", "-"): value for name, value in options.items()
                        if name not in (*OPTIONS, *INTERACTIONS, "from_", "keep")}}
