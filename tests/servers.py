"""The example app as a server of its own, for tests that talk to it."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECONDS = 240.0


@dataclass(frozen=True)
class Reply:
    """A status, and the body as JSON where it is JSON."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        """A connection of the caller's own."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(self, path: str, body: object = None) -> Reply:
        """One request on a connection of its own: GET, or POST where there is a body."""
        with closing(self.connect()) as connection:
            send(connection, path, body)
            return receive(connection)

    def terminate(self) -> None:
        """Ask it to end, and wait until it has: in peace, after which uvicorn lets the signal do its work."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) in (0, -signal.SIGTERM)


def send(connection: http.client.HTTPConnection, path: str, body: object = None) -> None:
    """Send a request and do not wait for the reply."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is None:
        connection.request("GET", path)
    else:
        connection.request("POST", path, data, {"Content-Type": "application/json"})


def receive(connection: http.client.HTTPConnection) -> Reply:
    """The reply to what was sent."""
    response = connection.getresponse()
    raw, headers = response.read(), dict(response.getheaders())
    is_json = headers.get("content-type", "").startswith("application/json")
    return Reply(response.status, json.loads(raw) if is_json else raw.decode(), headers)


def uvicorn(port: int) -> list[str]:
    """Its own workers, as many as WEB_CONCURRENCY says."""
    # A machine with other work may let a worker's sign of life wait, and a client between two requests.
    patient = ("--timeout-worker-healthcheck", str(int(SECONDS)), "--timeout-keep-alive", str(int(SECONDS)))
    return ["uvicorn", "--app-dir", str(EXAMPLES), "serve:app", "--port", str(port), *patient]


def gunicorn(port: int) -> list[str]:
    """uvicorn's class of workers below gunicorn, which reads WEB_CONCURRENCY too."""
    patient = [part for of in ("timeout", "graceful-timeout", "keep-alive") for part in (f"--{of}", str(int(SECONDS)))]
    where = ("--chdir", str(EXAMPLES), "--bind", f"127.0.0.1:{port}")
    return ["gunicorn", *where, "-k", "uvicorn_worker.UvicornWorker", *patient, "serve:app"]


@contextmanager
def serving(artifact: Path, workers: int = 1, command: Callable[[int], list[str]] = uvicorn) -> Iterator[Server]:
    """The example app on an artifact, ready to answer; killed at the end where it still runs."""
    port = free_port()
    environment = {**os.environ, "EDGEBERT_ARTIFACT": str(artifact), "WEB_CONCURRENCY": str(workers)}
    process = subprocess.Popen([sys.executable, "-m", *command(port), "--log-level", "warning"], env=environment)
    server = Server(process, port)
    try:
        until(lambda: answers(server))
        yield server
    finally:
        if process.poll() is None:
            server.terminate()


def answers(server: Server) -> bool:
    """Whether it answers; an error where it ended instead."""
    assert server.process.poll() is None
    try:
        return server.ask("/health").status == 200
    except OSError:
        return False


def free_port() -> int:
    """A port that nobody listens to, below those that the system gives to connections that go out."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def until(true: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until it is true, at most so long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
