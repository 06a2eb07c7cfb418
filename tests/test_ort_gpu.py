"""Targets cuda and ort-trt: fused graphs judged on the CPU, and sessions on a pretended GPU (`fake_gpu.py`)."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import fake_gpu
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from commands import edgebert, program
from fake_gpu import Runtime
from fake_trt import Machine
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, PAIRS, TASKS, Exports, checkpoint, texts

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed, EnvironmentMissing, InputError
from edgebert.exporters.cuda_fuse import FuseConfig, fuse
from edgebert.exporters.signature import GraphConfig
from edgebert.judging import parity
from edgebert.judging.parity import feeds
from edgebert.registry import target_named, targets_here
from edgebert.runtimes.buckets import FREE, bucket, is_captured
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import load
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import TextTokenizer
from edgebert.tasks import TASKS as OURS

pytestmark = pytest.mark.usefixtures("one_trace")

TARGETS = ("cuda", "ort-trt")
Plug = Callable[[Runtime], tuple[Runtime, Machine]]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Puts a runtime and a GPU in the place of those before."""
    yield partial(fake_gpu.install, monkeypatch)
    gc.collect()


@pytest.fixture
def gpu(plug: Plug) -> tuple[Runtime, Machine]:
    return plug(Runtime())


def fused(exports: Exports, family: str, task: str, precision: str, out: Path) -> Artifact:
    return stage.run("fuse", fuse, exports.artifact(family, task, 2), FuseConfig(precision), out)


@pytest.mark.parametrize(("family", "task"), PAIRS)
def test_every_attention_is_one_operator_and_answers_are_the_same(
    exports: Exports, tmp_path: Path, family: str, task: str
) -> None:
    exact = exports.artifact(family, task, 2)
    asked = feeds(TextTokenizer(exact), texts(8, seed=3))
    session = target_named("cpu").resolve()(exact, SessionConfig(threads=1))
    expected = outputs(parity.runner(session, exact), asked, OURS[task].compared)
    for precision in ("fp32", "fp16", "bf16"):
        made = fused(exports, family, task, precision, tmp_path / precision)
        counts = made.manifest.checks["fusion"]
        assert (counts["layers"], counts["MultiHeadAttention"]) == (2, 2)
        assert counts["SkipLayerNormalization"] >= 4
        assert counts["BiasGelu"] >= 2
        line, _ = parity.onnx_stage(precision, expected, made, asked, "cpu")
        assert line.max_abs_error <= line.tolerance, line
        assert line.cosine >= line.min_cosine, line


def test_the_mask_is_widened_once_for_all_layers(exports: Exports, tmp_path: Path) -> None:
    # Of a task that reads every token: a classifier's last layer has one query, for which the mask is one row already.
    graph = ir.load(fused(exports, "bert", TASKS[1], "fp32", tmp_path / "a").path / "model.onnx").graph
    masks = {node.inputs[5] for node in graph if node.op_type == "MultiHeadAttention"}
    assert len(masks) == 1


@pytest.mark.parametrize(("family", "task"), PAIRS)
def test_what_is_added_and_written_is_what_is_needed(exports: Exports, tmp_path: Path, family: str, task: str) -> None:
    graph = ir.load(fused(exports, family, task, "fp16", tmp_path / "m").path / "model.onnx").graph
    attentions = [node for node in graph if node.op_type == "MultiHeadAttention"]
    for node in attentions:
        # Neither keys nor values have a bias, queries have theirs; lengths stand for the mask.
        query, key, value, biases, lengths, *added = node.inputs
        assert lengths
        # ELECTRA's first layer has its output's bias where the rewriter left it, and that of its values with it.
        kept = "Add" if (family, node) == ("electra", attentions[0]) else "MatMul"
        producers = [each and each.producer() for each in (query, key, value)]
        assert [each and each.op_type for each in producers] == ["Add", "MatMul", kept]
        assert (biases, *added) == (None, *(None for _ in added))
        assert lengths.dtype == ir.DataType.INT32
    assert len({node.inputs[4] for node in attentions}) == 1
    assert all(value.uses() or value.is_graph_output() for node in graph for value in node.outputs)
    # The embeddings' LayerNorm as well.
    norms = [node.op_type for node in graph if "LayerNormalization" in node.op_type]
    assert norms[: 1 + 2 * len(attentions)] == ["SkipLayerNormalization"] * (1 + 2 * len(attentions))


def test_biases_of_any_size_are_moved_without_a_trace(exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact("bert", TASKS[0], 2)
    changed = tmp_path / "changed"
    shutil.copytree(source.path, changed)
    model = ir.load(source.path / "model.onnx")
    generator = np.random.default_rng(4)
    for name, value in model.graph.initializers.items():
        if name.endswith(("key.bias", "value.bias")):
            assert value.shape is not None
            drawn = generator.normal(0, 2, value.shape.numpy()).astype(np.float32)
            value.const_value = ir.tensor(drawn, name=name)
    ir.save(model, changed / "model.onnx")
    made = stage.run("fuse", fuse, Artifact.open(changed), FuseConfig("fp32"), tmp_path / "made")
    feed = feeds(TextTokenizer(source), texts(8, seed=3))[-1]
    found, expected = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for path in (made.path / "model.onnx", changed / "model.onnx")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_padding_than_on_the_right_is_refused_in_16_bits_alone(
    exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path
) -> None:
    for precision in ("fp32", "fp16"):
        made = fused(exports, "bert", TASKS[0], precision, tmp_path / precision)
        feed = feeds(TextTokenizer(made), texts(8, seed=3))[-1]
        with closing(target_named("cuda").resolve()(made, SessionConfig(threads=1))) as session:
            if precision == "fp32":
                session.run(feed)
            else:
                with pytest.raises(InputError, match="padding elsewhere than on the right"):
                    session.run(feed)
                # Nor a text without a single token.
                with pytest.raises(InputError, match="padding elsewhere than on the right"):
                    session.run({**feed, "attention_mask": np.zeros_like(feed["attention_mask"])})


def test_an_attention_that_is_not_fused_is_named(exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact("bert", TASKS[0], 2)
    model = ir.load(source.path / "model.onnx")
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    # Something between Softmax and the product, as another version of a model may have it.
    relu = ir.node("Relu", [softmax.outputs[0]])
    for user, place in [(use.node, use.idx) for use in softmax.outputs[0].uses() if use.node is not relu]:
        user.replace_input_with(place, relu.outputs[0])
    relu.outputs[0].type, relu.outputs[0].shape = softmax.outputs[0].type, softmax.outputs[0].shape
    model.graph.insert_after(softmax, relu)
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("edgebert.json", *source.manifest.files):
        (changed / name).write_bytes((source.path / name).read_bytes())
    ir.save(model, changed / "model.onnx")
    with pytest.raises(CheckFailed, match=rf"1 MultiHeadAttention in 2 layers: not fused are .*{softmax.name}"):
        stage.run("fuse", fuse, Artifact.open(changed), FuseConfig("fp32"), tmp_path / "out")


def test_an_operator_without_a_kernel_in_bf16_is_named(exports: Exports, tmp_path: Path) -> None:
    source = exports.artifact("bert", TASKS[0], 2)
    changed = tmp_path / "changed"
    shutil.copytree(source.path, changed)
    model = ir.load(source.path / "model.onnx")
    tanh = next(node for node in model.graph if node.op_type == "Tanh")
    tanh.op_type = "Softsign"
    ir.save(model, changed / "model.onnx")
    stage.run("fuse", fuse, Artifact.open(changed), FuseConfig("fp16"), tmp_path / "fp16")
    with pytest.raises(CheckFailed, match=rf"not known to have Softsign \({tanh.name}\) in bf16: .*fp16"):
        stage.run("fuse", fuse, Artifact.open(changed), FuseConfig("bf16"), tmp_path / "bf16")


def test_attention_is_narrow_in_every_layer(exports: Exports, tmp_path: Path) -> None:
    # Also in a last layer of one query, to whose mask nothing but constants is added.
    for precision, half in (("fp16", ir.DataType.FLOAT16), ("bf16", ir.DataType.BFLOAT16)):
        made = fused(exports, "bert", TASKS[0], precision, tmp_path / precision)
        for node in ir.load(made.path / "model.onnx").graph:
            if node.domain == "com.microsoft":
                # Lengths besides, in place of a mask.
                values = [value for value in node.inputs if value is not None and value.dtype != ir.DataType.INT32]
                assert {value.dtype for value in values} == {half}, node.name


def test_a_gpu_that_does_not_multiply_in_bf16_is_named(
    exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path
) -> None:
    _, machine = gpu
    made = fused(exports, "bert", TASKS[0], "bf16", tmp_path / "m")
    machine.capability = "7.5"
    with pytest.raises(EnvironmentMissing, match=r"no bf16 on a GPU of compute capability 7\.5"):
        target_named("cuda").resolve()(made, SessionConfig(threads=1))


def test_exported_without_a_gpu_they_are_judged_on_the_cpu(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", layers=1)
    asked = ("--model", model, "-o", tmp_path / "o", "--json")
    made = edgebert("export", "--target", "cuda,ort-trt", "--precision", "fp32,fp16", *asked).json["artifacts"]
    (bf16,) = edgebert("export", "--target", "cuda", "--precision", "bf16", *asked).json["artifacts"]
    assert bf16["checks"]["parity"][-1]["name"] == "bf16"
    assert [(each["target"], each["precision"]) for each in made] == [
        (target, precision) for target in TARGETS for precision in ("fp32", "fp16")
    ]
    for each in made:
        assert ("fusion" in each["checks"]) == (each["target"] == "cuda")
        assert each["checks"]["parity"][-1]["ok"]


@pytest.mark.parametrize("target", TARGETS)
def test_answers_are_the_references(exports: Exports, gpu: tuple[Runtime, Machine], target: str) -> None:
    for task in (TASKS[0], "question-answering"):
        artifact = exports.artifact("bert", task, 2)
        session = target_named(target).resolve()(artifact, SessionConfig(threads=1))
        truth = target_named("torch").resolve()(exports.checkpoint("bert", task, 2), SessionConfig(threads=1))
        for feed in feeds(TextTokenizer(artifact), texts(5, seed=3)):
            found, expected = session.run(feed), truth.run(feed)
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_a_call_binds_runs_between_two_marks_and_copies_when_all_is_done(
    exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path
) -> None:
    runtime, machine = gpu
    with load(fused(exports, "bert", TASKS[0], "fp32", tmp_path / "m").path, "cuda") as model:
        model.logits(["a film"])
        runtime.calls.clear()
        machine.calls.clear()
        before = model.facts()
        model.logits(["a film"])
        after = model.facts()
    # The second time that a shape is asked for, and every time from then on.
    assert machine.calls == ["mark", "run", "mark", "wait"]
    assert runtime.calls == ["update"] * 3 + ["copy"]
    assert after["provider"] == "CUDAExecutionProvider"
    assert after["device_ms"] - before["device_ms"] == pytest.approx(0.25)
    # The stream that the clock stands on is the one that the provider works on; fp32 is no TF32.
    assert runtime.settings[0]["CUDAExecutionProvider"] == {
        "device_id": "0", "user_compute_stream": "7", "use_tf32": "0", "enable_cuda_graph": "1",
    }  # fmt: skip


def test_a_graph_of_one_shape_is_captured_and_its_memory_stays(exports: Exports, gpu: tuple[Runtime, Machine]) -> None:
    runtime, _ = gpu
    artifact = exports.artifact("bert", TASKS[0], 2, graph=GraphConfig(fixed=(2, 16)))
    with load(artifact.path, "cuda") as model, load(artifact.path, "cpu") as truth:
        assert runtime.settings[0]["CUDAExecutionProvider"]["enable_cuda_graph"] == "1"
        assert model.facts()["captured"]
        asked = texts(7, seed=2, longest=9)
        np.testing.assert_allclose(model.logits(asked), truth.logits(asked), atol=1e-5)
    assert runtime.calls.count("bind") == 1
    assert runtime.calls.count("update") > 3


def test_small_batches_are_padded_to_few_shapes_which_are_captured(
    exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path
) -> None:
    runtime, _ = gpu
    artifact = fused(exports, "bert", TASKS[0], "fp32", tmp_path / "m")
    asked = texts(9, seed=2)
    with load(artifact.path, "cuda") as model, load(artifact.path, "cpu") as truth:
        for rows in (1, 2, 3, 9):
            np.testing.assert_allclose(model.logits(asked[:rows]), truth.logits(asked[:rows]), atol=1e-5)
        captured = model.facts()["captured"]
        before = len(runtime.runs)
        # In whatever thread: three rows are four, in the graph that was captured for them.
        threads = [threading.Thread(target=model.logits, args=(asked[:3],)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert model.facts()["captured"] == captured
        assert model.facts()["padding"] > truth.facts()["padding"]
        assert len(runtime.runs) > before
        assert [run for run in runtime.runs[before:] if run[0] == "-1"] == []
    graphs = {graph for graph, *_ in runtime.runs if graph != "-1"}
    assert graphs == {str(1 + number) for number in range(captured)}
    assert {rows for graph, rows, _ in runtime.runs if graph != "-1"} <= {1, 2, 4, 8, 16}
    assert {tokens % 16 for *_, tokens in runtime.runs} == {0}
    assert len(runtime.threads) == 1


def test_a_shape_that_cannot_be_captured_is_computed_all_the_same(
    exports: Exports, plug: Plug, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime, _ = plug(Runtime(capture_fails=True))
    artifact = fused(exports, "bert", TASKS[0], "fp32", tmp_path / "m")
    with load(artifact.path, "cuda") as model, load(artifact.path, "cpu") as truth:
        for _ in range(2):
            np.testing.assert_allclose(model.logits(["a film"]), truth.logits(["a film"]), atol=1e-5)
        assert model.facts()["captured"] == 0
    assert "is not captured as a CUDA graph" in caplog.text
    # Tried once a shape.
    assert len(caplog.records) == len({run[1:] for run in runtime.runs})


def test_other_batches_are_run_as_they_come(exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path) -> None:
    runtime, _ = gpu
    portable = exports.artifact("bert", TASKS[0], 2)
    # Large ones; of graphs that may fall back to the CPU; with a row without a token; and none at all.
    for artifact, rows, first in (
        (fused(exports, "bert", TASKS[0], "fp32", tmp_path / "m"), 65, 1), (portable, 3, 1),
        (Artifact.open(tmp_path / "m"), 3, 0), (Artifact.open(tmp_path / "m"), 0, 1),
    ):  # fmt: skip
        feed = {spec.name: np.ones((rows, 64), np.int64) for spec in artifact.manifest.inputs}
        feed["attention_mask"][:1] = first
        with closing(target_named("cuda").resolve()(artifact, SessionConfig(threads=1))) as session:
            assert session.run(feed)["logits"].shape[0] == rows
        assert runtime.runs[-1] == ("-1", rows, 64)


@given(st.integers(1, 300), st.integers(1, 512), st.integers(1, 512))
def test_a_bucket_holds_the_batch_and_wastes_little(rows: int, length: int, longest: int) -> None:
    tall, wide = bucket(rows, length, longest)
    assert rows <= tall < (2 * rows if tall * wide <= FREE else 1.25 * rows)
    assert length <= wide <= max(length, longest)
    assert wide < length + (16 if length <= 128 else 64)
    assert tall == rows or is_captured(tall, wide)
    # What is padded to a shape has that shape.
    assert bucket(tall, wide, longest) == (tall, wide)


def test_the_shapes_that_are_captured_are_few() -> None:
    shapes = {bucket(rows, length, 512) for rows in range(1, 257) for length in range(1, 513)}
    assert len([shape for shape in shapes if is_captured(*shape)]) <= 170


@pytest.mark.parametrize("target", TARGETS)
def test_a_provider_that_does_not_load_is_no_silent_fall_back(exports: Exports, plug: Plug, target: str) -> None:
    plug(Runtime(loads=()))
    with pytest.raises(EnvironmentMissing, match=r"ExecutionProvider did not load, CPUExecutionProvider would run it"):
        load(exports.artifact("bert", TASKS[0], 2).path, target)


def test_an_engine_is_built_before_the_first_call_and_kept_by_content(
    exports: Exports, gpu: tuple[Runtime, Machine], tmp_path: Path
) -> None:
    runtime, _ = gpu
    pair = [exports.artifact("bert", task, 2) for task in (TASKS[0], "question-answering")]
    for artifact in pair:
        load(artifact.path, "ort-trt", cache_dir=tmp_path / "cache").close()
    settings = [made["TensorrtExecutionProvider"] for made in runtime.settings]
    for artifact, found in zip(pair, settings, strict=True):
        folder = tmp_path / "cache" / f"ort-trt-{artifact.digest}"
        assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert found["trt_profile_max_shapes"].startswith("input_ids:32x64,attention_mask:32x64")
    # Opened and computed once, before any golden vector.
    assert runtime.calls[:3] == ["open", "bind", "copy"]
    load(pair[0].path, "ort-trt").close()
    assert not [name for name in runtime.settings[-1]["TensorrtExecutionProvider"] if "cache" in name]


@pytest.mark.skipif("cuda" in targets_here(), reason="there is a GPU")
@pytest.mark.parametrize("target", TARGETS)
def test_onnxruntime_without_the_provider_is_exit_6_with_the_package(target: str) -> None:
    done = program("bench", "--target", target)
    assert done.code == 6
    assert "ExecutionProvider is not in it: onnxruntime" in done.error
    assert "pip uninstall onnxruntime; pip install 'edgebert[gpu]'" in done.error


def test_every_family_is_here() -> None:
    assert {family for family, _ in PAIRS} == set(FAMILIES)
