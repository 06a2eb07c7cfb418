"""The GPU tables: edgebert's fused graphs on ONNX Runtime CUDA beside PyTorch, parity first, within ten minutes.

    python benchmarks/gpu_tables.py --prepare graphs      where edgebert's exporters are: 1 MB of graphs, no weights
    python benchmarks/gpu_tables.py --graphs graphs -o .  on the GPU machine, from the checkout, uninstalled: needs
                                                          torch, transformers, numpy and onnxruntime-gpu alone
    python benchmarks/gpu_tables.py --device cpu --tiny   tries this script out anywhere

Weights are random, made where they are measured: speed does not depend on them. Inputs and outputs stay on the device.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from gpu.graphs import SHAPES, TINY, Shape, prepare, random_model  # noqa: E402, from the checkout

BATCHES, LENGTHS = (1, 8, 32, 128), (32, 128, 384)
# torch.compile tunes for minutes: these are what published numbers are of.
COMPILED = ((1, 128), (8, 128), (32, 128), (128, 128))


@dataclass
class Report:
    """What was found so far, as it is written."""

    machine: dict[str, Any]
    parity: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """``gpu_tables.json`` and ``.md``; after every model, since time may end."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu_tables.json").write_text(json.dumps(vars(self), indent=1), "utf-8")
        (out / "gpu_tables.md").write_text(self.markdown(), "utf-8")

    def markdown(self) -> str:
        """The tables."""
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        lines = ["# GPU tables", "", f"{facts}.", "", "## Parity with PyTorch in fp32 on the CPU", ""]
        lines += _table(self.parity, ("model", "candidate", "max error", "largest", "same label"))
        lines += ["", "## Latency of one call, inputs and outputs on the device", ""]
        heads = ("model", "batch", "length", "candidate", "device ms", "host ms", "texts/s", "of the peak", "MB")
        lines += _table(self.rows, heads)
        if self.unreached:
            lines += ["", f"Time ended before: {'; '.join(self.unreached)}."]
        return "\n".join([*lines, ""])


def _table(rows: Sequence[dict[str, Any]], heads: Sequence[str]) -> list[str]:
    cells = [" | ".join("-" if row[head] is None else str(row[head]) for head in heads) for row in rows]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {each} |" for each in cells)]


def main() -> None:
    """Prepare graphs, or measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, help="only write the graphs into this folder")
    parser.add_argument("--graphs", type=Path, help="the prepared folder [default: prepared now]")
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu-tables"), help="folder of the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few shapes")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin nothing after so many")
    asked = parser.parse_args()
    shapes = TINY if asked.tiny else SHAPES
    if asked.prepare:
        _prepare(shapes, asked.prepare)
        return
    deadline = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory() as folder:
        graphs = asked.graphs or Path(folder)
        if asked.graphs is None:
            _prepare(shapes, graphs)
        report = Report(_machine(asked.device))
        for shape in shapes:
            _measure(report, shape, graphs, asked, deadline)
            report.write(asked.out)
    print(report.markdown())


def _prepare(shapes: Sequence[Shape], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for shape in shapes:
        prepare(shape, out)


def _machine(device: str) -> dict[str, Any]:
    import onnxruntime
    import torch
    from gpu.timing import matrix_peak

    found = {
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "Python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return {**found, "matrix peak TFLOP/s": round(matrix_peak(device) / 1e12, 3)}


def _measure(report: Report, shape: Shape, graphs: Path, asked: argparse.Namespace, deadline: float) -> None:
    """All rows of one model; parity comes first, and a candidate that answers otherwise is not timed."""
    from gpu.timing import used_bytes

    model = random_model(shape)
    feed = batch(shape, 8, 24, varied=True)
    truth = _reference(model, feed)
    for make in _candidates(shape, graphs, model, asked):
        before = used_bytes(asked.device)
        try:
            candidate = make()
            found = _parity(shape, candidate, truth, feed)
        except Exception as error:  # noqa: BLE001, one candidate that fails is a row, and the others go on
            report.unreached.append(f"{shape.name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        report.parity.append(found)
        if found["max error"] > 0.05 * max(1.0, found["largest"]):
            report.unreached.append(f"{shape.name} {candidate.name}: it answers otherwise")
            continue
        report.rows += _rows(report, shape, candidate, asked, deadline, before)
        del candidate
        gc.collect()


def _candidates(shape: Shape, graphs: Path, model: Any, asked: argparse.Namespace) -> Iterator[Any]:
    import copy

    from gpu.candidates import Ort, Torch

    for precision in ("fp32", "fp16"):
        # On a GPU fp32 is nobody's choice.
        if asked.device == "cpu" or precision == "fp16":
            yield lambda precision=precision: Ort(graphs, shape, precision, model, asked.device)
    yield lambda: Torch(copy.deepcopy(model), asked.device)
    if not asked.no_compile:
        yield lambda: Torch(copy.deepcopy(model), asked.device, compiled=True)


def batch(shape: Shape, rows: int, length: int, *, varied: bool = False) -> dict[str, Any]:
    """Random tokens; ``varied``: of lengths from 3 on, padded on the right."""
    generator = np.random.default_rng(rows * 1000 + length)
    mask = np.ones((rows, length), np.int64)
    if varied:
        mask = (np.arange(length) < generator.integers(3, length + 1, (rows, 1))).astype(np.int64)
    ids = generator.integers(1, shape.vocab, (rows, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _reference(model: Any, feed: dict[str, Any]) -> Any:
    import torch

    with torch.inference_mode():
        return model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()


def _parity(shape: Shape, candidate: Any, truth: Any, feed: dict[str, Any]) -> dict[str, Any]:
    found = candidate.logits(feed)
    if not np.isfinite(found).all():
        raise ValueError(f"{candidate.name} gives numbers that are not finite")
    return {
        "model": shape.name, "candidate": candidate.name, "max error": float(f"{np.abs(found - truth).max():.2e}"),
        "largest": float(f"{np.abs(truth).max():.3g}"),
        "same label": f"{(found.argmax(1) == truth.argmax(1)).mean():.0%}",
    }  # fmt: skip


def _rows(
    report: Report, shape: Shape, candidate: Any, asked: argparse.Namespace, deadline: float, before: int
) -> Iterator[dict[str, Any]]:
    from gpu.timing import timed, used_bytes

    sizes = [(rows, length) for length in LENGTHS for rows in BATCHES]
    if asked.tiny:
        sizes = [(1, 8), (2, 16)]
    elif candidate.name.startswith("torch.compile"):
        sizes = list(COMPILED)
    for rows, length in sizes:
        if time.monotonic() > deadline:
            report.unreached.append(f"{shape.name} {rows} x {length} {candidate.name}")
            continue
        found = timed(candidate.bound(batch(shape, rows, length)), asked.device)
        seconds = (found.device or found.host) / 1e3
        peak = report.machine["matrix peak TFLOP/s"] * 1e12
        yield {
            "model": shape.name, "batch": rows, "length": length, "candidate": candidate.name,
            "device ms": found.device and round(found.device, 3), "host ms": round(found.host, 3),
            "texts/s": round(rows / found.host * 1e3),
            "of the peak": f"{shape.flops(rows, length) / seconds / peak:.1%}",
            "MB": round(max(0, used_bytes(asked.device) - before) / 1e6),
        }  # fmt: skip


if __name__ == "__main__":
    main()
