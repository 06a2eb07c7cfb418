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
    """

    name: str
    runtime: str
    package: str
    precisions: tuple[str, ...]
    unsaturated: bool = False
    lanes: bool = False

    def resolve(self) -> Any:
        """The runtime's ``open`` function. Raises EnvironmentMissing naming the extra to install."""
        if find_spec(self.package) is None:
            raise missing_package(self.package)
        module, _, function = self.runtime.partition(":")
        return getattr(import_module(module), function)


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
    )
}

# Names that users will type because other versions and other tools have them.
_ELSEWHERE = ("cuda", "ort-trt", "trt", "trt-rtx")


def target_named(name: str) -> Target:
    """The target of that name. Raises UsageError, or EnvironmentMissing for one that has no runtime yet."""
    if name in TARGETS:
        return TARGETS[name]
    known = ", ".join(TARGETS)
    if name in _ELSEWHERE:
        raise EnvironmentMissing(
            f"no runtime for target {name}", "this version of edgebert", f"use --target with one of {known}"
        )
    raise UsageError(f"unknown target {name!r}", "--target", f"one of {known}")


def check_pair(target: str, precision: str) -> None:
    """Raise UsageError, listing what exists, unless the target has that precision."""
    if precision not in target_named(target).precisions:
        pairs = "; ".join(f"{t.name}: {', '.join(t.precisions)}" for t in TARGETS.values())
        raise UsageError(f"no precision {precision} on target {target}", "--precision", f"there are {pairs}")
