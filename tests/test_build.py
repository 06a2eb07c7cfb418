"""Building in Python: what is made once is never another checkpoint's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from edgebert import build
from edgebert.runtimes.reference import reference_session
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint

pytestmark = pytest.mark.usefixtures("one_trace")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_checkpoints_of_one_shape_never_share_what_was_made(precision: str, tmp_path: Path) -> None:
    sources = [open_checkpoint(str(tiny.checkpoint(tmp_path / f"model-{seed}", seed=seed))) for seed in (1, 2)]
    texts = tiny.texts(8, seed=3)
    exporter = build.Exporter(sources[0], texts, "a test", tmp_path / "work")
    artifacts = [exporter.export(source, "cpu", precision, tmp_path / f"out-{i}") for i, source in enumerate(sources)]
    for source, artifact in zip(sources, artifacts, strict=True):
        feed = TextTokenizer(source).collate(TextTokenizer(source).encode(texts))
        expected = reference_session(source).run(feed)["logits"]
        with load(artifact.path) as model:
            error = np.abs(model.logits(texts) - expected).max()
        assert error < (1e-5 if precision == "fp32" else 0.5) * max(1.0, np.abs(expected).max())
    assert artifacts[0].digest != artifacts[1].digest
