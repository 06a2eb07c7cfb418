"""Which of several artifacts in a folder is opened here, and why.

A fit's own pick comes first. Where it cannot run here, others of its depth do; then the fastest that the fit
measured; and of what nobody measured those of any shape before those of one, the deeper, int8 before fp8, fp16,
bf16 and fp32, and targets in the order of their table. What this machine lacks is looked up, not tried.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.artifact import MANIFEST, Artifact, Manifest, made_for_int8_dot
from edgebert.errors import EdgebertError, EnvironmentMissing, InputError
from edgebert.folders import artifact_folders, fit_of, latencies_of, pick_of
from edgebert.machine import has_bf16, has_int8_dot
from edgebert.registry import TARGETS, target_named

# How deep below the folder artifacts may lie: in a fit's they are in artifacts/.
_DEPTH = 2
# The faster first, on a CPU that computes in it.
_PRECISIONS = ("int8", "fp8", "fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Choice:
    """Why an artifact was opened, and for each of the others, by its name below ``folder``, why not."""

    folder: Path
    why: str
    passed_over: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """In plain types."""
        return {"folder": str(self.folder), "why": self.why, "passed_over": dict(self.passed_over)}


@dataclass(frozen=True)
class Offer:
    """One of the artifacts. ``p50`` is in milliseconds, infinite where nobody measured it."""

    artifact: Artifact
    name: str
    is_pick: bool
    of_its_depth: bool
    p50: float

    @property
    def rank(self) -> tuple[Any, ...]:
        """The least is the first choice."""
        manifest = self.artifact.manifest
        return (
            not self.is_pick, not self.of_its_depth, self.p50, manifest.fixed is not None,
            -manifest.architecture.layers, _place(manifest.precision.partition("-")[0], _PRECISIONS),
            _place(manifest.target, list(TARGETS)), self.name,
        )  # fmt: skip

    @property
    def why(self) -> str:
        """What speaks for it."""
        if self.is_pick:
            return "the fit's own pick"
        depth = "as deep as the fit's pick; " if self.of_its_depth else ""
        if self.p50 < math.inf:
            return f"{depth}p50 {self.p50:.2f} ms where the fit was measured"
        return f"{depth}not measured; by depth, then {', '.join(_PRECISIONS)}, then {', '.join(TARGETS)}"


def opened(path: Path, target: str | None = None) -> tuple[Artifact, Choice | None]:
    """The artifact at ``path``, or, of a folder of several, the one to run here and why it.

    With ``target``, of several only those that were made for it. Raises InputError where there is none, or where they
    are of several models; EnvironmentMissing where none can run here.
    """
    several = path.is_dir() and not (path / MANIFEST).is_file()
    if not (offers := _offers(path) if several else []):
        return Artifact.open(path), None
    passed_over: dict[str, str] = {}
    for place, offer in enumerate(offers):
        reason = obstacle(offer.artifact.manifest, target)
        if reason is None:
            passed_over |= {later.name: later.why for later in offers[place + 1 :]}
            return offer.artifact, Choice(path, offer.why, passed_over)
        passed_over[offer.name] = reason
    what = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    raise EnvironmentMissing(f"no artifact of {len(offers)} can run here ({what})", str(path), "run edgebert doctor")


def _offers(path: Path) -> list[Offer]:
    """All artifacts of the folder, the first choice first."""
    fit = fit_of(path)
    pick, latencies = pick_of(fit), latencies_of(fit)
    artifacts = [Artifact.open(folder) for folder in artifact_folders(path, _DEPTH)]
    if pick is not None and pick.digest not in {artifact.digest for artifact in artifacts} and fit == path:
        # Others may have been left behind when the folder was copied.
        artifacts.append(pick)
    _check_one_model(path, [artifact.manifest for artifact in artifacts])
    offers = [
        Offer(
            artifact, str(artifact.path.relative_to(path)),
            is_pick=pick is not None and artifact.digest == pick.digest,
            of_its_depth=pick is not None and artifact.manifest.kept_layers == pick.manifest.kept_layers,
            p50=latencies.get(artifact.digest, math.inf),
        )
        for artifact in artifacts
    ]  # fmt: skip
    return sorted(offers, key=lambda offer: offer.rank)


def _check_one_model(path: Path, manifests: Sequence[Manifest]) -> None:
    """Raise InputError where artifacts do not answer the same question: which one is meant is not ours to say."""
    models = sorted({f"{m.name} for {m.task}" + f" ({len(m.labels)} labels)" * bool(m.labels) for m in manifests})
    if len({(m.name, m.task, m.problem, m.labels) for m in manifests}) > 1:
        raise InputError(f"artifacts of several models ({', '.join(models)})", str(path), "load one of them")


def obstacle(manifest: Manifest, target: str | None) -> str | None:
    """Why an artifact cannot run here, or not on ``target``; None where nothing is known against it."""
    if target is not None and manifest.target != target:
        return f"made for target {manifest.target}"
    try:
        found = target_named(manifest.target)
        found.resolve()
    except EdgebertError as error:
        return str(error)
    if manifest.precision == "bf16" and not found.typed and not has_bf16():
        return "this CPU does not compute in bf16"
    if made_for_int8_dot(manifest) and not has_int8_dot() and not found.unsaturated:
        return "its int8 products would saturate: it was made for a CPU with VNNI, or dot products on Arm"
    return None


def _place(word: str, words: Collection[str]) -> int:
    """Where a word stands in an order, after all of them where it does not."""
    return list(words).index(word) if word in words else len(words)
