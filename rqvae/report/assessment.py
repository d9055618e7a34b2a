"""A model and its semantic IDs -> figures, each judged by what healthy tokenizers have. Knows no file.

Shapes:  N items   D feature width   L levels   K codes of a level
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ..codes import as_codes, level_sizes
from ..collisions import collision_ranks, collision_report, row_keys
from ..evaluation import code_statistics, counted_errors, counted_part_errors
from ..inference import evaluating, model_device
from .neighbours import neighbour_quality, shared_prefix_lift
from ..storage.words import counted
from .words import percent

FOREIGN = 1.05          # an error from which on features are not what the model knows
FAIR = 1.5              # what misses its bound by less than this factor is fair
ROWS_PER_CHUNK = 4096

# ------------------------------------------------------------------------------- what healthy means

# Measured with 3 levels of 256 codes, 24 bits an item, on catalogues of 3,500 to 20,000 items. With fewer
# bits less can be kept and found again, how much less depends on the data: such IDs get no verdict there.
BITS = 24
SMALL = 10_000          # items: among more of them the ten nearest are harder to hit
ENOUGH = 4              # items a code, from which on the use of codes and the lift can be judged
HOPELESS = 0.9          # an error that is poor with any number of codes
SOME = 10               # items: the error of fewer says nothing of others
DISTINCT = 50           # items: among fewer the ten nearest are found by chance
ROOMY = 10              # IDs that there could be, an item
FEW_ALIKE = 0.05        # share of the items that may be exactly like others without a word


class Standard(NamedTuple):
    bound: float
    sign: str               # "at most" or "at least"
    remedy: str             # what to change where it is missed


# A recommender was trained on some thirty sets of IDs (`judging`). Random ones recommended a third worse than those
# that carry content, and IDs that items share 8 % worse than the same IDs made unique. Among unique IDs that carry
# content neither error nor perplexity, neighbours found or lift told which recommend better: so what is asked of them
# here is no more than the least of what recommended as well as any.
HEALTHY = {
    # IDs with errors of 0.09, 0.25, 0.38 and 0.41 recommended alike.
    "trained error": Standard(0.41, "at most", "train longer, or with more --num-embeddings or --num-quantizers"),
    # Residual k-means reaches 0.57 on items that it has not seen: a tokenizer should beat it. Far above the
    # error of trained items, it tells of a memorised catalogue.
    "new error": Standard(0.55, "at most", "train on more items, or on items more like these"),
    # Share of K. An unused code is capacity thrown away.
    "usage": Standard(1.0, "at least", "train with --preset tiger, or lower --num-embeddings"),
    # Share of K. First levels of 32 codes recommended as well as of 256; codes used still less evenly say little.
    "perplexity": Standard(0.12, "at least", "train with --preset tiger, which keeps the codes balanced"),
    # Beyond what identical items and chance alone cause: IDs of which 0.117 collided recommended as well as any, once
    # they were made unique.
    "collisions": Standard(0.12, "at most", "train longer, or with more --num-embeddings or --num-quantizers"),
    # Beyond what identical items cause, of IDs as they are handed on: 0.004 of the items, but much taken ones, had cost
    # published IDs some per cent.
    "shared": Standard(0.0, "at most", "give every item an ID of its own; infer does, without --unique none"),
    "resolved": Standard(0.0, "at most", "resolve by --unique"),
    # By chance alone 5 % of the items collide where there are ten IDs an item.
    "room": Standard(ROOMY, "at least", "train with more --num-embeddings or --num-quantizers"),
    # Residual k-means and all that recommended as well find 0.38 or more.
    "recall": Standard(0.35, "at least", "train longer, or with more --num-embeddings or --num-quantizers"),
    # At K = 256; of IDs that carry content between 7 and 24 for items that people took one after the other, near 90 for
    # neighbours; of random ones 1. With K codes it is at most about K, and grew with its root or faster.
    "lift": Standard(4.0, "at least", "look at the first level: few codes in use there make all IDs begin alike"),
}

QUESTIONS = {
    "kept": ("How much of an item does its ID keep?",
             "Error of the features rebuilt from the ID: 0 is perfect, 1 is no better than taking each item for "
             "average. Items held out took no part in training; they tell how new items will fare. Below 0.4 or so a "
             "lower error is no sign of better recommendation: IDs with 0.09, 0.25, 0.38 and 0.41 recommended alike."),
    "used": ("Are all codes in use?",
             "Perplexity is the number of codes that a level uses in effect: all, if each has as many items. Items "
             "with the same features count once."),
    "apart": ("Does every item have an ID of its own?",
              "Items with one and the same ID collide: a recommender cannot tell them apart. The rate is 0 if all "
              "differ. IDs of which 7 % collided recommended 8 % worse than the same made unique."),
    "alike": ("Do similar items get similar IDs?",
              "Neighbours found: of an item's 10 most similar items, the share that the IDs alone find again. "
              "Lift: how many times longer a beginning of the ID they share than two random items do. Random IDs "
              "recommend a third worse; among IDs that carry content more of either is no sign of better "
              "recommendation."),
    "taken": ("What do the IDs say to a recommender?",
              "Counted by what users took. What they took next is looked for among the ten items whose IDs begin most "
              "alike, beside the ten that are taken most. Codes are those of the most taken items with a third of the "
              "events, of those with the next third, and of the rest that was taken; prefixes those of 1, 2, ... "
              "codes: where an item stands under none of an item that was taken, a recommender will hardly find it. "
              "The ± of a recommender is 95 % over users; two trainings differ by .001 to .003 besides."),
    "left": ("What is left of the IDs before?",
             "Of the items in both: as the IDs are, under the best names for the new codes, and the pairs that shared "
             "so much and still do, which no renaming changes."),
    "arrived": ("Do the new items find their place among the published?",
                "A recommender hardly says a beginning that it never saw. In brackets the same of the published items, "
                "each beside the others: what to expect of new ones of their kind."),
}


# The remedy for codes out of use where the preset that prevents it was in use already.
TRAINED_SO = "train longer, lower --num-embeddings, or give more varied items"


class Measure(NamedTuple):
    question: str           # a key of QUESTIONS
    label: str
    value: str
    healthy: str = ""       # in words
    verdict: str = ""       # "good", "fair", "poor", or none
    remedy: str = ""        # what to change where it is not good


def _judged(question, label, value, number, name, *, bound=None, healthy=None, judge=True) -> Measure:
    """A measure against HEALTHY[name], with a bound of its own where that depends on the sizes."""
    standard = HEALTHY[name]
    bound = standard.bound if bound is None else bound
    healthy = healthy or f"{standard.sign} {bound:.2f}"
    if not judge or math.isnan(number):
        return Measure(question, label, value, healthy)
    far, near = (number, bound) if standard.sign == "at most" else (bound, number)
    verdict = "good" if far <= near else "fair" if far <= FAIR * near else "poor"
    return Measure(question, label, value, healthy, verdict, "" if verdict == "good" else standard.remedy)


# ------------------------------------------------------------------------------------------ figures

def assess(codes, num_embeddings, *, model=None, features=None, before=None, resolved=None, split=None,
           pairs=None) -> list:
    """Everything that can be measured without a recommender, as a list of `Measure`.

    Args:
        codes: (N, L) int64, the IDs; without the suffix, if there is one.
        num_embeddings: K, or one for each level.
        model: the `RqVae` that they are of; None for IDs of another system.
        features: a `FeatureTable` (N, D), or None.
        before: (N, L) the codes before collisions were resolved, if they were.
        resolved: `collision_report` of the resolved IDs.
        split: (rows trained on, rows held out), int64, or None where that is not known.
        pairs: (P, 2) rows of items that go together, or None.
    """
    codes = torch.as_tensor(codes).reshape(len(codes), -1)
    before = codes if before is None else torch.as_tensor(before).reshape(len(codes), -1)
    sizes = level_sizes(num_embeddings, codes.shape[1])
    groups, found, distinct = None, [], codes
    if features is not None:
        errors, spreads, groups = row_errors(features, codes, model)
        distinct = codes[one_of_each(groups, last=(before != codes).any(dim=1))]
        if model is not None:
            found += _error_measures(errors, spreads, split, _bits(sizes))
            found += _part_measures(features, codes, model) if model.parts else []
    known = model is None or split is not None          # new items that are few or alike use few codes of a sound model
    balanced = model is not None and model.latent_norm
    found += _use_measures(code_statistics(distinct, sizes), unsettled(distinct), known, balanced)
    found += _collision_measures(collision_report(before, features_groups=groups), resolved, math.prod(sizes))
    quality = {} if features is None else neighbour_quality(model, features, codes)
    if pairs is not None:
        quality["pair_lift"] = shared_prefix_lift(codes, pairs)
    return found + _neighbour_measures(quality, codes, sizes, len(distinct))


def one_of_each(groups, last=None) -> np.ndarray:
    """(distinct,) a row of each of the groups (N,), one that `last` (N,) bool does not name where there is such."""
    groups = np.asarray(groups)
    if last is None:
        return np.sort(np.unique(groups, return_index=True)[1])
    order = np.argsort(np.asarray(last), kind="stable")
    return np.sort(order[np.unique(groups[order], return_index=True)[1]])


def row_errors(features, codes, model=None):
    """Of each item: squared error of its reconstruction (none without a model), squared distance from the mean
    item, and a number that equals that of items with the same features: (N,) each."""
    count, mean = len(features), _mean_item(features)
    spreads, keys = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.int64)
    errors = None if model is None else torch.empty(count, dtype=torch.float64)     # pieces would fragment the heap
    for chunk in _chunks(count):
        items = features.rows(chunk)
        spreads[chunk] = (items.double() - mean).square().sum(dim=1)
        keys[chunk] = torch.from_numpy(row_keys(items.numpy()))
        if model is not None:
            said = decoded(model, codes[chunk])
            # What lies far out, or is large, would be all of it.
            if model.robust and (model.parts or model.draws_in()):
                items, said = items.to(model_device(model)), said.to(model_device(model))
                errors[chunk], spreads[chunk] = counted_errors(model, items, said)
            else:
                errors[chunk] = (items.double() - said.double()).square().sum(dim=1)
    return errors, spreads, keys


def _chunks(count):
    return (slice(start, min(start + ROWS_PER_CHUNK, count)) for start in range(0, count, ROWS_PER_CHUNK))


def _mean_item(features):
    """(D,) float64."""
    return sum(features.rows(chunk).double().sum(dim=0) for chunk in _chunks(len(features))) / len(features)


def decoded(model, codes) -> torch.Tensor:
    """What IDs (B, L) stand for: (B, D) on the CPU."""
    codes = torch.as_tensor(codes).to(model_device(model))
    with evaluating(model):
        return model.decode(codes[:, 0] if codes.shape[1] == 1 else codes).cpu()


def some_rows(count, most=4096) -> np.ndarray:
    """Row numbers, evenly over `count` rows."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def foreign_error(model, features, codes) -> float:
    """Error of some items' reconstructions, as a share of the variance that the model was trained on where it knows
    that, else of these items' own. Above 1 the mean would have said more: they are not what the model knows.

    Args:
        codes: (N, L) int64, before any resolving.
    """
    rows = some_rows(len(codes))
    items, said = features.rows(rows), decoded(model, codes[rows])
    if model.standardize:       # to a variance of 1
        device = model_device(model)
        return counted_errors(model, items.to(device), said.to(device))[0].mean().item() / items.shape[1]
    error, spread = ((items.double() - rest.double()).square().mean().item() for rest in (said, items.mean(dim=0)))
    return error / spread if spread else 0.0


def holding_cost(model, features, kept, chosen):
    """Error of published items under the IDs that they keep, and under those that the model would choose.

    Args:
        features: a table (N, D) of these items.
        kept, chosen: (N, L) int64.
    """
    held, spread, _ = row_errors(features, kept, model)
    free = row_errors(features, chosen, model)[0]
    total = spread.sum().item() or float("nan")
    return held.sum().item() / total, free.sum().item() / total


def resolving_cost(model, features, before, after, moved) -> float:
    """By how much resolving raised the relative error, looking at the rows that moved.

    Args:
        before, after: (N, L) int64.
        moved: (m,) rows.
    """
    mean, rise = _mean_item(features), 0.0
    spread = sum((features.rows(chunk).double() - mean).square().sum().item() for chunk in _chunks(len(features)))
    for chunk in _chunks(len(moved)):
        rows = moved[chunk]             # numpy: it takes a tensor of one row for a number
        items = features.rows(rows).double()
        worse, better = ((items - decoded(model, codes[rows]).double()).square().sum() for codes in (after, before))
        rise += (worse - better).item()
    return rise / spread if spread else 0.0


def is_suffix(codes) -> bool:
    """Whether the last column of IDs (N, L) counts the items of a collision: 0, 1, 2, ... as TIGER has it, or 1, 2,
    ... and 0 for items without one as GRID has it."""
    codes = as_codes(codes)
    if codes.shape[1] == 1:
        return False
    rank, size = collision_ranks(codes[:, :-1])
    return np.array_equal(codes[:, -1], rank) or np.array_equal(codes[:, -1], np.where(size > 1, rank + 1, 0))


def _bits(sizes):
    return sum(map(math.log2, sizes))


def _error_measures(errors, spreads, split, bits):
    def measure(label, name, rows):
        spread = spreads[rows].sum().item()
        error = errors[rows].sum().item() / spread if spread else float("nan")
        bound = HEALTHY[name].bound
        few = len(errors[rows]) < SOME
        return _judged("kept", label, _figure(error, 3), error, name,
                       judge=not few and (bits >= BITS or error > HOPELESS),
                       healthy=f"at most {bound:.2f}" + ("; too few items" if few else
                                                         "" if bits >= BITS else " with 3 x 256 codes"))

    if split is None:
        return [measure("error of these items", "new error", slice(None))]
    trained, held_out = split
    found = [measure(f"error of the {counted(len(trained), 'item')} trained on", "trained error", trained)]
    if len(held_out):
        found.append(measure(f"error of the {counted(len(held_out), 'item')} held out", "new error", held_out))
    return found


def _part_measures(features, codes, model):
    """The error of each of several embeddings an item, over the items that have it."""
    sums = torch.zeros(2, len(model.parts), dtype=torch.float64)
    for rows in _chunks(len(features)):
        said = decoded(model, codes[rows]).to(model_device(model))
        sums += counted_part_errors(model, features.rows(rows).to(said.device), said)
    names = getattr(features, "names", None) or [f"part {number}" for number in range(1, len(model.parts) + 1)]
    return [Measure("kept", f"error of {name}", _figure(error, 3))
            for name, error in zip(names, (sums[0] / sums[1]).tolist())]


def _figure(number, digits):
    return "-" if math.isnan(number) else f"{number:.{digits}f}"


def unsettled(codes) -> list:
    """For each level how many items (N, L) the levels before it have not told apart: N, those that share their first
    code, ... What tells all items apart has no use for more codes, nor what has only items of equal features left."""
    shared = [collision_report(codes[:, :length])["colliding_items"] for length in range(1, codes.shape[1])]
    return [len(codes), *shared]


def _use_measures(statistics, unsettled_items, known, balanced):
    """`known`: the items of the training; `balanced`: codes of --preset tiger, which no remedy need name again."""
    found = []
    for level, ((used, rate, evenness), items) in enumerate(zip(per_level(statistics), unsettled_items), start=1):
        codes = codes_of(used, rate)
        room = max(usable_codes(codes, items), 1)
        enough = items >= ENOUGH * codes
        judge = enough or known and used < room / FAIR
        more = "" if enough else "; too few items"
        found.append(_judged("used", f"level {level}: codes used", f"{used:,} of {codes:,}", used / room, "usage",
                             healthy=f"all{more}", judge=judge))
        bound = HEALTHY["perplexity"].bound
        found.append(_judged("used", f"level {level}: perplexity", f"{evenness:.1f}", evenness, "perplexity",
                             bound=bound * room, healthy=f"at least {bound * codes:.0f}{more}", judge=judge))
    return [measure._replace(remedy=measure.remedy and TRAINED_SO) for measure in found] if balanced else found


def _collision_measures(collisions, resolved, room):
    items = collisions["items"]
    same = collisions.get("unavoidable_collisions", 0)
    rate = collisions["collision_rate"]
    beyond = rate - same / items            # what identical items cause is no fault of the IDs
    healthy = " beyond identical items" if same else ""
    found = []
    if room < ROOMY * items:
        found.append(_judged("apart", "possible IDs", f"{room:,}", room / items, "room",
                             healthy=f"at least {ROOMY * items:,}"))
    if resolved is None:
        found += [_judged("apart", "collision rate", percent(rate), beyond, "shared", healthy=f"0 %{healthy}"),
                  Measure("apart", "most items on one ID", f"{collisions['largest_collision']:,}")]
    else:
        # The share that collides when items draw their IDs at random from `room`.
        chance = 1 + room * math.expm1(-items / room) / items
        bound, after = HEALTHY["collisions"].bound + chance, resolved["collision_rate"]
        tells = bound < 0.5                 # else there are too few IDs, whatever the model
        found += [_judged("apart", "collision rate before resolving", percent(rate), beyond, "collisions", bound=bound,
                          healthy=f"at most {percent(bound)}{healthy}" if tells else " ",
                          judge=tells)._replace(remedy=""),
                  _judged("apart", "collision rate after resolving", percent(after), after, "resolved", healthy="0 %")]
    if same:
        found.append(Measure("apart", "items exactly like an earlier one", f"{same:,}", remedy=(
            "give features in which these differ, or each such item once: "
            "no ID can tell apart what its features do not")
            if same > FEW_ALIKE * items else ""))
    return found


def _neighbour_measures(quality, codes, sizes, distinct):
    """`distinct`: items without their doubles; the ten nearest of many that are alike are any ten."""
    found = []
    unlike = " with 3 x 256 codes" if _bits(sizes) < BITS else " in small catalogues" if len(codes) > SMALL else \
        "; too few items" if distinct < DISTINCT else \
        " where items differ" if distinct < (1 - FEW_ALIKE) * len(codes) else ""
    healthy, judge = f"at least {HEALTHY['recall'].bound:.2f}{unlike}", not unlike
    for key, label in (("recall_reconstruction", "neighbours found, ID to IDs"),
                       ("recall_item", "neighbours found, item to IDs")):
        if key in quality:
            found.append(_judged("alike", label, _figure(quality[key], 3), quality[key], "recall", healthy=healthy,
                                 judge=judge))
    bound = HEALTHY["lift"].bound * math.sqrt(sizes[0] / 256)        # most of it comes from the first code
    enough = len(codes) >= ENOUGH * sizes[0]
    for key, label in (("neighbour_lift", "lift of neighbours"), ("pair_lift", "lift of the given pairs")):
        if key in quality:
            found.append(_judged("alike", label, _figure(quality[key], 1), quality[key], "lift", bound=bound,
                                 healthy=f"at least {bound:.0f}" + ("" if enough else "; too few items"),
                                 judge=enough))
    return found


def per_level(statistics):
    return zip(statistics["unique_codes_per_level"], statistics["usage_rate_per_level"],
               statistics["perplexity_per_level"])


def usable_codes(num_embeddings, items) -> int:
    """How many codes of a level so many items use if each draws one at random: all, unless items are few."""
    return round(-num_embeddings * math.expm1(-items / num_embeddings))


def codes_of(used, rate):
    return round(used / rate)
