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
from edgebert.judging.metrics import Metric, whole_metric
from edgebert.runtimes.session import takes
from edgebert.serving.golden import read_golden
from edgebert.serving.model import Model, open_model
from edgebert.serving.rows import Run, outputs
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tasks import TASKS
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
    with open_model(artifact) as model:
        stages = [_golden_stage(opened, model.run)]
        if reference is not None:
            stages.append(_reference_stage(opened, model.run, open_checkpoint(reference), rows))
        metric = _metric(model, rows) if rows is not None else None
    return stages, metric


def _metric(model: Model, data: Data) -> Metric | None:
    """The task metric on test; None for an encoder where pairs are not rated."""
    manifest = model.artifact.manifest
    kind = problem_of(manifest).data
    if kind == "none" and data.kind != "score":
        return None
    if kind not in ("none", "text"):
        matched = match_labels(data, manifest.labels, kind)
        if matched is None:
            known = ", ".join(manifest.labels[:5]) or kind
            raise UsageError("labels of the data are not the artifact's", data.name, f"it knows {known}")
        data = matched
    return whole_metric(evaluate(model, data.test))


def _golden_stage(artifact: Artifact, run: Run) -> parity.Stage:
    golden = read_golden(artifact)
    actual = outputs(run, golden.feeds, TASKS[artifact.manifest.task].compared)
    return parity.compare("golden", _kind(artifact), golden.expected, actual, parity.choices_of(artifact.manifest))


def _reference_stage(artifact: Artifact, run: Run, checkpoint: Artifact, rows: Data | None) -> parity.Stage:
    from edgebert.runtimes.reference import reference_session

    if checkpoint.manifest.architecture != artifact.manifest.architecture:
        ours, theirs = artifact.manifest.architecture.layers, checkpoint.manifest.architecture.layers
        raise UsageError(
            f"reference has another shape ({theirs} layers, the artifact {ours})",
            str(checkpoint.path),
            "give the checkpoint it was exported from",
        )
    task = TASKS[artifact.manifest.task]
    feeds = parity.feeds(TextTokenizer(artifact), parity.ledger_texts(rows, task)[0])
    feeds = [feed for feed in feeds if takes(feed["attention_mask"], artifact)]
    expected = outputs(parity.runner(reference_session(checkpoint), checkpoint), feeds, task.compared)
    actual = outputs(run, feeds, task.compared)
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
