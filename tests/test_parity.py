"""The parity ledger: what passes, what never passes, and that a wrong graph is caught on the texts it runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import Exports

from edgebert.artifact import Artifact
from edgebert.judging.parity import (
    Invariance,
    choices_of,
    compare,
    feeds,
    invariance,
    ledger_texts,
    onnx_stage,
    runner,
    sample,
)
from edgebert.runtimes.reference import reference_session
from edgebert.serving.rows import Float, outputs
from edgebert.serving.tokens import Batch, TextTokenizer
from edgebert.tasks import TASKS
from edgebert.tolerances import TOLERANCES

CLASSIFIER = ("bert", "text-classification")
KINDS = tuple(TOLERANCES)


def ONE(row: Float) -> Float:
    """All outputs of a text are one decision."""
    return row[None]


def rows(*values: Sequence[float]) -> list[Float]:
    return [np.array(value, dtype=np.float32) for value in values]


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=4), min_size=1, max_size=5))
def test_the_same_outputs_pass(kind: str, values: list[list[float]]) -> None:
    line = compare("same", kind, rows(*values), rows(*values), ONE)
    assert line.ok
    assert (line.max_abs_error, line.mean_abs_error, line.label_agreement) == (0.0, 0.0, 1.0)
    assert line.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["actual", "reference", "both"])
def test_nan_and_infinity_never_pass(kind: str, bad: float, where: str) -> None:
    good, broken = rows([1.0, 2.0], [3.0, 1.0]), rows([1.0, 2.0], [3.0, bad])
    reference = good if where == "actual" else broken
    line = compare("bad", kind, reference, good if where == "reference" else broken, ONE)
    assert not line.ok
    assert line.max_abs_error > 1e300
    assert line.cosine == 0.0
    # The ledger of a refused artifact is written as JSON, which has no infinity.
    json.dumps(dataclasses.asdict(line), allow_nan=False)


@pytest.mark.parametrize(
    ("kind", "reference", "error", "ok"),
    [
        ("truncate", 1.0, 0.0, True),
        ("truncate", 1.0, 1e-7, False),
        ("fp32", 0.5, 0.9e-4, True),
        ("fp32", 0.5, 1.1e-4, False),
        # The tolerance grows with the outputs.
        ("fp32", 8.0, 7e-4, True),
        ("fp32", 8.0, 9e-4, False),
        ("int8", 1.0, 0.4, True),
        ("int8", 1.0, 0.6, False),
    ],
)
def test_the_largest_error_is_bounded(kind: str, reference: float, error: float, ok: bool) -> None:
    expected = rows([reference] * 64)
    actual = [np.array([reference + error] + [reference] * 63)]
    line = compare("edge", kind, expected, actual, None)
    assert line.ok == ok
    assert line.tolerance == pytest.approx(TOLERANCES[kind].max_abs_error * max(1.0, reference))
    assert line.max_abs_error == pytest.approx(error)
    assert line.mean_abs_error == pytest.approx(error / 64)
    assert (line.label_agreement, line.min_label_agreement) == (None, None)


def test_the_direction_is_bounded() -> None:
    # Every number within the tolerance, the vector as a whole turned away.
    reference = rows([0.2, 0.2])
    assert compare("near", "int8", reference, rows([0.2, 0.25]), None).ok
    turned = compare("turned", "int8", reference, rows([0.2, -0.2]), None)
    assert turned.max_abs_error < turned.tolerance
    assert turned.cosine < turned.min_cosine
    assert not turned.ok


@pytest.mark.parametrize(("flipped", "ok"), [(0, True), (1, True), (2, False)])
def test_labels_must_agree(flipped: int, ok: bool) -> None:
    # Ten texts that lean a little to the first of two labels, on top of one number shared by all.
    reference = rows(*[[5.0, 4.9]] * 10)
    actual = rows(*[[4.9, 5.0]] * flipped, *[[5.0, 4.9]] * (10 - flipped))
    line = compare("labels", "int8", reference, actual, ONE)
    assert line.label_agreement == pytest.approx(1 - flipped / 10)
    assert line.ok == ok
    assert compare("labels", "int8", reference, actual, None).ok


def test_who_is_undecided_agrees_with_both() -> None:
    reference, actual = rows([1.0, 1.0 - 1e-6]), rows([1.0 - 1e-6, 1.0])
    assert compare("tie", "fp32", reference, actual, ONE).label_agreement == 1.0


@pytest.mark.parametrize(
    ("decisions", "gap", "ok"), [(4, 0.2, True), (4, 3.0, False), (9, 0.2, True), (10, 0.2, False)]
)
def test_of_few_decisions_a_toss_up_does_not_decide(decisions: int, gap: float, ok: bool) -> None:
    # Two texts of a handful change their label in int8, where the reference preferred its own by ``gap``.
    sure = [[4.0, -4.0]] * (decisions - 2)
    line = compare("few", "int8", rows(*sure, *[[gap, 0.0]] * 2), rows(*sure, *[[0.0, gap / 9]] * 2), ONE)
    assert line.label_agreement == pytest.approx(1 if ok else 1 - 2 / decisions)
    assert line.ok == ok


def test_outputs_of_different_counts_do_not_compare() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare("short", "fp32", rows([1.0], [2.0]), rows([1.0]), None)


TEXTS = sorted(tiny.texts(20), key=len)


def test_every_text_is_run_alone_and_in_company(exports: Exports) -> None:
    tokenizer = TextTokenizer(exports.artifact(*CLASSIFIER))
    batches = feeds(tokenizer, TEXTS)
    tokens = tokenizer.encode(TEXTS)
    assert [feed["input_ids"].tolist() for feed in batches[:20]] == [[item.ids] for item in tokens]
    together, single = batches[20:23], batches[23:-1]
    assert [len(feed["input_ids"]) for feed in together] == [7, 7, 6]
    # The first rows of the first batch, as they are padded there.
    assert len(single) == 4
    for row, feed in enumerate(single):
        assert all(np.array_equal(feed[name], together[0][name][row : row + 1]) for name in feed)
    # Short with long, so that there is padding in each, and each text once.
    assert all((feed["attention_mask"] == 0).any() for feed in together)
    seen = [ids[mask == 1].tolist() for feed in together for ids, mask in zip(*list(feed.values())[:2], strict=True)]
    assert sorted(seen) == sorted(item.ids for item in tokens)


def test_padding_and_neighbours_are_told_apart(exports: Exports) -> None:
    batches = feeds(TextTokenizer(exports.artifact(*CLASSIFIER)), TEXTS)

    def moved(padding: float, neighbours: float) -> Invariance:
        """Of a model whose outputs know how wide a batch is, and how many texts it has."""

        def run(feed: Batch) -> Float:
            rows, width = feed["input_ids"].shape
            own = feed["attention_mask"].sum(axis=1)
            return np.column_stack([own + padding * (width > own) + neighbours * (rows > 1), -own]).astype(np.float64)

        return invariance(outputs(run, batches), len(TEXTS))

    longest = max(feed["attention_mask"].sum(axis=1).max() for feed in batches)
    assert moved(0.0, 0.0) == Invariance(0.0, 0.0, longest)
    assert (moved(0.25, 0.0).padding, moved(0.25, 0.0).neighbours) == (0.25, 0.0)
    assert (moved(0.0, 0.5).padding, moved(0.0, 0.5).neighbours) == (0.0, 0.5)


def test_one_batch_is_also_padded_on_the_left_and_with_holes(exports: Exports) -> None:
    batches = feeds(TextTokenizer(exports.artifact(*CLASSIFIER)), TEXTS)
    plain, changed = batches[20], batches[-1]
    for row, (before, after) in enumerate(zip(plain["attention_mask"], changed["attention_mask"], strict=True)):
        ids = [feed["input_ids"][row] for feed in (plain, changed)]
        if row % 2 == 0:
            assert after.tolist() == before.tolist()[::-1]
            assert ids[1][after == 1].tolist() == ids[0][before == 1].tolist()
        else:
            assert np.array_equal(*ids)
            assert [place for place in np.flatnonzero(before) if not after[place]] == list(range(2, before.sum(), 3))
            assert after[0] == 1


def test_outputs_leave_the_padding_out() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    hidden = np.arange(12.0).reshape(2, 3, 2)
    feed = {"input_ids": mask, "attention_mask": mask}
    vectors = outputs(lambda _: hidden, [feed, feed])
    assert [row.tolist() for row in vectors] == [[0, 1, 2, 3], [6, 7, 8, 9, 10, 11]] * 2
    few = outputs(lambda _: hidden, [feed], 2)
    assert [row.tolist() for row in few] == [[0, 1, 2, 3], [6, 7, 10, 11]]
    logits = outputs(lambda _: hidden[:, 0], [feed])
    assert [row.tolist() for row in logits] == [[0, 1], [6, 7]]


def ledger(reference: Artifact, artifact: Artifact) -> Any:
    batches = feeds(TextTokenizer(reference), TEXTS)
    most = TASKS[reference.manifest.task].compared
    expected = outputs(runner(reference_session(reference), reference), batches, most)
    return onnx_stage("line", expected, artifact, batches)[0]


@pytest.mark.parametrize("task", tiny.TASKS)
def test_the_right_graph_passes(task: str, exports: Exports) -> None:
    line = ledger(exports.checkpoint("bert", task), exports.artifact("bert", task))
    assert line.ok
    assert line.max_abs_error < 1e-5
    assert (line.label_agreement is None) == (task == "feature-extraction")


@pytest.mark.parametrize("task", tiny.TASKS)
def test_a_graph_of_another_depth_is_caught(task: str, exports: Exports) -> None:
    line = ledger(exports.checkpoint("bert", task, 2), exports.artifact("bert", task, 3))
    assert not line.ok


def test_int8_passes_as_int8_and_not_as_fp32(exports: Exports) -> None:
    source, made = exports.checkpoint(*CLASSIFIER), exports.artifact(*CLASSIFIER, precision="int8")
    assert ledger(source, made).ok
    posing = Artifact(made.path, dataclasses.replace(made.manifest, precision="fp32"))
    assert not ledger(source, posing).ok


def test_a_graph_that_ignores_the_mask_is_caught(exports: Exports) -> None:
    source = exports.checkpoint(*CLASSIFIER)
    batches = feeds(TextTokenizer(source), TEXTS)
    run = runner(reference_session(source), source)

    def unmasked(feed: dict[str, npt.NDArray[np.int64]]) -> Float:
        return run({**feed, "attention_mask": np.ones_like(feed["attention_mask"])})

    expected, actual = outputs(run, batches), outputs(unmasked, batches)
    assert compare("alone", "fp32", expected[:20], actual[:20], ONE).ok
    assert not compare("all", "fp32", expected, actual, ONE).ok


def test_a_graph_that_takes_all_padding_for_right_padding_is_caught(exports: Exports) -> None:
    # As a fusion of attention once did (onnxruntime#18945): right on everything that a tokenizer makes.
    source = exports.checkpoint(*CLASSIFIER)
    batches = feeds(TextTokenizer(source), TEXTS)
    run = runner(reference_session(source), source)

    def by_length(feed: dict[str, npt.NDArray[np.int64]]) -> Float:
        mask = feed["attention_mask"]
        return run({**feed, "attention_mask": -np.sort(-mask, axis=1)})

    expected, actual = outputs(run, batches), outputs(by_length, batches)
    assert compare("right", "fp32", expected[:40], actual[:40], choices_of(source.manifest)).ok
    assert not compare("all", "fp32", expected, actual, choices_of(source.manifest)).ok


def test_the_packaged_sample_has_texts_of_every_length() -> None:
    words = sorted(len(str(text).split()) for text in sample())
    assert words[0] == 1
    assert words[-1] > 80
    assert ledger_texts(None)[1] == "edgebert's packaged text sample"
