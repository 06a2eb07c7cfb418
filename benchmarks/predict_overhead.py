"""What `predict` adds to tokens and the engine: its second half, timed beside the bare engine on the same batches.

    python benchmarks/predict_overhead.py ARTIFACT DATA [--rounds N]

All test texts in one call, and the same one by one. One process and one engine; both ways take turns, since the
machine drifts. ARTIFACT is for target cpu.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import heading, in_turn, spread

import edgebert
from edgebert.judging.evaluate import text_of
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import Batch, TextTokenizer, Tokens
from edgebert.training.data import read


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    texts = [text_of(row) for row in read(asked.data).test]
    artifact = edgebert.artifact.Artifact.open(asked.artifact)
    session = _Watched(target_named("cpu").resolve()(artifact, SessionConfig()))
    model = Model(artifact, session, TextTokenizer(artifact))
    print(heading(f"predict beside the bare engine: {artifact.manifest.name}, {len(texts)} texts"))
    print("| calls | tokens, ms a text | engine, ms a text | predict over tokens and engine |\n|---|---|---|---|")
    for name, calls in (("all in one", [texts]), ("one by one", [[text] for text in texts])):
        _print(name, model, session, calls, len(texts), asked.rounds)


class _Watched:
    """A session that remembers what it was asked."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.feeds: list[Batch] | None = None

    def run(self, feed: Batch) -> Any:
        if self.feeds is not None:
            self.feeds.append(feed)
        return self._session.run(feed)

    @property
    def bare(self) -> Callable[[Batch], Any]:
        """The engine's own call, without anything of ours around it."""
        engine = self._session._held.get()
        names = [output.name for output in engine.get_outputs()]
        return lambda feed: engine.run(names, feed)

    def facts(self) -> dict[str, Any]:
        return dict(self._session.facts())

    def close(self) -> None:
        self._session.close()


def _print(name: str, model: Model, session: _Watched, calls: Sequence[Sequence[Any]], texts: int, rounds: int) -> None:
    tokens = [model.tokenize(call) for call in calls]
    session.feeds = feeds = []
    _finish(model, tokens)
    session.feeds = None
    bare = session.bare
    found = in_turn(
        {
            "tokens": lambda: _seconds(lambda: [model.tokenize(call) for call in calls]),
            "ours": lambda: _seconds(lambda: _finish(model, tokens)),
            "bare": lambda: _seconds(lambda: [bare(feed) for feed in feeds]),
        },
        rounds,
    )
    ratios = [
        (ours + split) / (engine + split)
        for ours, engine, split in zip(found["ours"], found["bare"], found["tokens"], strict=True)
    ]
    shown = [f"{1e3 * min(found[way]) / texts:.4f}" for way in ("tokens", "bare")]
    print(f"| {name} | {' | '.join(shown)} | {spread(ratios)} |")


def _finish(model: Model, tokens: Sequence[list[Tokens]]) -> None:
    for items in tokens:
        model.finish(items)


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
