"""``edgebert fit``: from a checkpoint, labelled text and a budget to a pick.

Latency does not depend on the weights, so it comes first: truncated, untrained depths are exported and
measured. Only the depths that can win are then trained, exported, verified, scored and, all in one
interleaved run, measured again. What is finished is never done twice.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert import build, stage
from edgebert.artifact import Artifact
from edgebert.choosing.budget import Budget
from edgebert.choosing.candidate import Candidate, Report, Step
from edgebert.choosing.changes import Changes, changes_between
from edgebert.choosing.journal import Journal
from edgebert.choosing.pick import Key, choose, depths_to_train, points_lost
from edgebert.choosing.steps import Clock, next_steps
from edgebert.errors import CheckFailed, InputError, UsageError
from edgebert.judging import parity
from edgebert.judging.evaluate import evaluate, text_of
from edgebert.judging.latency import BenchConfig, Contender, Latency, depth_line, measure
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.machine import environment, versions
from edgebert.registry import TARGETS, check_pair, target_named
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import Text
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Data, read, sample_texts

if TYPE_CHECKING:
    from edgebert.training.trainer import TrainConfig

log = logging.getLogger("edgebert")

_BENCH_TEXTS = 400


@dataclass(frozen=True)
class FitRequest:
    """What is asked for. ``layers`` None means every depth; at least one of ``budget`` and ``max_drop`` is set.

    ``student`` and ``teacher`` are the training settings; ``init_from`` is a checkpoint whose first layers
    the students start from instead of the model's own.
    """

    model: str
    data: str
    folder: Path
    student: TrainConfig
    teacher: TrainConfig
    budget: Budget | None = None
    max_drop: float | None = None
    layers: tuple[int, ...] | None = None
    targets: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32", "int8")
    bench: BenchConfig = field(default_factory=BenchConfig)
    columns: dict[str, str] = field(default_factory=dict)
    init_from: str | None = None
    exhaustive: bool = False
    seed: int = 0
    command: str = "edgebert fit"


def fit(request: FitRequest) -> Report:
    """Sweep, train what needs training, pick. The folder then holds the journal, artifacts and ``best/``.

    Raises UsageError, InputError and EnvironmentMissing before anything is written; a candidate that fails
    later becomes a row that says so. The verdict may be that nothing fits.
    """
    ways = _ways(request)
    data = read(request.data, request.columns, request.seed)
    source = open_checkpoint(request.model)
    depth = source.manifest.architecture.layers
    layers = request.layers or tuple(range(1, depth + 1))
    if bad := [count for count in layers if not 1 <= count <= depth]:
        raise UsageError(f"cannot keep {bad[0]} of {depth} layers", "--layers", f"numbers from 1 to {depth}")
    build.check_output(source, request.folder)
    _check_training(request, data, source)
    inputs = _inputs(request, data, source)
    for warning in data.warnings:
        log.warning(warning)
    journal = Journal(request.folder)
    with journal.locked():
        journal.require_inputs(inputs)
        return _Sweep(request, data, source, layers, ways, journal).run()


def _ways(request: FitRequest) -> tuple[tuple[str, str], ...]:
    """The pairs of target and precision to try; each asked-for name must be of use."""
    if request.budget is None and request.max_drop is None:
        raise UsageError("nothing to fit to", "--budget", "give --budget p95=10ms, --max-drop 1.0, or both")
    pairs = [(t, p) for t in request.targets for p in request.precisions if p in target_named(t).precisions]
    for target in request.targets:
        TARGETS[target].resolve()
    for name in request.precisions:
        if not any(p == name for _, p in pairs):
            check_pair(request.targets[0], name)
    return tuple(pairs)


def _check_training(request: FitRequest, data: Data, source: Artifact) -> None:
    """Refuse now what training would refuse after everything has been measured."""
    from edgebert.training.plan import check_settings

    for config in (request.student, request.teacher):
        check_settings(config)
    if data.kind != "label" and source.manifest.labels:
        raise UsageError("the data has no class labels for this classifier", request.data, "add a label column")


def _inputs(request: FitRequest, data: Data, source: Artifact) -> dict[str, Any]:
    """What a folder's measurements depend on: change any and they are about something else."""
    base = open_checkpoint(request.init_from).digest if request.init_from else None
    return {
        "model": source.digest, "data": data.digest, "init-from": base, "versions": versions(),
        "training": stage.settings_of(request.student), "teacher training": stage.settings_of(request.teacher),
        "bench": stage.settings_of(request.bench), "seed": request.seed,
    }  # fmt: skip


class _Sweep:
    """One fit, from measuring to picking."""

    def __init__(
        self, request: FitRequest, data: Data, source: Artifact, layers: Sequence[int],
        ways: Sequence[tuple[str, str]], journal: Journal,
    ) -> None:  # fmt: skip
        self.request, self.layers, self.ways, self.journal = request, tuple(layers), tuple(ways), journal
        self.folder = request.folder
        self.depth = source.manifest.architecture.layers
        self.start, self.data, self.ready = self._starting_point(source, data)

    def _starting_point(self, source: Artifact, data: Data) -> tuple[Artifact, Data, bool]:
        """The full-depth checkpoint with the task's head, the data in its labels, whether it needs no training."""
        if data.kind == "label":
            start, data, ready = build.classifier(
                self.request.model, data, self.folder / "checkpoints" / "start", self.request.seed
            )
            if not ready:
                log.info(
                    "%s is not fine-tuned for these %d labels: a teacher will be trained first",
                    source.manifest.name,
                    len(data.labels),
                )
            return start, data, ready
        return source, data, True

    @cached_property
    def exporter(self) -> build.Exporter:
        """Exports every depth from one trace, verified on train texts."""
        work = self.folder / "work" / "stages"
        return build.Exporter(self.start, *parity.ledger_texts(self.data), work)

    @cached_property
    def bench_texts(self) -> list[Text]:
        # Train texts: the budget is about the data's lengths, and the test part decides nothing.
        return [text_of(row) for row in sample_texts(self.data.train, _BENCH_TEXTS, self.request.seed)]

    def run(self) -> Report:
        if self.data.kind == "label":
            self.journal.save_texts(self.data.test)
        measured = self._measure_untrained()
        self._train_and_judge(measured)
        report = self._report(measured)
        if report.verdict.pick is not None:
            self._publish_best(report.verdict.pick)
            shutil.rmtree(self.folder / "work", ignore_errors=True)
        return report

    # -- latency first -------------------------------------------------------------------------------

    def _measure_untrained(self) -> list[Candidate]:
        wanted = {(layers, *way) for layers in {*self.layers, self.depth} for way in self.ways}
        known = {c.key: c for c in self.journal.candidates(trained=False)}
        if missing := sorted(wanted - known.keys()):
            log.info("measuring %d untrained candidates: latency does not depend on the weights", len(missing))
            # All again, even if some are known: numbers of different runs are not comparable.
            for candidate in self._timed([self._untrained(*key) for key in sorted(wanted)]):
                self.journal.append(candidate)
                known[candidate.key] = candidate
        return [known[key] for key in sorted(wanted)]

    def _untrained(self, layers: int, target: str, precision: str) -> tuple[Candidate, Artifact | None]:
        keep = tuple(range(layers))
        candidate = Candidate(layers, target, precision, keep, trained=False)
        try:
            artifact = self.exporter.unproven(self.exporter.truncated(keep), target, precision)
        except CheckFailed as error:
            return replace(candidate, failed=str(error)), None
        return replace(candidate, bytes=artifact.manifest.bytes), artifact

    def _timed(self, pairs: Sequence[tuple[Candidate, Artifact | None]]) -> list[Candidate]:
        """Candidates with their latencies, all measured in one interleaved run."""
        ready = [(c, a) for c, a in pairs if a is not None and not c.failed]
        contenders = [Contender(a.path, c.target) for c, a in ready]
        results = measure(contenders, self.bench_texts, self.request.bench)
        done = []
        for (candidate, _), result in zip(ready, results, strict=True):
            if isinstance(result, Latency):
                done.append(replace(candidate, latency=result))
            else:
                done.append(replace(candidate, failed=str(result)))
        return done + [c for c, a in pairs if a is None or c.failed]

    # -- training and judging ------------------------------------------------------------------------

    def _train_and_judge(self, measured: Sequence[Candidate]) -> None:
        wanted = self._depths(measured)
        if not wanted:
            return
        self._settle({*wanted, self.depth})
        self._measure_trained({*wanted, self.depth})

    def _depths(self, measured: Sequence[Candidate]) -> tuple[int, ...]:
        """Depths to train. For a drop alone they are found by training: see :meth:`_search`."""
        offered = [c for c in measured if c.layers in self.layers]
        if self.request.exhaustive:
            return self.layers
        if self.request.budget is None:
            return self._search(self.request.max_drop or 0.0)
        depths = depths_to_train(offered, self.request.budget)
        if depths:
            log.info("depths worth training for %s: %s", self.request.budget, ", ".join(map(str, depths)))
        return depths

    def _search(self, max_drop: float) -> tuple[int, ...]:
        """The shallowest depth within ``max_drop`` points, by bisection: accuracy grows with depth."""
        depths = sorted({*self.layers, self.depth})
        low, high, tried = 0, len(depths) - 1, {self.depth}
        while low < high:
            middle = (low + high) // 2
            tried.add(depths[middle])
            self._settle({depths[middle], self.depth})
            judged = [c for c in self._judged.values() if c.layers == depths[middle]]
            lost = [points_lost(c, self._judged.get(self._teacher_key)) for c in judged]
            if any(points is not None and points <= max_drop for points in lost):
                high = middle
            else:
                low = middle + 1
        return tuple(sorted(tried))

    @cached_property
    def _judged(self) -> dict[Key, Candidate]:
        """Trained candidates with their metrics, not yet timed."""
        return {}

    @cached_property
    def _finished(self) -> dict[Key, Candidate]:
        """What an earlier run of this fit brought to its end."""
        return {c.key: c for c in self.journal.candidates(trained=True) if c.latency and not c.failed}

    @property
    def _teacher_key(self) -> Key:
        target = "cpu" if "cpu" in self.request.targets else self.request.targets[0]
        return self.depth, target, "fp32"

    def _settle(self, depths: Iterable[int]) -> None:
        """Train, export, verify and score these depths, deepest first: it is everyone's teacher."""
        for layers in sorted(depths, reverse=True):
            ways = set(self.ways)
            if layers == self.depth:
                ways |= {self._teacher_key[1:]}
            wanted = [key for way in sorted(ways) if (key := (layers, *way)) not in self._judged]
            self._judged.update(self._judge_all(layers, wanted))

    def _checkpoint(self, layers: int) -> Artifact:
        """The trained checkpoint of a depth; the full depth is the teacher."""
        if layers == self.depth:
            return self._teacher
        if not (self.folder / "checkpoints" / f"l{layers}").exists():
            log.info("training %d layers", layers)
        base = self._student_start(layers)
        return self._trained(base, self.request.student, f"l{layers}", teacher=self._teacher)

    @cached_property
    def _teacher(self) -> Artifact:
        if self.ready:
            return self.start
        if not (self.folder / "checkpoints" / "teacher").exists():
            log.info("fine-tuning the teacher, %d layers", self.depth)
        return self._trained(self.start, self.request.teacher, "teacher", teacher=None)

    def _student_start(self, layers: int) -> Artifact:
        if self.request.init_from is None:
            return self.exporter.truncated(tuple(range(layers)))
        out = self.folder / "checkpoints" / "base"
        base = open_checkpoint(self.request.init_from)
        if self.data.kind == "label":
            base, _, _ = build.classifier(self.request.init_from, self.data, out, self.request.seed)
        return build.Exporter(base, [], "", self.folder / "work" / "base").truncated(tuple(range(layers)))

    def _trained(self, source: Artifact, config: TrainConfig, name: str, *, teacher: Artifact | None) -> Artifact:
        if config.method == "none":
            teacher = None
        out, work = self.folder / "checkpoints" / name, self.folder / "work" / f"train-{name}"
        return build.train_stage(source, config, out, data=self.data, teacher=teacher, work=work)

    def _judge_all(self, layers: int, keys: Iterable[Key]) -> dict[Key, Candidate]:
        """The candidates of one depth, from its trained checkpoint."""
        rows = {key: Candidate(*key, tuple(range(layers)), trained=True) for key in keys}
        try:
            checkpoint = self._checkpoint(layers)
        except (CheckFailed, MemoryError) as error:
            # Without a teacher there is nothing to compare with; without one student there are the others.
            if layers == self.depth:
                raise
            return {key: self._failed(row, error) for key, row in rows.items()}
        return {key: self._judge(row, checkpoint) for key, row in rows.items()}

    def _failed(self, candidate: Candidate, error: Exception) -> Candidate:
        log.warning("%s failed: %s", candidate.name, error)
        failed = replace(candidate, failed=str(error))
        self.journal.append(failed)
        return failed

    def _judge(self, candidate: Candidate, checkpoint: Artifact) -> Candidate:
        """One candidate through export, verification and its metric; a failure becomes its row."""
        target, precision = candidate.target, candidate.precision
        out = self.folder / "artifacts" / f"l{candidate.layers}-{target}-{precision}"
        try:
            artifact = Artifact.open(out) if out.exists() else self.exporter.export(checkpoint, target, precision, out)
            known = self._finished.get(candidate.key)
            if known is not None and known.digest == artifact.digest:
                return known
            dev, test = self._evaluated(artifact)
        except (CheckFailed, MemoryError) as error:
            return self._failed(candidate, error)
        self.journal.save_scores(candidate, dev, test)
        judged = replace(
            candidate,
            bytes=artifact.manifest.bytes, dev=dev.metric_value(), test=test.metric_value(),
            path=str(out.relative_to(self.folder)), digest=artifact.digest,
            stages=tuple(artifact.manifest.checks["parity"]),
        )  # fmt: skip
        assert judged.test
        log.info(
            "%s: %s %.4f on test, %.1f MB",
            judged.name,
            judged.test.name,
            judged.test.value,
            judged.bytes / 1e6,
        )
        return judged

    def _evaluated(self, artifact: Artifact) -> tuple[Scores, Scores]:
        threads = self.request.bench.threads
        with load(artifact.path, threads=threads) as model:
            reference = self._reference_model(artifact, model)
            try:
                dev = evaluate(model, self.data.dev, reference)
                return dev, dev if self.data.test_is_dev else evaluate(model, self.data.test, reference)
            finally:
                if reference is not None and reference is not model:
                    reference.close()

    def _reference_model(self, artifact: Artifact, model: Model) -> Model | None:
        """What an encoder on unrated text is compared with: the full-depth fp32 one."""
        if artifact.manifest.labels:
            return None
        path = self.folder / "artifacts" / "l{}-{}-{}".format(*self._teacher_key)
        return load(path) if path.exists() and path != artifact.path else model

    def _measure_trained(self, depths: Iterable[int]) -> None:
        """The numbers that decide: every trained candidate, teacher included, in one interleaved run."""
        chosen = [c for c in self._judged.values() if c.layers in set(depths) and not c.failed]
        known = {c.key: c for c in self.journal.candidates(trained=True) if c.latency}
        if all(c.key in known and known[c.key].digest == c.digest for c in chosen):
            return
        log.info("measuring %d trained candidates", len(chosen))
        for candidate in self._timed([(c, Artifact.open(self.folder / str(c.path))) for c in chosen]):
            self.journal.append(candidate)

    # -- the outcome ---------------------------------------------------------------------------------

    def _report(self, measured: Sequence[Candidate]) -> Report:
        target, limit = self.request, self.request.budget
        self.journal.remember(
            report={
                "command": target.command,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "task": self.start.manifest.task,
                "model": {
                    "name": self.start.manifest.name, "digest": self.start.digest,
                    **dataclasses.asdict(self.start.manifest.architecture),
                },
                "data": {
                    "name": self.data.name, "digest": self.data.digest, "train": len(self.data.train),
                    "dev": len(self.data.dev), "test": len(self.data.test), "labels": len(self.data.labels),
                },
                "budget": budget_facts(limit, target.max_drop),
                "environment": environment(),
                "warnings": [*self.data.warnings, *self.data.notes],
            },
            teacher=list(self._teacher_key),
            offered=[list(c.key) for c in measured if c.layers in self.layers],
        )  # fmt: skip
        return report_of(self.journal, limit, target.max_drop)

    def _publish_best(self, pick: Candidate) -> None:
        with stage.publish(self.folder / "best", force=True) as folder:
            shutil.copytree(self.folder / str(pick.path), folder, dirs_exist_ok=True)


def budget_facts(budget: Budget | None, max_drop: float | None) -> dict[str, Any]:
    """A budget as the report reads it."""
    return {
        "quantity": budget.quantity if budget else None,
        "limit_ms": budget.limit_ms if budget else None,
        "max_drop": max_drop,
    }


def report_of(journal: Journal, budget: Budget | None, max_drop: float | None) -> Report:
    """The report that a sweep folder's measurements give for a budget, without measuring anything.

    Raises InputError where the folder holds no finished measurements.
    """
    facts = journal.facts()
    if "report" not in facts:
        raise InputError("this fit has not finished", str(journal.folder), "run the same edgebert fit again")
    told = {**facts["report"], "budget": budget_facts(budget, max_drop)}
    offered = {tuple(key) for key in facts["offered"]}
    trained = journal.candidates(trained=True)
    teacher = next((c for c in trained if c.key == tuple(facts["teacher"])), None)
    judged = [c for c in trained if c.key in offered]
    untrained = [c for c in journal.candidates(trained=False) if c.key in offered]
    done = {c.key for c in judged}
    candidates = tuple(sorted([*judged, *(c for c in untrained if c.key not in done)], key=lambda c: c.key))
    scores = {c.key: s for c in judged if (s := journal.scores(c)) is not None}
    verdict = choose(candidates, scores, teacher, budget, max_drop)
    pick = verdict.pick
    return Report(
        command=told["command"], created=told["created"], task=told["task"], model=told["model"], data=told["data"],
        budget=told["budget"], teacher=teacher, candidates=candidates,
        verdict=replace(verdict, against_teacher=_against_teacher(journal, pick, teacher)),
        depth_lines=_depth_lines(journal.candidates(trained=False)),
        environment=told["environment"], warnings=tuple(told["warnings"]),
        steps=_steps(journal, candidates, pick, budget) if pick else (),
        changes=_changes(journal, pick, teacher) if pick and teacher else None,
    )  # fmt: skip


def _steps(
    journal: Journal, candidates: Sequence[Candidate], pick: Candidate, budget: Budget | None
) -> tuple[Step, ...]:
    scores = {c.key: s for c in candidates if c.trained and (s := journal.scores(c, "test")) is not None}
    clock = Clock(budget.quantity, budget.limit_ms) if budget else Clock("p50", None)
    return next_steps(candidates, pick, scores, clock)


def _changes(journal: Journal, pick: Candidate, teacher: Candidate) -> Changes | None:
    """What the pick answers otherwise than the teacher; None where answers or texts were not kept."""
    ours, theirs, rows = journal.scores(pick, "test"), journal.scores(teacher, "test"), journal.texts()
    if pick.key == teacher.key or ours is None or theirs is None or rows is None:
        return None
    return changes_between(ours, theirs, rows)


def _against_teacher(journal: Journal, pick: Candidate | None, teacher: Candidate | None) -> Metric | None:
    if pick is None or teacher is None:
        return None
    ours, theirs = journal.scores(pick, "test"), journal.scores(teacher, "test")
    return difference(ours, theirs) if ours and theirs else None


def _depth_lines(measured: Sequence[Candidate]) -> tuple[dict[str, Any], ...]:
    lines = []
    for target, precision in sorted({(c.target, c.precision) for c in measured}):
        points = [
            (c.layers, c.latency.p50) for c in measured if (c.target, c.precision) == (target, precision) and c.latency
        ]
        line = depth_line([p[0] for p in points], [p[1] for p in points])
        if line is not None:
            lines.append({"target": target, "precision": precision, **dataclasses.asdict(line)})
    return tuple(lines)
