"""The study's rows: JSON lines, one for each trained depth, as `study_run.py` describes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROWS = Path(__file__).resolve().parent.parent / "docs" / "study" / "rows.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file; none where there is no file."""
    return parse(path.read_text("utf-8")) if path.exists() else []


def parse(text: str) -> list[dict[str, Any]]:
    """The rows in lines of JSON."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def end_of(run: str) -> str:
    """The line that follows the rows of a run in what `study_run.py` prints."""
    return f"done: {run}\n"


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows at a file's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
