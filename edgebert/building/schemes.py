"""``int8`` is a promise that several schemes can keep: which a target has, and which of them keeps the task best."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgebert.artifact import Artifact
from edgebert.judging.metrics import Scores, difference
from edgebert.judging.parity import Stage
from edgebert.serving.rows import Float

log = logging.getLogger("edgebert")

# The first is what a fit measures before it trains. OpenVINO computes the dynamic scheme in float.
_INT8: Mapping[str, tuple[str, ...]] = {
    "cpu": ("int8-dynamic", "int8-static"),
    "openvino": ("int8-static",),
    "ort-trt": ("int8-static",),
    "trt": ("int8-static",),
    "trt-rtx": ("int8-static",),
}


def schemes_of(target: str, precision: str) -> tuple[str, ...]:
    """The precisions that may be built where ``precision`` is asked for: itself, or the schemes of ``int8``."""
    return _INT8[target] if precision == "int8" else (precision,)


@dataclass(frozen=True)
class Trial:
    """A checkpoint built in one of these.

    ``line`` is its line in the ledger, ``answers`` what that was written on, ``scores`` are those on dev where it
    could be judged by them.
    """

    precision: str
    artifact: Artifact
    line: Stage
    answers: Sequence[Float]
    scores: Scores | None = None

    @cached_property
    def metric(self) -> float | None:
        """The task metric on dev, a fraction; None where that could not be measured."""
        return None if self.scores is None else self.scores.metric_value().value


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial that keeps the task best: by its metric on dev, then by its mean error; one that parity admits."""
    return max(trials, key=lambda trial: (trial.line.ok, trial.metric or 0.0, -trial.line.mean_abs_error))


@dataclass(frozen=True)
class Loss:
    """What 8 bits cost on dev against fp32, in points of the task metric (negative: lost), with the paired interval."""

    metric: str
    points: float
    low: float
    high: float

    def exceeds(self, most: float) -> bool:
        """Whether more than ``most`` points are lost, beyond what chance explains: the whole interval lies there."""
        return self.high < -most


def loss_of(trial: Trial, exact: Scores | None) -> Loss | None:
    """None where the data cannot judge."""
    if trial.scores is None or exact is None:
        return None
    found = difference(trial.scores, exact)
    return Loss(found.name, 100 * found.value, 100 * found.low, 100 * found.high)


def told(trials: Sequence[Trial], best: Trial) -> list[dict[str, Any]]:
    """The trials as the manifest keeps them; nothing where there was no choice. Says in the log what was chosen."""
    if len(trials) == 1:
        return []
    found = [
        {
            "precision": trial.precision, "metric": trial.metric, "mean_abs_error": trial.line.mean_abs_error,
            "chosen": trial is best,
        }
        for trial in trials
    ]  # fmt: skip
    log.info("int8 is %s here: %s", best.precision, "; ".join(map(_words, trials)))
    return found


def _words(trial: Trial) -> str:
    score = "" if trial.metric is None else f"{trial.metric:.4f} on dev, "
    refused = "" if trial.line.ok else ", beyond its tolerance"
    return f"{trial.precision} {score}mean error {trial.line.mean_abs_error:.4f}{refused}"
