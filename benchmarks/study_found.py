"""What the study found, by question: its rows, found by the runs they are of, and the latencies of its artifacts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import study_rows
from study_plan import CLASSIFIED, SEEDS, Run, seeded, teacher_of

ABSENT = "–"


@dataclass(frozen=True)
class Points:
    """A difference in points of the set's metric with its paired 95 % interval over the texts of test.

    Of several seeds these are the means of each one's, and ``spread`` is the standard deviation of the difference.
    """

    value: float
    low: float
    high: float
    spread: float | None = None

    @classmethod
    def mean(cls, found: Sequence[Points]) -> Points | None:
        """What trainings of several seeds have together, or the one there is; None of none."""
        if len(found) < 2:
            return found[0] if found else None
        value, low, high = (
            statistics.mean(one) for one in zip(*((p.value, p.low, p.high) for p in found), strict=True)
        )
        return cls(value, low, high, statistics.stdev(one.value for one in found))

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ±{self.spread:.1f}"
        return f"{self.value:+.1f}{spread} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class Found:
    """Rows by run and depth; ``latencies`` are milliseconds of one text, by set, precision and depth."""

    rows: Mapping[tuple[str, int], Mapping[str, Any]]
    latencies: Mapping[str, Any]

    @classmethod
    def read(cls, rows: Path, latencies: Path) -> Found:
        """What is in the files; a file that is not there holds nothing."""
        known: dict[tuple[str, int], dict[str, Any]] = {}
        # What int8 costs is a row of its own.
        for row in study_rows.read(rows):
            known.setdefault((row["run"], row["layers"]), {}).update(row)
        return cls(known, json.loads(latencies.read_text("utf-8")) if latencies.exists() else {})

    def row(self, run: Run, layers: int | None = None) -> Mapping[str, Any] | None:
        """The row of a run, of several depths the one of so many layers."""
        return self.rows.get((run.name, run.layers[0] if layers is None else layers))

    def points(self, run: Run, layers: int | None = None) -> Points | None:
        """How far the student of one training is from its teacher, both in fp32."""
        row = self.row(run, layers)
        return Points(*row["points"]) if row else None

    def of_seeds(self, run: Run) -> Points | None:
        """The students of all seeds together; where one is missing, that of seed 0."""
        known = [self.points(one) for one in _seeds_of(run)]
        return Points.mean([points for points in known if points]) if all(known) else known[0]

    def beside(self, run: Run) -> Points | None:
        """What a run with settings of its own is compared with: the same without, of seeds trained where it was.

        Of all seeds, where none of them was.
        """
        own = self.row(run)
        without = _seeds_of(run.without)
        there = [one for one in without if own and (row := self.row(one)) and row["device"] == own["device"]]
        known = [points for one in there if (points := self.points(one))]
        return Points.mean(known) or self.of_seeds(run.without)

    def rounded(self, run: Run) -> Points | None:
        """How far int8 is from fp32."""
        row = self.row(run)
        return Points(*row["int8_points"]) if row and "int8_points" in row else None

    def mean(self, of_set: Mapping[str, Points | None]) -> float | None:
        """The mean over the five classified sets, or None where one is missing."""
        return mean([value(of_set.get(name)) for name in CLASSIFIED])

    def by_seed(self, layers: int) -> list[float]:
        """For each seed the mean over the five classified sets of the recipe's students with so many layers."""
        by_set = [{name: self.points(seeded(name, layers, seed)) for name in CLASSIFIED} for seed in SEEDS[layers]]
        return [value for of_set in by_set if (value := self.mean(of_set)) is not None]

    def p50(self, name: str, precision: str, layers: int) -> float | None:
        """Milliseconds of one text of a set's test at the median."""
        return self.latencies.get(name, {}).get(precision, {}).get(str(layers))

    def teacher(self, name: str) -> Mapping[str, Any] | None:
        """The row of a set's teacher."""
        return self.row(teacher_of(name))


def _seeds_of(run: Run) -> list[Run]:
    return [replace(run, seed=seed) for seed in SEEDS.get(run.layers[0], (0,))]


def value(points: Points | None) -> float | None:
    """The difference alone."""
    return None if points is None else points.value


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where a value is missing."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def cell(value: object) -> str:
    """A value of a table; a mark for what is not there."""
    if value is None:
        return ABSENT
    return f"{value:+.1f}" if isinstance(value, float) else str(value)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---' * (len(heads) - 1)}|"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"
