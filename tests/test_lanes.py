"""Calls at once, each on a thread of its own: when there are lanes, that answers are the same, and their end."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TASKS, Exports, texts

import edgebert
from edgebert.errors import InputError
from edgebert.registry import TARGETS
from edgebert.runtimes import lanes, session
from edgebert.runtimes.lanes import Lanes, open_with_lanes
from edgebert.runtimes.session import SessionConfig
from edgebert.serving import model as serving

MANY = texts(300, seed=3)
# Seconds that only what hangs waits for: an engine may be compiled meanwhile.
PATIENCE = 120
with_lanes = pytest.mark.parametrize("target", [target.name for target in TARGETS.values() if target.lanes])


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of this process, whatever the machine has and the workers of the tests were given.
    monkeypatch.setattr(session, "allowed_threads", lambda: 2)


class Fake:
    """A session that says which it is, and answers when it is let."""

    def __init__(self, name: str) -> None:
        self.name, self.gate, self.closed, self.calls = name, threading.Event(), False, 0

    def run(self, feed: Any) -> dict[str, Any]:
        self.calls += 1
        assert self.gate.wait(PATIENCE)
        return {"by": self.name}

    def facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def close(self) -> None:
        self.closed = True


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_call_alone_has_all_threads_and_a_second_one_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "SOON_SECONDS", 0.0)
    whole, aside, opening = Fake("whole"), Fake("aside"), threading.Event()
    aside.gate.set()
    both = Lanes(whole, lambda: aside if opening.wait(PATIENCE) else whole, 2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(both.run, {})
        until(lambda: whole.calls == 1)
        # The second engine is opened because of this call, which does not wait for it.
        second = pool.submit(both.run, {})
        until(lambda: whole.calls == 2)
        opening.set()
        until(lambda: both.facts()["lanes"] == 2)
        assert both.facts() == {"name": "whole", "lanes": 2}
        whole.gate.set()
        assert {first.result(PATIENCE)["by"], second.result(PATIENCE)["by"]} == {"whole"}
        whole.gate.clear()
        alone = pool.submit(both.run, {})
        until(lambda: whole.calls == 3)
        assert pool.submit(both.run, {}).result(PATIENCE) == {"by": "aside"}
        whole.gate.set()
        assert alone.result(PATIENCE) == {"by": "whole"}
    both.close()
    assert whole.closed
    assert aside.closed


def test_a_call_alone_has_a_lane_as_long_as_calls_met_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, aside = Fake("whole"), Fake("aside")
    aside.gate.set()
    both = Lanes(whole, lambda: aside, 2)
    monkeypatch.setattr(lanes, "SOON_SECONDS", 60.0)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(both.run, {}) for _ in range(2)]
        until(lambda: both.facts()["lanes"] == 2)
        whole.gate.set()
        assert all(call.result(PATIENCE) for call in calls)
    assert both.run({}) == {"by": "aside"}
    monkeypatch.setattr(lanes, "SOON_SECONDS", 0.05)
    until(lambda: both.run({}) == {"by": "whole"})
    # It met nobody, so neither does the next.
    assert both.run({}) == {"by": "whole"}


def test_an_engine_that_opens_after_the_end_is_closed() -> None:
    whole, aside, opening = Fake("whole"), Fake("aside"), threading.Event()

    def opens() -> Any:
        assert opening.wait(PATIENCE)
        return aside

    both = Lanes(whole, opens, 2)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(both.run, {}) for _ in range(2)]
        until(lambda: whole.calls == 2)
        both.close()
        opening.set()
        whole.gate.set()
        assert [call.result(PATIENCE)["by"] for call in calls] == ["whole"] * 2
    until(lambda: aside.closed)
    assert both.facts()["lanes"] == 0


def test_an_engine_that_cannot_be_opened_again_harms_nobody() -> None:
    whole, asked = Fake("whole"), []

    def opens() -> Any:
        asked.append(1)
        raise InputError("the folder is gone", "folder", "put it back")

    both = Lanes(whole, opens, 2)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(both.run, {}) for _ in range(8)]
        until(lambda: bool(asked))
        whole.gate.set()
        assert {call.result(PATIENCE)["by"] for call in calls} == {"whole"}
    assert len(asked) == 1


def test_with_many_threads_few_calls_share_them_all() -> None:
    whole, aside = Fake("whole"), Fake("aside")
    aside.gate.set()
    both = Lanes(whole, lambda: aside, 8)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(both.run, {}) for _ in range(4)]
        until(lambda: whole.calls == 4)
        assert both.facts()["lanes"] == 0
        calls.append(pool.submit(both.run, {}))
        until(lambda: both.facts()["lanes"] == 8)
        assert pool.submit(both.run, {}).result(PATIENCE) == {"by": "aside"}
        whole.gate.set()
        assert all(call.result(PATIENCE) for call in calls)


@with_lanes
@pytest.mark.parametrize("task", TASKS[:2])
def test_one_long_call_is_answered_in_lanes_and_the_same(task: str, target: str, exports: Exports) -> None:
    path = exports.artifact("bert", task).path
    with edgebert.load(path, target, threads=1) as one, edgebert.load(path, target, threads=2) as model:
        truth = _numbers(one)
        found = [_numbers(model) for _ in range(3)]
        until(lambda: model.facts()["lanes"] == 2)
        found.append(_numbers(model))
        assert "lanes" not in one.facts()
        assert (one.at_once, model.at_once) == (1, 2)
    for answers in found:
        np.testing.assert_array_equal(answers, truth)


def _numbers(model: edgebert.Model) -> Any:
    return model.logits(MANY) if model.artifact.manifest.labels else model.encode(MANY)


def test_an_error_of_one_batch_ends_the_call(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_BATCH_TOKENS", 16)
    with edgebert.load(exports.artifact("bert", TASKS[0]).path, threads=2) as model:
        run, calls = model.run, []

        def fails(feed: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise InputError("a bad batch", "batch", "none")
            time.sleep(0.01)
            return run(feed)

        monkeypatch.setattr(model, "run", fails)
        with pytest.raises(InputError, match="a bad batch"):
            model.logits(MANY)
        # Two at once: what had begun ends, and no more is begun than by then, of many more.
        assert len(calls) < len(MANY) // 3
        monkeypatch.setattr(model, "run", run)
        assert len(model.logits(MANY)) == len(MANY)


def test_large_artifacts_and_single_threads_have_none(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = exports.artifact("bert", TASKS[0])
    engine = TARGETS["cpu"].resolve()
    assert isinstance(open_with_lanes(engine, artifact, SessionConfig()), Lanes)
    assert not isinstance(open_with_lanes(engine, artifact, SessionConfig(1)), Lanes)
    monkeypatch.setattr(lanes, "LARGEST", artifact.manifest.bytes - 1)
    assert not isinstance(open_with_lanes(engine, artifact, SessionConfig()), Lanes)


def test_a_changed_file_gives_no_lanes_and_no_other_answers(exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact("bert", TASKS[0]).path
    path = Path(shutil.copytree(source, tmp_path / "copy"))
    with edgebert.load(source, threads=1) as one, edgebert.load(path, threads=2) as model:
        graph = path / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1] + b"x")
        np.testing.assert_array_equal(model.logits(MANY), one.logits(MANY))
        until(lambda: not any(thread.name == "edgebert-lanes" for thread in threading.enumerate()))
        np.testing.assert_array_equal(model.logits(MANY), one.logits(MANY))
        assert model.facts()["lanes"] == 0
