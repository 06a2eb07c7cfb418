"""A last layer that computes the first token alone: where a head reads nothing else, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator
from tiny import Exports

from edgebert.exporters.first_token import read_first_token
from edgebert.exporters.graph import MODEL

CLASSIFY = "text-classification"


def products(path: Path) -> dict[str, str]:
    """What each product with a weight reads, by module: ``1`` for a first token alone, else the name of the axis."""
    graph = ir.load(path / MODEL).graph
    found = {}
    for node in graph:
        states = node.inputs[0] if node.op_type == "MatMul" and node.name and ".layer." in node.name else None
        if states is not None and states.shape is not None and states.shape.rank() == 3:
            found[str(node.name)] = str(states.shape[1])
    return found


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_classifiers_last_layer_reads_one_token_but_for_keys_and_values(
    family: str, layers: int, exports: Exports
) -> None:
    found = products(exports.artifact(family, CLASSIFY, layers).path)
    assert len(found) == 6 * layers
    last = {name: size for name, size in found.items() if f".layer.{layers - 1}." in name}
    keys = {name for name in last if any(word in name for word in ("key", "value", "k_lin", "v_lin"))}
    assert len(keys) == 2
    assert {name for name, size in found.items() if size == "1"} == last.keys() - keys


@pytest.mark.parametrize("task", [task for task in tiny.TASKS if task != CLASSIFY])
def test_other_tasks_read_every_token(task: str, exports: Exports) -> None:
    assert set(products(exports.artifact("bert", task).path).values()) == {"sequence"}


def attention(*, told: bool = False, index: int = 0) -> onnx.ModelProto:
    """Attention of one head over x [batch, sequence, 4], then a Reshape, and token ``index`` of the result.

    ``told``: all tokens are an output too.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["query"]),
        helper.make_node("Transpose", ["x"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "x"], ["context"]),
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Reshape", ["context", "sizes"], ["same"], allowzero=1),
        helper.make_node("Add", ["same", "x"], ["hidden"]),
        helper.make_node("Gather", ["hidden", "index"], ["y"], axis=1),
    ]
    sizes: dict[str, Any] = {"x": 4, "query": 4, "context": 4, "same": 4, "hidden": 4, "scores": "s", "shares": "s"}
    infos = {name: helper.make_tensor_value_info(name, 1, ["b", "s", size]) for name, size in sizes.items()}
    infos["keys"] = helper.make_tensor_value_info("keys", 1, ["b", 4, "s"])
    weights = [
        helper.make_tensor("w", 1, [4, 4], np.random.default_rng(0).normal(size=16)),
        helper.make_tensor("index", 7, [], [index]),
    ]
    outputs = [helper.make_tensor_value_info("y", 1, ["b", 4]), *([infos["hidden"]] if told else [])]
    hidden = [info for name, info in infos.items() if name != "x" and not (told and name == "hidden")]
    graph = helper.make_graph(nodes, "attention", [infos["x"]], outputs, weights, value_info=hidden)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@given(batch=st.integers(1, 3), length=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
def test_the_first_tokens_answer_is_the_same(batch: int, length: int, seed: int) -> None:
    model = ir.from_proto(attention())
    assert read_first_token(model.graph)
    rewritten = ir.to_proto(model)
    onnx.checker.check_model(rewritten, full_check=True)
    x = np.random.default_rng(seed).normal(size=(batch, length, 4)).astype(np.float32)
    before, after = (np.asarray(list(ReferenceEvaluator(one).run(None, {"x": x}))) for one in (attention(), rewritten))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_only_what_is_needed_is_computed() -> None:
    model = ir.from_proto(attention())
    read_first_token(model.graph)
    shapes: dict[str, Any] = {
        str(value.name): list(value.shape or ()) for node in model.graph for value in node.outputs
    }
    assert [shapes[name][1] for name in ("query", "scores", "shares", "context", "same", "hidden")] == [1] * 6
    assert shapes["keys"] == ["b", 4, "s"]


@pytest.mark.parametrize("other", [attention(told=True), attention(index=1)], ids=["all is told", "another token"])
def test_what_is_read_otherwise_stays(other: onnx.ModelProto) -> None:
    model = ir.from_proto(other)
    assert not read_first_token(model.graph)
    assert ir.to_proto(model).graph.node == other.graph.node
