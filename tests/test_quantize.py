"""int8: how far each number may be off, that no Linear stays in float, and that a failure to quantize is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from tiny import Exports

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed
from edgebert.exporters.graph import MODEL
from edgebert.exporters.quantize import DynamicConfig, integer_coverage, quantize_columns, quantize_dynamic
from edgebert.families import FAMILIES
from edgebert.judging import parity
from edgebert.machine import has_int8_dot
from edgebert.serving.model import load
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tasks import TASKS

CLASSIFIER = ("bert", "text-classification")
LAYERS = 3

each_pair = pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
Float = npt.NDArray[np.float32]

# Smaller magnitudes than these have no room below them for a scale, and in a model they mean zero.
SMALL, LARGE = 2.0**-90, 2.0**90
WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.just(0.0) | st.floats(SMALL, LARGE, width=32) | st.floats(-LARGE, -SMALL, width=32),
)


@given(WEIGHTS, st.sampled_from([63, 127]))
def test_a_weight_is_kept_to_half_a_step_of_its_column(weight: Float, limit: int) -> None:
    values, scales = quantize_columns(weight, limit)
    assert values.dtype == np.int8
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    assert np.abs(values - weight.astype(np.float64) / scales).max() <= 0.5 + 1e-4
    # The largest of a column takes the whole range, and zero stays zero.
    largest = np.abs(values.astype(int)).max(axis=0)
    assert np.array_equal(largest, np.where(np.abs(weight).max(axis=0) > 0, limit, 0))
    assert not values[weight == 0].any()


@given(WEIGHTS, st.integers(-20, 20))
def test_columns_do_not_disturb_each_other(weight: Float, power: int) -> None:
    values, scales = quantize_columns(weight, 127)
    louder = weight.copy()
    louder[:, 0] *= np.float32(2.0**power)
    again, rescaled = quantize_columns(louder, 127)
    assert np.array_equal(again, values)
    assert np.array_equal(rescaled[1:], scales[1:])


def save(folder: Path, node: onnx.NodeProto, weights: dict[str, npt.NDArray[Any]], width: int) -> Artifact:
    """An artifact around a graph of one node from x to y, with what a bert classifier has beside it."""
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    looks_up = node.op_type == "Gather"
    x = helper.make_tensor_value_info(
        "x", TensorProto.INT64 if looks_up else TensorProto.FLOAT, ["batch"] if looks_up else ["batch", 16]
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph([node], "small", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    manifest = open_checkpoint(str(tiny.checkpoint(folder, layers=1))).manifest
    onnx.save(model, folder / MODEL)
    return Artifact(folder, manifest)


def run(model: Path, x: npt.NDArray[Any]) -> Float:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    result: Float = session.run(None, {"x": x})[0]
    return result


def quantized(source: Artifact, out: Path, limit: int = 127) -> Artifact:
    return stage.run("quantize", quantize_dynamic, source, DynamicConfig("int8", limit), out)


def test_each_row_of_an_embedding_has_a_scale_of_its_own(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    table[7] *= 1e4
    table[8] = 0
    source = save(tmp_path / "m", helper.make_node("Gather", ["table", "x"], ["y"]), {"table": table}, 16)
    rows = run(quantized(source, tmp_path / "out").path / MODEL, np.arange(20))
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows - table) <= 0.5001 * steps).all()
    assert not rows[8].any()
    assert not np.array_equal(rows, table)


GEMMS: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, True),
    "transposed": ({"transB": 1}, True),
    "spelled out": ({"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}, True),
    "scaled": ({"alpha": 0.5}, False),
    "bias scaled": ({"beta": 2.0}, False),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("attributes", "integer"), GEMMS.values(), ids=GEMMS)
def test_a_gemm_becomes_integer_or_is_reported(
    attributes: dict[str, Any], integer: bool, bias: bool, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    shape = (8, 16) if attributes.get("transB") else (16, 8)
    weights = {"w": generator.normal(size=shape).astype(np.float32)}
    if bias:
        weights["b"] = generator.normal(size=8).astype(np.float32)
    node = helper.make_node("Gemm", ["x", *weights], ["y"], name="head", **attributes)
    source = save(tmp_path / "m", node, weights, 8)
    if not integer:
        with pytest.raises(CheckFailed, match="1 Linear layers stayed in float: w: use --precision fp32") as caught:
            quantized(source, tmp_path / "out")
        assert caught.value.exit_code == 4
        assert not (tmp_path / "out").exists()
        return
    made = quantized(source, tmp_path / "out", limit=63)
    x = generator.normal(size=(5, 16)).astype(np.float32)
    # A sum of 16 products of weights and activations, each off by half a step.
    assert np.abs(run(made.path / MODEL, x) - run(source.path / MODEL, x)).max() < 0.3
    assert integer_coverage(made.path / MODEL)["float"] == []


# A dense layer and the classifier; the classifier alone; a dense layer and the table of words.
HEADS = {"text-classification": 2, "token-classification": 1, "question-answering": 1, "fill-mask": 2}


def linears(family: str, task: str, layers: int) -> int:
    """Query, key, value, attention output, FFN up and down; those of the head, and what widens the embeddings."""
    return 6 * layers + HEADS.get(task, 0) + (FAMILIES[family].projection is not None)


@each_pair
def test_every_linear_is_integer_in_the_graph_that_runs(family: str, task: str, exports: Exports) -> None:
    for layers in (1, LAYERS):
        artifact = exports.artifact(family, task, layers, "int8")
        coverage = artifact.manifest.checks["integer"]
        assert coverage == integer_coverage(artifact.path / MODEL)
        assert coverage["float"] == []
        assert sum(coverage["integer"].values()) == linears(family, task, layers)
        # Fused: a bare MatMulInteger would be right and slow.
        assert coverage["integer"].keys() <= {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


@each_pair
def test_linears_left_in_float_are_named(family: str, task: str, exports: Exports) -> None:
    coverage = integer_coverage(exports.artifact(family, task).path / MODEL)
    assert coverage["integer"] == {}
    assert len(coverage["float"]) == linears(family, task, LAYERS)


def initializers(artifact: Artifact) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for tensor in onnx.load(artifact.path / MODEL).graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)


@each_pair
def test_only_vectors_stay_in_float(family: str, task: str, exports: Exports) -> None:
    weights = dict(initializers(exports.artifact(family, task, precision="int8")))
    matrices = {name: array for name, array in weights.items() if array.dtype == np.float32 and array.ndim > 1}
    assert all(array.shape[1] == 1 and name.endswith(".scale") for name, array in matrices.items())
    tables = 2 if family == "distilbert" else 3
    integers = sum(array.dtype == np.int8 and array.ndim == 2 for array in weights.values())
    assert integers == tables + linears(family, task, LAYERS)


def signature(model: onnx.ModelProto) -> list[tuple[str, onnx.TypeProto]]:
    return [(value.name, value.type) for value in (*model.graph.input, *model.graph.output)]


@each_pair
def test_the_graph_is_valid_and_portable(family: str, task: str, exports: Exports) -> None:
    model = onnx.load(exports.artifact(family, task, precision="int8").path / MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    operators = Counter(node.op_type for node in model.graph.node)
    # What stays are attention's two products of activations a layer.
    assert (operators["Gemm"], operators["MatMul"]) == (0, 2 * LAYERS)
    # Query, key and value read one and the same quantized activation; only the query of a first token alone does not.
    assert operators["MatMulInteger"] == linears(family, task, LAYERS)
    alone = task == "text-classification"
    assert operators["DynamicQuantizeLinear"] == linears(family, task, LAYERS) - 2 * LAYERS + alone
    assert signature(model) == signature(onnx.load(exports.artifact(family, task).path / MODEL))


@pytest.mark.parametrize("limit", [63, 127])
def test_the_range_is_reduced_where_products_saturate(limit: int, exports: Exports, tmp_path: Path) -> None:
    made = quantized(exports.artifact(*CLASSIFIER), tmp_path / "out", limit)
    integers = [array for _, array in initializers(made) if array.dtype == np.int8 and array.ndim == 2]
    assert {int(np.abs(array.astype(int)).max()) for array in integers} == {limit}
    assert made.manifest.history[-1].config == {"precision": "int8", "limit": limit, "excluded": []}


def test_the_range_follows_the_cpu(exports: Exports) -> None:
    assert DynamicConfig.for_this_cpu("int8-dynamic") == DynamicConfig("int8-dynamic", 127 if has_int8_dot() else 63)
    made = exports.artifact(*CLASSIFIER, precision="int8-dynamic")
    assert made.manifest.precision == "int8-dynamic"
    assert made.manifest.needs["scheme"] == "dynamic"


@each_pair
def test_int8_stays_close_to_fp32(family: str, task: str, exports: Exports) -> None:
    exact, rounded = exports.artifact(family, task), exports.artifact(family, task, precision="int8")
    batches = parity.feeds(TextTokenizer(exact), tiny.texts(24, seed=7))
    with load(exact.path) as model:
        truth = outputs(model.run, batches, TASKS[task].compared)
    line, _ = parity.onnx_stage("int8", truth, rounded, batches)
    assert line.cosine > 0.98
    # And it is not the same graph again.
    assert line.max_abs_error > 0


def test_quantizing_again_gives_the_same_bytes(exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact(*CLASSIFIER)
    assert quantized(source, tmp_path / "a").digest == quantized(source, tmp_path / "b").digest


def test_an_artifact_takes_along_what_stands_beside_the_graph(exports: Exports) -> None:
    source = exports.artifact("bert", "feature-extraction")
    made = exports.artifact("bert", "feature-extraction", precision="int8")
    assert made.manifest.files.keys() == source.manifest.files.keys()
    assert made.manifest.files[MODEL].bytes < source.manifest.files[MODEL].bytes
    assert [step.stage for step in made.manifest.history] == ["graph", "quantize"]
