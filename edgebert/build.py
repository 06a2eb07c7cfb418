"""Building in Python: which stages run, in which order, for a target and precision.

``export`` and ``distill`` are what the commands of those names call. An artifact is published only after
it has proved itself; what failed leaves its parity ledger behind and nothing else.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebert import stage
from edgebert.artifact import Artifact, Manifest, problem_of
from edgebert.errors import CheckFailed, UsageError
from edgebert.exporters.seal import SealConfig, seal
from edgebert.exporters.signature import OPSET, PORTABLE, GraphConfig, Sizes
from edgebert.judging import parity
from edgebert.judging.evaluate import texts_of
from edgebert.machine import file_name
from edgebert.progress import bar
from edgebert.registry import check_pair
from edgebert.serving.tokens import Batch, Text, TextTokenizer
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import MODULES, HeadConfig, add_head, open_checkpoint, shape_of
from edgebert.shaping.depth import KEEP_AUTO, KEEP_FIRST, TruncateConfig, check_keep, layers_to_keep, truncate
from edgebert.shaping.vocab import PruneConfig, prune_vocab, pruned_name
from edgebert.tasks import TASKS, Kind, task_for
from edgebert.training.data import Data, match_labels, read

if TYPE_CHECKING:
    from edgebert.exporters.graph import Template
    from edgebert.training.importance import Importance
    from edgebert.training.trainer import TrainConfig

log = logging.getLogger("edgebert")

# The label of data that has no names for any: what the only one of a regression is called.
_UNNAMED: Mapping[Kind, tuple[str, ...]] = {"score": ("score",)}
# How many of the ledger's texts travel with the artifact as golden vectors.
GOLDEN_TEXTS = 4


class Exporter:
    """Exports checkpoints of one shape, however deep, from one trace.

    ``source`` is the deepest of them; intermediate artifacts live in ``work``. ``texts`` serve the parity
    ledger, ``texts_from`` says where they are from. ``graph`` is what all graphs are like.
    """

    def __init__(
        self, source: Artifact, texts: Sequence[Text], texts_from: str, work: Path, graph: GraphConfig = PORTABLE
    ) -> None:
        self.source, self.texts, self.texts_from, self.work = source, list(texts), texts_from, work
        self.graph = graph

    @cached_property
    def template(self) -> Template:
        """The trace, made when the first graph needs it."""
        from edgebert.exporters.graph import trace

        log.info("tracing %s, %d layers", self.source.manifest.name, self.source.manifest.architecture.layers)
        return trace(self.source, self.graph.opset)

    @cached_property
    def feeds(self) -> list[Batch]:
        """The texts as token arrays: each alone, and all in padded batches."""
        longest = self.graph.fixed and min(self.graph.fixed[1], self.source.manifest.max_length)
        return parity.feeds(TextTokenizer(self.source, longest), self.texts)

    def truncated(self, keep: Sequence[int]) -> Artifact:
        """The source with the layers ``keep``; the source itself where that is all of them."""
        if tuple(keep) == tuple(range(self.source.manifest.architecture.layers)):
            return self.source
        return self._once(
            "truncate", f"l{'-'.join(map(str, keep))}", truncate, self.source, TruncateConfig(tuple(keep))
        )

    def unproven(self, checkpoint: Artifact, target: str, precision: str) -> Artifact:
        """A checkpoint at a precision, right in shape and speed but not yet verified or complete."""
        from edgebert.exporters.graph import build_graph
        from edgebert.exporters.quantize import DynamicConfig, quantize_dynamic

        check_pair(target, precision)
        if target == "torch":
            return checkpoint
        name = checkpoint.digest[:16]
        graph = self._once(
            "graph", f"{name}-fp32", partial(build_graph, template=self.template), checkpoint, self.graph
        )
        if precision == "fp32":
            return graph
        return self._once(
            "quantize", f"{name}-{precision}", quantize_dynamic, graph, DynamicConfig.for_this_cpu(precision)
        )

    def export(self, checkpoint: Artifact, target: str, precision: str, out: Path, *, force: bool = False) -> Artifact:
        """Build, verify and publish one artifact. Raises CheckFailed where the ledger says no."""
        reference = self._reference(checkpoint)
        stages = self._ledger(checkpoint, reference, target, precision)
        if not all(line.ok for line in stages):
            self._refuse(stages, out)
        ledger = [dataclasses.asdict(line) for line in stages]
        finish = partial(seal, ledger=ledger, golden=self._golden(reference))
        config = SealConfig(target, precision, self.texts_from)
        return stage.run("seal", finish, self.unproven(checkpoint, target, precision), config, out, force=force)

    def _ledger(
        self, checkpoint: Artifact, reference: list[parity.Float], target: str, precision: str
    ) -> tuple[parity.Stage, ...]:
        lines = self._truncation(checkpoint)
        if target == "torch":
            return lines
        graph = self.unproven(checkpoint, target, "fp32")
        line, exact = parity.onnx_stage("onnx-fp32", reference, graph, self.feeds)
        lines = (*lines, line)
        if precision == "fp32":
            return lines
        quantized = self.unproven(checkpoint, target, precision)
        return (*lines, parity.onnx_stage(precision, exact, quantized, self.feeds)[0])

    def _truncation(self, checkpoint: Artifact) -> tuple[parity.Stage, ...]:
        """Untrained layers must give, to the bit, what the full model gives with the others left out."""
        from edgebert.runtimes.reference import hidden_after

        steps = checkpoint.manifest.history[len(self.source.manifest.history) :]
        if [step.stage for step in steps] != ["truncate"] or steps[0].source != self.source.digest:
            return ()
        feed, keep = self.feeds[-1], steps[0].config["keep"]
        full, cut = hidden_after(self.source, keep, feed), hidden_after(checkpoint, range(len(keep)), feed)
        rows = [[row.ravel() for row in states] for states in (full, cut)]
        return (parity.compare("truncate", "truncate", rows[0], rows[1], None),)

    def _reference(self, checkpoint: Artifact) -> list[parity.Float]:
        from edgebert.runtimes.reference import reference_session

        session = reference_session(checkpoint)
        most = TASKS[checkpoint.manifest.task].compared
        return parity.outputs(parity.runner(session, checkpoint), self.feeds, most)

    def _golden(self, reference: list[parity.Float]) -> dict[str, Any]:
        # The first texts alone: what one request at a time must give wherever it is deployed.
        arrays: dict[str, Any] = {}
        for index in range(min(GOLDEN_TEXTS, len(self.texts))):
            arrays[f"{index}.output"] = reference[index].astype(np.float32)
            arrays.update({f"{index}.{name}": array for name, array in self.feeds[index].items()})
        return arrays

    def _refuse(self, stages: Sequence[parity.Stage], out: Path) -> None:
        document = {"ok": False, "stages": [dataclasses.asdict(line) for line in stages], "metric": None}
        path = out.with_name(f"{out.name}.parity.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage.write_json(path, document)
        bad = next(line for line in stages if not line.ok)
        numbers = f"error {bad.max_abs_error:.3g} of {bad.tolerance:.3g}, cosine {bad.cosine:.5f}"
        raise CheckFailed(
            f"parity of {bad.name} failed, {numbers}", str(path), "use --precision fp32, or report the model", document
        )

    def _once(self, step: str, name: str, build: Callable[..., Manifest], source: Artifact, config: Any) -> Artifact:
        path = self.work / name
        if path.exists():
            return Artifact.open(path)
        try:
            return stage.run(step, build, source, config, path)
        finally:
            # Graphs refer to themselves in circles, and would keep their weights until the collector happens by.
            gc.collect()


def kept_layers(
    source: Artifact,
    counts: Sequence[int],
    keep: str,
    data: Data | None,
    *,
    tuned: bool = True,
    seed: int = 0,
    tell: Callable[[Importance], None] | None = None,
) -> list[tuple[int, ...]]:
    """Which layers of a checkpoint stay at each of the depths ``counts``; ``keep`` is ``layers_to_keep``'s.

    For ``auto`` they are measured on data's train part, and ``tell`` is called with what was found; ``tuned`` False
    says that the head is fresh. Raises UsageError where depths and ``keep`` do not fit the model or data is missing.
    """
    depth, ranking = source.manifest.architecture.layers, None
    check_keep(counts, keep, depth)
    if keep == KEEP_AUTO and data is not None:
        from edgebert.training.importance import measure_importance

        found = measure_importance(source, data, tuned=tuned, seed=seed)
        ranking = found.ranking
        if tell is not None:
            tell(found)
    return [layers_to_keep(count, keep, depth, ranking) for count in counts]


def export(
    model: str = "minilm",
    layers: int | Sequence[int] | None = None,
    target: str | Sequence[str] = "cpu",
    precision: str | Sequence[str] = "fp32",
    out: str | Path = "edgebert-out",
    *,
    keep: str = KEEP_FIRST,
    data: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    task: str = "auto",
    prune: str | Path | None = None,
    opset: int = OPSET,
    fixed: Sizes | None = None,
    force: bool = False,
    tell: Callable[[Importance], None] | None = None,
) -> list[Artifact]:
    """Export a checkpoint at one or several depths, targets and precisions, from one trace; each proves itself first.

    ``keep`` and ``tell`` are :func:`kept_layers`'. ``prune`` names the data whose tokens alone stay in the vocabulary
    (see :func:`pruned`). ``fixed`` (texts, tokens) makes graphs of that one shape; longer texts are then longer than
    the model reads. Returns the artifacts, published under ``out``. Raises UsageError for depths that do not exist or
    folders that do, InputError for unusable checkpoints or data, CheckFailed where parity fails.
    """
    source = open_checkpoint(model, task)
    depth = source.manifest.architecture.layers
    wanted = [layers] if isinstance(layers, int) else list(layers or [depth])
    ways = list(product(_listed(target), _listed(precision)))
    graph = GraphConfig(opset, fixed)
    graph.check(source.manifest.max_length)
    for way in ways:
        check_pair(*way)
        if way[0] == "torch" and graph != PORTABLE:
            raise UsageError("target torch has no graph", "--opset, --fixed", "export to another target")
    name = source.manifest.name if prune is None else pruned_name(source)
    check_output(source, Path(out))
    rows = read(data, columns) if data is not None else None
    keeps = kept_layers(source, wanted, keep, rows, tell=tell)
    jobs = [(kept, way, Path(out) / (_name(name, kept, *way) + graph.suffix)) for kept in keeps for way in ways]
    _check_places([path for _, _, path in jobs], Path(out), force=force)
    needed = bytes_needed(source, [len(kept) for kept in keeps], [p for _, p in ways])
    needed += 0 if prune is None else sizes.weight_bytes(shape_of(source))["fp32"]
    stage.require_space(Path(out), needed, "export")
    texts, texts_from = parity.ledger_texts(rows, TASKS[source.manifest.task])
    log.info("%s, verified on %s", source.manifest.name, texts_from)
    done = []
    with _workplace(Path(out)) as work:
        if prune is not None:
            source = pruned(source, read(prune, columns), work / "pruned")
        exporter = Exporter(source, texts, texts_from, work, graph)
        for kept, way, path in bar(jobs, "exporting"):
            done.append(exporter.export(exporter.truncated(kept), *way, path, force=force))
            log.info("exported %s (%.1f MB)", path, done[-1].manifest.bytes / 1e6)
    return done


def pruned(source: Artifact, data: Data, out: Path, *, force: bool = False) -> Artifact:
    """The checkpoint with the tokens that data's train part needs, published at ``out``.

    What it costs other texts is measured on the data's other parts: ``manifest.checks["vocab"]`` holds it.
    Raises InputError for a tokenizer that is neither WordPiece nor byte-level BPE.
    """
    others = data.dev if data.test_is_dev else (*data.dev, *data.test)
    build = partial(prune_vocab, texts=texts_of(data.train), others=texts_of(others))
    return stage.run("prune-vocab", build, source, PruneConfig(data.digest), out, force=force)


def resize(
    model: str,
    out: str | Path,
    layers: int | None = None,
    *,
    keep: str = KEEP_FIRST,
    data: str | Path | None = None,
    prune: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
    tell: Callable[[Importance], None] | None = None,
) -> Artifact:
    """A checkpoint with fewer layers, or with the tokens that the data ``prune`` needs, or both, at ``out``.

    ``keep`` and ``tell`` are :func:`kept_layers`', which may measure on ``data``. Raises UsageError where neither is
    asked for, for layers that do not exist and for an ``out`` that does.
    """
    source, out = open_checkpoint(model), Path(out)
    check_output(source, out)
    if layers is None and prune is None:
        raise UsageError("nothing to change", "edgebert resize", "give --layers, --prune-vocab or both")
    depth = source.manifest.architecture.layers
    rows = None if data is None else read(data, columns)
    (kept,) = kept_layers(source, [depth if layers is None else layers], keep, rows, tell=tell)
    tokens = None if prune is None else read(prune, columns)
    needed = sizes.weight_bytes(sizes.with_layers(shape_of(source), len(kept)))["fp32"]
    stage.require_space(out, needed if tokens is None else 2 * needed, "resize")
    if tokens is None:
        return stage.run("truncate", truncate, source, TruncateConfig(kept), out, force=force)
    if kept == tuple(range(depth)):
        return pruned(source, tokens, out, force=force)
    with stage.scratch(out) as work:
        shallow = stage.run("truncate", truncate, source, TruncateConfig(kept), work / "shallow")
        return pruned(shallow, tokens, out, force=force)


def bytes_needed(source: Artifact, depths: Sequence[int], precisions: Sequence[str]) -> int:
    """What it takes on disk to export these depths at these precisions, intermediate artifacts included."""
    companions = sum(entry.bytes for name, entry in source.manifest.files.items() if not name.endswith(".safetensors"))
    shape = shape_of(source)
    total = 0
    for depth in depths:
        weights = sizes.weight_bytes(sizes.with_layers(shape, depth))
        # The cut checkpoint and its graph; then each result, a quantized one also before it is sealed.
        kept = [weights["fp32"]] * 2
        for precision in precisions:
            kept += [weights["fp32"]] if precision == "fp32" else [weights["int8"]] * 2
        total += sum(size + companions for size in kept)
    return total


def _name(name: str, keep: Sequence[int], target: str, precision: str) -> str:
    return file_name(f"{name}-{depth_name(keep)}-{target}-{precision}")


def depth_name(keep: Sequence[int]) -> str:
    """How a depth is called in names of files: by its number of layers, and by which where they are not the first."""
    plain = tuple(keep) == tuple(range(len(keep)))
    return f"l{len(keep)}" + ("" if plain else "-keep" + "-".join(map(str, keep)))


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def check_output(source: Artifact, out: Path) -> None:
    """Raise UsageError where results would be written into the checkpoint they come from."""
    if out.resolve() == source.path.resolve():
        raise UsageError("output folder is the checkpoint itself", str(out), "choose another with -o")


def _check_places(paths: Sequence[Path], out: Path, *, force: bool) -> None:
    if len(set(paths)) != len(paths):
        raise UsageError("the same artifact is asked for twice", str(out), "list each depth, target and precision once")
    for path in paths:
        stage.recover(path)
        if path.exists() and not force:
            raise UsageError("already exists", str(path), "choose another folder with -o, or overwrite with --force")


@contextmanager
def _workplace(out: Path) -> Any:
    """A folder for intermediate artifacts on the same disk, gone afterwards, however it ends."""
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    scratch = out / "work"
    out.mkdir(parents=True, exist_ok=True)
    stage.recover_all(out)
    try:
        with stage.scratch(scratch) as work:
            yield work
    finally:
        for folder in created:
            # A run that made nothing leaves nothing.
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


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
    with _workplace(folder) as work:
        cutter = Exporter(base, [], "", work)
        for chosen in kept:
            source, name = cutter.truncated(chosen), depth_name(chosen)
            place = folder / file_name(f"{named.manifest.name}-{name}")
            if not place.exists():
                log.info("training %d layers", len(chosen))
            students.append(train_stage(source, config, place, data=rows, teacher=teacher, work=folder / "work" / name))
    return students
