"""The study's runner, with trainings that only say that they ran: order, processes, failures, interruption."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT

sys.path.append(str(ROOT / "benchmarks"))
study, study_plan, study_rows = (importlib.import_module(name) for name in ("study", "study_plan", "study_rows"))

Ran = Callable[..., tuple[int, list[dict[str, Any]], str]]
# What stands in for `study_run.py`; "{fault}" is what a test lets happen to a run.
FAKE = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for line in sys.stdin:
    name = line.strip()
    {fault}
    print("noise")
    own = folder / "teachers" / name.split("-")[0]
    better = own.with_name(own.name + "-better")
    for kind, place in (("-none-l6-pre-trained", own), ("-hidden-l6-teacher", better)):
        if kind in name:
            time.sleep(0.3)
            place.mkdir(parents=True, exist_ok=True)
    row = {{"run": name, "layers": 3, "fp32": 0.8, "points": [-1.0, -2.0, 0.0], "cpu_seconds": 5, "pid": os.getpid()}}
    row["taught"] = (better if "-better" in name else own).exists() or name.startswith("stsb")
    print(json.dumps(row))
    print("done: " + name, flush=True)
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Ran]:
    """Runs the study: its exit code, the rows there are then, and what it said."""
    monkeypatch.setattr(study, "HERE", tmp_path)

    def run(*more: str, fault: str = "pass") -> tuple[int, list[dict[str, Any]], str]:
        (tmp_path / "study_run.py").write_text(FAKE.format(fault=fault))
        rows = tmp_path / "rows.jsonl"
        monkeypatch.setattr(sys, "argv", ["study.py", str(tmp_path), str(tmp_path), "--rows", str(rows), *more])
        with pytest.raises(SystemExit) as ended:
            study.main()
        return int(ended.value.code or 0), study_rows.read(rows), capsys.readouterr().err

    before = signal.getsignal(signal.SIGTERM)
    yield run
    # The study's is for its own process.
    signal.signal(signal.SIGTERM, before)


def test_what_is_done_is_not_run_again(ran: Ran) -> None:
    few = ("--only", "logits-l3-teacher-alternate", "--jobs", "2")
    code, found, error = ran(*few, fault='if "wnut17-logits" in name: raise SystemExit("too hot")')
    # One set's fail, say why, and hold up none of the others.
    assert code == 1
    assert "wnut17-logits-l3-teacher-alternate failed" in error
    assert "too hot" in error
    students = [row["run"] for row in found if "logits" in row["run"]]
    assert len(students) == len(set(students)) == 5
    assert ran(*few, "--minutes", "0")[:2] == (0, found)
    code, more, _ = ran(*few)
    assert code == 0
    assert {row["run"] for row in more[len(found) :]} == {
        "wnut17-logits-l3-teacher-alternate", "wnut17-logits-l3-teacher-alternate-dropout0",
    }  # fmt: skip


def test_students_wait_for_their_teacher(ran: Ran) -> None:
    code, found, _ = ran("--only", "banking77", "--jobs", "3")
    assert code == 0
    assert all(row["taught"] for row in found)
    assert len(found) == len([run for run in study_plan.plan() if run.data == "banking77"])


def test_a_process_trains_one_run_after_the_other(ran: Ran) -> None:
    _, found, _ = ran("--only", "stsb", "--jobs", "1")
    assert len(found) > 5
    assert len({row["pid"] for row in found}) == 1


def test_a_teacher_that_is_gone_is_trained_again_and_has_one_row(ran: Ran, tmp_path: Path) -> None:
    _, found, _ = ran("--only", "banking77-none-l6")
    assert [row["run"] for row in found] == ["banking77-none-l6-pre-trained"]
    (tmp_path / "teachers" / "banking77").rmdir()
    _, found, _ = ran("--only", "banking77-logits-l1")
    assert [row["run"] for row in found] == ["banking77-none-l6-pre-trained", "banking77-logits-l1-teacher"]
    assert found[1]["taught"]
    # Of a folder of rows that knows no teacher too.
    (tmp_path / "teachers" / "banking77").rmdir()
    (tmp_path / "rows.jsonl").unlink()
    _, found, _ = ran("--only", "banking77-logits-l1")
    assert [row["taught"] for row in found if "logits" in row["run"]] == [True]


def test_a_better_teacher_is_trained_after_its_own_and_before_its_student(ran: Ran, tmp_path: Path) -> None:
    student = study_plan.taught_better("qnli_small")
    _, found, _ = ran("--only", student.name, "--jobs", "3")
    taught = [study_plan.teacher_of("qnli_small"), study_plan.better_teacher("qnli_small"), student]
    assert [row["run"] for row in found] == [run.name for run in taught]
    assert all(row["taught"] for row in found)
    (tmp_path / "teachers" / "clinc150").mkdir()
    code, found, error = ran("--only", "clinc150-hidden", fault='if "l6" in name: sys.exit("too hot")')
    assert code == 1
    assert "clinc150-hidden-l6-teacher failed, and with it 1 runs" in error
    assert "clinc150-hidden-l3-teacher-alternate" in {row["run"] for row in found}


def test_without_a_teacher_its_students_are_given_up(ran: Ran) -> None:
    code, found, error = ran("--only", "banking77", "--jobs", "2", fault='if "none-l6" in name: sys.exit("too hot")')
    assert (code, found) == (1, [])
    assert "banking77-none-l6-pre-trained failed, and with it" in error


def test_a_process_that_ended_meanwhile_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study_run.py").write_text(FAKE.format(fault="pass"))
    monkeypatch.setattr(study, "HERE", tmp_path)
    runs = [study_plan.recipe("stsb", layers) for layers in (1, 2)]

    class Killing(study._Queue):  # type: ignore[misc, name-defined]
        def next(self) -> Any:
            for process in runner._processes:
                process.kill()
                process._process.wait()
            return super().next()

    runner = study._Runner((tmp_path, tmp_path), tmp_path / "rows.jsonl", set(), Killing(runs, None))
    runner.work()
    assert runner.failed == []
    found = study_rows.read(tmp_path / "rows.jsonl")
    assert [row["run"] for row in found] == [run.name for run in runs]
    assert len({row["pid"] for row in found}) == 2


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_an_interrupted_study_ends_with_its_processes(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    waiting = "print(os.getpid(), file=open(folder / 'pid', 'w'), flush=True); time.sleep(60)"
    (tmp_path / "study_run.py").write_text(FAKE.format(fault=waiting))
    program = f"import study; study.HERE = study.Path({str(tmp_path)!r}); study.main()"
    places, rows, pid = map(str, (tmp_path, tmp_path)), tmp_path / "rows.jsonl", tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *places, "--rows", str(rows), "--only", "stsb", "--jobs", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not pid.exists() or not pid.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(sent)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == code
    assert "failed" not in error
    assert not rows.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
