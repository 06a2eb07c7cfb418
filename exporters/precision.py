"""Precisions that an engine computes in from the same graph: the graph is as it was, the manifest says which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import EnvironmentMissing
from edgebert.machine import has_bf16, isa


@dataclass(frozen=True)
class PrecisionConfig:
    """Settings of the stage: the target whose engine computes, and in what."""

    target: str
    precision: str


def set_precision(source: Artifact, config: PrecisionConfig, out: Path) -> Manifest:
    """Stage: the portable fp32 graph, to be computed in bf16.

    Raises EnvironmentMissing where this CPU does not compute in it: nothing could be verified here.
    """
    if not has_bf16():
        raise EnvironmentMissing(
            f"this CPU does not compute in {config.precision}", f"target {config.target}",
            "needs avx512_bf16 or amx_bf16; use fp32 or int8",
        )  # fmt: skip
    for name in source.manifest.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        source.copy(name, out / name)
    needs = {**source.manifest.needs, "isa": list(isa())}
    return replace(source.manifest, target=config.target, precision=config.precision, needs=needs)
