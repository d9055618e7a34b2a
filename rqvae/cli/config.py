"""Options from a file: JSON or TOML written by hand, or a checkpoint, whose run recorded its own.

Needs no torch itself.
"""

import difflib
import json
import os
import sys
from inspect import signature
from pathlib import Path

from ..storage.words import brief, spelled
from .item_options import INTERACTIONS, OPTIONS

# What a recorded run does not hand on: a file is not believed where it leads to code or a download.
NOT_HANDED_ON = ("encoder",)
# And what it does, beside the arguments of the model and the options that name items: none names a file to write.
HANDED_ON = ("preset", "val_fraction", "seed", "epochs", "batch_size", "weights", "from_", "keep")


@spelled
def options_of(path, actions, others=()) -> dict:
    """The options that a file sets: dest -> value.

    Args:
        path: .json, .toml, or the .ckpt of a run.
        actions: of the parser, by dest.
        others: names of the options that the other command alone has.

    Raises:
        ValueError: another kind of file, an option that there is not, a value of another kind.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--config is {path}, which is not a file")
    if path.suffix == ".ckpt" and "ckpt" in actions:
        raise ValueError(f"--config is {path}, whose options are those of train; infer takes it by --ckpt {path}, "
                         "with the items that it was trained on")
    if path.suffix == ".ckpt":
        found = {name: _listed(value, actions[name]) for name, value in _recorded(path).items()
                 if name in actions and value is not None}
        wrong = {name: words for name, value in found.items() if (words := _wrong(value, actions[name]))}
        if wrong:
            name = next(iter(wrong))
            raise ValueError(f"{path}: {name} is {brief(found[name])!r}, which no run records; "
                             f"it must be {wrong[name]}")
        return found
    found, actions = {}, {name: action for name, action in actions.items() if name not in ("help", "version", "config")}
    for written, value in _read(path):
        name = written.replace("-", "_")
        name = f"{name}_" if f"{name}_" in actions else name            # "from"
        if name not in actions:
            raise ValueError(f"{path} sets {written}, which {_no_option(name, actions, others)}")
        if name in found:
            raise ValueError(f"{path} sets {written} twice; leave one of them out")
        if value is None:
            raise ValueError(f"{path} sets {written} to nothing (null); leave it out")
        found[name] = actions[name].const if value is True and actions[name].nargs == "?" else \
            _listed(value, actions[name])
        wrong = _wrong(found[name], actions[name])
        if wrong:
            raise ValueError(f"{path} sets {written} to "
                             f"{repr(value[:60]) if isinstance(value, str) else brief(value)}; it must be {wrong}")
    return found


def _no_option(name, actions, others) -> str:
    """What a name is that is no option of this command: one of the other, or a slip of the pen."""
    if name in others:
        ours, other = ("infer", "train") if "ckpt" in actions else ("train", "infer")
        return f"is an option of {other} and not of {ours}; keep a file for each of them"
    near = difflib.get_close_matches(name, [known.rstrip("_") for known in actions], n=1, cutoff=0.6)
    return "is no option" + (f"; did you mean {near[0]}?" if near else "")


def _listed(value, action):
    """One value where several may stand; one --data is no list of one: a list of them is several embeddings an item."""
    several = action is not None and action.nargs == "+" and action.dest != "data"
    return [value] if several and not isinstance(value, list) else value


def _read(path):
    """[(name, value)] of a file, also those that stand there twice."""
    if path.suffix not in (".json", ".toml"):
        raise ValueError(f"--config is {path}; its suffix must be .json, .toml, or .ckpt for the options of a run")
    if path.suffix == ".toml" and sys.version_info < (3, 11):
        raise ValueError(f"{path}: TOML needs Python 3.11; write it as .json")
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            found = json.loads(text, object_pairs_hook=_Pairs)
        else:
            import tomllib
            found = _Pairs(tomllib.loads(text).items())
    except (ValueError, RecursionError) as error:           # no JSON, no text, a number of 5,000 digits
        raise ValueError(f"{path} cannot be read as {path.suffix} ({error})") from error
    if not isinstance(found, _Pairs):
        raise ValueError(f'{path} holds a {type(found).__name__}; expected options such as {{"epochs": 20}}')
    return found


class _Pairs(list):
    """An object of JSON."""


def _recorded(path):
    from .threads import settle_threads
    settle_threads()
    from ..storage.checkpoint import load_checkpoint
    from ..model import RqVae
    handed_on = {*HANDED_ON, *OPTIONS, *INTERACTIONS, *signature(RqVae).parameters} - {*NOT_HANDED_ON}
    loaded = load_checkpoint(path)
    found = {**loaded["hyper_parameters"], **((loaded.get("rqvae") or {}).get("notes") or {})}
    return {name: value for name, value in found.items() if name in handed_on}


def _wrong(value, action):
    """What a value must be where it is something else; "" where it is right."""
    if action.nargs == 0:
        return "" if isinstance(value, bool) else "true or false"
    if action.nargs == "+":
        if value == []:
            return "a list of at least one"
        each_one = value if isinstance(value, list) else [value]
        return next(filter(None, (_wrong_one(each, action) for each in each_one)), "")
    return _wrong_one(value, action)


def _wrong_one(value, action):
    if isinstance(value, str) and unusable(value, action):
        return "a name without a NUL or half a character" if value else "a text that is not empty"
    if action.choices is not None and value not in action.choices:
        return "one of " + ", ".join(map(str, action.choices))
    kinds = {int: ((int,), "a whole number"), float: ((int, float), "a number")}
    kind, words = kinds.get(action.type, ((str,), "text"))
    return "" if isinstance(value, kind) and not isinstance(value, bool) else words


def unusable(word, action):
    """Why no option can mean this word; None for all others."""
    if not word and action.const != "":
        return "empty; leave it out, or say what it is: a variable of the shell that is not set is empty"
    try:
        return f"{word!r}, which holds a NUL, and no file has such a name" if b"\0" in os.fsencode(word) else None
    except UnicodeEncodeError:
        return f"{word!r}, which holds half a character, and no file has such a name"
