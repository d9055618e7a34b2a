"""The built-in catalogue: Python's documented standard library as items with features.

Real text on every machine, with no download. The sources are parsed, never imported. Knows nothing
about models, nor about files that a user brings.

Shapes:  N items   V word buckets   D feature width
"""

import ast
import json
import os
import platform
import re
import sysconfig
import tokenize
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import torch

from ..storage.files import cache_folder, remove_stale_temporaries, write_atomically

_BUCKETS = 8192         # V
_RECIPE = 1             # part of the cache's file name: raise it when features come out differently
_TEST_FOLDERS = {"test", "tests", "idle_test"}
_WORD = re.compile(r"[^\W_]+")


class Catalogue(NamedTuple):
    features: torch.Tensor  # (N, D) float32, rows of length 1
    names: List[str]        # dotted paths, unique and sorted: "ftplib.FTP.login"
    texts: List[str]        # docstrings, indentation removed


def load_stdlib_docs(*, width: int = 256, cache_dir=None) -> Catalogue:
    """Every documented public function, class and module of this Python's standard library.

    The first call takes seconds; its result is kept in `cache_dir` and read from there afterwards.
    A damaged cache is rebuilt, and where none can be written the work is done each time. One Python
    on one machine gives the same catalogue every time; torch's global random state is left alone.

    The words of an item are those of its name and of its text, so nearly all features differ: of
    the 7,232 items of Python 3.11 one has the features of another, and 96 (most of them character
    encodings, which share one sentence) have a neighbour at a cosine above 0.999.

    Args:
        width: D, the number of feature columns.
        cache_dir: folder for the cached result; by default `rqvae` in the user's cache folder.

    Raises:
        ValueError: `width` is not an integer from 1 to 8192.
        FileNotFoundError: this Python comes without (enough of) its library's sources.
    """
    return _load(Path(sysconfig.get_paths()["stdlib"]), width, cache_dir or cache_folder())


def _load(root, width, cache_dir) -> Catalogue:
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= _BUCKETS:
        raise ValueError(f"width must be an integer from 1 to {_BUCKETS}, got {width!r}")
    sources = _sources(root)
    cache = cache_dir and Path(cache_dir) / _cache_name(sources, width)
    catalogue = cache and _read_cache(cache, width)
    if not catalogue:
        catalogue = _build(root, sources, width)
        if cache:
            _write_cache(cache, catalogue)
    return catalogue


def _build(root, sources, width) -> Catalogue:
    items = _collect(sources)
    if len(items) < width:
        raise FileNotFoundError(
            f"the built-in catalogue is made from the .py files of Python's standard library, and "
            f"{root} holds {len(items)} documented items, fewer than the {width} columns asked: "
            "this Python lacks (some of) its sources; use a file of your own with --data FILE")
    features = _project(_tf_idf([_words(f"{name} {text}") for name, text in items]), width)
    norms = features.norm(dim=1)
    # What shares no word with the leading directions has none here: a unit row would be noise.
    kept = (norms > 1e-4).nonzero().squeeze(1)
    return Catalogue(features[kept] / norms[kept, None],
                     [items[row][0] for row in kept.tolist()],
                     [items[row][1] for row in kept.tolist()])


# -------------------------------------------------------------------------------------------- items

def _sources(root) -> list:
    """`(module name, path, bytes)` of each importable .py file under `root`, tests aside, by name.

    A part that is no identifier cannot be imported: so go site-packages and lib-dynload.
    """
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders
                         if name.isidentifier() and name not in _TEST_FOLDERS]
        package = Path(folder).relative_to(root).parts
        for path in (Path(folder, name) for name in files):
            if path.suffix == ".py" and path.stem.isidentifier() and path.is_file():
                parts = package if path.stem == "__init__" else package + (path.stem,)
                found.append((".".join(parts), path, path.stat().st_size))
    return sorted(found)


def _collect(sources) -> list:
    """`(name, docstring)` of every public item that says something in words, by name.

    Only definitions count, so a re-exported object appears once, where it is written. Of several
    definitions of a name (a property and its setter, one per platform) the first documented stays.
    """
    texts = {}
    for module, path, _ in sources:
        try:
            with tokenize.open(path) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")     # of invalid escapes in other people's strings
                for name, text in _documented(ast.parse(file.read()), module):
                    if text and _words(text):
                        texts.setdefault(name, text)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue        # not for this Python's parser, as lib2to3's templates are not
    return sorted(texts.items())


def _documented(node, name):
    """`(dotted path, docstring or None)` of a module or class and of what it publicly defines."""
    yield name, ast.get_docstring(node)
    for definition in _definitions(node):
        path = f"{name}.{definition.name}"
        if isinstance(definition, ast.ClassDef):
            yield from _documented(definition, path)
        else:
            yield path, ast.get_docstring(definition)


def _definitions(node):
    """The public functions and classes of a body, those under `if`, `try` and `with` included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not child.name.startswith("_") or child.name.endswith("__"):
                yield child
        elif not isinstance(child, ast.expr):
            yield from _definitions(child)


# ----------------------------------------------------------------------------------------- features

def _words(text) -> list:
    return _WORD.findall(text.lower())


def _tf_idf(documents) -> torch.Tensor:
    """Lists of words -> sparse (N, V) float32, rows of length 1.

    A word that stands t times in a document, and whose bucket n of the N documents use, weighs
    (1 + ln t) * ln(1 + N / n): Manning, Raghavan, Schuetze, Introduction to Information Retrieval,
    section 6.4.1, with 1 + inside the logarithm so that no document is left without weight.
    """
    rows, columns, counts = [], [], []
    for row, words in enumerate(documents):
        # crc32, because hash() of a string changes from one process to the next
        buckets = Counter(zlib.crc32(word.encode()) % _BUCKETS for word in words)
        rows += [row] * len(buckets)
        columns += buckets.keys()
        counts += buckets.values()
    used_by = np.bincount(columns, minlength=_BUCKETS)
    weights = (1 + np.log(counts)) * np.log1p(len(documents) / used_by[columns])
    lengths = np.sqrt(np.bincount(rows, weights ** 2))
    values = torch.from_numpy((weights / lengths[rows]).astype(np.float32))
    return torch.sparse_coo_tensor([rows, columns], values, (len(documents), _BUCKETS),
                                   check_invariants=False).coalesce()


def _project(matrix, width) -> torch.Tensor:
    """Sparse (N, V) -> (N, width): coordinates along the leading right singular vectors.

    Latent semantic analysis (Deerwester et al. 1990), by the randomized method of Halko et al.,
    arXiv 0909.4061, whose section 4.2 asks for a few directions more than are kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)    # torch.manual_seed would reach into the GPU's too
        u, s, _ = torch.svd_lowrank(matrix, q=min(width + 8, *matrix.shape))
    return (u * s)[:, :width]


# -------------------------------------------------------------------------------------------- cache

def _cache_name(sources, width) -> str:
    """Differs where the result could: two Pythons of one version may ship different libraries."""
    listing = zlib.crc32(repr([(name, size) for name, _, size in sources]).encode())
    return f"stdlib-docs-{platform.python_version()}-{listing:08x}-w{width}-v{_RECIPE}.npz"


def _read_cache(path, width):
    try:
        with np.load(path, allow_pickle=False) as archive:
            features = torch.from_numpy(archive["features"])
            names, texts = json.loads(archive["items"].tobytes())
        whole = (features.dtype == torch.float32 and features.shape == (len(names), width)
                 and len(names) == len(texts) and bool(features.isfinite().all()))
        return Catalogue(features, names, texts) if whole else None
    except Exception:       # a damaged zip or .npy fails in a dozen ways; all mean: build it again
        return None


def _write_cache(path, catalogue) -> None:
    items = json.dumps([catalogue.names, catalogue.texts]).encode()
    try:
        write_atomically(path, lambda file: np.savez(
            file, features=catalogue.features.numpy(), items=np.frombuffer(items, dtype=np.uint8)))
        remove_stale_temporaries(path.parent)
    except OSError:
        pass                # read-only or full: the next run builds it again
