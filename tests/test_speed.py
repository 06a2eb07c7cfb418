"""The matrix products that `edgebert doctor` times: the packaged graphs are what the script writes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, edgebert

from edgebert.judging import speed
from edgebert.judging.speed import Sharing, gemm_seconds, gops


def test_the_packaged_graphs_are_the_scripts(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "benchmarks" / "gemm_graphs.py", tmp_path], check=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in (ROOT / "edgebert" / "data").glob("*.onnx")}


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_product_takes_some_time_and_no_eternity(dtype: str) -> None:
    # From a slow Arm board to a large server.
    assert 0.5 < gops(gemm_seconds(dtype, 1)) < 50_000


def test_the_cost_of_sharing_is_the_shared_time_over_that_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = Sharing(2)
    assert 0 < sharing.cost() < math.inf
    one, two = sharing._alone, sharing._shared
    assert [session.get_session_options().intra_op_num_threads for session in (one, two)] == [1, 2]
    monkeypatch.setattr(speed, "_timed", lambda session, *_: [0.002 if session is one else 0.001])
    assert sharing.cost() == 0.5


def test_doctor_says_what_runs_how_fast_and_how_calm_it_was() -> None:
    document = edgebert("doctor", "--json").json
    assert document["targets"]["cpu"] == "ready"
    assert document["speed"][0]["threads"] == 1
    assert all(row["fp32_gflops"] > 0 < row["int8_gops"] for row in document["speed"])
    assert {"steal", "background", "throttled", "sharing", "stable"} <= document["conditions"].keys()
    shown = edgebert("doctor").err.splitlines()
    # A tired person reads one screen.
    assert len(shown) <= 12
    assert any("GFLOP/s in fp32" in line for line in shown)
    assert any(line.startswith("ready: target cpu") for line in shown)
