"""Real weights and real text: what the tiny models cannot show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert import build
from edgebert.judging.evaluate import evaluate
from edgebert.serving.model import load
from edgebert.training.data import match_labels, read


def test_minilm_exports_at_every_asked_depth_from_one_trace(minilm: str, tmp_path: Path) -> None:
    artifacts = build.export(minilm, layers=[1, 3, 6], precision=["fp32", "int8"], out=tmp_path / "out")
    sizes = [artifact.manifest.bytes / 1e6 for artifact in artifacts]
    assert len(artifacts) == 6
    assert sizes[1] < 15.5
    assert sizes[5] < 25
    for artifact in artifacts:
        ledger = {line["name"]: line for line in artifact.manifest.checks["parity"]}
        assert all(line["ok"] for line in ledger.values())
        assert ledger["onnx-fp32"]["max_abs_error"] < 1e-4
        if artifact.manifest.architecture.layers < 6:
            assert ledger["truncate"]["max_abs_error"] == 0
        if artifact.manifest.precision == "int8":
            assert artifact.manifest.checks["integer"]["float"] == []
    with load(artifacts[4].path) as exact, load(artifacts[5].path) as rounded:
        texts = ["a man is playing a guitar", "someone plays an instrument", "the stock market fell"]
        vectors = exact.encode(texts)
        assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
        assert (np.sum(vectors * rounded.encode(texts), axis=1) > 0.97).all()


def test_a_fine_tuned_checkpoint_keeps_its_accuracy(shared: Path, tmp_path: Path) -> None:
    model = str(shared / "models" / "minilm-l6-sst2")
    data = read(shared / "data" / "sst2_sent")
    artifacts = build.export(
        model, precision=["fp32", "int8"], out=tmp_path / "out", data=shared / "data" / "sst2_sent"
    )
    found = []
    for artifact in artifacts:
        with load(artifact.path) as opened:
            matched = match_labels(data, opened.artifact.manifest.labels)
            assert matched is not None
            found.append(evaluate(opened, matched.test).metric_value().value)
    assert found[0] == pytest.approx(0.887, abs=0.002)
    assert found[1] == pytest.approx(found[0], abs=0.01)
