"""RqVae: encoder, quantizer and decoder as one model, its losses, its optimizer and its files.

Knows nothing of epochs, loaders or devices.

Shapes:  B rows   D feature width   E latent width   K codes   L levels
"""

from __future__ import annotations

import inspect
import os
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .functional import draw_in, draw_out, may_look, row_lengths, within
from .networks import Decoder, Encoder, Undrawn, hidden_widths
from .quantize import ResidualQuantizer, VectorQuantizer
from .storage import checkpoint, model_folders, peers
from .storage.words import spelled, warn

UNBOUNDED = torch.finfo(torch.float32).max
LARGEST = 1e15          # of latents and codes: sums of squares of larger ones leave float32
SCALES = "feature_scale", "column_scale", "part_scale", "reach"         # what features are divided by
COUNTS = "ema_counts", "shares", "latent_variance", "latent_share"      # what no training brings below 0


class RqVaeOutput(NamedTuple):
    """What `RqVae.forward` returns; it unpacks like the documented tuple."""

    reconstructed: torch.Tensor         # (B, D)
    commitment_loss: torch.Tensor       # ()     commitment_cost included
    embedding_loss: torch.Tensor        # ()
    semantic_ids: torch.Tensor          # (B,), or (B, L) with more than one level


class RqVae(nn.Module):
    """A residual-quantized variational autoencoder: item features in, semantic IDs out.

    With the defaults this is the documented single-level model. `num_quantizers=3` gives the semantic
    IDs of TIGER (Rajput et al., arXiv 2305.05065): three codes an item, coarse to fine.

    Args:
        input_dim: D, the feature width.
        hidden_dim: width of the two hidden layers of encoder and decoder, or a list with the width of
            each hidden layer of the encoder, which the decoder mirrors.
        latent_dim: E, the width of the latents and of the codes' vectors.
        num_embeddings: K, the number of codes of a level; or a list, one for each level, which then says how
            many levels there are.
        commitment_cost: weight of the loss that holds the latents near their codes.
        learning_rate: of the optimizer that `configure_optimizers` builds.
        num_quantizers: L, the number of levels; semantic IDs are (B,) for 1 and (B, L) above.
        activation: "relu" (documented), "gelu" or "silu".
        linear_path: a matrix product beside encoder and decoder, see `networks.Encoder`.
        latent_norm: bring each latent to mean 0 and variance 1 (layer normalization without parameters),
            so that items of outlying norm take no codes of their own.
        standardize: work on (features - mean) / scale, with the mean of each column and one scale, which
            `initialization.initialize` takes from the data. Everything that comes out is in the units
            of the features all the same; only the loss that is minimised is divided by scale^2, and so
            does not depend on those units.
        robust: with `standardize`, keep single rows and columns from ruling the rest: columns of a scale of
            their own are brought to that of the others, and rows far beyond the others are drawn in (see
            `functional.draw_in`) and weigh in the loss as if they were not; with `latent_norm`, the norm of
            the latents is kept as far as it says what their direction cannot. How far, `initialization`
            takes from the data, and of data without such rows and columns nothing changes. What comes out
            is in the units of the features here, too.
        parts: the widths of several embeddings that stand side by side in the features, each of which gets the same
            share of the variance unless `initialization.initialize` is given weights. An item may lack some, NaN or
            the `feature_mean` in their place: it is trained and encoded with what there is. Needs `robust`.
        rotation_trick, ema_decay, restart_below: of the codebooks, see `quantize.VectorQuantizer`.

    Raises:
        ValueError: a value is out of range; the message lists every one that is.
    """

    def __init__(
        self,
        input_dim: int = 768,
        hidden_dim: int | list[int] = 512,
        latent_dim: int = 256,
        num_embeddings: int | list[int] = 1024,
        commitment_cost: float = 0.25,
        learning_rate: float = 1e-3,
        *,
        num_quantizers: int = 1,
        activation: str = "relu",
        linear_path: bool = False,
        latent_norm: bool = False,
        standardize: bool = False,
        robust: bool = False,
        parts: list[int] = None,
        rotation_trick: bool = False,
        ema_decay: float = None,
        restart_below: float = None,
    ):
        super().__init__()
        if isinstance(num_embeddings, (list, tuple)):
            num_quantizers = len(num_embeddings) if num_quantizers == 1 else num_quantizers
            num_embeddings = num_embeddings[0] if len(num_embeddings) == 1 == num_quantizers else list(num_embeddings)
        self.hyper_parameters = {
            "input_dim": input_dim,
            "hidden_dim": hidden_dim,
            "latent_dim": latent_dim,
            "num_embeddings": num_embeddings,
            "commitment_cost": commitment_cost,
            "learning_rate": learning_rate,
            "num_quantizers": num_quantizers,
            "activation": activation,
            "linear_path": linear_path,
            "latent_norm": latent_norm,
            "standardize": standardize,
            "robust": robust,
            "parts": parts,
            "rotation_trick": rotation_trick,
            "ema_decay": ema_decay,
            "restart_below": restart_below,
        }
        _check_values(self.hyper_parameters)
        self.input_dim = input_dim
        self.learning_rate = learning_rate
        self.logged = {}                # name -> tensor, what the last training or validation step logged
        self.restarted = []             # for each level what the last training step's `update` returned
        self.origin = {}                # of the file that it is from, see `checkpoint.origin_of`
        self.assign = None              # how training chooses codes, see `assignment`; None takes the nearest
        self.latent_norm, self.standardize, self.robust = latent_norm, standardize, robust
        self.parts = parts
        options = {"activation": activation, "linear_path": linear_path}
        self.encoder = Encoder(input_dim, hidden_dim, latent_dim, **options)
        sizes = (num_embeddings, latent_dim, commitment_cost)
        codebooks = {"rotation_trick": rotation_trick, "ema_decay": ema_decay, "restart_below": restart_below}
        self.quantizer = (VectorQuantizer(*sizes, **codebooks) if num_quantizers == 1
                          else ResidualQuantizer(num_quantizers, *sizes, **codebooks))
        self.decoder = Decoder(latent_dim, hidden_widths(hidden_dim)[::-1], input_dim, **options)
        if standardize:
            self.register_buffer("feature_mean", torch.zeros(input_dim))
            self.register_buffer("feature_scale", torch.ones(()))
        if robust:
            self.register_buffer("column_scale", torch.ones(input_dim))         # beside feature_scale
            self.register_buffer("reach", torch.tensor(UNBOUNDED))              # rows beyond it are drawn in,
            self.register_buffer("farthest", torch.tensor(UNBOUNDED))           # the farthest of them to here
        if parts:
            self.register_buffer("part_scale", torch.ones(input_dim))           # beside both
        if robust and latent_norm:
            self.register_buffer("latent_variance", torch.ones(()))             # of a typical item, and the part
            self.register_buffer("latent_share", torch.zeros(()))               # of the norm that it stands in for

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Latents of features: (B, D) -> (B, E)."""
        return self._latents(self.standardized(features))

    @property
    def _dtype(self):
        """Of the weights: float32, unless somebody called `half`, `bfloat16` or `double`."""
        return self.quantizer.codebooks[0].dtype

    def reconstruct(self, latents: torch.Tensor) -> torch.Tensor:
        """Features of quantized latents: (B, E) -> (B, D)."""
        features = self.decoder(latents)
        if self.robust:
            features = self._by_column(draw_out(features, self.reach, self.farthest), torch.mul)
        if self.parts:
            features = features * self.part_scale
        return features * self.feature_scale + self.feature_mean if self.standardize else features

    def standardized(self, features: torch.Tensor) -> torch.Tensor:
        """Features as encoder and decoder see them: (B, D) -> (B, D)."""
        if features.dim() != 2 or features.shape[1] != self.input_dim:
            raise ValueError(f"features have shape {tuple(features.shape)}; this model takes "
                             f"(rows, {self.input_dim})")
        if self.standardize:
            features = (features - self.feature_mean).div_(self.feature_scale)      # a new tensor less to fill
        if self.parts:
            features = (features / self.part_scale).nan_to_num(0.0)
        if self.robust:
            features = draw_in(self._by_column(features, torch.div), self.reach)
        return features.to(self._dtype)

    def _by_column(self, features, work):
        """Times or over the scale of each column, which is 1 where no column is of other units than the rest."""
        if may_look(self.column_scale) and bool((self.column_scale == 1).all()):
            return features
        return work(features, self.column_scale)

    def missing(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, D) bool: the parts that an item lacks, of `standardized` features: they are nothing but zeros."""
        return torch.cat([(part == 0).all(dim=1, keepdim=True).expand_as(part)
                          for part in inputs.split(self.parts, dim=1)], dim=1)

    def draws_in(self) -> bool:
        """Were there rows or columns far out among what a model with `robust` was begun from?"""
        return bool(self.farthest > self.reach) or bool((self.column_scale != 1).any())

    def _latents(self, inputs):
        """(B, D) of `standardized` -> (B, E)."""
        latents = self.encoder(inputs)
        if not self.latent_norm:
            return latents
        if not self.robust:
            return F.layer_norm(latents, latents.shape[-1:])
        latents = latents.to(self._dtype)                           # as layer_norm does under autocast
        latents = latents - latents.mean(dim=1, keepdim=True)
        variance = latents.square().mean(dim=1, keepdim=True)       # (B, 1)
        return latents / (variance.lerp(self.latent_variance, self.latent_share) + 1e-5).sqrt()

    def decode(self, semantic_ids: Any) -> torch.Tensor:
        """The features that semantic IDs stand for: (B,) or (B, L) integers -> (B, D).

        An array or a list will do, such as the codes of `load_semantic_ids`; fewer columns decode a prefix,
        and a suffix behind the model's own is left out.
        """
        codebooks = self.quantizer.codebooks
        codes = torch.as_tensor(semantic_ids, device=codebooks[0].device)
        if isinstance(self.quantizer, VectorQuantizer) and codes.dim() == 2:
            codes = codes[:, 0]                     # files of IDs always have columns
        return self.reconstruct(self.quantizer.decode(codes))

    def forward(self, features: torch.Tensor) -> RqVaeOutput:
        """(B, D) -> `RqVaeOutput`, its losses in the squared units of the features."""
        out = self.quantizer(self.encode(features).to(self._dtype))     # float32 under autocast, too
        unit = self.feature_scale ** 2 if self.standardize else 1
        return RqVaeOutput(self.reconstruct(out.quantized), out.commitment_loss * unit,
                           out.embedding_loss * unit, out.encoding_indices)

    def _losses(self, features, assign=None):
        """Of a batch (B, D), between what encoder and decoder see: reconstruction loss, commitment loss, embedding
        loss, codes and latents."""
        inputs = self.standardized(features)
        latents = self._latents(inputs)
        out = self.quantizer(latents.to(self._dtype), assign)
        said = self.decoder(out.quantized)
        if self.parts:          # what is not there is not compared
            said = torch.where(self.missing(inputs), 0.0, said)
        if self.robust and not within(inputs, self.reach):      # a row drawn in counts as one at the border would
            weights = (self.reach / row_lengths(inputs)).clamp_max(1.0).square()            # (B, 1)
            recon_loss = (weights * F.mse_loss(said, inputs, reduction="none")).mean()
        else:
            recon_loss = F.mse_loss(said, inputs)
        return recon_loss, out.commitment_loss, out.embedding_loss, out.encoding_indices, latents

    @torch.no_grad()
    def generate_semantic_ids(self, features: torch.Tensor) -> torch.Tensor:
        """Semantic IDs of features: (B, D) -> (B,) int64, or (B, L) with more than one level.

        Raises:
            ValueError: a row has no latents that are numbers, and so no code is nearest.
        """
        latents = self.encode(features)
        if not torch.compiler.is_compiling():
            self._require_numbers(features, latents)
        return self.quantizer.encode(latents)

    def _require_numbers(self, features, latents):
        """Refuse rows whose distances to codes would be no numbers; (B, D) and their latents (B, E)."""
        if not len(latents):
            return
        largest = latents.abs().amax(dim=1)             # (B,)
        if largest.max() < LARGEST and (not self.latent_norm or largest.min() > 0):
            return
        lost = ~(largest < LARGEST)
        if self.latent_norm and not lost.any():         # which makes zeros of what overflows in it
            lost = ~(self.encoder(self.standardized(features)).abs().amax(dim=1) < LARGEST)
        if lost.any():
            raise ValueError(
                f"row {lost.int().argmax()} of a batch of features has latents that are no numbers, or beyond "
                f"{LARGEST:g}, so no code is nearest: the features hold NaN or lie far beyond what the model was "
                "trained on, or its weights are damaged; check the features, and use another copy of the model")

    def training_step(self, batch: dict, batch_idx: int = 0) -> torch.Tensor:
        """Total loss, (), of a batch {"features": (B, D)}; its parts are logged."""
        assign = None if self.assign is None else self.assign.of(batch)
        recon_loss, commitment_loss, embedding_loss, semantic_ids, latents = self._losses(batch["features"], assign)
        total_loss = recon_loss + commitment_loss + embedding_loss
        restarted = self.quantizer.update(latents.detach(), semantic_ids)
        self.restarted = restarted if isinstance(restarted, list) else [restarted]
        self.log("train_loss", total_loss)
        self.log("train_recon_loss", recon_loss)
        self.log("train_commitment_loss", commitment_loss)
        self.log("train_embedding_loss", embedding_loss)
        self.log("semantic_ids", semantic_ids)
        return total_loss

    def validation_step(self, batch: dict, batch_idx: int = 0) -> torch.Tensor:
        """Total loss, (), of a batch {"features": (B, D)}; it and its reconstruction part are logged."""
        recon_loss, commitment_loss, embedding_loss, semantic_ids, _ = self._losses(batch["features"])
        total_loss = recon_loss + commitment_loss + embedding_loss
        self.log("val_loss", total_loss)
        self.log("val_recon_loss", recon_loss)
        self.log("semantic_ids", semantic_ids)
        return total_loss

    def log(self, name: str, value: torch.Tensor) -> None:
        """Keep what a step has to say under its name, for the loop to collect; a loss in the units of the features."""
        if self.standardize and value.is_floating_point():
            wide = torch.float32 if value.device.type == "mps" else torch.float64       # which holds 1e-25 squared
            value = value * self.feature_scale.to(wide) ** 2
        self.logged[name] = value.detach()

    def configure_optimizers(self) -> dict:
        """Adam with a plateau scheduler on `val_loss`, in the documented dictionary."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="min", factor=0.5, patience=5
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }

    @classmethod
    @spelled
    def load_from_checkpoint(cls, checkpoint_path: str | os.PathLike, map_location: Any = None, strict: bool = True,
                             **hyper_parameter_overrides: Any) -> RqVae:
        """The model of a `.ckpt` file, ours or Lightning's; nothing in the file is executed.

        Args:
            checkpoint_path: the file.
            map_location: device for the weights; the CPU if None.
            strict: refuse a file whose weights and model do not have the same names.
            **hyper_parameter_overrides: constructor arguments that replace the file's.

        Raises:
            FileNotFoundError: there is no such file.
            checkpoint.CheckpointError: the file is damaged, foreign, or of another architecture.
            TypeError: an override is not a constructor argument.
        """
        return cls.from_loaded(checkpoint.load_checkpoint(checkpoint_path), checkpoint_path, map_location, strict,
                               hyper_parameter_overrides)

    @classmethod
    def from_loaded(cls, loaded: dict, path: str | os.PathLike, map_location: Any = None, strict: bool = True,
                    hyper_parameter_overrides: Any = ()) -> RqVae:
        """The model of what `checkpoint.load_checkpoint` read from `path`, where more of the file is wanted than its
        model: reading it twice might be reading two files."""
        model = cls._restore(path, loaded["hyper_parameters"], loaded["state_dict"], map_location, strict,
                             dict(hyper_parameter_overrides))
        model.origin = checkpoint.origin_of(loaded)
        return model

    @spelled
    def save_pretrained(self, folder: str | os.PathLike, *, safe_serialization: bool | None = None,
                        overwrite: bool = False) -> None:
        """Write `config.json`, the weights and, unless there is one, a `README.md` into `folder`, created if missing.

        Args:
            folder: where to.
            safe_serialization: True for `model.safetensors` (needs the safetensors package), False for
                `pytorch_model.bin`, None for the former where the package is installed.
            overwrite: replace also a model of another kind; an earlier one of ours is replaced in any case.
        """
        from . import __version__
        config = {"model_type": "rqvae", "rqvae_version": __version__, **self.hyper_parameters,
                  **({model_folders.ORIGIN: self.origin} if self.origin else {})}
        model_folders.save_folder(folder, config, self.state_dict(), safe_serialization=safe_serialization,
                                  overwrite=overwrite)
        model_folders.write_card(folder, config)

    @classmethod
    @spelled
    def from_pretrained(cls, folder: str | os.PathLike, **hyper_parameter_overrides: Any) -> RqVae:
        """The model that `save_pretrained` wrote, in eval mode, on the CPU, loaded strictly.

        Args:
            folder: the folder; or a name on the Hugging Face hub, `owner/model`, which needs huggingface_hub.
            **hyper_parameter_overrides: as in `load_from_checkpoint`.

        Raises: as `load_from_checkpoint`.
        """
        folder = model_folders.local_folder(folder)
        config, state_dict = model_folders.load_folder(folder)
        origin = config.pop(model_folders.ORIGIN, None) or {}
        model = cls._restore(folder, config, state_dict, None, True, hyper_parameter_overrides).eval()
        model.origin = origin
        return model

    @classmethod
    @spelled
    def from_peer(cls, path: str | os.PathLike, *, activation: str | None = None) -> RqVae:
        """The tokenizer that another system trained, with the codes of its own code, in eval mode, on the CPU.

        What theirs has and ours has not, such as dropout, draws a warning. Nothing in the file is executed.

        Args:
            path: a `.pth` of LC-Rec, LETTER or MiniOneRec, a `.pt` of RQ-VAE-Recommender, genrec or rectokens, or a
                folder of semantic-id or RQ-VAE-Recommender.
            activation: "relu" or "silu", for bare weights of RQ-VAE-Recommender or genrec, which do not tell.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: damaged, of none of these systems, or of a model that ours cannot be.
        """
        peer = peers.load_peer(path, activation=activation)
        for remark in peer.remarks:
            warn(f"{path}, of {peer.system}: {remark}")
        return cls._restore(path, peer.hyper_parameters, peer.state_dict, None, True, {}).eval()

    def load_weights(self, state_dict: dict, found: dict, path: str | os.PathLike, strict: bool = True) -> None:
        """Take the weights of a file, or say how its architecture differs.

        Args:
            state_dict: name -> tensor.
            found: the file's hyper-parameters, for the message.
            path: of the file, for the message.
            strict: refuse names that only one side has.

        Raises:
            checkpoint.CheckpointError: they do not fit; nothing was changed.
        """
        self.check_weights(state_dict, found, path, strict)
        self.load_state_dict(state_dict, strict=False)

    def check_weights(self, state_dict: dict, found: dict, path: str | os.PathLike, strict: bool = True) -> None:
        """The errors of `load_weights`, without loading."""
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        mismatched = [(name, tuple(state_dict[name].shape), tuple(own[name].shape))
                      for name in own if name in state_dict and own[name].shape != state_dict[name].shape]
        if mismatched or strict and (missing or unexpected):
            difference = checkpoint.explain_mismatch(
                self.hyper_parameters, found, missing, unexpected, mismatched)
            raise checkpoint.CheckpointError(f"{path}: {difference}")
        held = {name: state_dict[name] for name in own if name in state_dict}
        integers = [name for name, values in held.items()
                    if own[name].is_floating_point() and not values.is_floating_point()]
        if integers:
            raise checkpoint.CheckpointError(
                f"{path}: {len(integers)} of its weights are integers ({checkpoint.some(integers)}), which mean other "
                "numbers to whoever made them; save the model in floating point")
        broken = broken_weights({name: values.to(own[name].dtype) for name, values in held.items()})
        if broken:
            raise checkpoint.CheckpointError(
                f"{path}: {len(broken)} of its weights hold NaN, Inf, a scale of 0, a share below 0 or codes beyond "
                f"{LARGEST:g} ({checkpoint.some(broken)}), so it says nothing about items; use another copy of it, "
                "or an earlier one")

    @classmethod
    def _arguments(cls):
        """Names that the constructor takes, with those that a subclass passes on by `**options`."""
        names = {}
        for owner in (owner for owner in cls.__mro__ if "__init__" in vars(owner)):
            parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
            names.update((p.name, None) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
        return list(names)

    @classmethod
    def _restore(cls, path, found, state_dict, map_location, strict, overrides):
        known = cls._arguments()
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise TypeError(f"{', '.join(unknown)} is not an argument of {cls.__name__}; "
                            f"there are {', '.join(known)}")
        # Lightning, too, drops what the constructor does not take: files of older or wider modules load.
        hyper_parameters = {**{name: found[name] for name in known if name in found}, **overrides}
        _check_depth(found, len(state_dict), path)
        try:
            with torch.device("meta"), Undrawn():       # shapes only: what a damaged file says may be of any size
                cls(**hyper_parameters).check_weights(state_dict, found, path, strict)
            model = cls(**hyper_parameters)
        except checkpoint.CheckpointError:
            raise
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            reason = str(error).split("\n")[0][:300]    # torch adds where in its C++ that was
            raise checkpoint.CheckpointError(f"{path}: its hyper-parameters make no model: {reason}") from error
        model.load_weights(state_dict, found, path, strict)
        return model if map_location is None else model.to(map_location)


def broken_weights(state_dict: dict) -> list:
    """Names of the weights that hold what items cannot be encoded with, or trained on."""
    return [name for name, values in state_dict.items() if not _usable(name, name.rpartition(".")[2], values)]


def _usable(name, kind, values):
    if name.endswith("embeddings.weight") or kind in ("ema_counts", "ema_sums", "shares"):
        sound = values.abs() < LARGEST
    else:
        sound = torch.isfinite(values)
    return bool(sound.all() and (kind not in SCALES or (values > 0).all())
                and (kind not in COUNTS or (values >= 0).all()))


def _check_depth(found, num_weights, path):
    """Refuse more levels or layers than a file has weights: each has some, and to build them takes time."""
    widths = found.get("hidden_dim")
    for what, depth in (("levels", found.get("num_quantizers")),
                        ("hidden layers", len(widths) if isinstance(widths, (list, tuple)) else None)):
        if isinstance(depth, int) and depth > num_weights:
            raise checkpoint.CheckpointError(f"{path}: its hyper-parameters ask for {depth} {what}, but it holds "
                                             f"{num_weights} weights; use another copy of it")


def _check_values(values):
    """One message for every hyper-parameter that is out of range."""
    faults = [
        f"{name} is {values[name]!r}, must be an integer of at least {least}"
        for name, least in (("input_dim", 1), ("latent_dim", 1), ("num_quantizers", 1))
        if not _of(int, values[name]) or values[name] < least
    ]
    sizes, levels = values["num_embeddings"], values["num_quantizers"]
    if isinstance(sizes, list) and len(sizes) != levels:
        faults.append(f"num_embeddings is {sizes!r}, must hold one size for each of the {levels} levels, or be one "
                      "for all")
    if any(not _of(int, size) or size < 2 for size in (sizes if isinstance(sizes, list) else [sizes])):
        faults.append(f"num_embeddings is {sizes!r}, must be an integer of at least 2, or a list of them, one a level")
    faults += [
        f"{name} is {values[name]!r}, must be {rule}"
        for name, rule, holds in (
            ("commitment_cost", "a number of at least 0 and below 2**63", lambda value: 0 <= value < 2 ** 63),
            ("learning_rate", "a positive number", lambda value: 0 < value < float("inf")),
        )
        if not _of((int, float), values[name]) or not holds(values[name])
    ]
    faults += [f"{name} is {values[name]!r}, must be True or False"
               for name in ("linear_path", "latent_norm", "standardize", "robust", "rotation_trick")
               if not isinstance(values[name], bool)]
    if values["robust"] is True and values["standardize"] is False:
        faults.append("robust is True, which needs standardize=True")
    if values["parts"] and (not values["robust"] or sum(values["parts"]) != values["input_dim"]):
        faults.append(f"parts is {values['parts']}, which needs robust=True and widths that add up to input_dim, "
                      f"{values['input_dim']}")
    if faults:
        raise ValueError("; ".join(faults))


def _of(kind, value) -> bool:
    """isinstance, but True is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)
