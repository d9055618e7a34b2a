"""The measured recipe behind `train.py --preset tiger`: what it departs from the documented system in.

What was measured of these choices stands in docs/recipe.md. Sizes follow from the number of items by the
rules below; nothing depends on the features' scale.
"""

import math

import torch

from ..inference import features_of
from ..items.batches import FeatureLoader, sample_rows
from .assignment import BalancedAssignment
from .initialization import ROWS_PER_CODE, initialize
from .mixing import MOST_NUMBERS, NeighbourMixing, nearest_items

LATENT_DIM = 256                # or the feature width, where that is less,
LEAST_LATENT_DIM = 16           # but this, as the norm of latents costs one dimension and wants room
MODEL = {                       # the other constructor arguments of `RqVae`
    "hidden_dim": [256],
    "num_embeddings": 256,
    "num_quantizers": 3,
    "commitment_cost": 0.25,
    "learning_rate": 4e-3,
    "activation": "gelu",
    "linear_path": True,
    "latent_norm": True,
    "standardize": True,
    "robust": True,
}
FINE_MODEL = {**MODEL, "hidden_dim": [1024], "learning_rate": 8e-3}     # for the least reconstruction error
UNTRAINED = {"latent_norm": False}      # for a starting point alone: norms of latents then say as much as directions
WEIGHT_DECAY = 1.0              # of the perceptrons alone: what is linear, and the codes, may be of any size
CLOSED_WEIGHT_DECAY = 0.1       # for a catalogue that no item will ever join
BETAS, FINE_BETAS = (0.9, 0.999), (0.9, 0.99)   # of Adam: at the rate of `fine` a long memory lets the loss burst
FINE_PULL = 11.0                # of `assignment.BalancedAssignment` on colliding items: there are fewer steps for it
BALANCE = 0.05                  # of the first codebooks, see `clustering.kmeans`
WARM_UP = 0.05                  # share of the training over which the learning rate rises
# Of `assignment.BalancedAssignment`; with more steps than LONG less at each: prices add up, until codes that only
# theirs kept in use are nearest to nothing.
PRICE_RATE, LONG = 0.3, 800
REACH = 0.5                     # of the mixing with neighbours
NEIGHBOURS = 10
ROUGH, SHORTEST = 0.05, 1e-5    # attainable error below which steps get shorter, in proportion; but not below this
PRINCIPAL_ROWS = 20_000         # rows that the starting point is taken from, at least


def model_options(input_dim: int, *, fine: bool = False) -> dict:
    """Constructor arguments of `RqVae` for features of this width; `fine` for the least reconstruction error."""
    latent_dim = max(min(LATENT_DIM, input_dim), LEAST_LATENT_DIM)
    return {"input_dim": input_dim, "latent_dim": latent_dim, **(FINE_MODEL if fine else MODEL)}


def batch_size(num_items: int, *, fine: bool = False) -> int:
    """A power of two near num_items / 64, from 32 to 1024: 45 to 90 steps an epoch while a step is small. `fine`: near
    num_items / 16, which learns as much in fewer and larger steps."""
    return min(max(2 ** round(math.log2(max(num_items / (16 if fine else 64), 1))), 32), 1024)


def epochs(num_items: int, *, fine: bool = False, closed: bool = False) -> int:
    """10, and fewer from 170,000 items on: 3 for a million. `fine`: 30 up to 8,000 items; beyond, the rows seen grow as
    num_items to the 0.5: 19 epochs for 20,000 items, and 5 at least. `closed`: twice as many as `fine`."""
    if fine or closed:
        return max(5, min(30, round(30 * (8000 / max(num_items, 1)) ** 0.5))) * (2 if closed else 1)
    return max(2, min(10, round(100 * (3600 / max(num_items, 1)) ** 0.6)))


def configure_optimizers(model, total_steps: int, *, fine: bool = False, closed: bool = False,
                         held: bool = False) -> dict:
    """AdamW with a warm-up and a cosine, stepped with every batch, in the form of `RqVae.configure_optimizers`.

    Args:
        model: an `RqVae`.
        total_steps: batches of the whole training.
        fine: as in `batch_size`.
        closed: fit a catalogue that no item will ever join, at the expense of new items.
        held: published items are held to their codes (see `keeping`): the encoder may then keep what it learns of
            single items, which finds them again; the decoder, by which new items fare, may not.
    """
    weight_decay = CLOSED_WEIGHT_DECAY if closed else WEIGHT_DECAY
    perceptrons = [*(() if held else model.encoder.layers.parameters()), *model.decoder.layers.parameters()]
    decayed = set(perceptrons)
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in decayed]
    optimizer = torch.optim.AdamW(
        [{"params": perceptrons, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=model.learning_rate, betas=FINE_BETAS if fine else BETAS)

    def share(step):
        done = min(step / max(total_steps, 1), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, done - WARM_UP) / (1 - WARM_UP)))
        return max(min(1.0, done / WARM_UP) * cosine, 1e-3)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def start(model, loader, seed=0, *, weights=None, progress=False) -> None:
    """Give a new model its starting point, from a sample of the loader's rows.

    Args:
        model: an `RqVae`.
        loader: a `FeatureLoader`; or any iterable of {"features": (B, D)}, which is read through, or all features.
        seed: of the sample, and of what is drawn.
        weights, progress: as in `initialize`.
    """
    wanted = max(ROWS_PER_CODE * max(map(len, model.quantizer.codebooks)), PRINCIPAL_ROWS)
    if isinstance(loader, FeatureLoader):
        sample = sample_rows(loader.table, wanted, rows=loader.rows, seed=seed)
    else:
        sample = sample_rows(torch.cat([rows.float() for rows in features_of(loader)]), wanted, seed=seed)
    attainable = initialize(model, sample, balance=BALANCE, seed=seed, weights=weights, progress=progress)
    # Where little is left to learn, Adam's steps, which know no scale, would only shake what the start has found.
    model.learning_rate *= min(max(attainable / ROUGH, SHORTEST), 1.0)


def training(model, loader, max_epochs, seed=0, *, fine=False, closed=False, progress=False):
    """The loader to train with, neighbours mixed in; and `model.assign` set to keep codes balanced and IDs apart.

    Args:
        model: an `RqVae`.
        loader: a shuffling `FeatureLoader` of the items to train on.
        max_epochs: of the whole training.
        seed: of what is drawn.
        fine: as in `batch_size`.
        closed: as in `configure_optimizers`; neighbours are then not mixed in.
        progress: show a bar on a terminal while neighbours are sought.
    """
    if not isinstance(loader, FeatureLoader):
        raise ValueError(f"recipe.training needs a FeatureLoader, which knows the items of a batch, got a "
                         f"{type(loader).__name__}; make one by FeatureLoader(features, batch_size, shuffle=True)")
    rows, width = loader.num_rows, loader.table.shape[1]
    steps = max_epochs * len(loader)
    model.assign = BalancedAssignment(rows, model.quantizer, steps, rate=PRICE_RATE * min(1.0, LONG / max(steps, 1)),
                                      **({"pull": FINE_PULL} if fine else {}))
    if closed or rows < 2 or rows * width > MOST_NUMBERS:
        return loader
    near = nearest_items(loader, NEIGHBOURS, view=model.standardized, seed=seed, progress=progress)
    return NeighbourMixing(loader, near, reach=REACH, seed=seed)
