"""Judging an artifact where it stands: its golden vectors, a checkpoint beside it, labelled data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebert.artifact import Artifact, problem_of
from edgebert.errors import UsageError
from edgebert.judging import parity
from edgebert.judging.evaluate import evaluate
from edgebert.judging.golden import read_golden
from edgebert.judging.metrics import Metric
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Data, match_labels, read


def verify(
    artifact: str | Path,
    reference: str | None = None,
    data: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[list[parity.Stage], Metric | None]:
    """Judge an artifact where it stands: golden vectors, parity with a checkpoint, the task metric on data.

    Raises InputError for a broken artifact. A failed check is in the result, not an exception.
    """
    opened = Artifact.open(artifact)
    rows = read(data, columns) if data is not None else None
    with load(artifact) as model:
        stages = [_golden_stage(opened, model.run)]
        if reference is not None:
            stages.append(_reference_stage(opened, model.run, open_checkpoint(reference), rows))
        metric = None
        if rows is not None and opened.manifest.labels:
            matched = match_labels(rows, opened.manifest.labels, problem_of(opened.manifest).data)
            if matched is None:
                raise UsageError(
                    "labels of the data are not the artifact's",
                    str(data),
                    f"it knows {', '.join(opened.manifest.labels[:5])}",
                )
            metric = evaluate(model, matched.test).metric_value()
        elif rows is not None and rows.kind == "score":
            metric = evaluate(model, rows.test).metric_value()
    return stages, metric


def _golden_stage(artifact: Artifact, run: parity.Run) -> parity.Stage:
    golden = read_golden(artifact)
    actual = parity.outputs(run, golden.feeds)
    return parity.compare("golden", _kind(artifact), golden.expected, actual, parity.choices_of(artifact.manifest))


def _reference_stage(artifact: Artifact, run: parity.Run, checkpoint: Artifact, rows: Data | None) -> parity.Stage:
    from edgebert.runtimes.reference import reference_session

    if checkpoint.manifest.architecture != artifact.manifest.architecture:
        ours, theirs = artifact.manifest.architecture.layers, checkpoint.manifest.architecture.layers
        raise UsageError(
            f"reference has another shape ({theirs} layers, the artifact {ours})",
            str(checkpoint.path),
            "give the checkpoint it was exported from",
        )
    feeds = parity.feeds(TextTokenizer(artifact), parity.ledger_texts(rows)[0])
    expected = parity.outputs(parity.runner(reference_session(checkpoint), checkpoint), feeds)
    actual = parity.outputs(run, feeds)
    return parity.compare("reference", _kind(artifact), expected, actual, parity.choices_of(artifact.manifest))


def _kind(artifact: Artifact) -> str:
    return artifact.manifest.precision.partition("-")[0]


def document_of(stages: Sequence[parity.Stage], metric: Metric | None) -> dict[str, Any]:
    """The JSON document of ``edgebert verify``."""
    result: dict[str, Any] = json.loads(
        json.dumps(
            {
                "ok": all(line.ok for line in stages),
                "stages": [dataclasses.asdict(line) for line in stages],
                "metric": dataclasses.asdict(metric) if metric else None,
            }
        )
    )
    return result
