"""A model folder as the Hugging Face convention has it: configuration, weights and card, here or by name on the hub.

Knows no model.
"""

import json
import re
import zlib
from collections import OrderedDict
from pathlib import Path

from .checkpoint import bare_weights, check_kinds, plain, serialised
from .files import write_atomically
from .sets import remove_outdated, together
from .words import describe_content, nearest_names
from .torch_files import CheckpointError, read_torch_file, some

CONFIG_NAME = "config.json"
SAFETENSORS_NAME = "model.safetensors"
TORCH_WEIGHTS_NAME = "pytorch_model.bin"
ORIGIN = "_origin"          # of `checkpoint.origin_of`; loaders of others, and of before, pass over names like that
FOLDER_NAMES = (CONFIG_NAME, SAFETENSORS_NAME, TORCH_WEIGHTS_NAME)
CARD_NAME = "README.md"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CARD = """---
library_name: rqvae
tags: [semantic-ids, generative-recommendation, rq-vae]
---

# A tokenizer of items: {levels} levels of {sizes} codes

It turns the features of an item, {width} numbers, into a semantic ID of {levels} codes. \
Written by `rqvae` {version}; load it with

```python
from rqvae import RqVae, batch_inference

model = RqVae.from_pretrained("this folder, or its name on the hub")
codes = batch_inference(model, features, device="auto")         \
# features: (items, {width}), of the encoder of the training
```

To be said by you: which items it was trained on, with the features of which encoder, \
and how good its IDs are (`infer --ckpt FOLDER --data FILE
--report`).

| | |
| --- | --- |
{rows}
"""


def save_folder(folder, config, state_dict, *, safe_serialization=None, overwrite=False) -> None:
    """Write `config.json` beside the weights, as the Hugging Face convention has it.

    Args:
        folder: created if missing; weights of the other format in it are removed.
        config: plain JSON values.
        state_dict: name -> tensor.
        overwrite: replace also what is another kind of model's.
        safe_serialization: True writes `model.safetensors`, False `pytorch_model.bin`, None the
            former where the package safetensors is installed.

    Raises:
        ImportError: safetensors was asked for and is not installed.
        FileExistsError: the folder holds a model of another `model_type`, and `overwrite` is off.
        TypeError, ValueError: `config` does not fit into JSON.
        OSError: a file could not be written; the message names it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a model is saved as a folder")
    package = _safetensors()
    if safe_serialization is None:
        safe_serialization = package is not None
    elif safe_serialization and package is None:
        raise ImportError("safe_serialization=True needs the package safetensors: "
                          "pip install safetensors, or pass safe_serialization=False")
    if not overwrite:
        _refuse_another_kind(folder, config)
    weights = plain(OrderedDict(state_dict), "state_dict")
    content = package.save(weights, metadata={"format": "pt"}) if safe_serialization else serialised(weights)
    name, stale = (SAFETENSORS_NAME, TORCH_WEIGHTS_NAME)[::1 if safe_serialization else -1]
    # Which weights it belongs to.
    pair = {"file": name, "crc32": zlib.crc32(content), "options": _options_crc32(config)}
    text = json.dumps({**config, "weights": pair}, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with together():
        write_atomically(folder / name, lambda file: file.write(content))
        write_atomically(folder / CONFIG_NAME, lambda file: file.write(text.encode()))
        remove_outdated(folder / stale)


def _refuse_another_kind(folder, config):
    path = folder / CONFIG_NAME
    if path.is_file():
        try:
            found = read_config(path).get("model_type")
        except CheckpointError:
            found = None
        if found != config.get("model_type"):
            raise FileExistsError(f"{folder} holds a model of another kind ({some([repr(found)])} in {CONFIG_NAME}); "
                                  "choose another folder, or have it overwritten (overwrite=True, --overwrite)")


def load_folder(folder) -> tuple:
    """Read what `save_folder` wrote -> (config without names that begin with `_`, but for ORIGIN, CPU state_dict).

    Raises:
        FileNotFoundError: no such folder, or a file missing in it.
        CheckpointError: a file in it is damaged or something else.
        ImportError: it holds only `model.safetensors` and safetensors is not installed.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} not found{nearest_names(folder)}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder with {CONFIG_NAME} and "
                              "weights (a .ckpt file is read by load_from_checkpoint)")
    config = read_config(folder / CONFIG_NAME)
    check_kinds({"rqvae": {"notes": config.get(ORIGIN)}}, folder / CONFIG_NAME)
    safe, pickled = folder / SAFETENSORS_NAME, folder / TORCH_WEIGHTS_NAME
    for path in (safe, pickled):
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is a folder, a device or a pipe; expected a file of weights")
    pair = config.pop("weights", None)
    pair = pair if isinstance(pair, dict) and isinstance(pair.get("crc32"), int) else {}
    if safe.exists() and (_safetensors() is not None or not pickled.exists()) and not (
            pair.get("file") == pickled.name and pickled.exists()):
        path, weights = safe, bare_weights(read_safetensors(safe), safe)
    elif pickled.exists():
        path, weights = pickled, bare_weights(read_torch_file(pickled), pickled)
    else:
        raise FileNotFoundError(f"{folder} holds neither {safe.name} nor {pickled.name}; "
                                "expected a folder written by save_pretrained")
    if pair.get("file") == path.name and _crc32(path) != pair["crc32"]:
        raise CheckpointError(f"{folder}: {path.name} does not belong to {CONFIG_NAME}: one of them was replaced "
                              "or is damaged; save the model again")
    if pair.get("options", _options_crc32(config)) != _options_crc32(config):
        raise CheckpointError(f"{folder}: {CONFIG_NAME} was edited since the weights were saved with it, and with "
                              "other options they give other codes; save the model again, or take out its "
                              "\"weights\" if the edit is right")
    return config, weights


def _options_crc32(config) -> int:
    return zlib.crc32(json.dumps({name: value for name, value in config.items() if name[:1] != "_"},
                                 sort_keys=True).encode())


def _crc32(path) -> int:
    found = 0
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            found = zlib.crc32(piece, found)
    return found


def write_card(folder, config) -> None:
    """A card for the model of `config` beside it, unless there is one, which may be written by hand."""
    path = Path(folder) / CARD_NAME
    if path.exists():
        return
    sizes = config["num_embeddings"]
    text = _CARD.format(
        levels=config["num_quantizers"], width=config["input_dim"], version=config["rqvae_version"],
        sizes=sizes if isinstance(sizes, int) else ", ".join(map(str, sizes)),
        rows="\n".join(f"| `{name}` | {value} |" for name, value in config.items()
                       if name not in ("model_type", "rqvae_version", ORIGIN)))
    write_atomically(path, lambda file: file.write(text.encode()))


def local_folder(name) -> Path:
    """The folder itself; or that of a model of the hub, fetched by huggingface_hub: configuration and weights alone.

    Raises:
        ImportError: it is not here, looks like a name on the hub, and huggingface_hub is not installed.
        FileNotFoundError: the hub has no such model, or cannot be reached.
    """
    if Path(name).exists() or not _HUB_NAME.fullmatch(str(name)):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(f"there is no folder {name}; to fetch a model of that name from the Hugging Face hub: "
                          "pip install huggingface_hub") from error
    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG_NAME, SAFETENSORS_NAME, TORCH_WEIGHTS_NAME]))
    except Exception as error:          # of the hub's client, or of the network below it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(f"there is no folder {name}, and no model of that name could be fetched from the "
                                f"Hugging Face hub ({reason})") from error


def read_config(path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; expected a folder written by save_pretrained")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {describe_content(path)} ({error}); "
                              "save or download the model again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, expected an object of "
                              "constructor arguments")
    return {name: value for name, value in config.items() if not name.startswith("_") or name == ORIGIN}


def read_safetensors(path) -> dict:
    package = _safetensors()
    if package is None:
        raise ImportError(f"{path} needs the package safetensors: pip install safetensors, or save "
                          "the model with safe_serialization=False")
    content = path.read_bytes()
    try:
        return package.load(content)
    except Exception as error:      # SafetensorError, but also KeyError, TypeError, ...
        raise CheckpointError(f"{path} is no usable safetensors file: {describe_content(path)} "
                              f"({error}); save or download the model again") from error


def _safetensors():
    """The module safetensors.torch, or None where the optional package is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        return None
    return safetensors.torch
