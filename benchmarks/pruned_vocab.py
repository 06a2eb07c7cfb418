"""What a pruned vocabulary saves and costs: MB, task metric and latency, before and after, in both precisions.

    python benchmarks/pruned_vocab.py MODEL DATA [--rows N] [--samples N]

MODEL is a checkpoint fine-tuned for the labels of DATA, such as `edgebert fit` leaves below its `checkpoints/`. It is
exported with all its tokens and with those that DATA's train part needs; the metric is that of DATA's test part.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.cli.export import entry_of, vocabulary
from edgebert.errors import EdgebertError, UsageError
from edgebert.judging.bench import measure
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.latency import BenchConfig, Contender, Measurement
from edgebert.judging.metrics import Scores, difference
from edgebert.serving.model import load
from edgebert.training.data import Data, match_labels, read

PRECISIONS = ("fp32", "int8")


def main() -> None:
    """Print the table for a checkpoint and data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint, fine-tuned for the labels of the data")
    parser.add_argument("data", help="folder or file")
    parser.add_argument("--rows", type=int, help="at most so many of test [default: all]")
    parser.add_argument("--samples", type=int, default=400, help="timed calls of each artifact, at least")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    data = read(asked.data)
    with tempfile.TemporaryDirectory() as folder:
        artifacts = _exported(asked.model, asked.data, Path(folder))
        data = _in_terms_of(artifacts[0], data, asked.rows)
        scores = [_scores(artifact, data) for artifact in artifacts]
        contenders = [Contender(artifact.path, artifact.manifest.target) for artifact in artifacts]
        texts = [text_of(row) for row in data.test]
        found = measure(contenders, texts, BenchConfig(samples=asked.samples))
        print(heading(f"A vocabulary pruned to {data.name}: {artifacts[0].manifest.name}, {len(data.test)} test texts"))
        _print(artifacts, scores, found)


def _exported(model: str, data: str, folder: Path) -> list[Artifact]:
    """With all tokens and with those of the data, each at both precisions."""
    whole = build.export(model, precision=PRECISIONS, data=data, out=folder / "whole")
    return [*whole, *build.export(model, precision=PRECISIONS, data=data, prune=data, out=folder / "pruned")]


def _in_terms_of(artifact: Artifact, data: Data, rows: int | None) -> Data:
    matched = match_labels(data, artifact.manifest.labels)
    if matched is None:
        raise UsageError("labels of the data are not the checkpoint's", data.name, "give a fine-tuned checkpoint")
    return dataclasses.replace(matched, test=matched.test[:rows])


def _scores(artifact: Artifact, data: Data) -> Scores:
    with load(artifact.path) as model:
        return evaluate(model, data.test)


def _print(artifacts: Sequence[Artifact], scores: Sequence[Scores], found: Measurement) -> None:
    """Rows in the order of ``artifacts``: the whole vocabulary first, then the pruned one."""
    print(f"| tokens | precision | MB | {scores[0].metric} | points | p50 ms | p95 ms | times the whole one |")
    print("|---|---|---|---|---|---|---|---|")
    for place, (artifact, own, latency) in enumerate(zip(artifacts, scores, found.results, strict=True)):
        if isinstance(latency, EdgebertError):
            raise latency
        whole = place % len(PRECISIONS)
        before = found.results[whole]
        ratio = None if isinstance(before, EdgebertError) or place == whole else latency.against(before)
        gap, value = difference(own, scores[whole]), own.metric_value()
        cells = (
            f"{artifact.manifest.architecture.vocab:,}", artifact.manifest.precision,
            f"{artifact.manifest.bytes / 1e6:.1f}",
            f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})",
            "" if place == whole else f"{100 * gap.value:+.2f} ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})",
            f"{latency.p50:.2f} ({latency.p50_low:.2f} to {latency.p50_high:.2f})",
            "" if latency.p95 is None else f"{latency.p95:.2f}",
            "" if ratio is None else f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")
    print(f"\n{' '.join(vocabulary(entry_of(artifacts[-1])))}. Points are paired differences to the whole vocabulary.")
    calm = found.conditions and not found.conditions.reasons
    reasons = "; ".join(found.conditions.reasons) if found.conditions else "nothing was measured"
    print(f"Latencies of one text, text to answer; the machine was {'calm' if calm else f'unstable: {reasons}'}.")


if __name__ == "__main__":
    main()
