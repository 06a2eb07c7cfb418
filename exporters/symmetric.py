"""int8 as TensorRT reads it: static scales, symmetric around zero, no integer biases, embeddings left in float.

The rest is that of :mod:`edgebert.exporters.static`, whose unsigned activations TensorRT does not parse.
Source: TensorRT's documentation on explicit quantization (scales only, zero points must be 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.calibrate import Range
from edgebert.exporters.graph import MODEL, copy_config, module_name, save_graph
from edgebert.exporters.mixed import mix
from edgebert.exporters.quantize import Float, Rewriter, quantize_graph
from edgebert.exporters.static import StaticRewriter
from edgebert.shaping.checkpoint import copy_companions

_LIMIT = 127
# From here on QuantizeLinear takes 16-bit floats.
_OPSET = 19
# Scales are kept in fp16: below its least normal number they would lose what they scale.
_LEAST_SCALE = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class SymmetricConfig:
    """Settings: the name that the artifact carries, on how many texts ranges were measured, what stays in float.

    ``half`` is the 16-bit type of all that is neither int8 nor must be float32.
    """

    precision: str
    calibration: int
    excluded: tuple[str, ...] = ()
    half: str = "fp16"


def quantize_symmetric(
    source: Artifact, config: SymmetricConfig, out: Path, *, ranges: Mapping[str, Range]
) -> Manifest:
    """Stage: symmetric int8 from the portable fp32 graph, with the ``ranges`` that calibration found there.

    Raises CheckFailed, naming them, where a Linear that is not excluded stays in float.
    """
    model = ir.load(source.path / MODEL)
    quantize_graph(SymmetricRewriter(model.graph, _LIMIT, ranges), config.excluded)
    coverage = integer_coverage(model.graph)
    if left := [name for name in coverage["float"] if name not in config.excluded]:
        raise CheckFailed(f"{len(left)} Linear layers stayed in float", ", ".join(left[:3]), "use --precision fp16")
    opset = max(model.graph.opset_imports.get("", 0), _OPSET)
    model.graph.opset_imports[""] = opset
    mix(model.graph, config.half, str(source.path))
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    needs = {**source.manifest.needs, "opset": opset, "scheme": "static", "typed": config.half}
    checks = {**source.manifest.checks, "integer": coverage}
    return replace(source.manifest, precision=config.precision, needs=needs, checks=checks)


class SymmetricRewriter(StaticRewriter):
    """Writes products with both sides in int8 around zero."""

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
        # The integers are those of the scales as fp16 holds them.
        scales = _as_stored(np.abs(weight).max(axis=0) / _LIMIT)
        values = np.clip(np.rint(weight / scales), -_LIMIT, _LIMIT).astype(np.int8)
        inputs = [self.initializer(f"{name}.int8", values), self.initializer(f"{name}.scale", scales)]
        (right,) = self._float(self.insert(node, "DequantizeLinear", list(inputs), {"axis": 1}), values.shape)
        return self.quantized[activation][0], right, scales

    def _rounded(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ...]:
        found = self._ranges[str(activation.name)]
        scale = _as_stored(np.array(max(abs(found.low), abs(found.high)) / _LIMIT))
        step = [
            self.initializer(f"{activation.name}.scale", scale),
            self.initializer(f"{activation.name}.zero", np.array(0, np.int8)),
        ]
        (integers,) = self.insert(node, "QuantizeLinear", [activation, *step])
        integers.dtype = ir.DataType.INT8
        return self._float(self.insert(node, "DequantizeLinear", [integers, *step]), activation.shape)

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


def integer_coverage(graph: ir.Graph) -> dict[str, Any]:
    """Which products with weights have both sides in integers; see the same of :mod:`edgebert.exporters.quantize`."""
    integer, in_float = 0, []
    for node in graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is None:
            continue
        if weight.is_initializer():
            in_float.append(module_name(weight))
        elif _dequantized(weight) and _dequantized(node.inputs[0]):
            integer += 1
    return {"integer": {"MatMul": integer}, "float": in_float}


def _dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
