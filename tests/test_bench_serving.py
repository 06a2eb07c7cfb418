"""The serving benchmarks run, here with edgebert alone: the other libraries have environments of their own."""

from __future__ import annotations

import importlib
import socket
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
        traffic.ask(port, texts(40), seen, 1.0, 0)
    assert (len(seen.capacity), len(seen.unloaded), seen.lost) == (1, 20, 0)
    assert seen.capacity[0] > 0
    assert seen.loaded
    assert min(seen.loaded) > 0
    traffic._print(use, model, {"edgebert": seen})
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| edgebert"))
    assert row.endswith("| 0 |")


def test_an_answer_that_is_none_is_lost(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody listens there.
    client = load.Client(1)
    found = load.at_rate(client, ["film"], 50.0, 0.2, seed=1)
    assert found
    assert set(found) == {None}
    with pytest.raises(OSError, match="refused"):
        load.alone(client, ["film"])
    monkeypatch.setattr(load, "_HEAD", load._HEAD.replace(b"/ask", b"/nothing"))
    with traffic.server(HERE, "edgebert", "predict", exports.artifact("bert", TASKS[0]).path, serial=False) as port:
        client = load.Client(port)
        assert set(load.at_rate(client, ["film"], 50.0, 0.2, seed=1)) == {None}
        with pytest.raises(RuntimeError, match="404"):
            load.saturated(client, ["film"], 2, 0.1)
        client.close()


def test_one_answer_may_come_in_pieces_and_a_connection_may_end() -> None:
    asked = load.Asked(0.0)
    for piece in (b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 4\r\n\r\nab"):
        asked.received += piece
        assert not asked.whole
    asked.received += b"cd"
    assert asked.right
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = load.Client(listening.getsockname()[1])
        client.send("film", 0.0)
        listening.accept()[0].close()
        (asked,) = client.answers(10.0)
        assert (asked.right, len(client)) == (False, 0)


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = load.Client(listening.getsockname()[1])
        for _ in range(2):
            client.send("film", 0.0)
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            (asked,) = client.answers(10.0)
            assert asked.right
            connection.close()
        client.close()


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
