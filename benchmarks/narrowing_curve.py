"""What a narrower model keeps with nothing trained: by size, and by the rounds in which its units were cut."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from pathlib import Path

from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.judging.evaluate import evaluate
from edgebert.runtimes.reference import open as open_torch
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import match_labels, read


def main() -> None:
    """Print the task metric on dev for every size and number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="checkpoint, fine-tuned for the labels of the data")
    parser.add_argument("data", help="folder or file; units are ranked on train, sizes judged on dev")
    parser.add_argument("--shapes", default="12x1024,12x512,8x1536,8x1024", help="heads x feed-forward size")
    parser.add_argument("--rounds", default="1,2,4,8,16")
    parser.add_argument("--rows", type=int, default=1000, help="at most so many of dev")
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    source, data = open_checkpoint(asked.model), read(asked.data)
    matched = match_labels(data, source.manifest.labels)
    if matched is None:
        raise UsageError("labels of the data are not the checkpoint's", asked.data, "give a fine-tuned checkpoint")
    dev = dataclasses.replace(matched, dev=matched.dev[: asked.rows])
    shape = source.manifest.architecture
    title = f"{source.manifest.name} ({shape.heads} heads, {shape.ffn}) made narrower, {data.name}, nothing trained"
    print(heading(title))

    def worth(checkpoint: Artifact) -> float:
        tokenizer = TextTokenizer(checkpoint)
        with Model(checkpoint, open_torch(checkpoint, SessionConfig()), tokenizer) as model:
            return evaluate(model, dev.dev).metric_value().value

    rounds = [int(word) for word in asked.rounds.split(",")]
    print(f"On {len(dev.dev)} rows of dev; the whole model {worth(source):.4f}.\n")
    print(f"| heads x ffn | {' | '.join(f'{count} rounds' for count in rounds)} |\n|---{'|---' * len(rounds)}|")
    for word in asked.shapes.split(","):
        heads, ffn = (int(number) for number in word.split("x"))
        cells = []
        for count in rounds:
            with tempfile.TemporaryDirectory() as folder:
                narrow = build.Asked(heads=heads, ffn=ffn)
                made = build.resize(asked.model, Path(folder) / "n", asked=narrow, data=asked.data, rounds=count)
                cells.append(f"{worth(made):.4f}")
        print(f"| {word} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
