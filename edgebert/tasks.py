"""What differs between tasks, as data: the model class, the graph's output, the metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgebert.errors import UsageError


@dataclass(frozen=True)
class Task:
    """One task. ``output`` is the graph's output name, with its symbolic shape in ``output_shape``.

    ``auto_class`` is the transformers class that builds the model, ``head_suffix`` how a checkpoint's
    ``architectures`` entry ends when it already carries the head.
    """

    name: str
    auto_class: str
    head_suffix: str
    output: str
    output_shape: tuple[str, ...]
    metric: str
    has_labels: bool


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "text-classification",
            auto_class="AutoModelForSequenceClassification",
            head_suffix="ForSequenceClassification",
            output="logits",
            output_shape=("batch", "labels"),
            metric="accuracy",
            has_labels=True,
        ),
        Task(
            "feature-extraction",
            auto_class="AutoModel",
            head_suffix="Model",
            output="last_hidden_state",
            output_shape=("batch", "sequence", "hidden"),
            metric="spearman",
            has_labels=False,
        ),
    )
}


def task_named(name: str) -> Task:
    """The task of that name. Raises UsageError listing those there are."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}", "--task", f"one of auto, {', '.join(TASKS)}")
    return TASKS[name]
