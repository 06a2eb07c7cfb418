"""From a checkpoint to one portable ONNX graph: trace once, cut at every depth, swap weights in by name.

``trace`` is slow and depends on the shape alone; ``build_graph`` is quick and takes the weights of any
checkpoint of that shape, of the same depth or shallower. A template holds no weights, and a graph's are
fetched one at a time when it is written: of a big model there is never more than one copy in memory.
Attention is traced eagerly, so that only standard operators remain and rows without a single real token
stay finite.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch

from edgebert.artifact import Architecture, Artifact, Manifest
from edgebert.errors import InputError
from edgebert.exporters.constants import initializer
from edgebert.exporters.first_token import read_first_token
from edgebert.exporters.gelu import order_gelu
from edgebert.exporters.signature import OPSET, GraphConfig, Sizes, with_sizes
from edgebert.exporters.streamed import save_streamed
from edgebert.families import FAMILIES
from edgebert.graph_guard import EXTERNAL
from edgebert.shaping.checkpoint import copy_companions, load_module
from edgebert.tasks import TASKS

log = logging.getLogger("edgebert")

MODEL = "model.onnx"
# From here on weights go beside the graph. protobuf could hold twice as much, but ONNX Runtime has three copies
# in memory while it reads them from within, and two from beside (docs/results/big_models.md).
EXTERNAL_FROM_BYTES = 1_000_000_000
_LAYER = re.compile(r"\.layer\.(\d+)(?:\D|$)")
_WRAPPER = "model."
_TRANSPOSED = ".T"
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Template:
    """A traced graph, its weights still named after the parameters but without values, and where each layer ends.

    ``layer_ends[k]`` names the value that leaves layer k.
    """

    model: ir.Model
    task: str
    architecture: Architecture
    layer_ends: tuple[str, ...]
    opset: int

    def serves(self, source: Artifact, opset: int) -> bool:
        """Whether a checkpoint's graph is this one, cut at its depth."""
        shape = source.manifest.architecture
        same = replace(shape, layers=self.architecture.layers) == self.architecture
        return (
            same
            and source.manifest.task == self.task
            and opset == self.opset
            and shape.layers <= self.architecture.layers
        )


class _Portable(torch.nn.Module):
    """The checkpoint's model behind the graph's own signature.

    The padding mask is made additive here, once and of shape [batch, 1, 1, sequence], where transformers
    would trace some seventy nodes of shape arithmetic for it.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        visible = attention_mask[:, None, None, :].to(torch.float32)
        additive = (1.0 - visible) * torch.finfo(torch.float32).min
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=additive, **types)
        return tuple(found[name] for name in self.outputs)


def trace(source: Artifact, opset: int = OPSET) -> Template:
    """Trace a checkpoint's model with dynamic batch and sequence; the slow part, needed once per shape."""
    manifest = source.manifest
    outputs = tuple(output.name for output in TASKS[manifest.task].outputs)
    traced = load_module(source)
    module = _Portable(traced, outputs).eval()
    with _silence():
        program = torch.onnx.export(
            module,
            (),
            kwargs=_example(source),
            input_names=[spec.name for spec in manifest.inputs],
            output_names=list(outputs),
            dynamic_shapes={spec.name: {0: "batch", 1: "sequence"} for spec in manifest.inputs},
            opset_version=opset,
            dynamo=True,
            # Optimizing would fold weights into nameless constants; we fold after hoisting them by name.
            optimize=False,
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns a program when it writes no file"
    model = _tidy(program.model, _aliases(traced, FAMILIES[manifest.architecture.family].base_prefix))
    ends = _layer_ends(model)
    if len(ends) != manifest.architecture.layers:
        raise RuntimeError(f"traced {len(ends)} layer ends in a model of {manifest.architecture.layers} layers")
    return Template(model, manifest.task, manifest.architecture, ends, opset)


def _example(source: Artifact) -> dict[str, torch.Tensor]:
    # Sizes 2 and 9 are neither 0 nor 1, which the exporter would take for constants; and every input is a
    # tensor of its own, since it takes inputs that share one for the same input.
    fill = {"input_ids": 1, "attention_mask": 1, "token_type_ids": 0}
    return {spec.name: torch.full((2, 9), fill[spec.name], dtype=torch.int64) for spec in source.manifest.inputs}


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns about torchvision, axis names and its own internals; none of it concerns a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _aliases(module: torch.nn.Module, encoder: str) -> dict[str, str]:
    """Other names of a weight that stands in several places, to the encoder's: a masked head has its table of words."""
    named = list(module.named_parameters(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in sorted(named, key=lambda each: each[0].startswith(encoder))}
    return {name: names[id(parameter)] for name, parameter in named}


def _tidy(model: ir.Model, aliases: dict[str, str]) -> ir.Model:
    """Name weights as the checkpoint does, empty them, hoist their transposes, fold all else that is constant.

    A weight of several names gets the one that ``aliases`` gives.
    """
    import onnxscript.optimizer

    for value in list(model.graph.initializers.values()):
        if value.name and value.name.startswith(_WRAPPER):
            plain = value.name.removeprefix(_WRAPPER)
            value.name = aliases.get(plain, plain)
        if value.name in aliases and value.const_value is not None:
            value.const_value = _empty(value.name, value.const_value.shape.numpy())
    _hoist_transposes(model.graph)
    with hidden_weights(model.graph):
        onnxscript.optimizer.optimize(model)
    order_gelu(model.graph)
    _name_products(model.graph)
    return model


def module_name(weight: ir.Value) -> str:
    """The module that a weight belongs to, such as ``bert.encoder.layer.0.output.dense``."""
    return str(weight.name).partition(_WEIGHT)[0]


def _name_products(graph: ir.Graph) -> None:
    """Call every product with a weight as its module is called: what engines and people read of it."""
    for node in graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is not None and weight.is_initializer():
            node.name = module_name(weight)


@contextmanager
def hidden_weights(graph: ir.Graph) -> Iterator[None]:
    """Show the weights to the optimizer as inputs.

    It may then neither fold their values into the graph nor merge two that happen to be equal, such as
    fresh biases: other checkpoints will have other values there.
    """
    hidden = [value for name, value in graph.initializers.items() if "." in name]
    tensors = [value.const_value for value in hidden]
    for value in hidden:
        del graph.initializers[str(value.name)]
        value.const_value = None
        graph.inputs.append(value)
    try:
        yield
    finally:
        for value, tensor in zip(hidden, tensors, strict=True):
            graph.inputs.remove(value)
            value.const_value = tensor
            graph.register_initializer(value)


def _empty(name: str, shape: Sequence[int]) -> ir.TensorProtocol:
    """A float weight that has a shape and no values yet."""

    def missing() -> ir.TensorProtocol:
        raise RuntimeError(f"no checkpoint gave values to {name}")

    return ir.LazyTensor(missing, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)


def _hoist_transposes(graph: ir.Graph) -> None:
    """Turn Transpose(weight) into a weight of its own, named ``weight.T``: a Linear's right-hand side."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or source.name not in graph.initializers or source.const_value is None:
            continue
        name = f"{source.name}{_TRANSPOSED}"
        if name not in graph.initializers:
            graph.register_initializer(initializer(_empty(name, source.const_value.shape.numpy()[::-1])))
        ir.convenience.replace_all_uses_with(node.outputs[0], graph.initializers[name])
        graph.remove(node, safe=True)


def _layer_ends(model: ir.Model) -> tuple[str, ...]:
    """The value leaving each layer: the output of the last node whose module path names the layer."""
    ends: dict[int, str] = {}
    for node in model.graph:
        found = _LAYER.search(node.metadata_props.get("namespace", ""))
        if found and node.outputs[0].name:
            ends[int(found[1])] = node.outputs[0].name
    return tuple(ends[k] for k in sorted(ends))


def build_graph(source: Artifact, config: GraphConfig, out: Path, *, template: Template) -> Manifest:
    """Stage: the portable fp32 graph of a checkpoint, cut from a template of the same shape."""
    if not template.serves(source, config.opset):
        raise ValueError("the template was traced from another shape")
    model = template.model.clone()
    _cut(model, template, source.manifest.architecture.layers)
    passes.RemoveUnusedNodesPass()(model)
    if read_first_token(model.graph):
        passes.RemoveUnusedNodesPass()(model)
    if config.fixed is not None:
        _fix(model, config.fixed)
    _swap_weights(model, _parameters(source))
    passes.ClearMetadataAndDocStringPass()(model)
    save_graph(model, out)
    copy_config(source, out)
    copy_companions(source, out)
    manifest = replace(source.manifest, format="onnx", precision="fp32", target="cpu", needs={"opset": config.opset})
    return with_sizes(manifest, config.fixed)


def _cut(model: ir.Model, template: Template, layers: int) -> None:
    """End the encoder after ``layers`` layers: what followed the last layer now follows this one."""
    if layers == len(template.layer_ends):
        return
    values = {value.name: value for node in model.graph for value in node.outputs}
    last, kept = values[template.layer_ends[-1]], values[template.layer_ends[layers - 1]]
    is_output = last in model.graph.outputs
    ir.convenience.replace_all_uses_with(last, kept, replace_graph_outputs=True)
    if is_output:
        kept.shape, kept.type = last.shape, last.type
        # Two values may not share a name, and the cut-off layer is removed only later.
        last.name, kept.name = f"{last.name}.cut", last.name


def _fix(model: ir.Model, fixed: Sizes) -> None:
    """Give batch and sequence their sizes, and fold the arithmetic of shapes that this makes constant."""
    import onnxscript.optimizer

    sizes = dict(zip(("batch", "sequence"), fixed, strict=True))
    graph = model.graph
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([sizes.get(str(size), size) for size in value.shape])
    with hidden_weights(graph):
        onnxscript.optimizer.optimize(model)


def _parameters(source: Artifact) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in load_module(source).state_dict().items()}


def _swap_weights(model: ir.Model, parameters: dict[str, torch.Tensor]) -> None:
    """Give every initializer that is named after a parameter that parameter's values."""
    for name, value in model.graph.initializers.items():
        plain = name.removesuffix(_TRANSPOSED)
        if plain not in parameters:
            continue
        tensor = parameters[plain].T if name != plain else parameters[plain]
        shape = tuple(tensor.shape)
        if value.shape is not None and shape != tuple(value.shape):
            raise InputError(f"weights {plain} have another shape", str(shape), f"expected {value.shape}")
        # A transpose is a copy: it is made when it is written, and gone afterwards.
        fetch = partial(_contiguous, tensor, name)
        value.const_value = ir.LazyTensor(fetch, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)


def _contiguous(tensor: torch.Tensor, name: str) -> ir.TensorProtocol:
    return ir.tensor(tensor.contiguous().numpy(), name=name)


def save_graph(model: ir.Model, out: Path) -> None:
    """Write ``model.onnx``, with the weights beside it where they are too large for one file; the model's are let go.

    Graphs refer to themselves in circles: until the collector happened by, they would keep their weights in memory.
    """
    values = list(model.graph.initializers.values())
    weights = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    if weights > EXTERNAL_FROM_BYTES:
        ir.save(model, out / MODEL, external_data=EXTERNAL)
    else:
        save_streamed(model, out / MODEL)
    for value in values:
        value.const_value = None


def copy_config(source: Artifact, out: Path) -> None:
    """Copy the Hugging Face ``config.json``."""
    shutil.copyfile(source.path / "config.json", out / "config.json")
