"""The items that a command names: a feature file, item texts, a P5 folder, or the built-in catalogue."""

import contextlib
import copy
import glob
import os
from pathlib import Path
from typing import NamedTuple

from ..items.amazon_p5 import P5AmazonItemDataset
from ..items.batches import FeatureDataset, open_features
from ..items.blending import BlendedTable
from ..items.catalogue import load_stdlib_docs
from ..items import DEFAULT_ENCODER
from ..items.interactions import Interactions, p5_interactions, read_interactions
from ..items.texts import encode_texts_once, read_texts
from ..storage.files import cache_folder
from ..storage.sets import is_expected
from ..storage.words import counted, nearest_names, shown
from .item_options import INTERACTIONS, OPTIONS

INPUTS = "data", "item_ids", "texts", "interactions", "names", "pairs", "ids", "against", "append_to", "from_", "keep"


class Items(NamedTuple):
    """Items ready to train on or to encode."""

    dataset: FeatureDataset
    description: str            # "3,686 items of 384 features from industrial.npy"
    places: dict                # the arguments that open them again
    interactions: Interactions = None       # what the features are blended with, see `BlendedTable`


def open_items(*, data=None, key=None, item_ids=None, texts=None, text_columns=None, id_column=None, p5=None,
               split=None, text_style=None, encoder=None, device="auto", may_load=True) -> Items:
    """Open what the options (see item_options.OPTIONS) name; without `data`, `texts` and `p5` the built-in catalogue.

    Args:
        may_load: whether the encoder may be loaded, which can run code: not where only a file names it.

    Raises:
        ValueError: more than one source is named, or an option of another source; and what opening raises.
    """
    places = {"data": data, "key": key, "item_ids": item_ids, "texts": texts, "text_columns": text_columns,
              "id_column": id_column, "p5": p5, "split": split, "text_style": text_style, "encoder": encoder}
    _check_together(places)
    encoder = encoder or DEFAULT_ENCODER
    if texts is not None:
        places.update(encoder=encoder, text_columns=text_columns or ["text"])       # what was used, given or not
        read = read_texts(texts, text_columns=text_columns or ["text"], id_column=None if item_ids else id_column)
        features = encode_texts_once(read.texts, cache_folder(), Path(texts).stem, encoder, device=device,
                                     may_load=may_load)
        table = open_features(features, item_ids=read.item_ids if item_ids is None else item_ids,
                              id_column=id_column if item_ids else None)
        dataset = FeatureDataset(table, names=read.names)
        source = f"{texts}, encoded by {encoder}"
    elif p5 is not None:
        places.update(split=split or "beauty", encoder=encoder if data is None else None)
        dataset = P5AmazonItemDataset(p5, split or "beauty", features=data, model_name=encoder, device=device,
                                      text_style=text_style or "plain", may_load=may_load)
        source = f"the split {split or 'beauty'} of {p5}"
    elif data is not None:
        several = isinstance(data, (list, tuple))
        dataset = FeatureDataset(open_features({str(path): path for path in data} if several else data, key=key,
                                               item_ids=item_ids, id_column=id_column))
        source = " and ".join(map(str, data)) if several else data
    else:
        catalogue = load_stdlib_docs()
        dataset = FeatureDataset(catalogue.features, item_ids=catalogue.names, names=catalogue.names)
        source = "the built-in catalogue (Python's own library: an item a documented function, class or module)"
    rows, width = dataset.table.shape
    return Items(dataset, f"{counted(rows, 'item')} of {counted(width, 'feature')} from {shown(source)}", places)


def open_named(options, *, blended, device="auto", may_load=True) -> Items:
    """The items that the options name.

    Args:
        options: option -> value, of item_options.OPTIONS and INTERACTIONS.
        blended: whether features are to know what users did, where the options name that as well.
        device, may_load: as in `open_items`.

    Raises: as `open_items` and `open_interactions`.
    """
    items = open_items(**{name: options.get(name) for name in OPTIONS}, device=device, may_load=may_load)
    if not blended:
        return items
    named = {name: options.get(name) for name in INTERACTIONS}
    table, places = items.dataset.table, items.places
    interactions = open_interactions(len(table), table.item_ids, **named, p5=places["p5"], split=places["split"])
    if interactions is None:
        return items
    dataset = copy.copy(items.dataset)
    dataset.table = BlendedTable(table, interactions, f"{table.source} with {named['interactions'] or places['p5']}")
    return items._replace(dataset=dataset, interactions=interactions, places={**places, **named, "blended": True})


def open_interactions(count, item_ids, *, interactions=None, user_column=None, item_column=None, time_column=None,
                      p5=None, split=None) -> Interactions:
    """What users did with `count` items, which may have `item_ids`, from the file or else from the P5 folder that is
    named; None for neither.

    Raises:
        ValueError: a column is named, but no file; and what reading raises.
    """
    columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
    if interactions is not None:
        return read_interactions(interactions, count, item_ids, **columns)
    given = [name for name, value in columns.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} needs --interactions")
    try:
        found = None if p5 is None else p5_interactions(p5, split or "beauty", count)
    except FileNotFoundError:           # items without sequences are items all the same
        return None
    return found if found and len(found.items) else None


@contextlib.contextmanager
def noted_by(where):
    """Whatever is wrong with the items that are opened here, the message says that `where` names them, not the user."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if str(where) in str(error):
            raise
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, f"{error.strerror}, which {where} names", error.filename) from error
        kind = next((kind for kind in (FileNotFoundError, IsADirectoryError, ImportError, OSError)
                     if isinstance(error, kind)), ValueError)
        raise kind(f"{error} (named by {where}; to name other items: --data)") from error


def as_recorded(options, checkpoint, folder=None) -> dict:
    """The recorded options that name items, with relative paths seen from where the run left them.

    Args:
        options: option -> value, of the notes of a checkpoint.
        checkpoint: its path.
        folder: that the run was started in, where that is known.

    Raises:
        FileNotFoundError: what the run was trained on is not there.
    """
    named = {name: options[name] if isinstance(options[name], list) else [options[name]]
             for name in ("data", "item_ids", "texts", "p5", "interactions") if options.get(name)}
    for name, paths in named.items():
        for path in paths:
            _require_near(path, name, checkpoint)
    relative = [path for paths in named.values() for path in paths if not Path(path).is_absolute()]
    # As they were seen from the folder of the run, in which the checkpoint's folder mostly lies: all from one place, as
    # a file of the same name may lie here.
    places = [Path(), *list(Path(checkpoint).absolute().parents)[1:3], *([Path(folder)] if folder else [])]
    base = next((place for place in places if all(_is_there(place / path) for path in relative)), Path())
    found = dict(options)
    for name, paths in named.items():
        for path in paths:
            if not _is_there(base / path):
                raise FileNotFoundError(f"{path}, which {checkpoint} was trained on, is not here"
                                        f"{nearest_names(Path(path))}; name it by --{name.replace('_', '-')}")
        paths = [str(base / path) for path in paths]
        found[name] = paths if isinstance(options[name], list) else paths[0]
    return found


def _require_near(path, name, checkpoint):
    """Refuse to follow a file to the network, or through many folders."""
    option = "--" + name.replace("_", "-")
    if path.startswith(("\\\\", "//")):
        raise ValueError(f"{path}, which {checkpoint} names, is on the network, about which a file is not believed; "
                         f"name it by {option} if you trust it")
    if ("**" in path or glob.has_magic(os.path.dirname(path))) and not Path(path).exists():
        raise ValueError(f"{path}, which {checkpoint} names, is sought in many folders, about which a file is not "
                         f"believed; name it by {option}")


def _is_there(path) -> bool:
    return path.exists() or glob.has_magic(path.name) and any(glob.iglob(str(path)))


def like_recorded(given, recorded, where) -> dict:
    """The options that name items, with what makes vectors out of them as a checkpoint recorded it.

    Args:
        given: option -> value or None, of this command, which names a source.
        recorded: the same of the run that wrote the checkpoint.
        where: the checkpoint, for messages.

    Raises:
        ValueError: another encoder, other columns, another way to make texts: other vectors than the model's.
    """
    given = dict(given)
    kind, kind_then = (next((name for name in ("texts", "p5") if options.get(name) and not options.get("data")), "data")
                       for options in (given, recorded))
    several = recorded.get("files") or (recorded.get("data") if isinstance(recorded.get("data"), list) else None)
    if isinstance(given.get("data"), list) and several:
        now, then = ([Path(path).name for path in paths] for paths in (given["data"], several))
        if now != then and sorted(now) == sorted(then):
            _refuse("data", " ".join(given["data"]), " ".join(then), where)
    if isinstance(given.get("data"), list) or several:
        return given
    if kind == kind_then == "data":
        if given.get("key") is None and Path(given["data"]).suffix == Path(recorded.get("data") or "").suffix:
            given["key"] = recorded.get("key")
        elif given.get("key") != recorded.get("key") \
                and os.path.abspath(given["data"]) == os.path.abspath(recorded.get("data") or ""):
            _refuse("key", given["key"], recorded.get("key"), where)
        return given
    if "data" in (kind, kind_then):         # vectors made elsewhere: their width is compared, and their error
        return given
    if kind != kind_then:
        raise ValueError(f"--{kind} does not go with {where}, which was trained on the texts of --{kind_then}: they "
                         f"are put together in another way; name the items by --{kind_then}, or their features by "
                         "--data")
    then = recorded.get("encoder") or DEFAULT_ENCODER
    if given.get("encoder") is None and then != DEFAULT_ENCODER:
        raise ValueError(f"{where} was trained on features of the encoder {then}; a file is not believed where it "
                         f"leads to code or a download, so say it: --encoder {then}")
    if given.get("encoder") is not None and _plain(given["encoder"]) != _plain(then):
        _refuse("encoder", given["encoder"], then, where)
    if kind == "texts":
        columns = recorded.get("text_columns") or ["text"]
        if given.get("text_columns") is None:
            given["text_columns"] = columns
        elif given["text_columns"] != columns:
            _refuse("text-columns", " ".join(given["text_columns"]), " ".join(columns), where)
    elif given.get("text_style") is None:
        given["text_style"] = recorded.get("text_style")
    elif given["text_style"] != (recorded.get("text_style") or "plain"):
        _refuse("text-style", given["text_style"], recorded.get("text_style") or "plain", where)
    return given


def _refuse(option, now, then, where):
    raise ValueError(f"--{option} is {now}, but {where} was trained with {then}: other features, whose IDs would mean "
                     f"nothing; give --{option} {then}, or train on these")


def _plain(encoder):
    """A folder by its place, a model of the hub by its whole name."""
    if Path(encoder).exists():
        return str(Path(encoder).resolve())
    return encoder if "/" in encoder else f"sentence-transformers/{encoder}"


def require_inputs(arguments) -> None:
    """Say which file that is named is not there, before anything is said of what is to be written."""
    for name in INPUTS:
        named = getattr(arguments, name, None)
        for path in named if isinstance(named, list) else [named]:
            if path and not glob.has_magic(path) and not os.path.exists(path):
                raise FileNotFoundError(f"{path} does not exist{nearest_names(path)}")


def refuse_to_replace(inputs) -> None:
    """Refuse a command that would write over what it reads, though it may replace files.

    Args:
        inputs: option -> a path, several, a folder, a pattern, or what is none.
    """
    for option, named in inputs.items():
        if isinstance(named, bool):
            continue
        for path in [named] if isinstance(named, (str, os.PathLike)) else named or ():
            files = Path(path).iterdir() if os.path.isdir(path) else map(Path, glob.glob(str(path)) or [path])
            if any(map(is_expected, files)):
                raise ValueError(f"--{option.replace('_', '-')} is {path}, which this command would replace; "
                                 "choose another name for what it writes")


def _check_together(places):
    """One source at a time, and no option that another source would need."""
    given = {name for name, value in places.items() if value is not None}
    for source, others in (("texts", {"data", "p5", "key", "split"}),
                           ("p5", {"texts", "key", "item_ids", "id_column"})):
        if source in given and given & others:
            wrong = sorted(given & others)[0].replace("_", "-")
            raise ValueError(f"--{wrong} does not go with --{source}; leave one of them out")
    for option, source in (("key", "data"), ("item_ids", "data or --texts"), ("text_columns", "texts"),
                           ("id_column", "data or --texts"), ("split", "p5"), ("text_style", "p5"),
                           ("encoder", "texts or --p5")):
        if option in given and not given & set(source.replace("-", "").split(" or ")):
            raise ValueError(f"--{option.replace('_', '-')} needs --{source}")
