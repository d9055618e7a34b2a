"""The items that a command names: a feature file, or the built-in catalogue when it names none."""

from typing import NamedTuple

from .data import FeatureDataset, open_features
from .stdlib_docs import load_stdlib_docs


class Items(NamedTuple):
    """Items ready to train on or to encode."""

    dataset: FeatureDataset
    description: str            # "3,686 items of 384 features from industrial.npy"
    places: dict                # the arguments that open them again


def open_items(data=None, *, key=None, item_ids=None) -> Items:
    """Open the features at `data`, or the built-in catalogue for None. See `data.open_features`."""
    if data is None:
        catalogue = load_stdlib_docs()
        dataset = FeatureDataset(catalogue.features, names=catalogue.names)
        source = "the built-in catalogue (Python's own library, one item a documented function, class or module)"
    else:
        dataset = FeatureDataset(open_features(data, key=key, item_ids=item_ids))
        source = str(data)
    rows, width = dataset.table.shape
    return Items(dataset, f"{rows:,} items of {width} features from {source}",
                 {"data": None if data is None else str(data), "key": key,
                  "item_ids": None if item_ids is None else str(item_ids)})
