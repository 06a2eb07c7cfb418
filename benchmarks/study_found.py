"""What the study found, by question: its rows, found by the runs they are of, and the latencies of its artifacts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import study_rows
from study_plan import CLASSIFIED, ENCODED, SEEDS, Run, seeded, teacher_of

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
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Points | None:
        """What trainings of several seeds have together, or the one there is; None of none."""
        found = [cls(*row["points"]) for row in rows]
        if len(found) < 2:
            return found[0] if found else None
        value, low, high = (
            statistics.mean(one) for one in zip(*((p.value, p.low, p.high) for p in found), strict=True)
        )
        # Two say nothing of how far apart seeds are.
        spread = statistics.stdev(one.value for one in found) if len(found) > 2 else None
        return cls(value, low, high, spread)

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ±{self.spread:.1f}"
        return f"{self.value:+.1f}{spread} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class Found:
    """Rows by run and depth; ``latencies`` are milliseconds of one text, by set, precision and depth.

    ``again`` are rows of trainings that another machine has a row of already, in ``rows``.
    """

    rows: Mapping[tuple[str, int], Mapping[str, Any]]
    again: Sequence[Mapping[str, Any]]
    latencies: Mapping[str, Any]

    @classmethod
    def read(cls, rows: Path, latencies: Path) -> Found:
        """What is in the files; a file that is not there holds nothing."""
        known: dict[tuple[str, int], dict[str, Any]] = {}
        again = []
        for row in study_rows.read(rows):
            first = known.setdefault((row["run"], row["layers"]), {})
            if "fp32" in row and "fp32" in first:
                again.append(row)
            else:
                # What int8 costs is a row of its own.
                first.update(row)
        return cls(known, again, json.loads(latencies.read_text("utf-8")) if latencies.exists() else {})

    def row(self, run: Run, layers: int | None = None) -> Mapping[str, Any] | None:
        """The row of a run, of several depths the one of so many layers."""
        return self.rows.get((run.name, run.layers[0] if layers is None else layers))

    def points(self, run: Run, layers: int | None = None) -> Points | None:
        """How far the student of one training is from its teacher, both in fp32."""
        row = self.row(run, layers)
        return Points.of([row]) if row else None

    def seeds(self, run: Run) -> list[Mapping[str, Any]]:
        """The rows of a run's seeds; where one is missing, that of seed 0 alone."""
        rows = [self.row(one) for one in _seeds_of(run)]
        return [row for row in rows if row] if all(rows) else [row for row in rows[:1] if row]

    def without(self, run: Run) -> list[Mapping[str, Any]]:
        """What a run with settings of its own is compared with: the same without, of seeds that its machine trained.

        Of all seeds, where that machine trained none.
        """
        own, names = self.row(run), [one.name for one in _seeds_of(run.without)]
        trained = [row for row in (*self.rows.values(), *self.again) if row["run"] in names]
        there = [row for row in trained if own and _machine_of(row) == _machine_of(own)]
        return there or self.seeds(run.without)

    def effect(self, run: Run) -> tuple[Points | None, Points | None, float | None]:
        """The points of a run with settings of its own, of what goes without, and what they bring on dev, in points."""
        gains = [self._on_dev(one) for one in _seeds_of(run) if self.row(one)]
        return Points.of(self.seeds(run)), Points.of(self.without(run)), mean(gains)

    def beside(self, run: Run, other: Run) -> Mapping[str, Any] | None:
        """The row of another run, of the machine that trained this one if there is one."""
        own, first = self.row(run), self.row(other)
        again = [row for row in self.again if row["run"] == other.name]
        there = [row for row in again if own and _machine_of(row) == _machine_of(own)]
        return there[0] if there else first

    def _on_dev(self, run: Run) -> float | None:
        """What a run's settings bring on dev, beside the same seed, whose dev part is the same.

        None of an encoder, of which dev knows a loss alone.
        """
        own, without = self.row(run), self.beside(run, run.without)
        return 100 * (own["dev"] - without["dev"]) if own and without and run.data != ENCODED else None

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


def _machine_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """What trained it."""
    return row["device"], row["cpu"]


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
