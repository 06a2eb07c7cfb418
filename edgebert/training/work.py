"""The folder a training run works in: what a killed run leaves so that the same run can go on.

It holds the Trainer's own checkpoints, the best weights so far, and what the teacher said.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file, save_model

from edgebert.errors import UsageError
from edgebert.stage import bytes_below, recover, require_space, write_json

_RUN = "run.json"
_SIZES = "sizes.json"


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: the metric (larger is better) and the step it was reached at."""

    value: float
    step: int


@dataclass(frozen=True)
class Work:
    """A work folder that belongs to one run, told by its key."""

    path: Path

    @classmethod
    def open(cls, path: Path, key: str) -> Work:
        """The folder, emptied of another run's files. Raises UsageError where it holds anything else."""
        run = path / _RUN
        if path.is_dir():
            recover(run)
        if path.is_dir() and any(path.iterdir()) and not run.is_file():
            raise UsageError("folder is not empty", str(path), "choose another folder to train in")
        if run.is_file() and _key_in(run) != key:
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(run, {"key": key})
        return cls(path)

    def require_space(self, needed: int) -> None:
        """Raise EnvironmentMissing unless ``needed`` bytes are free (what is there already counts)."""
        require_space(self.path, needed, "training", bytes_below(self.path))

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint, or None; torn ones are removed."""
        found: list[tuple[int, Path]] = []
        for folder in self.path.glob("checkpoint-*"):
            if _whole(folder):
                found.append((int(folder.name.rpartition("-")[2]), folder))
            else:
                shutil.rmtree(folder)
        return max(found, default=None)

    def seal(self, step: int) -> None:
        """Mark the checkpoint of that step as whole."""
        folder = self.path / f"checkpoint-{step}"
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
        write_json(folder / _SIZES, sizes)

    def offer(self, weights: torch.nn.Module | dict[str, torch.Tensor], found: Best) -> bool:
        """Keep the weights, a module's or plain ones, unless better ones are kept; a tie goes to the later."""
        best = self.best()
        if best is not None and best.value > found.value:
            return False
        temporary, metadata = self._best.with_suffix(".tmp"), {"value": repr(found.value), "step": str(found.step)}
        if isinstance(weights, torch.nn.Module):
            save_model(weights, str(temporary), metadata=metadata)
        else:
            save_file(weights, temporary, metadata=metadata)
        temporary.replace(self._best)
        return True

    def best(self) -> Best | None:
        """The best evaluation kept, or None before the first."""
        try:
            with safe_open(self._best, "pt") as file:
                metadata = file.metadata()
        except (FileNotFoundError, SafetensorError):
            return None
        return Best(float(metadata["value"]), int(metadata["step"]))

    def best_value(self) -> float:
        """The metric of the best evaluation kept; less than any before the first."""
        best = self.best()
        return -math.inf if best is None else best.value

    def load_best(self, module: torch.nn.Module) -> None:
        """Put the best weights into the module."""
        load_model(module, self._best)

    @property
    def _best(self) -> Path:
        return self.path / "best.safetensors"


def _key_in(run: Path) -> str | None:
    try:
        return str(json.loads(run.read_text("utf-8"))["key"])
    except (ValueError, KeyError, TypeError):
        return None


def _whole(folder: Path) -> bool:
    """Whether every file is there with the size it had when the checkpoint was sealed."""
    try:
        sizes = json.loads((folder / _SIZES).read_text("utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
