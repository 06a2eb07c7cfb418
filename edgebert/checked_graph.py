"""Whether a manifest and the graph beside it speak of the same model. Both values stand in every refusal."""

from __future__ import annotations

import re

from edgebert.artifact import Artifact, Manifest, axis_size
from edgebert.errors import InputError
from edgebert.families import Family, family_of
from edgebert.graph_guard import EXTERNAL, GRAPH, Graph, inspect
from edgebert.tasks import TASKS


def read_checked_graph(artifact: Artifact, *, packs: bool = False) -> tuple[bytes, bytes | None]:
    """The bytes of the graph, and of the weights beside it if any, after everything that can be checked was.

    What a runtime gives its engine: never a path, under which other bytes may lie by then. ``packs``: the engine has
    the operators of packed graphs; InputError is raised for such a graph where it has not.
    """
    where = str(artifact.path / GRAPH)
    if artifact.manifest.needs.get("packed") and not packs:
        what = "a packed graph, which ONNX Runtime's CUDA provider alone can run"
        raise InputError(what, where, "use target cuda, or export it without --packed")
    model = artifact.read(GRAPH)
    beside = artifact.manifest.files.get(EXTERNAL)
    check_agreement(artifact.manifest, inspect(model, where, beside.bytes if beside else None), where)
    weights = artifact.read(EXTERNAL) if beside else None
    artifact.check_manifest()
    return model, weights


def check_agreement(manifest: Manifest, graph: Graph, where: str) -> None:
    """Raise InputError, naming both values, where inputs, output, labels, hidden, vocab or max_length differ."""
    family = family_of({"model_type": manifest.architecture.family}, where)
    task = TASKS[manifest.task]
    _same("inputs", [spec.name for spec in manifest.inputs], list(graph.inputs), where)
    for spec in manifest.inputs:
        sizes = tuple(size if isinstance(size, int) else None for size in spec.shape)
        _same(f"shape of {spec.name}", sizes, graph.inputs[spec.name], where)
    _same("outputs", [output.name for output in task.outputs], list(graph.outputs), where)
    for output in task.outputs:
        _same(
            output.shape[-1], axis_size(manifest, output.shape[-1]), (graph.outputs[output.name] or (None,))[-1], where
        )
    vocab, hidden = _table(graph, family.word_table, where)
    positions = _table(graph, family.position_table, where)[0] - family.position_offset
    _same("vocab", manifest.architecture.vocab, vocab, where)
    _same("hidden", manifest.architecture.hidden, _projected(graph, family, hidden), where)
    if not 0 < manifest.max_length <= positions:
        raise _refusal("max_length", manifest.max_length, f"at most {positions}", where)


def _table(graph: Graph, name: str, where: str) -> tuple[int, int]:
    """Rows and columns of an embedding table, which the quantizer leaves as ``name.int8``."""
    pattern = re.compile(rf"(^|\.){re.escape(name)}(\.int8)?$")
    for tensor, shape in graph.tensors.items():
        if pattern.search(tensor) and len(shape) == 2:
            return shape[0], shape[1]
    raise InputError(f"the graph has no table {name}", where, "export the artifact again")


def _projected(graph: Graph, family: Family, width: int) -> int:
    """The width of the hidden states: that of the embedding tables, where nothing widens them."""
    if family.projection is None:
        return width
    pattern = re.compile(rf"(^|\.){re.escape(family.projection)}\.T(\.(int8|fp8))?$")
    return next((shape[-1] for name, shape in graph.tensors.items() if pattern.search(name) and shape), width)


def _same(what: str, ours: object, theirs: object, where: str) -> None:
    if ours != theirs:
        raise _refusal(what, ours, theirs, where)


def _refusal(what: str, ours: object, theirs: object, where: str) -> InputError:
    return InputError(f"{what}: the manifest says {ours}, the graph {theirs}", where, "export the artifact again")
