"""What a checkpoint, or published IDs, note of their items, and whether those that are here are still the same.

Shapes:  N items   M items published   m of them that are here   L levels
"""

import numpy as np

from ..collisions import id_keys
from ..identity import differences, recorded
from ..items.blending import BlendedTable
from ..items.checksums import form_of
from ..report.inputs import trained_and_held_out
from ..storage.words import warn

FEW = 8                 # items, of which chance says nothing


def require_columns(model, table, where) -> None:
    """Refuse features of another width, or of other parts, than the model of the checkpoint `where` takes."""
    widths = getattr(table, "widths", None)
    if widths and widths != model.parts:
        raise ValueError(f"--data names embeddings of {', '.join(map(str, widths))} columns, {where} was trained on "
                         f"{', '.join(map(str, model.parts or [model.input_dim]))}; name the same, in the same order")
    if table.shape[1] != model.input_dim:
        raise ValueError(f"{table.source}: the features have {table.shape[1]} columns, {where} expects "
                         f"{model.input_dim}; give features of the same encoder, or train on these")


def require_the_same(run_of, table, checkpoint, item_ids=None) -> None:
    """Refuse items that are not those that the checkpoint was trained on, though they lie where those did.

    Args:
        run_of: what the checkpoint holds under "rqvae".
        table: the `FeatureTable`, checked.
        checkpoint: its path.
        item_ids: what this command names in place of those of the training, if it does.

    Raises:
        ValueError: numbers, rows, their order or the item IDs are others.
    """
    then = recorded("checkpoint", run_of)
    if item_ids is not None:
        then.pop("item IDs", None)
    differ = differences(then, table=table)
    if "features" not in then and run_of.get("fingerprint") is not None:       # of 1.0, in one with order and split
        differ = [] if trained_and_held_out(run_of, table) is not None else ["features"]
    if differ:
        raise ValueError(f"{table.source} does not hold the {differ[0]} any more that {checkpoint} was trained on "
                         "(rows were changed, added, removed or put in another order); name it by --data to encode "
                         "what it holds now, or put the old file back")


def add_piece(table, rows, before=(), first=0) -> list:
    """What a manifest notes of the features of its items, in their published order.

    It is [first, stop, checksum] of each piece.

    Args:
        table: the features that the new items are in.
        rows: (n,) theirs.
        before: the pieces of the generation that this one goes on from.
        first: how many items that has.
    """
    if isinstance(table, BlendedTable) or not len(rows):        # features that other rows have a part in
        return [*before]
    checksum = table.checksum(None if np.array_equal(rows, np.arange(len(table))) else rows)
    return [*before, [first, first + len(rows), checksum]]


def pieces_of(manifest) -> list:
    """Those of a manifest, see `add_piece`; of one of 1.2 and before its own, not those of the generation before it."""
    manifest = manifest if isinstance(manifest, dict) else {}
    made, before, count = manifest.get("features") or {}, manifest.get("published before"), manifest.get("items")
    pieces = made.get("of items", [[before, count, made.get("checksum")]] if manifest
                      and made.get("items") == count - before else [])
    return [piece for piece in pieces if isinstance(piece, list) and len(piece) == 3 and isinstance(piece[2], str)
            and all(type(end) is int and end >= 0 for end in piece[:2]) and form_of(piece[2])] \
        if isinstance(pieces, list) else []


def as_published(manifest, table, published_rows):
    """Whether published items have the features that they were published with, to the bit; None where nobody knows.

    Args:
        manifest: of the published IDs, or what else stands for one.
        table: the features.
        published_rows: (N,) the published item that each row is, -1 for a new one.
    """
    here = np.flatnonzero(published_rows >= 0)
    places = np.full(published_rows.max() + 1, -1)
    places[published_rows[here]] = here
    known = np.zeros(len(places), bool)
    for first, stop, checksum in () if isinstance(table, BlendedTable) else pieces_of(manifest):
        rows = places[first:stop]
        if len(rows) != stop - first or (rows < 0).any():
            continue
        if differences({"features": checksum}, table=table, rows=rows):
            return False
        known[first:stop] = True
    return True if known[places >= 0].all() else None


def require_as_published(published, manifest, table, published_rows, where, own, room) -> None:
    """Refuse features that are not those of the published items that they are said to be of; say how many get other
    codes by them. What was only made again, and gives the codes of before, is nobody's concern.

    Args:
        published: the `SemanticIds` in the file `where`.
        manifest, table, published_rows: as in `as_published`.
        own: gives (m, L), what the model gives those that are here, in the order of their rows; is asked only where it
            is needed.
        room: K of the last level.

    Raises:
        ValueError: most first codes are others, so that features and item IDs do not belong together, or features and
            model.
    """
    same = as_published(manifest, table, published_rows)
    if same:
        return
    rows, found = np.flatnonzero(published_rows >= 0), own()
    codes, levels = published.codes[published_rows[rows]], found.shape[1]
    suffixed = codes.shape[1] > levels
    depth = levels if suffixed else max(1, levels - 1)      # where two share an ID, one has moved to another last code
    kept, now = np.split(id_keys(np.concatenate([codes[:, :depth], found[:, :depth]])), 2)
    kinds, place, count = np.unique(now, return_inverse=True, return_counts=True)
    moved_on = np.maximum(count - room, 0) * (not suffixed)     # and as many as there is no room for have moved further
    others = np.maximum(np.bincount(place[now != kept], minlength=len(kinds)) - moved_on, 0)
    first = int((found[:, 0] != codes[:, 0]).sum())
    if len(rows) >= FEW and 2 * first > len(rows):
        raise ValueError(f"{table.source} does not hold the features of the items that it names: the model gives "
                         f"{first:,} of {len(rows):,} published items another first code than {where}; the item IDs "
                         "are of other rows, or the features of another encoder or scale; name those that belong "
                         "together")
    if others.any() and (same is False or 10 * first > len(rows)):
        example = rows[np.flatnonzero((now != kept) & (others[place] > 0))[0]]
        example = table.item_ids[example] if table.item_ids else f"row {example}"
        warn(f"{others.sum():,} of {len(rows):,} published items get other codes by {table.source} than in {where}, "
             f"such as {example}: their features have changed, or item IDs are mixed up")


def require_new(published, table, where, own) -> None:
    """Refuse new items without item IDs that begin with those published; say so where new ones may be those under
    other IDs.

    Args:
        published: the `SemanticIds` in the file `where`.
        table: the features of the new items.
        own: (N, L) what the model gives these.

    Raises:
        ValueError: naming how many are published already.
    """
    count, taken = min(len(published.codes), len(own)), published.codes[:, :own.shape[1]]
    if count < FEW:
        return
    by_chance = ((np.bincount(taken[:count, 0]) / count) ** 2).sum()
    if published.item_ids is None and (own[:count, 0] == taken[:count, 0]).mean() > (1 + by_chance) / 2:
        raise ValueError(f"the first {count:,} rows of {table.source} are the items that {where} has already, by what "
                         "the model gives them; give the new ones alone, or item IDs on both sides")
    depth = max(1, own.shape[1] - 1)                # where two share an ID, one has moved to another last code
    kinds, keys = np.unique(id_keys(np.concatenate([taken, own])[:, :depth]), return_inverse=True)
    before, now = (np.bincount(part, minlength=len(kinds)) for part in (keys[:len(taken)], keys[len(taken):]))
    share = np.minimum(before, now).sum() / len(taken)
    if len(kinds) > FEW and share > 0.8:
        warn(f"the new items of {table.source} lie where {share:.0%} of those in {where} do; if they are the same "
             "items under other item IDs, these are published twice")
