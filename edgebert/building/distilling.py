"""Distilling: checkpoints that answer the data's labels, and students of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgebert import ranks, stage
from edgebert.artifact import Artifact, Manifest, problem_of
from edgebert.building.exporting import Exporter
from edgebert.building.places import bytes_needed, check_output, depth_name, workplace
from edgebert.building.resizing import kept_layers
from edgebert.errors import UsageError
from edgebert.machine import file_name
from edgebert.shaping.checkpoint import MODULES, HeadConfig, add_head, open_checkpoint
from edgebert.shaping.depth import KEEP_FIRST, check_keep, students_keep
from edgebert.tasks import Kind, task_for
from edgebert.training.data import Data, match_labels, read

if TYPE_CHECKING:
    from edgebert.training.importance import Importance
    from edgebert.training.trainer import TrainConfig

log = logging.getLogger("edgebert")

# The label of data that has no names for any: what the only one of a regression is called.
_UNNAMED: Mapping[Kind, tuple[str, ...]] = {"score": ("score",)}


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
    matched = match_labels(data, source.manifest.labels, problem_of(source.manifest).data)
    if matched is not None:
        return source, matched, True
    if out.exists():
        return Artifact.open(out), data, False
    task, problem = task_for(data.kind)
    config = HeadConfig(data.labels or _UNNAMED.get(data.kind, ()), seed, task.name, problem.name)
    return stage.run("head", add_head, source, config, out), data, False


def train_stage(
    source: Artifact, config: TrainConfig, out: Path, *, data: Data, teacher: Artifact | None, work: Path
) -> Artifact:
    """Train ``source`` into ``out``, or open what an earlier run of the same inputs published there.

    Raises UsageError where that was trained from something else.
    """
    from edgebert.training.plan import settled
    from edgebert.training.processes import in_turn
    from edgebert.training.trainer import help_train, train

    config = replace(settled(config, source), data=data.digest, teacher=teacher.digest if teacher else "")
    found = in_turn(lambda: Artifact.open(out) if out.exists() else None)
    if found is not None:
        _check_inputs(found, source, config)
    elif ranks.first():
        found = stage.run("train", partial(train, data=data, teacher=teacher, work=work), source, config, out)
    else:
        help_train(source, config, data=data, teacher=teacher, work=work)
    found = in_turn(lambda: found or Artifact.open(out))
    _clear(work)
    return found


def _clear(work: Path) -> None:
    """Remove a work folder, once all is published: until then a killed run goes on from there."""
    if ranks.first():
        shutil.rmtree(work, ignore_errors=True)


def _check_inputs(trained: Artifact, source: Artifact, config: TrainConfig) -> None:
    before, now = trained.manifest.history[-1], stage.settings_of(config)
    # A setting that an earlier edgebert did not know was then as it is by default.
    usual = stage.settings_of(type(config)())
    changed = [name for name in now if before.config.get(name, usual[name]) != now[name]]
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
    keep: str | None = None,
    init_from: str | None = None,
    columns: Mapping[str, str] | None = None,
    tell: Callable[[Importance], None] | None = None,
) -> list[Artifact]:
    """Train checkpoints of the given depths from a teacher, each at ``out/<name>-<depth_name>``.

    ``keep`` and ``tell`` are :func:`kept_layers`', of the checkpoint that students start from: ``init_from``, or the
    model; a ``keep`` of None is :func:`students_keep`'s. A teacher not yet fine-tuned for the data's labels is
    fine-tuned first, with ``config``'s limits. Finished depths are kept, an interrupted one goes on. Raises UsageError
    and InputError before training.
    """
    from edgebert.training.objectives import method_named
    from edgebert.training.plan import check_settings, teacher_recipe
    from edgebert.training.processes import in_turn

    together = method_named(config.method).together
    if together:
        config = replace(config, exits=tuple(sorted(set(layers))))
    check_settings(config)
    rows, folder = read(data, columns, config.seed), Path(out)
    named = open_checkpoint(model)
    check_output(named, folder)
    origin = named if init_from is None else open_checkpoint(init_from)
    keep = students_keep(keep, rows.kind, nested=together)
    check_keep(layers, keep, origin.manifest.architecture.layers)
    # What is cut and what is published; a training run asks for its own before it begins.
    stage.require_space(folder, bytes_needed(named, layers, []), "distill")
    start, rows, ready = (named, rows, True)
    labelled = learns_labels(named, rows)
    if labelled:
        start, rows, ready = in_turn(lambda: with_head(model, rows, folder / "start", config.seed))
    base, tuned = (start if init_from is None else origin), ready
    if init_from is not None and labelled:
        base, _, tuned = in_turn(lambda: with_head(init_from, rows, folder / "base", config.seed))
    # Shown before anything is trained.
    kept = kept_layers(base, layers, keep, rows, tuned=tuned, seed=config.seed, tell=tell)
    if together:
        _check_nested(kept)
    teacher: Artifact | None = start
    if config.method == "none":
        teacher = None
    elif not ready:
        log.info("%s is not fine-tuned for these labels: training the teacher first", named.manifest.name)
        recipe = teacher_recipe(named.manifest.architecture.hidden, len(rows.labels))
        recipe = replace(recipe, seed=config.seed, max_steps=config.max_steps, max_length=config.max_length)
        teacher = train_stage(
            start, recipe, folder / "teacher", data=rows, teacher=None, work=folder / "work" / "teacher"
        )
    with _cuts(folder) as work:
        cutter = Exporter(base, [], "", work)
        name = named.manifest.name
        sources = {folder / file_name(f"{name}-{depth_name(chosen)}"): cutter.truncated(chosen) for chosen in kept}
        train = train_together if together else _train_alone
        return train(sources, config, data=rows, teacher=teacher, work=folder / "work")


@contextmanager
def _cuts(folder: Path) -> Iterator[Path]:
    """Where what students start from is cut to: each process has its own, and all come to the same."""
    if ranks.first():
        with workplace(folder) as work:
            yield work
    else:
        with TemporaryDirectory(prefix="edgebert-") as work:
            yield Path(work)


def _check_nested(kept: Sequence[tuple[int, ...]]) -> None:
    deepest = max(kept, key=len)
    if any(chosen != deepest[: len(chosen)] for chosen in kept):
        what = "depths that are trained together share their lower layers"
        raise UsageError(what, "--keep", f"use {KEEP_FIRST}, or another --method")


def _train_alone(
    sources: Mapping[Path, Artifact], config: TrainConfig, *, data: Data, teacher: Artifact | None, work: Path
) -> list[Artifact]:
    students = []
    for place, source in sources.items():
        if not place.exists():
            log.info("training %d layers", _depth(source))
        students.append(train_stage(source, config, place, data=data, teacher=teacher, work=work / place.name))
    return students


def train_together(
    sources: Mapping[Path, Artifact], config: TrainConfig, *, data: Data, teacher: Artifact | None, work: Path
) -> list[Artifact]:
    """Train checkpoints of several depths in one run, each to its place; or open what an earlier run published.

    Each shares its layers with the deeper ones. Raises UsageError where one was trained from something else.
    """
    from edgebert.training.plan import settled
    from edgebert.training.processes import in_turn
    from edgebert.training.trainer import train_exits, written

    def publish(source: Artifact, config: TrainConfig, out: Path) -> Manifest:
        return written(source, works[_depth(source)], out)

    deepest = max(sources.values(), key=_depth)
    config = replace(settled(config, deepest), data=data.digest, teacher=teacher.digest if teacher else "")
    found = in_turn(lambda: _opened(sources))
    for place, artifact in found.items():
        _check_inputs(artifact, sources[place], config)
    work /= "together"
    if len(found) < len(sources):
        log.info("training %s layers together", ", ".join(map(str, config.exits)))
        of_depth = {_depth(source): source for source in sources.values()}
        works = train_exits(of_depth, config, data=data, teacher=teacher, work=work)
    for place, source in sources.items():
        if place not in found and ranks.first():
            stage.run("train", publish, source, config, place)
    made = in_turn(lambda: _opened(sources))
    _clear(work)
    return [made[place] for place in sources]


def _opened(places: Iterable[Path]) -> dict[Path, Artifact]:
    return {place: Artifact.open(place) for place in places if place.exists()}


def _depth(source: Artifact) -> int:
    return source.manifest.architecture.layers
