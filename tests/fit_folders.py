"""What is in the folder of a fit: its journal's rows, also as of a slower machine, and when files were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_JOURNAL = "sweep.jsonl"


def rows(folder: Path) -> list[dict[str, Any]]:
    """The journal's rows, in their order."""
    return [json.loads(line) for line in (folder / _JOURNAL).read_text("utf-8").splitlines()]


def write(folder: Path, changed: list[dict[str, Any]]) -> None:
    """Put these in the place of the journal's rows."""
    (folder / _JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in changed), "utf-8")


def at(row: dict[str, Any], ms: float) -> dict[str, Any]:
    """A row of a machine on which each call takes so long."""
    latency = row["latency"]
    same = {"p50": ms, "p50_low": ms, "p50_high": ms, "rounds": [ms] * len(latency["rounds"])}
    return {**row, "latency": {**latency, **same}}


def times(folder: Path, *names: str) -> dict[str, int]:
    """When each file below these folders was last written, in nanoseconds."""
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}
