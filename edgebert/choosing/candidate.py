"""One candidate of a sweep and the whole outcome, as values that go to disk and into the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgebert.choosing.changes import Changes
from edgebert.judging.latency import Latency
from edgebert.judging.metrics import Metric


@dataclass(frozen=True)
class Candidate:
    """A depth at a precision on a target.

    ``kept_layers`` are indices into the checkpoint it is cut from. ``trained`` False means that only its
    latency and size are known. ``dev`` decides, ``test`` is reported. ``path`` is relative to the sweep folder.
    ``stages`` is the parity ledger. ``failed`` says why a candidate has no numbers.
    """

    layers: int
    target: str
    precision: str
    kept_layers: tuple[int, ...]
    trained: bool
    bytes: int = 0
    latency: Latency | None = None
    dev: Metric | None = None
    test: Metric | None = None
    path: str | None = None
    digest: str = ""
    stages: tuple[Mapping[str, Any], ...] = ()
    failed: str | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        """What makes it this candidate within one sweep."""
        return self.layers, self.target, self.precision

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.layers} layer{'s' * (self.layers > 1)} {self.precision} on {self.target}"

    def to_dict(self) -> dict[str, Any]:
        """The public form: the fields, plus ``metric`` (on test) and ``latency_ms`` under their contract names."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        latency = self.latency
        document["metric"] = document["test"]
        document["latency_ms"] = {"p50": latency.p50, "p95": latency.p95} if latency else None
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Candidate:
        """The inverse of :meth:`to_dict`; unknown fields are ignored."""
        known = {f.name: document[f.name] for f in dataclasses.fields(cls) if f.name in document}
        known["kept_layers"] = tuple(known["kept_layers"])
        known["stages"] = tuple(known.get("stages", ()))
        for name in ("dev", "test"):
            known[name] = Metric(**known[name]) if known.get(name) else None
        known["latency"] = Latency.from_dict(known["latency"]) if known.get("latency") else None
        return cls(**known)


@dataclass(frozen=True)
class Verdict:
    """The pick and how it came about.

    ``nearest`` are the runners-up with one sentence each on why not; ``ties`` names candidates that the
    dev set cannot tell from the pick, ``as_fast`` those whose speed the measurement cannot tell from it.
    ``against_teacher`` is the pick minus the teacher on test, paired.
    """

    pick: Candidate | None
    reason: str
    nearest: tuple[tuple[Candidate, str], ...] = ()
    ties: tuple[str, ...] = ()
    as_fast: tuple[str, ...] = ()
    against_teacher: Metric | None = None


@dataclass(frozen=True)
class Elsewhere:
    """The same artifacts on another machine: what it is, its latencies, and what would be picked for it."""

    name: str
    environment: Mapping[str, Any]
    conditions: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Step:
    """One candidate beside the pick and what going there costs and brings.

    ``way`` is faster, better or untrained. ``ms`` is its latency at ``percentile`` minus the pick's, and
    ``needs_ms`` the limit that would admit it where the one that was set does not. ``gain`` is its metric on
    test minus the pick's, a fraction, with the paired 95 % interval; None where it was not trained.
    ``points_per_ms`` is the rate of the trade, None where nothing is given for what is taken.
    """

    way: str
    candidate: Candidate
    percentile: str
    ms: float
    needs_ms: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    points_per_ms: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything the report shows; ``report.json`` is this, in JSON.

    ``conditions`` say how calm the machine was while the latencies that decide were measured.
    ``changes`` are the pick against the teacher on test, None for encoders and where the two are one.
    """

    command: str
    created: str
    task: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    budget: Mapping[str, Any]
    teacher: Candidate | None
    candidates: tuple[Candidate, ...]
    verdict: Verdict
    depth_lines: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())
    conditions: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[Elsewhere, ...] = field(default=())
    steps: tuple[Step, ...] = ()
    changes: Changes | None = None
