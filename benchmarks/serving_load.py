"""A client that asks one server over HTTP: one text after the other, as fast as it can, or at random times.

It shares the processors with the server that it measures, so it is little more than sockets: no event loop, whose
timers are late by up to a millisecond, and no library.
"""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from open_loop import arrivals

# A request that takes so long is given up, and counted.
PATIENCE = 60.0
# Requests beyond so many at once wait in the client, and their time counts: select() reads no more files than 1,024.
CONNECTIONS = 500
_HEAD = b"POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


@dataclass
class Asked:
    """A request on its way: when it was ``due``, and what has come of its answer."""

    due: float
    received: bytearray = field(default_factory=bytearray)

    @property
    def whole(self) -> bool:
        """Whether all of the answer is there."""
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        return len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])

    @property
    def right(self) -> bool:
        """Whether the answer is one."""
        return self.whole and b" 200 " in self.received.partition(b"\r\n")[0]


class Client:
    """Keeps its connections, as a client in front of a service does; makes one more where all are in use."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[socket.socket] = []
        self._asked: dict[socket.socket, Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def send(self, text: str, due: float) -> None:
        """Ask, and wait for nothing. Raises OSError where nobody listens."""
        connection = self._kept() or socket.create_connection(("127.0.0.1", self._port))
        body = json.dumps({"text": text}).encode()
        connection.sendall(_HEAD % (len(body), body))
        self._asked[connection] = Asked(due)

    def answers(self, seconds: float) -> Iterator[Asked]:
        """What comes to an end within so many seconds: all that is there by then, and as soon as anything is."""
        ready, _, _ = select.select(self._asked, [], [], max(0.0, seconds))
        for connection in ready:
            asked = self._asked[connection]
            received = _received(connection)
            asked.received += received
            if asked.whole or not received:
                del self._asked[connection]
                if received:
                    self._idle.append(connection)
                else:
                    connection.close()
                yield asked

    def _kept(self) -> socket.socket | None:
        """A connection that is idle; those that the server has closed meanwhile are let go."""
        while self._idle:
            connection = self._idle.pop()
            try:
                _received(connection, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # Nothing to read, not even its end.
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Let the connections go, with what was not answered."""
        for connection in (*self._idle, *self._asked):
            connection.close()


def _received(connection: socket.socket, flags: int = 0) -> bytes:
    """What has come; nothing where the server ended the connection, in whichever way."""
    try:
        return connection.recv(65536, flags)
    except ConnectionResetError:
        return b""


def alone(client: Client, texts: Sequence[str]) -> list[float]:
    """Seconds of each text, asked one after the other. Raises RuntimeError where one is not answered."""
    found = []
    for text in texts:
        start = time.perf_counter()
        client.send(text, start)
        while client:
            for asked in client.answers(PATIENCE):
                _demand(asked)
        found.append(time.perf_counter() - start)
    return found


def saturated(client: Client, texts: Sequence[str], callers: int, seconds: float) -> float:
    """Texts a second, where ``callers`` ask all the time. Raises RuntimeError where one is not answered."""
    start, done = time.perf_counter(), 0
    generator = random.Random(1)
    for _ in range(callers):
        client.send(generator.choice(texts), start)
    while client:
        for asked in client.answers(PATIENCE):
            _demand(asked)
            done += 1
            now = time.perf_counter()
            if now - start < seconds:
                client.send(generator.choice(texts), now)
    return done / (time.perf_counter() - start)


def at_rate(client: Client, texts: Sequence[str], rate: float, seconds: float, seed: int) -> list[float | None]:
    """Seconds from when each text was to be sent to its answer, at random times; None where there was none in time."""
    generator, start = random.Random(seed), time.perf_counter()
    coming = deque((start + due, generator.choice(texts)) for due in arrivals(rate, seconds, seed))
    found: list[float | None] = []
    end = start + seconds + PATIENCE
    while (now := time.perf_counter()) < end:
        while coming and coming[0][0] <= now and len(client) < CONNECTIONS:
            due, text = coming.popleft()
            try:
                client.send(text, due)
            except OSError:
                found.append(None)
        if not coming and not client:
            break
        until = coming[0][0] if coming and len(client) < CONNECTIONS else end
        for asked in client.answers(until - time.perf_counter()):
            found.append(time.perf_counter() - asked.due if asked.right else None)
    return found + [None] * (len(coming) + len(client))


def _demand(asked: Asked) -> None:
    if not asked.right:
        raise RuntimeError(asked.received.partition(b"\r\n")[0].decode() or "the server hung up")
