"""What users did, as a target of the training: each item moved towards what people take along with it.

The encoder sees an item's own features and learns to say where its buyers put it. Encoding needs no
interactions: an ID stays a function of the item's features, and nothing that somebody buys later changes it.
In the last epochs encoder and codebooks rest, and the decoder learns to say the item's own features again.

Shapes:  N items trained on   D feature width   E events (a user took an item)   B rows in a batch   C rows of a chunk
"""

import hashlib

import torch

SHARE = 0.85                # of the way towards the others that an item goes at each step
STEPS = 5                   # of the walk: what is taken along with what is taken along, ...; 20 were worth no more
REACH = 9                   # how many places apart in a user's list two items still belong together
DECODER_EPOCHS = 1 / 6      # share of the epochs, at the end, that train the decoder alone
MOST_NUMBERS = 2**30        # items times width: three arrays of 4 bytes each are held at a time
EVENTS_PER_CHUNK = 2**11    # with the features of so many, vectors of 384 numbers stay in the cache
ROWS_PER_CHUNK = 4096


class Targets:
    """Where each item lies among what people take along with it and what resembles it.

    A walk of STEPS: each item moves SHARE of the way to the mean of the others, which it sees where the step
    before left them. The others are what users took along with it, 1 / distance in the list each, and its
    neighbours by content, 1 together: an item that was often taken lies where its buyers put it, one that was
    seldom or never taken where what resembles it went. Nothing of size N x N is made.

    Args:
        loader: a `FeatureLoader` of N items.
        interactions: with `items` (E,), rows of the table in time order, user after user, and `offsets` (U + 1,).
            Items that the loader does not have (held out, say) are passed over.
        near: (N, n) positions of each item's neighbours, of `mixing.nearest_items`.
        max_epochs: of the whole training.
        view: what of the features is moved, (B, D) -> (B, D), such as `RqVae.standardized`; themselves if None.

    Attributes:
        vectors: (N, D) float32, with the mean and the total variance of the items.
        until: the epoch from which on encoder and codebooks rest.
        fingerprint: hex digits that tell these interactions from others.

    """

    def __init__(self, loader, interactions, near, max_epochs, *, view=None):
        self.vectors = _walk(_viewed(loader, view), _Lists(loader, interactions), near)
        self.until = epochs_with_targets(max_epochs)
        digest = hashlib.sha256()
        for part in (interactions.items, interactions.offsets):
            digest.update(torch.as_tensor(part).long().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def at(self, positions) -> torch.Tensor:
        """(B, D) targets of items."""
        return self.vectors[positions.to(self.vectors.device)]


def check_size(num_items, width) -> None:
    """Raises ValueError where there are too many items for their targets to be held."""
    if num_items * width > MOST_NUMBERS:
        raise ValueError(f"{num_items:,} items of {width} features are too many to be moved by interactions, which takes "
                         f"12 bytes a number; give features of at most {MOST_NUMBERS // num_items} columns, or leave the "
                         "interactions out")


def epochs_with_targets(max_epochs) -> int:
    """How many epochs train all of the model, before the decoder alone."""
    return max(1, max_epochs - round(DECODER_EPOCHS * max_epochs))


@torch.no_grad()
def _viewed(loader, view):
    """(N, D) float32, chunk by chunk."""
    chunks = (loader.at(slice(first, first + ROWS_PER_CHUNK)) for first in range(0, loader.num_rows, ROWS_PER_CHUNK))
    return torch.cat([(rows if view is None else view(rows)).float() for rows in chunks])


@torch.no_grad()
def _walk(own, lists, near):
    mean = own.mean(dim=0)
    own -= mean
    spread, moved = own.square().mean().sqrt(), own
    for _ in range(STEPS):
        others, weights = lists.taken_along(moved)
        for rows in torch.arange(len(own), device=own.device).split(ROWS_PER_CHUNK):
            others[rows] += moved[near[rows]].mean(dim=1)
        moved = torch.lerp(own, others.div_(1 + weights[:, None]), SHARE)
    moved -= moved.mean(dim=0)
    return moved.mul_(spread / moved.square().mean().sqrt().clamp_min(torch.finfo(moved.dtype).tiny)).add_(mean)


class _Lists:
    """Users' lists of positions among the loader's items, -1 for an item that it does not have."""

    def __init__(self, loader, interactions):
        items = torch.as_tensor(interactions.items).long()
        if loader.rows is not None:
            position = torch.full((len(loader.table),), -1)
            position[loader.rows] = torch.arange(len(loader.rows))
            items = position[items]
        lengths = torch.as_tensor(interactions.offsets).diff()
        self.positions = items                                                  # (E,)
        self.users = torch.arange(len(lengths)).repeat_interleave(lengths)      # (E,)

    def taken_along(self, vectors, reach=REACH):
        """Sums of the vectors that were taken along with each item, 1 / distance each, and of these weights.

        Args:
            vectors: (N, D), one for each item.
            reach: how many places apart two items of a list may be.

        Returns:
            (N, D) and (N,).
        """
        sums, weights = torch.zeros_like(vectors), vectors.new_zeros(len(vectors))
        for first in range(0, len(self.positions), EVENTS_PER_CHUNK):
            begin = max(first - reach, 0)           # the last ones before are partners once more
            rows = slice(begin, first + EVENTS_PER_CHUNK)
            _add_chunk(sums, weights, vectors, self.positions[rows].to(vectors.device),
                       self.users[rows].to(vectors.device), first - begin, reach)
        return sums, weights


def _add_chunk(sums, weights, vectors, positions, users, begun, reach):
    """Add the pairs whose later event is not among the first `begun` of the chunk."""
    known = positions >= 0
    features = vectors[positions.clamp_min(0)]                                  # (C, D)
    along, weight = torch.zeros_like(features), features.new_zeros(len(features))
    for distance in range(1, min(reach, len(positions) - 1) + 1):
        earlier, later = slice(0, -distance), slice(distance, None)
        pair = known[earlier] & known[later] & (users[earlier] == users[later]) \
            & (positions[earlier] != positions[later])
        pair[:max(begun - distance, 0)] = False
        share = pair.to(features) / distance                                    # (C - distance,)
        along[earlier].addcmul_(features[later], share[:, None])
        along[later].addcmul_(features[earlier], share[:, None])
        weight[earlier] += share
        weight[later] += share
    at = (positions[known],)
    sums.index_put_(at, along[known], accumulate=True)      # index_add_ on a GPU rounds differently each time
    weights.index_put_(at, weight[known], accumulate=True)
