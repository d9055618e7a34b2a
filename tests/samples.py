"""Small item sets, plain loaders and processes for the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset


ROOT = Path(__file__).parents[1]
TINY = ["--num-embeddings", "8", "--hidden-dim", "16", "--latent-dim", "8", "--batch-size", "32"]    # for train.py


class Rows(Dataset):
    """A plain map-style data set of {"features": (D,)}, as a user would write one."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return len(self.features)

    def __getitem__(self, index):
        return {"features": self.features[index]}


def loader(features, batch_size=32, shuffle=False, **options):
    return DataLoader(Rows(features), batch_size=batch_size, shuffle=shuffle, **options)


def clustered(num_items=300, width=12, clusters=20, seed=0):
    """(N, D) rows around a few centres: something to learn."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, width, generator=generator)
    kinds = torch.randint(clusters, (num_items,), generator=generator)
    return centres[kinds] + 0.2 * torch.randn(num_items, width, generator=generator)


def in_a_process(*argv, **options):
    """`train.py` with these arguments, started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *argv], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def language_model(kind="gpt2"):
    """A tokenizer of a few words and a tiny model of Hugging Face's, as from_pretrained would give them."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = ["<pad>", "</s>", "<unk>", "a", "user", "took", "then"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>",
                                                     unk_token="<unk>", padding_side="left",
                                                     model_input_names=["input_ids", "attention_mask"])
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    model = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
            n_embd=32, n_layer=1, n_head=2, n_positions=64, **sizes)),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=False, **{**sizes, "vocab_size": 200})),
        "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
            d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2, decoder_start_token_id=0, **sizes)),
    }[kind]()
    return tokenizer, model.eval()
