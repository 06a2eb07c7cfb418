"""From the fp32 graph to another precision: which way, proven by the ledger and, where it has 8 bits, by the task."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from edgebert.artifact import Artifact, Manifest
from edgebert.building.calibration import calibration_feeds, calibration_texts
from edgebert.building.rescue import Rescue, rescued
from edgebert.building.schemes import Loss, Trial, best_of, loss_of, schemes_of, told
from edgebert.errors import CheckFailed
from edgebert.exporters.signature import Sizes
from edgebert.graph_guard import GRAPH
from edgebert.judging import parity
from edgebert.judging.evaluate import scores_on_dev
from edgebert.judging.metrics import Scores
from edgebert.registry import target_named
from edgebert.serving.rows import Float
from edgebert.serving.tokens import Batch, Text, TextTokenizer
from edgebert.tolerances import QUANT_DROP, is_eight_bit
from edgebert.training.data import Data

log = logging.getLogger("edgebert")


class Once(Protocol):
    """Runs a stage into the folder of intermediate artifacts, or opens what it made there before."""

    def __call__(self, step: str, name: str, build: Callable[..., Manifest], source: Artifact, config: Any) -> Artifact:
        """The artifact; ``name`` is that of its folder."""


@dataclass
class Lowering:
    """Builds fp32 graphs in other precisions. ``texts`` are the ledger's, ``feeds`` the same as token arrays.

    ``data`` has the texts that static int8 and fp8 are calibrated on and the dev part that judges; without it ``texts``
    serve, and the ledger judges. ``quant_drop`` is how many points these may lose there. ``fixed`` is the graphs' one
    shape, where they have one.
    """

    once: Once
    tokenizer: TextTokenizer
    texts: Sequence[Text]
    feeds: Sequence[Batch]
    fixed: Sizes | None
    data: Data | None
    quant_drop: float = QUANT_DROP
    # Of the latest graph: the scores on dev of its fp32 form, the ranges of its activations.
    _scores: dict[str, Scores | None] = field(default_factory=dict)
    _ranges: dict[str, Any] = field(default_factory=dict)

    def build(self, graph: Artifact, target: str, precision: str, excluded: Sequence[str] = ()) -> Artifact:
        """The graph in a precision that is no choice between others, with the modules ``excluded`` left in float."""
        from edgebert.exporters.precision import PrecisionConfig, set_precision
        from edgebert.exporters.quantize import DynamicConfig, quantize_dynamic
        from edgebert.exporters.static import StaticConfig, quantize_static

        name = "-".join([graph.digest[:16], target, precision, *_short(excluded)])
        if target_named(target).fused:
            return self._fused(graph, precision, name)
        if target_named(target).typed:
            return self._typed(graph, precision, excluded, name)
        if precision == "bf16":
            return self.once("precision", name, set_precision, graph, PrecisionConfig(target, precision))
        if precision == "int8-dynamic":
            return self.once("quantize", name, quantize_dynamic, graph, DynamicConfig.for_this_cpu(precision, excluded))
        texts = calibration_texts(self.data, self.texts)
        config = StaticConfig.for_this_cpu(precision, target, len(texts), excluded)
        build = partial(quantize_static, ranges=self._calibrated(graph, texts))
        return self.once("quantize-static", name, build, graph, config)

    def _fused(self, graph: Artifact, precision: str, name: str) -> Artifact:
        from edgebert.exporters.cuda_fuse import FuseConfig, fuse

        return self.once("fuse", name, fuse, graph, FuseConfig(precision))

    def _typed(self, graph: Artifact, precision: str, excluded: Sequence[str], name: str) -> Artifact:
        """The graph with its precision written into it; around 8 bits is fp16."""
        from edgebert.exporters.mixed import MixedConfig, to_mixed
        from edgebert.exporters.symmetric import SymmetricConfig, quantize_symmetric

        if not is_eight_bit(precision):
            return self.once("mixed", name, to_mixed, graph, MixedConfig(precision))
        texts = calibration_texts(self.data, self.texts)
        config = SymmetricConfig(precision, len(texts), tuple(excluded))
        build = partial(quantize_symmetric, ranges=self._calibrated(graph, texts))
        return self.once("quantize-symmetric", name, build, graph, config)

    def best(
        self, graph: Artifact, exact: Sequence[Float], target: str, precision: str
    ) -> tuple[Trial, dict[str, Any]]:
        """The trial that keeps the task best, and what the manifest tells of how it was found.

        ``exact`` are the fp32 graph's outputs on the feeds. Raises CheckFailed where no scheme is possible, or none
        keeps the task.
        """
        trials = self._possible(graph, exact, target, precision)
        best = best_of(trials)
        checks: dict[str, Any] = {"schemes": choice} if (choice := told(trials, best)) else {}
        if is_eight_bit(precision) and (because := self._lost(graph, best)):
            log.info("%s %s: looking for what must stay in float", best.precision, because)
            rescue = self._rescued(graph, exact, target, best, because)
            best = rescue.trial
            log.info("%d modules stay in float: %s", len(rescue.effects), ", ".join(rescue.effects))
            modules = [{"module": name, "mean_abs_error": effect} for name, effect in rescue.effects.items()]
            checks["excluded"] = {"because": because, "modules": modules}
        if (loss := self._loss(graph, best)) is not None:
            checks["loss"] = asdict(loss)
        return best, checks

    def _loss(self, graph: Artifact, trial: Trial) -> Loss | None:
        return None if trial.scores is None else loss_of(trial, self._exact_scores(graph))

    def _lost(self, graph: Artifact, trial: Trial) -> str:
        """What 8 bits lost that they may not; empty where it kept enough."""
        loss = self._loss(graph, trial)
        if loss is not None and loss.exceeds(self.quant_drop):
            return f"lost {-loss.points:.2f} points on dev, {self.quant_drop:g} are allowed"
        return "" if trial.line.ok else f"was {trial.line.max_abs_error:.2g} off, {trial.line.tolerance:.2g} is allowed"

    def _possible(self, graph: Artifact, exact: Sequence[Float], target: str, precision: str) -> list[Trial]:
        trials, refused = [], None
        for scheme in schemes_of(target, precision):
            try:
                trials.append(self._trial(graph, exact, target, scheme))
            except CheckFailed as error:
                # The engine would compute some of it in float; another scheme may do.
                log.info("%s is not possible here: %s", scheme, error)
                refused = error
        if refused and not trials:
            raise refused
        return trials

    def _trial(
        self, graph: Artifact, exact: Sequence[Float], target: str, scheme: str, excluded: Sequence[str] = ()
    ) -> Trial:
        built = self.build(graph, target, scheme, excluded)
        judge = target_named(target).judge
        line, answers = parity.onnx_stage(scheme.partition("-")[0], exact, built, self.feeds, judge)
        judged = is_eight_bit(scheme) and self.data is not None
        scores = scores_on_dev(built, self.data) if judged and self.data is not None else None
        return Trial(scheme, built, line, answers, scores)

    def _rescued(self, graph: Artifact, exact: Sequence[Float], target: str, best: Trial, because: str) -> Rescue:
        from edgebert.exporters.quantize import quantizable

        modules = quantizable(graph.path / GRAPH)
        found = rescued(
            modules,
            lambda name: self._effect(graph, exact, target, best.precision, [m for m in modules if m != name]),
            lambda excluded: self._trial(graph, exact, target, best.precision, excluded),
            lambda trial: not self._lost(graph, trial),
        )
        if found is None:
            what = f"{best.precision.partition('-')[0]} {because}, and no modules in float mend it"
            raise CheckFailed(what, str(graph.path), "raise --quant-drop, or use --precision fp32")
        return found

    def _effect(
        self, graph: Artifact, exact: Sequence[Float], target: str, scheme: str, excluded: Sequence[str]
    ) -> float:
        """The mean error of the outputs with only the modules that are not ``excluded`` in 8 bits."""
        built = self.build(graph, target, scheme, excluded)
        feeds, rows = parity.padded_part(len(self.texts))
        line, _ = parity.onnx_stage(scheme, exact[rows], built, self.feeds[feeds], target_named(target).judge)
        # There is one for every module: only the number is of use.
        shutil.rmtree(built.path)
        return line.mean_abs_error

    def _exact_scores(self, graph: Artifact) -> Scores | None:
        if graph.digest not in self._scores and self.data is not None:
            self._scores = {graph.digest: scores_on_dev(graph, self.data)}
        return self._scores.get(graph.digest)

    def _calibrated(self, graph: Artifact, texts: Sequence[Text]) -> Mapping[str, Any]:
        from edgebert.exporters.calibrate import measure_ranges

        if graph.digest not in self._ranges:
            found = measure_ranges(graph, calibration_feeds(self.tokenizer, texts, self.fixed))
            self._ranges = {graph.digest: found}
        ranges: Mapping[str, Any] = self._ranges[graph.digest]
        return ranges


def _short(names: Sequence[str]) -> list[str]:
    """A part of a file name that stands for a list of modules."""
    return [hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]] if names else []
