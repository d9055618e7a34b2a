"""Semantic IDs out: collisions resolved, tokens, look-up, the files that we and other systems read, their formats."""

from typing import NamedTuple, Tuple


class Format(NamedTuple):
    """A format of another system."""

    suffixes: Tuple[str, ...]   # of the main file; the first is what it gets in a folder
    sentence: str               # for whom and what


_INDEX = (".index.json", ".json")
FORMATS = {
    "lcrec": Format(_INDEX, "LC-Rec, LETTER: the token index"),
    "minionerec": Format(_INDEX, "MiniOneRec: the token index, and info/<name>.txt with titles"),
    "minionerec-kmeans": Format(_INDEX, "MiniOneRec, k-means: codes from 1, collisions numbered"),
    "grid": Format((".pt",), "GRID: tensor (levels + 1, items), collisions numbered"),
    "tiger": Format((".npy", ".pt"), "TIGER, genrec, RQ-VAE-Recommender: table (items, levels + 1), collisions "
                                     "numbered; the latter two read no file, but take it in one line: docs/formats.md"),
    "openonerec": Format((".parquet",), "OpenOneRec: Parquet of pid and codes, and a .txt of the ID texts"),
    "torcheasyrec": Format((".parquet",), "TorchEasyRec: Parquet of item_id, codes, codes with offsets and ranked "
                                          "alternatives (candidate_codes), and one from each ID to its items"),
    "flashrec": Format((".json",), "FlashRec: the catalogue of its --sid-vocab-file, from each ID to its items"),
    "rectokens": Format((".pt",), "rectokens: tensor (items, levels) for build_item_trie"),
    "semantic-id": Format((".txt",), "semantic-id: a line 3-9-1 for each item"),
}
