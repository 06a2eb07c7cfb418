"""How many tokens a batch should hold: throughput of length-sorted batches on varied texts, in turn."""

from __future__ import annotations

import sys
import time

from common import heading, in_turn, spread

import edgebert
from edgebert.judging.evaluate import text_of
from edgebert.judging.parity import sample
from edgebert.serving import model as serving
from edgebert.training.data import read

ROUNDS = 5
LIMITS = (64, 128, 256, 512, 1024, 2048)


def main() -> None:
    """Print texts/s by tokens per batch for ARTIFACT [DATA]."""
    texts = [text_of(row) for row in read(sys.argv[2]).test[:600]] if len(sys.argv) > 2 else sample() * 10
    with edgebert.load(sys.argv[1]) as model:

        def run(limit: int) -> float:
            serving.MAX_BATCH_TOKENS = limit
            start = time.perf_counter()
            model.finish(model.tokenize(texts))
            return len(texts) / (time.perf_counter() - start)

        speeds = in_turn({str(limit): lambda limit=limit: run(limit) for limit in LIMITS}, ROUNDS)  # type: ignore[misc]
    print(heading(f"Texts a second by tokens in a batch, {len(texts)} texts"))
    print("| tokens | texts/s, median (least to most) |\n|---|---|")
    for name, values in speeds.items():
        print(f"| {name} | {spread(values)} |")


if __name__ == "__main__":
    main()
