"""The last stage: what makes an artifact complete by itself. Golden vectors, the parity ledger, a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.artifact import Artifact, Manifest
from edgebert.tasks import TASKS

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class SealConfig:
    """Settings of the last stage: the target the artifact is for, where its test texts came from, its int8 scheme."""

    target: str
    precision: str
    texts: str
    scheme: str = ""


def seal(
    source: Artifact,
    config: SealConfig,
    out: Path,
    *,
    ledger: Sequence[Mapping[str, Any]],
    golden: Mapping[str, Any],
    schemes: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """Stage: copy the built files and add what proves them.

    ``ledger`` holds the lines of the parity ledger, ``golden`` a few token arrays (``0.input_ids``, ...) with
    the reference's outputs (``0.output``). ``schemes`` are those that were tried, where there was a choice.
    """
    for name in source.manifest.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        source.copy(name, out / name)
    np.savez(out / GOLDEN, **golden)
    checks = {**source.manifest.checks, "parity": [dict(line) for line in ledger]}
    if schemes:
        checks["schemes"] = [dict(trial) for trial in schemes]
    manifest = replace(source.manifest, target=config.target, precision=config.precision, checks=checks)
    (out / "README.md").write_text(_card(manifest, config), "utf-8")
    return manifest


def _card(manifest: Manifest, config: SealConfig) -> str:
    shape, task = manifest.architecture, TASKS[manifest.task]
    example = '("a question", "the text that answers it")' if task.asks else '"some text"'
    lines = [
        f"# {manifest.name}, {shape.layers} layers, {config.precision}",
        "",
        f"{manifest.task} for target `{config.target}`: {shape.family}, {shape.layers} layers, hidden {shape.hidden}, "
        f"{shape.heads} heads, FFN {shape.ffn}, {shape.vocab} tokens; reads up to {manifest.max_length} tokens.",
        "",
        f"Verified on {config.texts}:",
        "",
        "| step | max error | tolerance | cosine | same label |",
        "|---|---|---|---|---|",
    ]
    for line in manifest.checks["parity"]:
        label = "" if line["label_agreement"] is None else f"{line['label_agreement']:.1%}"
        numbers = f"{line['max_abs_error']:.2e} | {line['tolerance']:.2e} | {line['cosine']:.6f}"
        lines.append(f"| {line['name']} | {numbers} | {label} |")
    lines += [
        "",
        "```python",
        "import edgebert",
        f'edgebert.load("<this folder>").{task.use}([{example}])',
        "```",
        "",
    ]
    return "\n".join(lines)
