"""Static int8: ranges that hold on texts of every length, integers on both engines, no say for neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_quantize import linears
from tiny import Exports

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.building.calibration import calibration_feeds, calibration_texts
from edgebert.building.schemes import Trial, best_of, schemes_of
from edgebert.exporters.calibrate import Range, linear_inputs, measure_ranges, scale_and_zero
from edgebert.exporters.graph import MODEL
from edgebert.exporters.quantize import integer_coverage
from edgebert.judging import parity
from edgebert.judging.metrics import Scores
from edgebert.registry import TARGETS, target_named
from edgebert.runtimes import ov
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import load
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import TextTokenizer
from edgebert.training.data import read

CLASSIFIER = ("bert", "text-classification")
LAYERS = 2
# Activations that a classifier multiplies by weights: four a layer, the last query's own, two in the head.
READ = 4 * LAYERS + 3
TEXTS = tiny.texts(12, seed=4)
each_pair = pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
each_engine = pytest.mark.parametrize("target", ["cpu", "openvino"])

BOUNDS = st.floats(-1e6, 1e6, width=32)


@given(BOUNDS, BOUNDS)
def test_a_range_is_kept_to_half_a_step_and_zero_exactly(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale, zero = scale_and_zero(Range(low, high))
    assert scale > 0
    values = np.array([low, 0.0, high])
    integers = np.clip(np.rint(values / scale) + zero, 0, 255)
    back = (integers - zero) * float(scale)
    assert back[1] == 0
    # Half a step of rounding, and as much of the zero point's.
    assert np.abs(back - values).max() <= 1.01 * scale


def test_ranges_do_not_see_padding_and_grow_with_what_is_seen(exports: Exports) -> None:
    source = exports.artifact(*CLASSIFIER, LAYERS)
    tokenizer = TextTokenizer(source)
    tokens = tokenizer.encode(TEXTS)
    alone = measure_ranges(source, [tokenizer.collate([item]) for item in tokens])
    padded = measure_ranges(source, [tokenizer.collate(tokens, tokenizer.max_length)])
    part = measure_ranges(source, [tokenizer.collate(tokens[:1])])
    assert len(alone) == READ
    for name, found in alone.items():
        assert padded[name].low == pytest.approx(found.low, abs=1e-4)
        assert padded[name].high == pytest.approx(found.high, abs=1e-4)
        assert found.low <= part[name].low + 1e-5
        assert part[name].high - 1e-5 <= found.high


def test_the_shortest_texts_are_calibrated_on(tmp_path: Path) -> None:
    data = read(str(tiny.labelled(tmp_path)))
    texts = calibration_texts(data, [])
    assert {row.text for row in data.train} <= set(texts)
    assert {len(text.split()) for text in texts if isinstance(text, str)} >= {0, 1, 2, 3, 4, 5}
    assert not {row.text for row in (*data.dev, *data.test)} & (set(texts) - {row.text for row in data.train})


def test_a_graph_of_one_shape_is_calibrated_in_it(exports: Exports) -> None:
    tokenizer = TextTokenizer(exports.artifact(*CLASSIFIER, LAYERS), 16)
    shapes = {array.shape for feed in calibration_feeds(tokenizer, TEXTS, (5, 16)) for array in feed.values()}
    assert shapes == {(5, 16)}


@each_pair
def test_every_linear_is_integer_in_both_graphs_that_run(family: str, task: str, exports: Exports) -> None:
    artifact = exports.artifact(family, task, LAYERS, "int8-static")
    model = artifact.path / MODEL
    assert artifact.manifest.needs["scheme"] == "static"
    assert artifact.manifest.checks["integer"] == ov.integer_coverage(model)
    for coverage in (integer_coverage(model), ov.integer_coverage(model)):
        assert coverage["float"] == []
        assert sum(coverage["integer"].values()) == linears(family, task, LAYERS)


@each_pair
def test_the_graph_is_valid_and_portable(family: str, task: str, exports: Exports) -> None:
    model = onnx.load(exports.artifact(family, task, LAYERS, "int8-static").path / MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}


@each_engine
def test_neither_neighbours_nor_padding_change_an_answer(target: str, exports: Exports) -> None:
    with load(exports.artifact(*CLASSIFIER, LAYERS, "int8-static").path, target, threads=1) as model:
        tokens = model.tokenizer.encode(TEXTS)
        together = model.run(model.tokenizer.collate(tokens, model.tokenizer.max_length))
        alone = np.concatenate([model.run(model.tokenizer.collate([item])) for item in tokens])
    # Sums in another order may round another way once in a while: an error of single steps, not of ranges.
    assert np.abs(together - alone).max() < 0.05 * np.abs(alone).max()


@each_engine
def test_int8_stays_close_to_fp32(target: str, exports: Exports) -> None:
    exact, rounded = exports.artifact(*CLASSIFIER, LAYERS), exports.artifact(*CLASSIFIER, LAYERS, "int8-static")
    batches = parity.feeds(TextTokenizer(exact), tiny.texts(24, seed=7))
    session = target_named(target).resolve()(exact, SessionConfig(threads=1))
    truth = outputs(parity.runner(session, exact), batches)
    line, _ = parity.onnx_stage("int8", truth, rounded, batches, target)
    assert line.cosine > 0.98
    assert line.max_abs_error > 0


def test_what_calibration_watches_is_what_linears_read(exports: Exports) -> None:
    import onnx_ir

    graph = onnx_ir.load(exports.artifact(*CLASSIFIER, LAYERS).path / MODEL).graph
    assert len(linear_inputs(graph)) == READ


def test_int8_is_one_of_its_schemes_wherever_it_exists() -> None:
    for target in TARGETS.values():
        if "int8" in target.precisions:
            assert set(schemes_of(target.name, "int8")) == {p for p in target.precisions if p.startswith("int8-")}
    assert schemes_of("cpu", "int8-dynamic") == ("int8-dynamic",)
    assert schemes_of("openvino", "bf16") == ("bf16",)


def trial(name: str, error: float, metric: float | None, artifact: Artifact, *, ok: bool = True) -> Trial:
    line = parity.Stage(name, error, error, 1.0, None, 0.5, 0.97, None, ok)
    hits = None if metric is None else np.arange(10)[:, None] < 10 * metric
    return Trial(name, artifact, line, [], None if hits is None else Scores("accuracy", hits.astype(np.float64)))


def test_the_best_scheme_is_sound_then_right_on_dev_then_near(exports: Exports) -> None:
    artifact = exports.artifact(*CLASSIFIER, LAYERS)
    near, far = trial("near", 0.1, None, artifact), trial("far", 0.2, None, artifact)
    assert best_of([far, near]).precision == "near"
    assert best_of([trial("far", 0.2, 0.9, artifact), trial("near", 0.1, 0.8, artifact)]).precision == "far"
    assert best_of([trial("broken", 0.1, 0.9, artifact, ok=False), trial("far", 0.2, 0.8, artifact)]).precision == "far"


def test_an_export_says_which_scheme_it_took(tmp_path: Path) -> None:
    model, data = tiny.checkpoint(tmp_path / "m", layers=1), tiny.labelled(tmp_path / "d")
    (made,) = build.export(str(model), precision="int8", data=str(data), out=tmp_path / "out")
    trials = made.manifest.checks["schemes"]
    assert [found["precision"] for found in trials] == ["int8-dynamic", "int8-static"]
    assert all(0 <= found["metric"] <= 1 for found in trials)
    (chosen,) = [found for found in trials if found["chosen"]]
    assert chosen["metric"] == max(found["metric"] for found in trials)
    assert made.manifest.precision == "int8"
    assert made.manifest.history[-1].config["scheme"] == made.manifest.needs["scheme"]
    assert f"int8-{made.manifest.needs['scheme']}" == chosen["precision"]
    assert [line["name"] for line in made.manifest.checks["parity"]] == ["onnx-fp32", "int8"]
