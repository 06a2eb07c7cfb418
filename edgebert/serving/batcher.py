"""``edgebert.Batcher``: one model behind many callers, asyncio tasks and threads, answered in batches.

The engine is given one batch after the other, or one in each of its lanes (``runtimes/lanes.py``). While it computes,
requests gather; so batches grow with the traffic by themselves. Before an idle engine starts on few, it waits for a
lull, never longer than ``max_wait_ms``; a lane that is free beside others waits for nothing. Who is next stands in
``line.py``.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from edgebert.errors import BatcherClosed, DeadlinePassed, QueueFull, UsageError
from edgebert.serving.answers import Float, Found, Prediction
from edgebert.serving.entities import Entity
from edgebert.serving.line import PATIENCE, Line, Request
from edgebert.serving.model import Model
from edgebert.serving.questions import Answer
from edgebert.serving.tokens import Text, Tokens
from edgebert.serving.traffic import Counts, Metrics
from edgebert.tasks import Use

# A lull: nobody has come for this share of the time that those who wait will take.
_LULL = 0.1
# Texts up to here are tokenized on the spot (a millisecond at most); longer ones would hold up an event loop.
_SHORT_CHARACTERS = 5_000
# How much the latest batch counts in the estimate of a token's cost, and the estimate before the first.
_LATEST, _TOKEN_SECONDS = 0.1, 2e-5


class Batcher:
    """Answers texts of many callers in batches.

    ``max_batch_tokens`` bounds a batch, padding included (what one call to the engine gains from is bounded
    besides: :attr:`Model.batch_tokens`); ``max_wait_ms`` how long an idle engine waits for
    company; ``max_queue`` how many may wait before QueueFull is raised. Use it as a context, ``async with`` or
    ``with``: leaving answers all that wait. The model stays open. A batcher belongs to the process that made it.
    """

    def __init__(
        self, model: Model, max_batch_tokens: int = 4096, max_wait_ms: float = 2.0, max_queue: int = 1000
    ) -> None:
        if max_batch_tokens < 1 or not max_wait_ms >= 0 or max_queue < 1:
            what = f"max_batch_tokens={max_batch_tokens}, max_wait_ms={max_wait_ms}, max_queue={max_queue}"
            raise UsageError(what, "Batcher", "at least 1, 0 and 1")
        self._model = model
        self._max_tokens = min(max_batch_tokens, model.batch_tokens)
        self._max_wait, self._max_queue = max_wait_ms / 1e3, max_queue
        self._line, self._counts = Line(), Counts()
        self._changed = threading.Condition()
        self._token_seconds = _TOKEN_SECONDS
        self._latest_arrival = 0.0
        self._closing = False
        self._computing = 0
        self._process = os.getpid()
        # Daemons, so that an app that forgot to close can end.
        self._workers = [
            threading.Thread(target=self._work, name=f"edgebert-batcher-{number}", daemon=True)
            for number in range(model.at_once)
        ]
        for worker in self._workers:
            worker.start()

    async def predict(self, text: Text, timeout_ms: float | None = None) -> Prediction:
        """The prediction for one text, or pair; after ``timeout_ms`` DeadlinePassed.

        Raises QueueFull at once where ``max_queue`` wait, ItemError for what is no text.
        """
        found: Prediction = await self._ask("predict", text, timeout_ms)
        return found

    async def encode(self, text: Text, timeout_ms: float | None = None) -> Float:
        """float32 [hidden]: the vector of one text; raises as :meth:`predict` does."""
        found: Float = await self._ask("encode", text, timeout_ms)
        return found

    async def tag(self, text: str, timeout_ms: float | None = None) -> Found[Entity]:
        """The entities of one text; raises as :meth:`predict` does."""
        found: Found[Entity] = await self._ask("tag", text, timeout_ms)
        return found

    async def answer(self, question: tuple[str, str], timeout_ms: float | None = None) -> Answer:
        """The answer to one (question, context); raises as :meth:`predict` does."""
        found: Answer = await self._ask("answer", question, timeout_ms)
        return found

    def submit(self, text: Text, timeout_ms: float | None = None) -> Future[Any]:
        """For threads: a future of what the model's own method answers for one text.

        Raises as :meth:`predict` does; one that is not begun in time fails with DeadlinePassed.
        """
        return self._put(self._model.tokenize([text])[0], timeout_ms)

    def metrics(self) -> Metrics:
        """What was done so far, as plain numbers; ``edgebert.serving.prometheus`` has them for Prometheus."""
        self._refuse_elsewhere()
        with self._changed:
            return self._counts.metrics(len(self._line))

    def close(self) -> None:
        """Take no more requests, answer those that wait, and return when that is done.

        Does nothing the second time, and in another process than the batcher's.
        """
        if self._is_elsewhere():
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    async def aclose(self) -> None:
        """As :meth:`close`, without holding up the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Batcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, use: Use, text: Text, timeout_ms: float | None) -> Any:
        self._model.require(use)
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1e3):
                tokens = await self._tokenized(text)
                return await asyncio.wrap_future(self._put(tokens, timeout_ms))
        except TimeoutError:
            raise _late() from None

    async def _tokenized(self, text: Text) -> Tokens:
        short = sum(map(len, text)) <= _SHORT_CHARACTERS if isinstance(text, (str, tuple)) else True
        found = self._model.tokenize([text]) if short else await asyncio.to_thread(self._model.tokenize, [text])
        return found[0]

    def _put(self, tokens: Tokens, timeout_ms: float | None) -> Future[Any]:
        self._refuse_elsewhere()
        now = time.monotonic()
        length = self._model.cost(tokens)
        with self._changed:
            if self._closing:
                raise BatcherClosed("closed", "Batcher", "make a new one")
            if len(self._line) >= self._max_queue:
                self._weed(now)
            if len(self._line) >= self._max_queue:
                self._counts.full += 1
                raise QueueFull(f"{self._max_queue} requests wait already", "Batcher", "try again later")
            due = now + PATIENCE * length * self._token_seconds
            deadline = None if timeout_ms is None else now + timeout_ms / 1e3
            request = Request(tokens, length, now, due, deadline, Future())
            self._line.put(request)
            self._latest_arrival = now
            self._changed.notify()
        return request.future

    def _is_elsewhere(self) -> bool:
        """Whether this is a forked process: the lock may have been copied while a worker held it."""
        return os.getpid() != self._process

    def _refuse_elsewhere(self) -> None:
        if self._is_elsewhere():
            raise BatcherClosed("a batcher of another process", "Batcher", "make one after the fork")

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._answer([request for request in batch if self._begun(request)])
            finally:
                with self._changed:
                    self._computing -= 1

    def _next(self) -> list[Request]:
        """The next batch, as soon as it is worth beginning; empty after closing, when none is left."""
        with self._changed:
            while True:
                now = time.monotonic()
                self._weed(now)
                if len(self._line):
                    wait = self._wait(now)
                    if wait <= 0:
                        return self._begin()
                    self._changed.wait(wait)
                elif self._closing:
                    return []
                else:
                    self._changed.wait()

    def _begin(self) -> list[Request]:
        self._computing += 1
        batch = self._line.take(self._max_tokens)
        if len(self._line):
            # Another lane may be free for them.
            self._changed.notify()
        return batch

    def _wait(self, now: float) -> float:
        """Seconds to wait for company, as far as is known now: none beside a batch that is being computed."""
        tokens = self._line.tokens
        if self._closing or self._computing or tokens >= self._max_tokens:
            return 0.0
        lull = self._latest_arrival + _LULL * tokens * self._token_seconds - now
        bound = min(request.arrived for request in self._line) + self._max_wait - now
        return min(lull, bound)

    def _weed(self, now: float) -> None:
        for request in self._line.weed(now):
            if request.late(now):
                self._counts.late += 1
            else:
                self._counts.cancelled += 1
            # Its caller may have given up by itself.
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(_late())

    def _begun(self, request: Request) -> bool:
        begun = request.future.set_running_or_notify_cancel()
        if not begun:
            with self._changed:
                self._counts.cancelled += 1
        return begun

    def _answer(self, batch: Sequence[Request]) -> None:
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = self._model.finish([request.tokens for request in batch])
        except Exception as error:  # noqa: BLE001  (whatever it is, callers wait for it, and the thread must live)
            self._answer_alone(batch, error)
            return
        end = time.monotonic()
        with self._changed:
            lengths = [request.length for request in batch]
            waits = [start - request.arrived for request in batch]
            self._counts.batch(lengths, waits, [end - request.arrived for request in batch])
            cost = (end - start) / (max(lengths) * len(lengths))
            self._token_seconds += _LATEST * (cost - self._token_seconds)
        for request, answer in zip(batch, answers, strict=True):
            request.future.set_result(answer)

    def _answer_alone(self, batch: Sequence[Request], error: Exception) -> None:
        """After a batch failed: each by itself, so that one bad text does no harm to its neighbours."""
        if len(batch) > 1:
            for request in batch:
                self._answer([request])
            return
        with self._changed:
            self._counts.failed += 1
        batch[0].future.set_exception(error)


def _late() -> DeadlinePassed:
    return DeadlinePassed("no answer in time", "Batcher", "allow more time, or send less")
