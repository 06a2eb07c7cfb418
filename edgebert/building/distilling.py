"""Distilling: checkpoints that answer the data's labels, and students of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert import stage
from edgebert.artifact import Artifact, problem_of
from edgebert.building.exporting import Exporter
from edgebert.building.places import bytes_needed, check_output, depth_name, workplace
from edgebert.building.resizing import kept_layers
from edgebert.errors import UsageError
from edgebert.machine import file_name
from edgebert.shaping.checkpoint import MODULES, HeadConfig, add_head, open_checkpoint
from edgebert.shaping.depth import KEEP_FIRST, check_keep
from edgebert.tasks import task_for
from edgebert.training.data import Data, match_labels, read

if TYPE_CHECKING:
    from edgebert.training.importance import Importance
    from edgebert.training.trainer import TrainConfig

log = logging.getLogger("edgebert")

# What the only label of a regression is called.
_SCORE = "score"


def learns_labels(source: Artifact, data: Data) -> bool:
    """Whether the data's labels are what a model of ``source`` is to answer.

    Unlabelled text is for encoders. So are rated pairs, where the checkpoint is a sentence encoder: it is judged
    by them, and learns from a teacher.
    """
    rated = data.kind == "score" and data.pair and source.has(MODULES)
    return data.kind != "none" and not rated


def with_head(model: str, data: Data, out: Path, seed: int = 0) -> tuple[Artifact, Data, bool]:
    """A checkpoint with a head for the data's labels, the data in its terms, and whether it was trained before.

    A checkpoint fine-tuned for these labels is taken as it is; any other gets a fresh head at ``out``.
    """
    source = open_checkpoint(model)
    kind = problem_of(source.manifest).data
    matched = match_labels(data, source.manifest.labels, kind) if source.manifest.labels else None
    if matched is not None:
        return source, matched, True
    if out.exists():
        return Artifact.open(out), data, False
    task, problem = task_for(data.kind)
    config = HeadConfig(data.labels or (_SCORE,), seed, task.name, problem.name)
    return stage.run("head", add_head, source, config, out), data, False


def train_stage(
    source: Artifact, config: TrainConfig, out: Path, *, data: Data, teacher: Artifact | None, work: Path
) -> Artifact:
    """Train ``source`` into ``out``, or open what an earlier run of the same inputs published there.

    Raises UsageError where that was trained from something else.
    """
    from edgebert.training.trainer import train

    config = replace(config, data=data.digest, teacher=teacher.digest if teacher else "")
    if out.exists():
        found = Artifact.open(out)
        _check_inputs(found, source, config)
    else:
        found = stage.run("train", partial(train, data=data, teacher=teacher, work=work), source, config, out)
    # Only now: until the result is published, a killed run goes on from there.
    shutil.rmtree(work, ignore_errors=True)
    return found


def _check_inputs(trained: Artifact, source: Artifact, config: TrainConfig) -> None:
    before, now = trained.manifest.history[-1], stage.settings_of(config)
    changed = [name for name in now if before.config.get(name) != now[name]]
    changed += ["checkpoint"] if before.source != source.digest else []
    if changed:
        raise UsageError(
            f"{', '.join(changed)} changed since this was trained",
            str(trained.path),
            "choose another folder with -o, or remove this one",
        )


def distill(
    model: str,
    data: str | Path,
    layers: Sequence[int],
    out: str | Path,
    config: TrainConfig,
    *,
    keep: str = KEEP_FIRST,
    init_from: str | None = None,
    columns: Mapping[str, str] | None = None,
    tell: Callable[[Importance], None] | None = None,
) -> list[Artifact]:
    """Train checkpoints of the given depths from a teacher, each at ``out/<name>-<depth_name>``.

    ``keep`` and ``tell`` are :func:`kept_layers`', of the checkpoint that students start from: ``init_from``, or the
    model. A teacher not yet fine-tuned for the data's labels is fine-tuned first, with ``config``'s limits.
    Finished depths are kept, an interrupted one goes on. Raises UsageError and InputError before training.
    """
    from edgebert.training.plan import check_settings, teacher_recipe

    check_settings(config)
    rows, folder = read(data, columns, config.seed), Path(out)
    named = open_checkpoint(model)
    check_output(named, folder)
    origin = named if init_from is None else open_checkpoint(init_from)
    check_keep(layers, keep, origin.manifest.architecture.layers)
    # What is cut and what is published; a training run asks for its own before it begins.
    stage.require_space(folder, bytes_needed(named, layers, []), "distill")
    start, rows, ready = (named, rows, True)
    labelled = learns_labels(named, rows)
    if labelled:
        start, rows, ready = with_head(model, rows, folder / "start", config.seed)
    base, tuned = (start if init_from is None else origin), ready
    if init_from is not None and labelled:
        base, _, tuned = with_head(init_from, rows, folder / "base", config.seed)
    # Shown before anything is trained.
    kept = kept_layers(base, layers, keep, rows, tuned=tuned, seed=config.seed, tell=tell)
    teacher: Artifact | None = start
    if config.method == "none":
        teacher = None
    elif not ready:
        log.info("%s is not fine-tuned for these labels: training the teacher first", named.manifest.name)
        recipe = teacher_recipe(named.manifest.architecture.hidden)
        recipe = replace(recipe, seed=config.seed, max_steps=config.max_steps, max_length=config.max_length)
        teacher = train_stage(
            start, recipe, folder / "teacher", data=rows, teacher=None, work=folder / "work" / "teacher"
        )
    students = []
    with workplace(folder) as work:
        cutter = Exporter(base, [], "", work)
        for chosen in kept:
            source, name = cutter.truncated(chosen), depth_name(chosen)
            place = folder / file_name(f"{named.manifest.name}-{name}")
            if not place.exists():
                log.info("training %d layers", len(chosen))
            students.append(train_stage(source, config, place, data=rows, teacher=teacher, work=folder / "work" / name))
    return students
