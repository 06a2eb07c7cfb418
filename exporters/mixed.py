"""fp16 and bf16 written into the graph: for engines that compute every node in the types that it has.

Products and what stands around them become 16 bits wide; LayerNorm, Softmax, reductions and the arithmetic of the mask
stay float32, with casts between. The mask hides tokens by -30000 instead of float32's least number: an engine that
fuses attention in 16 bits would make infinity of that, and NaN of a row without a single token.
Sources: Micikevicius et al. 2018 (arXiv:1710.03740) for which operations need float32; TensorRT's strongly typed
networks for why the types must be in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.graph import MODEL, copy_config, save_graph
from edgebert.shaping.checkpoint import copy_companions

# Far below any attention score, and with one added still finite in 16 bits.
HIDDEN = -30000.0
# What loses in 16 bits: sums over many values, and exponentials.
_EXACT = frozenset({"Erf", "LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "Pow", "Sqrt"})
_FLOAT = ir.DataType.FLOAT
# The operator set of ONNX Runtime's fused operators.
_FUSED = "com.microsoft"


@dataclass(frozen=True)
class _Half:
    """A 16-bit type: the graph's, numpy's, and its largest finite number."""

    type: ir.DataType
    dtype: Any
    largest: float


_HALVES = {
    "fp16": _Half(ir.DataType.FLOAT16, np.float16, 65504.0),
    "bf16": _Half(ir.DataType.BFLOAT16, ml_dtypes.bfloat16, 3.3895e38),
}


@dataclass(frozen=True)
class MixedConfig:
    """Settings of the stage: the precision, which is the 16-bit type of the graph."""

    precision: str


def to_mixed(source: Artifact, config: MixedConfig, out: Path) -> Manifest:
    """Stage: the portable fp32 graph with 16 bits where float32 is not needed.

    Raises CheckFailed where a weight is too large for them.
    """
    model = ir.load(source.path / MODEL)
    mix(model.graph, config.precision, str(source.path))
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    needs = {**source.manifest.needs, "typed": config.precision}
    return replace(source.manifest, precision=config.precision, needs=needs)


def mix(graph: ir.Graph, half: str, where: str) -> None:
    """Rewrite a graph in place: of float32, or with its products in 8 bits and float32 around them."""
    _Mixer(graph, _HALVES[half], where).mix()


class _Mixer:
    def __init__(self, graph: ir.Graph, half: _Half, where: str) -> None:
        self._graph, self._half, self._where = graph, half, where
        # Values by the type they are wanted in, made once for all who read them.
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def mix(self) -> None:
        """Rewrite the graph in place; its inputs and outputs keep their names and types."""
        readers = self._plan()
        self._soften_mask()
        self._convert_weights(readers)
        for node, wanted in readers.items():
            for place, value in enumerate(node.inputs):
                if value is not None and value.dtype in (_FLOAT, self._half.type) and value.dtype != wanted:
                    node.replace_input_with(place, self._as(node, value, wanted))
            for value in node.outputs:
                if value.dtype == _FLOAT:
                    value.dtype = wanted
        self._restore_outputs()

    def _plan(self) -> dict[ir.Node, ir.DataType]:
        """In which type each node that computes floats does so."""
        plan: dict[ir.Node, ir.DataType] = {}
        mask: set[ir.Value] = set()
        for node in self._graph:
            floats = [value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype == _FLOAT]
            if not floats:
                continue
            masked = node.op_type == "Cast" or any(value in mask for value in node.inputs if value is not None)
            # A fused attention sums in float32 within, and has the mask in the type of its queries.
            masked = masked and node.domain != _FUSED
            exact = node.op_type in _EXACT or _stands_by_erf(node)
            plan[node] = _FLOAT if masked or exact else self._half.type
            others = [value for value in node.inputs if value is not None and value not in mask]
            if masked and (node.op_type == "Cast" or all(value.is_initializer() for value in others)):
                mask.update(node.outputs)
        return plan

    def _soften_mask(self) -> None:
        least = np.finfo(np.float32).min
        for value in self._graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype == _FLOAT and tensor.size == 1 and tensor.numpy() == least:
                value.const_value = ir.tensor(np.full_like(tensor.numpy(), HIDDEN), name=value.name)

    def _convert_weights(self, readers: dict[ir.Node, ir.DataType]) -> None:
        """Weights that are read in 16 bits alone are kept in them, under their own names."""
        for value in list(self._graph.initializers.values()):
            wanted = {readers.get(use.node) for use in value.uses()}
            if value.dtype == _FLOAT and wanted == {self._half.type}:
                self._halve(value)

    def _halve(self, value: ir.Value) -> None:
        tensor = value.const_value
        assert tensor is not None, "a graph on disk has values for all its weights"
        value.const_value = ir.LazyTensor(
            partial(self._rounded, tensor), dtype=self._half.type, shape=ir.Shape(tensor.shape.numpy()), name=value.name
        )
        value.dtype = self._half.type

    def _rounded(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        values = tensor.numpy()
        if np.abs(values).max(initial=0.0) > self._half.largest:
            raise CheckFailed(f"weights {tensor.name} are too large for 16 bits", self._where, "use bf16 or fp32")
        return ir.tensor(values.astype(self._half.dtype), dtype=self._half.type, name=tensor.name)

    def _as(self, node: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if (value, wanted) not in self._cast:
            cast = ir.node("Cast", [value], {"to": wanted})
            made = cast.outputs[0]
            made.name, made.shape, made.dtype = f"{value.name}.{wanted.name.lower()}", value.shape, wanted
            if (producer := value.producer()) is None:
                self._graph.insert_before(self._graph[0], cast)
            else:
                self._graph.insert_after(producer, cast)
            self._cast[value, wanted] = made
        return self._cast[value, wanted]

    def _restore_outputs(self) -> None:
        for place, value in enumerate(self._graph.outputs):
            if value.dtype == self._half.type:
                name, value.name = value.name, f"{value.name}.half"
                cast = ir.node("Cast", [value], {"to": _FLOAT})
                self._graph.append(cast)
                restored = cast.outputs[0]
                restored.name, restored.shape, restored.dtype = name, value.shape, _FLOAT
                self._graph.outputs[place] = restored


def _stands_by_erf(node: ir.Node) -> bool:
    """Whether a node is the scaling before or the sum behind an Erf, as in GELU.

    Of 1 + erf(x), with erf near -1, 16 bits would leave next to nothing.
    """
    neighbours = [value.producer() for value in node.inputs if value is not None]
    neighbours += [use.node for value in node.outputs for use in value.uses()]
    return any(each is not None and each.op_type == "Erf" for each in neighbours)
