"""The last stage: what makes an artifact complete by itself. Golden vectors, the parity ledger, a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.artifact import Artifact, Manifest
from edgebert.tasks import TASKS

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class SealConfig:
    """Settings of the last stage: the target the artifact is for, where its test texts came from, its 8-bit scheme."""

    target: str
    precision: str
    texts: str
    scheme: str = ""


def seal(
    source: Artifact,
    config: SealConfig,
    out: Path,
    *,
    checks: Mapping[str, Any],
    golden: Mapping[str, Any],
) -> Manifest:
    """Stage: copy the built files and add what proves them.

    ``checks`` are what was found, the lines of the ledger as ``parity`` among it; ``golden`` holds a few token arrays
    (``0.input_ids``, ...) with the reference's outputs (``0.output``) and the artifact's own (``0.answer``).
    """
    for name in source.manifest.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        source.copy(name, out / name)
    np.savez(out / GOLDEN, **golden)
    checks = {**source.manifest.checks, **checks}
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
        *_loss(manifest),
        *_invariance(manifest),
        "",
        "```python",
        "import edgebert",
        f'edgebert.load("<this folder>").{task.use}([{example}])',
        "```",
        "",
    ]
    return "\n".join(lines)


def _loss(manifest: Manifest) -> list[str]:
    """What 8 bits cost on dev, which modules stay in float, and why."""
    lines, eight = [], manifest.precision.partition("-")[0]
    if loss := manifest.checks.get("loss"):
        interval = f"({loss['low']:+.2f} to {loss['high']:+.2f})"
        moved = f"{loss['points']:+.2f} points {interval}"
        lines += ["", f"On dev, {eight} moves {loss['metric']} by {moved} against fp32."]
    if excluded := manifest.checks.get("excluded"):
        lines += ["", f"These stay in float, since all of {eight} {excluded['because']}:", ""]
        lines += [
            f"- `{each['module']}` (alone in {eight}: mean error {each['mean_abs_error']:.2e})"
            for each in excluded["modules"]
        ]
    return lines


def _invariance(manifest: Manifest) -> list[str]:
    """What a text's answer owes to its surroundings."""
    found = manifest.checks.get("invariance")
    if found is None:
        return []
    return [
        "",
        f"Padding moves a text's outputs by at most {found['padding']:.1e}, other texts in its batch by at most "
        f"{found['neighbours']:.1e} more (outputs are up to {found['largest']:.2g}).",
    ]
