"""The soak in its short form, and what it is made of."""

from __future__ import annotations

import importlib
import subprocess
import sys
from array import array
from typing import Any

import numpy as np
import pytest
from commands import ROOT, environment
from tiny import TASKS, Exports

from edgebert.serving.model import load

sys.path.append(str(ROOT / "benchmarks"))
soak: Any = importlib.import_module("soak")
open_loop: Any = importlib.import_module("open_loop")

SHORT = ("--threads", "1", "--texts", "60", "--steady", "4", "--over", "1", "--recovery", "2")


@pytest.mark.parametrize("task", TASKS[:2])
def test_a_short_soak_finds_nothing(task: str, exports: Exports) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), str(exports.artifact("bert", task).path), *SHORT]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout, done.stderr
    *_, end = done.stdout.splitlines()
    found = [] if end.startswith("Nothing wrong, lost or hung") else end.split("; ")
    assert done.returncode == bool(found)
    # What a busy machine is too slow for is refused, and it may be slower than before: the long form looks at these.
    assert [what for what in found if not what.startswith("it did not recover")] == [], done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if " threads | " in line]
    assert all(row[1] == row[2] != "0" for row in rows)


def test_a_wrong_answer_is_found(exports: Exports) -> None:
    with load(exports.artifact("bert", TASKS[0]).path, threads=1) as model:
        truth = soak.Truth(model, ["a film", "a dull song"])
        first, second = model.predict(truth.texts)
    assert truth.distance(0, first) <= truth.tolerance < truth.distance(0, second)
    assert truth.distance(0, np.zeros(7)) == np.inf


def test_what_is_wrong_is_told() -> None:
    held, lengths = soak.Held(100 * 2**20, 10, 5), array("d", [0.01])
    calm = [soak.Phase(name, 1, soak.Counter(right=1), lengths) for name in ("70 %", "150 %", "back")]
    assert soak.complaints(calm, held, held) == []
    (grown,) = soak.complaints(calm, held, soak.Held(133 * 2**20, 10, 5))
    assert "memory grew from 100 to 133 MiB" in grown
    assert len(soak.complaints(calm, held, soak.Held(131 * 2**20, 11, 6))) == 2
    hung = [soak.Phase("70 %", 3, soak.Counter({"right": 1, "turned away": 1}), lengths), *calm[1:]]
    assert soak.complaints(hung, held, held) == ["70 %: 1 requests wrong, failed or hung"]
    slow = [*calm[:2], soak.Phase("back", 1, soak.Counter(right=1), array("d", [1.0]))]
    assert "did not recover" in soak.complaints(slow, held, held)[0]


def test_arrivals_are_as_many_as_asked_for_and_the_same_every_time() -> None:
    found = list(open_loop.arrivals(100, 50, seed=1))
    assert found == sorted(found) == list(open_loop.arrivals(100, 50, seed=1))
    assert found[0] > 0
    assert found[-1] < 50
    assert len(found) == pytest.approx(5000, rel=0.05)
    # Of a Poisson process the gaps are as spread as they are long.
    assert np.std(np.diff(found)) == pytest.approx(np.mean(np.diff(found)), rel=0.1)


def test_texts_are_of_every_length() -> None:
    texts = soak.make_texts(200, lambda text: len(text.split()), 512)
    lengths = [len(text.split()) for text in texts]
    assert (min(lengths), max(lengths) > 400, max(lengths) <= 512) == (1, True, True)
    assert open_loop.percentile(lengths, 0.5) == pytest.approx(512**0.5, rel=0.4)
