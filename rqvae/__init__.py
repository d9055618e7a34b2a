"""Semantic IDs for generative recommendation: a residual-quantized autoencoder in plain PyTorch.

What stands on this menu is imported when it is first asked for, so that `rqvae --help` needs no torch.
"""

import re
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "1.3.2"

_MENU = {
    "model": ["RqVae"],
    "quantize": ["VectorQuantizer", "ResidualQuantizer"],
    "networks": ["Encoder", "Decoder"],
    "training": ["fit"],
    "inference": ["batch_inference"],
    "evaluation": ["evaluate_reconstruction", "evaluate_quantization", "evaluate_semantic_ids"],
    "items.amazon_p5": ["P5AmazonItemDataset"],
    "items.tables": ["open_features"],
    "items.batches": ["FeatureDataset", "FeatureLoader"],
    "ids.files": ["save_semantic_ids", "load_semantic_ids"],
    "ids.resolution": ["resolve_collisions"],
}
_WINGS = ("storage", "items", "ids", "recipe", "report", "cli")
_ROOM_OF = {name: room for room, names in _MENU.items() for name in names}

__all__ = [*_ROOM_OF, "__version__"]

if TYPE_CHECKING:                   # `as` says to a checker that the name is public
    from .evaluation import (evaluate_quantization as evaluate_quantization,
                             evaluate_reconstruction as evaluate_reconstruction,
                             evaluate_semantic_ids as evaluate_semantic_ids)
    from .ids.files import load_semantic_ids as load_semantic_ids, save_semantic_ids as save_semantic_ids
    from .ids.resolution import resolve_collisions as resolve_collisions
    from .inference import batch_inference as batch_inference
    from .items.amazon_p5 import P5AmazonItemDataset as P5AmazonItemDataset
    from .items.batches import FeatureDataset as FeatureDataset, FeatureLoader as FeatureLoader
    from .items.tables import open_features as open_features
    from .model import RqVae as RqVae
    from .networks import Decoder as Decoder, Encoder as Encoder
    from .quantize import ResidualQuantizer as ResidualQuantizer, VectorQuantizer as VectorQuantizer
    from .training import fit as fit


def __getattr__(name):
    if name in _WINGS:
        return _open(name, name)
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(_open(_ROOM_OF[name], name), name)
    globals()[name] = found
    return found


def __dir__():
    return sorted({*globals(), *__all__, *_WINGS})


def _open(room, name):
    """The module that a name of the menu lives in."""
    import torch
    if [int(part) for part in re.findall(r"\d+", torch.__version__)[:2]] < [2, 6]:
        raise ImportError(f"torch is {torch.__version__}; rqvae needs 2.6 or newer: "
                          'pip install --upgrade "torch>=2.6"')
    try:
        return import_module(f".{room}", __name__)
    except ModuleNotFoundError as error:
        wing = room.split(".")[0]
        if error.name != f"{__name__}.{wing}":
            raise
        raise ImportError(f"{name} is part of {__name__}/{wing}/, which this copy of the package was made without; "
                          f"copy that folder, too, to have it", name=error.name) from None
