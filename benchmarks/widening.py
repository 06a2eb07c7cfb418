"""What `edgebert resize` to other widths changes, and how many steps of distillation mend what it changed.

    python benchmarks/widening.py MODEL [--texts DATA] [--steps 25,100,400] [--methods logits,relations]

Deviations are those of fp32 logits (of a sentence encoder: of the cosines of all pairs of texts) on texts of DATA's
test part. With --steps, MODEL must be fine-tuned for DATA's labels: its copy that is --hidden wide is distilled from
MODEL, which the whole copy came from.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.metrics import difference
from edgebert.runtimes.reference import open as open_torch
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import Text, TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import match_labels, read
from edgebert.training.plan import TrainConfig

TEXTS = 100


def main() -> None:
    """Print what each width changed, then what training gave back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("--texts", required=True, help="folder or file")
    parser.add_argument("--hidden", type=int, help="a width between whole multiples [default: 4/3]")
    parser.add_argument("--steps", default="", help="of distillation, for each a run of its own")
    parser.add_argument("--methods", default="logits,relations")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    source, data = open_checkpoint(asked.model), read(asked.texts)
    shape = source.manifest.architecture
    hidden = asked.hidden or shape.hidden * 4 // 3
    texts = [text_of(row) for row in data.test[:TEXTS]]
    print(heading(f"Wider: {source.manifest.name}, {len(texts)} texts of {data.name}"))
    print("| hidden | ffn | exact | compared | largest difference | mean | same decisions |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        before = _answers(source, texts)
        for new in (
            build.Asked(ffn=shape.ffn * 3 // 2),
            build.Asked(hidden=2 * shape.hidden),
            build.Asked(hidden=2 * shape.hidden, ffn=3 * shape.ffn),
            build.Asked(hidden=hidden),
        ):
            made = build.resize(asked.model, Path(folder) / f"{new.hidden}-{new.ffn}", asked=new)
            _print(source, made, before, _answers(made, texts))
        if asked.steps:
            wide = Path(folder) / f"{hidden}-None"
            _mend(asked.model, wide, asked.texts, [int(word) for word in asked.steps.split(",")], asked.methods)


def _answers(checkpoint: Artifact, texts: list[Text]) -> npt.NDArray[np.floating]:
    """Logits, or of a sentence encoder the cosines of all pairs: vectors of other widths cannot be compared."""
    with _model(checkpoint) as model:
        if checkpoint.manifest.pooling is None:
            return model.logits(texts)
        vectors = model.encode(texts).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def _model(checkpoint: Artifact) -> Model:
    return Model(checkpoint, open_torch(checkpoint, SessionConfig()), TextTokenizer(checkpoint))


def _print(source: Artifact, made: Artifact, before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> None:
    shape, gaps = made.manifest.architecture, np.abs(after - before)
    compared, same = "logits", f"{(before.argmax(1) == after.argmax(1)).mean():.1%}"
    if source.manifest.pooling is not None:
        compared, same = "cosines", ""
    exact = "yes" if made.manifest.checks["width"]["exact"] else "no"
    cells = (str(shape.hidden), str(shape.ffn), exact, compared, f"{gaps.max():.1e}", f"{gaps.mean():.1e}", same)
    print(f"| {' | '.join(cells)} |", flush=True)


def _mend(model: str, wide: Path, place: str, steps: list[int], methods: str) -> None:
    """Distil the wide copy from the model it came from; print the metric on test by the number of steps."""
    source, data = open_checkpoint(model), read(place)
    matched = match_labels(data, source.manifest.labels)
    if matched is None:
        raise UsageError("labels of the data are not the checkpoint's", place, "give a fine-tuned checkpoint")
    with _model(source) as opened:
        whole = evaluate(opened, matched.test)
    with _model(open_checkpoint(str(wide))) as opened:
        untrained = evaluate(opened, matched.test)
    value = whole.metric_value().value
    print(f"\nDistilled from {source.manifest.name} ({whole.metric} {value:.4f} on {len(matched.test)} texts):\n")
    print(f"| method | steps | {whole.metric} | points (paired 95 %) |\n|---|---|---|---|")
    rows = [("as copied", 0, untrained)]
    layers = [source.manifest.architecture.layers]
    for method in methods.split(","):
        for count in steps:
            config = TrainConfig(method=method, max_steps=count)
            with tempfile.TemporaryDirectory() as folder:
                (made,) = build.distill(model, place, layers, folder, config, init_from=str(wide))
                with _model(made) as opened:
                    rows.append((method, count, evaluate(opened, matched.test)))
    for method, count, scores in rows:
        gap = difference(scores, whole)
        points = f"{100 * gap.value:+.2f} ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})"
        print(f"| {method} | {count} | {scores.metric_value().value:.4f} | {points} |")


if __name__ == "__main__":
    main()
