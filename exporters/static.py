"""int8 with scales that are known beforehand: static quantization of the portable graph in the QDQ form.

Weights are quantized as :mod:`edgebert.exporters.quantize` does; an activation that a Linear reads goes through a
QuantizeLinear and a DequantizeLinear with the range that calibration found. Engines fold these pairs into integer
products. What a text becomes then depends neither on its neighbours nor on padding.
Sources: ONNX operators QuantizeLinear and DequantizeLinear; Wu et al. 2020 (arXiv:2004.09602) for the scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgebert.artifact import Artifact, Manifest
from edgebert.exporters.calibrate import Range, scale_and_zero
from edgebert.exporters.graph import MODEL, copy_config, save_graph
from edgebert.exporters.quantize import Float, Rewriter, quantize_columns, quantize_graph, require_integer
from edgebert.machine import has_int8_dot, isa
from edgebert.shaping.checkpoint import copy_companions


@dataclass(frozen=True)
class StaticConfig:
    """Settings of static quantization for a target's engine.

    ``limit`` is the largest weight magnitude, as in :class:`~edgebert.exporters.quantize.DynamicConfig`;
    ``calibration`` says on how many texts the ranges were measured.
    ``excluded`` names what stays in float.
    """

    precision: str
    target: str
    calibration: int
    limit: int = 127
    excluded: tuple[str, ...] = ()

    @classmethod
    def for_this_cpu(cls, precision: str, target: str, calibration: int, excluded: Sequence[str] = ()) -> StaticConfig:
        """The scheme that this machine's instruction set computes without saturating."""
        return cls(precision, target, calibration, 127 if has_int8_dot() else 63, tuple(excluded))


def quantize_static(source: Artifact, config: StaticConfig, out: Path, *, ranges: Mapping[str, Range]) -> Manifest:
    """Stage: int8 from the portable fp32 graph, with the ``ranges`` that calibration found there.

    Raises CheckFailed, naming them, where a Linear that is not excluded stays in float in the graph that the target's
    engine makes.
    """
    _write_quantized(source, config, ranges, out)
    copy_config(source, out)
    copy_companions(source, out)
    needs = {**source.manifest.needs, "isa": list(isa()), "scheme": "static"}
    checks = {**source.manifest.checks, "integer": require_integer(out / MODEL, config.target, config.excluded)}
    return replace(source.manifest, target=config.target, precision=config.precision, needs=needs, checks=checks)


def _write_quantized(source: Artifact, config: StaticConfig, ranges: Mapping[str, Range], out: Path) -> None:
    model = ir.load(source.path / MODEL)
    quantize_graph(StaticRewriter(model.graph, config.limit, ranges), config.excluded)
    save_graph(model, out)


class StaticRewriter(Rewriter):
    """Writes products in the QDQ form, with activations in known ranges."""

    def __init__(self, graph: ir.Graph, limit: int, ranges: Mapping[str, Range]) -> None:
        super().__init__(graph, limit)
        self._ranges = ranges

    def product(self, node: ir.Node, activation: ir.Value, weight: Float, name: str) -> ir.Value:
        """See :class:`~edgebert.exporters.quantize.Rewriter`."""
        left, right, _ = self._factors(node, activation, weight, name)
        return self.insert(node, "MatMul", [left, right])[0]

    def biased(self, node: ir.Node, activation: ir.Value, weight: Float, bias: ir.Value | None, name: str) -> ir.Value:
        """See :class:`~edgebert.exporters.quantize.Rewriter`.

        ONNX Runtime makes a Gemm of a matrix product and a sum, and an integer one only where the bias is one too:
        in 32 bits, in which it loses nothing that the products have.
        """
        constant = self.constant(bias)
        if bias is None or constant is None:
            return super().biased(node, activation, weight, bias, name)
        left, right, scales = self._factors(node, activation, weight, name)
        steps = (scales * self._scale(activation)).astype(np.float32)
        integers = np.clip(np.rint(constant / steps), -(2**31) + 1, 2**31 - 256).astype(np.int32)
        rounded = [self.initializer(f"{bias.name}.int32", integers), self.initializer(f"{bias.name}.scale", steps)]
        (offset,) = self.insert(node, "DequantizeLinear", list(rounded), {"axis": 0})
        return self.insert(node, "Gemm", [left, right, offset])[0]

    def _factors(
        self, node: ir.Node, activation: ir.Value, weight: Float, name: str
    ) -> tuple[ir.Value, ir.Value, Float]:
        """Both sides of a product, and the weight's scales."""
        if activation not in self.quantized:
            self.quantized[activation] = self._rounded(node, activation)
        values, scales = quantize_columns(weight, self.limit)
        columns = [
            self.initializer(f"{name}.scale", scales),
            self.initializer(f"{name}.zero", np.zeros_like(values[0])),
        ]
        (right,) = self.insert(
            node, "DequantizeLinear", [self.initializer(f"{name}.int8", values), *columns], {"axis": 1}
        )
        return self.quantized[activation][0], right, scales

    def _scale(self, activation: ir.Value) -> Float:
        return scale_and_zero(self._ranges[str(activation.name)])[0]

    def _rounded(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ...]:
        scale, zero = scale_and_zero(self._ranges[str(activation.name)])
        step = [self.initializer(f"{activation.name}.scale", scale), self.initializer(f"{activation.name}.zero", zero)]
        integers = self.insert(node, "QuantizeLinear", [activation, *step])
        return self.insert(node, "DequantizeLinear", [*integers, *step])
