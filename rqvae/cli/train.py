"""What `train` does with its options: check everything, train, say what came of it."""

import contextlib
import inspect
import io
import math
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from .. import distributed, identity, recipe
from ..collisions import collision_report
from ..evaluation import code_statistics, evaluate_reconstruction, feature_groups, part_errors
from ..inference import batch_inference, resolve_device
from ..items.batches import FeatureLoader, split_rows
from ..model import RqVae
from ..progress import event_writer_class, shown
from ..recipe.scaling import unusual
from ..report.assessment import one_of_each, unsettled
from ..report.text import collapse_advice, summary
from ..storage.checkpoint import CheckpointError, epochs_done, load_checkpoint
from ..storage.files import check_writable, mend, set_aside
from ..storage.locks import locked
from ..storage.words import counted, warn
from ..training import CHECKPOINTS, METRICS, TrainingInterrupted, fit
from .console import StopSignals, command, say, say_lines
from ..recipe.keeping import EPOCHS as KEEPING_EPOCHS
from .keep import Kept, hold, made_of, name_codes, prepare_keeping, split
from .item_options import INTERACTIONS, OPTIONS
from .options import DEFAULT_FOLDER, DEFAULTS, free_output
from .runs import find_run, is_of_this_launch, refuse_to_overwrite, refuse_what_is_no_file, seen
from .sources import Items, as_recorded, open_named, require_inputs
from .threads import training_threads

# What each preset departs from the documented model and training in.
PRESETS = {
    "documented": {"batch_size": 32, "epochs": 100},
    "tiger": recipe.MODEL,          # and what follows from the size of the catalogue, see `by_rule`
    "fine": recipe.FINE_MODEL,
    "closed": recipe.FINE_MODEL,
}
FINE = ("fine", "closed")
MODEL_OPTIONS = {name: parameter.default for name, parameter in inspect.signature(RqVae).parameters.items()
                 if name != "input_dim"}
FROM_THE_START = "weights", "from_", "keep"         # a run that was begun without one goes on without
PRECISION = "amp", "tf32"       # flags that a run keeps, as it is not the same run otherwise
RECORDED = (*DEFAULTS, *PRECISION, "from_", "keep", "epochs", "batch_size", "weights", *OPTIONS, *INTERACTIONS,
            *MODEL_OPTIONS)             # --resume finds these again

# What a run that is resumed was begun with, and keeps.
KEPT = ("preset", "seed", "val_fraction", "batch_size", "encoder", "text_columns", "split", "weights", *PRECISION,
        *(name for name in MODEL_OPTIONS if name != "learning_rate"))


class Job(NamedTuple):
    """Everything that `prepare` checked and `run` needs."""

    items: Items
    model: RqVae
    settings: dict              # option -> value, as recorded in the checkpoint
    device: torch.device
    how: dict                   # `fit` options that change no result worth recording
    checkpoint_dir: Path
    resume_from: Path           # None for a new run
    tf32: bool                  # a setting of the process, while it trains
    program: str                # how the user started us
    kept: Kept = None           # published items, where a run goes on from an older one
    overwrite: bool = False     # whether an earlier run in `checkpoint_dir` is replaced


def prepare(arguments) -> Job:
    """Everything that can be wrong with the input is found here, before any work."""
    device = distributed.local_device(resolve_device(arguments.device))
    if arguments.tf32 and device.type != "cuda":
        raise ValueError(f"--tf32 is for a GPU, and this run is on {device}; leave it out, or choose --device cuda")
    require_inputs(arguments)
    folder = Path(arguments.checkpoint_dir)
    mend(folder, CHECKPOINTS)
    if distributed.restarted():         # by torchrun, after a failure: go on where that left off
        arguments.overwrite = True
        if arguments.resume is None and any(is_of_this_launch(folder / name) for name in CHECKPOINTS):
            arguments.resume = ""
    resume_from, recorded, notes = None, {}, {}
    if arguments.resume is not None:
        resume_from, loaded = find_run(arguments.resume, folder)
        recorded, notes = options_of(loaded, resume_from), (loaded.get("rqvae") or {}).get("notes") or {}
        if arguments.checkpoint_dir != DEFAULT_FOLDER \
                and not (folder.exists() and os.path.samefile(resume_from.parent, folder)):
            raise ValueError(f"--checkpoint-dir is {folder}, but a run that is resumed goes on where it is, in "
                             f"{resume_from.parent}; leave it out, or move the checkpoint first")
        folder, arguments.resume = resume_from.parent, str(resume_from)
        if not any(getattr(arguments, source) for source in ("data", "texts", "p5")):
            recorded = {**recorded, **as_recorded({name: value for name, value in recorded.items()
                                                   if getattr(arguments, name, None) is None}, resume_from)}
    settings = settle(arguments, recorded, resume_from)
    if resume_from is None and not arguments.overwrite:
        refuse_to_overwrite(folder)
    if resume_from is None and settings.get("from_") and os.path.realpath(settings["from_"]) in map(
            os.path.realpath, (folder / name for name in CHECKPOINTS)):
        raise ValueError(f"--from is {settings['from_']}, which this run would replace; "
                         "choose another --checkpoint-dir")
    check_writable(folder)
    refuse_what_is_no_file(folder)
    if arguments.tensorboard:
        event_writer_class()                # a missing package is found before any work
    items = open_named(settings, blended=settings["preset"] != "documented", device=device,
                       may_load=resume_from is None or bool(arguments.encoder or arguments.texts or arguments.p5))
    table = items.dataset.table
    table.check()
    then = identity.recorded("checkpoint", {"notes": notes})
    differ = identity.differences(then, table=table)        # of 1.0's batches not every row is compared
    if differ:
        raise ValueError(f"{table.source} has other {' and other '.join(differ)} than {resume_from} was begun with "
                         "(changed, renamed, or in another order); put those back, or start a new run in another "
                         "--checkpoint-dir")
    if arguments.val_fraction is None and round(len(table) * settings["val_fraction"]) < 1:
        settings["val_fraction"] = 0.0      # a tenth or more of few items is not what anybody asked for
    settings = {**settings, **of_parts(table, settings)}
    if settings["preset"] != "documented":
        settings = {**by_rule(table, settings), **settings}
    torch.manual_seed(settings["seed"])
    if settings.get("keep"):
        given = {name: getattr(arguments, name, None) for name in MODEL_OPTIONS if name != "learning_rate"}
        model, kept = prepare_keeping(settings["from_"], settings["keep"], table,
                                      {name: value for name, value in given.items() if value is not None}, device)
        settings = {**settings, **{name: model.hyper_parameters[name] for name in MODEL_OPTIONS}}
        if arguments.epochs is None and "epochs" not in recorded:
            settings["epochs"] *= KEEPING_EPOCHS
        if arguments.learning_rate:
            kept = kept._replace(learning_rate=arguments.learning_rate)
        if identity.differences(then, made_of(kept)):
            raise ValueError(f"{settings['from_']} and {settings['keep']} are not what {resume_from} was begun with, "
                             "but hold items to other IDs; put the old ones back, or start a new run in another "
                             "--checkpoint-dir")
    else:
        kept, model = None, RqVae(table.shape[1],
                                  **{name: settings[name] for name in MODEL_OPTIONS if name in settings})
    how = {"fused": True, "amp": settings["amp"], "compile": arguments.compile, "tensorboard": arguments.tensorboard,
           "progress": not arguments.quiet}
    return Job(items, model, settings, device, how, folder, resume_from, settings["tf32"] and device.type == "cuda",
               arguments.program, kept, arguments.overwrite)


def options_of(loaded, path) -> dict:
    """Option -> value, as the run that wrote the checkpoint at `path` recorded it."""
    notes = (loaded.get("rqvae") or {}).get("notes") or {}
    if notes.get("preset", DEFAULTS["preset"]) not in PRESETS:
        raise CheckpointError(f"{path}: its preset is {notes['preset']!r}, which is none of {', '.join(PRESETS)}; "
                              "name one by --preset, or start a new run")
    model = {name: value for name, value in loaded["hyper_parameters"].items() if name in MODEL_OPTIONS}
    found = {**notes, **MODEL_OPTIONS, **model}         # an older one does not have all
    return {name: value for name, value in found.items() if name in RECORDED and value is not None}


def of_parts(table, settings) -> dict:
    """What several embeddings an item ask of the model."""
    widths, weights = getattr(table, "widths", None), settings.get("weights")
    if weights and (not widths or len(weights) != len(widths) or min(weights) <= 0):
        raise ValueError(f"--weights are {words(weights)}; they must be numbers above 0, one for each file of --data, "
                         f"of which there {'are ' + str(len(widths)) if widths else 'is 1'}")
    if widths and (settings["preset"] == "documented" or settings.get("robust") is False):
        raise ValueError("several --data need a model that knows of parts: leave out --preset documented and "
                         "--no-robust, or put them side by side in one file")
    return {"parts": widths} if widths else {}


def settle(arguments, recorded, resumed=None) -> dict:
    """The options in force: what was given, else what the run recorded, else the preset's, else the defaults.

    Args:
        arguments: of this command.
        recorded: option -> value, of the run that is resumed.
        resumed: its checkpoint.
    """
    given = {name: value for name, value in vars(arguments).items() if name in RECORDED and value is not None
             and not (name in PRECISION and not value)}
    preset = {**DEFAULTS, **recorded, **given}["preset"]
    if given.keys() & {"data", "texts", "p5"}:          # the same items in another place
        recorded = {name: value for name, value in recorded.items() if name not in ("data", "texts", "p5")}
    if preset == "documented" and len(given.get("hidden_dim", [])) == 1:
        given["hidden_dim"] = given["hidden_dim"][0]            # one width for both layers, as documented
    refuse_changes(given, recorded, resumed)
    sizes = given.get("num_embeddings")
    if sizes and len(sizes) == 1:
        given["num_embeddings"] = sizes[0]
    elif sizes and given.setdefault("num_quantizers", len(sizes)) != len(sizes):
        raise ValueError(f"--num-embeddings names {len(sizes)} sizes, one a level, and --num-quantizers is "
                         f"{given['num_quantizers']}; leave --num-quantizers out")
    untrained = recipe.UNTRAINED if preset != "documented" and given.get("epochs") == 0 else {}
    settings = {**DEFAULTS, **PRESETS[preset], **dict.fromkeys(PRECISION, False), **untrained, **recorded, **given}
    if bool(settings.get("from_")) != bool(settings.get("keep")):
        raise ValueError("--from and --keep go together: the checkpoint to go on from, and the IDs that it has "
                         "published")
    if settings.get("keep") and preset != "tiger":
        raise ValueError(f"--keep goes with --preset tiger, not with {preset}; leave one of them out")
    rules = {
        "epochs": ("0 or more", lambda value: value >= 0),
        "batch_size": ("1 or more", lambda value: value >= 1),
        "val_fraction": ("at least 0 and below 1", lambda value: 0 <= value < 1),
        "learning_rate": ("above 0 and finite", lambda value: 0 < value < float("inf")),
        "num_embeddings": ("2 or more", lambda value: min(value if isinstance(value, list) else [value]) >= 2),
        "num_quantizers": ("1 or more", lambda value: value >= 1),
        "latent_dim": ("1 or more", lambda value: value >= 1),
        "commitment_cost": ("0 or more", lambda value: value >= 0),
        "seed": ("from 0 to 18446744073709551615", lambda value: 0 <= value < 2 ** 64),
    }
    if preset == "documented" and settings.get("interactions"):
        raise ValueError("--interactions does not go with --preset documented, which knows features alone; "
                         "leave one of them out")
    faults = [f"--{name.replace('_', '-')} is {settings[name]}, must be {rule}"
              for name, (rule, holds) in rules.items() if settings.get(name) is not None and not holds(settings[name])]
    if faults:
        raise ValueError("; ".join(faults))
    return settings


def refuse_changes(given, recorded, resumed) -> None:
    """Name each option that a run cannot change once it has begun."""
    changed = [name for name in KEPT if given.get(name) is not None and recorded.get(name) is not None
               and given[name] != recorded[name] and given[name] != [recorded[name]]]
    added = [name for name in FROM_THE_START if recorded and given.get(name) is not None and recorded.get(name) is None]
    if changed or added:
        said = "; ".join(f"--{name.strip('_').replace('_', '-')} is {words(given[name])}, {resumed} was begun "
                         + (f"with {words(recorded[name])}" if name in changed else "without")
                         for name in (*changed, *added))
        raise ValueError(f"{said}; a run that is resumed keeps that: leave it out, or start a new run in another "
                         "--checkpoint-dir (--epochs and --learning-rate may change)")


def words(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def by_rule(table, settings) -> dict:
    """What the recipe derives from the size of the catalogue."""
    rows, width = table.shape
    trained_on = max(1, round(rows * (1 - settings["val_fraction"])))
    fine = settings["preset"] in FINE
    return {"epochs": recipe.epochs(trained_on, fine=fine, closed=settings["preset"] == "closed"),
            "batch_size": recipe.batch_size(trained_on, fine=fine),
            "latent_dim": recipe.model_options(width)["latent_dim"]}


def run(job) -> int:
    """Train, alone or as one of several processes, and say what came of it."""
    only_ours = contextlib.nullcontext() if distributed.launched_rank() else locked(job.checkpoint_dir)
    with only_ours, distributed.process_group(job.device):
        with contextlib.redirect_stdout(io.StringIO() if distributed.rank() else sys.stdout):
            new = None if job.resume_from else job.checkpoint_dir
            if new and not job.overwrite and not distributed.launched_rank():
                refuse_to_overwrite(new)            # again, now that the folder is ours
            with StopSignals() as stop, set_aside(new, CHECKPOINTS, along=[METRICS]):
                history = train(job, stop)
            if history is None:
                return 128 + (stop.number or signal.SIGTERM)
            if job.resume_from and (not history or history[-1]["epoch"] + 1 > job.settings["epochs"]):
                say(f"already trained {len(history)} of {counted(job.settings['epochs'], 'epoch')}; nothing to do")
            elif not distributed.rank():
                report(job, history)
    return 0


def train(job, stop):
    """The run's history, or None if it was stopped."""
    settings, table = job.settings, job.items.dataset.table
    if distributed.world_size() > 1:
        distributed.require_same(seen(job))
    say(f"Training on {job.items.description}, on {job.device}" + (
        f", in {distributed.world_size()} processes" if distributed.world_size() > 1 else ""))
    if job.items.interactions:
        say(f"and on what {job.items.interactions.words}")
    noted = {}
    if job.kept:
        train_rows, val_rows = split(job.kept, settings["val_fraction"], settings["seed"])
        noted = {"held_out": val_rows.tolist()}
        kept = int((job.kept.codes[:, 0] >= 0).sum())
        say(f"Going on from {settings['from_']}; {counted(kept, 'item')} held to the IDs that {settings['keep']} gives")
    else:
        train_rows, val_rows = split_rows(len(table), settings["val_fraction"], settings["seed"])
    where = {"device": job.device, "share": (distributed.rank(), distributed.world_size())}
    train_loader = FeatureLoader(table, settings["batch_size"], shuffle=True, seed=settings["seed"],
                                 rows=train_rows, **where)
    val_loader = FeatureLoader(table, 1024, rows=val_rows, **where) if len(val_rows) else None
    options, fine, closed = {}, settings["preset"] in FINE, settings["preset"] == "closed"
    bars = job.how["progress"] and not distributed.rank()
    if job.kept:
        job.model.to(job.device)
        options = hold(job.model, job.kept, train_loader, settings["epochs"])
    elif settings["preset"] != "documented":
        job.model.to(job.device)
        if job.resume_from is None:
            recipe.start(job.model, train_loader, settings["seed"], weights=settings.get("weights"),
                         progress=bars)
            if job.model.robust and not distributed.rank():
                for sentence in unusual(job.model, table.rows, len(table), table.longest):
                    warn(sentence)
        else:               # neighbours are sought among items as the model sees them
            loaded = load_checkpoint(job.resume_from)
            job.model.load_weights(loaded["state_dict"], loaded["hyper_parameters"], job.resume_from)
        steps = settings["epochs"] * len(train_loader)
        options = {"monitor": "last" if closed else "val_recon_loss"}   # which knows less of new items with every epoch
        if settings["epochs"]:
            options["optimizers"] = recipe.configure_optimizers(job.model, steps, fine=fine, closed=closed)
            train_loader = recipe.training(job.model, train_loader, settings["epochs"], settings["seed"], fine=fine,
                                           closed=closed, progress=bars)
    record = identity.as_record("checkpoint", {**identity.of_items(table), **made_of(job.kept),
                                               "launch": distributed.launch()})
    if job.tf32:
        torch.set_float32_matmul_precision("high")
    try:
        with training_threads(settings["batch_size"]):
            return fit(
                job.model, train_loader, val_loader, max_epochs=settings["epochs"], device=job.device,
                checkpoint_dir=job.checkpoint_dir, resume_from=job.resume_from, stop=stop,
                notes={**settings, **job.items.places, **noted, "folder": os.getcwd(), **record["notes"]},
                **job.how, **options,
            )
    except TrainingInterrupted as interrupted:
        name = signal.Signals(stop.number or signal.SIGTERM).name
        say(f"Stopped by {name}; saved. Resume with: {command(job.program, 'train', '--resume', interrupted.path)}")
        return None
    finally:
        job.model.assign = None         # 40 bytes an item, which the report has better use for
        if job.tf32:        # what the report encodes is what infer.py will
            torch.set_float32_matmul_precision("highest")


def report(job, history) -> None:
    """What a person wants to know: how good the chosen checkpoint is, and what to run next."""
    best = job.checkpoint_dir / "best.ckpt"
    if job.kept:
        say_lines("\n" + name_codes(best, job.kept, job.items.dataset.table, job.device))
    chosen = load_checkpoint(best)
    model = RqVae.from_loaded(chosen, best)
    table = job.items.dataset.table
    loader = FeatureLoader(table, 1024)
    by_part = dict(zip(table.names, part_errors(model, loader, job.device))) if model.parts else {}
    if model.parts:
        table.fill = model.feature_mean.cpu()       # stands for what is missing, from here on
    codes = batch_inference(model, shown(loader, "encoding", job.how["progress"]), job.device)
    codes = codes.reshape(len(codes), -1)
    groups = feature_groups(table, codes)
    statistics = code_statistics(codes, [len(codebook) for codebook in model.quantizer.codebooks])
    errors = evaluate_reconstruction(model, shown(loader, "judging", job.how["progress"]), job.device)
    if model.parts:             # each with its share, whatever its units
        errors["relative_mse"] = errors["relative_mse_robust"]
    seconds = sum(row["seconds"] for row in history)
    of = "" if epochs_done(chosen) >= len(history) else f", best after epoch {epochs_done(chosen)}" + (
        "" if job.settings["preset"] == "documented" else " by the reconstruction error of the items held out")
    say_lines(f"\nTrained {counted(len(history), 'epoch')} in {seconds:.0f} s{of}; over all items:" if history else
              "\nThe starting point, with no epoch trained; over all items:")
    say_lines(summary(statistics, collision_report(codes, features_groups=groups), errors["relative_mse"],
                      errors["relative_mse_robust"] if model.robust and model.draws_in() and not model.parts else None))
    for name, error in by_part.items():
        say(f"error of {name}: {'-' if math.isnan(error) else f'{error:.3f}'}, over the items that have it")
    advice = "use --preset tiger, which prevents this" if job.settings["preset"] == "documented" else \
        "train longer, lower --num-embeddings, or give more and more varied items"
    for sentence in collapse_advice(statistics, advice, items=unsettled(codes[one_of_each(groups)])):
        say(f"WARNING: {sentence}")
    say(f"checkpoint: {best}")
    say(f"next: {command(job.program, 'infer', '--ckpt', best, *free_output())}")
