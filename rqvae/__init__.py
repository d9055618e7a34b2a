"""Semantic IDs for generative recommendation: a residual-quantized autoencoder in plain PyTorch."""

import re

import torch

if [int(part) for part in re.findall(r"\d+", torch.__version__)[:2]] < [2, 6]:
    raise ImportError(f"torch is {torch.__version__}; rqvae needs 2.6 or newer: "
                      'pip install --upgrade "torch>=2.6"')

from .model import RqVae
from .quantize import VectorQuantizer, ResidualQuantizer
from .networks import Encoder, Decoder
from .training import fit
from .inference import batch_inference
from .evaluation import evaluate_reconstruction, evaluate_quantization, evaluate_semantic_ids
from .amazon_p5 import P5AmazonItemDataset
from .data import open_features, FeatureDataset, FeatureLoader
from .semantic_ids import save_semantic_ids, load_semantic_ids, resolve_collisions

__version__ = "1.0.0"

__all__ = [
    "RqVae", "VectorQuantizer", "ResidualQuantizer", "Encoder", "Decoder",
    "fit", "batch_inference",
    "evaluate_reconstruction", "evaluate_quantization", "evaluate_semantic_ids",
    "P5AmazonItemDataset", "open_features", "FeatureDataset", "FeatureLoader",
    "save_semantic_ids", "load_semantic_ids", "resolve_collisions",
    "__version__",
]
