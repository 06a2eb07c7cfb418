"""A client that asks one server over HTTP: one text after the other, as fast as it can, or at random times."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence

from open_loop import arrivals

# A request that takes so long is given up, and counted.
PATIENCE = 60.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """Keeps its connections, as a client in front of a service does; makes one more where all are in use."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, text: str) -> None:
        """Ask and read the whole answer. Raises RuntimeError for another status than 200."""
        body = json.dumps({"text": text}).encode()
        head = "POST /ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        connection = self._kept() or await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.decode().lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
        await reader.readexactly(length)
        self._idle.append(connection)
        if " 200 " not in lines[0]:
            raise RuntimeError(lines[0])

    def _kept(self) -> Connection | None:
        """A connection that is idle; those that the server has closed meanwhile are let go."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Let the connections go."""
        for _, writer in self._idle:
            writer.close()


async def alone(client: Client, texts: Sequence[str]) -> list[float]:
    """Seconds of each text, asked one after the other."""
    found = []
    for text in texts:
        start = time.perf_counter()
        await client.ask(text)
        found.append(time.perf_counter() - start)
    return found


async def saturated(client: Client, texts: Sequence[str], callers: int, seconds: float) -> float:
    """Texts a second, where ``callers`` ask all the time."""
    start, done = time.perf_counter(), 0
    generator = random.Random(1)

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            await client.ask(generator.choice(texts))
            done += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - start)


async def at_rate(client: Client, texts: Sequence[str], rate: float, seconds: float, seed: int) -> list[float | None]:
    """Seconds from when each text was to be sent to its answer, at random times; None where there was none in time."""
    start, tasks = time.perf_counter(), []
    generator = random.Random(seed)

    async def one(due: float, text: str) -> float | None:
        try:
            async with asyncio.timeout(PATIENCE):
                await client.ask(text)
        except (TimeoutError, OSError, RuntimeError, asyncio.IncompleteReadError):
            return None
        return time.perf_counter() - start - due

    for due in arrivals(rate, seconds, seed):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due, generator.choice(texts))))
    return list(await asyncio.gather(*tasks))
