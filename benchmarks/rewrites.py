"""What each choice around the products gains on target cpu: the artifact as it runs, beside itself without the choice.

    python benchmarks/rewrites.py ARTIFACT... [--threads N] [--rounds N]

Each way has a process of its own in every round, in turn; a ratio is that of two medians of calls in one round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from common import heading, spread

from edgebert.artifact import Artifact
from edgebert.exporters.graph import MODEL, save_graph
from edgebert.runtimes.ort import unwanted_fusions

SHAPES = ((1, 16), (1, 128), (8, 32))
CALLS, WARM = 40, 10
AS_IT_RUNS = "as it runs"


def main() -> None:
    """Print the table, or, as a process of a round, the medians of one way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(_medians(asked.artifacts[0], asked.way, asked.threads)))
        return
    print(heading(f"What stands around the products, {asked.threads} thread{'s' * (asked.threads > 1)}"))
    shapes = " | ".join(f"{batch} × {length}" for batch, length in SHAPES)
    print(f"| artifact | without | times as long at {shapes} |\n|---|---|{'---|' * len(SHAPES)}")
    for path in asked.artifacts:
        _compare(path, asked.threads, asked.rounds)


def _compare(path: Path, threads: int, rounds: int) -> None:
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, medians in found.items():
            command = [sys.executable, __file__, str(path), "--threads", str(threads), "--way", way]
            medians.append(json.loads(subprocess.check_output(command)))
    for way in (way for way in WAYS if way != AS_IT_RUNS):
        cells = []
        for shape in range(len(SHAPES)):
            pairs = zip(found[way], found[AS_IT_RUNS], strict=True)
            cells.append(spread([without[shape] / ours[shape] for without, ours in pairs]))
        print(f"| {path.name} | {way} | {' | '.join(cells)} |")


def _medians(path: Path, way: str, threads: int) -> list[float]:
    """Milliseconds of a call at each of the shapes."""
    artifact = Artifact.open(path)
    session = WAYS[way](path, threads)
    names, generator = [spec.name for spec in artifact.manifest.inputs], np.random.default_rng(0)
    found = []
    for shape in SHAPES:
        ids = generator.integers(0, artifact.manifest.architecture.vocab, shape)
        arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        times = [_call(session, {name: arrays[name] for name in names}) for _ in range(WARM + CALLS)]
        found.append(1e3 * statistics.median(times[WARM:]))
    return found


def _call(session: Any, feed: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def _session(artifact: Path, threads: int, fused: str = "", graph: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    precision = Artifact.open(artifact).manifest.precision
    off = [name for name in unwanted_fusions(precision) if name != fused]
    model = artifact / MODEL if graph is None else graph
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=off)


def _exporters_gelu(artifact: Path, threads: int) -> Any:
    """The artifact with its GELUs as PyTorch's exporter writes them: ``x * (0.5 * (1 + erf))``."""
    loaded = ir.load(artifact / MODEL)
    for node in loaded.graph:
        if node.op_type == "Erf":
            (add,) = (use.node for use in node.outputs[0].uses())
            (scaled,) = (use.node for use in add.outputs[0].uses())
            (product,) = (use.node for use in scaled.outputs[0].uses())
            x, half = scaled.inputs[0], product.inputs[1]
            scaled.replace_input_with(0, half)
            product.replace_input_with(0, x)
            product.replace_input_with(1, scaled.outputs[0])
    with tempfile.TemporaryDirectory() as folder:
        save_graph(loaded, Path(folder))
        return _session(artifact, threads, graph=Path(folder) / MODEL)


def _every_token(artifact: Path, threads: int) -> Any:
    """The artifact with a last layer that computes every token, of which the head reads the first."""
    loaded = ir.load(artifact / MODEL)
    for node in loaded.graph:
        if node.op_type == "Slice" and str(node.name).endswith(".first1"):
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
        sizes = node.inputs[1].const_value if node.op_type == "Reshape" else None
        if sizes is not None and sizes.numpy().tolist()[:2] == [0, 1]:
            whole = ir.tensor(np.array([0, -1, *sizes.numpy()[2:]]), name=sizes.name)
            node.inputs[1].const_value = whole
    for node in loaded.graph:
        for value in node.outputs:
            value.shape = None
    with tempfile.TemporaryDirectory() as folder:
        save_graph(loaded, Path(folder))
        return _session(artifact, threads, graph=Path(folder) / MODEL)


WAYS: Mapping[str, Callable[[Path, int], Any]] = {
    AS_IT_RUNS: _session,
    "SkipLayerNormalization taken apart": lambda path, threads: _session(path, threads, "SkipLayerNormFusion"),
    "GELU in the engine's order": _exporters_gelu,
    "first token alone in the last layer": _every_token,
}

if __name__ == "__main__":
    main()
