"""Many callers, one model: batches, bounds, deadlines, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tiny import TASKS, Exports, texts

import edgebert
from edgebert.errors import BatcherClosed, DeadlinePassed, ItemError, QueueFull, UsageError
from edgebert.runtimes import session
from edgebert.serving.answers import Prediction
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import Tokens

TEXTS = texts(60, seed=5)
# Seconds that only what hangs waits for.
PATIENCE = 120


@pytest.fixture(scope="module")
def classifier(exports: Exports) -> Iterator[Model]:
    with load(exports.artifact("bert", TASKS[0]).path, threads=1) as model:
        yield model


@pytest.fixture
def held(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An engine that computes nothing until the event is set."""
    gate, finish = threading.Event(), classifier.finish

    def wait(tokens: list[Tokens]) -> Any:
        assert gate.wait(PATIENCE)
        return finish(tokens)

    monkeypatch.setattr(classifier, "finish", wait)
    yield gate
    gate.set()


def same(found: list[Prediction], model: Model) -> None:
    expected = model.predict(TEXTS[: len(found)])
    assert [one.label for one in found] == [one.label for one in expected]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in expected], atol=1e-5)


def test_tasks_of_one_event_loop_are_answered_in_batches(classifier: Model) -> None:
    async def main() -> list[Prediction]:
        async with edgebert.Batcher(classifier, max_wait_ms=50) as batcher:
            found = await asyncio.gather(*map(batcher.predict, TEXTS))
            metrics = batcher.metrics()
        assert (metrics.answered, metrics.waiting, metrics.failed) == (len(TEXTS), 0, 0)
        assert metrics.texts_per_batch > 1
        assert metrics.batches < len(TEXTS)
        assert metrics.tokens == sum(map(len, classifier.tokenize(TEXTS)))
        assert 0 <= metrics.padding < 0.5
        assert 0 < metrics.queue_ms[0] <= metrics.latency_ms[0] <= metrics.latency_ms[2]
        return found

    same(asyncio.run(main()), classifier)


def test_threads_share_a_batcher(classifier: Model) -> None:
    with edgebert.Batcher(classifier) as batcher, ThreadPoolExecutor(16) as pool:
        same(list(pool.map(lambda text: batcher.submit(text).result(PATIENCE), TEXTS)), classifier)


@pytest.mark.parametrize("limit", [1, 16, 64])
def test_no_batch_has_more_tokens_than_asked_for(
    classifier: Model, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    batches: list[list[int]] = []
    finish = classifier.finish

    def tell(tokens: list[Tokens]) -> Any:
        batches.append(list(map(len, tokens)))
        return finish(tokens)

    monkeypatch.setattr(classifier, "finish", tell)
    with edgebert.Batcher(classifier, max_batch_tokens=limit) as batcher:
        for future in [batcher.submit(text) for text in TEXTS]:
            future.result(PATIENCE)
    assert sum(map(len, batches)) == len(TEXTS)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= limit for batch in batches)


def test_batches_are_computed_beside_one_another(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "allowed_threads", lambda: 2)
    with load(exports.artifact("bert", TASKS[0]).path, threads=2) as model:
        same_time, together = threading.Barrier(2), list[int]()
        finish = model.finish

        def meet(tokens: list[Tokens]) -> Any:
            if len(together) < 2:
                together.append(len(tokens))
                same_time.wait(PATIENCE)
            return finish(tokens)

        monkeypatch.setattr(model, "finish", meet)
        with edgebert.Batcher(model, max_batch_tokens=24) as batcher:
            same([future.result(PATIENCE) for future in [batcher.submit(text) for text in TEXTS]], model)


def test_a_free_lane_begins_at_once_and_those_who_find_none_share_a_batch(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "allowed_threads", lambda: 2)
    with load(exports.artifact("bert", TASKS[0]).path, threads=2) as model:
        gate, begun, finish = threading.Event(), list[int](), model.finish

        def wait(tokens: list[Tokens]) -> Any:
            begun.append(len(tokens))
            assert gate.wait(PATIENCE)
            return finish(tokens)

        monkeypatch.setattr(model, "finish", wait)
        with edgebert.Batcher(model, max_wait_ms=0) as batcher:
            futures = []
            for _ in range(2):
                futures.append(batcher.submit(TEXTS[0]))
                until(futures[-1].running)
            until(lambda: len(begun) == 2)
            futures += [batcher.submit(TEXTS[0]) for _ in range(3)]
            time.sleep(0.1)
            assert begun == [1, 1]
            assert not any(future.running() for future in futures[2:])
            gate.set()
            same([future.result(PATIENCE) for future in futures[:1]], model)
            assert {future.result(PATIENCE).label for future in futures} == {futures[0].result().label}
        assert begun == [1, 1, 3]


def test_a_full_queue_is_said_at_once_and_later_requests_are_fine(classifier: Model, held: threading.Event) -> None:
    with edgebert.Batcher(classifier, max_queue=3, max_wait_ms=0) as batcher:
        first = batcher.submit(TEXTS[0])
        until(first.running)
        waiting = [batcher.submit(text) for text in TEXTS[1:4]]
        with pytest.raises(QueueFull, match="3 requests wait already"):
            batcher.submit(TEXTS[4])
        # One that nobody waits for any more makes room.
        assert waiting[0].cancel()
        waiting[0] = batcher.submit(TEXTS[1])
        held.set()
        same([future.result(PATIENCE) for future in (first, *waiting)], classifier)
        assert (batcher.metrics().full, batcher.metrics().cancelled) == (1, 1)


def test_a_deadline_that_passes_is_said_in_time_and_later_requests_are_fine(
    classifier: Model, held: threading.Event
) -> None:
    async def main() -> Prediction:
        async with edgebert.Batcher(classifier, max_wait_ms=0) as batcher:
            busy = batcher.submit(TEXTS[0])
            until(busy.running)
            with pytest.raises(DeadlinePassed):
                await batcher.predict(TEXTS[1], timeout_ms=20)
            # In threads the engine's next look at the line says it.
            late = batcher.submit(TEXTS[1], timeout_ms=1)
            # Enough for the first one's too, whose request was made a little later than its caller began to wait.
            await asyncio.sleep(0.3)
            held.set()
            with pytest.raises(TimeoutError):
                await asyncio.wrap_future(late)
            found = await batcher.predict(TEXTS[0], timeout_ms=20_000)
            metrics = batcher.metrics()
            assert (metrics.late, metrics.cancelled, metrics.answered) == (2, 0, 2)
            return found

    same([asyncio.run(main())], classifier)


def test_a_cancelled_task_costs_nothing(classifier: Model, held: threading.Event) -> None:
    async def main() -> None:
        async with edgebert.Batcher(classifier, max_wait_ms=0) as batcher:
            busy = batcher.submit(TEXTS[0])
            until(busy.running)
            unwanted = asyncio.create_task(batcher.predict(TEXTS[1]))
            await asyncio.to_thread(until, lambda: batcher.metrics().waiting == 1)
            unwanted.cancel()
            with pytest.raises(asyncio.CancelledError):
                await unwanted
            held.set()
        assert (batcher.metrics().cancelled, batcher.metrics().answered) == (1, 1)

    asyncio.run(main())


def test_leaving_answers_all_that_wait_and_takes_no_more(classifier: Model, held: threading.Event) -> None:
    batcher = edgebert.Batcher(classifier)
    futures = [batcher.submit(text) for text in TEXTS]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: refused(batcher))
    assert closing.is_alive()
    held.set()
    closing.join(PATIENCE)
    same([future.result(0) for future in futures], classifier)
    batcher.close()
    # The model is the caller's.
    assert classifier.predict(TEXTS[:1])


def refused(batcher: edgebert.Batcher) -> bool:
    try:
        batcher.submit(TEXTS[0])
    except BatcherClosed:
        return True
    return False


def test_one_bad_item_does_its_neighbours_no_harm(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, bad = classifier.finish, classifier.tokenize(["poison"])[0]

    def fail(tokens: list[Tokens]) -> Any:
        if bad in tokens:
            raise RuntimeError("the engine choked")
        return finish(tokens)

    monkeypatch.setattr(classifier, "finish", fail)

    async def main() -> list[Any]:
        async with edgebert.Batcher(classifier, max_wait_ms=50) as batcher:
            items: list[Any] = [*TEXTS[:9], "poison", None, "\ud800"]
            found = await asyncio.gather(*map(batcher.predict, items), return_exceptions=True)
            assert batcher.metrics().failed == 1
            return found

    *good, choked, none, lone = asyncio.run(main())
    same(good, classifier)
    assert str(choked) == "the engine choked"
    assert isinstance(none, ItemError)
    assert isinstance(lone, ItemError)


CONTEXT = ("which film?", " ".join(TEXTS[:5]))
METHODS: dict[str, tuple[str, Any, Callable[[Model], Any]]] = {
    "feature-extraction": ("encode", TEXTS[0], lambda model: model.encode(TEXTS[:1])[0]),
    "token-classification": ("tag", TEXTS[0], lambda model: model.tag(TEXTS[:1])[0]),
    "question-answering": ("answer", CONTEXT, lambda model: model.answer([CONTEXT])[0]),
}


@pytest.mark.parametrize("task", METHODS)
def test_each_task_has_its_method(task: str, exports: Exports) -> None:
    method, text, alone = METHODS[task]

    async def main(model: Model) -> Any:
        async with edgebert.Batcher(model) as batcher:
            with pytest.raises(UsageError, match="this is not a classifier"):
                await batcher.predict("a film")
            return await getattr(batcher, method)(text)

    with load(exports.artifact("bert", task).path, threads=1) as model:
        found = asyncio.run(main(model))
        if method == "encode":
            np.testing.assert_allclose(found, alone(model), atol=1e-6)
        else:
            assert found == alone(model)


@pytest.mark.parametrize(
    ("task", "item", "words"),
    [
        ("question-answering", "a film", "one text where a question"),
        ("token-classification", ("a", "film"), "a pair where a text"),
    ],
)
def test_an_item_that_the_task_does_not_take_is_refused_before_it_waits(
    task: str, item: Any, words: str, exports: Exports
) -> None:
    with (
        load(exports.artifact("bert", task).path, threads=1) as model,
        edgebert.Batcher(model) as batcher,
        pytest.raises(ItemError, match=words),
    ):
        batcher.submit(item)


def test_a_long_text_does_not_hold_up_the_event_loop(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    where, tokenize = {}, classifier.tokenize

    def tell(found: list[str]) -> list[Tokens]:
        where[found[0]] = threading.get_ident()
        return tokenize(found)

    monkeypatch.setattr(classifier, "tokenize", tell)

    async def main() -> None:
        async with edgebert.Batcher(classifier) as batcher:
            await batcher.predict("film")
            assert (await batcher.predict("film " * 20_000)).truncated

    asyncio.run(main())
    assert where["film"] == threading.get_ident() != where["film " * 20_000]


def test_a_forked_batcher_says_so(classifier: Model) -> None:
    taken, forked = threading.Event(), threading.Event()

    def hold(batcher: edgebert.Batcher) -> None:
        with batcher._changed:
            taken.set()
            assert forked.wait(PATIENCE)

    with edgebert.Batcher(classifier) as batcher:
        assert batcher.submit(TEXTS[0]).result(PATIENCE)
        # As a worker does at times: the child has the lock, and nobody who will give it back.
        holder = threading.Thread(target=hold, args=[batcher])
        holder.start()
        assert taken.wait(PATIENCE)
        child = os.fork()
        if not child:
            code = 1
            signal.alarm(60)
            try:
                for ask in (lambda: batcher.submit(TEXTS[0]), batcher.metrics):
                    with pytest.raises(BatcherClosed, match="of another process"):
                        ask()
                batcher.close()
                code = 0
            finally:
                os._exit(code)
        forked.set()
        holder.join(PATIENCE)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    "bounds", [{"max_batch_tokens": 0}, {"max_wait_ms": -1}, {"max_queue": 0}, {"max_wait_ms": float("nan")}]
)
def test_bounds_that_mean_nothing_are_refused(classifier: Model, bounds: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        edgebert.Batcher(classifier, **bounds)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)
