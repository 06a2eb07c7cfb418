from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny import TASKS, Exports, texts

from edgebert.judging import parity
from edgebert.judging.parity import compare, feeds, ledger_texts, outputs, sample
from edgebert.runtimes.reference import reference_session
from edgebert.serving.tokens import TextTokenizer

ROWS = [np.array([1.0, -2.0]), np.array([0.5, 0.25])]


def test_a_step_that_changes_nothing_passes_every_kind() -> None:
    for kind in parity.TOLERANCES:
        stage = compare("same", kind, ROWS, ROWS, labels=True)
        assert stage.ok
        assert (stage.max_abs_error, stage.label_agreement) == (0, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", parity.TOLERANCES)
def test_what_is_not_finite_never_passes(kind: str, bad: float) -> None:
    assert not compare("broken", kind, ROWS, [np.array([1.0, bad]), ROWS[1]], labels=False).ok


@pytest.mark.parametrize(("error", "ok"), [(1.9e-4, True), (2.1e-4, False)])
def test_fp32_may_err_by_a_share_of_the_largest_output(error: float, ok: bool) -> None:
    assert compare("edge", "fp32", ROWS, [ROWS[0], ROWS[1] + [0, error]], labels=True).ok is ok


def test_truncation_may_not_change_a_bit() -> None:
    nudged = [ROWS[0], np.nextafter(ROWS[1], 1)]
    assert not compare("truncate", "truncate", ROWS, nudged, labels=False).ok


def test_labels_that_flip_beyond_the_margin_fail() -> None:
    many = [np.array([1.0, 0.9])] * 10
    flipped = [np.array([0.9, 1.0])] * 2 + many[2:]
    stage = compare("flip", "int8", many, flipped, labels=True)
    assert stage.label_agreement == pytest.approx(0.8)
    assert not stage.ok


def test_batches_mix_lengths_and_hold_every_text_twice(exports: Exports) -> None:
    tokenizer = TextTokenizer(exports.checkpoint("bert", TASKS[0]))
    batches = feeds(tokenizer, sorted(texts(20, seed=2), key=len))
    masks = [feed["attention_mask"] for feed in batches]
    assert sum(len(mask) for mask in masks) == 40
    assert all((mask == 0).any() for mask in masks[20:])


@pytest.mark.xdist_group("exports")
def test_a_graph_with_other_weights_is_caught(exports: Exports) -> None:
    right, wrong = exports.checkpoint("bert", TASKS[0], 3), exports.checkpoint("bert", TASKS[0], 2)
    batches = feeds(TextTokenizer(right), texts(8, seed=5))
    truth = outputs(parity.runner(reference_session(right), right), batches)
    assert parity.onnx_stage("right", truth, exports.artifact("bert", TASKS[0], 3), batches)[0].ok
    stage, _ = parity.onnx_stage("wrong", truth, exports.artifact("bert", TASKS[0], 2), batches)
    assert not stage.ok
    assert wrong.manifest.architecture.layers == 2


def test_the_packaged_sample_has_texts_of_every_length() -> None:
    words = sorted(len(str(text).split()) for text in sample())
    assert words[0] == 1
    assert words[-1] > 100
    assert ledger_texts(None)[1] == "edgebert's packaged text sample"


def test_a_ledger_line_is_plain_data() -> None:
    line = dataclasses.asdict(compare("x", "fp32", ROWS, ROWS, labels=False))
    assert line["label_agreement"] is None
    assert isinstance(line["tolerance"], float)
