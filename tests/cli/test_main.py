"""The installed command: which one it is, what it says of itself, and that it needs no torch for that."""

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from rqvae import __version__
from rqvae.cli import main as commands
from rqvae.cli import console
from rqvae.cli.console import _Spelling, command
from rqvae.cli.main import main
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


@pytest.mark.parametrize("missing", ["torch", "numpy", "tqdm"])
@pytest.mark.parametrize("argv", [["train"], ["infer", "--ckpt"], ["train", "--config", "run.ckpt"]], ids=" ".join)
def test_a_python_without_what_is_needed_is_one_sentence_with_the_way_out(tmp_path, missing, argv):
    (tmp_path / "run.ckpt").write_bytes(b"")
    alone = f"import sys; sys.modules[{missing!r}] = None; from rqvae.cli.main import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", alone], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    said = [line for line in done.stderr.splitlines() if not line.startswith("warning: Failed to initialize NumPy")]
    if missing == "tqdm" and "--config" in argv:            # which reading options needs not
        assert "run.ckpt" in said[0]
    else:
        assert len(said) == 1 and f"has no {missing}; install torch, numpy, tqdm for it by " in said[0]
        assert "pip install -r requirements.txt" in said[0]
    assert done.returncode == 2


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


def in_a_shell(line, folder, **environment):
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, timeout=120, env={
        **os.environ, "PYTHONPATH": str(ROOT), "PY": sys.executable, "ROOT": str(ROOT), "OMP_NUM_THREADS": "1", **environment})


def test_nothing_but_lines_and_bars_is_shown_on_our_streams():
    """Whoever writes there, a library or a print that forgot to."""
    written = io.StringIO()
    stream = _Spelling(written)
    for text in ("\r 50 %|##", "\r", "\x1b[A\x1b[A", "\n\n", "a\x1b[2J\u202eb\rc\n"):
        print(text, end="", file=stream)
    assert written.getvalue() == "\r 50 %|##\r\x1b[A\x1b[A\n\na\\x1b[2J\\u202eb\\rc\n"


def test_an_output_that_cannot_spell_gets_what_it_can_and_files_get_all(tmp_path):
    np.save(tmp_path / "ítems.npy", clustered(60).numpy())
    (tmp_path / "names.txt").write_text("\n".join(f"Café 店 {row}" for row in range(60)), encoding="utf-8")
    done = in_a_shell(f"$PY $ROOT/train.py --data ítems.npy --epochs 1 {' '.join(TINY)} && $PY $ROOT/infer.py "
                      "--names names.txt --output ids.jsonl && $PY $ROOT/infer.py --names names.txt --report r.html",
                      tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"Caf? ? " in done.stdout and "Café 店 7" in (tmp_path / "ids.jsonl").read_text("utf-8")
    assert "Café 店" in (tmp_path / "r.html").read_text("utf-8")


def test_closed_streams_stop_nothing_and_get_no_file_s_number(tmp_path):
    np.save(tmp_path / "items.npy", clustered(60).numpy())
    for closed in ("2>&-", "0<&- 1>&- 2>&-"):
        done = in_a_shell(f"$PY $ROOT/train.py --data items.npy --epochs 1 --overwrite {' '.join(TINY)} {closed}", tmp_path)
        assert done.returncode == 0
        assert (tmp_path / "checkpoints/best.ckpt").exists()
        assert len((tmp_path / "checkpoints/metrics.jsonl").read_text().splitlines()) == 1


def test_a_command_is_named_as_it_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/rqvae/train.py"])
    assert console.command("python", "infer", "--ckpt", "a b") == "python /opt/rqvae/infer.py --ckpt 'a b'"
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert console.command("python", "infer") == "python infer.py"
    assert console.command("python -m rqvae", "infer") == "python -m rqvae infer"


def test_torchrun_is_told_the_sentence_for_the_end_of_its_account(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert main(["train", "--data", "nothing.npy"]) == 2
    told = json.loads((tmp_path / "error.json").read_text())["message"]
    assert told["extraInfo"]["py_callstack"] == capsys.readouterr().err.strip() and "nothing.npy" in told["message"]


@pytest.mark.skipif(os.name == "nt", reason="signals of Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, *console.ENDS])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_held_back_interrupts_at_the_end_of_the_block(number, fails):
    before, done = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt) as caught:
        with console.held_back():
            os.kill(os.getpid(), number)
            done.append(sum(range(10_000)))             # a signal is seen between two steps of Python
            if fails:
                raise ValueError("what went wrong meanwhile")
    assert done and caught.value.args == (number,) and signal.getsignal(number) is before
    with console.held_back():
        done.append(None)
    assert len(done) == 2
