"""Targets cuda and ort-trt: fused graphs judged on the CPU, and sessions on a pretended GPU (`fake_gpu.py`)."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fake_gpu
import numpy as np
import onnx_ir as ir
import pytest
from commands import edgebert, program
from fake_gpu import Runtime
from fake_trt import Machine
from tiny import FAMILIES, PAIRS, TASKS, Exports, checkpoint, texts

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed, EnvironmentMissing
from edgebert.exporters.cuda_fuse import FuseConfig, fuse
from edgebert.exporters.signature import GraphConfig
from edgebert.judging import parity
from edgebert.judging.parity import feeds
from edgebert.registry import target_named, targets_here
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
                values = [value for value in node.inputs if value is not None]
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
    exports: Exports, gpu: tuple[Runtime, Machine]
) -> None:
    runtime, machine = gpu
    with load(exports.artifact("bert", TASKS[0], 2).path, "cuda") as model:
        runtime.calls.clear()
        machine.calls.clear()
        before = model.facts()
        model.logits(["a film"])
        after = model.facts()
    assert machine.calls == ["mark", "run", "mark", "wait"]
    assert runtime.calls == ["bind", "copy"]
    assert after["provider"] == "CUDAExecutionProvider"
    assert after["device_ms"] - before["device_ms"] == pytest.approx(0.25)
    # The stream that the clock stands on is the one that the provider works on; fp32 is no TF32.
    assert runtime.settings[0]["CUDAExecutionProvider"] == {
        "device_id": "0", "user_compute_stream": "7", "use_tf32": "0", "enable_cuda_graph": "0",
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
