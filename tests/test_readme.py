"""The README's examples, run as they stand."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from rqvae.cli import infer_options, train_options
from samples import clustered, language_model

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", ROOT / "README.zh-CN.md") if page.exists()]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rows, seed in (("items", 1100, 0), ("new_items", 20, 1)):
        np.save(f"{name}.npy", clustered(rows, width=64, seed=seed).numpy())
    Path("ids.txt").write_text("\n".join(f"item-{row}" for row in range(1100)))
    Path("inter.json").write_text(json.dumps({user: list(range(user, user + 5)) for user in range(300)}))
    Path("new_ids.txt").write_text("\n".join(f"new-{row}" for row in range(20)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_run_in_their_order(page, folder):
    scripts = {"train.py": train.main, "infer.py": infer.main}
    commands = [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()
                if line.startswith("python ")]
    assert len(commands) > 8
    for _, script, *argv in commands:
        if script == "train.py":            # as it stands, but not for a hundred epochs
            argv += ["--epochs", "2" if "--resume" not in argv else "3"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            code = scripts[script](argv)
        assert code == 0, f"{script} {shlex.join(argv)}: {err.getvalue()}"
    assert len(np.load("parts.npy")) == 1100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_examples_run(page, folder):
    for block in blocks(page, "python"):
        if "from transformers" in block:
            for part in language_model():
                part.save_pretrained("language_model")
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = {flag for parser in (train_options.build_parser(), infer_options.build_parser())
             for flag in parser._option_string_actions}
    known |= {"--nproc-per-node", "--max-restarts", "--index-url", "--pairs"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text("utf-8"))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_are_linked_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert (ROOT / target).exists(), target


def test_the_first_two_commands_set_up_all_they_need():
    first, second = blocks(ROOT / "README.md", "sh")[:2]
    for command in (first, second):
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && ")
    assert "train.py" in first and "infer.py --ckpt" in first and "pytest" in second
