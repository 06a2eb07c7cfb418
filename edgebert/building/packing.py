"""Packed mode for an artifact that has proved itself, and what can be said of it here.

Its operators have no kernels for a CPU. Without a GPU the fused graph that it is made of answers for it, and the
manifest says that the packed one was not executed.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgebert.artifact import Artifact
from edgebert.building.engines import Completed
from edgebert.building.lowering import Once
from edgebert.errors import EnvironmentMissing, UsageError
from edgebert.judging import parity
from edgebert.registry import TARGETS, target_named
from edgebert.serving.rows import Float
from edgebert.serving.tokens import Batch


def check_packed(ways: Sequence[tuple[str, str]], fixed: bool) -> None:
    """Raise UsageError unless all targets and precisions can be packed, and lengths can vary."""
    able = {(target.name, precision) for target in TARGETS.values() for precision in target.packed}
    if wrong := [" ".join(way) for way in ways if way not in able]:
        known = ", ".join(f"--target {target} --precision {precision}" for target, precision in sorted(able))
        raise UsageError(f"no packed mode of {', '.join(wrong)}", "--packed", f"use {known}")
    if fixed:
        raise UsageError("a graph of one shape has nothing to pack", "--packed, --fixed", "leave one of them out")


def packed(
    once: Once, graph: Artifact, target: str, feeds: Sequence[Batch], answers: Sequence[Float],
    reference: Sequence[Float],
) -> Completed:  # fmt: skip
    """The packed form of a proven graph. ``answers`` are the graph's on the feeds, ``reference`` PyTorch's."""
    from edgebert.exporters.pack import PackConfig, pack

    made = once("pack", f"{graph.digest[:16]}-packed", pack, graph, PackConfig())
    try:
        target_named(target).resolve()
    except EnvironmentMissing as error:
        checks = {"executed": False, "because": f"packed graph itself not executed here: {error.what}"}
        return Completed(made, (), answers, {"packed": checks})
    line, _ = parity.onnx_stage("packed", reference, made, feeds, target)
    return Completed(made, (line,), answers, {"packed": {"executed": True}})
