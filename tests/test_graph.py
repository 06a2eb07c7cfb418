"""The portable graph: cut at every depth, filled with any weights, it computes what PyTorch computes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tiny
from tiny import Exports

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.exporters import graph
from edgebert.exporters.graph import MODEL, build_graph, trace
from edgebert.exporters.signature import OPSET, PORTABLE
from edgebert.families import FAMILIES
from edgebert.registry import target_named
from edgebert.runtimes.reference import hidden_after, reference_session
from edgebert.runtimes.session import Feed, Session, SessionConfig
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.shaping.depth import TruncateConfig, truncate
from edgebert.tasks import TASKS

CLASSIFIER = ("bert", "text-classification")
LONGEST = 33

each_pair = pytest.mark.parametrize(("family", "task"), tiny.PAIRS)


def open_session(artifact: Artifact) -> Session:
    session: Session = target_named("cpu").resolve()(artifact, SessionConfig(threads=1))
    return session


def run(artifact: Artifact, feed: Feed) -> npt.NDArray[np.float32]:
    session = open_session(artifact)
    result: npt.NDArray[np.float32] = TASKS[artifact.manifest.task].joined(session.run(feed))
    session.close()
    return result


def inputs_of(artifact: Artifact, mask: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Random tokens and types under a mask."""
    generator = np.random.default_rng(0)
    arrays = {
        "input_ids": generator.integers(5, artifact.manifest.architecture.vocab, mask.shape),
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, mask.shape),
    }
    return {spec.name: arrays[spec.name] for spec in artifact.manifest.inputs}


def masks() -> Iterator[npt.NDArray[np.int64]]:
    """Rows of 1 to 33 tokens: padded right, left, with holes, and the smallest of batches."""
    places, lengths = np.arange(LONGEST), np.arange(1, LONGEST + 1)[:, None]
    yield (places < lengths).astype(np.int64)
    yield (places >= LONGEST - lengths).astype(np.int64)
    holed = np.random.default_rng(1).random((8, LONGEST)) < 0.5
    holed[:, 3] = True
    yield holed.astype(np.int64)
    yield np.ones((1, 1), dtype=np.int64)
    yield np.ones((5, 2), dtype=np.int64)


@each_pair
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_depth_computes_what_pytorch_computes(family: str, task: str, layers: int, exports: Exports) -> None:
    # The template was traced from other weights: all of these were swapped in.
    source = exports.checkpoint(family, task, layers)
    session, reference = open_session(exports.artifact(family, task, layers)), reference_session(source)
    for mask in masks():
        feed = inputs_of(source, mask)
        result, expected = session.run(feed), reference.run(feed)
        assert list(result) == [output.name for output in TASKS[task].outputs]
        for output, array in result.items():
            assert array.shape == expected[output].shape
            assert array.dtype == np.float32
            scale = max(1.0, float(np.abs(expected[output]).max()))
            assert np.abs(array - expected[output]).max() <= 1e-5 * scale


@each_pair
@pytest.mark.parametrize("keep", [(0, 2), (1, 2), (2, 0), (2,)])
def test_a_graph_with_gaps_computes_the_full_model_without_the_others(
    family: str, task: str, keep: tuple[int, ...], exports: Exports, tmp_path: Path
) -> None:
    full = exports.checkpoint(family, task)
    source = stage.run("truncate", truncate, full, TruncateConfig(keep), tmp_path / "cut")
    session, reference = open_session(build(source, exports, tmp_path / "out")), reference_session(source)
    for mask in masks():
        feed = inputs_of(full, mask)
        expected = TASKS[task].joined(reference.run(feed))
        scale = max(1.0, float(np.abs(expected).max()))
        if task == "feature-extraction":
            # To the bit where there is more than one token (test_depth.py): a single one is summed in another order.
            assert np.abs(hidden_after(full, keep, feed) - expected).max() <= 1e-6 * scale
        assert np.abs(TASKS[task].joined(session.run(feed)) - expected).max() <= 1e-5 * scale


@each_pair
def test_depths_differ(family: str, task: str, exports: Exports) -> None:
    feed = inputs_of(exports.checkpoint(family, task), next(masks()))
    one, two, three = (run(exports.artifact(family, task, layers), feed) for layers in (1, 2, 3))
    assert min(np.abs(one - two).max(), np.abs(two - three).max()) > 0.1


@each_pair
def test_every_input_is_used(family: str, task: str, exports: Exports) -> None:
    # Once, inputs that shared an example tensor became one: the mask was the ids.
    artifact = exports.artifact(family, task)
    feed = inputs_of(artifact, np.ones((2, 9), dtype=np.int64))
    before = run(artifact, feed)
    for name, array in feed.items():
        changed = array.copy()
        changed[:, 4] = 20 if name == "input_ids" else 1 - array[:, 4]
        difference = np.abs(run(artifact, {**feed, name: changed}) - before)
        assert difference.reshape(2, -1).max(axis=1).min() > 1e-3, name


@each_pair
def test_what_is_masked_does_not_count(family: str, task: str, exports: Exports) -> None:
    artifact = exports.artifact(family, task)
    mask = np.array([[1] * 6 + [0] * 3, [1] * 8 + [0]])
    feed = inputs_of(artifact, mask)
    # Roberta counts positions by tokens that are not padding.
    feed["input_ids"][mask == 0] = 1
    other = {**feed, "input_ids": np.where(mask == 0, 1 if FAMILIES[family].position_offset else 9, feed["input_ids"])}
    wider = {
        name: np.pad(array, ((0, 0), (0, 5)), constant_values=int(name == "input_ids")) for name, array in feed.items()
    }
    expected = run(artifact, feed)
    for changed in (other, wider):
        result = run(artifact, changed)
        visible = mask.astype(bool) if result.ndim == 3 else np.s_[:]
        assert np.abs(result[:, : mask.shape[1]][visible] - expected[visible]).max() < 1e-5 * np.abs(expected).max()


@each_pair
def test_a_fully_masked_row_is_finite_and_harms_no_other(family: str, task: str, exports: Exports) -> None:
    artifact = exports.artifact(family, task)
    mask = np.ones((3, 7), dtype=np.int64)
    feed = inputs_of(artifact, mask)
    masked = run(artifact, {**feed, "attention_mask": mask * np.array([[1], [0], [1]])})
    assert np.isfinite(masked).all()
    assert np.abs(masked[::2] - run(artifact, feed)[::2]).max() < 1e-5 * np.abs(masked).max()


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


@each_pair
@pytest.mark.parametrize("layers", [1, 3])
def test_the_graph_is_standard_and_names_its_dimensions(family: str, task: str, layers: int, exports: Exports) -> None:
    model = onnx.load(exports.artifact(family, task, layers).path / MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    names = [spec.name for spec in exports.checkpoint(family, task).manifest.inputs]
    assert [value.name for value in model.graph.input] == names
    assert all(dimensions(value) == ["batch", "sequence"] for value in model.graph.input)
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.INT64}
    vocab = exports.checkpoint(family, task).manifest.architecture.vocab
    widths = {"labels": len(tiny.HEADS_OF.get(task, ())), "hidden": tiny.HIDDEN, "vocab": vocab}
    expected = [(output.name, [widths.get(dim, dim) for dim in output.shape]) for output in TASKS[task].outputs]
    assert [(value.name, dimensions(value)) for value in model.graph.output] == expected


@each_pair
def test_the_weights_are_the_checkpoints_and_no_others(family: str, task: str, exports: Exports) -> None:
    for layers in (1, 3):
        model = onnx.load(exports.artifact(family, task, layers).path / MODEL)
        # What is not a named parameter is a constant of the arithmetic.
        named = [tensor for tensor in model.graph.initializer if "." in tensor.name]
        others = [tensor for tensor in model.graph.initializer if "." not in tensor.name]
        assert max((int(np.prod(tensor.dims)) for tensor in others), default=0) <= tiny.MAX_LENGTH + 2
        depths = {int(name.split(".layer.")[1].split(".")[0]) for name in (t.name for t in named) if ".layer." in name}
        assert depths == set(range(layers))
        assert len({tensor.name for tensor in named}) == len(named)
        assert model.ByteSize() < 1.35 * sum(4 * int(np.prod(tensor.dims)) for tensor in named) + 20_000


def build(source: Artifact, exports: Exports, out: Path) -> Artifact:
    template = exports.template(source.manifest.architecture.family, source.manifest.task)
    return stage.run("graph", partial(build_graph, template=template), source, PORTABLE, out)


def test_building_again_gives_the_same_bytes(exports: Exports, tmp_path: Path) -> None:
    before = exports.artifact(*CLASSIFIER)
    build(exports.checkpoint(*CLASSIFIER, 1), exports, tmp_path / "1")
    assert build(exports.checkpoint(*CLASSIFIER), exports, tmp_path / "3").digest == before.digest


def test_tracing_again_gives_the_same_bytes(exports: Exports, tmp_path: Path) -> None:
    template = trace(exports.checkpoint(*CLASSIFIER))
    again = stage.run(
        "graph",
        partial(build_graph, template=template),
        exports.checkpoint(*CLASSIFIER, 2),
        PORTABLE,
        tmp_path / "x",
    )
    assert again.digest == exports.artifact(*CLASSIFIER, 2).digest


def test_an_artifact_takes_along_what_stands_beside_the_weights(exports: Exports) -> None:
    encoder = exports.artifact("bert", "feature-extraction")
    names = ["1_Pooling/config.json", "config.json", MODEL, "modules.json", "sentence_bert_config.json"]
    assert sorted(encoder.manifest.files) == [*names, "tokenizer.json", "tokenizer_config.json"]
    manifest = encoder.manifest
    assert (manifest.format, manifest.precision, manifest.target) == ("onnx", "fp32", "cpu")
    assert manifest.pooling is not None
    assert [step.stage for step in exports.artifact(*CLASSIFIER, 1).manifest.history] == ["truncate", "graph"]


def test_a_template_of_another_shape_is_not_used(exports: Exports, tmp_path: Path) -> None:
    template = exports.template(*CLASSIFIER)
    deeper = open_checkpoint(str(tiny.checkpoint(tmp_path / "deeper", layers=4)))
    others = [deeper, exports.checkpoint("bert", "feature-extraction"), exports.checkpoint("roberta", CLASSIFIER[1])]
    assert template.serves(exports.checkpoint(*CLASSIFIER, 1), OPSET)
    assert not template.serves(exports.checkpoint(*CLASSIFIER), OPSET + 1)
    for source in others:
        assert not template.serves(source, OPSET)
        with pytest.raises(ValueError, match="another shape"):
            stage.run("graph", partial(build_graph, template=template), source, PORTABLE, tmp_path / "out")


def test_a_head_of_another_size_is_refused(exports: Exports, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "two", labels=("a", "b"))))
    with pytest.raises(InputError, match=r"weights classifier\.(weight|bias) have another shape"):
        build(source, exports, tmp_path / "out")


def test_large_weights_stand_beside_the_graph(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two gigabytes of weights would take minutes: the limit is lowered instead.
    monkeypatch.setattr(graph, "EXTERNAL_FROM_BYTES", 1000)
    source = exports.checkpoint(*CLASSIFIER)
    made = build(source, exports, tmp_path / "out")
    assert made.has(f"{MODEL}_data")
    assert made.manifest.files[MODEL].bytes < made.manifest.files[f"{MODEL}_data"].bytes
    feed = inputs_of(source, next(masks()))
    assert np.array_equal(run(made, feed), run(exports.artifact(*CLASSIFIER), feed))
    # It may be moved as one.
    shutil.move(made.path, tmp_path / "moved")
    assert np.isfinite(run(Artifact.open(tmp_path / "moved"), feed)).all()
