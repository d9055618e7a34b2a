"""A model folder on the Hugging Face hub: the card that lies in it, and its download by name. Knows no model."""

import re
from pathlib import Path

from .checkpoint import CONFIG_NAME, SAFETENSORS_NAME, TORCH_WEIGHTS_NAME
from .files import write_atomically

CARD_NAME = "README.md"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CARD = """---
library_name: rqvae
tags: [semantic-ids, generative-recommendation, rq-vae]
---

# A tokenizer of items: {levels} levels of {sizes} codes

It turns the features of an item, {width} numbers, into a semantic ID of {levels} codes. Written by `rqvae` {version}; load it with

```python
from rqvae import RqVae, batch_inference

model = RqVae.from_pretrained("this folder, or its name on the hub")
codes = batch_inference(model, features, device="auto")         # features: (items, {width}), of the encoder of the training
```

To be said by you: which items it was trained on, with the features of which encoder, and how good its IDs are (`infer --ckpt FOLDER --data FILE
--report`).

| | |
| --- | --- |
{rows}
"""


def write_card(folder, config) -> None:
    """A card for the model of `config` beside it, unless there is one, which may be written by hand."""
    path = Path(folder) / CARD_NAME
    if path.exists():
        return
    sizes = config["num_embeddings"]
    text = _CARD.format(
        levels=config["num_quantizers"], width=config["input_dim"], version=config["rqvae_version"],
        sizes=sizes if isinstance(sizes, int) else ", ".join(map(str, sizes)),
        rows="\n".join(f"| `{name}` | {value} |" for name, value in config.items() if name not in ("model_type", "rqvae_version")))
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
        raise ImportError(f"there is no folder {name}; to fetch a model of that name from the Hugging Face hub: pip install "
                          "huggingface_hub") from error
    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG_NAME, SAFETENSORS_NAME, TORCH_WEIGHTS_NAME]))
    except Exception as error:          # of the hub's client, or of the network below it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(f"there is no folder {name}, and no model of that name could be fetched from the Hugging Face "
                                f"hub ({reason})") from error
