"""The benchmark of keep strategies runs, and its numbers are those of the code that it is about."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tiny
from commands import ROOT, environment

from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import read
from edgebert.training.importance import measure_importance


def test_the_benchmark_prints_both_tables(tmp_path: Path) -> None:
    model, data = tiny.checkpoint(tmp_path / "model", layers=4), tiny.labelled(tmp_path / "data", rows=18)
    script = ROOT / "benchmarks" / "keep_strategies.py"
    done = subprocess.run(
        [sys.executable, script, model, data, "--layers", "1,3"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0] == "## Which layers to keep: model, data, nothing trained"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    found = measure_importance(open_checkpoint(str(model)), read(data), tuned=True)
    assert [row[0] for row in rows] == ["layer", "0", "1", "2", "3", "layers", "1", "3"]
    assert [row[3] for row in rows[1:5]] == [f"{worth:.4f}" for worth in found.curve]
    assert rows[5] == ["layers", "first", "last", "alternate", "symmetric", "auto, by change", "auto, by loss"]
    assert [cell.split(" ", 1)[1] for cell in rows[7][1:5]] == ["(0, 1, 2)", "(1, 2, 3)", "(0, 1, 2)", "(0, 1, 3)"]
    assert all(0 <= float(cell.split()[0]) <= 1 for row in rows[6:] for cell in row[1:])
