"""Measuring: every candidate in its own process, all in one run, and what breaks is a value."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny import TASKS, Exports, texts

from edgebert.errors import EdgebertError, InputError
from edgebert.judging import bench
from edgebert.judging.bench import _Probe, measure
from edgebert.judging.conditions import Conditions
from edgebert.judging.latency import BenchConfig, Contender, Latency, Measurement
from edgebert.machine import allowed_threads


def test_candidates_are_measured_together_and_a_broken_one_is_a_value(exports: Exports, tmp_path: Path) -> None:
    # One that dies while the others go on: its graph is cut short.
    sound = exports.artifact("bert", TASKS[0])
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("edgebert.json", *sound.manifest.files):
        (broken / name).write_bytes((sound.path / name).read_bytes())
    (broken / "model.onnx").write_bytes(b"cut short")
    contenders = [
        Contender(sound.path, "cpu"), Contender(broken, "cpu"),
        Contender(exports.artifact("bert", TASKS[1]).path, "cpu"), Contender(sound.path, "torch"),
    ]  # fmt: skip
    config = BenchConfig(batch_size=2, threads=1, samples=20, rounds=4, seq_len=16)
    # The broken one cannot be the reference: the first that works is.
    found = measure(contenders, texts(30, seed=1), config, reference=1)
    first, second, third, fourth = found.results
    assert found.conditions
    assert found.conditions.reference == f"{sound.path.name} on cpu"
    assert isinstance(second, EdgebertError)
    assert "does not match its hash" in str(second)
    for result in (first, third, fourth):
        assert isinstance(result, Latency)
        assert (result.samples, result.batch_size, result.seq_len, result.threads) == (20, 2, 16, 1)
        assert result.p95 is None
        assert 0 <= result.p50_low <= result.p50 <= result.p50_high
        assert 0 < result.tokenize_p50 < result.p50
        assert result.memory_bytes > 10_000_000
        assert len(result.rounds) == 4
        assert result.ratio
        assert 0 < result.ratio.low <= result.ratio.value <= result.ratio.high
    assert isinstance(first, Latency)
    assert isinstance(third, Latency)
    assert first.ratio
    assert (first.ratio.low, first.ratio.value, first.ratio.high) == (1.0, 1.0, 1.0)
    # All of one run, so any two can be compared in pairs.
    assert third.against(first) == third.ratio
    assert Latency.from_dict(json.loads(json.dumps(dataclasses.asdict(third)))) == third


def test_where_calls_are_slow_all_make_fewer_but_enough_for_a_p95(exports: Exports) -> None:
    contenders = [Contender(exports.artifact("bert", task).path, "cpu") for task in TASKS[:3]]
    found = measure(contenders, texts(30, seed=1), BenchConfig(threads=1, samples=300, rounds=2, seconds=0.001))
    assert found.run
    for result in found.results:
        assert isinstance(result, Latency)
        assert (result.samples, result.run) == (200, found.run)
        assert result.p95 is not None


def test_a_measurement_for_a_p95_has_fresh_processes_several_times(exports: Exports) -> None:
    contenders = [Contender(exports.artifact("bert", task).path, "cpu") for task in TASKS[:2]]
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure, contenders, texts(30), BenchConfig(threads=1, samples=200, rounds=4))
        while not running.done():
            seen |= {worker.pid for worker in workers()}
            # One sitting's processes have gone when the next one's start.
            assert len(workers()) <= 2
            time.sleep(0.005)
    first, second = running.result().results
    assert isinstance(first, Latency)
    assert isinstance(second, Latency)
    assert first.samples >= 200
    assert len(first.rounds) == 4
    # The machine's tail is everybody's.
    tails = [latency.p95_high / latency.p95 for latency in (first, second) if latency.p95 and latency.p95_high]
    assert tails == pytest.approx([tails[0]] * 2)
    assert len(seen) == 4


@pytest.mark.parametrize(("apart", "rounds", "compared"), [(0, 8, 8), (7, 12, 5), (100, 16, 16)])
def test_a_measurement_goes_on_for_rounds_with_the_cpus_together(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, apart: int, rounds: int, compared: int
) -> None:
    costs = iter([1.3] * apart + [0.7] * 100)
    monkeypatch.setattr(_Probe, "cost", lambda _: next(costs))
    # Whose processes start once.
    monkeypatch.setattr(bench, "_ROUNDS_OF_A_SITTING", 100)
    contender = Contender(exports.artifact("bert", TASKS[0]).path, "cpu")
    found = measure([contender], texts(30), BenchConfig(threads=1, samples=200, rounds=8))
    (latency,) = found.results
    assert isinstance(latency, Latency)
    assert found.conditions
    # The cost of a round is the worse of those before and after it.
    assert found.conditions.apart == min(apart, rounds) / rounds
    assert len(latency.rounds) == compared


@pytest.mark.skipif(allowed_threads() < 2, reason="one thread shares nothing")
def test_the_cost_of_sharing_is_told_with_the_conditions(exports: Exports) -> None:
    contenders = [Contender(exports.artifact("bert", TASKS[0]).path, "cpu")]
    several, one = (measure(contenders, texts(30), BenchConfig(threads=n, samples=6)).conditions for n in (2, 1))
    assert several
    assert one
    assert several.sharing > 0
    assert (one.sharing, one.apart) == (0.0, 0.0)


def test_a_calm_run_is_better_than_a_steady_one_beside_other_programs() -> None:
    lost: tuple[Latency | EdgebertError, ...] = (InputError("a", "b", "c"),)
    calm = Conditions("x", drift=0.05, steal=0.0, background=0.01, throttled=0, seconds=1.0)
    busy = dataclasses.replace(calm, drift=0.03, background=0.4)
    worst_first = [
        Measurement(lost, None), Measurement(lost, calm), Measurement((), busy),
        Measurement((), dataclasses.replace(calm, drift=0.1)), Measurement((), calm),
    ]  # fmt: skip
    ranks = [measured.rank for measured in worst_first]
    assert ranks == sorted(ranks, reverse=True)


def workers() -> list[psutil.Process]:
    """The measuring processes that this one has started, in order."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "edgebert.judging.latency_worker" in child.cmdline():
                found.append((child.create_time(), child.pid, child))
    return [child for *_, child in sorted(found, key=lambda entry: entry[:2])]


def test_a_worker_that_is_killed_is_a_value(exports: Exports, tmp_path: Path) -> None:
    sound = exports.artifact("bert", TASKS[0])
    marked = Path(shutil.copytree(sound.path, tmp_path / "marked for death"))
    config = BenchConfig(threads=1, samples=400, rounds=4)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure, [Contender(sound.path, "cpu"), Contender(marked, "cpu")], texts(30), config)
        while len(workers()) < 2:
            assert not running.done()
            time.sleep(0.01)
        # Started in this order; the one that is left goes on to the end.
        workers()[1].kill()
        first, second = running.result().results
    assert isinstance(first, Latency)
    assert isinstance(second, EdgebertError)
    assert "was killed by SIGKILL, perhaps for lack of memory" in str(second)
    assert str(marked) in str(second)


def test_nothing_to_measure_on_is_refused() -> None:
    with pytest.raises(InputError, match="no texts"):
        measure([], [], BenchConfig())
