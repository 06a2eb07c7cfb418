"""What serving benchmarks find below one folder: an environment for each library, and the artifacts that all read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from edgebert import build

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEBERT_SHARED") or ROOT.parent / "shared")
# The checkpoint that each task's artifact is made of.
MODELS = {"embed": "minilm", "predict": str(SHARED / "models" / "minilm-l6-sst2")}


def environments(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The interpreter of each library's environment; those that are not there are told and left out."""
    found = {name: (folder / name / "bin" / "python").absolute() for name in names}
    for name, python in found.items():
        if not python.exists():
            print(f"no environment of {name} at {python}: make serving-peers", file=sys.stderr)
    return {name: python for name, python in found.items() if python.exists()}


def artifact(folder: Path, task: str) -> Path:
    """The int8 artifact of a task, in the scheme that needs no calibration; made where it is missing."""
    out = folder / "artifacts" / task
    for manifest in out.glob("*/edgebert.json"):
        return manifest.parent.resolve()
    return build.export(MODELS[task], precision="int8-dynamic", out=out)[0].path.resolve()
