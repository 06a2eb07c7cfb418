"""Exporting: which stages run, in which order, for a target and precision.

An artifact is published only after it has proved itself; what failed leaves its parity ledger behind and
nothing else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebert import stage
from edgebert.artifact import Artifact, Manifest
from edgebert.building.engines import Builder
from edgebert.building.lowering import Lowering
from edgebert.building.packing import check_packed, packed
from edgebert.building.places import bytes_needed, check_free, check_output, depth_name, workplace
from edgebert.building.references import References
from edgebert.building.resizing import kept_layers, pruned
from edgebert.building.schemes import schemes_of
from edgebert.errors import CheckFailed, UsageError
from edgebert.exporters.seal import SealConfig, seal
from edgebert.exporters.signature import OPSET, PORTABLE, GraphConfig, Sizes
from edgebert.judging import parity
from edgebert.machine import file_name
from edgebert.profiles import NO_REQUEST, EngineRequest
from edgebert.progress import bar
from edgebert.registry import check_pair, target_named
from edgebert.serving.rows import Float
from edgebert.serving.tokens import Batch, Text, TextTokenizer
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import open_checkpoint, shape_of
from edgebert.shaping.depth import KEEP_FIRST, TruncateConfig, truncate
from edgebert.shaping.vocab import pruned_name
from edgebert.tasks import TASKS
from edgebert.tolerances import QUANT_DROP
from edgebert.training.data import Data, read

if TYPE_CHECKING:
    from edgebert.exporters.graph import Template
    from edgebert.training.importance import Importance

log = logging.getLogger("edgebert")

# How many of the ledger's texts travel with the artifact as golden vectors.
GOLDEN_TEXTS = 8


@dataclass(frozen=True)
class _Proof:
    """The ledger, what it is about, what that answered on the ledger's feeds, and what else was found."""

    lines: Sequence[parity.Stage]
    artifact: Artifact
    answers: Sequence[Float]
    checks: Mapping[str, Any] = field(default_factory=dict)


class Exporter:
    """Exports checkpoints of one shape, however deep, from one trace.

    ``source`` is the deepest of them; intermediate artifacts live in ``work``. ``texts`` serve the parity
    ledger, ``texts_from`` says where they are from. ``graph`` is what all graphs are like. ``data`` has the texts
    that static int8 and fp8 are calibrated on and the dev part that schemes are judged by; without it ``texts`` serve.
    ``depths`` are those at which the source's first layers will be exported, where that is known. ``quant_drop`` is
    how many points of the task metric 8 bits may lose on dev before modules are left in float. ``engine`` is what is
    asked of targets that run engines. ``packing``: graphs leave the padding inside of batches out.
    """

    def __init__(
        self,
        source: Artifact,
        texts: Sequence[Text],
        texts_from: str,
        work: Path,
        graph: GraphConfig = PORTABLE,
        data: Data | None = None,
        depths: Sequence[int] = (),
        quant_drop: float = QUANT_DROP,
        engine: EngineRequest = NO_REQUEST,
        *,
        packing: bool = False,
    ) -> None:
        self.source, self.texts, self.texts_from, self.work = source, list(texts), texts_from, work
        self.graph, self.data, self._depths, self._quant_drop = graph, data, depths, quant_drop
        self._engine, self._packing = engine, packing
        # The latest fp32 graph's line and outputs: its other precisions are compared with these.
        self._exact: tuple[tuple[str, str], tuple[parity.Stage, list[Float]]] | None = None

    @cached_property
    def template(self) -> Template:
        """The trace, made when the first graph needs it."""
        from edgebert.exporters.graph import trace

        log.info("tracing %s, %d layers", self.source.manifest.name, self.source.manifest.architecture.layers)
        return trace(self.source, self.graph.opset)

    @cached_property
    def feeds(self) -> list[Batch]:
        """The texts as token arrays: each alone, and all in padded batches."""
        return parity.feeds(self._tokenizer, self.texts)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        shapes = [self.graph.fixed, self._engine.profile and self._engine.profile.most]
        longest = min([self.source.manifest.max_length, *(shape[1] for shape in shapes if shape)])
        return TextTokenizer(self.source, longest)

    @cached_property
    def _lowering(self) -> Lowering:
        return Lowering(
            self._once, self._tokenizer, self.texts, self.feeds, self.graph.fixed, self.data, self._quant_drop
        )

    @cached_property
    def references(self) -> References:
        """What PyTorch answers on :attr:`feeds`."""
        return References(self.source, self.feeds, self._depths)

    def truncated(self, keep: Sequence[int]) -> Artifact:
        """The source with the layers ``keep``; the source itself where that is all of them."""
        if tuple(keep) == tuple(range(self.source.manifest.architecture.layers)):
            return self.source
        return self._once(
            "truncate", f"l{'-'.join(map(str, keep))}", truncate, self.source, TruncateConfig(tuple(keep))
        )

    def unproven(self, checkpoint: Artifact, target: str, precision: str) -> Artifact:
        """A checkpoint at a precision, right in shape and speed but not yet verified or complete."""
        check_pair(target, precision)
        if target == "torch":
            return checkpoint
        graph = self._portable(checkpoint)
        scheme, *_ = schemes_of(target, precision)
        as_it_is = scheme == "fp32" and not target_named(target).fused
        return graph if as_it_is else self._lowering.build(graph, target, scheme)

    def _portable(self, checkpoint: Artifact) -> Artifact:
        from edgebert.exporters.graph import build_graph

        name = f"{checkpoint.digest[:16]}-fp32"
        return self._once("graph", name, partial(build_graph, template=self.template), checkpoint, self.graph)

    def export(self, checkpoint: Artifact, target: str, precision: str, out: Path, *, force: bool = False) -> Artifact:
        """Build, verify and publish one artifact. Raises CheckFailed where the ledger says no."""
        reference = self.references.of(checkpoint)
        proof = self._proven(checkpoint, reference, target, precision)
        if not all(line.ok for line in proof.lines):
            self._refuse(proof.lines, out)
        if target_named(target).engine or self._packing:
            proof = self._completed(proof, checkpoint, target, reference)
            if not all(line.ok for line in proof.lines):
                self._refuse(proof.lines, out)
        moved = parity.invariance(proof.answers, len(self.texts))
        checks = {
            "parity": [dataclasses.asdict(line) for line in proof.lines],
            "invariance": dataclasses.asdict(moved),
            **proof.checks,
        }
        finish = partial(seal, checks=checks, golden=self._golden(reference, proof.answers))
        config = SealConfig(target, precision, self.texts_from, proof.artifact.manifest.needs.get("scheme", ""))
        return stage.run("seal", finish, proof.artifact, config, out, force=force)

    def _proven(self, checkpoint: Artifact, reference: Sequence[Float], target: str, precision: str) -> _Proof:
        lines = self._truncation(checkpoint)
        if target == "torch":
            return _Proof(lines, checkpoint, reference)
        graph = self._portable(checkpoint)
        key = graph.digest, target
        if self._exact is None or self._exact[0] != key:
            judge = target_named(target).judge
            self._exact = key, parity.onnx_stage("onnx-fp32", reference, graph, self.feeds, judge)
        line, exact = self._exact[1]
        lines = (*lines, line)
        if precision == "fp32" and not target_named(target).fused:
            return _Proof(lines, graph, exact)
        best, checks = self._lowering.best(graph, exact, target, precision)
        return _Proof((*lines, best.line), best.artifact, best.answers, checks)

    def _completed(self, proof: _Proof, checkpoint: Artifact, target: str, reference: Sequence[Float]) -> _Proof:
        """With what only the target's own hardware could execute: engines, or the graph in packed mode."""
        if self._packing:
            made = packed(self._once, proof.artifact, target, self.feeds, proof.answers, reference)
        else:
            builder = Builder(self._once, self._engine, self.feeds, len(self.texts))
            made = builder.build(proof.artifact, checkpoint, target, proof.answers, reference)
        return _Proof((*proof.lines, *made.lines), made.artifact, made.answers, {**proof.checks, **made.checks})

    def _truncation(self, checkpoint: Artifact) -> tuple[parity.Stage, ...]:
        """Untrained layers must give, to the bit, what the full model gives with the others left out."""
        from edgebert.runtimes.reference import hidden_after

        keep = self.references.kept(checkpoint)
        if keep is None:
            return ()
        full, cut = self.references.hidden(keep), hidden_after(checkpoint, range(len(keep)), self.feeds[-1])
        rows = [[row.ravel() for row in states] for states in (full, cut)]
        return (parity.compare("truncate", "truncate", rows[0], rows[1], None),)

    def _golden(self, reference: Sequence[Float], actual: Sequence[Float]) -> dict[str, Any]:
        # The first texts alone: what one request at a time must give wherever it is deployed.
        arrays: dict[str, Any] = {}
        for index in range(min(GOLDEN_TEXTS, len(self.texts))):
            arrays[f"{index}.output"] = reference[index].astype(np.float32)
            arrays[f"{index}.answer"] = actual[index].astype(np.float32)
            arrays.update({f"{index}.{name}": array for name, array in self.feeds[index].items()})
        return arrays

    def _refuse(self, stages: Sequence[parity.Stage], out: Path) -> None:
        document = {"ok": False, "stages": [dataclasses.asdict(line) for line in stages], "metric": None}
        path = out.with_name(f"{out.name}.parity.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage.write_json(path, document)
        bad = next(line for line in stages if not line.ok)
        numbers = f"error {bad.max_abs_error:.3g} of {bad.tolerance:.3g}, cosine {bad.cosine:.5f} of {bad.min_cosine:g}"
        if bad.label_agreement is not None:
            numbers += f", same label {bad.label_agreement:.1%} of {bad.min_label_agreement:.0%}"
        raise CheckFailed(
            f"parity of {bad.name} failed, {numbers}", str(path), "use --precision fp32, or report the model", document
        )

    def _once(self, step: str, name: str, build: Callable[..., Manifest], source: Artifact, config: Any) -> Artifact:
        path = self.work / name
        if path.exists():
            return Artifact.open(path)
        return stage.run(step, build, source, config, path)


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
    quant_drop: float = QUANT_DROP,
    engine: EngineRequest = NO_REQUEST,
    packing: bool = False,
    force: bool = False,
    tell: Callable[[Importance], None] | None = None,
) -> list[Artifact]:
    """Export a checkpoint at one or several depths, targets and precisions, from one trace; each proves itself first.

    ``keep`` and ``tell`` are :func:`kept_layers`'. ``prune`` names the data whose tokens alone stay in the vocabulary
    (see :func:`pruned`). ``fixed`` (texts, tokens) makes graphs of that one shape; longer texts are then longer than
    the model reads. ``quant_drop`` is how many points of the task metric 8 bits may lose on the data's dev part before
    modules are left in float. ``engine`` says for which GPUs and shapes engines are built. ``packing``
    leaves the padding inside of batches out, on target cuda. Returns the artifacts, published under ``out``. Raises
    UsageError for depths that do not exist or folders that do, InputError for unusable checkpoints or data,
    CheckFailed where parity fails.
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
    _check_engines(engine, ways, source)
    if packing:
        check_packed(ways, fixed=fixed is not None)
    name = source.manifest.name if prune is None else pruned_name(source)
    check_output(source, Path(out))
    rows = read(data, columns) if data is not None else None
    keeps = kept_layers(source, wanted, keep, rows, tell=tell)
    suffix = graph.suffix + "-packed" * packing
    jobs = [(kept, way, Path(out) / (_name(name, kept, *way) + suffix)) for kept in keeps for way in ways]
    check_free([path for _, _, path in jobs], Path(out), force=force)
    needed = bytes_needed(source, [len(kept) for kept in keeps], [p for _, p in ways], len(engine.capabilities))
    needed += 0 if prune is None else sizes.weight_bytes(shape_of(source))["fp32"]
    stage.require_space(Path(out), needed, "export")
    texts, texts_from = parity.ledger_texts(rows, TASKS[source.manifest.task])
    log.info("%s, verified on %s", source.manifest.name, texts_from)
    done = []
    with workplace(Path(out)) as work:
        if prune is not None:
            source = pruned(source, read(prune, columns), work / "pruned")
        depths = [len(kept) for kept in keeps if tuple(kept) == tuple(range(len(kept)))]
        exporter = Exporter(source, texts, texts_from, work, graph, rows, depths, quant_drop, engine, packing=packing)
        for kept, way, path in bar(jobs, "exporting"):
            done.append(exporter.export(exporter.truncated(kept), *way, path, force=force))
            log.info("exported %s (%.1f MB)", path, done[-1].manifest.bytes / 1e6)
    return done


def _check_engines(engine: EngineRequest, ways: Sequence[tuple[str, str]], source: Artifact) -> None:
    """Raise before anything is traced: UsageError for what cannot be built, EnvironmentMissing without the library."""
    built = [(target, precision) for target, precision in ways if target_named(target).engine]
    if not built and engine != NO_REQUEST:
        what = "no target here builds engines"
        raise UsageError(what, "--compute-capability, --profile, --cache-dir", "use --target trt or trt-rtx")
    for target, precision in built:
        from edgebert.exporters.trt_engine import engine_config

        engine_config(target, engine, dataclasses.replace(source.manifest, precision=precision), ())


def _name(name: str, keep: Sequence[int], target: str, precision: str) -> str:
    return file_name(f"{name}-{depth_name(keep)}-{target}-{precision}")


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
