"""The items that a command names: a feature file, item texts, a P5 folder, or the built-in catalogue."""

from pathlib import Path
from typing import NamedTuple

from ..items.amazon_p5 import P5AmazonItemDataset
from ..items.batches import FeatureDataset, open_features
from ..items.catalogue import load_stdlib_docs
from ..items import DEFAULT_ENCODER
from ..items.interactions import Interactions, p5_interactions, read_interactions
from ..items.texts import encode_texts_once, read_texts
from ..storage.files import cache_folder

class Items(NamedTuple):
    """Items ready to train on or to encode."""

    dataset: FeatureDataset
    description: str            # "3,686 items of 384 features from industrial.npy"
    places: dict                # the arguments that open them again


def open_items(*, data=None, key=None, item_ids=None, texts=None, text_columns=None, id_column=None, p5=None,
               split=None, encoder=None, device="auto") -> Items:
    """Open what the options (see item_options.OPTIONS) name; without `data`, `texts` and `p5` the built-in catalogue.

    Raises:
        ValueError: more than one source is named, or an option of another source; and what opening raises.
    """
    places = {"data": data, "key": key, "item_ids": item_ids, "texts": texts, "text_columns": text_columns,
              "id_column": id_column, "p5": p5, "split": split, "encoder": encoder}
    _check_together(places)
    encoder = encoder or DEFAULT_ENCODER
    if texts is not None:
        read = read_texts(texts, text_columns=text_columns or ["text"], id_column=id_column)
        features = encode_texts_once(read.texts, cache_folder(), Path(texts).stem, encoder, device=device)
        dataset = FeatureDataset(features, item_ids=read.item_ids if item_ids is None else item_ids, names=read.names)
        source = f"{texts}, encoded by {encoder}"
    elif p5 is not None:
        dataset = P5AmazonItemDataset(p5, split or "beauty", features=data, model_name=encoder, device=device)
        source = f"the split {split or 'beauty'} of {p5}"
    elif data is not None:
        dataset = FeatureDataset(open_features(data, key=key, item_ids=item_ids))
        source = data
    else:
        catalogue = load_stdlib_docs()
        dataset = FeatureDataset(catalogue.features, names=catalogue.names)
        source = "the built-in catalogue (Python's own library: an item a documented function, class or module)"
    rows, width = dataset.table.shape
    return Items(dataset, f"{rows:,} items of {width} features from {source}", places)


def open_interactions(table, *, interactions=None, user_column=None, item_column=None, time_column=None, p5=None,
                      split=None) -> Interactions:
    """What users did with the items of `table`, from the file or else from the P5 folder that is named; None for
    neither.

    Raises:
        ValueError: a column is named, but no file; and what reading raises.
    """
    columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
    if interactions is not None:
        return read_interactions(interactions, len(table), table.item_ids, **columns)
    given = [name for name, value in columns.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} needs --interactions")
    return None if p5 is None else p5_interactions(p5, split or "beauty")


def _check_together(places):
    """One source at a time, and no option that another source would need."""
    given = {name for name, value in places.items() if value is not None}
    for source, others in (("texts", {"data", "p5", "key", "split"}), ("p5", {"texts", "key", "item_ids"})):
        if source in given and given & others:
            wrong = sorted(given & others)[0].replace("_", "-")
            raise ValueError(f"--{wrong} does not go with --{source}; leave one of them out")
    for option, source in (("key", "data"), ("item_ids", "data or --texts"), ("text_columns", "texts"),
                           ("id_column", "texts"), ("split", "p5"), ("encoder", "texts or --p5")):
        if option in given and not given & set(source.replace("-", "").split(" or ")):
            raise ValueError(f"--{option.replace('_', '-')} needs --{source}")
