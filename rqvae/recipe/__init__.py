"""What makes good IDs: the presets of `train.py` and their rules, the starting point, what changes in training."""

from .presets import (FINE_MODEL, MODEL, UNTRAINED, batch_size, configure_optimizers, epochs, model_options, start,
                      training)

__all__ = ["FINE_MODEL", "MODEL", "UNTRAINED", "batch_size", "configure_optimizers", "epochs", "model_options", "start",
           "training"]
