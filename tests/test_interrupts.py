"""Ctrl-C and SIGKILL: what is finished stays, what is not leaves no trace, the same command goes on."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny
from commands import one_cpu, tree
from fit_folders import rows, times
from forks import Forks

from edgebert.artifact import Artifact


@pytest.fixture(scope="module", autouse=True)
def _one_cpu() -> Iterator[None]:
    with one_cpu():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("model") / "tiny", layers=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.labelled(tmp_path_factory.mktemp("data"), rows=24)


@pytest.fixture(scope="module")
def forks(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    found = Forks(model, tmp_path_factory.mktemp("forks"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def exported(model: Path, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An artifact, and the seconds it took to make."""
    out = tmp_path_factory.mktemp("exported")
    start = time.monotonic()
    forks.begin("export", "--model", model, "--layers", 1, "-o", out)
    done = forks.end()
    assert done.code == 0, done.err
    return out, time.monotonic() - start


def is_whole(folder: Path) -> bool:
    artifact = Artifact.open(folder)
    return all(artifact.read(name) for name in artifact.manifest.files)


TRAINING = ("--max-steps", 2, "--train-batch-size", 16, "--max-length", 16)
QUICK = (*TRAINING, "--threads", 1, "--remeasure", 0, "--rounds", 2)


def fit_of(model: Path, data: Path, folder: Path) -> tuple[object, ...]:
    """A fit of two depths at one precision, quickly trained."""
    asked = ("--layers", "1,2", "--precision", "fp32", "--budget", "p50=1s")
    return ("fit", "--model", model, "--data", data, *asked, *QUICK, "-o", folder)


def test_an_interrupted_fit_goes_on_where_it_stopped(model: Path, data: Path, tmp_path: Path, forks: Forks) -> None:
    folder = tmp_path / "fit"
    fitting = fit_of(model, data, folder)

    forks.begin(*fitting)
    forks.until("training 1 layers")
    forks.kill(signal.SIGINT)
    interrupted = forks.end()
    assert interrupted.code == 130
    assert interrupted.err.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"
    assert "Traceback" not in interrupted.err
    assert [(row["layers"], row["trained"]) for row in rows(folder)] == [(1, False), (2, False)]
    forks.begin("pick", folder, "--budget", "p50=1s")
    assert "this fit has not finished" in forks.end().error

    forks.begin(*fitting)
    forks.until("measuring 2 trained candidates")
    forks.kill(signal.SIGKILL)
    killed = forks.end()
    assert killed.code == -signal.SIGKILL
    assert "untrained" not in killed.err
    finished = times(folder, "checkpoints", "artifacts")
    assert finished

    forks.begin(*fitting)
    done = forks.end()
    assert done.code == 0, done.err
    assert done.out.strip() == str(folder / "best")
    assert "training 1" not in done.err
    assert times(folder, "checkpoints", "artifacts") == finished
    assert len(rows(folder)) == 4
    assert not (folder / "work").exists()


def test_a_candidate_whose_process_is_killed_is_a_row_and_the_rest_go_on(
    model: Path, data: Path, tmp_path: Path, forks: Forks
) -> None:
    folder = tmp_path / "fit"
    fitting = fit_of(model, data, folder)
    forks.begin(*fitting)
    forks.until("training 1 layers")
    # As the kernel does where memory runs out.
    workshop(forks.pid).kill()
    done = forks.end()
    assert done.code == 0, done.err
    assert "1 layer fp32 on cpu failed: its process was killed by SIGKILL, perhaps for lack of memory" in done.err
    one, two = sorted((row for row in rows(folder) if row["trained"]), key=lambda row: int(row["layers"]))
    assert one["failed"] == "its process was killed by SIGKILL, perhaps for lack of memory"
    assert two["failed"] is None
    assert two["test"]
    assert "failed: its process was killed" in (folder / "report.md").read_text("utf-8")

    # The same command tries again what failed, and nothing else.
    finished = times(folder, "artifacts")
    forks.begin(*fitting)
    again = forks.end()
    assert again.code == 0, again.err
    assert "training 1 layers" in again.err
    assert finished.items() <= times(folder, "artifacts").items()
    assert [row["failed"] for row in rows(folder)[-2:]] == [None, None]


def workshop(pid: int) -> psutil.Process:
    """The process in which a fit makes its candidates."""
    (found,) = [c for c in psutil.Process(pid).children() if "edgebert.choosing.workshop" in c.cmdline()]
    return found


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_a_killed_export_leaves_all_or_nothing_and_the_next_cleans_up(
    share: float, model: Path, forks: Forks, exported: tuple[Path, float], tmp_path: Path
) -> None:
    made, seconds = exported
    exporting = ("export", "--model", model, "--layers", 1, "-o", tmp_path)
    # Twice: where nothing was, then over what the run between them made.
    for force in ((), ("--force",)):
        forks.begin(*exporting, *force)
        time.sleep(seconds * (share + random.Random(str((share, force))).uniform(-0.05, 0.05)))
        forks.kill(signal.SIGKILL)
        code = forks.end().code
        out = tmp_path / "tiny-l1-cpu-fp32"
        old = list(tmp_path.glob(f".{out.name}.old-*"))
        if out.exists():
            assert is_whole(out)
        elif force:
            # Between the two renames: the old one stands aside, and the new one is whole beside it.
            assert all(is_whole(folder) for folder in (*old, *tmp_path.glob(f".{out.name}.tmp-*")))
            assert old
        else:
            assert code == -signal.SIGKILL
        forks.begin(*exporting, "--force")
        done = forks.end()
        assert done.code == 0, done.err
        assert tree(tmp_path) == tree(made)


def test_a_killed_training_goes_on_and_repeats_nothing(model: Path, data: Path, forks: Forks, tmp_path: Path) -> None:
    training = ("distill", "--model", model, "--data", data, "--layers", "1,2", *TRAINING)
    start = time.monotonic()
    forks.begin(*training, "-o", tmp_path / "whole")
    assert forks.end().code == 0
    seconds = time.monotonic() - start
    chance = random.Random(0)
    finished: dict[str, int] = {}
    for _ in range(4):
        forks.begin(*training, "-o", tmp_path / "out")
        time.sleep(chance.uniform(0, seconds))
        forks.kill_tree()
        forks.end()
        made = [path for path in (tmp_path / "out").glob("tiny-*") if is_whole(path)]
        assert made == list((tmp_path / "out").glob("tiny-*"))
        now = {str(file): file.stat().st_mtime_ns for path in made for file in path.iterdir()}
        assert finished.items() <= now.items()
        finished = now
    forks.begin(*training, "-o", tmp_path / "out")
    assert forks.end().code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert {name: Path(name).stat().st_mtime_ns for name in finished} == finished


def test_an_interrupted_bench_ends_quietly_with_its_workers(exported: tuple[Path, float], forks: Forks) -> None:
    forks.begin("bench", exported[0], "--samples", 100_000, "--threads", 1)
    forks.until("no --data")
    command = psutil.Process(forks.pid)
    while not (workers := command.children(recursive=True)):
        assert command.status() != psutil.STATUS_ZOMBIE
        time.sleep(0.01)
    # Into the workers' imports, where a second Ctrl-C of theirs would make noise.
    time.sleep(0.2)
    forks.kill(signal.SIGINT)
    done = forks.end()
    assert done.code == 130
    assert done.out == ""
    assert "Traceback" not in done.err
    assert not [worker for worker in workers if worker.is_running()]
