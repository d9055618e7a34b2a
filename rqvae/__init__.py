"""Semantic IDs for generative recommendation: a residual-quantized autoencoder in plain PyTorch."""

from .model import RqVae
from .quantize import ResidualQuantizer, VectorQuantizer
from .networks import Decoder, Encoder

from .inference import batch_inference
from .evaluation import evaluate_quantization, evaluate_reconstruction, evaluate_semantic_ids
from .training import fit

__version__ = "1.0.0"
