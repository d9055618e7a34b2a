"""Where a training run stands, and that state to and from a checkpoint. Runs nothing itself.

Everything that decides what comes next is here: weights, optimizer, scheduler, counters, the sums of
the epoch under way, random state and data order. A run restored from it goes on to the bit.

Shapes:  B rows   K codes   L levels
"""

import itertools
import math

import torch

from .storage import checkpoint
from .storage.words import spelled

from . import distributed
from .functional import perplexity
from .identity import differences, fingerprint, recorded
from .inference import batch_features

FORMAT = 1      # of what stands under a checkpoint's "rqvae" key
NEVER_BELOW_0 = {"lr", "initial_lr", "base_lrs", "_last_lr", "step", "exp_avg_sq", "max_exp_avg_sq", "eps",
                 "weight_decay"}
UNDER_NONE = {"best", "mode_worse"}         # of a plateau scheduler
BELOW = {"betas": 1.0, **dict.fromkeys(("lr", "initial_lr", "base_lrs", "_last_lr", "step", "eps", "weight_decay"),
                                       1e15)}


class RunState:
    """A model under training, its optimizer and scheduler, and how far the run has come.

    Attributes:
        epoch: epochs completed, which is the index of the one under way.
        batch: batches completed in the epoch under way.
        global_step: optimizer steps in all.
        means: what the steps of the epoch under way logged.
        history: one dict for each completed epoch.
        best: lowest monitored loss so far; `improved` says whether the last epoch set it.
        optimizer, scheduler: None for a model that is not trained, or if there is no such thing.
    """

    def __init__(self, model, train_loader, val_loader=None, *, optimizers=None, monitor=None, notes=None,
                 fused=False, trains=True):
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.notes, self.fused = notes, fused
        model.logged = {}                       # of steps that were made before
        self.optimizer, self.scheduler, self.every_step = None, None, False
        if trains:      # what is only saved needs no optimizer, nor the second that torch takes to make the first one
            self.optimizer, self.scheduler, self.every_step = _configured(optimizers or model.configure_optimizers())
            self._fuse()
        self.monitor = monitor or "val_loss"
        self.epoch = self.batch = self.global_step = 0
        self.batches_per_epoch = self.val_batches = 0       # of the last epoch, for Lightning's counters
        self.items = 0                                      # trained on in the last epoch
        self.history, self.best, self.improved = [], math.inf, False
        self.means = Means()
        self.epoch_rng = self.rng = None        # as the epoch began; as of the last batch
        self.fingerprint = None                 # of the data, as the run that is resumed has it

    def batches(self):
        """The batches still to come in the epoch under way, on the model's device, each with its index."""
        set_epoch(self.train_loader, self.epoch)
        if self.batch:                          # resumed in mid-epoch: the same order, what was done skipped
            self._set_rng(self.epoch_rng)
            batches = _skip(self.train_loader, self.batch)
            self._set_rng(self.rng)
        else:
            self.epoch_rng = self._rng()
            batches = in_epoch(self.train_loader)
        device = next(self.model.parameters()).device
        for index, batch in enumerate(batches, start=self.batch):
            yield index, to_device(batch, device)

    def forget_restarted(self) -> None:
        """Drop the optimizer's moments of codes that were moved elsewhere: they are of the old place."""
        for level, restarted in zip(self.model.quantizer.levels, self.model.restarted):
            if restarted is None:
                continue
            for moment in self.optimizer.state.get(level.embeddings.weight, {}).values():
                if moment.dim() == 2:           # not the count of steps
                    moment.masked_fill_(restarted[:, None], 0.0)

    def count(self, batch) -> None:
        """One optimizer step was made on this batch."""
        self.batch += 1
        self.global_step += 1
        self.means.add(self.model, batch)
        if self.every_step and self.scheduler is not None:
            self.scheduler.step()

    def mark(self) -> None:
        """Note the random state: a save from here on goes on from this point."""
        self.rng = self._rng()

    def end_of_epoch(self, validation, seconds) -> dict:
        """Step the scheduler, and close the epoch with its line of history.

        Args:
            validation: the `Means` of the validation batches, empty without a validation loader.
            seconds: the epoch took.
        """
        lr = self.optimizer.param_groups[0]["lr"]
        row = {"epoch": self.epoch, "global_step": self.global_step, "lr": lr, "seconds": round(seconds, 3)}
        self.means.reduce()
        validation.reduce()
        self.items = self.means.samples
        row.update(self.means.values())
        row.update(validation.values())
        row.update(self.means.code_use())
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(row.get("val_loss", row["train_loss"]))
        elif self.scheduler is not None and not self.every_step:
            self.scheduler.step()
        if self.monitor == "last":
            monitored = -self.epoch
        elif "val_loss" in row:
            monitored = row[self.monitor]
        else:           # a schedule that runs to its end is best there, whatever the training batches say
            monitored = -self.epoch if self.every_step else row["train_loss"]
        self.improved = monitored < self.best
        self.best = min(self.best, monitored)
        self.batches_per_epoch, self.val_batches = self.batch, validation.batches
        self.history.append(row)
        self.epoch += 1
        self.batch, self.means = 0, Means()
        self.mark()
        return row

    def save(self, path) -> None:
        """Write the run to `path`, in Lightning's format, with what Lightning does not keep beside it."""
        self.means.reduce()
        if distributed.rank():
            return
        extra = {
            "format": FORMAT,
            "notes": self.notes,
            "fingerprint": self.fingerprint or fingerprint(self.train_loader),
            "epoch": self.epoch,
            "batch": self.batch,
            "rng": self.rng,
            "epoch_rng": self.epoch_rng,
            "means": self.means.state_dict(),
            "best": self.best,
            "history": self.history,
            "assign": None if self.model.assign is None else self.model.assign.state_dict(),
        }
        checkpoint.save_checkpoint(checkpoint.build_checkpoint(
            epoch=self.epoch if self.batch else self.epoch - 1,
            global_step=self.global_step,
            state_dict=self.model.state_dict(),
            hyper_parameters=self.model.hyper_parameters,
            optimizer_states=None if self.optimizer is None else [self.optimizer.state_dict()],
            lr_schedulers=[] if self.scheduler is None else [self.scheduler.state_dict()],
            progress=checkpoint.Progress(
                epochs_done=self.epoch,
                batches_in_epoch=self.batch or self.batches_per_epoch,
                epoch_ended=not self.batch,
                is_last_batch=self.batch in (0, self.batches_per_epoch),
                val_batches=self.val_batches,
            ),
            extra=extra,
        ), path)

    @spelled
    def restore(self, path) -> None:
        """Take up the run that `path` holds.

        A file of Lightning's own has no random state and no data order: the run goes on at the epoch
        after its last, in another order than Lightning would have used.

        Raises:
            checkpoint.CheckpointError: damaged, another architecture, or no training state in it.
            ValueError: it was trained on other data than the loader gives.
        """
        loaded = checkpoint.load_checkpoint(path)
        checkpoint.require_training_state(loaded, path)
        extra = loaded.get("rqvae", {})
        if differences(recorded("checkpoint", {"fingerprint": extra.get("fingerprint")}), loader=self.train_loader):
            raise ValueError(f"{path} was trained on other data, or on this data in another order (rows, batch "
                             "size or seed differ); give the same data and options, or start a new run")
        self._require_same_optimizer(loaded, path)
        self.fingerprint = extra.get("fingerprint")
        self.model.load_weights(loaded["state_dict"], loaded["hyper_parameters"], path)
        try:
            self._take(loaded, extra)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise checkpoint.CheckpointError(f"{path}: its weights fit, but its training state is damaged ({error!r}); "
                                             "resume from another checkpoint, or start a new run") from error

    def _require_same_optimizer(self, loaded, path):
        """Refuse an optimizer of another kind than the run was begun with, whose state means nothing to it."""
        try:
            saved, own = (set(state["param_groups"][0])
                          for state in (loaded["optimizer_states"][0], self.optimizer.state_dict()))
        except (LookupError, TypeError):
            return                              # said where it is taken
        # A version of torch adds options; another kind has some of its own.
        what = type(self.optimizer).__name__ if saved - own - {"initial_lr"} and own - saved - {"initial_lr"} else \
            "with a schedule" if self.scheduler is not None and not loaded["lr_schedulers"] else None
        if what:
            raise ValueError(f"optimizers is {what}, {path} was begun with another; give the same, or start a new run")

    def _take(self, loaded, extra):
        saved, own = loaded["optimizer_states"][0], self.optimizer.state_dict()
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own["param_groups"]] \
                or not saved["state"].keys() <= {index for group in own["param_groups"] for index in group["params"]}:
            raise ValueError("its optimizer has the state of other weights")            # which torch would pass over
        self.optimizer.load_state_dict(saved)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(loaded["lr_schedulers"][0])
        self._fuse()
        if extra:       # a file of Lightning's goes on as Lightning would
            self._change_rate(loaded["hyper_parameters"].get("learning_rate", self.model.learning_rate))
        self.global_step = int(loaded["global_step"])
        if not extra:
            self.epoch = checkpoint.epochs_done(loaded)
            self._require_numbers()
            return
        self.epoch, self.batch = int(extra["epoch"]), int(extra["batch"])
        self.rng, self.epoch_rng = extra["rng"], extra["epoch_rng"]
        self.best, self.history = float(extra["best"]), list(extra["history"])
        if [row.get("epoch") for row in self.history] != [*range(self.epoch - len(self.history), self.epoch)]:
            raise ValueError(f"its history is not of the {len(self.history)} epochs before epoch {self.epoch}")
        if not distributed.rank():              # the file has the sums of all processes
            self.means.load_state_dict(extra["means"], next(self.model.parameters()).device)
        if self.model.assign is not None:
            self.model.assign.load_state_dict(extra["assign"])
        self._require_numbers()
        if not self.batch:
            self._set_rng(self.rng)

    def _require_numbers(self):
        """Refuse state that no step leaves behind: the next one would ruin the weights, or none would change them any
        more."""
        state = {"optimizer": self.optimizer.state_dict(), "means": self.means.sums,
                 "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                 "prices": self.model.assign and self.model.assign.state_dict()}
        odd = [*_odd_numbers(state, ""), *_odd_moments(state["optimizer"])]
        if odd:
            raise ValueError(f"{checkpoint.some(odd)} hold NaN, Inf or a number that no step leaves there")
        rates = getattr(self.scheduler, "base_lrs", self.optimizer.param_groups)
        if len(rates) != len(self.optimizer.param_groups):
            raise ValueError(f"scheduler.base_lrs are {len(rates)}, optimizer.param_groups are "
                             f"{len(self.optimizer.param_groups)}")

    def _change_rate(self, before):
        """Where the model's learning rate is another than the run's was, the run goes on at the model's."""
        factor = self.model.learning_rate / before
        if factor == 1:
            return
        for group in self.optimizer.param_groups:
            group.update({name: factor * group[name] for name in ("lr", "initial_lr") if name in group})
        if hasattr(self.scheduler, "base_lrs"):
            self.scheduler.base_lrs = [factor * rate for rate in self.scheduler.base_lrs]

    def _rng(self):
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "loaders": [generator.get_state() for generator in self._generators()],
        }

    def _set_rng(self, state):
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        for generator, saved in zip(self._generators(), state["loaders"]):
            generator.set_state(saved)

    def _generators(self):
        found = (getattr(loader, "generator", None) for loader in (self.train_loader, self.val_loader))
        return [generator for generator in found if isinstance(generator, torch.Generator)]

    def _fuse(self):
        if self.fused:
            for group in self.optimizer.param_groups:
                group["fused"], group["foreach"] = True, False


def _odd_numbers(state, name):
    """Names of what holds NaN, Inf but for a loss that none has been under yet, less than 0 where only squares and
    rates stand, or more than any rate is."""
    if isinstance(state, (dict, list, tuple)):
        for key, inner in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _odd_numbers(inner, f"{name}.{key}".strip("."))
    elif isinstance(state, (int, float)) or isinstance(state, torch.Tensor) and state.is_floating_point():
        values = state if isinstance(state, torch.Tensor) else torch.tensor(float(state), dtype=torch.float64)
        own = {part for part in name.split(".") if not part.isdigit()}
        least = 0.0 if own & NEVER_BELOW_0 else -math.inf
        sound = values >= least if own & UNDER_NONE else torch.isfinite(values) & (values >= least)
        if not sound.all() or own & BELOW.keys() and (values >= min(BELOW[part] for part in own & BELOW.keys())).any():
            yield name


def _odd_moments(optimizer):
    """Names of mean gradients of Adam that the mean of their squares rules out: a square of a mean is no more than
    1 / (1 - beta) means of squares, and the next step would be as many times too long."""
    for group in optimizer["param_groups"]:
        for index in group["params"] if "betas" in group and group["betas"][0] <= group["betas"][1] else ():
            moments = optimizer["state"].get(index, {})
            if {"exp_avg", "exp_avg_sq"} <= moments.keys():
                most = moments["exp_avg_sq"].double().div(1 - group["betas"][1]).sqrt()
                if not (moments["exp_avg"].abs() <= 1.1 * most + 1e-15).all():      # squares that are 0 in float32
                    yield f"optimizer.state.{index}.exp_avg"


def _configured(optimizers):
    """Optimizer, scheduler or None, and whether that steps with every batch.

    Raises:
        ValueError: what `configure_optimizers` returned, or `fit` was given, is neither an optimizer nor such a dict.
    """
    optimizer = optimizers.get("optimizer") if isinstance(optimizers, dict) else optimizers
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizers is {type(optimizers).__name__} {str(optimizers)[:60]!r}; it must be an optimizer "
                         'of torch.optim, or {"optimizer": ..., "lr_scheduler": {"scheduler": ...}}')
    plan = optimizers.get("lr_scheduler") if isinstance(optimizers, dict) else None
    plan = plan if isinstance(plan, dict) else {"scheduler": plan}
    every_step = plan.get("interval") == "step"
    if every_step and isinstance(plan["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError('a ReduceLROnPlateau follows what an epoch came to; leave out its "interval": "step"')
    return optimizer, plan.get("scheduler"), every_step


class Means:
    """Means over samples of what the steps of one epoch logged, kept on the device until asked for.

    Sums are float32, as Lightning's are, so that `val_loss` is the same number.
    """

    def __init__(self):
        self.samples = self.batches = 0
        self.sums = {}              # name -> () tensor
        self.code_counts = None     # (L, K)

    def reduce(self) -> None:
        """Turn the sums of this process into those of all: once, at the end."""
        if distributed.world_size() == 1:
            return
        parts = [*self.sums.values(), *([] if self.code_counts is None else [self.code_counts])]
        samples = torch.tensor(self.samples, device=parts[0].device if parts else None)
        for part in (samples, *parts):
            distributed.sum_(part)
        self.samples = int(samples)

    def add(self, model, batch) -> None:
        """Take what `model` logged for `batch`, weighted by its number of samples."""
        logged, model.logged = model.logged, {}
        size = batch_size(batch)
        self.samples += size
        self.batches += 1
        for name, value in logged.items():
            if name == "semantic_ids":
                self._count_codes(value, max(map(len, model.quantizer.codebooks)))
            else:
                # A process without a row of this batch has no mean to add.
                self.sums[name] = self.sums.get(name, 0) + (value * size if size else torch.zeros_like(value))

    def values(self) -> dict:
        """name -> mean, plain floats."""
        return {name: (total / self.samples).item() for name, total in self.sums.items()}

    def code_use(self) -> dict:
        """Codes used and perplexity, a list over the levels each; nothing if no IDs were logged."""
        if self.code_counts is None:
            return {}
        return {
            "codes_used": (self.code_counts > 0).sum(dim=1).tolist(),
            "perplexity": [round(value, 2) for value in perplexity(self.code_counts).tolist()],
        }

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state, device) -> None:
        self.samples, self.batches = int(state["samples"]), int(state["batches"])
        self.sums = {name: total.to(device) for name, total in state["sums"].items()}
        self.code_counts = None if state["code_counts"] is None else state["code_counts"].to(device)

    def _count_codes(self, codes, num_embeddings):
        codes = codes[:, None] if codes.dim() == 1 else codes                   # (B, L)
        if self.code_counts is None:
            self.code_counts = torch.zeros(codes.shape[1], num_embeddings, device=codes.device)
        self.code_counts.scatter_add_(1, codes.T, self.code_counts.new_ones(codes.T.shape))


def batch_size(batch) -> int:
    """Rows of a batch: the length of its first tensor, as Lightning counts."""
    return next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))


def to_device(batch, device) -> dict:
    """The batch with its tensors on `device`, floating point ones as float32.

    Raises:
        ValueError: it is not a dict with "features", (B, D).
    """
    batch_features(batch)
    return {
        name: value.to(device, torch.float32 if value.is_floating_point() else None, non_blocking=True)
        if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def set_epoch(loader, epoch) -> None:
    """Tell the loader, or its sampler, which epoch's order is wanted, where it has one to choose."""
    for chooser in (loader, getattr(loader, "sampler", None)):
        if hasattr(chooser, "set_epoch"):
            chooser.set_epoch(epoch)


def in_epoch(loader):
    """The batches of one epoch, and not a question more: asked once too often, a sampler with its own
    generator draws again, and the next epoch has another order than under Lightning."""
    try:
        return itertools.islice(loader, len(loader))
    except TypeError:                           # an iterable without a length
        return iter(loader)


def _skip(loader, count):
    if hasattr(loader, "batches_from"):
        return loader.batches_from(count)
    batches = in_epoch(loader)
    for _ in itertools.islice(batches, count):
        pass
    return batches
