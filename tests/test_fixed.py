"""Graphs of one shape, and of other operator sets: the same answers, in everything that reads an artifact."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from commands import edgebert
from tiny import Exports

from edgebert import stage
from edgebert.artifact import Artifact, Manifest
from edgebert.build import export
from edgebert.errors import InputError, ItemError, UsageError
from edgebert.exporters.graph import MODEL, build_graph, trace
from edgebert.exporters.quantize import DynamicConfig, integer_coverage, quantize_dynamic
from edgebert.exporters.signature import OPSETS, GraphConfig
from edgebert.judging import parity
from edgebert.registry import target_named
from edgebert.runtimes.reference import reference_session
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model, load
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import Overflow, Text, TextTokenizer
from edgebert.tasks import TASKS

BATCH, SEQUENCE = 4, 16
TEXTS: list[Text] = list(tiny.texts(9, seed=5, longest=12))
LONG: list[Text] = list(tiny.texts(5, seed=6, longest=40))

each_pair = pytest.mark.parametrize(("family", "task"), tiny.PAIRS)


def fixed(exports: Exports, family: str, task: str, precision: str = "fp32") -> Artifact:
    """A graph of the one shape, cut from the template that serves the dynamic ones."""
    return exports.artifact(family, task, precision=precision, graph=GraphConfig(fixed=(BATCH, SEQUENCE)))


def answers(model: Model, texts: list[Text]) -> np.ndarray:
    """What the task answers: a row a text, or one for each of its tokens."""
    use = TASKS[model.artifact.manifest.task].use
    if use == "predict":
        return model.logits(texts)
    if use == "encode":
        return model.encode(texts)
    feed = model.tokenizer.collate(model.tokenizer.encode(texts))
    tokens: np.ndarray = model.run(feed)[feed["attention_mask"] == 1]
    return tokens


@each_pair
@pytest.mark.parametrize("count", [1, BATCH, len(TEXTS)])
def test_answers_are_those_of_the_graph_of_any_shape(family: str, task: str, count: int, exports: Exports) -> None:
    with (
        load(fixed(exports, family, task).path) as one,
        load(exports.artifact(family, task).path, max_length=SEQUENCE) as any_shape,
    ):
        expected = answers(any_shape, TEXTS[:count])
        assert np.abs(answers(one, TEXTS[:count]) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@each_pair
@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_int8_is_as_close_as_ever(family: str, task: str, precision: str, exports: Exports) -> None:
    exact, rounded = fixed(exports, family, task), fixed(exports, family, task, precision)
    batches = parity.feeds(TextTokenizer(exact), tiny.texts(24, seed=7))
    run = parity.runner(reference_session(exports.checkpoint(family, task)), exact)
    truth = outputs(run, batches, TASKS[task].compared)
    line, _ = parity.onnx_stage("int8", truth, rounded, batches, "cpu")
    # Whether the likeliest of random weights' guesses changes is chance.
    assert line.max_abs_error <= line.tolerance
    assert line.cosine >= line.min_cosine
    assert integer_coverage(rounded.path / MODEL)["float"] == []


@each_pair
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_takes_one_shape_and_computes_none(family: str, task: str, precision: str, exports: Exports) -> None:
    artifact = fixed(exports, family, task, precision)
    model = onnx.load(artifact.path / MODEL)
    onnx.checker.check_model(model, full_check=True)
    for value in model.graph.input:
        assert [size.dim_value for size in value.type.tensor_type.shape.dim] == [BATCH, SEQUENCE]
    sizes = [size.dim_value for output in model.graph.output for size in output.type.tensor_type.shape.dim]
    assert all(sizes)
    assert not [node for node in model.graph.node if node.op_type in ("Shape", "Size", "Range", "ConstantOfShape")]
    engine = onnxruntime.InferenceSession(artifact.path / MODEL, providers=["CPUExecutionProvider"])
    odd = {spec.name: np.ones((1, 3), dtype=np.int64) for spec in artifact.manifest.inputs}
    with pytest.raises(Exception, match=r"Got: 1 Expected: 4|invalid dimensions"):
        engine.run(None, odd)


@each_pair
def test_the_manifest_says_so(family: str, task: str, exports: Exports) -> None:
    manifest = Artifact.open(fixed(exports, family, task).path).manifest
    assert manifest.fixed == (BATCH, SEQUENCE)
    assert {spec.shape for spec in manifest.inputs} == {(BATCH, SEQUENCE)}
    assert manifest.outputs[0].shape[0] == BATCH
    assert manifest.max_length == SEQUENCE
    assert exports.artifact(family, task).manifest.fixed is None


def test_a_manifest_of_another_shape_is_refused(exports: Exports) -> None:
    artifact = fixed(exports, "bert", "text-classification")

    def with_shape(shape: tuple[str | int, ...]) -> Manifest:
        inputs = tuple(replace(spec, shape=shape) for spec in artifact.manifest.inputs)
        return replace(artifact.manifest, inputs=inputs)

    for shape in (("batch", "sequence"), (BATCH, SEQUENCE + 1), (BATCH,)):
        with pytest.raises(InputError, match=r"shape of input_ids: the manifest says .+ the graph \(4, 16\)"):
            target_named("cpu").resolve()(replace(artifact, manifest=with_shape(shape)), SessionConfig())


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("overflow", ["truncate", "chunk"])
def test_longer_texts_follow_the_policy(overflow: Overflow, task: str, exports: Exports) -> None:
    with (
        load(fixed(exports, "bert", task).path, overflow=overflow) as one,
        load(exports.artifact("bert", task).path, max_length=SEQUENCE, overflow=overflow) as any_shape,
    ):
        expected = answers(any_shape, LONG)
        assert np.abs(answers(one, LONG) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def test_longer_texts_may_be_refused(exports: Exports) -> None:
    with load(fixed(exports, *("bert", tiny.TASKS[0])).path, overflow="error") as model:
        with pytest.raises(ItemError, match="longer than 16 tokens"):
            model.logits(LONG)
        with pytest.raises(InputError, match="17 tokens, where the graph takes 16"):
            model.run({spec.name: np.ones((1, 17), np.int64) for spec in model.artifact.manifest.inputs})
        assert model.facts()["shape"] == [BATCH, SEQUENCE]


def test_the_commands_take_such_artifacts(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", layers=2)
    flags = ("--precision", "fp32,int8", "--fixed", f"{BATCH}x{SEQUENCE}", "--opset", "20")
    done = edgebert("export", "--model", model, *flags, "-o", tmp_path / "out", "--json")
    assert done.code == 0
    paths = [tmp_path / "out" / f"model-l2-cpu-{precision}-opset20-4x16" for precision in ("fp32", "int8")]
    assert [entry["path"] for entry in done.json["artifacts"]] == list(map(str, paths))
    for path in paths:
        assert Artifact.open(path).manifest.needs["opset"] == 20
        assert edgebert("verify", path, "--reference", model).code == 0
    calls = ("--samples", "6", "--threads", "1", "--batch-size", "3", "--json")
    done = edgebert("bench", *paths, *calls, "--seq-len", "12")
    assert [result["samples"] >= 6 for result in done.json["results"]] == [True, True]
    done = edgebert("bench", *paths, *calls, "--seq-len", "17")
    assert done.code == 3
    assert "max_length 17 is out of reach" in done.error


def test_shapes_and_sets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    model = str(tiny.checkpoint(tmp_path / "model"))
    for sizes in ((0, 16), (1, 7), (1, tiny.MAX_LENGTH + 1)):
        with pytest.raises(UsageError, match="--fixed: 1 text or more, 8 to 64 tokens"):
            export(model, fixed=sizes, out=tmp_path / "out")
    for opset in (OPSETS[0] - 1, OPSETS[-1] + 1):
        with pytest.raises(UsageError, match=f"no opset {opset}"):
            export(model, opset=opset, out=tmp_path / "out")
    with pytest.raises(UsageError, match="target torch has no graph"):
        export(model, target="torch", fixed=(1, 16), out=tmp_path / "out")
    for words in ("1x", "x", "1x2x3", "-1x16", "1X16", "one"):
        done = edgebert("export", "--model", model, "--fixed", words, "-o", tmp_path / "out")
        assert (done.code, "is not of the form 1x128" in done.error) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opset", OPSETS[1:])
def test_every_other_operator_set_runs_here(opset: int, exports: Exports, tmp_path: Path) -> None:
    source = exports.checkpoint("bert", "text-classification", layers=1)
    build = partial(build_graph, template=trace(source, opset))
    exact = stage.run("graph", build, source, GraphConfig(opset), tmp_path / "fp32")
    config = DynamicConfig.for_this_cpu("int8")
    rounded = stage.run("quantize", quantize_dynamic, exact, config, tmp_path / "int8")
    batches = parity.feeds(TextTokenizer(source), tiny.texts(12, seed=8))
    truth = outputs(parity.runner(reference_session(source), source), batches)
    for name, artifact in (("fp32", exact), ("int8", rounded)):
        model = onnx.load(artifact.path / MODEL)
        onnx.checker.check_model(model, full_check=True)
        assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", opset)}
        assert parity.onnx_stage(name, truth, artifact, batches)[0].ok


def test_torch_is_timed_at_the_one_shape(exports: Exports) -> None:
    artifact = fixed(exports, "bert", "text-classification")
    config = SessionConfig(timing_only=True)
    session = target_named("torch").resolve()(artifact, config)
    seen: list[tuple[int, ...]] = []
    module = session._session._module
    module.register_forward_pre_hook(
        lambda module, args, feed: seen.append(tuple(feed["input_ids"].shape)), with_kwargs=True
    )
    tokenizer = TextTokenizer(artifact)
    logits = session.run(tokenizer.collate(tokenizer.encode(TEXTS[:5])))["logits"]
    assert seen == [(BATCH, SEQUENCE)] * 2
    assert logits.shape == (5, len(tiny.LABELS))
    assert session.facts()["shape"] == [BATCH, SEQUENCE]
