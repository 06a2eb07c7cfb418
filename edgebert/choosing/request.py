"""What is asked of a fit, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.choosing.budget import Budget
from edgebert.judging.latency import BenchConfig
from edgebert.shaping.depth import KEEP_FIRST

if TYPE_CHECKING:
    from edgebert.training.plan import TrainConfig


@dataclass(frozen=True)
class FitRequest:
    """What is asked for. ``layers`` None means every depth; at least one of ``budget`` and ``max_drop`` is set.

    ``keep`` says which layers a depth has, as ``layers_to_keep`` reads it. ``student`` and ``teacher`` are the
    training settings; ``init_from`` is a checkpoint whose layers the students start from instead of the model's
    own. ``remeasure`` is how often latencies are measured again while the machine is not calm.
    """

    model: str
    data: str
    folder: Path
    student: TrainConfig
    teacher: TrainConfig
    budget: Budget | None = None
    max_drop: float | None = None
    layers: tuple[int, ...] | None = None
    keep: str = KEEP_FIRST
    targets: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32", "int8")
    bench: BenchConfig = field(default_factory=BenchConfig)
    columns: dict[str, str] = field(default_factory=dict)
    init_from: str | None = None
    exhaustive: bool = False
    remeasure: int = 2
    seed: int = 0
    command: str = "edgebert fit"

    def teacher_key(self, depth: int) -> tuple[int, str, str]:
        """Layers, target and precision of the candidate that all others are compared with."""
        return depth, "cpu" if "cpu" in self.targets else self.targets[0], "fp32"
