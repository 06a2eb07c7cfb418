"""The examples, run as their users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPException
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from servers import EXAMPLES, Server, receive, send, serving, until
from servers import gunicorn as below_gunicorn
from tiny import TASKS, Exports, texts

from edgebert.serving.model import load

TEXTS = texts(12, seed=8)


@pytest.fixture(scope="module")
def classifier(exports: Exports) -> Path:
    return exports.artifact("bert", TASKS[0]).path


@pytest.fixture(scope="module")
def server(classifier: Path) -> Iterator[Server]:
    with serving(classifier) as found:
        yield found


def test_the_app_answers_as_the_model_does(server: Server, classifier: Path) -> None:
    with load(classifier, threads=1) as model:
        expected = model.predict([*TEXTS, ("a film", "a song")])
    reply = server.ask("/predict", {"texts": [*TEXTS, ["a film", "a song"]]})
    assert reply.status == 200
    assert [answer["label"] for answer in reply.body] == [answer.label for answer in expected]
    np.testing.assert_allclose([one["score"] for one in reply.body], [one.score for one in expected], atol=1e-5)
    assert reply.body[0].keys() == {"label", "score", "scores", "truncated", "chunks", "labels"}


def test_the_app_tells_how_it_is(server: Server) -> None:
    health = server.ask("/health")
    assert (health.status, health.body["facts"]["runtime"]) == (200, "onnxruntime")
    before = server.ask("/metrics")
    assert before.headers["content-type"].startswith("text/plain")
    server.ask("/predict", {"texts": TEXTS})
    assert answered(server.ask("/metrics").body) == answered(before.body) + len(TEXTS)


def answered(metrics: str) -> float:
    (line,) = (line for line in metrics.splitlines() if 'outcome="answered"' in line)
    return float(line.split()[-1])


def test_the_app_has_limits(server: Server) -> None:
    assert server.ask("/predict", {"texts": ["a"] * 64}).status == 200
    assert server.ask("/predict", {"texts": []}).body == []
    assert server.ask("/predict", {"texts": ["a"] * 65}).status == 422
    assert server.ask("/predict", {"texts": [7]}).status == 422
    assert server.ask("/predict", b"{").status == 422
    assert server.ask("/predict", {"texts": ["a" * 1_000_001]}).status == 413
    other = server.ask("/embed", {"texts": ["a"]})
    assert (other.status, "this is not an encoder" in other.body["detail"]) == (400, True)
    assert server.ask("/predict", {"texts": ["a"]}).status == 200


def test_a_body_without_a_length_is_limited_too(server: Server) -> None:
    pieces = (b'{"texts": ["', *[b"a" * 100_000] * 11, b'"]}')
    with closing(server.connect()) as connection:
        connection.request("POST", "/predict", iter(pieces), {"Content-Type": "application/json"}, encode_chunked=True)
        assert receive(connection).status == 413


def test_the_app_embeds(exports: Exports) -> None:
    artifact = exports.artifact("bert", TASKS[1]).path
    with serving(artifact) as server, load(artifact, threads=1) as model:
        reply = server.ask("/embed", {"texts": TEXTS})
        np.testing.assert_allclose(reply.body, model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_in_flight_is_answered_before_the_app_ends(workers: int, classifier: Path) -> None:
    with serving(classifier, workers) as server:
        ends_in_peace(server, workers)


def test_when_a_worker_is_killed_the_others_go_on(classifier: Path) -> None:
    with serving(classifier, workers=2) as server:
        goes_on(server)
        server.terminate()


def test_workers_of_gunicorn_do_both(classifier: Path, gunicorn: None) -> None:
    with serving(classifier, 2, below_gunicorn) as server:
        goes_on(server)
        ends_in_peace(server, 2)


def ends_in_peace(server: Server, workers: int) -> None:
    """A server that is asked to end while many wait answers them all, and nobody after."""
    asked = texts(64, seed=1, longest=60)
    seen_workers(server, workers)
    expected = server.ask("/predict", {"texts": asked}).body
    with ExitStack() as stack:
        # Together fewer texts than the queue holds.
        connections = [stack.enter_context(closing(server.connect())) for _ in range(12)]
        # A server that ends resets what still waits to be accepted: that all are in its hands, a reply on each shows.
        for connection in connections:
            send(connection, "/health")
            assert receive(connection).status == 200
        for connection in connections:
            send(connection, "/predict", {"texts": asked})
        # A server that ends reads nothing more either: wait until the system's queues show that all was read.
        until(lambda: not any(unread(server.port)))
        first = receive(connections[0])
        server.process.send_signal(signal.SIGTERM)
        replies = [first, *map(receive, connections[1:])]
    assert {reply.status for reply in replies} == {200}
    for reply in replies:
        assert [one["label"] for one in reply.body] == [one["label"] for one in expected]
    server.terminate()
    with pytest.raises(ConnectionRefusedError):
        server.ask("/health")


def unread(port: int) -> list[int]:
    """Bytes that came in on each connection to a port here, and that nobody has read yet (Linux; elsewhere none)."""
    table = Path("/proc/net/tcp")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    established = "01"
    return [
        int(row[4].partition(":")[2], 16)
        for row in rows
        if row[3] == established and int(row[1].partition(":")[2], 16) == port
    ]


def goes_on(server: Server) -> None:
    """Of two workers one is killed; the other answers, and a new one comes."""
    killed, spared = sorted(seen_workers(server, 2))
    os.kill(killed, signal.SIGKILL)
    found = [answer_or_loss(server) for _ in range(40)]
    # At most what the killed one had taken is lost, and soon nothing.
    assert found.count(None) <= 1
    assert {reply for reply in found if reply is not None} == {200}
    assert seen_workers(server, 2, but={killed}) > {spared}


def answer_or_loss(server: Server) -> int | None:
    """The status of a reply; None where the connection was lost."""
    try:
        return server.ask("/predict", {"texts": TEXTS}).status
    except (OSError, HTTPException):
        return None


def seen_workers(server: Server, count: int, but: frozenset[int] | set[int] = frozenset()) -> set[int]:
    """The processes of so many workers, none of them among ``but``."""
    seen: set[int] = set()

    def all_of_them() -> bool:
        seen.add(int(server.ask("/health").body["process"]))
        return len(seen - but) == count

    until(all_of_them)
    return seen - but


def edge(artifact: Path, lines: str) -> subprocess.CompletedProcess[str]:
    # What it imports is told on standard error.
    program = (
        "import runpy, sys\n"
        "sys.argv, before = sys.argv[1:], set(sys.modules)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, str(EXAMPLES / "edge.py"), str(artifact)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=False)


def test_the_edge_script_needs_no_more_than_it_says(classifier: Path) -> None:
    done = edge(classifier, "a film\n\nnaïve 😀\n")
    assert done.returncode == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    with load(classifier, threads=1) as model:
        expected = model.predict(["a film", "", "naïve 😀"])
    assert [(one["text"], one["label"]) for one in found] == [
        ("a film", expected[0].label), ("", expected[1].label), ("naïve 😀", expected[2].label),
    ]  # fmt: skip
    used = distributions(done.stderr.split())
    assert {"edgebert", "numpy", "onnxruntime", "tokenizers"} <= used <= closure("edgebert", "cpu")


def test_the_edge_script_tells_errors_in_a_line(tmp_path: Path) -> None:
    done = edge(tmp_path, "a film\n")
    assert done.returncode == 1
    assert done.stderr.startswith("error: not an edgebert artifact")
    assert len(done.stderr.splitlines()) == 1


def distributions(modules: list[str]) -> set[str]:
    """The installed packages that modules come from; none for the interpreter's own."""
    of = metadata.packages_distributions()
    return {normal(name) for module in modules for name in of.get(module, ())}


def closure(package: str, extra: str) -> set[str]:
    """A package with one of its extras, and everything that this installs."""
    found: set[str] = set()
    wanted = [(package, extra)]
    while wanted:
        name, extra = wanted.pop()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted.append((normal(requirement.name), ""))
    return found


def normal(name: str) -> str:
    return name.lower().replace("_", "-")
