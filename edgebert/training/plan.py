"""What one training run consists of: settings, checked, and rows, tokenized. Nothing is trained here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from edgebert.artifact import Architecture, Artifact, Manifest, problem_of, width_of
from edgebert.errors import InputError, UsageError
from edgebert.families import FAMILIES
from edgebert.stage import settings_of
from edgebert.strict_json import canonical_json
from edgebert.tasks import TASKS, Kind
from edgebert.tokenizer import mask_id, open_tokenizer
from edgebert.training.augment import variants
from edgebert.training.batches import Collator, LengthGrouped, tokenize
from edgebert.training.data import Data, match_labels, single_texts
from edgebert.training.objectives import Method, method_named
from edgebert.training.objectives.hidden import uniform_map
from edgebert.training.objectives.relations import teacher_layer
from edgebert.training.processes import check_share
from edgebert.training.rows import Row
from edgebert.training.targets import LABELLINGS, masked


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training run; the defaults are the distillation recipe, :func:`settled` fills in None.

    ``alpha`` weighs cross-entropy on the given labels beside the teacher's soft labels (T² · KL, counted
    once); without a teacher it has no effect. ``max_steps`` is a limit beside ``epochs``.
    ``dropout`` is the share of values that training drops: none of them while a teacher is learned from, unless asked
    for, and the checkpoint's own share (None to the end) where labels alone are, and by taggers.
    ``augment`` is how many variants of every text of train a student asks its teacher about beside it.
    ``exits`` are the depths that are trained together, for a method that does so.
    ``data`` and ``teacher`` are digests, kept for the history.
    """

    method: str = "hidden"
    epochs: float = 5.0
    max_steps: int | None = None
    train_batch_size: int = 32
    lr: float | None = None
    temperature: float = 2.0
    alpha: float = 0.3
    hidden_weight: float = 1.0
    max_length: int = 128
    seed: int = 0
    dropout: float | None = None
    augment: int = 0
    exits: tuple[int, ...] = ()
    data: str = ""
    teacher: str = ""


def teacher_recipe(hidden: int, labels: int) -> TrainConfig:
    """The recipe for a teacher ``hidden`` wide of so many labels, trained on the given labels alone.

    BERT's own (Devlin et al. 2018, appendix A.3); but a narrow encoder learns many classes by larger steps only:
    docs/decisions/009-many-classes-take-larger-steps.md has the measurements.
    """
    if hidden <= _NARROW and labels > _FEW:
        return TrainConfig(method="none", epochs=5.0, lr=2e-4)
    return TrainConfig(method="none", epochs=3.0, lr=5e-5)


def settled(config: TrainConfig, source: Artifact) -> TrainConfig:
    """The settings with a rate and a dropout, for the checkpoint that is trained, wherever they were not given.

    docs/decisions/026-students-drop-nothing-and-take-larger-steps.md has the measurements, 033 those of taggers, 035
    those of sentence encoders.
    """
    dropout = config.dropout
    lr = _rate(source.manifest) if config.lr is None else config.lr
    if dropout is None and method_named(config.method).needs_teacher and problem_of(source.manifest).data != "tags":
        dropout = 0.0
    return replace(config, lr=lr, dropout=dropout)


def _rate(manifest: Manifest) -> float:
    if manifest.architecture.hidden > _NARROW:
        return 1e-4
    if manifest.pooling is not None:
        return 1e-3
    return 3e-4 if len(manifest.labels) > _FEW else 1e-4


# Hidden width up to which an encoder counts as narrow, and labels up to which they are few.
_NARROW, _FEW = 512, 10


@dataclass(frozen=True)
class Plan:
    """Everything a run consists of, checked and ready. ``key`` tells it from every other run.

    ``rows`` are those of ``collate`` before they were tokenized, the first ``train_rows`` of them train, the rest dev;
    one that is read in windows stands there for each. Of train, the first ``given_rows`` were given, the rest are
    variants of them, whose labels mean nothing. ``states`` are the teacher's hidden states that the student's
    are compared with, ``attention`` the layers of student and teacher whose relations are; ``inner_width`` is how wide
    these are in the teacher.
    """

    key: str
    source: Artifact
    config: TrainConfig
    method: Method
    collate: Collator
    rows: Sequence[Row]
    train_rows: int
    given_rows: int
    sampler: LengthGrouped
    states: tuple[int, ...]
    attention: tuple[int, int] | None = None
    inner_width: int = 0

    @property
    def encoder(self) -> bool:
        """Whether a sentence encoder is trained, rather than a classifier."""
        return self.source.manifest.pooling is not None

    @property
    def metric(self) -> str:
        """What the best weights are chosen by; larger is better."""
        return metric_of(self.source)

    @property
    def kind(self) -> Kind:
        """The kind of labels that are learned."""
        return problem_of(self.source.manifest).data

    @property
    def rate(self) -> float:
        """The peak learning rate; a plan's settings are settled."""
        assert self.config.lr is not None
        return self.config.lr

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        per_epoch = math.ceil(self.train_rows / self.config.train_batch_size)
        steps = max(1, math.ceil(self.config.epochs * per_epoch))
        return min(steps, self.config.max_steps or steps)

    @property
    def dev(self) -> range:
        """The dev rows' numbers, after those of train."""
        return range(self.train_rows, len(self.collate.rows))

    def labelled(self, numbers: Tensor) -> Tensor | None:
        """Which rows, by their numbers [batch], have labels of their own; None: all of any batch."""
        if self.given_rows == self.train_rows:
            return None
        return (numbers < self.given_rows) | (numbers >= self.train_rows)

    def rows_compared(self) -> list[int]:
        """Numbers of the rows whose teacher outputs some step, or the evaluation, will ask for."""
        return sorted(self._rows_trained_on()) + (list(self.dev) if self.encoder else [])

    def inner_bytes(self) -> int:
        """Size in float16 of what goes on in the teacher's layers for all of :meth:`rows_compared`."""
        tokens = sum(len(self.collate.rows[index].ids) for index in self.rows_compared())
        # Queries, keys and values are three.
        return tokens * (len(self.states) + 3 * (self.attention is not None)) * self.inner_width * 2

    def answer_bytes(self) -> int:
        """Size of the teacher's answers of tokens for all of :meth:`rows_compared`; those of whole texts are small."""
        manifest = self.source.manifest
        if self.encoder or TASKS[manifest.task].outputs[0].shape[1] != "sequence":
            return 0
        return 4 * width_of(manifest) * sum(len(self.collate.rows[index].ids) for index in self.rows_compared())

    def _rows_trained_on(self) -> set[int]:
        seen: set[int] = set()
        left, epoch = self.steps, 0
        while left > 0 and len(seen) < self.train_rows:
            batches = self.sampler.batches(epoch)[:left]
            seen.update(index for batch in batches for index in batch)
            left, epoch = left - len(batches), epoch + 1
        return seen


def metric_of(source: Artifact) -> str:
    """What the best weights of a checkpoint are chosen by; larger is better."""
    return "negative loss" if source.manifest.pooling else problem_of(source.manifest).metric


def make_plan(source: Artifact, config: TrainConfig, data: Data, teacher: Artifact | None) -> Plan:
    """Check that settings, checkpoint, data and teacher fit together, and tokenize.

    Raises UsageError for a setting that means nothing, InputError for what does not fit.
    """
    method = _checked_method(config, source, teacher)
    config = settled(config, source)
    manifest = source.manifest
    matched = data if manifest.pooling else _labelled(data, manifest)
    problem = problem_of(manifest)
    alone = manifest.pooling or problem.data == "text"
    given, dev = (single_texts(part) if alone else part for part in (matched.train, matched.dev))
    train = [*given, *variants(given, config.augment, source, config.seed)]
    rows = [*train, *dev]
    encoded = tokenize(source, rows, min(config.max_length, manifest.max_length))
    rows = [rows[item.row] for item in encoded]
    labelling = None if manifest.pooling else LABELLINGS[problem.data]
    labels = labelling.tensor(rows, encoded, manifest.labels) if labelling else None
    if labelling and labelling.hides and labels is not None:
        encoded = masked(encoded, list(labels), mask_id(source, open_tokenizer(source)))
    # Rows that are read in windows are as many rows as windows.
    trained, as_given = (sum(item.row < len(part) for item in encoded) for part in (train, given))
    lengths = [len(item.ids) for item in encoded[:trained]]
    theirs = teacher.manifest.architecture if teacher and method.needs_teacher else None
    states, attention = _compared(method, manifest.architecture.layers, theirs)
    families = [manifest.architecture.family, *([theirs.family] if theirs else [])]
    return Plan(
        key=_key(source, config, data, teacher),
        source=source,
        config=config,
        method=method,
        collate=Collator(encoded, labels, 0, any(FAMILIES[family].token_types for family in families)),
        rows=rows,
        train_rows=trained,
        given_rows=as_given,
        sampler=LengthGrouped(lengths, config.train_batch_size, config.seed),
        states=states,
        attention=attention,
        inner_width=theirs.hidden if theirs else 0,
    )


def _compared(
    method: Method, layers: int, teacher: Architecture | None
) -> tuple[tuple[int, ...], tuple[int, int] | None]:
    """See :class:`Plan`: the states and the layers of student and teacher that a method compares."""
    if teacher is None:
        return (), None
    states = uniform_map(layers, teacher.layers) if method.needs_hidden else ()
    if method.together:
        # Whatever a depth ends with: in between, the depths have their layers in common.
        states = states[-1:]
    return states, (layers - 1, teacher_layer(teacher.layers)) if method.needs_relations else None


def check_settings(config: TrainConfig) -> Method:
    """The method that settings ask for. Raises UsageError for a setting that means nothing."""
    method = method_named(config.method)
    for name in ("epochs", "lr", "temperature", "train_batch_size", "max_length"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}", f"--{name.replace('_', '-')}", "give more than 0")
    if not 0 <= config.alpha <= 1:
        raise UsageError(f"alpha is {config.alpha}", "--alpha", "give a number from 0 to 1")
    check_share(config.train_batch_size)
    if config.dropout is not None and not 0 <= config.dropout < 1:
        raise UsageError(f"dropout is {config.dropout}", "--dropout", "give a number from 0 to less than 1")
    if config.max_steps is not None and config.max_steps < 1:
        raise UsageError(f"max_steps is {config.max_steps}", "--max-steps", "give at least 1")
    if config.augment < 0 or (config.augment and not method.needs_teacher):
        what = f"augment is {config.augment}, with method {config.method}"
        raise UsageError(what, "--augment", "give 0 or more, above 0 with a teacher: variants have no labels to learn")
    if method.together != bool(config.exits):
        remedy = "list depths below the model's own with --layers, or use another method"
        raise UsageError(f"{config.method} trains several depths at once", "--method", remedy)
    return method


def _checked_method(config: TrainConfig, source: Artifact, teacher: Artifact | None) -> Method:
    method = check_settings(config)
    if method.needs_teacher and teacher is None:
        raise InputError(
            f"method {config.method} needs a teacher", source.manifest.name, "give one, or use --method none"
        )
    if source.manifest.pooling is not None and not method.encoder_terms:
        remedy = "use a method with a teacher, such as hidden or relations"
        raise InputError("a sentence encoder learns only from a teacher", source.manifest.name, remedy)
    if method.needs_teacher and teacher is not None:
        _check_pair(source, teacher, method)
    check_task(config, source)
    return method


def check_task(config: TrainConfig, source: Artifact) -> None:
    """Raise InputError for settings that a checkpoint's task has no use for."""
    if TASKS[source.manifest.task].head != "vocabulary":
        return
    if config.augment:
        what = "masked models learn from texts as they stand, with tokens hidden"
        raise InputError(what, source.manifest.name, "leave --augment away")
    if method_named(config.method).together:
        what = "depths of a masked model share the table of words, so that none has a head of its own"
        raise InputError(what, source.manifest.name, "train them one by one, with --method hidden")


def _check_pair(source: Artifact, teacher: Artifact, method: Method) -> None:
    ours, theirs = source.manifest, teacher.manifest
    where = f"{ours.name} and its teacher {theirs.name}"
    if ours.task != theirs.task:
        raise InputError(f"tasks differ: {ours.task} and {theirs.task}", where, "give a teacher for the same task")
    if ours.labels != theirs.labels:
        raise InputError("labels differ, or their order", where, "give a teacher with the same labels")
    if ours.architecture.vocab != theirs.architecture.vocab:
        what = f"vocabularies differ: {ours.architecture.vocab} and {theirs.architecture.vocab} tokens"
        raise InputError(what, where, "give a teacher with the same tokenizer")
    widths = ours.architecture.hidden, theirs.architecture.hidden
    if widths[0] != widths[1] and (method.needs_hidden or (ours.pooling and not method.widths_differ)):
        what = f"widths differ: {widths[0]} and {widths[1]}"
        raise InputError(what, where, "use --method relations, for a classifier also --method logits")


def _labelled(data: Data, manifest: Manifest) -> Data:
    """The data in the checkpoint's labels. Raises InputError where they are others."""
    problem = problem_of(manifest)
    if problem.data == "text":
        return data
    if data.kind != problem.data:
        what = _OTHERWISE[data.kind]
        raise InputError(f"{what}, for {problem.name}", data.name, "give data with labels of that kind")
    matched = match_labels(data, manifest.labels, problem.data)
    if matched is None:
        theirs, ours = ", ".join(data.labels[:3]), ", ".join(manifest.labels[:3])
        what = f"labels of the data ({theirs}, ...) are not those of the checkpoint ({ours}, ...)"
        raise InputError(what, data.name, "give a checkpoint with these labels, or one without a head")
    return matched


_OTHERWISE: Mapping[Kind, str] = {
    "none": "no labels to train on",
    "label": "class labels",
    "labels": "lists of labels",
    "score": "scores",
    "tags": "tags of words",
    "answers": "answers to questions",
    "text": "unlabelled text",
}


def _key(source: Artifact, config: TrainConfig, data: Data, teacher: Artifact | None) -> str:
    """What a work folder belongs to: a change in any of it starts afresh."""
    parts = [source.digest, settings_of(config), data.digest, teacher.digest if teacher else ""]
    return hashlib.sha256(canonical_json(parts)).hexdigest()
