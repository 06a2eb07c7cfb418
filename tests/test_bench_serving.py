"""The serving benchmarks run, here with edgebert alone: the other libraries have environments of their own."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT
from tiny import TASKS, Exports, texts

sys.path.append(str(ROOT / "benchmarks"))
engines: Any = importlib.import_module("serving_engines")
first: Any = importlib.import_module("serving_first")
load: Any = importlib.import_module("serving_load")
traffic: Any = importlib.import_module("serving_traffic")
places: Any = importlib.import_module("serving_places")

HERE = Path(sys.executable)


@pytest.mark.parametrize(("task", "use"), [(TASKS[0], "predict"), (TASKS[1], "embed")])
def test_a_server_is_asked_in_three_ways(
    task: str, use: str, exports: Exports, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(traffic, "ALONE", 20)
    model, seen = exports.artifact("bert", task).path, traffic.Seen()
    with traffic.server(HERE, "edgebert", use, model, serial=False) as port:
        asyncio.run(traffic.ask(port, texts(40), seen, 1.0, 0))
    assert (len(seen.capacity), len(seen.unloaded), seen.lost) == (1, 20, 0)
    assert seen.capacity[0] > 0
    assert seen.loaded
    assert min(seen.loaded) > 0
    traffic._print(use, model, {"edgebert": seen})
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| edgebert"))
    assert row.endswith("| 0 |")


def test_an_answer_that_is_none_is_lost(exports: Exports) -> None:
    async def ask(port: int) -> list[float | None]:
        client = load.Client(port)
        found: list[float | None] = await load.at_rate(client, ["film"], 50.0, 0.2, seed=1)
        client.close()
        return found

    # Nobody listens there.
    found = asyncio.run(ask(1))
    assert found
    assert set(found) == {None}


def test_the_first_answer_is_timed(exports: Exports) -> None:
    folder = exports.artifact("bert", TASKS[1]).path
    program = first.PROGRAM.format(here=str(first.HERE), name="edgebert", folder=str(folder))
    taken, resident = first.first_answer(HERE, program)
    assert taken > 0
    assert 30e6 < resident < 1e9


def test_what_a_requirement_installs_is_counted() -> None:
    assert engines.installed("numpy") == 1
    assert engines.installed("edgebert") < engines.installed("edgebert[cpu]") < engines.installed("edgebert[build]")


def test_an_environment_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert places.environments(tmp_path, ["optimum"]) == {}
    assert "no environment of optimum" in capsys.readouterr().err
