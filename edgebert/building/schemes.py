"""``int8`` is a promise that several schemes can keep: which a target has, and which of them keeps the task best."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebert.artifact import Artifact
from edgebert.judging.parity import Stage

log = logging.getLogger("edgebert")

# The first is what a fit measures before it trains. OpenVINO computes the dynamic scheme in float.
_INT8: Mapping[str, tuple[str, ...]] = {"cpu": ("int8-dynamic", "int8-static"), "openvino": ("int8-static",)}


def schemes_of(target: str, precision: str) -> tuple[str, ...]:
    """The precisions that may be built where ``precision`` is asked for: itself, or the schemes of ``int8``."""
    return _INT8[target] if precision == "int8" else (precision,)


@dataclass(frozen=True)
class Trial:
    """A checkpoint built in one of these: its line in the ledger, its metric on dev where that could be measured."""

    precision: str
    artifact: Artifact
    line: Stage
    metric: float | None = None


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial that keeps the task best: by its metric on dev, then by its mean error; one that parity admits."""
    return max(trials, key=lambda trial: (trial.line.ok, trial.metric or 0.0, -trial.line.mean_abs_error))


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
