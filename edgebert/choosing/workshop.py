"""Where a fit's candidates are made: the head, the depths, training, exports, scores.

It runs as a child process of the fit (:class:`Isolated`), so that what crashes an engine or eats all memory
costs one candidate and not the night's work. Everything made lies in the fit's folder; answers are small.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.child import Child, ChildDied, serve
from edgebert.choosing.candidate import Candidate
from edgebert.choosing.journal import Journal
from edgebert.choosing.request import FitRequest
from edgebert.errors import CheckFailed
from edgebert.judging import parity
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import Scores
from edgebert.serving.model import Model, load
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Data, read

if TYPE_CHECKING:
    from edgebert.training.importance import Importance
    from edgebert.training.plan import TrainConfig

log = logging.getLogger("edgebert")


class Isolated:
    """A workshop in a process of its own; one that died is replaced at the next question.

    ``lock`` is the file descriptor of the folder's lock, held for as long as anyone works there.
    """

    def __init__(self, request: FitRequest, lock: int) -> None:
        self._request, self._lock = request, lock
        self._child: Child | None = None

    def ask(self, method: str, *arguments: object) -> Any:
        """What the workshop's method answers. Raises what it raised, ChildBug or ChildDied."""
        if self._child is None:
            self._child = Child("edgebert.choosing.workshop", self._request, (self._lock,))
        try:
            return self._child.ask(method, *arguments)
        except ChildDied:
            self.close()
            raise

    def close(self) -> None:
        """End the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.close()


class Workshop:
    """Makes what is asked for, or opens what an earlier run of the same fit has made."""

    def __init__(self, request: FitRequest) -> None:
        self.request, self.folder = request, request.folder
        self.journal = Journal(request.folder)
        source = open_checkpoint(request.model)
        self.depth = source.manifest.architecture.layers
        self.start, self.data, self.ready = self._starting_point(source)

    def _starting_point(self, source: Artifact) -> tuple[Artifact, Data, bool]:
        """The full-depth checkpoint with the task's head, the data in its labels, whether it needs no training."""
        data = read(self.request.data, self.request.columns, self.request.seed)
        if not build.learns_labels(source, data):
            return source, data, True
        out = self.folder / "checkpoints" / "start"
        start, data, ready = build.with_head(self.request.model, data, out, self.request.seed)
        if not ready:
            name, count = source.manifest.name, len(start.manifest.labels)
            what = f"these {count} labels" if count else "this task"
            log.info("%s is not fine-tuned for %s: a teacher will be trained first", name, what)
        return start, data, ready

    def begin(self) -> Artifact:
        """The full-depth checkpoint that everything starts from; the test texts are kept for the report."""
        if self.data.kind == "label":
            self.journal.save_texts(self.data.test)
        return self.start

    def importance(self) -> Importance:
        """What ``keep`` auto goes by. Measured once a folder: whoever goes on there must keep the same layers."""
        from edgebert.training.importance import Importance, measure_importance

        known = self.journal.facts().get("importance")
        if known is not None:
            return Importance.from_dict(known)
        base, data, tuned = self._base
        found = measure_importance(base, data, tuned=tuned, seed=self.request.seed)
        self.journal.remember(importance=found.to_dict())
        return found

    def untrained(self, keep: Sequence[int], target: str, precision: str) -> Artifact:
        """The layers ``keep`` exported as they are: right in size and speed. Raises CheckFailed."""
        return self._exporter.unproven(self._exporter.truncated(keep), target, precision)

    @cached_property
    def _exporter(self) -> build.Exporter:
        """Exports every depth from one trace, verified on train texts."""
        work = self.folder / "work" / "stages"
        texts, told = parity.ledger_texts(self.data)
        drop = self.request.quant_drop
        return build.Exporter(self.start, texts, told, work, data=self.data, quant_drop=drop)

    # -- training ------------------------------------------------------------------------------------

    def train(self, keep: Sequence[int]) -> Artifact:
        """The trained checkpoint of the layers ``keep``; all of them are the teacher. Raises CheckFailed."""
        layers = len(keep)
        if layers == self.depth:
            return self._teacher
        if self.request.student.exits:
            return self._together[layers]
        if not (self.folder / "checkpoints" / f"l{layers}").exists():
            log.info("training %d layers", layers)
        base = self._student_start(keep)
        return self._trained(base, self.request.student, f"l{layers}", teacher=self._teacher)

    @cached_property
    def _together(self) -> dict[int, Artifact]:
        """The students of all depths, by their layers, where the method trains them in one run."""
        depths, places = self.request.student.exits, self.folder / "checkpoints"
        sources = {places / f"l{depth}": self._student_start(range(depth)) for depth in depths}
        work = self.folder / "work"
        made = build.train_together(sources, self.request.student, data=self.data, teacher=self._teacher, work=work)
        return dict(zip(depths, made, strict=True))

    @cached_property
    def _teacher(self) -> Artifact:
        if self.ready:
            return self.start
        if not (self.folder / "checkpoints" / "teacher").exists():
            log.info("fine-tuning the teacher, %d layers", self.depth)
        recipe = self.request.teacher_config(self.start, self.data.labels)
        return self._trained(self.start, recipe, "teacher", teacher=None)

    @cached_property
    def _base(self) -> tuple[Artifact, Data, bool]:
        """The checkpoint that students are cut from, the data in its labels, whether its head was trained before."""
        if self.request.init_from is None:
            return self.start, self.data, self.ready
        if not build.learns_labels(self.start, self.data):
            return open_checkpoint(self.request.init_from), self.data, True
        out = self.folder / "checkpoints" / "base"
        return build.with_head(self.request.init_from, self.data, out, self.request.seed)

    def _student_start(self, keep: Sequence[int]) -> Artifact:
        if self.request.init_from is None:
            return self._exporter.truncated(keep)
        return build.Exporter(self._base[0], [], "", self.folder / "work" / "base").truncated(keep)

    def _trained(self, source: Artifact, config: TrainConfig, name: str, *, teacher: Artifact | None) -> Artifact:
        if config.method == "none":
            teacher = None
        out, work = self.folder / "checkpoints" / name, self.folder / "work" / f"train-{name}"
        return build.train_stage(source, config, out, data=self.data, teacher=teacher, work=work)

    # -- judging -------------------------------------------------------------------------------------

    def judge(self, candidate: Candidate, known: Sequence[str]) -> Candidate | None:
        """A candidate through export, verification and its metric. Raises CheckFailed.

        None where the artifact's digest is one of ``known``: it was judged before.
        """
        target, precision = candidate.target, candidate.precision
        out = self.folder / "artifacts" / f"l{candidate.layers}-{target}-{precision}"
        checkpoint = self.train(candidate.kept_layers)
        artifact = Artifact.open(out) if out.exists() else self._exporter.export(checkpoint, target, precision, out)
        if artifact.digest in known:
            return None
        dev, test = self._evaluated(artifact)
        self.journal.save_scores(candidate, dev, test)
        return replace(
            candidate,
            bytes=artifact.manifest.bytes, dev=dev.metric_value(), test=test.metric_value(),
            path=str(out.relative_to(self.folder)), digest=artifact.digest,
            stages=tuple(artifact.manifest.checks["parity"]),
        )  # fmt: skip

    def _evaluated(self, artifact: Artifact) -> tuple[Scores, Scores]:
        with load(artifact.path, threads=self.request.bench.threads) as model:
            reference = self._reference_model(artifact, model)
            try:
                dev = evaluate(model, self.data.dev, reference)
                return dev, dev if self.data.test_is_dev else evaluate(model, self.data.test, reference)
            finally:
                if reference is not None and reference is not model:
                    reference.close()

    def _reference_model(self, artifact: Artifact, model: Model) -> Model | None:
        """What an encoder on unrated text is compared with: the full-depth fp32 one."""
        if artifact.manifest.pooling is None:
            return None
        path = self.folder / "artifacts" / "l{}-{}-{}".format(*self.request.teacher_key(self.depth))
        if path == artifact.path:
            return model
        if not path.exists():
            raise CheckFailed("no full-depth fp32 encoder to compare with", str(path), "see why that one failed")
        return load(path)


if __name__ == "__main__":
    serve(Workshop)
