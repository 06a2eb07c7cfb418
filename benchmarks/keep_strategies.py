"""Which layers to keep, before anything is trained: what each depth is worth, and each strategy at each depth."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import heading

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.judging.evaluate import evaluate
from edgebert.runtimes.reference import open as open_torch
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.shaping.depth import KEEP_AUTO, STRATEGIES, TruncateConfig, layers_to_keep, truncate
from edgebert.training.data import Data, match_labels, read
from edgebert.training.importance import Importance, measure_importance


def main() -> None:
    """Print both tables for a checkpoint and data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint, for a classifier fine-tuned for the labels of the data")
    parser.add_argument("data", help="folder or file; importance is measured on train, strategies on dev")
    parser.add_argument("--layers", help="depths, comma-separated [default: all but the full one]")
    parser.add_argument("--rows", type=int, default=1000, help="at most so many of dev")
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    source, data = open_checkpoint(asked.model), read(asked.data)
    if source.manifest.labels:
        matched = match_labels(data, source.manifest.labels)
        if matched is None:
            raise UsageError("labels of the data are not the checkpoint's", asked.data, "give a fine-tuned checkpoint")
        data = matched
    data = dataclasses.replace(data, dev=data.dev[: asked.rows])
    depth = source.manifest.architecture.layers
    depths = [int(word) for word in asked.layers.split(",")] if asked.layers else list(range(1, depth))
    print(heading(f"Which layers to keep: {source.manifest.name}, {data.name}, nothing trained"))
    found = measure_importance(source, data, tuned=True)
    _print_importance(found)
    _print_strategies(source, data, found, depths)


def _print_importance(found: Importance) -> None:
    print(
        f"On {found.texts} texts of train, from one forward pass; the row of layer k is also the first k + 1 layers.\n"
    )
    print(f"| layer | change | loss if skipped | {found.metric} up to it |\n|---|---|---|---|")
    for layer, (change, worth) in enumerate(zip(found.change, found.curve, strict=True)):
        loss = "" if found.loss is None else f"{found.loss[layer]:+.4f}"
        print(f"| {layer} | {change:.4f} | {loss} | {worth:.4f} |")


def _print_strategies(source: Artifact, data: Data, found: Importance, depths: Sequence[int]) -> None:
    """The task metric on dev of every strategy's layers as they are, in PyTorch; auto by each of its measures."""
    rankings = {"auto, by change": found.change} | ({"auto, by loss": found.loss} if found.loss else {})
    with tempfile.TemporaryDirectory() as folder, _model(source) as full:
        known: dict[tuple[int, ...], float] = {}

        def worth(keep: tuple[int, ...]) -> float:
            if keep not in known:
                out = Path(folder) / "-".join(map(str, keep))
                with _model(stage.run("truncate", truncate, source, TruncateConfig(keep), out)) as model:
                    known[keep] = evaluate(model, data.dev, full).metric_value().value
            return known[keep]

        whole = evaluate(full, data.dev, full).metric_value()
        print(f"\nOn {len(data.dev)} rows of dev, {whole.name}; all layers {whole.value:.4f}.\n")
        print(f"| layers | {' | '.join([*STRATEGIES, *rankings])} |\n|---{'|---' * (len(STRATEGIES) + len(rankings))}|")
        for layers in depths:
            depth = source.manifest.architecture.layers
            kept = [layers_to_keep(layers, name, depth) for name in STRATEGIES]
            kept += [layers_to_keep(layers, KEEP_AUTO, depth, ranking) for ranking in rankings.values()]
            cells = [f"{worth(keep):.4f} ({', '.join(map(str, keep))})" for keep in kept]
            print(f"| {layers} | {' | '.join(cells)} |", flush=True)


def _model(checkpoint: Artifact) -> Model:
    return Model(checkpoint, open_torch(checkpoint, SessionConfig()), TextTokenizer(checkpoint))


if __name__ == "__main__":
    main()
