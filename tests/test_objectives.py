"""Objectives: worked examples, and what each must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgebert.errors import UsageError
from edgebert.training.objectives import METHODS, method_named
from edgebert.training.objectives.base import Batch, Outputs, Weights, masked_mean
from edgebert.training.objectives.hidden import hidden_loss, uniform_map
from edgebert.training.objectives.losses import soft_label_loss
from edgebert.training.objectives.task import embedding_loss, labels_term, pool


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3, 6, (0, 2, 4, 6)),
        (1, 6, (0, 6)),
        (2, 6, (0, 3, 6)),
        (4, 6, (0, 2, 3, 5, 6)),
        (5, 6, (0, 1, 2, 4, 5, 6)),
        (6, 6, (0, 1, 2, 3, 4, 5, 6)),
        (4, 12, (0, 3, 6, 9, 12)),
        (2, 1, (0, 1, 1)),
    ],
)
def test_uniform_map(student: int, teacher: int, expected: tuple[int, ...]) -> None:
    assert uniform_map(student, teacher) == expected


@given(st.integers(1, 24), st.integers(1, 24))
def test_uniform_map_runs_from_embeddings_to_the_last_layer(student: int, teacher: int) -> None:
    states = uniform_map(student, teacher)
    assert (states[0], states[-1], len(states)) == (0, teacher, student + 1)
    assert list(states) == sorted(states)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_equal_logits_cost_nothing(temperature: float) -> None:
    logits = random(4, 3)
    assert soft_label_loss(logits, logits, temperature).item() == pytest.approx(0.0, abs=1e-6)
    # A shift changes no distribution.
    assert soft_label_loss(logits + 5, logits, temperature).item() == pytest.approx(0.0, abs=1e-5)


def test_soft_labels_by_hand() -> None:
    # At T = 2 the teacher says softmax(ln 9 / 2, 0) = (3/4, 1/4), the student (1/2, 1/2).
    teacher, student = torch.tensor([[math.log(9), 0.0]]), torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert soft_label_loss(student, teacher, 2.0).item() == pytest.approx(expected, abs=1e-6)


def test_soft_labels_are_a_mean_over_the_batch() -> None:
    student, teacher = random(1, 3), random(1, 3, seed=1)
    one = soft_label_loss(student, teacher, 2.0)
    assert torch.isclose(soft_label_loss(student.repeat(5, 1), teacher.repeat(5, 1), 2.0), one)


def test_hidden_loss_by_hand() -> None:
    mask = torch.tensor([[1, 1], [1, 0]])
    zeros = torch.zeros(2, 2, 2)
    ours = torch.tensor([[[1.0, 1.0], [2.0, 0.0]], [[0.0, 3.0], [9.0, 9.0]]])
    # Three real tokens of width two: (1 + 1 + 4 + 0 + 0 + 9) / 6, the padded 9s left out; two states add up.
    assert hidden_loss([ours], [zeros], mask).item() == pytest.approx(2.5)
    assert hidden_loss([ours, ours], [zeros, ours], mask).item() == pytest.approx(2.5)


@given(st.integers(0, 4), st.integers(0, 99))
def test_padding_does_not_count(padding: int, seed: int) -> None:
    ours, theirs = random(2, 3, 4, seed=seed), random(2, 3, 4, seed=seed + 1)
    mask = torch.ones(2, 3, dtype=torch.long)
    junk = 1e3 * random(2, padding, 4, seed=seed + 2)
    wider = torch.cat([mask, torch.zeros(2, padding, dtype=torch.long)], dim=1)
    padded = hidden_loss([torch.cat([ours, junk], 1)], [torch.cat([theirs, -junk], 1)], wider)
    assert torch.isclose(padded, hidden_loss([ours], [theirs], mask))


def test_states_must_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        hidden_loss([random(1, 1, 1)] * 2, [random(1, 1, 1)], torch.ones(1, 1))


def test_a_mean_over_nothing_is_zero() -> None:
    assert masked_mean(random(1, 2, 3), torch.zeros(1, 2)).item() == 0.0


@pytest.mark.parametrize(("mode", "expected"), [("mean", [2.0, 1.0]), ("cls", [1.0, 2.0]), ("max", [3.0, 2.0])])
def test_pooling_by_hand(mode: str, expected: list[float]) -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    pooled = pool(hidden, mask, mode, normalize=False)
    assert pooled.tolist() == [pytest.approx(expected)]
    length = math.hypot(*expected)
    unit = pool(hidden, mask, mode, normalize=True)
    assert unit.tolist() == [pytest.approx([value / length for value in expected])]


def test_embedding_loss_by_hand() -> None:
    ours, theirs = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert embedding_loss(ours, theirs).item() == pytest.approx(1.0 + 1.0)
    assert embedding_loss(ours, ours).item() == pytest.approx(0.0)


def test_every_method_gives_a_finite_gradient() -> None:
    for name, method in METHODS.items():
        for terms in (method.terms, method.encoder_terms):
            logits, hidden, pooled = (
                tensor.requires_grad_() for tensor in (random(2, 3), random(2, 4, 5), random(2, 5))
            )
            theirs = random(2, 4, 5, seed=1)
            batch = Batch(
                student=Outputs(logits, (hidden,), pooled, (hidden,)),
                teacher=Outputs(random(2, 3, seed=1), (theirs,), random(2, 5, seed=1), (theirs,)),
                mask=torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
                labels=torch.tensor([0, 2]),
            )
            losses = [term(batch, Weights(labels=0.3, hidden=1.0, temperature=2.0)) for term in terms]
            if losses:
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            grads = [tensor.grad for tensor in (logits, hidden, pooled) if tensor.grad is not None]
            assert all(bool(grad.isfinite().all()) for grad in grads), name
            assert len(grads) >= bool(terms), name


def test_a_term_without_its_output_is_a_bug() -> None:
    with pytest.raises(TypeError, match="needs an output"):
        labels_term(Batch(Outputs(), Outputs(), torch.ones(1, 1)), Weights(1.0, 1.0, 1.0))


def test_unknown_methods_are_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="none, logits, hidden"):
        method_named("magic")
