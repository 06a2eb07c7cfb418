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
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert import build, ranks, stage
from edgebert.artifact import Artifact, problem_of
from edgebert.child import ChildDied, ChildFailed
from edgebert.choosing.candidate import Candidate, Report
from edgebert.choosing.journal import Journal
from edgebert.choosing.outcome import budget_facts, report_of
from edgebert.choosing.pick import Key, depths_to_train, points_lost
from edgebert.choosing.request import FitRequest
from edgebert.choosing.workshop import Isolated
from edgebert.errors import CheckFailed, EnvironmentMissing, InputError, OutOfMemory, UsageError
from edgebert.judging.bench import measure
from edgebert.judging.conditions import conditions_facts
from edgebert.judging.evaluate import text_of
from edgebert.judging.latency import Contender, Latency, Measurement
from edgebert.machine import environment, versions
from edgebert.registry import TARGETS, check_pair, target_named
from edgebert.serving.tokens import Text
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.shaping.depth import KEEP_AUTO, KEEP_FIRST, check_keep, layers_to_keep
from edgebert.tolerances import QUANT_DROP
from edgebert.training.data import Data, read, sample_texts

if TYPE_CHECKING:
    from edgebert.training.importance import Importance

log = logging.getLogger("edgebert")

_BENCH_TEXTS = 400


# What costs a candidate and not the fit.
_SPOILS = (CheckFailed, InputError, OutOfMemory, ChildFailed)


def fit(request: FitRequest, tell: Callable[[Importance], None] | None = None) -> Report:
    """Sweep, train what needs training, pick. The folder then holds the journal, artifacts and ``best/``.

    ``tell`` is called with what ``keep`` auto goes by, before anything is made. Raises UsageError, InputError and
    EnvironmentMissing before anything is written; a candidate that fails later becomes a row that says so. The
    verdict may be that nothing fits.
    """
    if ranks.count() > 1:
        remedy = "train with edgebert distill there, or give fit the machine alone"
        raise UsageError(f"{ranks.count()} processes were started, and a fit is one", "edgebert fit", remedy)
    ways = _ways(request)
    data = read(request.data, request.columns, request.seed)
    source = open_checkpoint(request.model)
    depth = source.manifest.architecture.layers
    layers = request.layers or tuple(range(1, depth + 1))
    request = request.for_depths(layers, depth, data.kind)
    _check_keep(request, layers, depth)
    build.check_output(source, request.folder)
    _check_training(request, data, source)
    needed = build.bytes_needed(source, layers, [precision for _, precision in ways])
    stage.require_space(request.folder, needed, "fit", held=stage.bytes_below(request.folder))
    inputs = _inputs(request, data, source)
    for warning in _warnings(request, data):
        log.warning(warning)
    journal = Journal(request.folder)
    with journal.locked() as lock, closing(Isolated(request, lock)) as workshop:
        journal.require_inputs(inputs)
        for place in (request.folder, request.folder / "artifacts", request.folder / "checkpoints"):
            stage.recover_all(place)
        return _Sweep(request, data, layers, ways, journal, workshop).run(tell)


def _ways(request: FitRequest) -> tuple[tuple[str, str], ...]:
    """The pairs of target and precision to try; each asked-for name must be of use."""
    if request.budget is None and request.max_drop is None:
        raise UsageError("nothing to fit to", "--budget", "give --budget p95=10ms, --max-drop 1.0, or both")
    pairs = [(t, p) for t in request.targets for p in request.precisions if p in target_named(t).precisions]
    for target in request.targets:
        TARGETS[target].resolve()
        if not any(t == target for t, _ in pairs):
            check_pair(target, request.precisions[0])
    for name in request.precisions:
        if not any(p == name for _, p in pairs):
            check_pair(request.targets[0], name)
    return tuple(pairs)


def _check_keep(request: FitRequest, layers: Sequence[int], depth: int) -> None:
    """Refuse now what cannot be cut, or would be cut from two checkpoints that do not correspond."""
    check_keep(layers, request.cut, depth)
    if depth in layers and layers_to_keep(depth, request.cut, depth, [0.0] * depth) != tuple(range(depth)):
        raise UsageError("the full depth is the teacher, in its own order", "--keep", "list fewer layers")
    if request.student.exits and request.cut != KEEP_FIRST:
        what = "depths that are trained together share their lower layers"
        raise UsageError(what, "--keep", f"use {KEEP_FIRST}, or another --method")
    if request.init_from and request.cut != KEEP_FIRST:
        base = open_checkpoint(request.init_from).manifest.architecture.layers
        if base != depth:
            what = f"the model has {depth} layers, the checkpoint that students start from {base}"
            raise UsageError(what, "--keep", f"use {KEEP_FIRST}, or --init-from of equal depth")


def _check_training(request: FitRequest, data: Data, source: Artifact) -> None:
    """Refuse now what training would refuse after everything has been measured."""
    from edgebert.training.objectives import method_named
    from edgebert.training.plan import check_settings, check_task

    for config in (request.student, request.teacher_config(source, data.labels)):
        check_settings(config)
    check_task(request.student, source)
    if data.kind == "none" and problem_of(source.manifest).data not in ("none", "text"):
        raise UsageError("the data has no labels for this model", request.data, "add a column label, tags or answers")
    encoder = source.manifest.pooling is not None and not build.learns_labels(source, data)
    if encoder and not method_named(request.student.method).encoder_terms:
        remedy = "use a method with a teacher, such as hidden or relations"
        raise UsageError("a sentence encoder learns only from a teacher", f"--method {request.student.method}", remedy)


def _warnings(request: FitRequest, data: Data) -> list[str]:
    size = request.bench.batch_size
    batched = [f"latencies, and budgets on them, are of calls of {size} texts"] if size > 1 else []
    return [*data.warnings, *batched]


def _failed(candidate: Candidate, error: Exception) -> Candidate:
    log.warning("%s failed: %s", candidate.name, error)
    return replace(candidate, failed=str(error))


def _inputs(request: FitRequest, data: Data, source: Artifact) -> dict[str, Any]:
    """What a folder's measurements depend on: change any and they are about something else."""
    base = open_checkpoint(request.init_from).digest if request.init_from else None
    return {
        "model": source.digest, "data": data.digest, "init-from": base, "versions": versions(),
        # None, as in folders of an edgebert that knew no other.
        "keep": None if request.cut == KEEP_FIRST else request.cut,
        "quant-drop": None if request.quant_drop == QUANT_DROP else request.quant_drop,
        "training": stage.settings_of(request.student),
        "teacher training": stage.settings_of(request.teacher_config(source, data.labels)),
        "bench": stage.settings_of(request.bench), "seed": request.seed,
    }  # fmt: skip


class _Sweep:
    """One fit, from measuring to picking."""

    def __init__(
        self, request: FitRequest, data: Data, layers: Sequence[int], ways: Sequence[tuple[str, str]],
        journal: Journal, workshop: Isolated,
    ) -> None:  # fmt: skip
        self.request, self.data, self.layers, self.ways = request, data, tuple(layers), tuple(ways)
        self.journal, self.workshop, self.folder = journal, workshop, request.folder
        # Trained candidates with their metrics, not yet timed.
        self._judged: dict[Key, Candidate] = {}
        # How much each layer matters, where that decides which stay.
        self._ranking: tuple[float, ...] | None = None

    def run(self, tell: Callable[[Importance], None] | None) -> Report:
        self.start: Artifact = self._must("preparing the checkpoint", "begin")
        if self.request.cut == KEEP_AUTO:
            found: Importance = self._must("measuring the layers", "importance")
            self._ranking = found.ranking
            if tell is not None:
                tell(found)
        self.journal.save_bench_texts(self.bench_texts)
        self.depth = self.start.manifest.architecture.layers
        self.teacher_key = self.request.teacher_key(self.depth)
        measured = self._measure_untrained()
        self._train_and_judge(measured)
        report = self._report(measured)
        if report.verdict.pick is not None:
            self._publish_best(report.verdict.pick)
            shutil.rmtree(self.folder / "work", ignore_errors=True)
        elif (self.folder / "best").exists():
            log.warning("best/ was the pick for another budget, and is removed: nothing fits this one")
            shutil.rmtree(self.folder / "best")
        return report

    def _must(self, what: str, method: str, *arguments: object) -> Any:
        """An answer of the workshop that the fit cannot do without. A bug there is one here."""
        try:
            return self.workshop.ask(method, *arguments)
        except ChildDied as death:
            remedy = "see above; the same command goes on where this one stopped"
            raise EnvironmentMissing(f"{what} failed: {death}", str(self.folder), remedy) from None

    def _kept(self, layers: int) -> tuple[int, ...]:
        """Which layers a depth has; the full depth is the teacher, whole, whatever list was given."""
        if layers == self.depth:
            return tuple(range(layers))
        return layers_to_keep(layers, self.request.cut, self.depth, self._ranking)

    # -- latency first -------------------------------------------------------------------------------

    def _measure_untrained(self) -> list[Candidate]:
        wanted = {(layers, *way) for layers in {*self.layers, self.depth} for way in self.ways} | {self.teacher_key}
        rows = {c.key: c for c in self.journal.candidates(trained=False)}
        missing = sorted(key for key in wanted if key not in rows or rows[key].failed)
        made = [self._untrained(*key) for key in missing]
        if any(path is not None for _, path in made):
            log.info("measuring %d untrained candidates: latency does not depend on the weights", len(wanted))
            # All again, even if some are known: numbers of different runs are not comparable.
            found = self._timed([*(self._untrained(*key) for key in sorted(wanted - set(missing))), *made])
        else:
            found = [candidate for candidate, _ in made]
        self.journal.append(*found)
        rows |= {candidate.key: candidate for candidate in found}
        return [rows[key] for key in sorted(wanted)]

    def _untrained(self, layers: int, target: str, precision: str) -> tuple[Candidate, Path | None]:
        candidate = Candidate(layers, target, precision, self._kept(layers), trained=False)
        try:
            artifact: Artifact = self.workshop.ask("untrained", candidate.kept_layers, target, precision)
        except _SPOILS as error:
            return _failed(candidate, error), None
        return replace(candidate, bytes=artifact.manifest.bytes), artifact.path

    def _timed(self, pairs: Sequence[tuple[Candidate, Path | None]]) -> list[Candidate]:
        """Candidates with their latencies, all measured in one interleaved run; again while the machine is restless."""
        ready = [(c, path) for c, path in pairs if path is not None and not c.failed]
        contenders = [Contender(path, c.target) for c, path in ready]
        # The full-depth fp32 model is the reference, for the untrained as for the trained.
        reference = next((i for i, (c, _) in enumerate(ready) if c.key == self.teacher_key), 0)
        found = self._calmest(contenders, reference)
        if found.run:
            facts = {"conditions": conditions_facts(found.conditions), "environment": environment()}
            self.journal.remember_run(found.run, **facts)
        done = []
        for (candidate, _), result in zip(ready, found.results, strict=True):
            if isinstance(result, Latency):
                done.append(replace(candidate, latency=result))
            else:
                done.append(_failed(replace(candidate, latency=None), result))
        return done + [c for c, path in pairs if path is None or c.failed]

    def _calmest(self, contenders: Sequence[Contender], reference: int) -> Measurement:
        """Measure, again while the machine is restless, and keep the run in which it was calmest."""
        found = measure(contenders, self.bench_texts, self.request.bench, reference)
        for _ in range(self.request.remeasure):
            if found.conditions is None or not found.conditions.disturbances:
                break
            log.warning("unstable: %s; measuring again", "; ".join(found.conditions.disturbances))
            again = measure(contenders, self.bench_texts, self.request.bench, reference)
            found = min(found, again, key=lambda measured: measured.rank)
        if found.conditions is not None and not found.conditions.stable:
            log.warning("unstable, take these latencies with care: %s", "; ".join(found.conditions.reasons))
        return found

    @cached_property
    def bench_texts(self) -> list[Text]:
        # Train texts: the budget is about the data's lengths, and the test part decides nothing.
        return [text_of(row) for row in sample_texts(self.data.train, _BENCH_TEXTS, self.request.seed)]

    # -- training and judging ------------------------------------------------------------------------

    def _train_and_judge(self, measured: Sequence[Candidate]) -> None:
        wanted = self._depths(measured)
        if not wanted:
            return
        self._settle({*wanted, self.depth})
        self._measure_trained({*wanted, self.depth})

    def _depths(self, measured: Sequence[Candidate]) -> tuple[int, ...]:
        """Depths to train. For a drop alone they are found by training: see :meth:`_search`."""
        offered = self._offered(measured)
        if self.request.exhaustive:
            return self.layers
        if self.request.budget is None:
            return self._search(self.request.max_drop or 0.0)
        depths = depths_to_train(offered, self.request.budget)
        if depths:
            log.info("depths worth training for %s: %s", self.request.budget, ", ".join(map(str, depths)))
        return depths

    def _offered(self, measured: Sequence[Candidate]) -> list[Candidate]:
        """The candidates that were asked for: the teacher is measured in any case."""
        return [c for c in measured if c.layers in self.layers and (c.target, c.precision) in self.ways]

    def _search(self, max_drop: float) -> tuple[int, ...]:
        """The shallowest depth within ``max_drop`` points, by bisection: accuracy grows with depth."""
        depths = sorted({*self.layers, self.depth})
        low, high, tried = 0, len(depths) - 1, {self.depth}
        while low < high:
            middle = (low + high) // 2
            tried.add(depths[middle])
            self._settle({depths[middle], self.depth})
            judged = [c for c in self._judged.values() if c.layers == depths[middle]]
            lost = [points_lost(c, self._judged.get(self.teacher_key)) for c in judged]
            if any(points is not None and points <= max_drop for points in lost):
                high = middle
            else:
                low = middle + 1
        return tuple(sorted(tried))

    @cached_property
    def _finished(self) -> dict[Key, Candidate]:
        """What an earlier run of this fit brought to its end."""
        return {c.key: c for c in self.journal.candidates(trained=True) if c.latency and not c.failed}

    def _settle(self, depths: Iterable[int]) -> None:
        """Train, export, verify and score these depths, deepest first: it is everyone's teacher."""
        for layers in sorted(depths, reverse=True):
            ways = {*self.ways, self.teacher_key[1:]} if layers == self.depth else set(self.ways)
            wanted = [key for way in sorted(ways) if (key := (layers, *way)) not in self._judged]
            rows = [Candidate(*key, self._kept(layers), trained=True) for key in wanted]
            self._judged.update({row.key: row for row in self._judge_all(layers, rows)})

    def _judge_all(self, layers: int, rows: Sequence[Candidate]) -> list[Candidate]:
        """The candidates of one depth, from its trained checkpoint; one that spoils becomes a row that says so."""
        if layers == self.depth:
            # Without a teacher there is nothing to compare with; without one student there are the others.
            self._must("training the teacher", "train", self._kept(layers))
        else:
            try:
                self.workshop.ask("train", self._kept(layers))
            except _SPOILS as error:
                return [self._spoilt(row, error) for row in rows]
        return [self._judge(row) for row in rows]

    def _judge(self, candidate: Candidate) -> Candidate:
        known = self._finished.get(candidate.key)
        try:
            judged: Candidate | None = self.workshop.ask("judge", candidate, [known.digest] if known else [])
        except _SPOILS as error:
            return self._spoilt(candidate, error)
        if judged is None:
            assert known is not None
            return known
        assert judged.test
        name, value = judged.test.name, judged.test.value
        log.info("%s: %s %.4f on test, %.1f MB", judged.name, name, value, judged.bytes / 1e6)
        return judged

    def _spoilt(self, candidate: Candidate, error: Exception) -> Candidate:
        failed = _failed(candidate, error)
        self.journal.append(failed)
        return failed

    def _measure_trained(self, depths: Iterable[int]) -> None:
        """The numbers that decide: every trained candidate, teacher included, in one interleaved run.

        Those of earlier budgets too: a pick is among them, and numbers of different runs are not comparable.
        """
        judged = {key: c for key, c in self._judged.items() if c.layers in set(depths) and not c.failed}
        chosen = list({**self._finished, **judged}.values())
        if self._of_one_run(chosen):
            return
        log.info("measuring %d trained candidates", len(chosen))
        self.journal.append(*self._timed([(c, self.folder / str(c.path)) for c in chosen]))

    def _of_one_run(self, chosen: Sequence[Candidate]) -> bool:
        """Whether the journal has all of these from one measurement."""
        done = self.journal.candidates(trained=True)
        runs = {(c.key, c.digest): c.latency.run for c in done if c.latency and not c.failed}
        names = {runs.get((c.key, c.digest), "") for c in chosen}
        return len(names) == 1 and names != {""}

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
                "warnings": [*_warnings(self.request, self.data), *self.data.notes],
            },
            teacher=list(self.teacher_key),
            offered=[list(c.key) for c in self._offered(measured)],
        )  # fmt: skip
        return report_of(self.journal, limit, target.max_drop)

    def _publish_best(self, pick: Candidate) -> None:
        with stage.publish(self.folder / "best", force=True) as folder:
            shutil.copytree(self.folder / str(pick.path), folder, dirs_exist_ok=True)
