"""Engines for an artifact that has proved itself, and what can be said of them here.

An engine is native code for a GPU. Where that GPU is not at hand the graph that went into it answers for it, on the
CPU, and the manifest says that the engine itself was not executed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from edgebert.artifact import Artifact
from edgebert.building.lowering import Once
from edgebert.errors import EnvironmentMissing
from edgebert.judging import parity
from edgebert.profiles import EngineRequest, Profile
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.rows import Float, outputs
from edgebert.serving.tokens import Batch
from edgebert.tasks import TASKS


@dataclass(frozen=True)
class Completed:
    """An artifact as its hardware runs it, the lines that adds to the ledger, the answers that count, and what else
    was found."""

    artifact: Artifact
    lines: Sequence[parity.Stage]
    answers: Sequence[Float]
    checks: Mapping[str, Any]


@dataclass(frozen=True)
class Builder:
    """Adds engines to artifacts of one source. ``feeds`` are the ledger's; ``texts`` of them are single texts."""

    once: Once
    request: EngineRequest
    feeds: Sequence[Batch]
    texts: int

    def build(
        self, graph: Artifact, checkpoint: Artifact, target: str, answers: Sequence[Float], reference: Sequence[Float]
    ) -> Completed:
        """Engines of a proven graph. ``answers`` are the graph's on the feeds, ``reference`` PyTorch's."""
        from edgebert.exporters.trt_engine import build_engines, engine_config

        config = engine_config(target, self.request, graph.manifest, self._lengths)
        lines = [self._corners(graph, checkpoint, target, Profile.of(config.profile))]
        build = partial(build_engines, cache_dir=self.request.cache_dir)
        built = self.once("engine", f"{graph.digest[:16]}-{target}-engine", build, graph, config)
        not_here = _obstacle(target, config.capabilities)
        if not_here:
            checks = {"executed": False, "because": f"engine itself not executed here: {not_here}"}
            return Completed(built, lines, answers, {"engine": checks})
        trusting = SessionConfig(trust_engine=True)
        line, answers = parity.onnx_stage("engine", reference, built, self.feeds, target, trusting)
        return Completed(built, [*lines, line], answers, {"engine": {"executed": True}})

    @property
    def _lengths(self) -> list[int]:
        return [feed["input_ids"].shape[1] for feed in self.feeds[: self.texts]]

    def _corners(self, graph: Artifact, checkpoint: Artifact, target: str, profile: Profile) -> parity.Stage:
        """The line of the profile's corners: batches of these very shapes, in PyTorch and in the graph."""
        from edgebert.runtimes.reference import reference_session

        batches = [self._filled(sizes) for sizes in profile.corners]
        run = parity.runner(reference_session(checkpoint), checkpoint)
        expected = outputs(run, batches, TASKS[graph.manifest.task].compared)
        line, _ = parity.onnx_stage("corners", expected, graph, batches, target_named(target).judge)
        return dataclasses.replace(line, name=f"corners {profile}")

    def _filled(self, sizes: tuple[int, int]) -> Batch:
        """The texts' tokens, one after the other, in that shape."""
        rows, length = sizes

        def full(name: str) -> Any:
            tokens = np.concatenate([feed[name][0] for feed in self.feeds[: self.texts]])
            return np.fromiter(islice(cycle(tokens), rows * length), np.int64).reshape(rows, length)

        return {name: full(name) for name in self.feeds[0]}


def _obstacle(target: str, capabilities: Sequence[str]) -> str:
    """Why none of these engines can run here; empty where one can."""
    try:
        target_named(target).resolve()
    except EnvironmentMissing as error:
        return error.what
    from edgebert.runtimes import device

    here = device.capability()
    return "" if here in capabilities else f"this GPU has compute capability {here}"
