"""Question answering: from questions, contexts and answers through training and export to stretches of a context."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import edgebert, program
from tiny import Exports

from edgebert import build
from edgebert.errors import InputError, ItemError, UsageError
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import AnswerMetric
from edgebert.judging.verify import verify
from edgebert.quotes import Seen, quotes, tokens_of
from edgebert.serving.model import Model, load
from edgebert.serving.questions import answer_of
from edgebert.serving.tokens import TextTokenizer, Tokens
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.squad import compared
from edgebert.training.batches import tokenize
from edgebert.training.data import Row, match_labels, read
from edgebert.training.objectives.losses import LOSSES
from edgebert.training.plan import TrainConfig
from edgebert.training.rows import Given
from edgebert.training.targets import LABELLINGS

TASK = "question-answering"
CONTEXTS = ["  The  old film,\tsees naïve rivers! ", "日本 x7 😀 e\u0301te.", "a", *tiny.texts(5, seed=3, longest=60)]
PAIRS = [(f"which film {i}?", context) for i, context in enumerate(CONTEXTS)]


@pytest.fixture(scope="module")
def answerer(exports: Exports) -> Model:
    return load(exports.artifact("bert", TASK).path, threads=1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_answer_is_a_stretch_of_its_context(family: str, precision: str, exports: Exports) -> None:
    for layers in (1, 3):
        with load(exports.artifact(family, TASK, layers, precision).path, threads=1) as model:
            found = model.answer(PAIRS, top_k=3, max_answer_tokens=4)
        for answer, (_, context) in zip(found, PAIRS, strict=True):
            everything = [answer, *answer.others]
            assert all(each.text == context[each.start : each.end] for each in everything)
            assert all(each.text == each.text.strip() != "" for each in everything)
            scores = [each.score for each in everything]
            assert scores == sorted(scores, reverse=True)
            assert 0 < sum(scores) <= 1 + 1e-6


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_answers_are_pytorchs(family: str, exports: Exports) -> None:
    question, context = "which film?", "the old film sees quick rivers, and falls on a quiet road"
    encoding = tiny.tokenizer_of(family).encode(question, context)
    types = {"token_type_ids": torch.tensor([encoding.type_ids])} if family in ("bert", "electra") else {}
    with torch.inference_mode():
        found = load_module(exports.checkpoint(family, TASK))(input_ids=torch.tensor([encoding.ids]), **types)
    start, end = found.start_logits[0].numpy(), found.end_logits[0].numpy()
    inside = [i for i, text in enumerate(encoding.sequence_ids) if text == 1]
    scores = {(i, j): start[i] + end[j] for i in inside for j in inside if i <= j < i + 30}
    i, j = max(scores, key=scores.__getitem__)
    with load(exports.artifact(family, TASK).path, threads=1) as model:
        (answer,) = model.answer([(question, context)])
    expected = context[encoding.offsets[i][0] : encoding.offsets[j][1]].strip()
    assert (answer.text, answer.chunks, answer.truncated) == (expected, 1, False)
    weights = np.exp(np.array(list(scores.values())))
    assert answer.score == pytest.approx(np.exp(scores[i, j]) / weights.sum(), rel=1e-3)


def test_company_changes_no_answer(answerer: Model) -> None:
    together = answerer.answer(PAIRS)
    assert len({answer.chunks for answer in together}) > 1
    for pair, answer in zip(PAIRS, together, strict=True):
        (alone,) = answerer.answer([pair])
        assert (alone.text, alone.start, alone.end, alone.chunks) == (
            answer.text, answer.start, answer.end, answer.chunks,
        )  # fmt: skip
        assert alone.score == pytest.approx(answer.score, rel=1e-3)
    order = random.Random(0).sample(range(len(PAIRS)), len(PAIRS))
    texts = [answer.text for answer in answerer.answer([PAIRS[i] for i in order])]
    assert texts == [together[i].text for i in order]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_windows_are_what_the_tokenizer_makes(family: str, exports: Exports) -> None:
    source = exports.checkpoint(family, TASK)
    tokenizer, question = TextTokenizer(source), "which film?"
    context = " ".join(tiny.texts(20, seed=8))
    (item,) = tokenizer.encode([(question, context)])
    whole = tiny.tokenizer_of(family).encode(question, context)
    inside = [i for i, text in enumerate(whole.sequence_ids) if text == 1]
    assert len(item.windows) > 2
    for window in item.windows:
        assert len(window) <= tiny.MAX_LENGTH
        numbers = [number for number in window.words if number is not None]
        kept = [i for i in range(len(whole)) if i not in set(inside) or i - inside[0] in set(numbers)]
        assert window.ids == [whole.ids[i] for i in kept]
        assert window.types == [whole.type_ids[i] for i in kept]
    # What training reads of it is the same.
    trained = tokenize(source, [Row("x", "y"), Row(question, context)], tiny.MAX_LENGTH)[1:]
    assert [list(window.ids) for window in trained] == [window.ids for window in item.windows]
    assert [window.places for window in trained] == [window.places for window in item.windows]
    assert {window.row for window in trained} == {1}
    # What fits is not touched.
    (short,) = tokenizer.encode([(question, "a film")])
    assert short.ids == tiny.tokenizer_of(family).encode(question, "a film").ids


def test_long_contexts_follow_the_policy(exports: Exports) -> None:
    path, pair = exports.artifact("bert", TASK).path, ("which film?", " ".join(tiny.texts(20, seed=8)))
    with load(path, threads=1, overflow="truncate") as model:
        (cut,) = model.answer([pair])
        assert (cut.truncated, cut.chunks) == (True, 1)
        assert cut.end < tiny.MAX_LENGTH * 10
    with load(path, threads=1, overflow="error") as model, pytest.raises(ItemError, match="item 1"):
        model.answer([("a", "b"), pair])
    with load(path, threads=1) as model:
        (answer,) = model.answer([pair])
        assert not answer.truncated
        assert answer.chunks > 2
        assert model.answer([("film " * 100, "a film")])[0].truncated


def test_what_cannot_be_answered_says_so(answerer: Model, exports: Exports) -> None:
    empty, blank = answerer.answer([("which?", ""), ("which?", " \n ")])
    assert (empty.text, empty.start, empty.end, empty.score, empty.others) == ("", 0, 0, 0.0, ())
    assert (blank.text, blank.score) == ("", 0.0)
    assert answerer.answer([("", "a")])[0].text == "a"
    assert answerer.answer([]) == []
    with pytest.raises(ItemError, match="item 1: pass a pair"):
        answerer.answer([("a", "b"), "c"])  # type: ignore[list-item]
    for wrong in ({"top_k": 0}, {"max_answer_tokens": 0}):
        with pytest.raises(UsageError, match="give at least 1"):
            answerer.answer([("a", "b")], **wrong)
    with pytest.raises(UsageError, match=r"not a classifier.*or call answer"):
        answerer.predict(["a"])
    with (
        load(exports.artifact("bert", "text-classification").path) as other,
        pytest.raises(UsageError, match="not a model that answers questions"),
    ):
        other.answer([("a", "b")])


def test_no_answer_is_longer_than_was_asked_for(answerer: Model) -> None:
    for answer, (_, context) in zip(answerer.answer(PAIRS[3:], max_answer_tokens=1), PAIRS[3:], strict=True):
        assert answer.text in context.split()
    assert answerer.answer(PAIRS, max_answer_tokens=10**9)[3].score > 0


TIMES = ("night", "day", "morning", "winter")


def questions(count: int = 96) -> list[dict[str, Any]]:
    """The one time that the context names is when it was, wherever it stands among up to forty words."""
    generator, rows = random.Random(5), []
    for i, text in enumerate(tiny.texts(count, 7, longest=40, words=tiny.WORDS[:20])):
        words = text.split()
        words.insert(generator.randint(0, len(words)), TIMES[i % 4])
        context = " ".join(words)
        answer = {"text": TIMES[i % 4], "start": context.index(TIMES[i % 4])}
        rows.append({"question": "when was it", "context": context, "answers": [answer]})
    return rows


def test_questions_are_read_under_either_name(tmp_path: Path) -> None:
    data = read(tiny.write_parts(tmp_path / "data", questions()))
    assert (data.kind, data.labels, data.pair) == ("answers", (), True)
    row = data.train[0]
    assert row.answers == (Given("night", row.text_b.index("night")),)  # type: ignore[union-attr]
    assert match_labels(data, (), "answers") is data
    assert match_labels(data, (), "label") is None
    renamed = [{"text": r["question"], "text_b": r["context"], "answers": r["answers"]} for r in questions()]
    assert read(tiny.write_parts(tmp_path / "renamed", renamed)).digest == data.digest
    mapped = [{"q": r["question"], "c": r["context"], "a": r["answers"]} for r in questions()]
    columns = {"question": "q", "context": "c", "answers": "a"}
    assert read(tiny.write_parts(tmp_path / "mapped", mapped), columns).digest == data.digest
    columns = {"text": "q", "text_b": "c", "answers": "a"}
    assert read(tmp_path / "mapped", columns).digest == data.digest
    moved = [{**r, "context": "a " + r["context"], "answers": [{**a, "start": a["start"] + 2} for a in r["answers"]]}
             for r in questions()]  # fmt: skip
    assert read(tiny.write_parts(tmp_path / "moved", moved)).digest != data.digest
    asked = [{"question": r["question"], "context": r["context"]} for r in questions()]
    assert read(tiny.write_parts(tmp_path / "asked", asked)).kind == "none"


def test_answers_beside_a_label_need_a_context(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "yn"[i % 2], "answers": ["whatever"]} for i in range(20)]
    assert read(tiny.write_parts(tmp_path / "data", rows)).kind == "label"


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"answers": [{"text": "night", "start": 3}]}, r"has 'ight ' at 3, not 'night': .*line 3, field 'answers'"),
        ({"answers": [{"text": "night", "start": -7}]}, "at -7, not 'night'"),
        ({"answers": [{"text": "on", "start": 9}]}, "has '' at 9, not 'on'"),
        ({"answers": [{"text": "", "start": 0}]}, "at 0, not ''"),
        ({"answers": []}, "a question without an answer"),
        ({"answers": "night"}, "answers are no list but str"),
        ({"answers": {"text": ["night"], "answer_start": [2]}}, r"no list but dict: .* give a list such as \[\{"),
        ({"answers": ["night"]}, "not an answer: 'night'"),
        ({"answers": [{"text": "night"}]}, "not an answer"),
        ({"answers": [{"text": "night", "start": True}]}, "not an answer"),
        ({"answers": None}, "no answers here, but in 2 of 3 rows"),
        ({"context": 7}, "not text but int.*field 'context'"),
        ({"context": None}, "not text but NoneType.*field 'context'"),
        ({"text": "a", "text_b": "b", "label": "c"}, "no label here, but in 1 of 3"),
    ],
)
def test_answers_that_do_not_fit_are_named(row: dict[str, Any], match: str, tmp_path: Path) -> None:
    whole = {"question": "when", "context": "a night ", "answers": [{"text": "night", "start": 2}]}
    changed = row if "label" in row else {**whole, **row}
    rows = [*questions(2), changed]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(InputError, match=match):
        read(tmp_path / "train.jsonl")


def test_a_question_without_a_context_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "a", "answers": [{"text": "a", "start": 0}]}\n')
    with pytest.raises(InputError, match=r"no column 'context'.*--columns context="):
        read(tmp_path / "train.jsonl")


def test_blanks_around_an_answer_do_not_count() -> None:
    assert Given(" winter night\n", 11).place == Given("winter night", 12).place == (12, 24)


def test_first_and_last_token_are_learned(exports: Exports) -> None:
    source = exports.checkpoint("bert", TASK)
    rows = [Row("when", "a film, one winter night here", answers=(Given("winter night", 12),))]
    (item,) = tokenize(source, rows, 64)
    ((first, last),) = LABELLINGS["answers"].tensor(rows, [item], ()).tolist()  # type: ignore[union-attr]
    assert (item.places[first][0], item.places[last][1]) == rows[0].answers[0].place  # type: ignore[index]
    windows = tokenize(source, rows, 8)
    assert len(windows) > 1
    labels = LABELLINGS["answers"].tensor(rows * len(windows), windows, ())
    held = [tokens_of((12, 24), window.places) for window in windows]
    assert [tuple(line) for line in labels.tolist()] == [found or (0, 0) for found in held]  # type: ignore[union-attr]
    assert None in held


def test_the_loss_is_transformers_own(exports: Exports) -> None:
    module = load_module(exports.checkpoint("bert", TASK))
    ids, labels = torch.randint(5, 60, (4, 9)), torch.tensor([[1, 3], [0, 0], [8, 8], [2, 7]])
    with torch.inference_mode():
        found = module(input_ids=ids, start_positions=labels[:, 0], end_positions=labels[:, 1])
        logits = torch.stack([found.start_logits, found.end_logits], dim=-1)
    losses = LOSSES["answers"]
    assert float(losses.hard(logits, labels)) == pytest.approx(float(found.loss))
    mask = torch.ones_like(ids)
    assert losses.rows(logits, mask, labels).shape == (8, 9)
    assert torch.equal(losses.rows(logits, mask, labels)[::2], found.start_logits)


def test_a_bare_encoder_learns_to_answer(tmp_path: Path) -> None:
    data = tiny.write_parts(tmp_path / "data", questions())
    source = tiny.checkpoint(tmp_path / "bare", task="feature-extraction", layers=2)
    # Half of the contexts are longer than what is read at once here.
    config = TrainConfig(method="none", epochs=16.0, train_batch_size=8, lr=3e-3, max_length=32)
    (teacher,) = build.distill(str(source), data, [2], tmp_path / "out", config)
    assert (teacher.manifest.task, teacher.manifest.metric, teacher.manifest.labels) == (TASK, "answer_f1", ())
    assert teacher.manifest.checks["training"]["value"] > 0.9
    config = TrainConfig(method="hidden", epochs=12.0, train_batch_size=8, lr=3e-3, alpha=0.0, max_length=32)
    (student,) = build.distill(str(teacher.path), data, [1], tmp_path / "students", config)
    assert student.manifest.checks["training"]["value"] > 0.8
    made = build.export(str(student.path), precision="int8", data=data, out=tmp_path / "artifacts")[0]
    assert all(trial["metric"] > 0 for trial in made.manifest.checks["schemes"])
    # A context that is read at once in training's windows, and one that is read in the model's own.
    metric = verify(made.path, data=data)[1]
    assert isinstance(metric, AnswerMetric)
    assert metric.value == pytest.approx(student.manifest.checks["training"]["value"], abs=0.1)
    assert 0 < metric.exact_match.value <= metric.value
    done = program("verify", made.path, "--data", data, "--json")
    assert done.json["metric"]["exact_match"]["name"] == "exact_match"
    with load(made.path, threads=1) as model:
        context = " ".join([*tiny.WORDS[:18]] * 6) + " night"
        (answer,) = model.answer([("when was it", context)])
        assert (answer.text, answer.end) == ("night", len(context))
        assert answer.chunks > 1
        with pytest.raises(InputError, match="no answers to judge by"):
            evaluate(model, [Row("a", "b", "yes")])
    with pytest.raises(UsageError, match="labels of the data"):
        verify(made.path, data=tiny.labelled(tmp_path / "labelled"))


def test_a_fit_goes_all_the_way(tmp_path: Path) -> None:
    data, folder = tiny.write_parts(tmp_path / "data", questions()), tmp_path / "fit"
    source = tiny.checkpoint(tmp_path / "bare", task="feature-extraction", layers=2)
    training = ("--max-steps", 2, "--train-batch-size", 8, "--max-length", 32, "--precision", "fp32")
    timing = ("--threads", 1, "--rounds", 2, "--remeasure", 0, "--budget", "p50=10s")
    done = edgebert("fit", "--model", source, "--data", data, *training, *timing, "-o", folder, "--json")
    assert done.code == 0, done.err
    assert "is not fine-tuned for this task: a teacher will be trained first" in done.err
    assert done.json["pick"]["metric"]["name"] == "answer_f1"
    with load(folder / "best") as model:
        assert model.answer([("when?", "last night")])[0].text in "last night"
    # One text of so many tokens is a question on a context that long.
    for length in ((), ("--seq-len", 12)):
        timed = edgebert("bench", folder / "best", "--samples", 4, "--threads", 1, *length, "--json")
        assert timed.code == 0, timed.err
        assert timed.json["results"][0]["samples"] >= 4


def said(item: Tokens, row: Row) -> str:
    """What a model answers that is sure of the tokens of the row's answer."""
    logits = []
    for window in item.windows:
        rows = np.zeros((len(window), 2), dtype=np.float32)
        if row.answers and (found := tokens_of(row.answers[0].place, window.places)):
            rows[found[0], 0] = rows[found[1], 1] = 20.0
        logits.append(rows)
    return answer_of(logits, item, longest=60).text


def test_every_real_answer_can_be_said(shared: Path, minilm: str) -> None:
    data = read(shared / "data" / "xquad_en" / "test.jsonl.gz")
    rows = (*data.train, *data.dev)
    assert (len(rows), data.kind) == (1190, "answers")
    tokens = TextTokenizer(open_checkpoint(minilm, TASK)).encode([(row.text, row.text_b or "") for row in rows])
    scores = [
        compared(said(item, row), [answer.text for answer in row.answers or ()])
        for item, row in zip(tokens, rows, strict=True)
    ]
    f1, exact = np.mean(scores, axis=0)
    # The rest begin or end inside a token.
    assert f1 > 0.995
    assert exact > 0.99


def test_real_text_goes_all_the_way(shared: Path, minilm: str, tmp_path: Path) -> None:
    rows = read(shared / "data" / "xquad_en" / "test.jsonl.gz").train[:96]
    plain = [
        {"question": row.text, "context": row.text_b, "answers": [asdict(answer) for answer in row.answers or ()]}
        for row in rows
    ]
    data = tiny.write_parts(tmp_path / "data", plain)
    config = TrainConfig(method="none", max_steps=2, train_batch_size=8)
    (trained,) = build.distill(minilm, data, [1], tmp_path / "trained", config)
    # In fp32 alone: of a head that has learned next to nothing int8 changes what is a toss-up.
    (artifact,) = build.export(str(trained.path), data=data, out=tmp_path / "out")
    stages, metric = verify(artifact.path, str(trained.path), data)
    assert [(line.name, line.ok) for line in stages] == [("golden", True), ("reference", True)]
    assert metric is not None
    assert 0 <= metric.low <= metric.value <= metric.high <= 1


def test_equal_scores_go_to_the_first() -> None:
    window = Seen(np.zeros((3, 2), dtype=np.float32), [(0, 1), (1, 2), (2, 3)], [0, 1, 2])
    (best,) = quotes([window])
    assert (best.start, best.end) == (0, 1)
