"""The CPU benchmark's driver with workers made up for it: turns, frozen rests, failures as rows, ratios."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from commands import ROOT, environment, one_trace_per_shape

sys.path.append(str(ROOT / "benchmarks"))
driver = importlib.import_module("cpu.driver")
tables = importlib.import_module("cpu.tables")
peers = importlib.import_module("cpu.peers")

# Its answers are those of its settings, one a round; in each round it writes who it is, when it began and ended, and
# what the processes of all others were doing. "die", "err", "babble" and "hang" in place of an answer do that.
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
settings = None
left = []
for line in sys.stdin:
    request = json.loads(line)
    settings = request["settings"]
    journal = Path(settings["journal"])
    if request["do"] == "prepare":
        answer = {"error": "no such conversion"} if settings.get("unconverted") else {}
    elif request["do"] == "open":
        left = list(settings["answers"])
        (journal / f"{os.getpid()}.pid").touch()
        answer = {"cpus": len(os.sched_getaffinity(0)), "logits": settings.get("logits")}
    else:
        others = [int(path.stem) for path in journal.glob("*.pid") if int(path.stem) != os.getpid()]
        states = {}
        for pid in others:
            try:
                states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                states[pid] = "gone"
        begun = time.monotonic()
        answer = left.pop(0)
        if answer == "die":
            print("out of luck", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if answer == "hang":
            time.sleep(60)
        with (journal / "turns").open("a") as file:
            turn = {"who": settings["name"], "begun": begun, "ended": time.monotonic(), "others": states}
            print(json.dumps(turn), file=file)
        if answer == "babble":
            print("loading weights...", flush=True)
            continue
        if answer == "err":
            answer = {"error": "ValueError: no"}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """A maker of entrants whose worker is ``FAKE``."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(name: str, answers: list[Any], cpus: int = 1, **more: Any) -> Any:
        settings = {"name": name, "answers": answers, "journal": str(tmp_path), **more}
        return driver.Entrant(name, (sys.executable, str(script)), settings, cpus)

    return make


def measured(entrants: list[Any], tmp_path: Path, sittings: int = 1, rounds: int = 3) -> list[Any]:
    found: list[Any] = driver.measure(entrants, sittings, rounds, tmp_path / "logs", tell=lambda line: None)
    return found


def turns(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "turns").read_text().splitlines()]


def test_every_round_has_every_worker_once_and_alone(fake: Any, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    found = measured([fake(name, [{"ms": [1.0]}] * 6) for name in names], tmp_path, sittings=2, rounds=6)
    assert [outcome.failure for outcome in found] == [""] * 4
    assert [[len(sitting) for sitting in outcome.sittings] for outcome in found] == [[6, 6]] * 4
    taken = turns(tmp_path)
    orders = [tuple(turn["who"] for turn in taken[start : start + 4]) for start in range(0, len(taken), 4)]
    assert [sorted(order) for order in orders] == [names] * 12
    assert len(set(orders)) > 1
    assert all(one["ended"] <= other["begun"] for one, other in itertools.pairwise(taken))


def test_whoever_has_no_turn_is_frozen_and_ends_with_its_sitting(fake: Any, tmp_path: Path) -> None:
    measured([fake(name, [{"ms": [1.0]}] * 2) for name in "abc"], tmp_path, sittings=2, rounds=2)
    states = [list(turn["others"].values()) for turn in turns(tmp_path)]
    assert all(sorted(found) == ["T", "T"] for found in states[:6])
    assert all(sorted(found) == ["T", "T", "gone", "gone", "gone"] for found in states[6:])
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 6
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_fails_is_told_of_and_the_others_go_on(fake: Any, tmp_path: Path) -> None:
    good: dict[str, Any] = {"ms": [1.0]}
    entrants = [
        fake("whole", [good] * 3),
        fake("dies", [good, "die"]),
        fake("errs", ["err"]),
        fake("babbles", [good, "babble"]),
        driver.Entrant("absent", (str(tmp_path / "nowhere"),), {}, 1),
    ]
    whole, dies, errs, babbles, absent = measured(entrants, tmp_path)
    assert len(whole.rounds) == 3
    assert whole.failure == ""
    assert dies.failure == "killed by SIGKILL: out of luck"
    assert errs.failure == "ValueError: no"
    assert "loading weights..." in babbles.failure
    assert "nowhere" in absent.failure


def test_a_worker_that_hangs_is_ended(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ROUND_SECONDS", 3.0)
    start = time.monotonic()
    hangs, whole = measured([fake("hangs", ["hang"]), fake("whole", [{"ms": [1.0]}] * 3)], tmp_path)
    # One that is not ended hangs for a minute.
    assert time.monotonic() - start < 50
    assert hangs.failure == "no answer within 3 s"
    assert len(whole.rounds) == 3


def test_what_cannot_be_converted_says_why(fake: Any, tmp_path: Path) -> None:
    assert driver.prepare(fake("fine", []), tmp_path) == ""
    assert driver.prepare(fake("bad", [], unconverted=True), tmp_path) == "no such conversion"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")
def test_a_worker_has_as_many_cpus_as_threads(fake: Any, tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    one, two = measured([fake("one", [{}], 1), fake("two", [{}], 2)], tmp_path, rounds=1)
    assert (one.opened["cpus"], two.opened["cpus"]) == (1, 2)
    assert os.sched_getaffinity(0) == before


def test_ratios_are_of_the_same_round(fake: Any, tmp_path: Path) -> None:
    drift = [1.0, 2.0, 4.0]
    machine = fake("machine", [{"gops": {"fp32": 10 / by}, "sharing": None} for by in drift])
    entrants = [
        fake("slow", [{"ms": [5.0, 20.0 * by, 100.0]} for by in (1, 2, 4)], logits=[[1.0, 2.0]]),
        fake("fast", [{"ms": [10.0 * by]} for by in drift], logits=[[1.0, 2.25]]),
        fake("dies", ["die"]),
        machine,
    ]
    *outcomes, measure_of_it = measured(entrants, tmp_path)
    work = dict.fromkeys(("slow", "fast", "dies"), ("fp32", 5e7))
    lines = tables.arrays_table(outcomes, measure_of_it, work, ["slow", "gone"], "slow")
    assert lines[0] == "| | ms a call | times slow | times gone | share of the peak | largest error |"
    assert lines[2] == ("| slow | 40.0 (20.0 to 80.0) | 1.00 (1.00 to 1.00) | - | 25% (25% to 25%) | 0.0e+00 |")
    assert lines[3] == "| fast | 20.0 (10.0 to 40.0) | 2.00 (2.00 to 2.00) | - | 50% (50% to 50%) | 2.5e-01 |"
    assert lines[4] == "| dies | killed by SIGKILL: out of luck |  |  |  |  |"
    assert "GOP/s: fp32 5 (2 to 10)" in tables.machine_line(measure_of_it)


def test_texts_a_second_leave_out_the_first_pass(fake: Any, tmp_path: Path) -> None:
    def answers(*seconds: float) -> list[dict[str, Any]]:
        return [{"seconds": one, "labels": [0, 1, 1, 0]} for one in seconds]

    outcomes = measured([fake("slow", answers(8, 2, 4)), fake("fast", answers(4, 1, 1))], tmp_path, sittings=2)
    lines = tables.texts_table(outcomes, [0, 1, 0, 0], ["slow"])
    assert lines[2] == "| slow | 2 (1 to 2) | 1.00 (1.00 to 1.00) | 0 (0 to 0) | 75.00% |"
    assert lines[3] == "| fast | 4 (4 to 4) | 3.00 (2.00 to 4.00) | 1 (1 to 1) | 75.00% |"


def test_an_environment_that_is_not_there_says_what_its_making_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    peer = peers.Peer("a", "a_worker.py", python="env/bin/python")
    assert peer.missing == "not installed: make peers"
    (tmp_path / "env.log").write_text("Collecting a\nERROR: No matching distribution found for a\n\n")
    assert peer.missing == "not installed: ERROR: No matching distribution found for a"
    assert peers.Peer("b", "b_worker.py").missing == ""


def test_the_table_of_peers_names_workers_and_rows_that_exist() -> None:
    table = peers.read(ROOT / "benchmarks" / "cpu" / "peers.toml")
    names = [peer.name for peer in table.peers]
    assert len(set(names)) == len(names)
    assert all(Path(peer.command[1]).is_file() for peer in [*table.peers, table.machine])
    assert {peer.precision for peer in table.peers} == {"fp32", "bf16", "int8"}
    for work, against in table.against.items():
        taking_part = [peer.name for peer in table.peers if work in peer.work]
        assert set(against) <= set(taking_part)
    assert table.exact in names


PEERS = """
exact = "one"
[against]
arrays = ["one"]
texts = ["one"]
[machine]
worker = "{fake}"
settings = {{ name = "machine", journal = "{journal}", answers = {gops} }}
[[peer]]
name = "one"
worker = "{fake}"
precision = "fp32"
settings = {{ name = "one", journal = "{journal}", answers = {answers} }}
[[peer]]
name = "unconverted"
worker = "{fake}"
precision = "fp32"
settings = {{ name = "unconverted", journal = "{journal}", unconverted = true, answers = [] }}
[[peer]]
name = "never installed"
worker = "{fake}"
precision = "fp32"
python = "no/such/python"
"""


def test_a_quick_run_writes_a_page(fake: Any, tmp_path: Path) -> None:
    model, data = tiny.checkpoint(tmp_path / "model", layers=1), tiny.labelled(tmp_path / "data", rows=18)
    labels = ", ".join("0" * len((data / "test.jsonl").read_text("utf-8").splitlines()))
    answer = f"{{ ms = [4.0], seconds = 0.5, labels = [{labels}] }}"
    filled = PEERS.format(
        fake=tmp_path / "fake.py", journal=tmp_path, answers=f"[{answer}, {answer}]",
        gops="[{ gops = { fp32 = 1.0 } }, { gops = { fp32 = 1.0 } }]",
    )  # fmt: skip
    (tmp_path / "peers.toml").write_text(filled)
    options = {
        "peers": tmp_path / "peers.toml", "minilm": model, "data": data, "work": tmp_path / "work",
        "out": tmp_path / "out.md", "parts": "minilm-1,sst2",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_cpu.py"), "--quick", *words]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    page = (tmp_path / "out.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    assert page.startswith("## edgebert on CPUs beside its peers\n")
    assert [row[0] for row in rows] == ["", "one", "unconverted", "never installed"] * 2
    assert rows[1][1:3] == ["4.0 (4.0 to 4.0)", "1.00 (1.00 to 1.00)"]
    assert rows[2][1] == rows[6][1] == "no such conversion"
    assert rows[3][1] == rows[7][1] == "not installed: make peers"


def test_edgeberts_worker_answers_as_the_checkpoint_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "cpu")
    worker, ours = importlib.import_module("worker"), importlib.import_module("edgebert_worker")
    model = tiny.checkpoint(tmp_path / "model", layers=1)
    settings = {"model": str(model), "folder": str(tmp_path / "made"), "target": "cpu", "precision": "fp32"}
    peer = ours.Edgebert({**settings, "threads": 1})
    with one_trace_per_shape():
        peer.prepare()
    assert peer.open()["settings"] == "target cpu, fp32"
    feed = worker.token_arrays(3, 7, 60)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    with torch.no_grad():
        expected = reference(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    np.testing.assert_allclose(peer.logits(feed), expected, atol=1e-4)
    texts = tiny.texts(9, seed=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert peer.labels(texts) == worker.labelled(peer.logits, tokenizer, texts, 4)
