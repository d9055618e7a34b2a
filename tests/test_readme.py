"""The README's examples, run as they stand."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from rqvae.cli.options import infer_parser, train_parser
from rqvae.items.catalogue import Catalogue
from samples import clustered, language_model

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", ROOT / "README.zh-CN.md") if page.exists()]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, as a clone is for what the page writes, and a catalogue that trains in no time."""
    monkeypatch.chdir(tmp_path)
    small = Catalogue(clustered(1600, width=256), [f"item.{row}" for row in range(1600)], ["words"] * 1600)
    for place in ("rqvae.items.catalogue", "rqvae.cli.sources"):
        monkeypatch.setattr(f"{place}.load_stdlib_docs", lambda: small)


def commands_of(line):
    """The runs of train.py and infer.py in a line, those under torchrun as of one process."""
    for part in line.split("#")[0].split("&&"):
        found = re.match(r"\s*(?:(?:\.venv/bin/)?python|torchrun .*?) ((?:train|infer)\.py)(.*)", part)
        if found:
            yield found[1], shlex.split(found[2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_runs_from_top_to_bottom_in_one_folder(page, folder):
    scripts, count = {"train.py": train.main, "infer.py": infer.main}, 0
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if language == "python":
                if "from transformers" in block:
                    for part in language_model():
                        part.save_pretrained("language_model")
                torch.manual_seed(0)
                exec(compile(block, page.name, "exec"), {})
                continue
            for script, argv in (command for line in block.splitlines() for command in commands_of(line)):
                if script == "train.py":            # as it stands, but not for so long
                    argv += ["--epochs", "2" if "--resume" in argv else "1"]
                assert scripts[script](argv) == 0, f"{script} {shlex.join(argv)}: {said.getvalue()}"
                count += 1
    assert count > 12 and len(np.load("parts.npy")) == 1600
    published, together = (json.loads(Path(f"mine/{name}.json").read_text("utf-8")) for name in ("ids", "all_ids"))
    assert list(together.items())[:len(published)] == list(published.items()) and 1400 < len(published) < len(together) == 1600
    assert Path("mine/report.html").exists()
    if shutil.which("git"):         # whoever tried the page in a clone commits none of it by mistake
        shutil.copy(ROOT / ".gitignore", ".gitignore")
        subprocess.run(["git", "init", "-q"], check=True)
        said = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        assert set(said.splitlines()) <= {"?? .gitignore", "?? language_model/"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = {flag for parser in (train_parser(), infer_parser())
             for flag in parser._option_string_actions}
    known |= {"--nproc-per-node", "--max-restarts", "--index-url", "--pairs"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text("utf-8"))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_are_linked_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert (ROOT / target).exists(), target


def test_the_first_commands_set_up_all_they_need():
    venv = "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && "
    first, *others = blocks(ROOT / "README.md", "sh")
    assert first.count("\n") == 1 and first.startswith(venv) and "train.py" in first and "infer.py --ckpt" in first
    assert [line for block in others for line in block.splitlines() if line.startswith("python3 -m venv") and "pytest" in line
            ] == [venv + ".venv/bin/python -m pytest"]


def test_every_test_that_the_page_of_faults_names_is_there():
    there = {path.relative_to(ROOT / "tests").with_suffix("").as_posix(): re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)
             for path in (ROOT / "tests").rglob("test_*.py")}
    page, elsewhere = (ROOT / "docs" / "faults.md").read_text("utf-8"), "test_faults"
    for line in page.splitlines():
        if "without a file name are in `tests/" in line:
            elsewhere = re.search(r"`tests/(\w+)\.py`", line)[1]
        for cell in line.split("|") if line.startswith("|") else ():
            where = elsewhere
            for file, name in re.findall(r"((?:\w+/)?test_\w+|campaigns)(?=[:;,] |\s|$)|`(test_\w+?)_?(?:\.\.\.|\[|`)", cell):
                where = file or where
                held = [each for path, names in there.items() for each in names
                        if {where, elsewhere if name else where} & {path, path.split("/")[0]}]
                assert any(each.startswith(name) for each in held), f"{where}: {name or line}"
