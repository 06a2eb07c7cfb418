"""The GPU tables: edgebert's fused graphs on ONNX Runtime CUDA beside PyTorch, parity first, within ten minutes.

    python benchmarks/gpu_tables.py --prepare graphs      where edgebert's exporters are: graphs without weights
    python benchmarks/gpu_tables.py --graphs graphs -o .  on the GPU machine, from the checkout, uninstalled: needs
                                                          torch, transformers, numpy and onnxruntime-gpu alone
    python benchmarks/gpu_tables.py --device cpu --tiny   tries this script out anywhere

Weights are random, made where they are measured: speed does not depend on them. Inputs and outputs stay on the device.
The last table is of batches as long as SST-2's sentences are, in packed mode and padded.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import subprocess
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

from gpu.graphs import POSITIONS, SHAPES, TINY, Shape, prepare, random_model  # noqa: E402, from the checkout
from gpu.lengths import count, drawn, feed_of  # noqa: E402, from the checkout

BATCHES, LENGTHS = (1, 8, 32, 128), (32, 128, 384)
# torch.compile tunes for minutes: these are what published numbers are of.
COMPILED = ((1, 128), (8, 128), (32, 128), (128, 128))
# The model whose kernels are told, for the first and last of these.
PROFILED = "bert-base"
# Texts in a batch of real lengths, and how many such batches make a row.
RAGGED, DRAWS = (8, 32, 128), 4


@dataclass
class Report:
    """What was found so far, as it is written."""

    machine: dict[str, Any]
    parity: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    ragged: list[dict[str, Any]] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)
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
        lines += ["", "## Latency of a batch as long as SST-2's sentences, padded to its longest, or packed", ""]
        heads = ("model", "batch", "tokens", "padding", "candidate", "device ms", "host ms", "texts/s", "MB")
        lines += _table(self.ragged, heads)
        lines += ["", "## Kernels of one call", ""]
        heads = ("model", "batch", "length", "candidate", "kernel", "launches", "microseconds", "share")
        lines += _table(self.profile, heads)
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
    parser.add_argument("--count-lengths", type=Path, metavar="DATA", help="only count the lengths of SST-2's texts")
    parser.add_argument("--graphs", type=Path, help="the prepared folder [default: prepared now]")
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu-tables"), help="folder of the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few shapes")
    parser.add_argument(
        "--no-eager", action="store_true", help="without eager PyTorch, and what is not captured at few shapes"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--compile", type=int, metavar="ROWS", help="only compile the first model for so many texts")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin nothing after so many")
    asked = parser.parse_args()
    if asked.count_lengths:
        count(asked.count_lengths)
        return
    shapes = TINY if asked.tiny else SHAPES
    if asked.compile:
        _compile(shapes[0], asked)
        return
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
            if time.monotonic() < deadline:
                _measure(report, shape, graphs, asked, deadline)
                report.write(asked.out)
            else:
                report.unreached.append(shape.name)
        # What takes minutes to compile comes last, and of the first model alone.
        if not asked.no_compile and time.monotonic() < deadline:
            _compile_all(asked)
            _measure(report, shapes[0], graphs, asked, deadline, compiled=True)
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

    if device == "cuda":
        # Of its own, whose clock times everybody: the default one cannot be captured, nor shared with ONNX Runtime.
        torch.cuda.set_stream(torch.cuda.Stream())
    found = {
        "date": str(datetime.datetime.now(datetime.UTC).date()),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "Python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    return {**found, "matrix peak TFLOP/s": round(matrix_peak(device) / 1e12, 3)}


def _compile_all(asked: argparse.Namespace) -> None:
    """Fill PyTorch's cache for all shapes at once, in processes of their own, each of which takes minutes."""
    device = ["--device", asked.device, *(["--tiny"] if asked.tiny else [])]
    commands = [[sys.executable, __file__, *device, "--compile", str(rows)] for rows, _ in _compiled(asked)]
    for each in [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]:
        each.wait()


def _compile(shape: Shape, asked: argparse.Namespace) -> None:
    from gpu.candidates import Torch

    _machine(asked.device)
    candidate = Torch(random_model(shape), asked.device, compiled=True)
    (length,) = (length for rows, length in _compiled(asked) if rows == asked.compile)
    candidate.bound(feed_of([length] * asked.compile, shape.vocab))()


def _compiled(asked: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    return ((1, 8), (2, 16)) if asked.tiny else COMPILED


def _measure(
    report: Report, shape: Shape, graphs: Path, asked: argparse.Namespace, deadline: float, compiled: bool = False
) -> None:
    """All rows of one model; parity comes first, and a candidate that answers otherwise is not timed."""
    from gpu.timing import used_bytes

    model = random_model(shape)
    # As short as texts can be, as long as the batch, and between; of a shape that is compiled anyway.
    width = 24 if asked.tiny else 128
    feed = feed_of(np.random.default_rng(8).integers(3, width + 1, 8), shape.vocab, width)
    truth = _reference(model, feed)
    for make in _candidates(shape, graphs, model, asked, compiled):
        before = used_bytes(asked.device)
        try:
            candidate = make()
            found = _parity(shape, candidate, truth, feed)
        except Exception as error:  # noqa: BLE001, one candidate that fails is a row, and the others go on
            report.unreached.append(f"{shape.name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        report.parity.append(found)
        if found["max error"] > 0.05 * found["largest"]:
            report.unreached.append(f"{shape.name} {candidate.name}: it answers otherwise")
            continue
        if "full" in candidate.tables:
            report.rows += _rows(report, shape, candidate, asked, deadline, before)
        if "ragged" in candidate.tables:
            report.ragged += _ragged(report, shape, candidate, asked, deadline, before)
        in_time = time.monotonic() < deadline
        if in_time and shape.name == PROFILED and asked.device == "cuda" and "full" in candidate.tables:
            report.profile += _profile(shape, candidate)
        del candidate
        gc.collect()


def _profile(shape: Shape, candidate: Any) -> Iterator[dict[str, Any]]:
    from gpu.profile import kernels

    for rows, length in (COMPILED[0], COMPILED[-1]):
        call = candidate.bound(feed_of([length] * rows, shape.vocab))
        where = {"model": shape.name, "batch": rows, "length": length, "candidate": candidate.name}
        yield from ({**where, **row} for row in kernels(call))


def _candidates(shape: Shape, graphs: Path, model: Any, asked: argparse.Namespace, compiled: bool) -> Iterator[Any]:
    import copy

    from gpu.candidates import Ort, Torch

    if compiled:
        yield lambda: Torch(copy.deepcopy(model), asked.device, compiled=True)
        return
    # On a GPU fp32 is nobody's choice; what the CPU has no kernels for is left out there.
    for form in ("fp16", "fp16-packed", "bf16") if asked.device == "cuda" else ("fp32", "fp16"):
        yield lambda form=form: Ort(graphs, shape, form, model, asked.device)
    if asked.device == "cuda":
        yield lambda: Ort(graphs, shape, "fp16", model, asked.device, captured=True)
    if not asked.no_eager:
        yield lambda: Torch(copy.deepcopy(model), asked.device)


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
    if asked.tiny or candidate.few or (asked.no_eager and not candidate.captured):
        sizes = list(_compiled(asked))
    for rows, length in sizes:
        if time.monotonic() > deadline:
            report.unreached.append(f"{shape.name} {rows} x {length} {candidate.name}")
            continue
        found = timed(candidate.bound(feed_of([length] * rows, shape.vocab)), asked.device)
        seconds = (found.device or found.host) / 1e3
        peak = report.machine["matrix peak TFLOP/s"] * 1e12
        yield {
            "model": shape.name, "batch": rows, "length": length, "candidate": candidate.name,
            "device ms": found.device and round(found.device, 3), "host ms": round(found.host, 3),
            "texts/s": round(rows / found.host * 1e3),
            "of the peak": f"{shape.flops(rows, length) / seconds / peak:.1%}",
            "MB": round(max(0, used_bytes(asked.device) - before) / 1e6),
        }  # fmt: skip


def _ragged(
    report: Report, shape: Shape, candidate: Any, asked: argparse.Namespace, deadline: float, before: int
) -> Iterator[dict[str, Any]]:
    """Rows of some batches each, one after the other: milliseconds are of one of them."""
    from gpu.timing import timed, used_bytes

    for rows in (2,) if asked.tiny else RAGGED:
        if time.monotonic() > deadline:
            report.unreached.append(f"{shape.name} {rows} texts of real lengths, {candidate.name}")
            continue
        feeds = [feed_of(lengths, shape.vocab, _width(candidate, lengths)) for lengths in drawn(rows, DRAWS)]
        calls = [candidate.bound(feed) for feed in feeds]
        found = timed(lambda calls=calls: [call() for call in calls], asked.device)
        tokens = sum(int(feed["attention_mask"].sum()) for feed in feeds)
        padded = sum(feed["attention_mask"].size for feed in feeds)
        yield {
            "model": shape.name, "batch": rows, "tokens": round(tokens / DRAWS),
            "padding": f"{1 - tokens / padded:.0%}", "candidate": candidate.name,
            "device ms": found.device and round(found.device / DRAWS, 3), "host ms": round(found.host / DRAWS, 3),
            "texts/s": round(rows * DRAWS / found.host * 1e3),
            "MB": round(max(0, used_bytes(asked.device) - before) / 1e6),
        }  # fmt: skip


def _width(candidate: Any, lengths: Any) -> int:
    """What a batch is padded to: the longest, or the next length that edgebert's runtime captures."""
    from edgebert.runtimes.buckets import bucket

    longest = int(max(lengths))
    return bucket(len(lengths), longest, POSITIONS)[1] if candidate.captured else longest


if __name__ == "__main__":
    main()
