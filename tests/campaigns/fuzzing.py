"""One kind of reader against mutated files: `python fuzzing.py KIND MUTATIONS SEED`, in an empty folder.

Prints [figures, faults] as JSON. Run by test_campaign_fuzz.py, which says what a fault is.
"""

import contextlib
import faulthandler
import gzip
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from rqvae import FeatureLoader, RqVae, fit, load_semantic_ids, open_features, save_semantic_ids
from rqvae.items.amazon_p5 import load_items, load_sequences
from rqvae.ids.exports import FORMATS, export_semantic_ids
from rqvae.ids.imports import import_semantic_ids
from rqvae.items.identifiers import load_item_ids
from rqvae.run_state import RunState
from rqvae.items.texts import read_texts

SECONDS, HEADROOM = 10, 1 << 30
RIGHT_ERRORS = (ValueError, FileNotFoundError)          # CheckpointError is a ValueError
ROWS = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
CODES = np.random.default_rng(0).integers(0, 16, (12, 3))
NAMES = [f"item {row}" for row in range(12)]
SPLICES = [
    b"[" * 50_000, b'{"a":' * 20_000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"\x00", b"\xff\xfe",
    b"\xed\xa0\x80", b'"', b"\n", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00\x01\x00\x00\x00", b"__import__('os').mkdir('code-ran')",
    b"cos\nmkdir\n(X\x08\x00\x00\x00code-rantR.", b"(99999999999, 99999999999)", b"|O", b"<f8", b"4294967295",
    b"<a_99999999999999999999>"]


class Hang(BaseException):
    """A reader took longer than SECONDS."""


class Malice:
    def __reduce__(self):
        return os.mkdir, ("code-ran",)


def hostile(path):
    torch.save({"state_dict": Malice()}, path)


def features(folder):
    np.save(folder / "a.npy", ROWS)
    np.save(folder / "f.npy", np.asfortranarray(ROWS))
    np.save(folder / "o.npy", np.array([Malice(), 1], object))
    np.savez(folder / "a.npz", ROWS)
    np.savez_compressed(folder / "b.npz", ROWS)
    torch.save(torch.from_numpy(ROWS), folder / "a.pt")
    torch.save({"a": torch.from_numpy(ROWS).bfloat16(), "b": [1]}, folder / "b.pt")
    hostile(folder / "c.pt")
    header = json.dumps({"a": {"dtype": "F32", "shape": [12, 5], "data_offsets": [0, ROWS.nbytes]}}).encode()
    (folder / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + ROWS.tobytes())
    try:
        import pyarrow
        from pyarrow import parquet
        parquet.write_table(pyarrow.table({"item_id": NAMES, "embedding": ROWS.tolist()}), folder / "a.parquet")
    except ImportError:
        pass

    def read(path):
        table = open_features(path)
        if table.shape[0] * table.shape[1] < 1e6:
            table.rows(slice(None))
            table.check()
            table.checksum()
    return read


def item_ids(folder):
    (folder / "a.json").write_text(json.dumps(NAMES))
    (folder / "a.txt").write_text("\n".join(NAMES))
    np.save(folder / "a.npy", np.array(NAMES))
    np.save(folder / "b.npy", np.arange(12))
    np.save(folder / "c.npy", np.array([name.encode() for name in NAMES]))
    return lambda path: load_item_ids(path, 12)


def small_run(folder):
    options = {"num_quantizers": 2, "linear_path": True, "standardize": True}
    model = RqVae(5, 6, 4, 8, **options)
    fit(model, FeatureLoader(ROWS, 8), FeatureLoader(ROWS, 8), max_epochs=2, device="cpu", checkpoint_dir=folder,
        progress=False)
    return model


def checkpoints(folder):
    small_run(folder)
    (folder / "metrics.jsonl").unlink()
    hostile(folder / "c.ckpt")
    (folder / "d.ckpt").write_bytes(pickle.dumps({"state_dict": Malice()}))
    return RqVae.load_from_checkpoint


def resuming(folder):
    model = small_run(folder)
    for name in ("metrics.jsonl", "best.ckpt"):
        (folder / name).unlink()
    return lambda path: RunState(model, FeatureLoader(ROWS, 8), FeatureLoader(ROWS, 8)).restore(path)


def model_folders(folder):
    """The file that is mutated takes its place in a folder beside the other, whole one."""
    model, names = RqVae(5, 6, 4, 8, num_quantizers=2), ["config.json", "pytorch_model.bin"]
    model.save_pretrained(folder, safe_serialization=False)
    try:
        import safetensors                                          # noqa: F401
        model.save_pretrained(folder / "other", safe_serialization=True)
        shutil.move(folder / "other" / "model.safetensors", folder)
        shutil.rmtree(folder / "other")
    except ImportError:
        pass
    whole = {name: (folder / name).read_bytes() for name in names}

    def read(path):
        place = Path("folder")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        kind = {".json": "config.json", ".bin": "pytorch_model.bin"}.get(path.suffix, "model.safetensors")
        for name in names:
            if kind != "model.safetensors" or name == "config.json":
                (place / name).write_bytes(whole[name])
        (place / kind).write_bytes(path.read_bytes())
        try:
            RqVae.from_pretrained(place)
        except RIGHT_ERRORS as error:
            raise type(error)(str(error).replace(str(place), str(path))) from error
    return read


def semantic_ids(folder):
    save_semantic_ids(CODES, folder / "a.json")
    save_semantic_ids(CODES, folder / "b.json", item_ids=NAMES)
    save_semantic_ids(CODES, folder / "a.jsonl", item_ids=NAMES, names=NAMES)
    save_semantic_ids(CODES, folder / "a.npy")
    np.save(folder / "o.npy", np.array([Malice(), 1], object))
    return load_semantic_ids


def imports(folder):
    for format in FORMATS:
        try:
            export_semantic_ids(CODES, format, folder / format / "a", num_embeddings=16, item_ids=NAMES, names=NAMES)
        except ImportError:
            pass
    for path in [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".item2id"]:
        shutil.move(path, folder / "-".join(path.relative_to(folder).parts))
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(path)
    hostile(folder / "h.pt")
    generator, formats = random.Random(0), [None, None, *FORMATS, "torcheasyrec-offset"]
    return lambda path: import_semantic_ids(path, generator.choice(formats), num_embeddings=16)


def texts(folder):
    records = [{"id": row, "title": f"Soap {row}", "brand": ["a", "b"], "more": {"a": None}} for row in range(12)]
    (folder / "a.json").write_text(json.dumps(records))
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    lines = ["id,title,brand"] + [f'{row},"Soap, {row}",a' for row in range(12)]
    (folder / "a.csv").write_text("\n".join(lines))
    (folder / "a.tsv").write_text("\n".join(lines).replace(",", "\t"))
    return lambda path: read_texts(path, text_columns=["title", "brand"], id_column="id")


def p5(folder):
    numbers = {f"B{number:03d}": str(number) for number in range(1, 13)}
    meta = "\n".join(repr({"asin": asin, "title": f"Soap {asin} \\n", "categories": [["Beauty", "Bath"]], "price": 1.5})
                     for asin in numbers).encode()
    parts = {"datamaps.json": json.dumps({"item2id": numbers}).encode(), "meta.json.gz": gzip.compress(meta, mtime=0),
             "sequential_data.txt": b"\n".join(b"%d 1 2 3" % user for user in range(9))}
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    (folder / "inside.meta").write_bytes(meta)                      # is compressed once it is mutated

    def read(path):
        place = Path("p5", "raw", "beauty")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            (place / name).write_bytes(content)
        inside = path.suffix == ".meta"
        name = "meta.json.gz" if inside else next(name for name in parts if name.endswith(path.suffix))
        (place / name).write_bytes(gzip.compress(path.read_bytes(), 1) if inside else path.read_bytes())
        try:
            load_items("p5")
            load_sequences("p5")
        except RIGHT_ERRORS as error:
            raise type(error)(str(error).replace(str(place / name), str(path))) from error
    return read


KINDS = {"features": features, "item IDs": item_ids, "checkpoints": checkpoints, "resuming": resuming,
         "model folders": model_folders, "semantic IDs": semantic_ids, "imports": imports, "texts": texts, "P5": p5}


def mutated(whole, generator):
    """Cut, flipped, spliced, doubled, or, in a zip, changed inside under a right checksum."""
    content, kind = bytearray(whole), generator.randrange(8)
    if whole.startswith(b"PK") and kind < 3:
        return _rezipped(whole, generator)
    if kind == 0:
        return whole[:generator.randrange(len(whole))]
    for _ in range(generator.choice((1, 1, 1, 2, 8))):
        place = generator.randrange(len(content) + 1)
        # Most of what a reader decides by stands at the ends.
        place = min(place, generator.randrange(200)) if generator.random() < 0.4 else place
        if kind in (1, 2) and place < len(content):
            content[place] ^= 1 << generator.randrange(8)
        elif kind in (3, 4):
            content[place:place + generator.choice((0, 1, 4, 8))] = generator.choice(SPLICES)
        elif kind == 5:
            content[place:place + generator.randrange(1, 64)] = b""
        elif kind == 6:
            start = generator.randrange(len(content) + 1)
            content[place:place] = content[start:start + generator.randrange(1, 200)]
        else:
            digits = list(re.finditer(rb"\d+", content))
            if digits:
                match = generator.choice(digits)
                content[match.start():match.end()] = generator.choice(
                    (b"0", b"-1", b"1", b"99999999999", b"18446744073709551616", b"9" * 400, b"1e9", b"2147483648"))
    return bytes(content)


def _rezipped(whole, generator):
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            records = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return whole[::-1]
    chosen, out = generator.randrange(len(records)), io.BytesIO()
    if generator.random() < 0.5:                # the pickle is where the danger is
        chosen = next((i for i, (info, _) in enumerate(records) if info.filename.endswith("data.pkl")), chosen)
    with zipfile.ZipFile(out, "w") as archive:
        for index, (info, record) in enumerate(records):
            if index == chosen and record:
                record = mutated(b" " + record, generator)[1:]      # not as a zip in its turn
            archive.writestr(zipfile.ZipInfo(info.filename), record)
    return out.getvalue()


def memory(field):
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def main(kind, count, seed):
    torch.set_num_threads(1)
    seeds = Path("seeds")
    seeds.mkdir()
    read = KINDS[kind](seeds)
    originals = {path: path.read_bytes() for path in sorted(seeds.iterdir())}
    for path in originals:                      # everything that is imported late
        with contextlib.suppress(*RIGHT_ERRORS):        # some seeds are hostile from the start
            read(path)
    generator, faults, figures = random.Random(seed), [], {"mutations": 0, "read": 0, "refused": 0}
    watched = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.fork"}
    sys.addaudithook(lambda event, arguments: faults.append(["ran", event]) if event in watched else None)
    signal.signal(signal.SIGALRM, _hang)
    before = memory("VmPeak")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + HEADROOM,) * 2)
    for original, whole in originals.items():
        for number in range(count):
            path = Path(f"mutation{original.suffix}")
            path.write_bytes(mutated(whole, generator))
            faulthandler.dump_traceback_later(10 * SECONDS, exit=True)      # for what never looks at signals
            signal.alarm(SECONDS)
            figures["mutations"] += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
                figures["read"] += 1
            except RIGHT_ERRORS as error:
                figures["refused"] += 1
                said = str(error)
                if str(path) not in said or "\n" in said or re.search("MemoryError|allocate|bad_alloc", said):
                    faults.append(_fault(original, path, number, error))
            except BaseException as error:
                faults.append(_fault(original, path, number, error))
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            if Path("code-ran").exists():
                faults.append(["code ran", str(original), number])
                os.rmdir("code-ran")
    figures["megabytes"] = max(0, memory("VmPeak") - before) >> 20
    figures["faults"] = len(faults)
    kept = {(fault[0], *fault[3:4]): fault for fault in faults}             # one of each kind says enough
    print(json.dumps([figures, [*kept.values()][:20]]))


def _hang(number, frame):
    raise Hang


def _fault(original, path, number, error):
    kept = Path(f"fault-{original.stem}-{number}{path.suffix}")
    shutil.copy(path, kept)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "rqvae" in frame.filename]
    return [type(error).__name__, original.name, str(kept.resolve()), ours[-1] if ours else "", str(error)[:300]]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
