"""The benchmark harness for a GPU machine, tried out on the CPU at tiny shapes."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import packed_reference
import pytest
import tiny
import torch
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
    forms = ("bf16", "fp16-packed", "fp16", "fp32")
    assert made == [f"tiny-{form}.{kind}" for form in forms for kind in ("json", "onnx")]
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
    # As long as real texts: all candidates have the same batches.
    assert [row["candidate"] for row in report["ragged"]] == names
    assert len({(row["batch"], row["tokens"], row["padding"]) for row in report["ragged"]}) == 1
    for row in report["rows"] + report["ragged"]:
        assert row["host ms"] > 0
        assert row["device ms"] is None
        assert row.get("of the peak", "%").endswith("%")
    assert report["machine"]["matrix peak TFLOP/s"] > 0


def test_the_packed_graph_of_the_gpus_tables_answers_as_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    graphs, lengths = (importlib.import_module(f"gpu.{name}") for name in ("graphs", "lengths"))
    (shape,) = graphs.TINY
    graphs.prepare(shape, tmp_path)
    model = graphs.random_model(shape)
    graph, weights = graphs.filled(tmp_path, shape, "fp16-packed", model)
    (tmp_path / graphs.WEIGHTS).write_bytes(weights)
    (tmp_path / "whole.onnx").write_bytes(graph)
    whole = onnx.load(tmp_path / "whole.onnx").SerializeToString()
    (drawn,) = lengths.drawn(6, 1)
    assert 4 <= min(drawn) < max(drawn) <= 70
    feed = lengths.feed_of(drawn, shape.vocab)
    assert feed["attention_mask"].sum(axis=1).tolist() == drawn.tolist()
    (found,) = packed_reference.evaluate(whole, ["logits"], feed)
    with torch.inference_mode():
        truth = model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    np.testing.assert_allclose(found, truth, atol=5e-3)


def test_time_that_ends_is_said(tmp_path: Path) -> None:
    asked = ("--tiny", "--device", "cpu", "--no-compile", "--seconds", "0", "-o", tmp_path / "out")
    assert "Time ended before: tiny." in run(*asked)


def test_graphs_of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    graphs = importlib.import_module("gpu.graphs")
    (tmp_path / "tiny-fp32.json").write_text(json.dumps({"shape": {}, "bytes": 0, "tensors": []}))
    with pytest.raises(ValueError, match="was prepared for another tiny"):
        graphs.filled(tmp_path, graphs.TINY[0], "fp32", None)


def test_other_random_weights_than_a_graph_was_prepared_with_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    graphs = importlib.import_module("gpu.graphs")
    (shape,) = graphs.TINY
    graphs.prepare(shape, tmp_path)
    model = graphs.random_model(shape)
    graphs.filled(tmp_path, shape, "fp16", model)
    with torch.no_grad():
        model.classifier.bias += 1
    with pytest.raises(ValueError, match="was prepared with other weights of tiny"):
        graphs.filled(tmp_path, shape, "fp16", model)


def test_artifacts_are_compared_with_what_a_cpu_answered(exports: tiny.Exports, tmp_path: Path) -> None:
    for name in ("m-cpu-fp32", "other-cpu-fp32"):
        artifact = exports.artifact("bert", tiny.TASKS[0], 1)
        shutil.copytree(artifact.path, tmp_path / "artifacts" / name)
    (tmp_path / "texts.json").write_text(json.dumps(tiny.texts(12, seed=4)))
    script, asked = ROOT / "benchmarks" / "gpu_artifacts.py", (tmp_path / "artifacts", tmp_path / "texts.json")
    command = [sys.executable, str(script), *map(str, asked)]
    expected = tmp_path / "expected.npz"
    subprocess.run([*command, "--expect", str(expected)], env=environment(), check=True)
    # One of them is expected to answer otherwise, and is seen to.
    known = dict(np.load(expected))
    np.savez(expected, **{**known, "other-cpu-fp32": known["other-cpu-fp32"] + 1})
    done = subprocess.run(
        [*command, str(expected), "--target", "cpu"], env=environment(), check=True, capture_output=True, text=True
    )
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in done.stdout.splitlines()[2:]}
    assert float(rows["m-cpu-fp32"]) <= 1e-6
    assert float(rows["other-cpu-fp32"]) == 1.0
