"""The benchmark harness for a GPU machine, tried out on the CPU at tiny shapes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment, without

SCRIPT = ROOT / "benchmarks" / "gpu_tables.py"


def run(*arguments: object, **variables: str) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tables_are_made_without_the_exporters(tmp_path: Path) -> None:
    run("--tiny", "--prepare", tmp_path / "graphs")
    made = sorted(path.name for path in (tmp_path / "graphs").iterdir())
    assert made == ["tiny-fp16.json", "tiny-fp16.onnx", "tiny-fp32.json", "tiny-fp32.onnx"]
    # As on the machine that measures: nothing that writes graphs, and edgebert neither installed nor complete.
    absent = without(["onnx_ir", "click"], tmp_path)
    asked = ("--tiny", "--device", "cpu", "--no-compile", "--graphs", tmp_path / "graphs", "-o", tmp_path / "out")
    page = run(*asked, PYTHONPATH=absent)
    report = json.loads((tmp_path / "out" / "gpu_tables.json").read_text("utf-8"))
    assert (tmp_path / "out" / "gpu_tables.md").read_text("utf-8") in page
    assert report["unreached"] == []
    names = ["edgebert graph fp32 on the CPU", "edgebert graph fp16 on the CPU", "torch SDPA fp32"]
    assert [row["candidate"] for row in report["parity"]] == names
    assert report["parity"][0]["max error"] <= 1e-5
    assert report["parity"][1]["max error"] <= 1e-2
    assert [(row["batch"], row["length"]) for row in report["rows"]] == [(1, 8), (2, 16)] * 3
    for row in report["rows"]:
        assert row["host ms"] > 0
        assert row["device ms"] is None
        assert row["of the peak"].endswith("%")
    assert report["machine"]["matrix peak TFLOP/s"] > 0


def test_time_that_ends_is_said(tmp_path: Path) -> None:
    asked = ("--tiny", "--device", "cpu", "--no-compile", "--seconds", "0", "-o", tmp_path / "out")
    assert "Time ended before: tiny 1 x 8 edgebert graph fp32 on the CPU; " in run(*asked)


def test_graphs_of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    graphs = importlib.import_module("gpu.graphs")
    (tmp_path / "tiny-fp32.json").write_text(json.dumps({"shape": {}, "bytes": 0, "tensors": []}))
    with pytest.raises(ValueError, match="was prepared for another tiny"):
        graphs.filled(tmp_path, graphs.TINY[0], "fp32", None)
