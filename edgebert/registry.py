"""The table of targets: which runtime serves each, which precisions it has, which extra brings it.

Adding a runtime is one file under ``runtimes/`` and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edgebert.errors import EnvironmentMissing, UsageError, missing_package


@dataclass(frozen=True)
class Target:
    """Where an artifact runs. ``runtime`` is ``module:function``, imported only when used.

    ``unsaturated``: sums of 8-bit products are right on every CPU, also those of weights that were made for VNNI.
    ``lanes``: calls at once can each have threads of their own.
    ``ready`` names, in the same way, what raises EnvironmentMissing where the machine lacks more than the package.
    ``extra`` brings the package where several do. ``typed``: the engine computes in the types that stand in the graph.
    ``fused``: it has operators of its own for what BERT is made of; ``packed`` are the precisions in which these can
    leave the padding inside of batches out. ``engine``: it runs what was built of the graph beforehand. ``judged_on``
    is the target whose runtime stands in for this one's while a graph is built.
    """

    name: str
    runtime: str
    package: str
    precisions: tuple[str, ...]
    unsaturated: bool = False
    lanes: bool = False
    ready: str = ""
    extra: str = ""
    typed: bool = False
    fused: bool = False
    packed: tuple[str, ...] = ()
    engine: bool = False
    judged_on: str = ""

    def resolve(self) -> Any:
        """The runtime's ``open`` function. Raises EnvironmentMissing, with the remedy, for what this machine lacks."""
        if find_spec(self.package) is None:
            raise missing_package(self.package, self.extra)
        try:
            if self.ready:
                _function(self.ready)()
            return _function(self.runtime)
        except ModuleNotFoundError as error:
            # What the package itself does not bring, such as the way to the GPU.
            raise missing_package(error.name or self.package, self.extra) from None

    @property
    def judge(self) -> str:
        """The target that graphs for this one are judged on while they are built."""
        return self.judged_on or self.name


def _function(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


# What TensorRT takes.
_TYPED = ("fp32", "fp16", "bf16", "int8", "int8-static", "fp8")
_GPU = "edgebert.runtimes.device:require"

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target(
            "cpu",
            "edgebert.runtimes.ort:open",
            "onnxruntime",
            ("fp32", "int8", "int8-dynamic", "int8-static"),
            unsaturated=True,
            lanes=True,
        ),
        Target(
            "openvino",
            "edgebert.runtimes.ov:open",
            "openvino",
            ("fp32", "bf16", "int8", "int8-static"),
            lanes=True,
        ),
        Target("torch", "edgebert.runtimes.reference:open", "torch", ("fp32",)),
        Target(
            "cuda",
            "edgebert.runtimes.ort_gpu:open_cuda",
            "onnxruntime",
            ("fp32", "fp16", "bf16"),
            ready="edgebert.runtimes.ort_gpu:require_cuda",
            extra="gpu",
            fused=True,
            packed=("fp32", "fp16"),
            judged_on="cpu",
        ),
        Target(
            "ort-trt",
            "edgebert.runtimes.ort_gpu:open_trt",
            "onnxruntime",
            ("fp32", "fp16", "int8", "int8-static"),
            unsaturated=True,
            ready="edgebert.runtimes.ort_gpu:require_trt",
            extra="gpu",
            typed=True,
            judged_on="cpu",
        ),
        Target(
            "trt", "edgebert.runtimes.trt:open_trt", "tensorrt", _TYPED,
            unsaturated=True, ready=_GPU, typed=True, engine=True, judged_on="cpu",
        ),
        Target(
            "trt-rtx", "edgebert.runtimes.trt:open_rtx", "tensorrt_rtx", _TYPED,
            unsaturated=True, ready=_GPU, typed=True, engine=True, judged_on="cpu",
        ),
    )
}  # fmt: skip


def target_named(name: str) -> Target:
    """The target of that name. Raises UsageError listing those there are."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}", "--target", f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def targets_here() -> list[str]:
    """The targets that this machine can run."""
    return [name for name, target in TARGETS.items() if _runs(target)]


def _runs(target: Target) -> bool:
    try:
        target.resolve()
    except EnvironmentMissing:
        return False
    return True


def check_pair(target: str, precision: str) -> None:
    """Raise UsageError, listing what exists, unless the target has that precision."""
    if precision not in target_named(target).precisions:
        pairs = "; ".join(f"{t.name}: {', '.join(t.precisions)}" for t in TARGETS.values())
        raise UsageError(f"no precision {precision} on target {target}", "--precision", f"there are {pairs}")
