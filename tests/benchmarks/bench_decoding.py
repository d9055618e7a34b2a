"""What it costs to hold beams to items: milliseconds of a step, bytes and seconds of the index; and one item's codes.

    python tests/benchmarks/bench_decoding.py [--items 3700 1000000 10000000] [--beams 20 50] [--ckpt PATH]

A step takes B beams' logits (B, 256), makes -inf of what no item goes on with, and follows the codes chosen. Each way
walks the same IDs, in turn with the others; CPU milliseconds, the median over `--rounds` walks. `rectokens` where it is
installed. IDs are random: 3 codes of 256, 4 from ten million items on.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from rqvae import RqVae, recipe
from rqvae.ids.lookup import SemanticIdIndex
from rqvae.programs import export_program
from rqvae.ids.trie import CodeTrie

K = 256


class Old:
    """`SemanticIdIndex.next_codes`, a beam at a time."""

    def __init__(self, codes):
        self.index = SemanticIdIndex(codes)
        parts = [self.index.codes, self.index._rows, self.index._sorted, *self.index._starts]
        self.bytes = sum(part.nbytes for part in parts)

    def walk(self, ids, logits):
        for level, table in enumerate(logits):
            found = torch.full_like(table, float("-inf"))
            for row, prefix in enumerate(ids[:, :level].tolist()):
                following = torch.from_numpy(self.index.next_codes(prefix))
                found[row, following] = table[row, following]


class New:
    """`CodeTrie`, all beams at once."""

    def __init__(self, codes):
        self.trie = CodeTrie(codes, K)
        self.bytes = self.trie.nbytes

    def walk(self, ids, logits):
        states = self.trie.start(len(ids))
        for level, table in enumerate(logits):
            table.masked_fill(~self.trie.allowed(states), float("-inf"))
            states = self.trie.advance(states, ids[:, level])


class NewWithout(New):
    """The same with a thousand items left out."""

    def __init__(self, codes):
        super().__init__(codes)
        self.trie = self.trie.without(np.arange(1000))


class Dicts:
    """Nested dicts, a beam at a time, as most published code has it."""

    bytes = None

    def __init__(self, codes):
        self.root = {}
        for item in codes.tolist():
            node = self.root
            for code in item:
                node = node.setdefault(code, {})

    def walk(self, ids, logits):
        nodes, chosen = [self.root] * len(ids), ids.tolist()
        for level, table in enumerate(logits):
            found = torch.full_like(table, float("-inf"))
            for row, node in enumerate(nodes):
                following = list(node)
                found[row, following] = table[row, following]
            nodes = [node[item[level]] for node, item in zip(nodes, chosen)]


class Rectokens:
    """Its batched mask: dense for two levels, then compressed rows."""

    def __init__(self, codes):
        from rectokens.decoding.vntk import vtnk_pytorch
        from rectokens.schemas.compact_csr_trie import CompactCSRTrie
        order = np.lexsort(codes.T[::-1])
        self.step, self.trie = vtnk_pytorch, CompactCSRTrie.from_sorted_batch(torch.from_numpy(codes[order]), K, 2)
        self.bytes = sum(value.nbytes for part in self.trie for value in (part if isinstance(part, list) else [part])
                         if isinstance(value, torch.Tensor))

    def walk(self, ids, logits):
        for level, table in enumerate(logits):
            if level < 2:
                mask = self.trie.dense_mask_by_layer[level]
                mask = mask[tuple(ids[:, :level].unbind(1))] if level else mask
                torch.where(mask, table, float("-inf"))
                node = self.trie.dense_states[tuple(ids[:, :2].unbind(1))] if level else None
            else:
                following, codes, _ = self.step(table, node, self.trie, level)
                node = following[torch.arange(len(ids)), (codes == ids[:, level, None]).int().argmax(1)]


WAYS = {"next_codes": Old, "CodeTrie": New, "CodeTrie, 1000 left out": NewWithout, "nested dicts": Dicts,
        "rectokens": Rectokens}


def compare(items, beams, rounds):
    generator = np.random.default_rng(0)
    codes = generator.integers(0, K, (items, 3 if items < 10_000_000 else 4))
    built, levels = {}, codes.shape[1]
    for name, kind in WAYS.items():
        began = time.process_time()
        try:
            built[name] = kind(codes)
        except ImportError as error:
            print(f"{items:>11,}  {name:<24} not measured: {error}")
            continue
        seconds, size = time.process_time() - began, built[name].bytes
        size = f"{size / items:.0f} bytes an ID" if size else "(Python objects)"
        print(f"{items:>11,}  {name:<24} built in {seconds:7.2f} s   {size}", flush=True)
    for count in beams:
        ids = torch.from_numpy(codes[generator.integers(0, items, count)])
        logits, spent = torch.randn(levels, count, K), {name: [] for name in built}
        for turn in range(rounds + 1):
            for name, way in built.items():
                began = time.process_time()
                way.walk(ids, logits)
                if turn:
                    spent[name].append((time.process_time() - began) * 1000 / levels)
        print(f"{items:>11,}  {count} beams, ms a step: " +
              ", ".join(f"{name} {statistics.median(times):.3f}" for name, times in spent.items()), flush=True)


def one_item(ckpt, rounds):
    try:
        import onnxruntime
    except ImportError as error:
        print(f"one item: not measured: {error}")
        return
    model = (RqVae.load_from_checkpoint(ckpt) if ckpt else RqVae(**recipe.model_options(input_dim=768))).eval()
    features, options = torch.randn(1, model.input_dim), onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        export_program(model, f"{folder}/tokenizer.onnx")
        session = onnxruntime.InferenceSession(f"{folder}/tokenizer.onnx", options, providers=["CPUExecutionProvider"])
    spent = {"ONNX Runtime": [], "generate_semantic_ids": []}
    for _ in range(rounds):
        for name, work in (("ONNX Runtime", lambda: session.run(None, {"features": features.numpy()})),
                           ("generate_semantic_ids", lambda: model.generate_semantic_ids(features))):
            began = time.perf_counter()
            work()
            spent[name].append((time.perf_counter() - began) * 1e6)
    print("one item, p50: " + ", ".join(f"{name} {statistics.median(times):.0f} us" for name, times in spent.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[3_700, 1_000_000, 10_000_000])
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--ckpt", help="a checkpoint for the last line (default: an untrained model of 768 columns)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one_item(arguments.ckpt, 20 * arguments.rounds)
    for items in arguments.items:
        compare(items, arguments.beams, arguments.rounds)


if __name__ == "__main__":
    main()
