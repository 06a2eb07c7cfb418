"""What benchmarks share measures what it says, and those that are quick on a tiny model run."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import ROOT, environment

import edgebert

sys.path.append(str(ROOT / "benchmarks"))
common = importlib.import_module("common")

# The name of a way.
LAST = "first token alone in the last layer"

TWO_PROCESSES = """
import subprocess, sys, time
held = b"x" * 90_000_000
subprocess.run([sys.executable, "-c", "import time; held = b'x' * 60_000_000; time.sleep(1.5)"])
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


def test_lanes_are_compared_with_one_engine(exports: tiny.Exports, tmp_path: Path) -> None:
    artifact, data = exports.artifact("bert", tiny.TASKS[0]), tiny.labelled(tmp_path, rows=60)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "lanes.py", data, artifact.path, "--rounds", "2"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    (row,) = (line for line in done.stdout.splitlines() if line.startswith(f"| {artifact.path.name} |"))
    _, size, without, beside, gain, *memory = (cell.strip() for cell in row.split("|")[1:-1])
    assert float(size) == pytest.approx(artifact.manifest.bytes / 1e6, abs=0.5)
    assert all(float(number.split()[0]) > 0 for number in (without, beside, gain, *memory))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_without_the_first_token_alone_answers_the_same(precision: str, exports: tiny.Exports) -> None:
    rewrites = importlib.import_module("rewrites")
    path = exports.artifact("bert", "text-classification", precision=precision).path
    shape = (2, 7)
    ids = np.random.default_rng(0).integers(5, 50, shape)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    ours, whole = (rewrites.WAYS[way](path, 1).run(None, feed)[0] for way in (rewrites.AS_IT_RUNS, LAST))
    # In int8 the range of what the last query reads is of one token, or of all.
    np.testing.assert_allclose(ours, whole, atol=1e-5 if precision == "fp32" else 0.05)


def test_orders_of_a_line_are_simulated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    orders = importlib.import_module("line_orders")
    line = importlib.import_module("edgebert.serving.line")
    monkeypatch.setattr(line, "SLACK", line.SLACK)
    cost = orders.Cost(1e-3, 1e-4, 1e-6)
    assert cost([10, 20]) == pytest.approx(1e-3 + 40e-4 + 800e-6)
    # Nobody meets: everybody takes what a call takes.
    rare = orders.simulated([20], cost, orders.Rule(), 0.01, 1000.0, 1)
    assert rare
    assert rare == pytest.approx([cost([20])] * len(rare))
    one, two = (orders.simulated([20], cost, orders.Rule(lanes=lanes, most=20), 200.0, 10.0, 1) for lanes in (1, 2))
    assert len(one) == len(two)
    assert sum(two) < sum(one)
    orders._print([5, 60, 200], cost, cost, 2.0)
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(orders.RULES)
    assert all(float(row.strip("| ").split(" | ")[-1]) >= 1 for row in rows)


def test_what_calls_cost_is_fitted(exports: tiny.Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = importlib.import_module("line_orders")
    monkeypatch.setattr(orders, "SHAPES", ((1, 4), (4, 4), (1, 16), (8, 16), (1, 32)))
    with edgebert.load(exports.artifact("bert", tiny.TASKS[0]).path, threads=1) as model:
        cost = orders.fitted(model, 2)
    assert 0 < cost([4]) < 1
    assert 0 < cost([32] * 8) < 1
