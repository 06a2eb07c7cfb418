"""The study: depths, methods, cuts and widths of MiniLM on six sets, trained, judged and kept as rows.

    python benchmarks/study.py [FOLDER [DATA]] [--rows docs/study/rows.jsonl] [--jobs N] [--only TEXT] [--minutes M]

Runs what `study_plan.py` lists and no row is there for, in as many processes of one thread as there are processors: two
trainings of one thread each are done in two thirds of the time (by hand) that two need one after the other with two
threads. A run that was cut off goes on; a row is written when its run is done. Where there is a GPU, all train on it,
and share it better where `nvidia-cuda-mps-control -d` was called before.

FOLDER keeps teachers and some students: `study_int8.py` exports and judges these, `study_latency.py` times them,
`study_page.py` writes the page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import study_rows
from serving_places import SHARED
from study_plan import Run, kept_in, plan

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
    # As after Ctrl-C, the processes end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    done = {row["run"] for row in study_rows.read(asked.rows) if "fp32" in row}
    missing = [run for run in plan() if asked.only in run.name and run.name not in done]
    print(f"{len(done)} runs done, {len(missing)} to do", file=sys.stderr)
    gone = [run for run in _teachers(missing) if run not in missing and _is_gone(run, asked.folder)]
    queue = _Queue([*gone, *missing], None if asked.minutes is None else 60 * asked.minutes)
    runner = _Runner((asked.folder, asked.data), asked.rows, done, queue)
    with ThreadPoolExecutor(asked.jobs) as pool:
        try:
            for worker in [pool.submit(runner.work) for _ in range(asked.jobs)]:
                worker.result()
        except BaseException:
            runner.stop()
            raise
    sys.exit(bool(runner.failed))


def _teachers(runs: Sequence[Run]) -> list[Run]:
    """What the runs are distilled from, and these in turn; each after its own."""
    teachers = [run.needs for run in runs if run.needs]
    return list(dict.fromkeys([*_teachers(teachers), *teachers])) if teachers else []


def _is_gone(teacher: Run, folder: Path) -> bool:
    """Whether a teacher that was trained, on another machine perhaps, is not in the folder, or its own is not."""
    place = kept_in(teacher, folder)
    return (place is not None and not place.exists()) or (teacher.needs is not None and _is_gone(teacher.needs, folder))


class _Queue:
    """Runs in their order, but none before its teacher is there: it would train one of its own."""

    def __init__(self, runs: Sequence[Run], seconds: float | None) -> None:
        self._runs = list(runs)
        self._pending = set(runs) & set(_teachers(runs))
        self._end = None if seconds is None else time.monotonic() + seconds
        self._changed = threading.Condition()

    def next(self) -> Run | None:
        """The next run, waited for where its teacher is being trained; None at the end."""
        with self._changed:
            while self._runs and (self._end is None or time.monotonic() < self._end):
                for run in self._runs:
                    if run.needs not in self._pending:
                        self._runs.remove(run)
                        return run
                self._changed.wait(1)
            return None

    def done(self, run: Run) -> None:
        """Say that a run is done: what is distilled from it may begin."""
        with self._changed:
            self._pending.discard(run)
            self._changed.notify_all()

    def give_up(self, failed: Run) -> list[Run]:
        """Take out what is distilled from a run that failed, and what is from that."""
        with self._changed:
            lost = [run for run in self._runs if failed in _teachers([run])]
            self._runs = [run for run in self._runs if run not in lost]
            return lost

    def stop(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._runs.clear()
            self._changed.notify_all()


class _Runner:
    """Processes that train, and the file of their rows; runs in ``done`` have theirs, and get no second ones."""

    def __init__(self, places: tuple[Path, Path], rows: Path, done: Collection[str], queue: _Queue) -> None:
        self._places, self._rows, self._done, self._queue = places, rows, done, queue
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()
        self._stopped = False
        self.failed: list[str] = []

    def work(self) -> None:
        """Run what is next until nothing is, all in one process; in another after one that failed."""
        process = None
        while run := self._queue.next():
            if process and process.is_over():
                process.close()
                process = None
            process = process or self._start()
            if rows := process.rows(run):
                self._keep(run, rows)
            else:
                process.kill()
                why, process = process.close(), None
                self._failed(run, why)
        if process:
            process.close()

    def stop(self) -> None:
        """End all processes, whatever they are at: what they were asked for is done another time."""
        self._stopped = True
        self._queue.stop()
        with self._lock:
            for process in self._processes:
                process.kill()

    def _start(self) -> _Process:
        process = _Process(*self._places)
        with self._lock:
            self._processes.add(process)
            if self._stopped:
                process.kill()
        return process

    def _keep(self, run: Run, rows: Sequence[dict[str, Any]]) -> None:
        told = ", ".join(f"{row['layers']} layers {row['points'][0]:+.2f}" for row in rows)
        with self._lock:
            if run.name not in self._done:
                study_rows.append(self._rows, rows)
            took = f" ({rows[0]['cpu_seconds']} s)" if "cpu_seconds" in rows[0] else ""
            print(f"{run.name}: {told}{took}", file=sys.stderr, flush=True)
        self._queue.done(run)

    def _failed(self, run: Run, why: str) -> None:
        if self._stopped:
            return
        lost = self._queue.give_up(run)
        with self._lock:
            self.failed += [one.name for one in (run, *lost)]
            others = f", and with it {len(lost)} runs" if lost else ""
            print(f"{run.name} failed{others}:\n{why[-2000:]}", file=sys.stderr, flush=True)


class _Process:
    """A process of one thread that trains what it is told to."""

    def __init__(self, folder: Path, data: Path) -> None:
        command = [sys.executable, str(HERE / "study_run.py"), str(folder), str(data)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command, env={**os.environ, **ONE_THREAD}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,  # Ctrl-C is the parent's
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def rows(self, run: Run) -> list[dict[str, Any]]:
        """The rows of a run; none where it fails."""
        asked, said = self._process.stdin, self._process.stdout
        assert asked
        assert said
        with contextlib.suppress(BrokenPipeError):
            asked.write(f"{run.name}\n")
            asked.flush()
        lines: list[str] = []
        for line in said:
            if line == study_rows.end_of(run.name):
                return study_rows.parse("".join(lines))
            lines.append(line)
        return []

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> str:
        """Wait for its end, and give what it complained of."""
        with self._errors:
            self._process.communicate()
            self._errors.seek(0)
            return f"{self._errors.read()}\nit ended with {self._process.returncode}"


if __name__ == "__main__":
    main()
