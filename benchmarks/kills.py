"""SIGKILL at random times over export, training and fit: is anything broken, is anything finished done again?

Each round begins a command on a tiny model, kills it with everything it started at a moment drawn uniformly
from its undisturbed duration (now and then several times over), looks at what is left, runs the same command
to its end and compares the result with an undisturbed one. Only what a user sees is looked at: exit codes and
the folder.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import heading

from edgebert.artifact import MANIFEST, Artifact
from edgebert.errors import EdgebertError
from edgebert.stage import hash_file

# The tests' tiny model, and their server of processes that start without seconds of imports.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import tiny
from forks import Forks

SHARE_OF_CHAINS = 0.3
QUICK = ("--train-batch-size", 8, "--max-length", 16)
Seen = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Job:
    """A command that may be given again, its share of the kills, the subfolders whose entries are never made twice."""

    name: str
    share: float
    arguments: tuple[object, ...]
    once: tuple[str, ...] = ()


@dataclass
class Tally:
    """What the kills of one job came to; ``complaints`` say what was wrong."""

    kills: int = 0
    too_late: int = 0
    broken: int = 0
    repeated: int = 0
    wrong: int = 0
    lost: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def main() -> None:
    """Print the table; exit 1 where anything was broken, repeated or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many, over all commands")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = tiny.checkpoint(place / "tiny", layers=2)
        data = tiny.labelled(place / "data", rows=48)
        forks = Forks(model, place)
        tallies = {}
        for job in jobs(model, data):
            wanted = round(asked.kills * job.share)
            tallies[job.name] = Rounds(job, forks, place / job.name, chance).run(wanted)
        forks.close()
    show(tallies)
    sys.exit(any(tally.complaints for tally in tallies.values()))


def jobs(model: Path, data: Path) -> tuple[Job, ...]:
    """The three commands, each writing several things one after the other."""
    source = ("--model", model)
    labelled = (*source, "--data", data, "--layers", "1,2", *QUICK)
    return (
        # By --force it can be given again; over an old artifact it goes through every rename there is.
        Job("export", 0.45, ("export", *source, "--layers", "1,2", "--precision", "fp32,int8", "--force")),
        Job("distill", 0.4, ("distill", *labelled, "--epochs", 3), once=("",)),
        Job(
            # It takes five times as long as the others: most of it is measuring.
            "fit",
            0.15,
            (
                "fit", *labelled, "--max-steps", 6, "--precision", "fp32", "--threads", 1, "--remeasure", 0,
                "--budget", "p50=1s",
            ),
            once=("checkpoints", "artifacts"),
        ),
    )  # fmt: skip


class Rounds:
    """The rounds of one job."""

    def __init__(self, job: Job, forks: Forks, place: Path, chance: random.Random) -> None:
        self.job, self.forks, self.place, self.chance = job, forks, place, chance
        self.tally = Tally()
        self.whole = place / "undisturbed"

    def run(self, kills: int) -> Tally:
        """Rounds until so many kills have been sent."""
        self.seconds = self._finish(self.whole)
        while self.tally.kills < kills:
            self._round(self.place / f"after-{self.tally.kills}", kills - self.tally.kills)
            print(f"{self.job.name}: {self.tally.kills} of {kills} kills", file=sys.stderr)
        return self.tally

    def _round(self, folder: Path, most: int) -> None:
        if not self.job.once and self.chance.random() < 0.5:
            self._finish(folder)
        expected = {path.name for path in folder.glob("*")}
        spent, finished, lines = 0.0, Seen(), list[str]()
        count = 1
        while count < most and self.chance.random() < SHARE_OF_CHAINS:
            count += 1
        for _ in range(count):
            spent += self._kill(folder)
            self._check_whole(folder, expected)
            finished, lines = self._check_kept(folder, finished, lines)
        spent += self._finish(folder)
        self._check_kept(folder, finished, lines)
        self._check_result(folder)
        self.tally.lost.append(spent - self.seconds)

    def _kill(self, folder: Path) -> float:
        """Begin and kill; the seconds between."""
        wait, start = self.chance.uniform(0, self.seconds), time.monotonic()
        self.forks.begin(*self.job.arguments, "-o", folder)
        time.sleep(wait)
        spent = time.monotonic() - start
        self.forks.kill_tree()
        self.tally.kills += 1
        self.tally.too_late += self.forks.end().code == 0
        return spent

    def _finish(self, folder: Path) -> float:
        """Run to the end; the seconds it took."""
        start = time.monotonic()
        self.forks.begin(*self.job.arguments, "-o", folder)
        done = self.forks.end()
        if done.code != 0:
            self.tally.wrong += 1
            self._complain(folder, f"exit {done.code}: {done.err[-400:]}")
        return time.monotonic() - start

    def _complain(self, folder: Path, what: str) -> None:
        self.tally.complaints.append(f"{self.job.name}, {folder.name}: {what}")
        print(self.tally.complaints[-1], file=sys.stderr)

    def _check_whole(self, folder: Path, expected: set[str]) -> None:
        """Whatever is to be seen is whole; what was there is there, or set aside whole."""
        for path in artifacts_in(folder):
            if what := harm_of(path):
                self.tally.broken += 1
                self._complain(path, what)
        for name in expected:
            aside = [path for path in folder.glob(f".{name}.old-*") if not harm_of(path)]
            if not (folder / name).exists() and not aside:
                self.tally.broken += 1
                self._complain(folder, f"{name} is gone")
        for path in folder.glob("*.json"):
            json.loads(path.read_bytes())

    def _check_kept(self, folder: Path, finished: Seen, lines: list[str]) -> tuple[Seen, list[str]]:
        """What was finished has not been touched; what is finished now."""
        now = seen(folder, self.job.once)
        for name, when in finished.items():
            if now.get(name) != when:
                self.tally.repeated += 1
                self._complain(folder, f"{name} was finished, and made again")
        found = journal(folder)
        if found[: len(lines)] != lines:
            self.tally.broken += 1
            self._complain(folder, "lines of the journal changed")
        keys = [key_of(line) for line in found]
        again = [key for key in map(key_of, lines) if keys.count(key) > 1]
        if again:
            self.tally.repeated += len(again)
            self._complain(folder, f"journal lines repeated: {again}")
        return now, found

    def _check_result(self, folder: Path) -> None:
        """The result is that of an undisturbed run, timings aside, and no temporary is left."""
        if (theirs := contents(self.whole)) != (ours := contents(folder)):
            self.tally.wrong += 1
            names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
            self._complain(folder, f"differs from an undisturbed run in {', '.join(names)}")


def artifacts_in(folder: Path) -> Iterator[Path]:
    """Every folder that claims to be an artifact and is not hidden."""
    for manifest in folder.rglob(MANIFEST):
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts):
            yield manifest.parent


def harm_of(path: Path) -> str:
    """What is wrong with an artifact: "" where every file is there with its hash."""
    try:
        artifact = Artifact.open(path)
        for name in artifact.manifest.files:
            artifact.read(name)
    except EdgebertError as error:
        return str(error)
    return ""


def seen(folder: Path, once: tuple[str, ...]) -> Seen:
    """Inode and time of every file in the folders whose entries are made once."""
    roots = [folder / name for name in once]
    return {
        str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns)
        for root in roots
        for path in root.glob("*")
        if (path / MANIFEST).is_file() and not path.name.startswith(".")
        for file in path.rglob("*")
        if file.is_file()
    }


def journal(folder: Path) -> list[str]:
    """The whole lines of a fit's journal."""
    path = folder / "sweep.jsonl"
    text = path.read_text("utf-8") if path.is_file() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def key_of(line: str) -> tuple[Any, ...]:
    """Which candidate a line is about."""
    row = json.loads(line)
    return tuple(row[name] for name in ("layers", "target", "precision", "trained", "digest"))


def metrics_of(line: str) -> str:
    """What a line says of dev and test."""
    row = json.loads(line)
    return json.dumps([row["dev"], row["test"]])


def contents(folder: Path) -> dict[str, str]:
    """Files below a folder with their hashes; of those that hold timings, what does not depend on them.

    The pick may turn on a timing, so ``best`` counts by its presence.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == "sweep.jsonl":
            found[name] = str(sorted({(*key_of(line), metrics_of(line)) for line in journal(folder)}))
        elif re.match(r"fit\.json|report\.|scores/|\.lock", name):
            found[name] = ""
        elif name.startswith("best/"):
            found["best"] = harm_of(folder / "best")
        else:
            found[name] = hash_file(path).sha256
    return found


def show(tallies: dict[str, Tally]) -> None:
    """The table, and every complaint."""
    print(heading("SIGKILL at random times: what is broken, what is done again"))
    print("| command | kills | after its end | broken | repeated | wrong result | lost seconds, median (most) |")
    print("|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        lost = f"{statistics.median(tally.lost):.1f} ({max(tally.lost):.1f})"
        numbers = f"{tally.kills} | {tally.too_late} | {tally.broken} | {tally.repeated} | {tally.wrong}"
        print(f"| {name} | {numbers} | {lost} |")
    for tally in tallies.values():
        for complaint in tally.complaints:
            print(f"\n- {complaint}")


if __name__ == "__main__":
    main()
