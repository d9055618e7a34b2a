"""The house: who imports whom, what the package never does, and that it works under another name."""

import ast
import configparser
import functools
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rqvae"

# The wings, from the ground up: what each may import besides itself. "root" is every module beside `__init__.py`.
WINGS = {
    "storage": "",
    "root": "storage",
    "items": "storage root",
    "ids": "storage root",
    "recipe": "storage root items ids",
    "report": "storage root items ids recipe",
    "cli": "storage root items ids recipe report",
}
MOST_MODULES = 14           # in one folder; one that grows past it has a second thing in it


@functools.lru_cache(maxsize=None)
def modules():
    """Dotted name inside the package -> its tree; a wing's own `__init__` is "wing.__init__"."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
            for path in PACKAGE.rglob("*.py")}


def wing_of(name):
    if name == "__main__":
        return "cli"
    return name.split(".")[0] if "." in name else "root"


def imported_modules(name, tree):
    """Dotted names of the package's modules that one imports, wherever in it that stands."""
    known = set(modules())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = name.split(".")[:-node.level]
        base = ".".join([*above, *(node.module.split(".") if node.module else [])])
        for alias in node.names:
            inner = ".".join(filter(None, [base, alias.name]))
            found = next((each for each in (inner, f"{inner}.__init__", base, f"{base}.__init__", "__init__")
                          if each in known), None)
            yield found


def test_every_wing_imports_only_what_lies_below_it():
    trees = modules()
    assert {wing_of(name) for name in trees} == set(WINGS)
    for name, tree in trees.items():
        if name == "__init__":                          # the menu
            continue
        for imported in imported_modules(name, tree):
            if imported == "__init__":                  # the version
                continue
            wing = wing_of(imported)
            assert wing == wing_of(name) or wing in WINGS[wing_of(name)].split(), f"{name} imports {imported}"


def test_no_import_goes_round_in_a_circle():
    trees, depth = modules(), {}

    def climb(room, above=()):
        assert room not in above, f"a cycle: {' -> '.join((*above, room))}"
        if room not in depth:
            below = {each for each in imported_modules(room, trees[room]) if each not in ("__init__", room)}
            depth[room] = 1 + max((climb(each, (*above, room)) for each in below), default=0)
        return depth[room]

    for room in set(trees) - {"__init__"}:
        climb(room)


def test_no_folder_holds_more_modules_than_a_reader_takes_in():
    counts = {}
    for name in modules():
        if not name.endswith("__"):              # Python's own names
            folder = name.rpartition(".")[0]
            counts[folder] = counts.get(folder, 0) + 1
            assert folder == "" or folder not in name.split(".")[-1].split("_"), f"{name} repeats its wing's name"
    assert max(counts.values()) <= MOST_MODULES, counts


def test_no_line_is_wider_than_a_page():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    widest = setup.getint("flake8", "max-line-length")
    for path in [*PACKAGE.rglob("*.py"), ROOT / "train.py", ROOT / "infer.py"]:
        lines = path.read_text("utf-8").split("\n")
        wide = [number for number, line in enumerate(lines, start=1) if len(line) > widest]
        assert not wide, f"{path.relative_to(ROOT)}: lines {wide} have more than {widest} characters"


def test_the_package_imports_itself_by_relative_names_only():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != "rqvae" for alias in node.names), name
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] != "rqvae", name


def test_the_package_runs_no_foreign_code_and_calls_nobody():
    forbidden = {"pickle", "subprocess", "socket", "urllib", "http", "requests", "ftplib", "marshal", "shelve",
                 "dill", "cloudpickle", "joblib", "ctypes", "importlib"}
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden, name
            if isinstance(node, ast.ImportFrom) and not node.level:
                menu = name == "__init__" and node.module == "importlib"        # of names that stand in it
                assert menu or node.module.split(".")[0] not in forbidden, name
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                bare = isinstance(node.func, ast.Name)
                assert not (bare and called in ("eval", "exec", "compile", "__import__")), f"{name}: {called}"
                assert called != "system", name
                for keyword in node.keywords:
                    if keyword.arg == "allow_pickle":
                        assert keyword.value.value is False, name
                    if keyword.arg == "weights_only":
                        assert keyword.value.value is True, name
                if called == "load" and not bare and isinstance(node.func.value, ast.Name) and node.func.value.id == "torch":
                    assert "weights_only" in {keyword.arg for keyword in node.keywords}, name


CHANGES = {         # what makes, changes or removes a file or a folder, and is done in storage/ alone
    "os": {"replace", "rename", "renames", "unlink", "remove", "removedirs", "rmdir", "mkdir", "makedirs", "link", "symlink", "mkfifo",
           "mknod", "truncate", "ftruncate", "chmod", "fchmod", "chown", "utime", "pwrite", "pwritev", "sendfile", "copy_file_range"},
    "a path": {"write_text", "write_bytes", "touch", "mkdir", "rmdir", "unlink", "rename", "hardlink_to", "symlink_to", "chmod",
               "tofile", "to_file", "save_file", "to_parquet", "memmap", "open_memmap", "from_file"}}
WRITERS = {"storage.temporaries": {"open"}, "storage.files": {"open", "os.open"}, "storage.locks": {"os.open"}}     # who opens to write
SAVERS = re.compile(r"(np|torch|torch\.export|torch\.jit|json|figure)\.(save\w*|dump)")          # take an open file, and no path


def calls(tree):
    """(the call, "os", a bare name's "" or else "a path", its name) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            bare = isinstance(node.func, ast.Name)
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            whose = "" if bare else "os" if isinstance(owner, ast.Name) and owner.id == "os" else "a path"
            yield node, whose, node.func.id if bare else getattr(node.func, "attr", "")


def test_files_are_written_made_and_removed_in_one_wing_and_opened_for_it_in_few_places():
    found = {}
    for name, tree in modules().items():
        imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not imported & {"shutil", "tempfile", "mmap", "fileinput", "sqlite3", "dbm", "logging"}, name
        for node, whose, called in calls(tree):
            words = ast.unparse(node)
            if wing_of(name) != "storage":
                assert called not in CHANGES.get(whose, ()) or (name, called) == ("items.blocks", "memmap"), f"{name}: {words}"
            if called == "open" and not (node.args and ast.unparse(node.args[0]) == "os.devnull"):
                mode = ast.unparse(node.args[1]) if len(node.args) > 1 else \
                    "".join(ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg in ("mode", "flags"))
                writes = re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_APPEND|O_TRUNC", mode) or mode == "flags" if whose == "os" \
                    else set("wxa+") & set(mode.strip("'")) if mode.startswith("'") else mode
                if writes:
                    found.setdefault(name, set()).add("os.open" if whose == "os" else "open")
            if SAVERS.fullmatch(ast.unparse(node.func)):
                assert {ast.unparse(argument) for argument in node.args[:2]} & {"file", "buffer"}, f"{name}: {words}"
    assert found == WRITERS


def test_rows_of_features_are_read_by_position_in_one_module():
    for name, tree in modules().items():
        for node, whose, called in calls(tree):
            rows = called in ("memmap", "open_memmap", "pread", "preadv", "readinto") or ast.unparse(node.func) == "torch.load"
            assert not rows or name == "items.blocks", f"{name}: {ast.unparse(node)}"
            if ast.unparse(node.func) == "np.load":
                assert name == "items.catalogue", name                  # its own cache


def test_importing_prints_nothing_draws_nothing_and_builds_no_compiler():
    script = textwrap.dedent("""
        import sys, torch
        before = torch.get_rng_state()
        threads = torch.get_num_threads()
        import rqvae
        assert all(hasattr(rqvae, name) for name in rqvae.__all__)
        assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()
        for late in ("torch._dynamo", "pyarrow", "safetensors", "pytorch_lightning", "sentence_transformers",
                     "matplotlib", "torch.distributed.run"):
            assert late not in sys.modules, late
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_older_torch_is_refused_in_one_sentence_and_a_newer_one_never():
    script = textwrap.dedent("""
        import sys, torch
        for version in ("1.13.1", "2.5.1+cu124", "2.5.0a0+git1a2b3c4", "2.6.0", "2.6.0a0+df5bbc09d1.nv24.12",
                        "2.10.1", "2.13.0+cpu", "3.0.0"):
            torch.__version__ = version
            try:
                import rqvae
                rqvae.RqVae
                print(version, "is taken")
            except ImportError as error:
                print(error)
            for name in [name for name in sys.modules if name.split(".")[0] == "rqvae"]:
                del sys.modules[name]
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [f'torch is {version}; rqvae needs 2.6 or newer: pip install --upgrade "torch>=2.6"'
                         for version in ("1.13.1", "2.5.1+cu124", "2.5.0a0+git1a2b3c4")]
    assert len(lines) == 8 and all(line.endswith(" is taken") for line in lines[3:])


def test_the_torch_that_is_asked_for_is_the_same_everywhere():
    for name in ("setup.cfg", "requirements.txt", "rqvae/__init__.py"):
        assert "torch>=2.6" in (ROOT / name).read_text("utf-8"), name


def test_a_vendored_copy_works_under_another_name(tmp_path):
    vendor = tmp_path / "app" / "_vendor"
    vendor.mkdir(parents=True)
    for folder in (tmp_path / "app", vendor):
        (folder / "__init__.py").touch()
    shutil.copytree(PACKAGE, vendor / "tokenizer", ignore=shutil.ignore_patterns("__pycache__"))
    script = textwrap.dedent("""
        import pkgutil, sys, torch
        from importlib import import_module

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "rqvae":
                    raise ImportError("no rqvae here")
        sys.meta_path.insert(0, Refuse())

        from app._vendor import tokenizer
        for module in pkgutil.walk_packages(tokenizer.__path__, "app._vendor.tokenizer."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
        torch.manual_seed(0)
        features = torch.randn(200, 12)
        loader = tokenizer.FeatureLoader(features, 32, shuffle=True)
        model = tokenizer.RqVae(12, 16, 8, 32, num_quantizers=2)
        tokenizer.fit(model, loader, max_epochs=2, device="cpu", checkpoint_dir="run", progress=False)
        loaded = tokenizer.RqVae.load_from_checkpoint("run/last.ckpt")
        codes = tokenizer.batch_inference(loaded, loader, device="cpu")
        tokenizer.save_semantic_ids(codes, "ids.json")
        print(type(loaded).__module__, tokenizer.load_semantic_ids("ids.json").codes.shape)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "app._vendor.tokenizer.model (200, 2)\n"


def test_the_core_works_without_the_other_wings(tmp_path):
    core = tmp_path / "app" / "tokens"
    shutil.copytree(PACKAGE, core, ignore=shutil.ignore_patterns("__pycache__", "items", "ids", "recipe", "report", "cli"))
    (tmp_path / "app" / "__init__.py").touch()
    script = textwrap.dedent("""
        import sys, torch

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "rqvae":
                    raise ImportError("no rqvae here")
        sys.meta_path.insert(0, Refuse())

        from app import tokens
        from torch.utils.data import DataLoader
        torch.manual_seed(0)
        loader = DataLoader([{"features": row} for row in torch.randn(200, 12)], 32)
        model = tokens.RqVae(12, 16, 8, 32, num_quantizers=2)
        tokens.fit(model, loader, loader, max_epochs=2, device="cpu", checkpoint_dir="run", progress=False)
        tokens.fit(model, loader, loader, max_epochs=3, device="cpu", checkpoint_dir="run", resume_from="run/last.ckpt",
                   progress=False)
        loaded = tokens.RqVae.load_from_checkpoint("run/last.ckpt")
        loaded.save_pretrained("folder")
        again = tokens.RqVae.from_pretrained("folder")
        codes = tokens.batch_inference(loaded, loader, device="cpu")
        assert torch.equal(codes, tokens.batch_inference(again, loader, device="cpu"))
        for evaluate in (tokens.evaluate_reconstruction, tokens.evaluate_quantization, tokens.evaluate_semantic_ids):
            assert evaluate(loaded, loader, device="cpu")
        print(type(loaded).__module__, tuple(codes.shape))
        for name in ("open_features", "save_semantic_ids", "recipe"):
            try:
                getattr(tokens, name)
            except ImportError as error:
                print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without = "which this copy of the package was made without; copy that folder, too, to have it"
    assert done.stdout.splitlines() == [
        "app.tokens.model (200, 2)",
        f"open_features is part of app.tokens/items/, {without}",
        f"save_semantic_ids is part of app.tokens/ids/, {without}",
        f"recipe is part of app.tokens/recipe/, {without}"]


def test_the_menu_names_what_a_user_types():
    import rqvae
    listed = {alias.asname or alias.name for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text("utf-8")))
              if isinstance(node, ast.If) for imported in node.body if isinstance(imported, ast.ImportFrom)
              for alias in imported.names}
    assert listed == set(rqvae.__all__) - {"__version__"}           # what a type checker sees
    assert all(hasattr(rqvae, name) for name in rqvae.__all__)
    for name in ("RqVae VectorQuantizer ResidualQuantizer Encoder Decoder fit batch_inference evaluate_reconstruction "
                 "evaluate_quantization evaluate_semantic_ids P5AmazonItemDataset open_features FeatureDataset "
                 "save_semantic_ids load_semantic_ids resolve_collisions __version__").split():
        assert name in rqvae.__all__


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_room_has_its_doorplate(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_the_public_signatures_satisfy_a_type_checker(tmp_path):
    pytest.importorskip("mypy")
    options = ["--python-executable", sys.executable, "--ignore-missing-imports", "--follow-imports=silent",
               "--cache-dir", str(tmp_path), "--disallow-any-unimported"]

    def check(path):
        return subprocess.run([sys.executable, "-m", "mypy", *options, str(path)], cwd=ROOT, capture_output=True, text=True)
    good = check(ROOT / "tests" / "typical_uses.py")
    assert good.returncode == 0, good.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from rqvae import FeatureLoader, RqVae, batch_inference, fit\n"
                     "fit(RqVae(64), max_epoch=3)\nbatch_inference(3, [])\nFeatureLoader([[1.0]], 'four')\n")
    bad = check(wrong)
    assert bad.returncode == 1 and bad.stdout.count("error:") >= 3, bad.stdout


def test_every_public_signature_is_annotated():
    import inspect

    import rqvae
    for name in rqvae.__all__:
        thing = getattr(rqvae, name)
        functions = [thing] if inspect.isfunction(thing) else [
            getattr(function, "__func__", function) for key, function in vars(thing).items()
            if not key.startswith("_") or key == "__init__"] if inspect.isclass(thing) else []
        for function in filter(inspect.isfunction, functions):
            for parameter in inspect.signature(function).parameters.values():
                assert parameter.name in ("self", "cls") or parameter.annotation is not parameter.empty, \
                    f"{function.__qualname__}: {parameter.name}"


def test_the_api_page_has_every_public_name_and_the_signatures_of_the_code():
    import rqvae
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    said = dict(re.findall(r"^- \*\*`([\w.]+)(\(.*\))`\*\*", page, re.MULTILINE))
    for name in rqvae.__all__:
        assert name.startswith("__") or name in said, name
    for name, signature in said.items():
        module, _, thing = name.rpartition(".")
        found = inspect.signature(getattr(importlib.import_module(module or "rqvae"), thing))
        parameters = [parameter.replace(annotation=parameter.empty) for parameter in found.parameters.values()]
        assert str(found.replace(parameters=parameters, return_annotation=found.empty)) == signature, name
