"""Variants of training texts: what they keep of the texts, and that a student learns nothing from their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from commands import edgebert
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.choosing.request import FitRequest
from edgebert.errors import InputError, UsageError
from edgebert.families import FAMILIES
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tokenizer import open_tokenizer
from edgebert.training import augment, plan
from edgebert.training.augment import variants
from edgebert.training.data import Data, Row, read
from edgebert.training.objectives.base import Batch, Outputs, Weights
from edgebert.training.objectives.task import labels_term
from edgebert.training.plan import TrainConfig, check_settings, make_plan
from edgebert.training.rows import Given

TEXTS = tiny.texts(40, seed=3)
ROWS = [Row(text, None, tiny.LABELS[i % 2]) for i, text in enumerate(TEXTS)]
PAIRS = [Row(text, other, tiny.LABELS[0]) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
TAGGED = [Row(text, None, tuple(f"T{i}" for i in range(len(text.split()))), tuple(text.split())) for text in TEXTS]


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_checkpoint(str(tiny.checkpoint(tmp_path_factory.mktemp("source"), request.param)))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_checkpoint(str(tiny.checkpoint(tmp_path_factory.mktemp("bert"))))


def nothing_but(monkeypatch: pytest.MonkeyPatch, **shares: float) -> None:
    """Set the shares named, and the others to none."""
    for name in ("_HIDDEN", "_EXCHANGED", "_CUT", "_REPAIRED"):
        monkeypatch.setattr(augment, name, shares.get(name, 0.0))


@pytest.mark.parametrize("rows", [ROWS, PAIRS, TAGGED], ids=["texts", "pairs", "tagged"])
def test_seed_and_rows_decide(rows: Sequence[Row], source: Artifact) -> None:
    made = variants(rows, 2, source, 0)
    assert len(made) == 2 * len(rows)
    assert variants(rows, 1, source, 0) == made[: len(rows)]
    assert variants(rows, 2, source, 1) != made
    assert made[: len(rows)] != made[len(rows) :]
    changed = sum(variant != row for variant, row in zip(made, [*rows, *rows], strict=True))
    assert changed > len(rows), "most differ from their texts"
    assert variants(rows, 0, source, 0) == []


@pytest.mark.parametrize("rows", [ROWS, PAIRS, TAGGED], ids=["texts", "pairs", "tagged"])
def test_what_is_not_changed_stays_to_the_letter(
    rows: Sequence[Row], source: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_but(monkeypatch)
    assert variants(rows, 1, source, 0) == list(rows)


def test_parts_are_of_the_text_and_half_of_it_at_least(source: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _CUT=1.0)
    made = variants(ROWS, 1, source, 0)
    for row, one in zip(ROWS, made, strict=True):
        assert one.text in row.text
        assert 2 * len(one.text.split()) >= len(row.text.split())
    cut = [(row.text, one.text) for row, one in zip(ROWS, made, strict=True) if one != row]
    assert any(text.startswith(part) for text, part in cut)
    assert any(text.endswith(part) for text, part in cut)


def test_every_word_may_be_hidden(source: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _HIDDEN=1.0)
    mask = FAMILIES[source.manifest.architecture.family].mask_token
    (made,) = variants([Row("The film  again")], 1, source, 0)
    assert made.text == f"{mask} {mask}  {mask}"


def test_marks_stay_where_they_are(bert: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _HIDDEN=1.0)
    (made,) = variants([Row("The film's music, again!")], 1, bert, 0)
    assert made.text == "[MASK] [MASK]'[MASK] [MASK], [MASK]!"


def test_words_are_exchanged_for_those_of_train(source: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _EXCHANGED=1.0)
    known = {word for row in ROWS for word in row.text.split()}
    made = variants(ROWS, 1, source, 0)
    for row, one in zip(ROWS, made, strict=True):
        assert len(one.text.split()) == len(row.text.split())
        assert set(one.text.split()) <= known
    assert sum(one.text != row.text for row, one in zip(ROWS, made, strict=True)) > len(ROWS) // 2


def test_tags_stay_with_their_words(source: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _CUT=1.0)
    made = variants(TAGGED, 1, source, 0)
    for row, one in zip(TAGGED, made, strict=True):
        assert one.text == " ".join(one.words)
        assert tagged(one).items() <= tagged(row).items()
    assert any(len(one.words) < len(row.words) for row, one in zip(TAGGED, made, strict=True))


def tagged(row: Row) -> dict[str, str]:
    assert isinstance(row.label, tuple)
    return dict(zip(row.label, row.words, strict=True))


def test_pairs_are_put_together_anew(source: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_but(monkeypatch, _REPAIRED=1.0)
    made = variants(PAIRS, 1, source, 0)
    assert [one.text for one in made] == [row.text for row in PAIRS]
    assert {one.text_b for one in made} <= set(TEXTS)
    assert [one.text_b for one in made] != [row.text_b for row in PAIRS]


def test_a_changed_context_answers_nothing(bert: Artifact) -> None:
    asked = [Row("what ?", text, None, (), (Given(text[:1], 0),)) for text in TEXTS]
    assert {one.answers for one in variants(asked, 1, bert, 0)} == {()}


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=40), other=st.none() | st.text(max_size=40), seed=st.integers(0, 9))
def test_no_text_is_too_strange(text: str, other: str | None, seed: int, bert: Artifact) -> None:
    row = Row(text, other, "positive")
    (made,) = variants([row], 1, bert, seed)
    assert made.label == row.label
    assert (made.text_b is None) == (other is None)


def test_a_character_that_is_several_words_is_there_once(
    source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_but(monkeypatch)
    tokenizer = open_tokenizer(source)
    tokenizer.normalizer = normalizers.NFKC()
    monkeypatch.setattr(augment, "open_tokenizer", lambda _: tokenizer)
    rows = [Row("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM} said"), Row(" \N{VULGAR FRACTION ONE HALF} film ")]
    assert variants(rows, 1, source, 0) == rows


def test_a_tokenizer_without_a_mask_is_refused(bert: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    monkeypatch.setattr(augment, "open_tokenizer", lambda _: plain)
    with pytest.raises(InputError, match=r"no token \[MASK\]"):
        variants(ROWS, 1, bert, 0)


def test_labels_of_variants_count_nothing() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 0, 1])
    weights = Weights(labels=0.5, hidden=1.0, temperature=1.0)

    def loss(labelled: list[bool] | None, labels: torch.Tensor = labels) -> float:
        mask = None if labelled is None else torch.tensor(labelled)
        batch = Batch(Outputs(logits), Outputs(), torch.ones(3, 1), labels, labelled=mask)
        return labels_term(batch, weights).item()

    of_first = torch.nn.functional.cross_entropy(logits[:1], labels[:1]).item()
    assert loss([True, False, False]) == pytest.approx(0.5 * of_first / 3)
    assert loss([True, False, False], torch.tensor([0, 1, 0])) == loss([True, False, False])
    assert loss([True] * 3) == pytest.approx(loss(None))
    assert loss([False] * 3) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return read(tiny.labelled(tmp_path_factory.mktemp("data"), 40))


def test_a_plan_knows_which_rows_were_given(bert: Artifact, data: Data) -> None:
    made = make_plan(bert, TrainConfig(method="hidden", augment=2), data, bert)
    given_rows = len(data.train)
    assert (made.given_rows, made.train_rows, len(made.dev)) == (given_rows, 3 * given_rows, len(data.dev))
    assert [made.rows[i] for i in made.dev] == list(data.dev)
    known = made.labelled(torch.arange(len(made.rows)))
    assert known is not None
    assert (~known).nonzero().flatten().tolist() == list(range(given_rows, 3 * given_rows))
    plain = make_plan(bert, TrainConfig(method="hidden"), data, bert)
    assert plain.labelled(torch.arange(3)) is None
    assert plain.key != made.key
    assert made.steps == 5 * math.ceil(3 * given_rows / 32)


def test_windows_of_given_rows_are_counted(tmp_path: Path) -> None:
    asks = open_checkpoint(str(tiny.checkpoint(tmp_path / "asks", task="question-answering")))
    rows = [
        {"question": "what ?", "context": text, "answers": [{"text": text.split()[0], "start": 0}]} for text in TEXTS
    ]
    found = read(tiny.write_parts(tmp_path / "data", rows))
    made = make_plan(asks, TrainConfig(augment=1, max_length=16), found, asks)
    plain = make_plan(asks, TrainConfig(max_length=16), found, asks)
    assert made.given_rows == plain.train_rows > len(found.train)
    assert made.train_rows > made.given_rows
    assert list(made.rows[: made.given_rows]) == list(plain.rows[: plain.train_rows])
    assert {row.answers for row in made.rows[made.given_rows : made.train_rows]} == {()}


@pytest.mark.parametrize("method", ["hidden", "logits", "relations", "elastic"])
def test_a_student_learns_the_same_whatever_labels_variants_have(
    method: str, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny.checkpoint(tmp_path / "teacher")
    folder = tiny.labelled(tmp_path / "data", 40)
    config = TrainConfig(method=method, augment=1, max_steps=6, max_length=16)

    def trained(name: str) -> list[str]:
        made = build.distill(str(teacher), folder, [1], tmp_path / name, config)
        assert [student.manifest.history[-1].config["augment"] for student in made] == [1]
        return [student.digest for student in made]

    as_they_are = trained("a")
    monkeypatch.setattr(plan, "variants", mislabelled)
    assert trained("b") == as_they_are
    monkeypatch.setattr(plan, "variants", lambda *_: [])
    assert trained("c") != as_they_are


def mislabelled(rows: Sequence[Row], copies: int, source: Artifact, seed: int) -> list[Row]:
    return [replace(row, label=tiny.LABELS[0]) for row in variants(rows, copies, source, seed)]


def test_who_has_no_teacher_has_nobody_to_ask() -> None:
    with pytest.raises(UsageError, match="augment is 1, with method none"):
        check_settings(TrainConfig(method="none", augment=1))
    with pytest.raises(UsageError, match="augment is -1"):
        check_settings(TrainConfig(augment=-1))


def test_a_fit_gives_it_to_students_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FitRequest] = []

    def taken(request: FitRequest, tell: object) -> None:
        asked.append(request)
        raise UsageError("seen", "here", "stop")

    monkeypatch.setattr("edgebert.choosing.sweep.fit", taken)
    folder = tiny.labelled(tmp_path / "data", 40)
    command = ["fit", "--model", "m", "--data", str(folder), "--budget", "p95=10ms", "--augment", "1"]
    assert edgebert(*command, "-o", tmp_path / "fit").code == 2
    assert asked[0].student.augment == 1
    assert "augment" not in asked[0].teacher


def test_masked_models_have_texts_of_their_own(data: Data, tmp_path: Path) -> None:
    masked = open_checkpoint(str(tiny.checkpoint(tmp_path, task="fill-mask")))
    with pytest.raises(InputError, match="masked models"):
        make_plan(masked, TrainConfig(augment=1), data, masked)
