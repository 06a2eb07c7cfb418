"""Real weights and real text: what the tiny models cannot show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert import build
from edgebert.building.widths import Asked
from edgebert.judging.evaluate import evaluate
from edgebert.runtimes.reference import reference_session
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tasks import TASKS
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


@pytest.mark.parametrize("asked", [Asked(ffn=2304), Asked(hidden=768), Asked(hidden=1152, ffn=2048)])
def test_wider_real_weights_answer_as_before(asked: Asked, minilm: str, shared: Path, tmp_path: Path) -> None:
    """A fine-tuned classifier's logits, and all token vectors of a sentence encoder."""
    texts = read(shared / "data" / "sst2_sent").test[:32]
    for number, name in enumerate((minilm, str(shared / "models" / "minilm-l6-sst2"))):
        source, made = open_checkpoint(name), build.resize(name, tmp_path / str(number), asked=asked)
        assert made.manifest.checks["width"]["exact"]
        tokenizer = TextTokenizer(source)
        feed = tokenizer.collate(tokenizer.encode([row.text for row in texts]))
        task = TASKS[source.manifest.task]
        before, after = (task.joined(reference_session(one).run(feed)) for one in (source, made))
        if task.pools:
            mask = feed["attention_mask"].astype(bool)
            before, after = before[mask], after[mask]
            before = np.tile(before, after.shape[1] // before.shape[1])
        assert np.abs(after - before).max() < 1e-5
