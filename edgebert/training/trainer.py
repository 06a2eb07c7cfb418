"""The stage that trains: fine-tuning and distillation on transformers' Trainer, resumable, best on dev.

What a run consists of is decided in ``plan.py``, what the student is asked to match in ``objectives/``,
when to save and report in ``clock.py``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from edgebert import machine, ranks
from edgebert.aggregates import AGGREGATES, mean
from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.families import FAMILIES
from edgebert.progress import bar
from edgebert.shaping.checkpoint import load_module, quiet_transformers, save_module
from edgebert.tasks import TASKS
from edgebert.training.batches import Indices, LengthGrouped, pad_id_of
from edgebert.training.clock import Clock
from edgebert.training.data import Data
from edgebert.training.dropout import set_dropout
from edgebert.training.exits import answers_of, balanced, depth_work, take_heads
from edgebert.training.objectives.base import Batch, Weights, required
from edgebert.training.objectives.losses import LOSSES
from edgebert.training.plan import Plan, TrainConfig, make_plan, metric_of
from edgebert.training.processes import average_gradients, in_turn
from edgebert.training.table import train_used_rows
from edgebert.training.targets import LABELLINGS, Answered, surest
from edgebert.training.teacher import Inputs, LiveTargets, Targets, keep, may_keep, no_targets
from edgebert.training.work import Work

__all__ = ["TrainConfig", "train"]

log = logging.getLogger("edgebert")
_WARM_UP = 0.1
_WEIGHT_DECAY = 0.01
# Of the epochs, those in which the depths of one run train alone: docs/decisions/022.
_ALONE = 0.2
_EVAL_BATCH = 64
# Weights and Adam's two moments: two checkpoints and one being written, and the best weights twice.
_MODELS_ON_DISK = 3 * 3 + 2


def train(
    source: Artifact,
    config: TrainConfig,
    out: Path,
    *,
    data: Data,
    teacher: Artifact | None,
    work: Path,
    save_seconds: float = 30.0,
) -> Manifest:
    """Stage: train a checkpoint and write the weights that did best on dev.

    A classifier learns the labels and, with a teacher, its logits and hidden states; a sentence encoder
    learns the teacher's sentence vectors and hidden states from the texts alone. ``work`` belongs to this
    very run: an interrupted one goes on from it; who publishes ``out`` removes it then. Raises InputError where
    data, teacher and checkpoint do not fit together, CheckFailed when the loss diverges,
    EnvironmentMissing where the disk is too full.
    """
    plan = make_plan(source, config, data, teacher)
    return written(source, _trained(plan, teacher, work, save_seconds), out)


def help_train(
    source: Artifact,
    config: TrainConfig,
    *,
    data: Data,
    teacher: Artifact | None,
    work: Path,
    save_seconds: float = 30.0,
) -> None:
    """Take part in the :func:`train` of the first of several processes, which writes what comes out."""
    _trained(make_plan(source, config, data, teacher), teacher, work, save_seconds)


def train_exits(
    sources: Mapping[int, Artifact],
    config: TrainConfig,
    *,
    data: Data,
    teacher: Artifact | None,
    work: Path,
    save_seconds: float = 30.0,
) -> dict[int, Work]:
    """Train checkpoints of the depths ``config.exits``, which share their layers, in one run; see :func:`train`.

    Together for most of the epochs, then each but the deepest alone: what all share is made for that one, and its own
    epochs cost most. Where the best weights of each depth are kept, for :func:`written`. A run that is done is not
    repeated.
    """
    if set(sources) != set(config.exits):
        raise ValueError("a checkpoint for each exit")
    together = replace(config, epochs=config.epochs * (1 - _ALONE)) if len(sources) > 1 else config
    plan = make_plan(sources[max(sources)], together, data, teacher)
    folder = _trained(plan, teacher, work, save_seconds)
    found = {max(sources): depth_work(folder, max(sources))}
    for depth in sorted(sources)[:-1]:
        log.info("training %d layers alone", depth)
        source = sources[depth]
        epochs = config.epochs * share_alone(depth, sources)
        alone = make_plan(source, replace(config, epochs=epochs, exits=(depth,)), data, teacher)
        # The teacher says the same again where it is asked for the same rows.
        kept = folder.path if alone.rows_compared() == plan.rows_compared() else None
        first, own = depth_work(folder, depth), work / f"alone-{depth}"
        last = _trained(alone, teacher, own, save_seconds, begin=first, kept=kept)
        found[depth] = max(first, depth_work(last, depth), key=lambda one: one.best_value())
    return found


def share_alone(depth: int, depths: Iterable[int]) -> float:
    """The share of the epochs that a depth of several trains alone: so that each but the deepest takes as long.

    The shallowest lose most by sharing, and their epochs cost least.
    """
    others = sorted(depths)[:-1]
    return _ALONE * sum(others) / len(others) / depth


def _trained(
    plan: Plan,
    teacher: Artifact | None,
    work: Path,
    save_seconds: float,
    *,
    begin: Work | None = None,
    kept: Path | None = None,
) -> Work:
    """Train by a plan in a folder; from the best weights of another, ``begin``, where given.

    ``kept`` is where another run keeps what the teacher said of the same rows.
    """
    with _silence():
        folder = in_turn(lambda: Work.open(work, plan.key) if ranks.first() else Work(work))
        quiet_transformers()
        torch.set_num_threads(min(torch.get_num_threads(), machine.allowed_threads()))
        module = _module_of(plan, teacher)
        if begin is not None:
            begin.load_best(module)
        folder.require_space(_bytes_on_disk(plan, module))
        _fit(plan, module, teacher, folder, save_seconds, kept or folder.path)
    return folder


def _module_of(plan: Plan, teacher: Artifact | None) -> torch.nn.Module:
    """What is trained, as it begins."""
    module, ours = load_module(plan.source, for_training=True), plan.source.manifest
    related = teacher is not None and teacher.manifest.architecture.family == ours.architecture.family
    if plan.method.together and teacher is not None and related and not plan.encoder:
        take_heads(module, load_module(teacher, for_training=True), FAMILIES[ours.architecture.family])
    if plan.config.dropout is not None:
        set_dropout(module, plan.config.dropout)
    if TASKS[ours.task].head != "vocabulary":
        train_used_rows(module, (row.ids for row in plan.collate.rows), pad_id_of(module))
    return module


def written(source: Artifact, work: Work, out: Path) -> Manifest:
    """Write the best weights kept in ``work`` as a checkpoint of the shape of ``source``."""
    with _silence():
        module = load_module(source, for_training=True)
        work.load_best(module)
        save_module(module, source, out)
    best = work.best()
    checks = {
        "split": "dev",
        "metric": metric_of(source),
        "value": best and best.value,
        "step": best and best.step,
    }
    return replace(source.manifest, checks={**source.manifest.checks, "training": checks})


def _bytes_on_disk(plan: Plan, module: torch.nn.Module) -> int:
    # Not of the parameters: the table of words is saved whole.
    weights = sum(int(tensor.nbytes) for tensor in module.state_dict().values())
    models = _MODELS_ON_DISK + len(plan.config.exits)
    return models * weights + (plan.inner_bytes() if _keeps_hidden(plan) else 0)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the libraries' warnings, meant for their developers, off our users' terminals."""
    library = logging.getLogger("accelerate")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.setLevel(level)


def _fit(
    plan: Plan, module: torch.nn.Module, teacher: Artifact | None, work: Work, save_seconds: float, kept: Path
) -> None:
    """Train the module in place; the best weights end up in ``work``."""
    latest = in_turn(work.latest)
    if latest is not None:
        log.info("resuming at step %d of %d", latest[0], plan.steps)
        # Trained and evaluated: the Trainer would add a step where the last epoch is not a whole one.
        if latest[0] >= plan.steps:
            return
    args = _arguments(plan, work)
    clock = Clock(work, plan.metric, save_seconds)
    plan = replace(plan, collate=replace(plan.collate, pad_id=pad_id_of(module)))
    trainer = _Trainer(plan, module, _targets(plan, teacher, kept, args), work, args, clock)
    try:
        trainer.train(resume_from_checkpoint=None if latest is None else str(latest[1]))
    finally:
        clock.close()


def _arguments(plan: Plan, work: Work) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(work.path),
        use_cpu=not cuda,
        bf16=torch.cuda.is_bf16_supported() if cuda else machine.has_bf16(),
        max_steps=plan.steps,
        # Of all processes together: they share each batch.
        per_device_train_batch_size=plan.config.train_batch_size,
        accelerator_config={"split_batches": ranks.count() > 1},
        learning_rate=plan.rate,
        lr_scheduler_type="linear",
        warmup_steps=_WARM_UP,
        weight_decay=_WEIGHT_DECAY,
        # Ten times faster than the other forms of AdamW on a CPU too.
        optim="adamw_torch_fused",
        seed=plan.config.seed,
        # True doubles loss and gradients of a classifier with two ranks.
        average_tokens_across_devices=False,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        # The clock decides.
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        save_total_limit=2,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )


def _targets(plan: Plan, teacher: Artifact | None, folder: Path, args: TrainingArguments) -> Targets:
    """What the student is compared with: kept in memory where it fits, else computed in every step."""
    if not plan.method.needs_teacher or teacher is None:
        return no_targets
    module = load_module(teacher, for_training=True).to(args.device)
    by_token = TASKS[teacher.manifest.task].outputs[0].shape[1] == "sequence" and not plan.encoder
    layer = plan.attention and plan.attention[1]
    live = LiveTargets(module, teacher.manifest.pooling, plan.states, bool(args.bf16), by_token, layer)
    if not _keeps_hidden(plan):
        return live
    return keep(live, plan.collate, plan.rows_compared(), folder, lambda inputs: _to(inputs, args.device))


def _keeps_hidden(plan: Plan) -> bool:
    # A GPU computes hidden states faster than it is handed them.
    if plan.inner_bytes() and torch.cuda.is_available():
        return False
    return may_keep(plan.inner_bytes() + plan.answer_bytes())


def _to(inputs: Inputs, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


class _Trainer(Trainer):
    """transformers' Trainer with our loss, our batches and our evaluation."""

    def __init__(
        self,
        plan: Plan,
        module: torch.nn.Module,
        targets: Targets,
        work: Work,
        args: TrainingArguments,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._module = module
        self._targets = targets
        self._work = work
        self._answers = answers_of(plan, module)
        config = plan.config
        labels = config.alpha if plan.method.needs_teacher else 1.0
        self._weights = Weights(labels, config.hidden_weight, config.temperature)
        super().__init__(
            model=module,
            args=args,
            train_dataset=Indices(plan.train_rows),
            data_collator=plan.collate,
            callbacks=[clock],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return self._plan.sampler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss of one batch: the sum of the method's terms, of several depths their mean, balanced."""
        # Not ``model``: for several processes it is a wrapper that knows one forward pass a step.
        losses = torch.stack([self._loss(batch) for batch in self._run(self._module, inputs)])
        return losses[0] if len(losses) == 1 else balanced(losses)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One step's gradients, of all processes."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        average_gradients(self._module)
        return loss

    def _run(self, model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> list[Batch]:
        teacher, mask, labels = self._targets(inputs), inputs["attention_mask"], inputs.get("labels")
        losses = LOSSES["label" if self._plan.encoder else self._plan.kind]
        labelled = self._plan.labelled(inputs["rows"])
        return [Batch(answer, teacher, mask, labels, losses, labelled) for answer in self._answers(model, inputs)]

    def _loss(self, batch: Batch) -> Tensor:
        terms = self._plan.method.encoder_terms if self._plan.encoder else self._plan.method.terms
        return torch.stack([term(batch, self._weights) for term in terms]).sum()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the dev rows: the task's metric, or the loss (negated) of a sentence encoder."""
        values, step = self._scores(), self.state.global_step
        if not np.isfinite(values).all():
            what = f"training diverged (dev {self._plan.metric} {values})"
            raise CheckFailed(what, f"step {step}", "lower --lr")
        # Every process has the same weights and comes to the same values.
        better = ranks.first() and self._answers.keep(self._module, self._work, values, step)
        metrics = {f"{metric_key_prefix}_{self._plan.metric}": float(np.mean(values)), "eval_better": float(better)}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _scores(self) -> list[float]:
        """How well each depth does that answers."""
        # Preparing for training has wrapped its forward: it computes in bfloat16 where training does.
        self._module.eval()
        rows = self._plan.collate.rows
        order = sorted(self._plan.dev, key=lambda index: len(rows[index].ids))
        batches = [order[start : start + _EVAL_BATCH] for start in range(0, len(order), _EVAL_BATCH)]
        counts = [self._counts(_to(self._plan.collate(indices), self.args.device)) for indices in bar(batches, "dev")]
        aggregate = mean if self._plan.encoder else AGGREGATES[self._plan.metric]
        owners = [rows[index].row for index in order]
        texts = [surest(torch.cat(of_one), owners) for of_one in zip(*counts, strict=True)]
        return [float(aggregate(of_one.double().numpy()[None])[0]) for of_one in texts]

    def _counts(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What the metric of each depth is computed from, [batch, columns]."""
        if self._plan.encoder:
            size = len(inputs["rows"])
            return [-self._loss(batch).expand(size, 1).cpu() for batch in self._run(self._module, inputs)]
        return [self._count(required(found.logits), inputs).cpu() for found in self._answers(self._module, inputs)]

    def _count(self, logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        names, numbers = self._plan.source.manifest.labels, inputs["rows"].tolist()
        rows, encoded = ([part[index] for index in numbers] for part in (self._plan.rows, self._plan.collate.rows))
        return LABELLINGS[self._plan.kind].count(Answered(logits, inputs["labels"], names, rows, encoded))
