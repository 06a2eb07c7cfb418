"""The graph for ONNX Runtime's CUDA provider: attention, residual sums with LayerNorm, and GELU as one operator each.

onnxscript's rewriter does it; ONNX Runtime's own optimizer fuses no attention of a graph that PyTorch traces today, and
says nothing. So what came out is counted against the layers, and a layer whose attention is not one operator is an
error. The operators are com.microsoft's, which the CPU provider has too: there the graph is judged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.attention_biases import leave_out_biases
from edgebert.exporters.graph import MODEL, copy_config, hidden_weights, save_graph
from edgebert.exporters.mixed import mix
from edgebert.exporters.padding import mask_by_lengths
from edgebert.shaping.checkpoint import copy_companions

# Of the operators in our graphs those that the CUDA provider has kernels of in bf16: docs/OperatorKernels.md of
# microsoft/onnxruntime; and the names of these kernels stand in the library of onnxruntime-gpu 1.27, 1.30 and 1.31.
_IN_BF16 = frozenset({
    "Add", "BiasGelu", "Cast", "Div", "Erf", "Gather", "Gelu", "Gemm", "MatMul", "Mul", "MultiHeadAttention", "Relu",
    "ReduceSum", "Shape", "Sigmoid", "SkipLayerNormalization", "Slice", "Split", "Squeeze", "Sub", "Tanh",
})  # fmt: skip
_NORM = "SkipLayerNormalization"
# LayerNormalization's where none is given.
_EPSILON = 1e-5
# How many of each a layer has; GELU is counted, and not asked for: there are other activations.
_A_LAYER = {"MultiHeadAttention": 1, _NORM: 2, "BiasGelu": 0}


@dataclass(frozen=True)
class FuseConfig:
    """Settings of the stage: the precision, fp32 or the 16-bit type of the graph."""

    precision: str


def fuse(source: Artifact, config: FuseConfig, out: Path) -> Manifest:
    """Stage: the portable fp32 graph with fused operators, in fp32, fp16 or bf16.

    Raises CheckFailed, naming them, where a layer's parts were not fused, or an operator has no kernel in bf16.
    """
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model = ir.load(source.path / MODEL)
    # Folded, a table of positions would be rows of numbers that nobody can check.
    with hidden_weights(model.graph):
        optimize_for_ort(model)
    _share_mask(model.graph)
    leave_out_biases(model.graph)
    _add_embeddings(model.graph)
    needs = dict(source.manifest.needs)
    if config.precision != "fp32" and mask_by_lengths(model.graph):
        needs["padding"] = "right"
    passes.RemoveUnusedNodesPass()(model)
    _leave_out_outputs(model.graph)
    found = _counted(model.graph, source)
    if config.precision != "fp32":
        mix(model.graph, config.precision, str(source.path))
        needs["typed"] = config.precision
        _check_kernels(model.graph, str(source.path))
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    checks = {**source.manifest.checks, "fusion": found}
    return replace(source.manifest, precision=config.precision, needs=needs, checks=checks)


def _share_mask(graph: ir.Graph) -> None:
    """Widen the mask to one row for each token once: the rewriter does it in each layer, with the same result."""
    first: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Expand" and node.inputs[0] is not None and _reaches_attention(node):
            kept = first.setdefault(node.inputs[0], node.outputs[0])
            if kept is not node.outputs[0]:
                ir.convenience.replace_all_uses_with(node.outputs[0], kept)


def _add_embeddings(graph: ir.Graph) -> None:
    """The embeddings' last sum and their LayerNorm as one operator, as every layer's are."""
    norm = next((node for node in graph if node.op_type in ("LayerNormalization", _NORM)), None)
    summed = None if norm is None or norm.op_type == _NORM or norm.inputs[0] is None else norm.inputs[0].producer()
    if norm is None or summed is None or summed.op_type != "Add" or len(summed.outputs[0].uses()) > 1:
        return
    # One of them may have one row for all texts; the operator takes that of its second.
    terms = sorted(summed.inputs, key=lambda value: _sizes(value)[:1] == [1])
    if [len(_sizes(value)) for value in terms] != [3, 3] or _sizes(terms[0])[:1] == [1]:
        return
    # Without it, the two operators mean different ones.
    epsilon = norm.attributes.get_float("epsilon", _EPSILON)
    made = ir.node(_NORM, [*terms, *norm.inputs[1:3]], {"epsilon": epsilon}, domain="com.microsoft", name=norm.name)
    old, new = norm.outputs[0], made.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_after(norm, made)
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove([norm, summed], safe=True)


def _sizes(value: ir.Value | None) -> list[object]:
    return [] if value is None or value.shape is None else list(value.shape)


def _leave_out_outputs(graph: ir.Graph) -> None:
    """A residual sum beside its LayerNorm is written to memory because it is named, though nobody reads it."""
    for node in graph:
        if node.op_type == _NORM and not any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            node.resize_outputs(1)


def _reaches_attention(node: ir.Node) -> bool:
    return any(use.node.op_type == "MultiHeadAttention" for use in node.outputs[0].uses())


def _check_kernels(graph: ir.Graph, where: str) -> None:
    for node in graph:
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        narrow = any(value.dtype == ir.DataType.BFLOAT16 for value in values)
        if narrow and node.op_type not in _IN_BF16:
            what = f"ONNX Runtime's CUDA provider is not known to have {node.op_type} ({node.name}) in bf16"
            raise CheckFailed(what, where, "use --precision fp16")


def _counted(graph: ir.Graph, source: Artifact) -> dict[str, int]:
    """How many of the fused operators there are. Raises CheckFailed where a layer lacks one."""
    layers = source.manifest.architecture.layers
    found = Counter(node.op_type for node in graph if node.op_type in _A_LAYER)
    if missing := [name for name, count in _A_LAYER.items() if found[name] < count * layers]:
        left = ", ".join(str(node.name) for node in graph if node.op_type in ("Softmax", "LayerNormalization"))
        what = f"{', '.join(f'{found[name]} {name}' for name in missing)} in {layers} layers: not fused are {left}"
        raise CheckFailed(what, str(source.path), "use --target ort-trt or trt, or report the model")
    return {"layers": layers, **{name: found[name] for name in _A_LAYER}}
