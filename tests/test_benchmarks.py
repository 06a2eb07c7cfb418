"""What benchmarks share measures what it says, and those that are quick on a tiny model run."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from commands import ROOT, environment

sys.path.append(str(ROOT / "benchmarks"))
common = importlib.import_module("common")

TWO_PROCESSES = """
import subprocess, sys, time
held = b"x" * 90_000_000
subprocess.run([sys.executable, "-c", "import time; held = b'x' * 60_000_000; time.sleep(0.4)"])
print("done")
"""


def test_a_command_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    used = common.measured([sys.executable, "-c", TWO_PROCESSES], tmp_path)
    assert used.output == "done\n"
    assert used.seconds > 0.4
    assert 90e6 < used.largest_bytes < 140e6
    assert used.together_bytes > 150e6
    with pytest.raises(subprocess.CalledProcessError) as failed:
        common.measured([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path)
    assert (failed.value.returncode, failed.value.output) == (3, "why\n")


def test_a_pruned_vocabulary_is_compared_with_the_whole_one(tmp_path: Path) -> None:
    model, data = tiny.checkpoint(tmp_path / "model", layers=1), tiny.labelled(tmp_path / "data", rows=18)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "pruned_vocab.py", model, data, "--rows", "6", "--samples", "4"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "## A vocabulary pruned to data: model, 6 test texts"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[1] for row in rows[1:]] == ["fp32", "int8"] * 2
    tokens, sizes = [int(row[0]) for row in rows[1:]], [float(row[2]) for row in rows[1:]]
    assert tokens[0] == tokens[1] > tokens[2] == tokens[3]
    assert sizes[0] >= sizes[2]
    assert all(0 <= float(row[3].split()[0]) <= 1 and float(row[5].split()[0]) > 0 for row in rows[1:])
    assert [bool(row[4]) for row in rows[1:]] == [bool(row[7]) for row in rows[1:]] == [False, False, True, True]
    assert f"vocabulary: {tokens[0]} to {tokens[2]} tokens" in done.stdout
