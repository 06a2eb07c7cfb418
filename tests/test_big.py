"""Big models: weights beside the graph, and one weight at a time in memory. Sizes are small, limits lowered."""

from __future__ import annotations

import shutil
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from commands import edgebert
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import Exports

from edgebert.artifact import Artifact
from edgebert.exporters import graph
from edgebert.exporters.constants import constant
from edgebert.exporters.graph import MODEL, trace
from edgebert.exporters.streamed import save_streamed
from edgebert.graph_guard import EXTERNAL, inspect
from edgebert.serving.model import load


@pytest.mark.parametrize(("family", "task"), list(zip(("bert", "roberta"), tiny.TASKS[:2], strict=True)))
def test_weights_beside_the_graph_go_the_whole_way(
    family: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, elsewhere = tiny.checkpoint(tmp_path / "model", family, task), tmp_path / "out", tmp_path / "elsewhere"
    flags = ("--model", model, "--layers", "2", "--precision", "fp32,int8")
    inside = edgebert("export", *flags, "-o", tmp_path / "inside", "--json").json["artifacts"]
    # Two gigabytes of weights would take minutes: the limit is lowered instead.
    monkeypatch.setattr(graph, "EXTERNAL_FROM_BYTES", 1000)
    done = edgebert("export", *flags, "-o", out, "--json")
    assert done.code == 0
    shutil.copytree(out, elsewhere)
    shutil.rmtree(out)
    shutil.rmtree(model)
    for entry, twin in zip(done.json["artifacts"], inside, strict=True):
        path = elsewhere / Path(entry["path"]).name
        manifest = Artifact.open(path).manifest
        assert manifest.files[EXTERNAL].bytes > 20_000
        onnx.checker.check_model(str(path / MODEL), full_check=True)
        assert edgebert("verify", path).code == 0
        with load(path) as one, load(twin["path"]) as other:
            answers = [(m.logits if manifest.labels else m.encode)(tiny.texts(5)) for m in (one, other)]
        assert np.array_equal(answers[0], answers[1])
    # Nothing is left but the artifacts.
    assert len(list(elsewhere.iterdir())) == len(done.json["artifacts"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "inside"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_streamed_graph_is_the_graph(precision: str, exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact("bert", "text-classification", precision=precision).path / MODEL
    model = ir.load(source)
    save_streamed(model, tmp_path / MODEL)
    ir.save(model, tmp_path / "by-onnx.onnx")
    streamed, whole = onnx.load(tmp_path / MODEL), onnx.load(tmp_path / "by-onnx.onnx")
    onnx.checker.check_model(streamed, full_check=True)
    assert (tmp_path / MODEL).read_bytes() == source.read_bytes()
    assert list(streamed.graph.initializer) == list(whole.graph.initializer)
    for side in (streamed, whole):
        # Types of weights are stated twice where onnx writes them.
        del side.graph.initializer[:], side.graph.value_info[:]
    assert streamed == whole


@given(arrays.arrays(st.sampled_from([np.float32, np.int8, np.int64, np.uint8]), arrays.array_shapes(max_side=20)))
def test_any_weight_survives(array: np.ndarray) -> None:
    import tempfile

    value = constant("w" * (array.size % 200 + 1), array)
    node = ir.node("Identity", [value])
    node.outputs[0].name = "y"
    made = ir.Graph([], list(node.outputs), nodes=[node], initializers=[value], opset_imports={"": 18}, name="small")
    with tempfile.TemporaryDirectory() as folder:
        save_streamed(ir.Model(made, ir_version=10), Path(folder) / MODEL)
        content = (Path(folder) / MODEL).read_bytes()
    (tensor,) = onnx.load_from_string(content).graph.initializer
    assert onnx.numpy_helper.to_array(tensor).tobytes() == array.tobytes()
    assert inspect(content, "here").tensors == {value.name: array.shape}


def test_one_weight_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def fetch(number: int) -> ir.TensorProtocol:
        nonlocal most
        array = np.full(1000, number, np.float32)
        alive.append(weakref.ref(array))
        most = max(most, sum(ref() is not None for ref in alive))
        return ir.tensor(array)

    values = []
    for number in range(5):
        lazy = ir.LazyTensor(partial(fetch, number), dtype=ir.DataType.FLOAT, shape=ir.Shape([1000]), name=f"w{number}")
        values.append(ir.Value(name=lazy.name, shape=lazy.shape, type=ir.TensorType(lazy.dtype), const_value=lazy))
    node = ir.node("Sum", values)
    node.outputs[0].name = "y"
    made = ir.Graph([], list(node.outputs), nodes=[node], initializers=values, opset_imports={"": 18}, name="small")
    save_streamed(ir.Model(made, ir_version=10), tmp_path / MODEL)
    assert (len(alive), most) == (5, 1)
    written = onnx.load(tmp_path / MODEL).graph.initializer
    assert [float(onnx.numpy_helper.to_array(tensor)[7]) for tensor in written] == [0, 1, 2, 3, 4]


def test_a_template_holds_no_weights(exports: Exports) -> None:
    template = trace(exports.checkpoint("bert", "text-classification"))
    held = [value.const_value for value in template.model.graph.initializers.values()]
    assert sum(tensor.nbytes for tensor in held if isinstance(tensor, ir.Tensor)) < 1000
    with pytest.raises(RuntimeError, match="no checkpoint gave values to"):
        next(tensor for tensor in held if isinstance(tensor, ir.LazyTensor)).numpy()
