"""Target trt-rtx with the library itself, which builds engines without a GPU, and what is said where none can run."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from commands import edgebert, program, without
from once import once
from tiny import FAMILIES, TASKS, Exports, checkpoint, texts

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.building.calibration import calibration_feeds, calibration_texts
from edgebert.errors import EnvironmentMissing, InputError, UsageError
from edgebert.exporters.calibrate import measure_ranges
from edgebert.exporters.mixed import HIDDEN, MixedConfig, to_mixed
from edgebert.exporters.symmetric import SymmetricConfig, quantize_symmetric
from edgebert.judging import parity
from edgebert.profiles import Profile, default_profile
from edgebert.registry import target_named, targets_here
from edgebert.runtimes.session import SessionConfig
from edgebert.runtimes.trt_engines import build_plan
from edgebert.runtimes.trt_library import Library, Timings
from edgebert.serving.model import load
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import TextTokenizer

pytestmark = pytest.mark.usefixtures("one_trace")

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
CAPABILITIES = ("8.6", "8.9", "12.0")
# Those that multiply in fp8.
WITH_FP8 = CAPABILITIES[1:]
LAYERS = (1, 3, 6)


@cache
def library() -> Library:
    return Library("trt-rtx")


def typed(exports: Exports, family: str, layers: int, precision: str) -> Artifact:
    """A graph with its precision written into it."""
    source = exports.artifact(family, TASKS[0], layers)
    out = exports.folder / f"{source.path.name}-typed-{precision}"
    return source if precision == "fp32" else Artifact.open(once(out, lambda out: lowered(source, precision, out)))


def lowered(source: Artifact, precision: str, out: Path) -> Artifact:
    if precision == "fp32":
        return source
    if precision not in ("int8", "fp8"):
        return stage.run("mixed", to_mixed, source, MixedConfig(precision), out)
    asked = calibration_texts(None, texts(40, seed=9))
    ranges = measure_ranges(source, calibration_feeds(TextTokenizer(source), asked, None))
    config = SymmetricConfig(precision, len(asked))
    return stage.run("symmetric", partial(quantize_symmetric, ranges=ranges), source, config, out)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_builds_in_every_precision_and_the_graph_is_right(
    exports: Exports, family: str, precision: str
) -> None:
    for layers in LAYERS:
        made = typed(exports, family, layers, precision)
        # benchmarks/rtx_builds.py compares six layers too.
        if layers < max(LAYERS):
            exact = exports.artifact(family, TASKS[0], layers)
            asked = parity.feeds(TextTokenizer(exact), texts(8, seed=3))
            session = target_named("cpu").resolve()(exact, SessionConfig(threads=1))
            expected = outputs(parity.runner(session, exact), asked, None)
            line, _ = parity.onnx_stage(precision, expected, made, asked)
            # Agreement is no measure here: random models toss coins.
            assert line.max_abs_error <= line.tolerance, line
            assert line.cosine >= line.min_cosine, line
        # In one engine for all of them: it takes no longer than one for one of them.
        capabilities = WITH_FP8 if precision == "fp8" else CAPABILITIES
        plan = build_plan(made, library(), capabilities, default_profile(64), Timings())
        library().check(plan, "the plan")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_without_a_token_is_finite_in_16_bits(exports: Exports, family: str, precision: str) -> None:
    made = typed(exports, family, 1, precision)
    feed = parity.feeds(TextTokenizer(made), texts(8, seed=3))[-1]
    feed["attention_mask"][0] = 0
    session = target_named("cpu").resolve()(made, SessionConfig(threads=1))
    found = np.concatenate([array.ravel() for array in session.run(feed).values()])
    assert np.isfinite(found).all()


def test_an_artifact_has_an_engine_for_every_gpu(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", layers=6)
    done = edgebert(
        "export", "--model", model, "--layers", "1,6", "--target", "trt-rtx", "--precision", "fp16",
        "--compute-capability", ",".join(CAPABILITIES), "--profile", "1x8,2x16,4x64", "-o", tmp_path / "o", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    for entry in done.json["artifacts"]:
        artifact = Artifact.open(entry["path"])
        artifact.check_files()
        plans = {name for name in artifact.manifest.files if name.endswith(".plan")}
        assert plans == {"engine-sm86.plan", "engine-sm89.plan", "engine-sm120.plan"}
        assert artifact.manifest.needs["engine"] == {
            "library": "tensorrt_rtx", "version": library().version, "capabilities": list(CAPABILITIES),
            "profile": [[1, 8], [2, 16], [4, 64]],
        }  # fmt: skip
        assert entry["checks"]["parity"][-1]["name"] == "corners 1x8,2x16,4x64"
        assert entry["checks"]["engine"]["executed"] is False
        assert "engine itself not executed here: no GPU" in entry["checks"]["engine"]["because"]
        # The very graph that went into the engines answers on a machine without a GPU.
        with load(artifact.path, "cpu") as opened:
            assert len(opened.predict(["a fine film"])) == 1


def test_the_types_stand_in_the_graph(exports: Exports) -> None:
    for precision, half in (
        ("fp16", ir.DataType.FLOAT16),
        ("bf16", ir.DataType.BFLOAT16),
        ("int8", ir.DataType.FLOAT16),
        ("fp8", ir.DataType.FLOAT16),
    ):
        nodes = ir.load(typed(exports, "bert", 3, precision).path / "model.onnx").graph
        for node in nodes:
            wanted = ir.DataType.FLOAT if node.op_type in ("LayerNormalization", "Softmax") else half
            if node.op_type in ("LayerNormalization", "Softmax", "MatMul", "Gemm"):
                assert {value.dtype for value in node.inputs if value is not None} == {wanted}, node.name
        assert [value.dtype for value in nodes.outputs] == [ir.DataType.FLOAT]
        constants = [value.const_value for value in nodes.initializers.values()]
        least = min(
            float(np.min(tensor.numpy())) for tensor in constants if tensor and tensor.dtype == ir.DataType.FLOAT
        )
        assert least == HIDDEN


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_without_tokens_is_finite_and_harms_no_other(exports: Exports, precision: str) -> None:
    made = typed(exports, "bert", 3, precision)
    session = target_named("cpu").resolve()(made, SessionConfig(threads=1))
    ids = np.arange(10, dtype=np.int64).reshape(2, 5) + 5
    mask = np.array([[1] * 5, [0] * 5], np.int64)
    found = session.run({"input_ids": ids, "attention_mask": mask})["logits"]
    assert np.isfinite(found).all()
    alone = session.run({"input_ids": ids[:1], "attention_mask": mask[:1]})["logits"]
    np.testing.assert_allclose(found[:1], alone, atol=1e-2)


def test_int8_is_symmetric_and_has_no_integer_bias(exports: Exports) -> None:
    artifact = typed(exports, "bert", 3, "int8")
    nodes = ir.load(artifact.path / "model.onnx").graph
    kinds = {value.const_value.dtype for value in nodes.initializers.values() if value.const_value is not None}
    assert ir.DataType.INT32 not in kinds
    assert ir.DataType.UINT8 not in kinds
    zeros = [value.const_value for name, value in nodes.initializers.items() if name.endswith(".zero")]
    assert zeros
    assert all(tensor is not None and not tensor.numpy().any() for tensor in zeros)
    # Six a layer, the pooler and the classifier.
    assert artifact.manifest.checks["integer"] == {"integer": {"MatMul": 20}, "float": []}


def test_fp8_is_e4m3_around_zero_on_both_sides_of_every_product(exports: Exports) -> None:
    artifact = typed(exports, "bert", 3, "fp8")
    made = ir.load(artifact.path / "model.onnx")
    assert made.opset_imports[""] == artifact.manifest.needs["opset"] == 19
    # Six a layer, the pooler and the classifier.
    assert artifact.manifest.checks["fp8"] == {"fp8": {"MatMul": 20}, "float": []}
    exact, found = (constants(each) for each in (exports.artifact("bert", TASKS[0], 3), artifact))
    assert {tensor.dtype for name, tensor in found.items() if name.endswith(".zero")} == {ir.DataType.FLOAT8E4M3FN}
    rounded = {name.removesuffix(".fp8"): tensor for name, tensor in found.items() if name.endswith(".fp8")}
    assert len(rounded) == 20
    for name, tensor in rounded.items():
        assert tensor.dtype == ir.DataType.FLOAT8E4M3FN
        values = tensor.numpy().astype(np.float32)
        assert set(np.abs(values).max(axis=0)) == {448.0}
        # A Gemm's weight was turned as it was rounded.
        weight = exact[name].numpy() if name.endswith(".T") else exact[name].numpy().T
        scaled = weight / found[f"{name}.scale"].numpy().astype(np.float32)
        # Three bits behind the first; below 2**-6, steps of 2**-9.
        assert (np.abs(values - scaled) <= np.maximum(np.abs(scaled) / 16, 2.0**-10) * (1 + 1e-6)).all()


def constants(artifact: Artifact) -> dict[str, ir.TensorProtocol]:
    values = ir.load(artifact.path / "model.onnx").graph.initializers
    return {name: value.const_value for name, value in values.items() if value.const_value is not None}


def test_a_gpu_without_fp8_is_refused_at_load_too(exports: Exports) -> None:
    made = typed(exports, "bert", 1, "fp8")
    with pytest.raises(EnvironmentMissing, match=r"no fp8 on compute capability 8.0, 8.6: .*fp8 needs 8.9 or more"):
        build_plan(made, library(), ("8.0", "8.6", *WITH_FP8), default_profile(64), Timings())


def test_an_fp8_artifact_has_its_engines(tmp_path: Path) -> None:
    done = edgebert(
        "export", "--model", checkpoint(tmp_path / "m", layers=1), "--target", "trt-rtx", "--precision", "fp8",
        "--compute-capability", ",".join(WITH_FP8), "-o", tmp_path / "o", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (entry,) = done.json["artifacts"]
    artifact = Artifact.open(entry["path"])
    assert {name for name in artifact.manifest.files if name.endswith(".plan")} == {
        "engine-sm89.plan", "engine-sm120.plan",
    }  # fmt: skip
    assert [line["name"] for line in entry["checks"]["parity"]][:2] == ["onnx-fp32", "fp8"]
    with load(artifact.path, "cpu") as opened:
        assert len(opened.predict(["a fine film"])) == 1
    with pytest.raises(InputError, match="OpenVINO computes nothing in fp8"):
        load(artifact.path, "openvino")


def test_what_the_library_does_not_read_is_refused_with_its_reason(exports: Exports) -> None:
    unread = exports.artifact("bert", TASKS[0], 2, "int8-dynamic")
    with pytest.raises(InputError, match=r"tensorrt_rtx 1\..* does not read the graph \(.*MatMulInteger"):
        build_plan(unread, library(), ("8.9",), default_profile(64), Timings())


def test_a_broken_engine_is_known_without_a_gpu(exports: Exports) -> None:
    plan = build_plan(exports.artifact("bert", TASKS[0], 1), library(), ("8.9",), default_profile(64), Timings())
    library().check(plan, "the plan")
    for broken in (b"", b"junk" * 100, bytes([plan[0] ^ 1]) + plan[1:]):
        with pytest.raises(InputError, match="reads no engine in this file"):
            library().check(broken, "the plan")


@pytest.mark.skipif("trt-rtx" in targets_here(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--compute-capability", "8.9,9.0"), 2, r"no compute capability 9.0: --compute-capability: .*8.6, 8.9"),
        (("--compute-capability", "ada"), 2, "no compute capability ada"),
        ((), 2, r"for which GPU\? here is none \(no GPU.*--compute-capability with some of 7.5"),
        (("--compute-capability", "8.9", "--profile", "1x8,1x32,8x65"), 2, "the model reads at most 64 tokens"),
        (("--compute-capability", "8.9", "--profile", "2x8,1x32,8x64"), 2, "does not ascend"),
        (("--compute-capability", "8.9", "--profile", "1x8"), 2, "not of the form 1x32,8x128,32x384"),
        (
            ("--compute-capability", "8.6,8.9", "--precision", "fp16,fp8"),
            2,
            "no fp8 on compute capability 8.6: --compute-capability: fp8 needs 8.9 or more",
        ),
        (("--target", "cpu", "--precision", "fp8"), 2, "no precision fp8 on target cpu"),
        (("--target", "cpu", "--compute-capability", "8.9"), 2, "no target here builds engines"),
        (("--target", "trt"), 6, r"missing package: tensorrt: pip install 'edgebert\[trt\]'"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_is(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    model = checkpoint(tmp_path / "m", layers=1)
    done = edgebert("export", "--model", model, "--target", "trt-rtx", *arguments, "-o", tmp_path / "o")
    assert done.code == code
    assert re.search(words, done.error), done.error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("target", "package"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")])
def test_a_missing_library_is_one_line_with_what_to_install(tmp_path: Path, target: str, package: str) -> None:
    absent = without([package], tmp_path)
    done = program("bench", "--target", target, PYTHONPATH=absent)
    assert done.code == 6
    assert f"missing package: {package}: pip install 'edgebert[{target}]'" in done.error


@pytest.mark.skipif("trt-rtx" in targets_here(), reason="there is a GPU")
def test_without_a_gpu_bench_and_load_say_so(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", TASKS[0], 1)
    done = edgebert("bench", artifact.path, "--target", "trt-rtx")
    assert done.code == 6
    assert re.search(r"no GPU \(.*error \d+\): CUDA: needs an NVIDIA GPU with its driver", done.error)
    with pytest.raises(EnvironmentMissing, match="no GPU"):
        load(artifact.path, "trt-rtx")
    assert "no GPU" in edgebert("doctor", "--json").json["targets"]["trt-rtx"]


@pytest.mark.skipif("trt-rtx" in targets_here(), reason="there is a GPU")
def test_among_several_targets_a_missing_one_is_a_row(exports: Exports) -> None:
    path = exports.artifact("bert", TASKS[0], 1).path
    asked = ("bench", path, "--target", "cpu,trt,trt-rtx", "--samples", 2, "--threads", 1)
    done = edgebert(*asked)
    assert done.code == 0
    assert re.search(r"^trt: not here: missing package: tensorrt: pip install", done.err, re.MULTILINE)
    assert re.search(r"^trt-rtx: not here: no GPU", done.err, re.MULTILINE)
    document = edgebert(*asked, "--json").json
    assert [row["target"] for row in document["results"]] == ["cpu"]
    assert [row["device_ms"] for row in document["results"]] == [None]
    assert [row["target"] for row in document["missing"]] == ["trt", "trt-rtx"]


def test_profiles_have_all_their_corners() -> None:
    assert Profile((1, 32), (8, 128), (32, 384)).corners == [(1, 32), (1, 384), (32, 32), (32, 384), (8, 128)]
    assert Profile((1, 8), (1, 8), (1, 8)).corners == [(1, 8)]
    assert str(default_profile(64, [5, 9, 40])) == "1x1,1x9,32x64"
    with pytest.raises(UsageError, match="does not ascend"):
        Profile((1, 9), (1, 8), (2, 16)).check(64)
