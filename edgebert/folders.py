"""Folders of several artifacts, as export and fit write them: where they lie, and what a fit says of them."""

from __future__ import annotations

import math
from pathlib import Path

from edgebert.artifact import MANIFEST, Artifact
from edgebert.errors import InputError
from edgebert.files import read_plain
from edgebert.strict_json import parse_json

# A fit's folder: the copy of its pick, its measurements, one candidate a line, and where its artifacts lie.
BEST, JOURNAL, ARTIFACTS = "best", "sweep.jsonl", "artifacts"
# Folders of a fit that hold no artifacts of their own: copies and things half made.
_NOT_ARTIFACTS = frozenset({BEST, "work", "checkpoints"})
_MAX_JOURNAL_BYTES = 64_000_000


def artifact_folders(root: Path, depth: int) -> list[Path]:
    """The folders with a manifest at most ``depth`` levels below ``root``, in order; copies left out."""
    patterns = ["/".join(["*"] * level) for level in range(1, depth + 1)]
    inside = [manifest.parent for pattern in patterns for manifest in root.glob(f"{pattern}/{MANIFEST}")]
    return sorted(path for path in inside if not _hidden(path.relative_to(root)))


def _hidden(path: Path) -> bool:
    # A name with a dot in front is a run's that is at work, or was killed.
    return any(part in _NOT_ARTIFACTS or part.startswith(".") for part in path.parts)


def fit_of(folder: Path) -> Path:
    """The fit that a folder of artifacts belongs to, where it belongs to one: itself, or the folder around it."""
    return folder.parent if folder.absolute().name == ARTIFACTS else folder


def pick_of(fit: Path) -> Artifact | None:
    """A fit's pick; None where there is none. Raises InputError where it is broken."""
    return Artifact.open(fit / BEST) if (fit / BEST / MANIFEST).is_file() else None


def latencies_of(fit: Path) -> dict[str, float]:
    """The milliseconds of one call (p50) that a fit measured, by the artifact's digest; none where it is no fit."""
    try:
        lines = read_plain(fit, JOURNAL, _MAX_JOURNAL_BYTES).splitlines()
    except FileNotFoundError:
        return {}
    return dict(found for line in lines if (found := _latency(line)) is not None)


def _latency(line: bytes) -> tuple[str, float] | None:
    """Digest and p50 of a candidate; None for one that was not measured as an artifact, and for a torn line."""
    try:
        row = parse_json(line, JOURNAL)
        digest, p50 = row["digest"], row["latency_ms"]["p50"]
    except (InputError, KeyError, TypeError):
        return None
    return (digest, float(p50)) if digest and isinstance(p50, (int, float)) and math.isfinite(p50) else None
