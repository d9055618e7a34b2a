"""A model's starting point, taken from the data: scale, principal directions, codebooks.

An explicit call before training; neither a forward pass nor loading a checkpoint ever does it.

Shapes:  N rows   D feature width   E latent width   K codes
"""

import math

import torch
from tqdm import tqdm

from ..inference import evaluating
from .clustering import kmeans
from .scaling import attainable_error, parts_scaling, plain_scaling, robust_scaling
from ..storage.words import warn

EXACT_WIDTH = 1024      # up to here the covariance matrix is diagonalised, above it is sketched
ROWS_PER_CODE = 20      # k-means on more rows costs more and finds the same (4 % of inertia at 100 a code)
LEAST_SHARED = 32       # items: among fewer no number of codes is worth lowering to, each shared by 8
FEW_DIRECTIONS = 0.06   # an attainable error, see `scaling`, as of items that spread over six directions


@torch.no_grad()
def initialize(model, features, *, balance=None, seed=0, progress=False, weights=None) -> float:
    """Set what an `RqVae` can know before its first step.

    In this order, as far as the model has them: mean and scale of the features; the linear paths, to
    the principal directions of the features and to the least-squares way back; the codebooks, level by
    level, by k-means on the latents that the levels before left over (SoundStream, arXiv 2107.03312,
    section III-C).

    Args:
        model: an `RqVae`, on any device.
        features: (N, D) a random sample of the whole training set; ROWS_PER_CODE rows a code are used.
        balance: see `clustering.kmeans`.
        seed: of everything random here.
        weights: of the model's parts, if it has any, see `scaling.parts_scaling`.
        progress: show a bar on a terminal.

    Returns:
        The least error that IDs of this size can leave, see `scaling.attainable_error`; 1 without a linear path.
    """
    generator = torch.Generator().manual_seed(seed)
    codebook = max(model.quantizer.codebooks, key=len)
    features = features.to(codebook.device, torch.promote_types(codebook.dtype, torch.float32))
    _warn_about_few(features, len(codebook))
    with tqdm(total=len(model.quantizer.levels) + 1, desc="starting point", leave=False,
              disable=None if progress else True,               # None: shown on a terminal only
              bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}") as bar:      # its steps take unlike times
        return _initialize(model, features, weights, balance, generator, bar)


def _initialize(model, features, weights, balance, generator, bar):
    _set_scaling(model, features, weights)
    bar.update(0.5)
    inputs = torch.cat([model.standardized(rows) for rows in features.split(1024)])         # (N, D)
    if model.encoder.linear is not None:
        model.encoder.linear.weight.copy_(_principal_directions(inputs, model.encoder.linear.out_features, generator))
    attainable = _attainable_error(model, inputs)
    if model.robust and model.latent_norm:
        _set_latent_norm(model, inputs, attainable)
    balance = balance if attainable > FEW_DIRECTIONS else None      # on a line, even shares cost items their own code
    with evaluating(model):
        latents = torch.cat([model.encode(rows) for rows in features.split(1024)]).to(features.dtype)      # (N, E)
    if model.decoder.linear is not None:
        model.decoder.linear.weight.copy_(_way_back(latents, inputs))
    bar.update(0.5)
    keep = torch.randperm(len(latents), generator=generator)[:ROWS_PER_CODE * max(map(len, model.quantizer.codebooks))]
    residual = latents[keep.to(latents.device)]
    for done, level in enumerate(model.quantizer.levels, start=1):
        level.set_codebook(kmeans(residual, level.num_embeddings, balance=balance, generator=generator,
                                  tick=lambda share: bar.update(done + share - bar.n)))
        residual = residual - level.decode(level.encode(residual))
    return attainable


def _set_scaling(model, features, weights):
    if model.robust:
        if model.parts:
            scaling, part_scale = parts_scaling(features, model.parts, weights)
            model.part_scale.copy_(part_scale)
        else:
            scaling = robust_scaling(features)
        for buffer, value in zip((model.feature_mean, model.feature_scale, model.column_scale, model.reach,
                                  model.farthest), scaling):
            buffer.copy_(value)
    elif model.standardize:
        for buffer, value in zip((model.feature_mean, model.feature_scale), plain_scaling(features)):
            buffer.copy_(value)


def _attainable_error(model, inputs):
    if model.encoder.linear is None:
        return 1.0
    variances = model.encoder.linear(inputs).var(dim=0, correction=0)                       # (E,)
    rest = inputs.var(dim=0, correction=0).sum() - variances.sum()
    return attainable_error(variances, rest, sum(math.log2(len(codebook)) for codebook in model.quantizer.codebooks))


def _set_latent_norm(model, inputs, attainable):
    """How far the norm of latents is kept: where items spread over few directions, a direction says little."""
    latents = torch.cat([model.encoder(rows) for rows in inputs.split(1024)])
    variances = (latents - latents.mean(dim=1, keepdim=True)).square().mean(dim=1)          # (N,)
    model.latent_variance.copy_(variances.median())
    model.latent_share.fill_(1 / (1 + (attainable / FEW_DIRECTIONS) ** 4))


def _principal_directions(inputs, width, generator):
    """(E, D): the directions of largest variance, orthonormal; zero rows where there are no more."""
    centred = inputs - inputs.mean(dim=0)
    rank = min(width, *centred.shape)
    if centred.shape[1] <= EXACT_WIDTH:
        _, directions = torch.linalg.eigh(centred.T @ centred)      # ascending
        directions = directions.flip(1)[:, :rank]                   # (D, rank)
    else:
        with torch.random.fork_rng(devices=[]):                     # svd_lowrank draws from the global state
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            directions = torch.svd_lowrank(centred, q=rank, niter=4)[2]
    # The sign of a direction is free; this one makes it the same on every machine.
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0)[None]).sign()
    rows = centred.new_zeros(width, centred.shape[1])
    rows[:rank] = directions.T
    return rows


def _way_back(latents, features):
    """(D, E): the matrix that maps latents to features with the least squared error, barely ridged."""
    gram = latents.T @ latents                                      # (E, E)
    ridge = (1e-3 * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)     # of one item nothing is left
    gram.diagonal().add_(ridge)
    return torch.linalg.solve(gram, latents.T @ features).T


def _warn_about_few(features, num_codes):
    if len(features) > 10 * num_codes:
        return
    distinct = len(features.unique(dim=0))
    if 1 < distinct < num_codes:
        which = f"{len(features)} rows to train on" if distinct == len(features) else \
            f"the {distinct} distinct ones of {len(features)} rows to train on"
        fewer = f", or lower num_embeddings, for example to {distinct // 8}" if distinct >= LEAST_SHARED else ""
        warn(f"{which} are fewer than the {num_codes} codes of a level: nearly every item has a first code to itself; "
             f"for prefixes that items share give more items{fewer}")
