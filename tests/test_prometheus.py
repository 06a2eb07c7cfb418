"""A batcher's metrics as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tiny import TASKS, Exports, texts

import edgebert
from edgebert.errors import QueueFull
from edgebert.serving.model import load
from edgebert.serving.prometheus import BatcherCollector
from edgebert.serving.traffic import Tally


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_what_is_scraped_is_what_the_batcher_counts(exports: Exports) -> None:
    asked, registry = texts(40, seed=3), CollectorRegistry()
    with (
        load(exports.artifact("bert", TASKS[0]).path, threads=1) as model,
        edgebert.Batcher(model) as batcher,
        edgebert.Batcher(model) as other,
    ):
        registry.register(BatcherCollector({"many": batcher, "none": other}))
        assert scraped(registry)["edgebert_requests_total", "many", "answered"] == 0
        for future in [batcher.submit(text) for text in asked]:
            future.result(20)
        metrics, found = batcher.metrics(), scraped(registry)
    assert found["edgebert_requests_total", "many", "answered"] == len(asked) == metrics.answered
    assert found["edgebert_requests_total", "none", "answered"] == 0
    assert {found["edgebert_requests_total", "many", name] for name in ("failed", "full", "late", "cancelled")} == {0}
    assert found["edgebert_tokens_total", "many", "text"] == metrics.tokens
    assert found["edgebert_tokens_total", "many", "padding"] == metrics.padding_tokens
    assert metrics.padding == pytest.approx(metrics.padding_tokens / (metrics.tokens + metrics.padding_tokens))
    assert found["edgebert_waiting", "many"] == 0
    assert found["edgebert_batch_texts_count", "many"] == metrics.batches
    assert found["edgebert_batch_texts_sum", "many"] == len(asked)
    for quantity in ("queue", "latency"):
        assert found[f"edgebert_{quantity}_seconds_count", "many"] == len(asked)
        assert found[f"edgebert_{quantity}_seconds_bucket", "many", "+Inf"] == len(asked)
    assert 0 < found["edgebert_queue_seconds_sum", "many"] < found["edgebert_latency_seconds_sum", "many"]


def test_who_is_turned_away_is_counted(exports: Exports) -> None:
    registry = CollectorRegistry()
    with (
        load(exports.artifact("bert", TASKS[0]).path, threads=1) as model,
        edgebert.Batcher(model, max_queue=1, max_wait_ms=10_000) as batcher,
    ):
        registry.register(BatcherCollector({"m": batcher}))
        turned_away = 0
        for text in texts(50):
            try:
                batcher.submit(text)
            except QueueFull:
                turned_away += 1
        assert turned_away
        assert scraped(registry)["edgebert_requests_total", "m", "full"] == turned_away


def test_a_spread_by_hand() -> None:
    tally = Tally((1.0, 2.0, 5.0))
    tally.add([0.5, 1.0, 1.5])
    tally.add([2.0, 9.0])
    assert tally.spread().counts == (2, 4, 4, 5)
    assert tally.spread().total == pytest.approx(14.0)


def test_without_the_client_the_rest_works() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import edgebert; edgebert.Batcher\n"
        "try: import edgebert.serving.prometheus\n"
        "except edgebert.EdgebertError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "missing package: prometheus_client: pip install 'edgebert[serve]'\n"
