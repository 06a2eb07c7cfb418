"""Packed mode: an encoder that computes the tokens of a batch alone, and none of its padding.

The hidden states that leave the embeddings are packed, [tokens, width] instead of [batch, sequence, width]; what
treats every token alike computes them so; attention becomes PackedMultiHeadAttention, which knows where each text
begins; and whoever needs the batch's own shape again (the head, a last layer that computes the first token alone) is
given it, with zeros for padding. The operators are com.microsoft's, they exist for ONNX Runtime's CUDA provider only,
in float32 and fp16, and they take padding on the right.
Source: ContribOperators.md and transformers/convert_to_packing_mode.py of microsoft/onnxruntime, which takes graphs of
its own optimizer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.first_token import ELEMENTWISE
from edgebert.exporters.graph import MODEL, copy_config, save_graph
from edgebert.exporters.padding import is_padding, lengths
from edgebert.shaping.checkpoint import copy_companions

_DOMAIN = "com.microsoft"
# Every token by itself, besides products with weights.
_TOKEN_WISE = ELEMENTWISE | {"BiasGelu", "Cast", "Gelu", "LayerNormalization", "SkipLayerNormalization"}
# Attributes of attention that mean the same packed; the value that hides padding is not needed there.
_KEPT = ("num_heads", "scale")
_DROPPED = "mask_filter_value"


@dataclass(frozen=True)
class PackConfig:
    """Settings of the stage: none."""


def pack(source: Artifact, config: PackConfig, out: Path) -> Manifest:
    """Stage: a fused graph without the padding inside of batches.

    Raises CheckFailed, naming it, where an attention has more than the mask that packing makes needless.
    """
    model = ir.load(source.path / MODEL)
    packer = _Packer(model, str(source.path))
    packer.pack()
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    fusion = {**source.manifest.checks["fusion"], "PackedMultiHeadAttention": packer.attentions}
    return replace(
        source.manifest,
        needs={**source.manifest.needs, "packed": True},
        checks={**source.manifest.checks, "fusion": fusion},
    )


class _Packer:
    """Packs a graph in place. ``attentions`` are then those that are packed."""

    def __init__(self, model: ir.Model, where: str) -> None:
        self._model, self._graph, self._where = model, model.graph, where
        self.attentions = 0
        # The embeddings end with the first LayerNorm; what follows is of the encoder.
        self._lengths = lengths(self._graph)
        self._states = next(node.outputs[0] for node in self._graph if "LayerNormalization" in node.op_type)
        self._entry, self._offsets, self._begins = self._remove_padding().outputs[:3]
        # What is packed, with the shape that it had.
        self._packed = {self._entry: self._states.shape}

    def pack(self) -> None:
        for node in list(self._graph):
            # Whoever can read the first states packed is one of those that are packed.
            moved = [self._entry if value is self._states else value for value in node.inputs if value is not None]
            if node.op_type == "RemovePadding" or not self._packed.keys() & set(moved):
                continue
            if self._is_token_wise(node, moved):
                for index, value in enumerate(node.inputs):
                    if value is self._states:
                        node.replace_input_with(index, self._entry)
                self._packed[node.outputs[0]] = node.outputs[0].shape
            elif self._is_attention(node):
                self._attend(node)
        # The masks of attentions that are packed would otherwise ask for their shapes.
        passes.RemoveUnusedNodesPass()(self._model)
        for value, shape in self._packed.items():
            self._restore(value, shape)

    def _remove_padding(self) -> ir.Node:
        states = self._states
        removal = ir.node("RemovePadding", [states, self._lengths], domain=_DOMAIN, num_outputs=4)
        for value, name in zip(removal.outputs, ("states", "offsets", "begins", "longest"), strict=True):
            value.name = f"packed.{name}"
        removal.outputs[0].type = states.type
        removal.outputs[0].shape = _flat(states.shape)
        producer = states.producer()
        assert producer is not None, "hidden states are computed"
        self._graph.insert_after(producer, removal)
        return removal

    def _is_token_wise(self, node: ir.Node, moved: list[ir.Value]) -> bool:
        """Whether each token of the output comes of that token of the inputs alone, by the same weights."""
        rest = [value for value in moved if value not in self._packed]
        if any(value.uses() for value in node.outputs[1:]):
            return False
        if not all(value.is_initializer() for value in rest) or node.attributes.get_int("axis", -1) != -1:
            return False
        if node.op_type == "MatMul":
            return moved[0] in self._packed and [_rank(value) for value in rest] == [2]
        return node.op_type in _TOKEN_WISE and all(_rank(value) <= 1 for value in rest)

    def _is_attention(self, node: ir.Node) -> bool:
        return node.op_type == "MultiHeadAttention" and all(value in self._packed for value in node.inputs[:3])

    def _attend(self, node: ir.Node) -> None:
        """Put the packed attention in an attention's place."""
        query, key, value, bias, padding, added, *others = (*node.inputs, None, None, None)
        odd = {*node.attributes} - {*_KEPT, _DROPPED}
        masked = padding in (None, self._lengths) and (added is None or is_padding(added))
        if odd or any(others) or not masked:
            what = f"attention {node.name} has more than the mask of padding"
            raise CheckFailed(what, self._where, "export it without --packed, or report the model")
        kept = [node.attributes[name] for name in _KEPT if name in node.attributes]
        packed = ir.Node(
            _DOMAIN, "PackedMultiHeadAttention", [query, key, value, bias, self._offsets, self._begins], kept,
            name=node.name,
        )  # fmt: skip
        old, new = node.outputs[0], packed.outputs[0]
        new.name, new.type = old.name, old.type
        self._graph.insert_after(node, packed)
        ir.convenience.replace_all_uses_with(old, new)
        self._graph.remove(node, safe=True)
        self._packed[new] = old.shape
        self.attentions += 1

    def _restore(self, value: ir.Value, shape: ir.Shape | None) -> None:
        """Give those who need a packed value in the batch's own shape that."""
        producer = value.producer()
        assert producer is not None, "what is packed is computed"
        value.shape = _flat(shape)
        readers = [(use.node, use.idx) for use in value.uses() if use.node.outputs[0] not in self._packed]
        if not readers and not value.is_graph_output():
            return
        whole = ir.node("RestorePadding", [value, self._offsets], domain=_DOMAIN)
        restored = whole.outputs[0]
        restored.name, restored.type, restored.shape = f"{value.name}.whole", value.type, shape
        self._graph.insert_after(producer, whole)
        for node, index in readers:
            node.replace_input_with(index, restored)
        for place, output in enumerate(self._graph.outputs):
            if output is value:
                restored.name, value.name = value.name, f"{value.name}.packed"
                self._graph.outputs[place] = restored


def _flat(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape(["tokens", shape[-1]])


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)
