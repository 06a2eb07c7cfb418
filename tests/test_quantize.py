from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import FAMILIES, TASKS, Exports, texts

from edgebert.exporters.graph import MODEL
from edgebert.exporters.quantize import integer_coverage, quantize_columns
from edgebert.judging import parity
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer

pytestmark = pytest.mark.xdist_group("exports")

# Linears of a tiny three-layer model: six a layer, and what the head and pooler add.
LINEARS = {
    ("bert", TASKS[0]): 20, ("distilbert", TASKS[0]): 20, ("roberta", TASKS[0]): 20,
    ("bert", TASKS[1]): 18, ("distilbert", TASKS[1]): 18, ("roberta", TASKS[1]): 18,
}  # fmt: skip


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([127, 63]),
)
@settings(max_examples=80, deadline=None)
def test_a_weight_is_kept_to_half_a_step_of_its_column(weight: np.ndarray, limit: int) -> None:
    values, scales = quantize_columns(weight, limit)
    assert np.abs(values).max() <= limit
    assert (np.abs(values * scales - weight) <= scales / 2 * (1 + 1e-4) + 1e-30).all()


@pytest.mark.parametrize(("family", "task"), LINEARS)
def test_every_linear_is_integer_in_the_graph_that_runs(exports: Exports, family: str, task: str) -> None:
    coverage = exports.artifact(family, task, precision="int8").manifest.checks["integer"]
    assert coverage["float"] == []
    assert sum(coverage["integer"].values()) == LINEARS[family, task]


def test_linears_left_in_float_are_named(exports: Exports) -> None:
    graph = exports.artifact("bert", TASKS[0]).path / MODEL
    assert len(integer_coverage(graph)["float"]) == LINEARS["bert", TASKS[0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_int8_graph_is_valid_and_portable(exports: Exports, family: str) -> None:
    path = exports.artifact(family, TASKS[0], precision="int8").path / MODEL
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    kinds = Counter(
        tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 1
    )
    assert kinds[onnx.TensorProto.FLOAT] == 0


def test_query_key_and_value_share_one_quantized_activation(exports: Exports) -> None:
    model = onnx.load(exports.artifact("bert", TASKS[1], precision="int8").path / MODEL)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["MatMulInteger"] == 18
    assert kinds["DynamicQuantizeLinear"] == 12


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_stays_close_to_fp32(exports: Exports, family: str, task: str) -> None:
    exact, rounded = exports.artifact(family, task), exports.artifact(family, task, precision="int8")
    batches = parity.feeds(TextTokenizer(exact), texts(24, seed=7))
    with load(exact.path) as model:
        truth = parity.outputs(model.run, batches)
    stage, _ = parity.onnx_stage("int8", truth, rounded, batches)
    assert stage.cosine > 0.97
    # And it is not the same graph again.
    assert stage.max_abs_error > 0
