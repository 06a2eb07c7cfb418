"""Packed mode of target cuda: graphs that leave padding out, evaluated in numpy beside the fused graphs they are of."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from commands import edgebert
from packed_reference import OPERATORS, evaluate
from tiny import PAIRS, TASKS, Exports, checkpoint, texts

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed, InputError
from edgebert.exporters.cuda_fuse import FuseConfig, fuse
from edgebert.exporters.pack import PackConfig, pack
from edgebert.judging.parity import feeds, unusual
from edgebert.judging.verify import verify
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig, takes
from edgebert.serving.model import load
from edgebert.serving.rows import rows_of
from edgebert.serving.tokens import Batch, TextTokenizer
from edgebert.tasks import TASKS as OURS
from edgebert.tolerances import TOLERANCES

pytestmark = pytest.mark.usefixtures("one_trace")

# A row of the batch's full length, rows of one token, and what is between.
LENGTHS = (9, 1, 4, 1, 8)


def packed(exports: Exports, family: str, task: str, precision: str, out: Path) -> tuple[Artifact, Artifact]:
    """A fused artifact of two layers, and its packed form."""
    fused = stage.run("fuse", fuse, exports.artifact(family, task, 2), FuseConfig(precision), out / "fused")
    return fused, stage.run("pack", pack, fused, PackConfig(), out / "packed")


def ragged(artifact: Artifact) -> Batch:
    """Random tokens of :data:`LENGTHS`, padded on the right with what is no padding id: the mask alone decides."""
    generator = np.random.default_rng(5)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    feed = {
        "input_ids": generator.integers(3, 90, mask.shape), "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, mask.shape),
    }  # fmt: skip
    return {spec.name: feed[spec.name] for spec in artifact.manifest.inputs}


def on_the_cpu(artifact: Artifact, feed: Batch) -> Any:
    """A task's outputs by ONNX Runtime."""
    task = OURS[artifact.manifest.task]
    names = [output.name for output in task.outputs]
    session = onnxruntime.InferenceSession(artifact.path / "model.onnx", providers=["CPUExecutionProvider"])
    return task.joined(dict(zip(names, session.run(names, feed), strict=True)))


def in_numpy(artifact: Artifact, feed: Batch) -> Any:
    """The same by the reference of what has no kernels there."""
    task = OURS[artifact.manifest.task]
    names = [output.name for output in task.outputs]
    found = evaluate((artifact.path / "model.onnx").read_bytes(), names, feed)
    return task.joined(dict(zip(names, found, strict=True)))


def graph_of(artifact: Artifact) -> ir.Graph:
    return ir.load(artifact.path / "model.onnx").graph


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("family", "task"), PAIRS)
def test_a_packed_graph_answers_as_the_fused_one(
    exports: Exports, tmp_path: Path, family: str, task: str, precision: str
) -> None:
    fused, made = packed(exports, family, task, precision, tmp_path)
    tolerance = TOLERANCES[precision].max_abs_error
    feed = ragged(fused)
    for asked in (feed, {name: array[:1] for name, array in feed.items()}):
        found = rows_of(in_numpy(made, asked), asked)
        expected = rows_of(on_the_cpu(fused, asked), asked)
        for row, truth in zip(found, expected, strict=True):
            np.testing.assert_allclose(row, truth, atol=tolerance * max(1.0, float(np.abs(truth).max())), rtol=0)


@pytest.mark.parametrize(("family", "task"), PAIRS)
def test_no_layer_computes_padding(exports: Exports, tmp_path: Path, family: str, task: str) -> None:
    _, made = packed(exports, family, task, "fp16", tmp_path)
    graph = graph_of(made)
    kinds = Counter(node.op_type for node in graph)
    # A classifier's last layer asks for the first token of the batch's own shape.
    narrow = int(OURS[task].head == "sentence")
    assert kinds["PackedMultiHeadAttention"] == made.manifest.checks["fusion"]["PackedMultiHeadAttention"] == 2 - narrow
    assert (kinds["RemovePadding"], kinds["MultiHeadAttention"]) == (1, narrow)
    assert kinds["RestorePadding"] == (3 if narrow else 1)
    # Products over tokens are all of packed ones, but for those of the first token.
    for node in graph:
        if node.op_type == "MatMul" and node.inputs[0] is not None:
            shape = [str(size) for size in node.inputs[0].shape or ()]
            assert shape[:2] == ["batch", "1"] or shape[:1] == ["tokens"], (node.name, shape)
    if not narrow:
        # The mask serves to count the tokens, and is widened no more.
        mask = next(value for value in graph.inputs if value.name == "attention_mask")
        assert "ReduceSum" in [use.node.op_type for use in mask.uses()]
        assert not [node for node in graph if node.op_type == "Expand" and _is_of(node.inputs[0], mask)]


def _is_of(value: ir.Value | None, mask: ir.Value) -> bool:
    producer = None if value is None else value.producer()
    return value is mask or (producer is not None and any(_is_of(each, mask) for each in producer.inputs))


def test_the_operators_take_what_onnxruntime_declares(exports: Exports, tmp_path: Path) -> None:
    # pybind's module has no stub, and is what onnxruntime's own tools ask.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    schemas = {each.name: each for each in state.get_all_operator_schema() if each.domain == "com.microsoft"}
    of_ours = {each.__name__ for each in OPERATORS if each.op_domain == "com.microsoft"}
    for precision, kind in (("fp32", "tensor(float)"), ("fp16", "tensor(float16)")):
        _, made = packed(exports, "bert", TASKS[0], precision, tmp_path / precision)
        nodes = [node for node in graph_of(made) if node.domain == "com.microsoft"]
        assert {"RemovePadding", "RestorePadding", "PackedMultiHeadAttention"} <= {node.op_type for node in nodes}
        for node in nodes:
            schema = schemas[node.op_type]
            assert node.op_type in of_ours
            assert len(node.inputs) <= len(schema.inputs)
            assert len(node.outputs) <= len(schema.outputs)
            required = [place for place, each in enumerate(schema.inputs) if each.option.name == "Single"]
            assert all(node.inputs[place] is not None for place in required)
            assert set(node.attributes) <= set(schema.attributes)
            assert {name for name, each in schema.attributes.items() if each.required} <= set(node.attributes)
            kinds = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
            assert kind in kinds["T"]
        removal = next(node for node in nodes if node.op_type == "RemovePadding")
        # The kernel writes all four, used or not.
        assert len(removal.outputs) == 4


def test_an_attention_with_more_than_the_mask_is_refused(exports: Exports, tmp_path: Path) -> None:
    fused, _ = packed(exports, "bert", TASKS[1], "fp32", tmp_path)
    changed = tmp_path / "changed"
    shutil.copytree(fused.path, changed)
    model = ir.load(fused.path / "model.onnx")
    attention = next(node for node in model.graph if node.op_type == "MultiHeadAttention")
    mask = attention.inputs[5]
    assert mask is not None
    # As a bias of relative positions would be: packed, it would have to be cut into pieces too.
    total = ir.node("Add", [mask, mask])
    total.outputs[0].type, total.outputs[0].shape = mask.type, mask.shape
    model.graph.insert_before(attention, total)
    attention.replace_input_with(5, total.outputs[0])
    ir.save(model, changed / "model.onnx")
    with pytest.raises(CheckFailed, match=f"attention {attention.name} has more than the mask of padding"):
        stage.run("pack", pack, Artifact.open(changed), PackConfig(), tmp_path / "out")


def test_exported_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", layers=2)
    asked = ("--model", model, "--target", "cuda", "--precision", "fp16", "--packed", "-o", tmp_path / "o", "--json")
    (entry,) = edgebert("export", *asked).json["artifacts"]
    assert entry["path"].endswith("m-l2-cuda-fp16-packed")
    assert entry["checks"]["packed"]["executed"] is False
    assert "packed graph itself not executed here: " in entry["checks"]["packed"]["because"]
    assert entry["checks"]["fusion"]["PackedMultiHeadAttention"] == 1
    made = Artifact.open(entry["path"])
    made.check_files()
    assert made.manifest.needs["packed"] is True
    # Its graph is nobody else's.
    for target in ("cpu", "openvino"):
        with pytest.raises(InputError, match="a packed graph, which ONNX Runtime's CUDA provider alone can run"):
            load(made.path, target)


def test_on_a_gpu_it_proves_itself_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu.install(monkeypatch, fake_gpu.Runtime())
    model = checkpoint(tmp_path / "m", layers=2)
    asked = ("--model", model, "--target", "cuda", "-o", tmp_path / "o", "--json")
    packed, fused = (edgebert("export", *asked, *flag).json["artifacts"][0] for flag in (["--packed"], []))
    assert packed["checks"]["packed"] == {"executed": True}
    line = packed["checks"]["parity"][-1]
    assert (line["name"], line["ok"]) == ("packed", True)
    with load(packed["path"]) as ours, load(fused["path"], "cpu") as theirs:
        # As they come, in batches with what padding that brings.
        written = texts(12, seed=4)
        np.testing.assert_allclose(ours.logits(written), theirs.logits(written), atol=1e-4)
    stages, _ = verify(packed["path"], str(model))
    assert [line.name for line in stages] == ["golden", "reference"]
    assert all(line.ok for line in stages)


def test_padding_elsewhere_is_refused_before_anything_is_computed(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, _ = fake_gpu.install(monkeypatch, fake_gpu.Runtime())
    fused, made = packed(exports, "bert", TASKS[0], "fp32", tmp_path)
    session = target_named("cuda").resolve()(made, SessionConfig(threads=1))
    *right, odd = feeds(TextTokenizer(made), texts(9, seed=3))
    assert all(takes(feed["attention_mask"], made) for feed in right)
    np.testing.assert_allclose(session.run(right[-1])["logits"], on_the_cpu(fused, right[-1]), atol=1e-4)
    runtime.calls.clear()
    left = {name: np.roll(array, 1, axis=1) for name, array in ragged(made).items()}
    hole = ragged(made)
    hole["attention_mask"][0, 3] = 0
    empty = ragged(made)
    empty["attention_mask"][2] = 0
    for feed in (odd, unusual(right[9]), left, hole, empty):
        assert not takes(feed["attention_mask"], made)
        assert takes(feed["attention_mask"], fused)
        with pytest.raises(InputError, match="padding elsewhere than on the right"):
            session.run(feed)
    assert runtime.calls == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--target", "cuda,cpu"), "no packed mode of cpu fp32: --packed: use --target cuda --precision fp16"),
        (("--target", "cuda", "--fixed", "2x16"), "a graph of one shape has nothing to pack"),
    ],
)
def test_what_cannot_be_packed_is_a_usage_error(tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    model = checkpoint(tmp_path / "m", layers=1)
    done = edgebert("export", "--model", model, "--packed", *flags, "-o", tmp_path / "o")
    assert done.code == 2
    assert says in done.error
