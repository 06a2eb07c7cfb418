"""TensorRT-RTX engines built without a GPU: every family, precision and depth, for three compute capabilities.

    python benchmarks/rtx_builds.py -o docs/results/rtx_builds.md

Models have random weights and are tiny, but for one of bert-base's shape. Nothing is executed on a GPU: the numbers are
seconds and bytes of building, and how far the graph that went in is from PyTorch on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import heading

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import EdgebertError
from edgebert.profiles import EngineRequest, Profile

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import tiny

CAPABILITIES = ("8.6", "8.9", "12.0")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEPTHS = (1, 3, 6)
PROFILE = Profile((1, 8), (4, 32), (8, 64))
BASE = tiny.Size(hidden=768, heads=12, ffn=3072, max_length=512, embedding=768)
WORDS = [f"word{number}" for number in range(30000)]


def main() -> None:
    """Print the table, and write it where ``-o`` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, help="also write the page here")
    parser.add_argument("--family", default=",".join(tiny.FAMILIES), help="families, comma-separated")
    parser.add_argument("--layers", default=",".join(map(str, DEPTHS)), help="depths, comma-separated")
    parser.add_argument("--base", action="store_true", help="also a model of bert-base's shape, for 8.9")
    asked = parser.parse_args()
    depths = [int(word) for word in asked.layers.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for family in asked.family.split(",") for row in _tiny(Path(folder), family, depths)]
        rows += _base(Path(folder)) if asked.base else []
    head = "| model | layers | precision | engines | MB each | seconds each | graph's max error | its tolerance |"
    text = "\n".join([heading("TensorRT-RTX engines, built without a GPU"), head, "|---" * 8 + "|", *rows, ""])
    failed = sum("failed" in row for row in rows)
    text += f"\n{len(rows)} exports, {failed} failed. No engine was executed: a graph's error is that of the CPU.\n"
    print(text, end="")
    if asked.out:
        asked.out.write_text(text, "utf-8")


def _tiny(root: Path, family: str, depths: Sequence[int]) -> Iterator[str]:
    model = tiny.checkpoint(root / family, family, layers=max(depths))
    for depth in depths:
        for precision in PRECISIONS:
            yield _row(root, model, family, depth, precision, EngineRequest(CAPABILITIES, PROFILE))


def _base(root: Path) -> Iterator[str]:
    model = tiny.checkpoint(root / "bert-base", layers=12, size=BASE, words=WORDS)
    for precision in PRECISIONS:
        yield _row(
            root, model, "bert-base", 12, precision, EngineRequest(("8.9",), Profile((1, 8), (1, 128), (2, 384)))
        )


def _row(root: Path, model: Path, name: str, depth: int, precision: str, request: EngineRequest) -> str:
    from unittest import mock

    from edgebert.exporters import trt_engine

    taken: list[float] = []
    real = trt_engine.build_plan

    def timed(*arguments: object) -> bytes:
        start = time.perf_counter()
        plan = real(*arguments)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)
        return plan

    out = root / f"{name}-{depth}-{precision}"
    try:
        with mock.patch.object(trt_engine, "build_plan", timed):
            (made,) = build.export(
                str(model), depth, "trt-rtx", precision, out, quant_drop=100.0, engine=request
            )  # fmt: skip
    except EdgebertError as error:
        return f"| {name} | {depth} | {precision} | failed: {error} | | | | |"
    return f"| {name} | {depth} | {precision} | {_cells(made, taken)} |"


def _cells(made: Artifact, taken: Sequence[float]) -> str:
    plans = [entry.bytes for name, entry in made.manifest.files.items() if name.endswith(".plan")]
    line = next(line for line in reversed(made.manifest.checks["parity"]) if not line["name"].startswith("corners"))
    cells = [
        str(len(plans)), f"{sum(plans) / len(plans) / 1e6:.1f}", f"{sum(taken) / len(taken):.2f}",
        f"{line['max_abs_error']:.1e}", f"{line['tolerance']:.1e}",
    ]  # fmt: skip
    return " | ".join(cells)


if __name__ == "__main__":
    main()
