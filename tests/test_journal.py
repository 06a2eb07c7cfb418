"""The sweep folder's memory: what is written survives, what is torn is dropped, and one run has it alone."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.choosing.candidate import Candidate
from edgebert.choosing.journal import Journal
from edgebert.errors import EnvironmentMissing, InputError, UsageError
from edgebert.judging.latency import Latency
from edgebert.judging.metrics import Metric, Scores
from edgebert.serving.tokens import Text
from edgebert.training.data import Row

LATENCY = Latency(
    p50=1.25, p50_low=1.2, p50_high=1.3, p95=None, p95_low=None, p95_high=None, tokenize_p50=0.1,
    texts_per_s=800.0, samples=100, batch_size=1, seq_len=None, threads=2, cold_start_ms=90.5,
    memory_bytes=10**8,
)  # fmt: skip
MEASURED = Candidate(2, "cpu", "fp32", (0, 1), trained=False, bytes=1000, latency=LATENCY)
TRAINED = replace(
    MEASURED, trained=True, dev=Metric("accuracy", 0.5, 0.4, 0.6), test=Metric("accuracy", 0.25, 0.1, 0.5),
    path="artifacts/l2-cpu-fp32", digest="ab" * 32, stages=({"name": "onnx-fp32", "cosine": 1.0, "ok": True},),
)  # fmt: skip
FAILED = Candidate(3, "cpu", "int8", (0, 1, 2), trained=True, failed='"línea"\n\u2028 ended with -9')

# Holds the lock until its stdin closes.
HOLDER = (
    "import sys; from pathlib import Path; from edgebert.choosing.journal import Journal\n"
    "with Journal(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
)
LOCKER = (
    "import sys; from pathlib import Path; from edgebert.choosing.journal import Journal\n"
    "from edgebert.errors import EdgebertError\n"
    "try:\n"
    "    with Journal(Path(sys.argv[1])).locked(): pass\n"
    "except EdgebertError as error: print(error, file=sys.stderr); sys.exit(error.exit_code)"
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "edgebert"):
        yield caplog


def lines_of(journal: Journal) -> list[str]:
    return (journal.folder / "sweep.jsonl").read_text("utf-8").splitlines()


def test_what_is_appended_is_read_again(journal: Journal) -> None:
    assert journal.candidates(trained=True) == journal.candidates(trained=False) == []
    for candidate in (MEASURED, TRAINED, FAILED):
        journal.append(candidate)
    assert journal.candidates(trained=False) == [MEASURED]
    assert journal.candidates(trained=True) == [TRAINED, FAILED]
    assert len(lines_of(journal)) == 3


def test_a_line_holds_the_names_that_others_read(journal: Journal) -> None:
    journal.append(TRAINED)
    document = json.loads(lines_of(journal)[0])
    assert document["metric"] == document["test"]
    assert document["latency_ms"] == {"p50": 1.25, "p95": None}


def test_a_later_line_wins(journal: Journal) -> None:
    again = replace(TRAINED, bytes=7)
    for candidate in (TRAINED, MEASURED, again):
        journal.append(candidate)
    assert journal.candidates(trained=True) == [again]
    assert journal.candidates(trained=False) == [MEASURED]


@pytest.mark.parametrize("cut", [1, 10, -10, -1])
def test_a_torn_last_line_is_dropped_with_a_notice_and_healed(
    cut: int, journal: Journal, notices: pytest.LogCaptureFixture
) -> None:
    journal.append(TRAINED)
    path = journal.folder / "sweep.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1][:cut])
    assert journal.candidates(trained=True) == [TRAINED]
    assert f"{path}: line 2 is torn and was dropped" in notices.text
    notices.clear()
    journal.append(FAILED)
    assert journal.candidates(trained=True) == [TRAINED, FAILED]
    assert notices.text == ""
    assert path.read_bytes().startswith(whole)


@settings(max_examples=30)
@given(st.data())
def test_cut_anywhere_it_loses_at_most_its_last_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    journal = Journal(tmp_path_factory.mktemp("cut"))
    written = [replace(MEASURED, layers=layers) for layers in (1, 2, 3)]
    for candidate in written:
        journal.append(candidate)
    path = journal.folder / "sweep.jsonl"
    content = path.read_bytes()
    end = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:end])
    found = journal.candidates(trained=False)
    assert found == written[: content[:end].count(b"\n")]
    # What was read once is not lost to the cut that the next line makes.
    journal.append(FAILED)
    assert journal.candidates(trained=False) == found
    assert journal.candidates(trained=True) == [FAILED]


def test_bytes_that_are_no_text_are_a_torn_line(journal: Journal, notices: pytest.LogCaptureFixture) -> None:
    journal.append(TRAINED)
    with open(journal.folder / "sweep.jsonl", "ab") as file:
        file.write(b"\xff\xfe\x00")
    assert journal.candidates(trained=True) == [TRAINED]
    assert "line 2 is torn" in notices.text


def test_two_runs_in_one_folder_the_second_is_turned_away(journal: Journal) -> None:
    with (
        journal.locked(),
        pytest.raises(EnvironmentMissing, match=f"another fit is at work.*{journal.folder}"),
        Journal(journal.folder).locked(),
    ):
        pass
    with Journal(journal.folder).locked():
        pass


def test_another_process_gets_exit_6_until_the_holder_dies(journal: Journal) -> None:
    command = [sys.executable, "-c", HOLDER, str(journal.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        second = subprocess.run(
            [sys.executable, "-c", LOCKER, str(journal.folder)], capture_output=True, text=True, check=False
        )
        assert second.returncode == 6
        assert "another fit is at work" in second.stderr
        holder.kill()
        holder.wait()
    # The kernel lets go of a dead holder's lock: nothing to clean by hand.
    with journal.locked():
        pass


INPUTS = {"model": "a" * 64, "data": "b" * 64, "versions": {"numpy": "1"}, "bench": {"texts": (1, 2)}, "seed": 0}


def test_the_same_inputs_are_accepted_again(journal: Journal) -> None:
    journal.require_inputs(INPUTS)
    journal.remember(report={"task": "x"}, teacher=[1])
    journal.remember(teacher=[2])
    journal.require_inputs(INPUTS)
    assert journal.facts()["teacher"] == [2]
    assert journal.facts()["report"] == {"task": "x"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": "c" * 64}, "data changed"),
        ({"model": "c" * 64}, "model changed"),
        ({"versions": {"numpy": "2"}}, "versions numpy changed"),
        ({"seed": 1, "data": "c" * 64}, "data, seed changed"),
        ({"new": 1}, "new changed"),
    ],
)
def test_changed_inputs_are_refused_by_name(changes: dict[str, object], named: str, journal: Journal) -> None:
    journal.require_inputs(INPUTS)
    before = (journal.folder / "fit.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        journal.require_inputs({**INPUTS, **changes})
    assert caught.value.what.startswith(named)
    assert caught.value.where == str(journal.folder)
    assert (journal.folder / "fit.json").read_bytes() == before


def test_texts_with_line_separators_of_their_own_come_back(journal: Journal) -> None:
    texts: list[Text] = ["a\u2028b", "c\u0085d\x0b", ("first\u2029", "second\n")]
    journal.save_bench_texts(texts)
    assert journal.bench_texts() == texts
    assert Journal(journal.folder / "nowhere").bench_texts() == []


def test_what_is_known_of_a_measurement_is_kept_by_its_name(journal: Journal) -> None:
    journal.require_inputs(INPUTS)
    journal.remember_run("one", conditions={"stable": True})
    journal.remember_run("two", conditions={"stable": False})
    assert journal.facts()["runs"]["one"] == {"conditions": {"stable": True}}
    journal.require_inputs(INPUTS)


def test_a_folder_of_something_else_is_refused(journal: Journal) -> None:
    with pytest.raises(InputError, match="not a sweep folder"):
        journal.facts()
    (journal.folder / "fit.json").write_text("{")
    with pytest.raises(InputError, match=r"not valid JSON.*fit\.json"):
        journal.facts()


def test_scores_are_kept_by_part(journal: Journal) -> None:
    dev, test = (Scores("accuracy", np.array(rows)) for rows in ([[1.0], [0.0]], [[1.0]]))
    assert journal.scores(TRAINED) is None
    journal.save_scores(TRAINED, dev, test)
    for part, expected in (("dev", dev), ("test", test)):
        found = journal.scores(TRAINED, part)
        assert found is not None
        assert found.metric == "accuracy"
        assert np.array_equal(found.rows, expected.rows)
    assert journal.scores(replace(TRAINED, precision="int8")) is None
    assert [path.name for path in (journal.folder / "scores").iterdir()] == ["l2-cpu-fp32.npz"]


def test_answers_are_kept_with_the_names_of_their_labels(journal: Journal) -> None:
    hits = np.array([[1.0], [0.0]])
    answers, confidence = np.array([2, 0], dtype=np.int32), np.array([0.5, 0.75], dtype=np.float32)
    kept = Scores("accuracy", hits, ("no", "maybe", "línea"), answers, confidence)
    journal.save_scores(TRAINED, Scores("accuracy", hits), kept)
    found, without = journal.scores(TRAINED, "test"), journal.scores(TRAINED, "dev")
    assert found is not None
    assert without is not None
    assert (found.labels, found.metric) == (kept.labels, kept.metric)
    assert found.predicted is not None
    assert found.confidence is not None
    assert np.array_equal(found.predicted, answers)
    assert np.array_equal(found.confidence, confidence)
    assert (found.predicted.dtype.name, found.confidence.dtype.name) == ("int32", "float32")
    assert (without.labels, without.predicted, without.confidence) == ((), None, None)


def test_test_texts_are_kept_once_and_cut_for_display(journal: Journal) -> None:
    assert journal.texts() is None
    rows = (Row("a\u2028line\nin two <b>", "its pair", "yes"), Row("x" * 300), Row("y " * 200, "z" * 301, 2.5))
    journal.save_texts(rows)
    journal.save_texts(rows[:1])
    found = journal.texts()
    assert found is not None
    assert found[:2] == rows[:2]
    assert found[2] == Row("y " * 149 + "y…", "z" * 299 + "…", 2.5)
    assert [path.name for path in (journal.folder / "scores").iterdir()] == ["test.jsonl"]


def test_damaged_test_texts_are_named(journal: Journal) -> None:
    journal.save_texts([Row("a"), Row("b")])
    path = journal.folder / "scores" / "test.jsonl"
    path.write_bytes(path.read_bytes().replace(b"b", b'"'))
    with pytest.raises(InputError, match=r"not valid JSON.*test\.jsonl:1"):
        journal.texts()
