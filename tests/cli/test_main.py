"""The installed command: which one it is, what it says of itself, and that it needs no torch for that."""

import os
import subprocess
import sys

import pytest

from rqvae import __version__
from rqvae.cli import main as commands
from rqvae.cli.console import command
from samples import ROOT, TINY, clustered


@pytest.mark.parametrize("script", [["train.py"], ["infer.py"], ["-m", "rqvae"], ["-m", "rqvae", "train"],
                                    ["-m", "rqvae", "infer"]], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_torch(script, flag):
    script = [str(ROOT / part) if part.endswith(".py") else part for part in script]
    watch = ("import runpy, sys\nsys.argv = sys.argv[1:]\n"
             "start = lambda: runpy.run_module('rqvae', run_name='__main__', alter_sys=True) if sys.argv[0] == '-m' "
             "else runpy.run_path(sys.argv[0], run_name='__main__')\n"
             "if sys.argv[0] == '-m': del sys.argv[1]\n"
             "try:\n    start()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
             "assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", watch, *script, flag], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: " if flag == "--help" else f"rqvae {__version__}\n")


def test_what_is_no_command_is_refused_with_the_nearest(capsys):
    assert commands.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'trian'; did you mean train?\n"
    assert commands.main(["encode"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'encode'; did you mean ")


def test_no_command_lists_the_commands(capsys):
    assert commands.main([]) == 0
    said = capsys.readouterr().out
    assert "rqvae train" in said and "rqvae infer" in said


@pytest.mark.parametrize("program, words", [
    ("python", "python infer.py --ckpt 'a folder/best.ckpt'"), ("rqvae", "rqvae infer --ckpt 'a folder/best.ckpt'"),
    ("python -m rqvae", "python -m rqvae infer --ckpt 'a folder/best.ckpt'")])
def test_the_next_command_is_the_one_that_was_typed(program, words):
    assert command(program, "infer", "--ckpt", "a folder/best.ckpt") == words


def test_the_module_trains_and_encodes_in_an_empty_folder(tmp_path):
    import numpy as np
    np.save(tmp_path / "items.npy", clustered(120).numpy())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def rqvae(*argv):
        return subprocess.run([sys.executable, "-m", "rqvae", *argv], env=environment, cwd=tmp_path, text=True,
                              capture_output=True)
    trained = rqvae("train", "--data", "items.npy", "--epochs", "1", *TINY)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines()[-1] == "next: python -m rqvae infer --ckpt checkpoints/best.ckpt"
    assert rqvae("infer", "--ckpt").returncode == 0
    assert (tmp_path / "semantic_ids.json").exists()
    unknown = rqvae("train", "--epoch", "3")
    assert (unknown.returncode, unknown.stderr) == (2, "error: unknown argument --epoch; did you mean --epochs?\n")
