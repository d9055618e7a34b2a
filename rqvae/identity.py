"""What things were made of - items, model, codes - and whether what is here is still the same.

Whatever outlives a command carries it: a checkpoint or model folder, the manifest of semantic IDs, a part of them.
RECORDS says where each keeps what; whoever builds on one asks `compared`, or `differences`, and nobody else compares.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import eq
from typing import Any

from .storage.checkpoint import weights_checksum
from .storage.item_ids import ids_checksum

# Record -> part -> where it stands in it; the parts' names are what messages call them.
RECORDS = {
    "checkpoint": {"features": ("notes", "features_checksum"), "item IDs": ("notes", "item_ids_checksum"),
                   "batches": ("fingerprint",), "ancestors": ("notes", "ancestors"),
                   "published IDs": ("notes", "kept_checksum"), "launch": ("notes", "launch")},
    "manifest": {"weights": ("checkpoint", "weights"), "options": ("checkpoint", "options"),
                 "features": ("features", "checksum")},
    "part": {"weights": ("model",), "options": ("options",), "rows": ("rows",), "features": ("features",),
             "item IDs": ("item_ids",), "codes": ("codes",)},
}
UNSEEN = "activation", "latent_norm", "parts"        # options that change codes, and that no weight shows


def of_model(model) -> dict:
    """What tells an `RqVae` from any other that gives other codes: weights (a checksum) and the options UNSEEN in
    them."""
    return {"weights": weights_checksum(model.state_dict()),
            "options": {name: model.hyper_parameters.get(name) for name in UNSEEN}}


def of_items(table, rows=None) -> dict:
    """What tells items from any others: features (a checksum of all numbers, of the range `rows` where that is given)
    and item IDs (of all), in this order."""
    return {"features": table.checksum(rows), "item IDs": ids_checksum(table.item_ids)}


def as_record(kind, parts) -> dict:
    """Parts, name -> value, as a record of the kind keeps them."""
    record = {}
    for part, value in parts.items():
        *folders, name = RECORDS[kind][part]
        reduce(lambda inner, folder: inner.setdefault(folder, {}), folders, record)[name] = value
    return record


def recorded(kind, record) -> dict:
    """The parts that a record of the kind has, name -> value; of one without form none."""
    def found(inner, name):
        return inner.get(name) if isinstance(inner, dict) else None
    values = {part: reduce(found, path, record) for part, path in RECORDS[kind].items()}
    return {part: value for part, value in values.items() if value is not None}


def compared(then, here=None, *, model=None, ancestors=(), table=None, rows=None, loader=None) -> dict:
    """Whether each part that was recorded is the same here: part -> bool. What is known of one side alone is left out.

    Args:
        then: of `recorded`, part -> value; None stands for unknown.
        here: the same of other parts, such as rows and codes.
        model: an `RqVae`, to compare weights and options with.
        ancestors: checksums of weights that are as good as its own: it goes on from what they published.
        table: to compare features and item IDs with, in whatever form an earlier version recorded them.
        rows: those of the table that the features are of.
        loader: to compare batches with, where it can say.
    """
    known = {part: value for part, value in then.items() if value is not None}
    tests = {part: partial(eq, value) for part, value in (here or {}).items() if value is not None}
    if model is not None:
        own = of_model(model)
        tests["weights"] = lambda weights: weights in (own["weights"], *ancestors)
        tests["options"] = lambda options: isinstance(options, dict) and not unlike(options, own["options"])
    if table is not None:
        tests["features"] = partial(table.has_checksum, rows=rows)
        tests["item IDs"] = lambda checksum: checksum == ids_checksum(table.item_ids)      # none is another, too
    if fingerprint(loader) is not None:
        tests["batches"] = partial(_has_fingerprint, loader)
    return {part: bool(tests[part](value)) for part, value in known.items() if part in tests}


def differences(then, here=None, **things) -> list[str]:
    """The parts of which `compared` says that they are others here, as they are named in messages."""
    return [part for part, same in compared(then, here, **things).items() if not same]


def unlike(then, here) -> list[str]:
    """Names of the options that both sides have, and of which the value is another; None is one."""
    return [name for name, value in then.items() if here.get(name, value) != value]


def fingerprint(loader: Any) -> str | None:
    """What identifies a loader's data and order, or None where it cannot say."""
    return loader.fingerprint() if hasattr(loader, "fingerprint") else None


def _has_fingerprint(loader, then):
    earlier = getattr(loader, "earlier_fingerprints", tuple)
    return then == loader.fingerprint() or then in earlier()
