"""Artifacts of target cuda opened where they run: whether they answer as they do on a CPU, and how long calls take.

    python benchmarks/gpu_artifacts.py FOLDER TEXTS --expect EXPECTED    on any machine: the CPU's logits of the texts
    python benchmarks/gpu_artifacts.py FOLDER TEXTS EXPECTED             on the GPU machine: beside them, and timed

FOLDER holds artifacts, TEXTS is a JSON list. A packed artifact answers nowhere else, so it is compared with the one of
the same name without that. Milliseconds are of whole calls, tokens included: each text alone, and the first eight.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import edgebert
from edgebert.serving.model import Model

_PACKED = "-packed"
# Texts that are asked one by one, and in a batch; and how often.
_SINGLE, _BATCH, _TIMES = 60, 8, 50


def main() -> None:
    """Write the CPU's logits, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("expected", type=Path, nargs="?")
    parser.add_argument("--expect", type=Path, help="only write what the CPU answers, as .npz")
    parser.add_argument("--target", default="cuda")
    asked = parser.parse_args()
    texts = json.loads(asked.texts.read_text("utf-8"))
    artifacts = sorted(path for path in asked.folder.iterdir() if (path / "edgebert.json").exists())
    if asked.expect:
        plain = [path for path in artifacts if not path.name.endswith(_PACKED)]
        np.savez(asked.expect, **{path.name: _logits(path, texts) for path in plain})
        return
    expected = np.load(asked.expected)
    print("| artifact | max error | largest | same label | ms a text | p95 | ms of eight | graphs captured | MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in artifacts:
        cells = _row(path, texts, expected[path.name.removesuffix(_PACKED)], asked.target)
        print(f"| {path.name} | {' | '.join(cells)} |", flush=True)


def _logits(path: Path, texts: list[str]) -> Any:
    with edgebert.load(path, "cpu") as model:
        return model.logits(texts)


def _row(path: Path, texts: list[str], expected: Any, target: str) -> Iterator[str]:
    with edgebert.load(path, target) as model:
        found = model.logits(texts)
        alone = np.concatenate([model.logits([text]) for text in texts[:_SINGLE]])
        worst = max(np.abs(found - expected).max(), np.abs(alone - expected[: len(alone)]).max())
        yield from (f"{worst:.2g}", f"{np.abs(expected).max():.3g}")
        yield f"{(found.argmax(1) == expected.argmax(1)).mean():.1%}"
        singles = [_timed(lambda text=text: model.logits([text])) for text in texts[:_SINGLE] * 3]
        yield from (f"{np.median(singles):.2f}", f"{np.percentile(singles, 95):.2f}")
        yield f"{_of_a_batch(model, texts[:_BATCH]):.2f}"
        facts = model.facts()
        yield from (str(facts.get("captured", "-")), f"{facts.get('device_bytes', 0) / 1e6:.0f}")


def _of_a_batch(model: Model, texts: list[str]) -> float:
    model.logits(texts)
    return float(np.median([_timed(lambda: model.logits(texts)) for _ in range(_TIMES)]))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
