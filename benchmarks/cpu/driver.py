"""Workers measured in rounds: a process each, all open at once, one computing at a time, the others frozen.

What a worker computes is unknown here: it is a command that answers lines (see ``worker.py``). Between its turns its
process group is stopped by SIGSTOP, not ended: thread pools spin for a while after work, and would take the CPUs of
whoever comes next; a process for every round would pay seconds of loading, and a minute where models are compiled.
A new sitting starts all of them anew, since where its memory lies makes a process faster or slower than its twin.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

# Quantizing a bert-base with a few hundred texts takes minutes, a round seconds.
PREPARE_SECONDS, OPEN_SECONDS, ROUND_SECONDS = 1800.0, 600.0, 300.0
END_SECONDS = 5.0


@dataclass(frozen=True)
class Entrant:
    """A worker to measure: ``settings`` go to it with the first line, ``cpus`` is how many CPUs it may use."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    cpus: int
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a worker answered: when it was opened last, and in each round of each sitting; or why it did not."""

    name: str
    opened: dict[str, Any] = field(default_factory=dict)
    sittings: list[list[dict[str, Any]]] = field(default_factory=list)
    failure: str = ""

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds of all sittings, in order."""
        return [answer for sitting in self.sittings for answer in sitting]


class WorkerFailed(Exception):
    """A worker gave no answer; the text says why."""


class Worker:
    """A process that answers, and rests frozen; use it as a context. What it prints goes to the file ``log``."""

    def __init__(self, entrant: Entrant, log: Path) -> None:
        self._settings: Mapping[str, Any] = entrant.settings
        self._log = log
        with log.open("w") as said, _on_cpus(entrant.cpus):
            self._process = subprocess.Popen(
                entrant.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env={**os.environ, **entrant.variables},
                # A group of its own, so that whatever it starts rests with it.
                process_group=0,
            )  # fmt: skip

    def ask(self, what: str, seconds: float) -> dict[str, Any]:
        """Wake it, ask, and freeze it. Raises WorkerFailed, and ends it, where it errs or takes too long."""
        self._signal(signal.SIGCONT)
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), self._signal(signal.SIGKILL)))
        timer.start()
        line = self._answer(json.dumps({"do": what, "settings": self._settings}))
        timer.cancel()
        answer = _read(line) if line else {"error": self._fate()}
        self._freeze()
        if "error" in answer:
            self.close()
            raise WorkerFailed(f"no answer within {seconds:.0f} s" if late.is_set() else answer["error"])
        return answer

    def _answer(self, request: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(request, file=self._process.stdin, flush=True)
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""

    def _fate(self) -> str:
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it answers no more"
        said = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return ": ".join([how, *said[-1:]])

    def _freeze(self) -> None:
        """Stop all its threads, and return when they have stopped (or ended)."""
        self._signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, which: signal.Signals) -> None:
        # A group that has ended is gone already.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, which)

    def close(self) -> None:
        """End it, and whatever it started; doing it twice does nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(END_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _read(line: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"error": f"no answer but {line.strip()[:100]!r}"}
    return answer


@contextlib.contextmanager
def _on_cpus(count: int) -> Iterator[None]:
    """What is started meanwhile may use the first ``count`` CPUs only, whatever threads it makes."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def prepare(entrant: Entrant, logs: Path) -> str:
    """Let a worker convert its model in a process of its own. Returns why it could not, or nothing."""
    try:
        with Worker(entrant, _log(logs, entrant, "prepare")) as worker:
            worker.ask("prepare", PREPARE_SECONDS)
    except (WorkerFailed, OSError) as error:
        return str(error)
    return ""


def measure(
    entrants: Sequence[Entrant],
    sittings: int,
    rounds: int,
    logs: Path,
    seed: int = 0,
    tell: Callable[[str], object] = print,
) -> list[Outcome]:
    """So many sittings of so many rounds, in each of which every worker has a turn, in an order drawn anew.

    Workers that fail are asked no more, and their outcome says why; all others have answered in every round.
    """
    found = [Outcome(entrant.name) for entrant in entrants]
    pairs = list(zip(entrants, found, strict=True))
    draw = random.Random(seed)
    for sitting in range(sittings):
        with contextlib.ExitStack() as stack:
            workers = {}
            for entrant, outcome in _shuffled(pairs, draw):
                tell(f"sitting {sitting + 1} of {sittings}: opening {entrant.name}")
                with _failing(outcome):
                    worker = stack.enter_context(Worker(entrant, _log(logs, entrant, str(sitting))))
                    outcome.opened = worker.ask("open", OPEN_SECONDS)
                    outcome.sittings.append([])
                    workers[entrant.name] = worker
            for number in range(rounds):
                tell(f"sitting {sitting + 1} of {sittings}: round {number + 1} of {rounds}")
                for entrant, outcome in _shuffled(pairs, draw):
                    with _failing(outcome):
                        outcome.sittings[-1].append(workers[entrant.name].ask("round", ROUND_SECONDS))
    return found


def _shuffled(pairs: Sequence[tuple[Entrant, Outcome]], draw: random.Random) -> list[tuple[Entrant, Outcome]]:
    """Those that have not failed, in an order of their own."""
    alive = [pair for pair in pairs if not pair[1].failure]
    return draw.sample(alive, len(alive))


@contextlib.contextmanager
def _failing(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except (WorkerFailed, OSError) as error:
        outcome.failure = str(error)


def _log(logs: Path, entrant: Entrant, stage: str) -> Path:
    logs.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in entrant.name)
    return logs / f"{name}.{stage}.log"
