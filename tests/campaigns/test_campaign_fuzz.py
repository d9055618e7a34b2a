"""Every reader against thousands of damaged and hostile files, in processes of little memory.

A mutation is read, or refused by our own error in one line that names the file. Anything else fails:
another exception, a crash, more than ten seconds, code that runs, hundreds of megabytes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_faults import environment

pytestmark = pytest.mark.campaign
EACH = 1000                 # mutations of a seed file
KINDS = ("features", "item IDs", "checkpoints", "resuming", "model folders", "semantic IDs", "imports", "texts", "P5")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused_and_nothing_else(kind, tmp_path):
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("fuzzing.py")), kind, str(EACH), "1"],
                          env={**environment(), "PYTHONPATH": str(Path(__file__).parents[2])}, cwd=tmp_path,
                          text=True, capture_output=True)
    assert done.returncode == 0, f"died with {done.returncode}: {done.stderr[-3000:]}"
    figures, faults = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{kind}: {figures}, {time.monotonic() - began:.0f} s")
    assert not faults, json.dumps(faults, indent=1)
    assert figures["refused"] > 0 and figures["megabytes"] < 400
