"""What a graph is from outside: its operator set, and whether it takes every shape or a single one.

Plain values, without a framework: the command line and the plan of a build read them too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgebert.artifact import Manifest, TensorSpec
from edgebert.errors import UsageError

OPSET = 18
# What PyTorch's exporter writes without converting and ONNX Runtime reads.
OPSETS = range(OPSET, 24)
# Room for the special tokens of a pair and some of the text.
SHORTEST = 8

Sizes = tuple[int, int]


@dataclass(frozen=True)
class GraphConfig:
    """Settings of the graph stage: the ONNX operator set, and batch and sequence where these are fixed."""

    opset: int = OPSET
    fixed: Sizes | None = None

    @property
    def suffix(self) -> str:
        """What tells this graph from the usual one in a folder's name."""
        opset = "" if self.opset == OPSET else f"-opset{self.opset}"
        return opset + ("" if self.fixed is None else "-{}x{}".format(*self.fixed))

    def check(self, longest: int) -> None:
        """Raise UsageError for a graph that cannot be made of a model that reads ``longest`` tokens."""
        if self.opset not in OPSETS:
            raise UsageError(f"no opset {self.opset}", "--opset", f"a number from {OPSETS[0]} to {OPSETS[-1]}")
        if self.fixed is None:
            return
        batch, sequence = self.fixed
        if batch < 1 or not SHORTEST <= sequence <= longest:
            what = f"cannot fix the shape to {batch}x{sequence}"
            raise UsageError(what, "--fixed", f"1 text or more, {SHORTEST} to {longest} tokens")


PORTABLE = GraphConfig()


def with_sizes(manifest: Manifest, fixed: Sizes | None) -> Manifest:
    """The manifest of a graph with these sizes: in its inputs and output, and as the most tokens it reads."""
    if fixed is None:
        return manifest
    sizes = dict(zip(("batch", "sequence"), fixed, strict=True))

    def sized(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=tuple(sizes.get(str(name), name) for name in spec.shape))

    return replace(
        manifest,
        inputs=tuple(map(sized, manifest.inputs)),
        outputs=tuple(map(sized, manifest.outputs)),
        max_length=min(manifest.max_length, fixed[1]),
    )
