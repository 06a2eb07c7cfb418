"""int8 and fp8 as TensorRT reads them: static scales, symmetric around zero, biases and embeddings left in float.

The rest is that of :mod:`edgebert.exporters.static`, whose unsigned activations TensorRT does not parse.
Sources: TensorRT's documentation on explicit quantization (scales only, zero points must be 0); Micikevicius et al.
2022 (arXiv:2209.05433) for E4M3, which has no infinity and 448 as its largest number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.calibrate import Range
from edgebert.exporters.graph import MODEL, copy_config, module_name, save_graph
from edgebert.exporters.mixed import mix
from edgebert.exporters.quantize import Float, Rewriter, quantize_graph
from edgebert.exporters.static import StaticRewriter
from edgebert.shaping.checkpoint import copy_companions

# From here on QuantizeLinear takes 16-bit floats, and gives 8-bit ones.
_OPSET = 19
# Scales are kept in fp16: below its least normal number they would lose what they scale.
_LEAST_SCALE = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class _Eight:
    """An 8-bit type: what it and its check are called, the graph's type, numpy's, and its largest number in use."""

    name: str
    check: str
    type: ir.DataType
    dtype: Any
    largest: int

    def rounded(self, values: Float) -> npt.NDArray[Any]:
        """Values that are scaled already, to the nearest of the type, even ones first; beyond the largest to it."""
        whole = np.rint(values) if self.type.is_integer() else values
        return np.clip(whole, -self.largest, self.largest).astype(self.dtype)


_EIGHTS = {
    "int8": _Eight("int8", "integer", ir.DataType.INT8, np.int8, 127),
    "fp8": _Eight("fp8", "fp8", ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, 448),
}


@dataclass(frozen=True)
class SymmetricConfig:
    """Settings: the name that the artifact carries, on how many texts ranges were measured, what stays in float.

    ``half`` is the 16-bit type of all that is neither in 8 bits nor must be float32.
    """

    precision: str
    calibration: int
    excluded: tuple[str, ...] = ()
    half: str = "fp16"


def quantize_symmetric(
    source: Artifact, config: SymmetricConfig, out: Path, *, ranges: Mapping[str, Range]
) -> Manifest:
    """Stage: symmetric int8 or fp8 from the portable fp32 graph, with the ``ranges`` that calibration found there.

    Raises CheckFailed, naming them, where a Linear that is not excluded stays in float.
    """
    model = ir.load(source.path / MODEL)
    eight = _EIGHTS[config.precision.partition("-")[0]]
    quantize_graph(SymmetricRewriter(model.graph, eight, ranges), config.excluded)
    products, left = _coverage(model.graph)
    if lost := [name for name in left if name not in config.excluded]:
        raise CheckFailed(f"{len(lost)} Linear layers stayed in float", ", ".join(lost[:3]), "use --precision fp16")
    opset = max(model.graph.opset_imports.get("", 0), _OPSET)
    model.graph.opset_imports[""] = opset
    mix(model.graph, config.half, str(source.path))
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    needs = {**source.manifest.needs, "opset": opset, "scheme": "static", "typed": config.half}
    checks = {**source.manifest.checks, eight.check: {eight.check: {"MatMul": products}, "float": left}}
    return replace(source.manifest, precision=config.precision, needs=needs, checks=checks)


class SymmetricRewriter(StaticRewriter):
    """Writes products with both sides in 8 bits around zero."""

    def __init__(self, graph: ir.Graph, eight: _Eight, ranges: Mapping[str, Range]) -> None:
        super().__init__(graph, eight.largest, ranges)
        self._eight = eight

    def embedding(self, node: ir.Node) -> None:
        """Left as it is: TensorRT has no look-up in integers."""

    def biased(self, node: ir.Node, activation: ir.Value, weight: Float, bias: ir.Value | None, name: str) -> ir.Value:
        """See :class:`~edgebert.exporters.quantize.Rewriter`: the bias is added in float."""
        return Rewriter.biased(self, node, activation, weight, bias, name)

    def _factors(
        self, node: ir.Node, activation: ir.Value, weight: Float, name: str
    ) -> tuple[ir.Value, ir.Value, Float]:
        if activation not in self.quantized:
            self.quantized[activation] = self._rounded(node, activation)
        # The 8 bits are those of the scales as fp16 holds them.
        scales = _as_stored(np.abs(weight).max(axis=0) / self.limit)
        values = self._eight.rounded(weight / scales)
        inputs = [self.initializer(f"{name}.{self._eight.name}", values), self.initializer(f"{name}.scale", scales)]
        (right,) = self._float(self.insert(node, "DequantizeLinear", list(inputs), {"axis": 1}), values.shape)
        return self.quantized[activation][0], right, scales

    def _rounded(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ...]:
        found = self._ranges[str(activation.name)]
        scale = _as_stored(np.array(max(abs(found.low), abs(found.high)) / self.limit))
        step = [
            self.initializer(f"{activation.name}.scale", scale),
            self.initializer(f"{activation.name}.zero", np.array(0, self._eight.dtype)),
        ]
        (rounded,) = self.insert(node, "QuantizeLinear", [activation, *step])
        rounded.dtype = self._eight.type
        return self._float(self.insert(node, "DequantizeLinear", [rounded, *step]), activation.shape)

    def product(self, node: ir.Node, activation: ir.Value, weight: Float, name: str) -> ir.Value:
        """See :class:`~edgebert.exporters.quantize.Rewriter`."""
        return self._float((super().product(node, activation, weight, name),), None)[0]

    def _float(self, values: tuple[ir.Value, ...], shape: Any) -> tuple[ir.Value, ...]:
        for value in values:
            value.dtype = ir.DataType.FLOAT
            value.shape = None if shape is None else ir.Shape(shape)
        return values


def _as_stored(scales: Any) -> Float:
    stored: Float = np.maximum(scales, _LEAST_SCALE).astype(np.float16).astype(np.float32)
    return stored


def _coverage(graph: ir.Graph) -> tuple[int, list[str]]:
    """How many products with weights have both sides in 8 bits, and the modules of those that have neither."""
    products, in_float = 0, []
    for node in graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is None:
            continue
        if weight.is_initializer():
            in_float.append(module_name(weight))
        elif _dequantized(weight) and _dequantized(node.inputs[0]):
            products += 1
    return products, in_float


def _dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
