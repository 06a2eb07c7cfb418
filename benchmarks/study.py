"""The study: depths, methods, cuts and widths of MiniLM on six sets, trained, judged and kept as rows.

    python benchmarks/study.py [FOLDER [DATA]] [--rows docs/study/rows.jsonl] [--jobs N] [--only TEXT] [--minutes M]

Runs what `study_plan.py` lists and no row is there for, each in a process of its own with one thread, as many at a
time as there are processors: two trainings of one thread each are done in two thirds of the time (by hand) that two
need one after the other with two threads. A run that was cut off goes on; a row is written when its run is done.
FOLDER keeps teachers and some students: `study_int8.py` exports and judges these, `study_latency.py` times them,
`study_page.py` writes the page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import study_rows
from serving_places import SHARED
from study_plan import Run, plan

from edgebert import machine

HERE = Path(__file__).resolve().parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".study"))
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "data", help="folder with a folder for each set")
    parser.add_argument("--rows", type=Path, default=study_rows.ROWS)
    parser.add_argument("--jobs", type=int, default=machine.allowed_threads())
    parser.add_argument("--only", default="", help="runs whose names hold this")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    asked = parser.parse_args()
    done = {row["run"] for row in study_rows.read(asked.rows) if "fp32" in row}
    missing = [run for run in plan() if asked.only in run.name and run.name not in done]
    print(f"{len(done)} runs done, {len(missing)} to do", file=sys.stderr)
    runner = _Runner(asked.folder, asked.data, asked.rows, asked.minutes)
    # Teachers first: what begins before its teacher is there would train one of its own.
    for part in ([run for run in missing if run.is_teacher], [run for run in missing if not run.is_teacher]):
        runner.run(part, asked.jobs)
    sys.exit(bool(runner.failed))


class _Runner:
    """Runs of the plan, each in a process, and the file of their rows."""

    def __init__(self, folder: Path, data: Path, rows: Path, minutes: float | None) -> None:
        self._places, self._rows = [str(folder), str(data)], rows
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._lock = threading.Lock()
        self.failed: list[str] = []

    def run(self, runs: Sequence[Run], jobs: int) -> None:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._one, runs))

    def _one(self, run: Run) -> None:
        if self._end is not None and time.monotonic() > self._end:
            return
        command = [sys.executable, str(HERE / "study_run.py"), *self._places, run.name]
        done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
        with self._lock:
            if done.returncode:
                self.failed.append(run.name)
                print(f"{run.name} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
                return
            rows = study_rows.parse(done.stdout)
            study_rows.append(self._rows, rows)
            told = ", ".join(f"{row['layers']} layers {row['points'][0]:+.2f}" for row in rows)
            print(f"{run.name}: {told} ({rows[0]['cpu_seconds']} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
