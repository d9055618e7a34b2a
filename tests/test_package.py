"""The house: who imports whom, what the package never does, and that it works under another name."""

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rqvae"

# Which rooms a room may import: the table of the design. Anything not listed is refused.
ROOMS = {
    "files": "",
    "functional": "",
    "networks": "",
    "console": "",
    "progress": "",
    "blocks": "",
    "codes": "",
    "torch_files": "files",
    "checkpoint": "files torch_files",
    "readers": "blocks files torch_files",
    "item_ids": "files readers",
    "tables": "blocks item_ids readers",
    "data": "tables",
    "stdlib_docs": "files",
    "texts": "data files",
    "amazon_p5": "data files texts",
    "items": "amazon_p5 data files stdlib_docs texts",
    "collisions": "codes",
    "resolution": "codes collisions",
    "tokens": "codes",
    "lookup": "codes collisions",
    "semantic_ids": "codes collisions files lookup resolution tokens",
    "exports": "codes collisions files semantic_ids tokens",
    "imports": "codes files semantic_ids tokens torch_files",
    "distributed": "",
    "quantize": "distributed functional",
    "model": "checkpoint networks quantize",
    "inference": "",
    "evaluation": "collisions functional inference",
    "neighbours": "data inference",
    "initialization": "functional inference",
    "mixing": "data functional",
    "assignment": "distributed functional",
    "recipe": "assignment data initialization mixing",
    "run_state": "checkpoint distributed functional",
    "training": "distributed files inference progress run_state",
    "assessment": "codes collisions console evaluation inference neighbours",
    "report": "assessment collisions console",
    "report_inputs": "data files readers semantic_ids",
    "uniqueness": "codes collisions inference resolution",
    "shards": "inference semantic_ids",
    "publishing": "codes collisions exports semantic_ids",
    "charts": "",
    "prefix_tree": "charts",
    "report_page": "charts console files prefix_tree",
    "report_picture": "codes files",
}


def modules():
    return {path.stem: ast.parse(path.read_text("utf-8")) for path in PACKAGE.glob("*.py")}


def imported_rooms(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from ([node.module] if node.module else [alias.name for alias in node.names])


def test_every_room_imports_only_what_the_table_allows():
    trees = modules()
    trees.pop("__init__")
    assert set(trees) == set(ROOMS)
    for name, tree in trees.items():
        extra = set(imported_rooms(tree)) - set(ROOMS[name].split()) - {"__version__"}
        assert not extra, f"{name} imports {extra}"


def test_imports_go_only_downwards():
    depth = {}

    def climb(room, above=()):
        assert room not in above, f"a cycle: {' -> '.join((*above, room))}"
        if room not in depth:
            depth[room] = 1 + max((climb(below, (*above, room)) for below in ROOMS[room].split()), default=0)
        return depth[room]

    for room in ROOMS:
        climb(room)


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
                assert node.module.split(".")[0] not in forbidden, name
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
                if called == "load" and isinstance(node.func.value, ast.Name) and node.func.value.id == "torch":
                    assert "weights_only" in {keyword.arg for keyword in node.keywords}, name


def test_importing_prints_nothing_draws_nothing_and_builds_no_compiler():
    script = textwrap.dedent("""
        import sys, torch
        before = torch.get_rng_state()
        threads = torch.get_num_threads()
        import rqvae
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
        for module in pkgutil.iter_modules(tokenizer.__path__):
            import_module(f"app._vendor.tokenizer.{module.name}")
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


def test_the_menu_names_what_a_user_types():
    import rqvae
    assert all(hasattr(rqvae, name) for name in rqvae.__all__)
    for name in ("RqVae VectorQuantizer ResidualQuantizer Encoder Decoder fit batch_inference evaluate_reconstruction "
                 "evaluate_quantization evaluate_semantic_ids P5AmazonItemDataset open_features FeatureDataset "
                 "save_semantic_ids load_semantic_ids resolve_collisions __version__").split():
        assert name in rqvae.__all__


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_every_room_has_its_doorplate(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))
