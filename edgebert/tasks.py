"""What differs between tasks, as data: the model class, the graph's outputs, how answers are read, the metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgebert.errors import UsageError

Kind = Literal["label", "labels", "score", "tags", "answers", "text", "none"]
Choice = Literal["class", "each", "place"]
Head = Literal["sentence", "token", "span", "vocabulary", "none"]
Use = Literal["predict", "encode", "tag", "answer", "fill"]


@dataclass(frozen=True)
class Output:
    """One of the graph's outputs, float32: its name and its symbolic shape."""

    name: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """How the outputs of a task are read, learned and judged.

    ``name`` is transformers' ``problem_type`` where it has one. ``data`` is the kind of data it learns from
    (``text``: from the words of unlabelled text itself),
    ``metric`` what it is judged by, and ``choice`` what the outputs decide: the best of all classes, a yes or
    no for each, the best of all tokens for each output, or (None) nothing.
    """

    name: str
    data: Kind
    metric: str
    choice: Choice | None


@dataclass(frozen=True)
class Task:
    """One task. Its ``problems`` are told apart by the checkpoint's config; the first is the usual one.

    ``auto_class`` is the transformers class that builds the model, ``head_suffix`` how a checkpoint's
    ``architectures`` entry ends when it already carries the head. ``head`` is what stands on top of the encoder,
    ``use`` the method of :class:`~edgebert.serving.model.Model` that answers. ``compared`` is how many tokens of a
    text the parity ledger looks at, where all would be too much.
    """

    name: str
    auto_class: str
    head_suffix: str
    head: Head
    use: Use
    outputs: tuple[Output, ...]
    problems: tuple[Problem, ...]
    compared: int | None = None

    @property
    def has_labels(self) -> bool:
        """Whether the outputs are as wide as there are labels."""
        return self.outputs[0].shape[-1] == "labels"

    @property
    def pools(self) -> bool:
        """Whether answers are vectors, pooled outside the graph."""
        return self.use == "encode"

    @property
    def points(self) -> bool:
        """Whether answers point into the text, so that the places of tokens are needed."""
        return self.use in ("tag", "fill", "answer")

    @property
    def asks(self) -> bool:
        """Whether a text is a question with its context, and a long context is read in windows that overlap."""
        return self.use == "answer"

    def joined(self, found: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The graph's outputs as one array: the only one, or all of them side by side on a last axis."""
        arrays = [found[output.name] for output in self.outputs]
        return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)

    def problem(self, name: str | None) -> Problem | None:
        """The problem of that name, the usual one for None; None where there is no such problem."""
        if name is None:
            return self.problems[0]
        return next((problem for problem in self.problems if problem.name == name), None)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "text-classification",
            auto_class="AutoModelForSequenceClassification",
            head_suffix="ForSequenceClassification",
            head="sentence",
            use="predict",
            outputs=(Output("logits", ("batch", "labels")),),
            problems=(
                Problem("single_label_classification", data="label", metric="accuracy", choice="class"),
                Problem("multi_label_classification", data="labels", metric="micro_f1", choice="each"),
                Problem("regression", data="score", metric="spearman", choice=None),
            ),
        ),
        Task(
            "token-classification",
            auto_class="AutoModelForTokenClassification",
            head_suffix="ForTokenClassification",
            head="token",
            use="tag",
            outputs=(Output("logits", ("batch", "sequence", "labels")),),
            problems=(Problem("tagging", data="tags", metric="entity_f1", choice="class"),),
        ),
        Task(
            "question-answering",
            auto_class="AutoModelForQuestionAnswering",
            head_suffix="ForQuestionAnswering",
            head="span",
            use="answer",
            outputs=(Output("start_logits", ("batch", "sequence")), Output("end_logits", ("batch", "sequence"))),
            problems=(Problem("extraction", data="answers", metric="answer_f1", choice="place"),),
        ),
        Task(
            "fill-mask",
            auto_class="AutoModelForMaskedLM",
            head_suffix="ForMaskedLM",
            head="vocabulary",
            use="fill",
            outputs=(Output("logits", ("batch", "sequence", "vocab")),),
            problems=(Problem("masked_words", data="text", metric="masked_accuracy", choice="class"),),
            compared=4,
        ),
        Task(
            "feature-extraction",
            auto_class="AutoModel",
            head_suffix="Model",
            head="none",
            use="encode",
            outputs=(Output("last_hidden_state", ("batch", "sequence", "hidden")),),
            problems=(Problem("similarity", data="none", metric="spearman", choice=None),),
        ),
    )
}


def task_named(name: str) -> Task:
    """The task of that name. Raises UsageError listing those there are."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}", "--task", f"one of auto, {', '.join(TASKS)}")
    return TASKS[name]


def task_for(kind: Kind) -> tuple[Task, Problem]:
    """The task and the problem that labelled data of a kind is for. Raises ValueError for data without labels."""
    for task in TASKS.values():
        for problem in task.problems:
            if problem.data == kind != "none":
                return task, problem
    raise ValueError(f"no task learns from data of kind {kind}")
