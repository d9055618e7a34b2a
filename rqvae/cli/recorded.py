"""What a checkpoint notes of the items that it was trained on, and whether these are still the same."""

import hashlib
import os

from ..report.inputs import trained_and_held_out


def identity(table) -> dict:
    """What tells these items from any others: of their numbers, and of their item IDs, in this order; and where we are."""
    ids = None if table.item_ids is None else \
        hashlib.sha256("\n".join(map(str, table.item_ids)).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return {"features_checksum": table.checksum(), "item_ids_checksum": ids, "folder": os.getcwd()}


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
    notes = run_of.get("notes") or {}
    if "features_checksum" in notes:
        same = table.has_checksum(notes["features_checksum"])
    elif run_of.get("fingerprint") is None:
        return
    else:
        same = trained_and_held_out(run_of, table) is not None
    what, noted = "features", notes.get("item_ids_checksum")
    if same and noted is not None and item_ids is None:
        what, same = "item IDs", identity(table)["item_ids_checksum"] == noted
    if not same:
        raise ValueError(f"{table.source} does not hold the {what} any more that {checkpoint} was trained on (rows were "
                         "changed, added, removed or put in another order); name it by --data to encode what it holds "
                         "now, or put the old file back")
