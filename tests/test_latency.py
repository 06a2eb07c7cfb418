from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TASKS, Exports, texts

from edgebert.errors import EdgebertError, InputError
from edgebert.judging.latency import BenchConfig, Contender, Latency, depth_line, measure, round_interval


@given(st.lists(st.floats(0.1, 50), min_size=20, max_size=60))
@settings(max_examples=10, deadline=None)
def test_an_interval_brackets_its_percentile(values: list[float]) -> None:
    low, high = round_interval([values[:10], values[10:]], 50)
    assert min(values) <= low <= high <= max(values)


def test_the_luck_of_a_round_widens_the_interval() -> None:
    generator = np.random.default_rng(0)
    calm = [list(10 + generator.normal(0, 0.1, 40)) for _ in range(10)]
    moody = [list(10 + shift + generator.normal(0, 0.1, 40)) for shift in np.linspace(-3, 3, 10)]
    (a, b), (c, d) = round_interval(calm, 50), round_interval(moody, 50)
    assert d - c > 10 * (b - a)


def test_a_line_over_depth_is_found_again() -> None:
    line = depth_line([1, 2, 4, 6], [0.5 + 1.5 * n for n in (1, 2, 4, 6)])
    assert line is not None
    assert (line.a, line.b, line.worst) == pytest.approx((0.5, 1.5, 0), abs=1e-9)
    assert depth_line([1, 6], [2.0, 9.0]) is None


@pytest.mark.xdist_group("exports")
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
    first, second, third, fourth = measure(contenders, texts(30, seed=1), config)
    assert isinstance(second, EdgebertError)
    assert "does not match its hash" in str(second)
    for result in (first, third, fourth):
        assert isinstance(result, Latency)
        assert (result.samples, result.batch_size, result.seq_len, result.threads) == (20, 2, 16, 1)
        assert result.p95 is None
        assert 0 < result.p50_low <= result.p50 <= result.p50_high
        assert 0 < result.tokenize_p50 < result.p50
        assert result.memory_bytes > 10_000_000


def test_nothing_to_measure_on_is_refused() -> None:
    with pytest.raises(InputError, match="no texts"):
        measure([], [], BenchConfig())
