"""Tokenizers that other systems trained -> the arguments and weights of ours.

Knows their names, runs none of their code. What their model computes from features to codes is computed by ours from
the weights given here; whatever stands in the way of that is an error, and what else differs is a remark.

Shapes:  D feature width   E latent width   K codes of a level
"""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple

import numpy as np
import torch

from .arrays import NUMBERS, Npz
from .checkpoint import bare_weights
from .words import describe_content
from .model_folders import CONFIG_NAME, read_config, read_safetensors
from .packed import MOST_TIMES, SMALL
from .torch_files import CheckpointError, read_torch_file, some

_WIDEST_IDENTITY = 8192
_BATCH_NORM_EPSILON = 1e-5      # of nn.BatchNorm1d; none of these systems sets another
_LC_REC = "LC-Rec, LETTER or MiniOneRec"
_METADATA, _ENGINE = "metadata.json", "engine_meta.json"        # of semantic-id
_CODEBOOKS = {                  # where the codebook of each level stands
    r"rq\.vq_layers\.(\d+)\.embedding\.weight": "LC-Rec", r"layers\.(\d+)\.embedding\.weight": "RQ-VAE-Recommender",
    r"rq\._module_levels\.(\d+)\._codebook\.embeddings": "rectokens"}
_TRAINING_STATE = re.compile(
    r"rq\._module_levels\.\d+\._(ema_cluster_size|ema_embed_sum|initialized|steps_since_active)")


class UnknownPeer(CheckpointError):
    """A file that is of none of the systems known here."""


class Peer(NamedTuple):
    system: str                             # whose it is
    hyper_parameters: dict                  # arguments of RqVae
    state_dict: Dict[str, torch.Tensor]     # of RqVae
    remarks: List[str]                      # what theirs has and ours has not, in sentences


def load_peer(path, *, activation=None) -> Peer:
    """Read a tokenizer of LC-Rec, LETTER, MiniOneRec, RQ-VAE-Recommender, genrec, semantic-id or rectokens.

    Args:
        path: their `.pth` or `.pt`; the folder that `save` of semantic-id or `save_pretrained` of RQ-VAE-Recommender
            wrote.
        activation: "relu" or "silu", for bare weights of RQ-VAE-Recommender or genrec, which do not tell.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, of none of these systems, or of a model that ours cannot be; nothing was run.
    """
    path = Path(path)
    content, config = _folder(path) if path.is_dir() else (read_torch_file(path, "cpu"), {})
    try:
        if config.get("type") == "RQKMeans":
            return _residual_kmeans("semantic-id", content)
        return _recognised(path, content, config, activation)
    except CheckpointError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path} {error}") from None
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} has not the layers of {_expected()} ({type(error).__name__}: {error}); "
                              "use another copy of it") from error


def _folder(path):
    """(weights, config) of a folder; the weights of residual k-means are a list of codebooks."""
    if (path / _ENGINE).is_file():
        path = path / "encoder"
    if (path / _METADATA).is_file():
        metadata = read_config(path / _METADATA)
        if metadata.get("type") == "RQKMeans":
            return _read_codebooks(path / "codebooks.npz"), metadata
        return read_torch_file(path / "model.pt", "cpu"), {"system": "semantic-id", **metadata}
    weights = path / "model.safetensors"
    if (path / CONFIG_NAME).is_file() and weights.is_file():
        return bare_weights(read_safetensors(weights), weights), read_config(path / CONFIG_NAME)
    raise UnknownPeer(f"{path} is a folder without {CONFIG_NAME} and model.safetensors, or {_METADATA}; expected one "
                      "that save_pretrained of RQ-VAE-Recommender or save of semantic-id wrote")


def _read_codebooks(path) -> list:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is no regular file; save it again there")
    try:
        with Npz(path) as archive, np.errstate(over="ignore"):      # Inf is refused with all other weights
            return [torch.from_numpy(archive.values(f"codebook_{level}", NUMBERS).astype(np.float32))
                    for level in range(len(archive.names))]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} does not hold codebook_0, codebook_1, ... ({type(error).__name__}: {error}): "
                              f"{describe_content(path)}; save it again there") from None


def _recognised(path, content, config, activation) -> Peer:
    """The peer that a file's content is of."""
    if not isinstance(content, dict):
        raise UnknownPeer(f"holds a {type(content).__name__}; expected {_expected()}")
    if isinstance(content.get("_rq"), dict):        # rectokens saves the whole object: these are its attributes
        return _residual_kmeans("rectokens", [level["_codebook"]["_buffers"]["embeddings"]
                                              for level in content["_rq"]["_levels"]])
    held = next((content[key] for key in ("state_dict", "model", "model_state_dict") if key in content), content)
    if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise UnknownPeer(f"holds no weights of a tokenizer; expected {_expected()}")
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor
               for name, tensor in bare_weights(held, path).items() if not _TRAINING_STATE.fullmatch(name)}
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()
              or name.endswith("running_var") and (tensor < 0).any()]
    for pattern, system in _CODEBOOKS.items():
        found = {int(match[1]): name for name in weights if (match := re.fullmatch(pattern, name))}
        if found and sorted(found) == list(range(len(found))):
            codebooks = [weights.pop(found[level]) for level in range(len(found))]
            break
    else:
        raise UnknownPeer(f"is not a tokenizer that is known here; expected {_expected()}")
    if broken:          # here, as a variance of Inf makes a weight of 0
        raise CheckpointError(f"holds NaN, Inf, numbers beyond float32 or a variance below 0 in {len(broken)} of its "
                              f"weights ({some(broken)}), so it says nothing about items; use another copy of it")
    if system == "LC-Rec":
        options = content.get("args") or config or {}
        return _lc_rec(options.get("system", _LC_REC), weights, codebooks, options)
    if system == "rectokens":
        return _assembled(system, _linears(weights, "encoder.net"), codebooks, _linears(weights, "decoder.net"),
                          weights)
    return _rq_vae_recommender(weights, codebooks, content.get("model_config", config), activation)


def _expected():
    return ("a tokenizer of LC-Rec, LETTER, MiniOneRec, RQ-VAE-Recommender, genrec, semantic-id or rectokens, as they "
            "save it")


def _lc_rec(system, weights, codebooks, options) -> Peer:
    wrapped = "encoder.mlp." if any(name.startswith("encoder.mlp.") for name in weights) else "encoder."
    normed = any(name.endswith("running_mean") for name in weights)
    encoder, decoder = _linears(weights, wrapped + "mlp_layers"), _linears(weights, "decoder.mlp_layers")
    remarks = []
    if normed:
        remarks.append("its batch normalization is part of the weights now, as it is once training has ended")
    if options.get("dropout_prob"):
        remarks.append(f"its dropout of {options['dropout_prob']} is left out, as it is once training has ended")
    if any(options.get("sk_epsilons") or ()):
        remarks.append("codes are the nearest, as by get_indices(use_sk=False); what its scripts change in colliding "
                       "IDs afterwards is in its index file, not in its weights")
    return _assembled(system, encoder, codebooks, decoder, weights, remarks, beta=options.get("beta"),
                      beside=torch.eye(codebooks[0].shape[1]) if wrapped == "encoder.mlp." else None)


def _rq_vae_recommender(weights, codebooks, config, activation) -> Peer:
    config = config or {}
    genrec = "codebook_last_layer_mode" in config
    if config:
        activation = "silu" if genrec else "relu"
    elif activation not in ("relu", "silu"):
        raise CheckpointError("is of RQ-VAE-Recommender, which has ReLU, or of genrec, which has SiLU, and does not "
                              "tell which, as its model_config is missing; say it by "
                              "RqVae.from_peer(path, activation='relu') or 'silu', and keep that by save_pretrained")
    if config.get("codebook_normalize"):
        raise CheckpointError("was trained with codebook_normalize, which divides each latent by its length; our model "
                              "has no such step, so its codes would be others")
    for level, codebook in enumerate(codebooks):        # SimVQ: the vectors are a product, taken once and for all
        projection = weights.pop(f"layers.{level}.out_proj.0.weight", None)
        if projection is not None:
            codebooks[level] = codebook @ projection.T
    remarks = ["its decoder divides what it gives by its length, ours does not: reconstructions and their errors "
               "differ, codes do not"] if activation == "silu" else []
    return _assembled("genrec" if activation == "silu" else "RQ-VAE-Recommender", _linears(weights, "encoder.mlp"),
                      codebooks, _linears(weights, "decoder.mlp"), weights, remarks, activation=activation,
                      beta=config.get("commitment_weight"))


def _residual_kmeans(system, codebooks) -> Peer:
    """Codes of the features themselves: encoder and decoder are the identity."""
    codebooks = [codebook.float() for codebook in codebooks]
    width = codebooks[0].shape[1]
    identity, held = 8 * width ** 2, sum(codebook.nbytes for codebook in codebooks)
    if width <= _WIDEST_IDENTITY and identity > SMALL + MOST_TIMES * held:
        raise CheckpointError(f"has codebooks of {held:,} bytes with {width:,} columns and no encoder; the matrices in "
                              f"its place would take {identity:,}, more than {MOST_TIMES} times as much; "
                              "give it more codes")
    if width > _WIDEST_IDENTITY:
        raise CheckpointError(f"has vectors of {width:,} columns and no encoder; our model has a matrix of "
                              f"width x width in its place, and takes up to {_WIDEST_IDENTITY:,}")
    return _assembled(system, None, codebooks, None, {}, ["it has no encoder: latents are the features"],
                      beside=torch.eye(codebooks[0].shape[1]))


def _linears(weights, prefix) -> list:
    """[(weight, bias), ...] of the linear layers under `prefix`, taken out of `weights`, with what batch
    normalization does to their outputs in it."""
    parts, layers = {}, []
    for name in list(weights):
        match = re.fullmatch(re.escape(prefix) + r"\.(\d+)\.(\w+)", name)
        if match:
            parts.setdefault(int(match[1]), {})[match[2]] = weights.pop(name)
    for _, part in sorted(parts.items()):
        weight = part["weight"]
        if set(part) <= {"weight", "bias"}:
            layers.append((weight, part.get("bias", torch.zeros(len(weight)))))
            continue
        scale = part["weight"].double() / (part["running_var"].double() + _BATCH_NORM_EPSILON).sqrt()
        before, bias = (tensor.double() for tensor in layers[-1])
        bias = (bias - part["running_mean"].double()) * scale + part["bias"].double()
        layers[-1] = (before * scale[:, None]).float(), bias.float()
    return layers


def _assembled(system, encoder, codebooks, decoder, left, remarks=(), *, activation="relu", beta=None, beside=None):
    """Our arguments and weights for these layers.

    Args:
        encoder, decoder: [(weight, bias), ...]; None for the identity.
        codebooks: (K, E) of each level.
        left: weights that no layer took.
        beside: (E, D) of a matrix product beside the encoder, None for none.
    """
    if left:
        raise CheckpointError(f"has weights that our model has no place for, such as {sorted(left)[0]}")
    latent_dim = codebooks[0].shape[1]
    if len({codebook.shape[1:] for codebook in codebooks}) > 1:
        raise CheckpointError(f"has codebooks of {[codebook.shape[-1] for codebook in codebooks]} columns; expected as "
                              "many in each")
    linear = {"encoder.linear.weight": beside}
    if beside is not None:
        linear["decoder.linear.weight"] = torch.eye(latent_dim) if decoder is None else torch.zeros_like(beside.T)
    encoder, decoder = (_nothing(latent_dim) if layers is None else layers for layers in (encoder, decoder))
    input_dim = encoder[0][0].shape[1]
    if len(encoder) == 1:               # no hidden layer: all of it stands beside one that is nothing
        linear = {"encoder.linear.weight": encoder[0][0] + (0 if beside is None else beside),
                  "decoder.linear.weight": decoder[0][0]}
        encoder, decoder = ([_nothing(width)[0], (torch.zeros(len(layers[0][1]), 1), layers[0][1])]
                            for width, layers in ((input_dim, encoder), (latent_dim, decoder)))
    widths = [[len(bias) for _, bias in layers[:-1]] for layers in (encoder, decoder)]
    if widths[0] != widths[1][::-1]:
        raise CheckpointError(f"has an encoder with layers {widths[0]} and a decoder with layers {widths[1]}; "
                              "our decoder mirrors the encoder")
    sizes = [len(codebook) for codebook in codebooks]
    hyper_parameters = {
        "input_dim": input_dim, "hidden_dim": widths[0], "latent_dim": latent_dim,
        "num_embeddings": sizes[0] if len(set(sizes)) == 1 else sizes, "num_quantizers": len(sizes),
        "activation": activation, "linear_path": linear["encoder.linear.weight"] is not None}
    if isinstance(beta, float):
        hyper_parameters["commitment_cost"] = beta
    state = {name: weight for name, weight in linear.items() if weight is not None}
    for part, layers in (("encoder", encoder), ("decoder", decoder)):
        for place, (weight, bias) in enumerate(layers):
            state.update({f"{part}.layers.{2 * place}.weight": weight, f"{part}.layers.{2 * place}.bias": bias})
    for level, codebook in enumerate(codebooks):
        within = f"levels.{level}." if len(sizes) > 1 else ""
        state[f"quantizer.{within}embeddings.weight"] = codebook
    return Peer(system, hyper_parameters, state, list(remarks))


def _nothing(width):
    """Two layers, one unit between them, that give 0 whatever comes in."""
    return [(torch.zeros(1, width), torch.zeros(1)), (torch.zeros(width, 1), torch.zeros(width))]
