"""What is asked of a fit, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.artifact import Artifact
from edgebert.choosing.budget import Budget
from edgebert.judging.latency import BenchConfig
from edgebert.shaping.depth import students_keep
from edgebert.tasks import Kind
from edgebert.tolerances import QUANT_DROP

if TYPE_CHECKING:
    from edgebert.training.plan import TrainConfig


@dataclass(frozen=True)
class FitRequest:
    """What is asked for. ``layers`` None means every depth; at least one of ``budget`` and ``max_drop`` is set.

    ``keep`` says which layers a depth has, as ``layers_to_keep`` reads it; None is what students keep. ``student``
    are the training settings of students, ``teacher`` those in which the teacher's differ from its recipe;
    ``init_from`` is a checkpoint whose layers the students start from instead of the model's own. ``quant_drop`` is
    how many points 8 bits may lose on dev. ``remeasure`` is how often latencies are measured again while the machine
    is not calm.
    """

    model: str
    data: str
    folder: Path
    student: TrainConfig
    teacher: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    max_drop: float | None = None
    layers: tuple[int, ...] | None = None
    keep: str | None = None
    targets: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32", "int8")
    bench: BenchConfig = field(default_factory=BenchConfig)
    columns: dict[str, str] = field(default_factory=dict)
    init_from: str | None = None
    quant_drop: float = QUANT_DROP
    exhaustive: bool = False
    remeasure: int = 2
    seed: int = 0
    command: str = "edgebert fit"

    def teacher_config(self, start: Artifact, labels: Sequence[str]) -> TrainConfig:
        """The training settings of a teacher that learns these labels from the checkpoint ``start``."""
        from edgebert.training.plan import teacher_recipe

        return replace(teacher_recipe(start.manifest.architecture.hidden, len(labels)), **self.teacher)

    def for_depths(self, layers: Sequence[int], depth: int, kind: Kind) -> FitRequest:
        """The request for a model of ``depth`` layers: a method that trains depths together gets those below it.

        ``keep`` is then settled, also by the ``kind`` of the data. Raises UsageError for an unknown method.
        """
        from edgebert.shaping.checkpoint import open_checkpoint
        from edgebert.training.objectives import method_named

        together = method_named(self.student.method).together
        exits = tuple(sorted({below for below in layers if below < depth})) if together else ()
        base = open_checkpoint(self.init_from).manifest.architecture.layers if self.init_from else depth
        # Layers of a checkpoint of another depth do not correspond, unless they are its lowest.
        keep = students_keep(self.keep, kind, nested=bool(exits) or base != depth)
        return replace(self, student=replace(self.student, exits=exits), keep=keep)

    @property
    def cut(self) -> str:
        """``keep`` as :meth:`for_depths` settled it."""
        assert self.keep is not None, "settled by then"
        return self.keep

    def teacher_key(self, depth: int) -> tuple[int, str, str]:
        """Layers, target and precision of the candidate that all others are compared with."""
        return depth, "cpu" if "cpu" in self.targets else self.targets[0], "fp32"
