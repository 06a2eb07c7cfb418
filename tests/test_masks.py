"""Masks that people have, in every precision and on every target: what PyTorch computes, or an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny
from tiny import Exports

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.judging.parity import compare
from edgebert.machine import has_bf16
from edgebert.registry import target_named
from edgebert.runtimes.reference import reference_session
from edgebert.runtimes.session import Session, SessionConfig
from edgebert.serving.rows import Float
from edgebert.tasks import TASKS

Int = npt.NDArray[np.int64]
# Cut, so that it is an artifact on target torch as well.
LAYERS = 2
WIDTH = 17
WAYS = (
    ("cpu", "fp32"), ("cpu", "int8"), ("cpu", "int8-static"), ("torch", "fp32"),
    ("openvino", "fp32"), ("openvino", "int8-static"), *([("openvino", "bf16")] if has_bf16() else []),
)  # fmt: skip

each_way = pytest.mark.parametrize(("target", "precision"), WAYS)
each_model = pytest.mark.parametrize(("family", "task"), tiny.PAIRS)


class Sessions:
    """Sessions on the tiny models, each opened once: none may remember what it was given."""

    def __init__(self, exports: Exports) -> None:
        self.exports = exports
        self.reference = cache(self._reference)
        self.on = cache(self._on)

    def source(self, family: str, task: str) -> Artifact:
        return self.exports.checkpoint(family, task, LAYERS)

    def _reference(self, family: str, task: str) -> Session:
        return reference_session(self.source(family, task))

    def _on(self, target: str, precision: str, family: str, task: str) -> Session:
        artifact = self.source(family, task)
        if target != "torch":
            artifact = self.exports.artifact(family, task, LAYERS, precision)
        session: Session = target_named(target).resolve()(artifact, SessionConfig(threads=1))
        return session


@pytest.fixture(scope="module")
def sessions(exports: Exports) -> Sessions:
    return Sessions(exports)


def feed_of(source: Artifact, mask: Int, seed: int = 0) -> dict[str, Int]:
    """Random tokens under a mask; what is masked is padding, as tokenizers leave it."""
    generator = np.random.default_rng(seed)
    pad = 1 if source.manifest.architecture.family == "roberta" else 0
    arrays = {
        "input_ids": np.where(mask == 1, generator.integers(5, source.manifest.architecture.vocab, mask.shape), pad),
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, mask.shape) * mask,
    }
    return {spec.name: arrays[spec.name] for spec in source.manifest.inputs}


def lengths() -> Int:
    return np.array([[1], [2], [9], [16], [WIDTH]])


def right() -> Int:
    return (np.arange(WIDTH) < lengths()).astype(np.int64)


def left() -> Int:
    return (np.arange(WIDTH) >= WIDTH - lengths()).astype(np.int64)


def holes() -> Int:
    mask = (np.random.default_rng(1).random((5, WIDTH)) < 0.5).astype(np.int64)
    mask[:, 4] = 1
    return mask


def both_sides() -> Int:
    mask: Int = right() * np.roll(left(), 3, axis=1)
    mask[:, 0] = 1
    return mask


MASKS: dict[str, Callable[[], Int]] = {"right": right, "left": left, "holes": holes, "both sides": both_sides}


def visible(output: Float, mask: Int) -> list[Float]:
    """The rows that mean something, without what is masked."""
    real = [row for row in range(len(mask)) if mask[row].any()]
    return [output[row] if output.ndim == 2 else output[row][mask[row] == 1].ravel() for row in real]


def assert_right(precision: str, expected: Float, actual: Float, mask: Int) -> None:
    """Within the tolerance that an export must keep to; fp32 far within it."""
    line = compare("mask", precision.partition("-")[0], visible(expected, mask), visible(actual, mask), None)
    assert line.ok, line
    assert precision != "fp32" or line.max_abs_error <= 0.1 * line.tolerance


@each_way
@each_model
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_gives_what_pytorch_gives(
    name: str, family: str, task: str, target: str, precision: str, sessions: Sessions
) -> None:
    source, mask = sessions.source(family, task), MASKS[name]()
    session, joined = sessions.on(target, precision, family, task), TASKS[task].joined
    feed = feed_of(source, mask)
    # The same with tokens under the mask: roberta counts its positions by these, and so must we.
    full = {**feed_of(source, np.ones_like(mask), seed=1), "attention_mask": mask}
    for given in (feed, full):
        expected = joined(sessions.reference(family, task).run(given))
        assert_right(precision, expected, joined(session.run(given)), mask)


@each_way
@each_model
def test_sides_and_holes_are_not_the_same_thing(
    family: str, task: str, target: str, precision: str, sessions: Sessions
) -> None:
    # What the tests above would not see, were a mask never looked at.
    source = sessions.source(family, task)
    session, joined = sessions.on(target, precision, family, task), TASKS[task].joined
    feed = feed_of(source, np.ones((5, WIDTH), dtype=np.int64))
    plain = joined(session.run(feed))
    for mask in (right(), holes()):
        changed = joined(session.run({**feed, "attention_mask": mask}))
        assert not compare("mask", "fp32", visible(plain, mask), visible(changed, mask), None).ok


@each_way
@each_model
def test_a_row_without_tokens_is_finite_and_leaves_the_others_alone(
    family: str, task: str, target: str, precision: str, sessions: Sessions
) -> None:
    source, mask = sessions.source(family, task), right()
    session, joined = sessions.on(target, precision, family, task), TASKS[task].joined
    mask[2] = 0
    feed = feed_of(source, np.maximum(mask, np.eye(5, WIDTH, k=-2, dtype=np.int64)))
    masked = {**feed, "attention_mask": mask}
    actual = joined(session.run(masked))
    assert np.isfinite(actual).all()
    assert_right(precision, joined(sessions.reference(family, task).run(masked)), actual, mask)
    # Nor do the others change for it.
    assert_right(precision, joined(session.run(feed)), actual, mask)
    alone = joined(session.run({name: array[2:3] for name, array in masked.items()}))
    assert np.isfinite(alone).all()


@each_way
@each_model
def test_token_types_may_be_left_out(family: str, task: str, target: str, precision: str, sessions: Sessions) -> None:
    source = sessions.source(family, task)
    session, joined = sessions.on(target, precision, family, task), TASKS[task].joined
    feed = feed_of(source, right())
    bare = {name: array for name, array in feed.items() if name != "token_type_ids"}
    zeros = {**feed, "token_type_ids": np.zeros_like(feed["input_ids"])} if "token_type_ids" in feed else feed
    assert np.array_equal(joined(session.run(bare)), joined(session.run(zeros)))
    expected = joined(sessions.reference(family, task).run(bare))
    assert_right(precision, expected, joined(session.run(bare)), right())


IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
# What is wrong: the words of the error, and the change to a good feed.
WRONG: dict[str, tuple[str, Callable[[dict[str, Int]], dict[str, Any]]]] = {
    "no mask": ("inputs input_ids", lambda feed: {IDS: feed[IDS]}),
    "no ids": ("the model reads input_ids", lambda feed: {MASK: feed[MASK]}),
    "an input too many": ("the model reads", lambda feed: {**feed, "position_ids": feed[IDS]}),
    "a mask for one row": ("other types or shapes", lambda feed: {**feed, MASK: feed[MASK][:1]}),
    "a shorter mask": ("other types or shapes", lambda feed: {**feed, MASK: feed[MASK][:, :-1]}),
    "one row without a batch": ("other types or shapes", lambda feed: {k: array[0] for k, array in feed.items()}),
    "a mask of four dimensions": ("attention_mask int64", lambda feed: {**feed, MASK: feed[MASK][:, None, None]}),
    "a mask of truths": ("attention_mask bool", lambda feed: {**feed, MASK: feed[MASK] == 1}),
    "an additive mask": ("attention_mask float32", lambda feed: {**feed, MASK: np.zeros(feed[MASK].shape, "f4")}),
    "narrow ids": ("input_ids int32", lambda feed: {**feed, IDS: feed[IDS].astype(np.int32)}),
    "a mask of twos": ("other values than 0 and 1", lambda feed: {**feed, MASK: 2 * feed[MASK]}),
    "a mask below zero": ("other values than 0 and 1", lambda feed: {**feed, MASK: -feed[MASK]}),
    "an id beyond the vocabulary": ("vocabulary: .*: give 0 to", lambda feed: {**feed, IDS: feed[IDS] + 10_000}),
    "an id below zero": ("beyond the vocabulary", lambda feed: {**feed, IDS: feed[IDS] * 0 - 1}),
    "types below zero": ("token types", lambda feed: {**feed, TYPES: feed[MASK] * -1}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@each_way
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_an_engine_would_misread_is_refused(
    family: str, target: str, precision: str, case: str, sessions: Sessions
) -> None:
    words, change = WRONG[case]
    session = sessions.on(target, precision, family, "text-classification")
    feed = feed_of(sessions.source(family, "text-classification"), right())
    if case == "types below zero" and TYPES not in feed:
        words = "the model reads"
    with pytest.raises(InputError, match=words):
        session.run(change(feed))
    # And goes on answering.
    assert session.run(feed)["logits"].shape == (5, len(tiny.LABELS))
