"""Tiny models of every family, of most tasks and precisions, for others to load; our own vectors beside encoders.

Runs in the project's environment. ``make interop`` calls it, and then ``check.py`` in an environment of theirs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tiny

from edgebert.build import export
from edgebert.exporters import graph
from edgebert.serving.model import load
from edgebert.tasks import TASKS

# A masked model's golden vectors are of a few tokens only: too little to compare all of its outputs with.
LOADED = tuple(task for task in tiny.TASKS if task != "fill-mask")
BOTH = ("fp32", "int8")
TEXTS = tiny.texts(12, seed=11)


def main() -> None:
    """Write the artifacts into the folder given on the command line."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    for family in tiny.FAMILIES:
        for task in LOADED:
            name = f"{family}-{task}"
            model = tiny.checkpoint(out / "models" / name, family, task)
            # A head with random weights prefers no place in a text by much: in int8 its choices are toss-ups.
            _export(model, out / name, ("fp32",) if TASKS[task].asks else BOTH)
    # The same with its weights beside the graph, as big models have them.
    graph.EXTERNAL_FROM_BYTES = 1000
    _export(out / "models" / "bert-text-classification", out / "external", BOTH)


def _export(model: Path, out: Path, precisions: Sequence[str]) -> None:
    for artifact in export(str(model), precision=precisions, out=out):
        if artifact.manifest.pooling is None:
            continue
        with load(artifact.path) as encoder:
            np.savez(f"{artifact.path}.npz", texts=np.array(TEXTS), vectors=encoder.encode(TEXTS))


if __name__ == "__main__":
    main()
