"""Small files that claim much: what the readers hold of them is bounded by their length, and the user gets a sentence.

docs/faults.md has the table of what was seen, and how it is made anew.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hostile_files
from test_faults import environment

M = 10 ** 6
PACKED = (".npz", ".parquet", "P5", "peer's folder")        # which may hold 64 MiB of content, whatever their length


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What became of each file: all of them in one process, each read in one that is forked from it."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which says how much memory a process has held")
    script = Path(hostile_files.__file__)
    done = subprocess.run([sys.executable, str(script)], text=True, capture_output=True, cwd=tmp_path_factory.mktemp("hostile"),
                          env={**environment(), "PYTHONPATH": str(script.parents[1])})
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", hostile_files.CASES)
def test_a_file_holds_no_more_memory_than_some_times_its_length(seen, name):
    row = seen.get(name) or pytest.skip("needs a package that is not installed")
    constant = 160 * M if any(kind in name for kind in PACKED) else 20 * M
    assert row["held"] <= constant + 40 * row["bytes"], row
    assert row["seconds"] < 10, row


@pytest.mark.parametrize("name", hostile_files.CASES)
def test_what_is_refused_is_named_in_one_sentence(seen, name):
    row = seen.get(name) or pytest.skip("needs a package that is not installed")
    assert not row["said"] or row["named"] and row["said"].startswith(("ValueError: ", "CheckpointError: ")), row
    assert "\n" not in row["said"] and len(row["said"]) < 1000, row
