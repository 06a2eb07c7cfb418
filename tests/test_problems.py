"""Classifiers of several labels and regressions: from data through training and export to answers and metric."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from edgebert import build
from edgebert.artifact import Artifact, Manifest, problem_of
from edgebert.errors import InputError
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import micro_f1
from edgebert.judging.verify import verify
from edgebert.serving.model import load
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import Row, match_labels, read
from edgebert.training.plan import TrainConfig

pytestmark = pytest.mark.usefixtures("one_trace")

MULTI, REGRESSION = "multi_label_classification", "regression"
TEXTS = tiny.texts(12, seed=3)
QUICK = TrainConfig(method="none", epochs=12.0, train_batch_size=8, lr=3e-3, max_length=16)


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("multi")
    source = tiny.checkpoint(folder / "tiny", layers=2, problem=MULTI)
    return build.export(str(source), precision="int8", out=folder / "out")[0]


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("regression")
    source = tiny.checkpoint(folder / "tiny", layers=2, labels=("LABEL_0",))
    return build.export(str(source), out=folder / "out")[0]


def test_a_problem_is_read_off_the_config(multi: Artifact, regression: Artifact, tmp_path: Path) -> None:
    assert (multi.manifest.problem, multi.manifest.metric) == (MULTI, "micro_f1")
    assert (regression.manifest.problem, regression.manifest.metric) == (REGRESSION, "spearman")
    plain = open_checkpoint(str(tiny.checkpoint(tmp_path / "plain", layers=1))).manifest
    assert (plain.problem, plain.metric, problem_of(plain).name) == (None, "accuracy", "single_label_classification")
    for problem, match in (("magic", "unknown problem_type 'magic'"), (REGRESSION, "regression with 3 labels")):
        folder = tiny.checkpoint(tmp_path / problem, layers=1)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem}), "utf-8")
        with pytest.raises(InputError, match=match):
            open_checkpoint(str(folder))


def test_an_older_manifest_keeps_its_digest(multi: Artifact) -> None:
    older = {name: value for name, value in multi.manifest.to_dict().items() if name not in ("problem", "metric")}
    read_again = Manifest.from_dict(older, "here")
    assert read_again.to_dict() == older
    with pytest.raises(InputError, match="field problem is 'magic'"):
        Manifest.from_dict({**older, "problem": "magic"}, "here")


def test_several_labels_are_answered(multi: Artifact) -> None:
    with load(multi.path, threads=1) as model:
        logits = model.logits(TEXTS)
        answers = model.predict(TEXTS)
    for row, answer in zip(logits, answers, strict=True):
        assert list(answer.scores.values()) == pytest.approx((1 / (1 + np.exp(-row))).tolist(), abs=1e-6)
        assert answer.labels == tuple(label for label, value in zip(tiny.LABELS, row, strict=True) if value >= 0)
        assert answer.score == max(answer.scores.values()) == answer.scores[answer.label]
    assert len({len(answer.labels) for answer in answers}) > 1


def test_a_regression_answers_values(regression: Artifact) -> None:
    with load(regression.path, threads=1) as model:
        values = [answer.score for answer in model.predict(TEXTS)]
        assert values == model.logits(TEXTS)[:, 0].tolist()
        assert all(answer.labels == () for answer in model.predict(TEXTS))
    assert len(set(values)) > 6


def test_decisions_are_compared_where_there_are_any(multi: Artifact, regression: Artifact) -> None:
    stages, _ = verify(multi.path)
    assert [line.label_agreement for line in stages] == [pytest.approx(1.0, abs=0.1)]
    assert [line["label_agreement"] for line in regression.manifest.checks["parity"]] == [None]


LISTS = st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc"))), min_size=1, max_size=9)


@given(LISTS)
def test_micro_f1_is_the_harmonic_mean_of_precision_and_recall(pairs: list[tuple[set[str], set[str]]]) -> None:
    answered = [(i, name) for i, (predicted, _) in enumerate(pairs) for name in predicted]
    expected = [(i, name) for i, (_, truth) in enumerate(pairs) for name in truth]
    right = len(set(answered) & set(expected))
    scores = micro_f1([predicted for predicted, _ in pairs], [truth for _, truth in pairs])
    value = scores.metric_value().value
    if right == 0:
        assert value == 0.0
    else:
        precision, recall = right / len(answered), right / len(expected)
        assert value == pytest.approx(2 * precision * recall / (precision + recall))


def test_each_is_judged_by_its_metric(multi: Artifact, regression: Artifact) -> None:
    with load(multi.path, threads=1) as model:
        right = [Row(text, None, answer.labels) for text, answer in zip(TEXTS, model.predict(TEXTS), strict=True)]
        assert evaluate(model, right).metric_value().value == 1.0
        with pytest.raises(InputError, match="no lists of labels to judge by"):
            evaluate(model, [Row("a", None, "yes")])
    with load(regression.path, threads=1) as model:
        rated = [Row(text, None, 2 * p.score - 1) for text, p in zip(TEXTS, model.predict(TEXTS), strict=True)]
        assert evaluate(model, rated).metric_value().value == pytest.approx(1.0)
        assert evaluate(model, rated).metric == "spearman"


def several(count: int = 64) -> list[dict[str, Any]]:
    """A word for each of two labels decides whether it is given."""
    texts = tiny.texts(count, 5, longest=4, words=tiny.WORDS[:50])
    rows = []
    for i, text in enumerate(texts):
        given = [name for name, bit in (("warm", 1), ("loud", 2)) if i & bit]
        rows.append({"text": " ".join([*given, text]), "label": given})
    return rows


def rated(count: int = 64) -> list[dict[str, Any]]:
    """The words of the second text that are `good` decide the score."""
    texts = tiny.texts(count, 6, longest=3, words=tiny.WORDS[:50])
    return [{"text": text, "text_b": "good " * (i % 4) + "a", "label": i % 4 / 2} for i, text in enumerate(texts)]


def test_lists_of_labels_are_read(tmp_path: Path) -> None:
    data = read(tiny.write_parts(tmp_path / "data", several()))
    assert (data.kind, data.labels) == ("labels", ("loud", "warm"))
    assert {row.label for row in data.train} == {(), ("warm",), ("loud",), ("loud", "warm")}
    matched = match_labels(data, ("WARM", "LOUD"), "labels")
    assert matched is not None
    assert {name for row in matched.train for name in row.label or ()} == {"WARM", "LOUD"}  # type: ignore[union-attr]
    assert match_labels(data, data.labels, "label") is None
    (tmp_path / "mixed.jsonl").write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": "y"}\n')
    with pytest.raises(InputError, match=r"label 'y' is no list, but others are: .*line 2, field 'label'"):
        read(tmp_path / "mixed.jsonl")


def test_a_dev_part_is_drawn_from_scores_that_are_all_different(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "label": i / 7}) + "\n" for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    assert len(read(tmp_path / "train.jsonl").dev) == 4


@pytest.mark.parametrize(("rows", "problem"), [(several, MULTI), (rated, REGRESSION)])
def test_a_bare_encoder_learns_what_the_data_is_for(rows: Any, problem: str, tmp_path: Path) -> None:
    data = tiny.write_parts(tmp_path / "data", rows())
    source = tiny.checkpoint(tmp_path / "bare", task="feature-extraction", layers=2)
    (source / "modules.json").unlink()
    (made,) = build.distill(str(source), data, [2], tmp_path / "out", QUICK)
    assert problem_of(made.manifest).name == problem
    assert made.manifest.checks["training"]["metric"] == made.manifest.metric
    assert made.manifest.checks["training"]["value"] > 0.6
    # Its student learns from it, through export and the very path that serves.
    config = replace(QUICK, method="hidden", epochs=8.0)
    (student,) = build.distill(str(made.path), data, [1], tmp_path / "students", config)
    exported = build.export(str(student.path), precision="int8", data=data, out=tmp_path / "artifacts")[0]
    metric = verify(exported.path, data=data)[1]
    assert metric is not None
    assert (metric.name, metric.value > 0.4) == (made.manifest.metric, True)


def test_rated_pairs_leave_a_sentence_encoder_one(tmp_path: Path) -> None:
    data = read(tiny.write_parts(tmp_path / "data", rated()))
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "encoder", task="feature-extraction", layers=1)))
    assert not build.learns_labels(source, data)
    (source.path / "modules.json").unlink()
    assert build.learns_labels(open_checkpoint(str(source.path)), data)
