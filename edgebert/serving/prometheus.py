"""What batchers have done, for Prometheus, through its client (``pip install 'edgebert[serve]'``).

Nothing else imports this module: whoever wants it registers a collector of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from edgebert.errors import missing_package
from edgebert.serving.batcher import Batcher
from edgebert.serving.traffic import Metrics, Spread

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError:
    raise missing_package("prometheus_client") from None

_OUTCOMES = ("answered", "failed", "full", "late", "cancelled")
_TOKENS = "Tokens that the engine computed, those of texts (text) and those beside them (padding)."
_SPREADS: Mapping[str, tuple[str, Callable[[Metrics], Spread]]] = {
    "edgebert_queue_seconds": ("From the call to the engine.", lambda found: found.queue_seconds),
    "edgebert_latency_seconds": ("From the call to the answer.", lambda found: found.latency_seconds),
    "edgebert_batch_texts": ("Texts in a batch.", lambda found: found.batch_texts),
}


class BatcherCollector(Collector):
    """The metrics of batchers by name, for ``REGISTRY.register(BatcherCollector({"intents": batcher}))``.

    Each is told apart by the label ``model``. Counters and histograms begin with the batcher, so they are those of
    one process: several workers are several targets of a scrape.
    """

    def __init__(self, batchers: Mapping[str, Batcher]) -> None:
        self._batchers = dict(batchers)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for."""
        found = {name: batcher.metrics() for name, batcher in self._batchers.items()}
        requests = CounterMetricFamily("edgebert_requests", "Requests, by how they ended.", labels=["model", "outcome"])
        tokens = CounterMetricFamily("edgebert_tokens", _TOKENS, labels=["model", "kind"])
        waiting = GaugeMetricFamily("edgebert_waiting", "Requests that wait now.", labels=["model"])
        for name, metrics in found.items():
            for outcome in _OUTCOMES:
                requests.add_metric([name, outcome], getattr(metrics, outcome))
            tokens.add_metric([name, "text"], metrics.tokens)
            tokens.add_metric([name, "padding"], metrics.padding_tokens)
            waiting.add_metric([name], metrics.waiting)
        yield from (requests, tokens, waiting)
        for title, (text, take) in _SPREADS.items():
            family = HistogramMetricFamily(title, text, labels=["model"])
            for name, metrics in found.items():
                spread = take(metrics)
                bounds = [*map(str, spread.bounds), "+Inf"]
                family.add_metric([name], list(zip(bounds, spread.counts, strict=True)), spread.total)
            yield family
