"""int8 weights and activations: dynamic quantization of the portable graph, and the proof that it took.

Scheme: a Linear's weights are symmetric int8 with a scale per output channel, its activations uint8 with
a scale computed at run time; an embedding table is int8 with a scale per row, so a rare token with large
values costs the others nothing. Only standard operators are written; ONNX Runtime fuses them at load.
Sources: Jacob et al. 2018 (arXiv:1712.05877); ONNX operator DynamicQuantizeLinear. Why this is not
onnxruntime's own quantizer: docs/decisions/003-own-dynamic-quantizer.md.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.constants import constant
from edgebert.exporters.graph import MODEL, copy_config, module_name, save_graph
from edgebert.machine import has_int8_dot, isa
from edgebert.shaping.checkpoint import copy_companions

Float = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

# Where a weight is among the inputs.
_WEIGHT_INPUT = {"MatMul": 1, "Gemm": 1, "Gather": 0}
_FLOAT_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "TransposeMatMul"})
_INTEGER_PRODUCTS = frozenset(
    {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul"}
)


@dataclass(frozen=True)
class DynamicConfig:
    """Settings of dynamic quantization. ``precision`` is the name the artifact carries.

    ``limit`` is the largest weight magnitude: 127, or 63 for CPUs whose u8 by s8 products saturate
    (x86 without VNNI). ``excluded`` names what stays in float, as :func:`quantizable` does.
    """

    precision: str = "int8"
    limit: int = 127
    excluded: tuple[str, ...] = ()

    @classmethod
    def for_this_cpu(cls, precision: str, excluded: Sequence[str] = ()) -> DynamicConfig:
        """The scheme that this machine's instruction set computes without saturating."""
        return cls(precision, limit=127 if has_int8_dot() else 63, excluded=tuple(excluded))


def quantize_dynamic(source: Artifact, config: DynamicConfig, out: Path) -> Manifest:
    """Stage: int8 from the portable fp32 graph.

    Raises CheckFailed, naming them, where a Linear that is not excluded stays in float in the graph that ONNX
    Runtime makes of it.
    """
    _write_quantized(source, config, out)
    copy_config(source, out)
    copy_companions(source, out)
    needs = {**source.manifest.needs, "isa": list(isa()), "scheme": "dynamic"}
    checks = {**source.manifest.checks, "integer": require_integer(out / MODEL, "cpu", config.excluded)}
    return replace(source.manifest, precision=config.precision, needs=needs, checks=checks)


def _write_quantized(source: Artifact, config: DynamicConfig, out: Path) -> None:
    model = ir.load(source.path / MODEL)
    quantize_graph(Rewriter(model.graph, config.limit), config.excluded)
    save_graph(model, out)


def quantize_columns(weight: Float, limit: int) -> tuple[Int8, Float]:
    """Symmetric int8 of ``weight`` [in, out] with one scale a column: ``weight ≈ values * scales``."""
    scales = (np.abs(weight).max(axis=0) / limit).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(weight / scales).astype(np.int8), scales


def quantizable(model: Path) -> list[str]:
    """The Linears and embeddings of a portable graph by name: the module's, such as ``...layer.0.output.dense``."""
    nodes = ir.load(model).graph
    return list(dict.fromkeys(name for node in nodes if (name := _module_of(node)) is not None))


def _module_of(node: ir.Node) -> str | None:
    """The module whose weight a node multiplies by or looks up in; None of other nodes."""
    place = _WEIGHT_INPUT.get(node.op_type)
    weight = None if place is None else node.inputs[place]
    if weight is None or weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
        return None
    return module_name(weight) if len(weight.const_value.shape) == 2 else None


def quantize_graph(rewriter: Rewriter, excluded: Collection[str]) -> None:
    """Rewrite, in place, every Linear and embedding look-up of the graph to integer weights, but those ``excluded``."""
    graph = rewriter.graph
    rewrites: dict[str, Callable[[ir.Node], None]] = {
        "MatMul": rewriter.linear,
        "Gemm": rewriter.gemm,
        "Gather": rewriter.embedding,
    }
    for node in list(graph):
        if node.op_type in rewrites and _module_of(node) not in excluded:
            rewrites[node.op_type](node)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


class Rewriter:
    """Writes the integer form of a node before it and takes the node out; products in the dynamic scheme."""

    def __init__(self, graph: ir.Graph, limit: int) -> None:
        self.graph, self.limit = graph, limit
        # An activation read by several Linears (query, key, value) is quantized once.
        self.quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}

    def linear(self, node: ir.Node) -> None:
        """A MatMul with a constant matrix; others stay."""
        weight = self.constant(node.inputs[1])
        if weight is not None and weight.ndim == 2 and node.inputs[0] is not None:
            self._replace(node, self.product(node, node.inputs[0], weight, _name(node.inputs[1])))

    def gemm(self, node: ir.Node) -> None:
        """A Gemm that only multiplies by a constant matrix and adds; others stay."""
        weight = self.constant(node.inputs[1])
        if weight is None or node.inputs[0] is None:
            return
        attributes = {name: node.attributes[name].value for name in node.attributes}
        if attributes.pop("transB", 0):
            weight = weight.T
        if any(
            attributes.get(name, default) != default for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
        ):
            return
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        self._replace(node, self.biased(node, node.inputs[0], weight, bias, _name(node.inputs[1])))

    def embedding(self, node: ir.Node) -> None:
        """A look-up in a constant float table: int8 rows, each with its scale."""
        table = self.constant(node.inputs[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32:
            return
        values, scales = quantize_columns(table.T, self.limit)
        name = _name(node.inputs[0])
        rows = self.insert(node, "Gather", [self.initializer(f"{name}.int8", values.T), node.inputs[1]])
        row_scales = self.insert(node, "Gather", [self.initializer(f"{name}.scale", scales[:, None]), node.inputs[1]])
        (as_float,) = self.insert(node, "Cast", list(rows), {"to": ir.DataType.FLOAT})
        (result,) = self.insert(node, "Mul", [as_float, *row_scales])
        self._replace(node, result)

    def biased(self, node: ir.Node, activation: ir.Value, weight: Float, bias: ir.Value | None, name: str) -> ir.Value:
        """The same of a matrix [n, in], with a bias [out]."""
        result = self.product(node, activation, weight, name)
        return result if bias is None else self.insert(node, "Add", [result, bias])[0]

    def product(self, node: ir.Node, activation: ir.Value, weight: Float, name: str) -> ir.Value:
        """The product of an activation and a weight [in, out], whose name is ``name``, in integers."""
        # Exactly the chain that ONNX Runtime fuses into DynamicQuantizeMatMul or MatMulIntegerToFloat.
        values, scales = quantize_columns(weight, self.limit)
        if activation not in self.quantized:
            self.quantized[activation] = self.insert(node, "DynamicQuantizeLinear", [activation], outputs=3)
        integers, scale, zero = self.quantized[activation]
        right = self.initializer(f"{name}.int8", values)
        right_zero = self.initializer(f"{name}.zero", np.zeros_like(values[0]))
        (sums,) = self.insert(node, "MatMulInteger", [integers, right, zero, right_zero])
        (as_float,) = self.insert(node, "Cast", [sums], {"to": ir.DataType.FLOAT})
        (factor,) = self.insert(node, "Mul", [scale, self.initializer(f"{name}.scale", scales)])
        (product,) = self.insert(node, "Mul", [as_float, factor])
        return product

    def constant(self, value: ir.Value | None) -> Any:
        """The array of a constant; None where the value is none."""
        known = value is not None and value.name in self.graph.initializers and value.const_value is not None
        return value.const_value.numpy() if known and value is not None and value.const_value is not None else None

    def initializer(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """The graph's constant of that name, made of ``array`` where there is none yet."""
        if name not in self.graph.initializers:
            self.graph.register_initializer(constant(name, np.ascontiguousarray(array)))
        return self.graph.initializers[name]

    def insert(
        self,
        before: ir.Node,
        operator: str,
        inputs: list[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        outputs: int = 1,
    ) -> tuple[ir.Value, ...]:
        """The outputs of a new node, which stands before ``before``."""
        node = ir.node(operator, inputs, attributes, num_outputs=outputs)
        self.graph.insert_before(before, node)
        return tuple(node.outputs)

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        old = node.outputs[0]
        result.shape, result.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        if (last := result.producer()) is not None:
            last.name = node.name
        # Outputs keep their public name.
        old.name, result.name = f"{old.name}.float", old.name
        self.graph.remove(node, safe=True)


def _name(value: ir.Value | None) -> str:
    return value.name if value is not None and value.name else "weight"


def require_integer(model: Path, target: str, excluded: Collection[str] = ()) -> dict[str, Any]:
    """The coverage of a quantized graph on the target's engine.

    Raises CheckFailed, naming them, where a product with weights that nobody ``excluded`` is computed in float.
    """
    coverage = _COVERAGES[target](model)
    left = [name for name in coverage["float"] if name not in excluded]
    if left:
        raise CheckFailed(f"{len(left)} Linear layers stayed in float", ", ".join(left[:3]), "use --precision fp32")
    return coverage


def integer_coverage(model: Path) -> dict[str, Any]:
    """Which products with weights run in integers, in the graph as ONNX Runtime optimized it for a session.

    Returns ``{"integer": {operator: count}, "float": [names of modules]}``; a product of two activations
    (attention) has no weight and is not counted.
    """
    graph = _session_graph(model).graph
    integer: Counter[str] = Counter()
    in_float: list[str] = []
    for node in graph:
        if node.op_type in _INTEGER_PRODUCTS:
            integer[node.op_type] += 1
        elif node.op_type in _FLOAT_PRODUCTS:
            weights = [weight for value in node.inputs[:2] if (weight := _weight_behind(value)) is not None]
            in_float += [module_name(weight) for weight in weights[:1]]
    return {"integer": dict(sorted(integer.items())), "float": in_float}


def _weight_behind(value: ir.Value | None) -> ir.Value | None:
    """The constant that a value is, or whose integers it is made of again; None for an activation."""
    if value is None or value.is_initializer():
        return value
    node = value.producer()
    made_float = node is not None and node.op_type == "DequantizeLinear"
    return _weight_behind(node.inputs[0]) if node is not None and made_float else None


def _session_graph(model: Path) -> ir.Model:
    import onnxruntime

    from edgebert.runtimes.ort import unwanted_fusions

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / MODEL)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted_fusions("int8")
        )
        return ir.load(options.optimized_model_filepath)


def _openvino_coverage(model: Path) -> dict[str, Any]:
    """The same of the graph as OpenVINO compiled it."""
    from edgebert.runtimes.ov import integer_coverage

    return integer_coverage(model)


_COVERAGES: dict[str, Callable[[Path], dict[str, Any]]] = {"cpu": integer_coverage, "openvino": _openvino_coverage}
