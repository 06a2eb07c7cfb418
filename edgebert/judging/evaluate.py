"""The task metric of an artifact, measured through the very path that will serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact, problem_of
from edgebert.errors import InputError
from edgebert.judging.metrics import (
    Scores,
    accuracy,
    agreement,
    answer_f1,
    cosine_rows,
    entity_f1,
    masked_accuracy,
    micro_f1,
    spearman,
)
from edgebert.masking import hidden_tokens
from edgebert.serving.answers import Prediction
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import MAX_ITEMS, Text
from edgebert.training.data import Data, Row, match_labels

T = TypeVar("T")


def text_of(row: Row) -> Text:
    """What the model reads of a row: its text, or the pair."""
    return row.text if row.text_b is None else (row.text, row.text_b)


def evaluate(model: Model, rows: Sequence[Row], reference: Model | None = None) -> Scores:
    """Scores of ``model`` on ``rows``, by the metric of its task's problem.

    A classifier: accuracy, or micro F1 where texts have several labels. A tagger: F1 of entities. A model that answers
    questions: F1 of words. A masked model: the share of hidden tokens it guesses. A regression: Spearman's rank
    correlation. An encoder: the same of its vectors' cosines with the rated pairs, or, where rows are not rated, the
    cosine with the ``reference`` encoder's vectors. Raises InputError where the rows do not allow any of these.
    """
    judge = _JUDGES.get(problem_of(model.artifact.manifest).data)
    return judge(model, rows) if judge else _encoded(model, rows, reference)


def scores_on_dev(artifact: Artifact, data: Data) -> Scores | None:
    """What an artifact's task metric on data's dev part is computed from; None where the data cannot judge it."""
    manifest = artifact.manifest
    problem = problem_of(manifest)
    matched = match_labels(data, manifest.labels, problem.data) if manifest.labels else data
    rated = data.kind == "score" and data.pair
    # A masked model is judged by any text, an encoder by rated pairs alone.
    judged = rated or problem.data == "text" or problem.data == data.kind != "none"
    if matched is None or not judged:
        return None
    with load(artifact.path) as model:
        return evaluate(model, matched.dev)


def _encoded(model: Model, rows: Sequence[Row], reference: Model | None) -> Scores:
    if all(row.text_b is not None and isinstance(row.label, float) for row in rows):
        first, second = _vectors(model, [row.text for row in rows]), _vectors(model, [str(row.text_b) for row in rows])
        return spearman(cosine_rows(first, second), _labels(rows, float, "scores"))
    if reference is None:
        raise InputError("neither ratings nor a reference to judge an encoder by", "the data", "add text_b and label")
    return agreement(_vectors(model, texts_of(rows)), _vectors(reference, texts_of(rows)))


def _vectors(model: Model, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
    return np.concatenate([model.encode(part) for part in _parts(texts)])


def _parts(texts: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many texts as a call may have; an empty list is one part."""
    for start in range(0, max(1, len(texts)), MAX_ITEMS):
        yield texts[start : start + MAX_ITEMS]


def _predicted(model: Model, rows: Sequence[Row]) -> list[Prediction]:
    return [answer for part in _parts([text_of(row) for row in rows]) for answer in model.predict(part)]


def _labels(rows: Sequence[Row], kind: type[T], what: str) -> list[T]:
    """What rows are labelled with. Raises InputError where it is of another type."""
    found = [row.label for row in rows if isinstance(row.label, kind)]
    if len(found) != len(rows):
        raise InputError(f"no {what} to judge by", "the data", "add a label column")
    return found


def _classified(model: Model, rows: Sequence[Row]) -> Scores:
    """Accuracy, with the answers that it comes from."""
    expected = _labels(rows, str, "class labels")
    labels = model.artifact.manifest.labels
    index = {label: number for number, label in enumerate(labels)}
    answers = _predicted(model, rows)
    return replace(
        accuracy([answer.label for answer in answers], expected),
        labels=labels,
        predicted=np.array([index[answer.label] for answer in answers], dtype=np.int32),
        confidence=np.array([answer.score for answer in answers], dtype=np.float32),
    )


def _multiply_classified(model: Model, rows: Sequence[Row]) -> Scores:
    expected = _labels(rows, tuple, "lists of labels")
    return micro_f1([answer.labels for answer in _predicted(model, rows)], expected)


def _rated(model: Model, rows: Sequence[Row]) -> Scores:
    ratings = _labels(rows, float, "scores")
    return spearman(np.array([answer.score for answer in _predicted(model, rows)]), ratings)


def _tagged(model: Model, rows: Sequence[Row]) -> Scores:
    expected = _labels(rows, tuple, "tags")
    predicted = [tags for part in _parts(rows) for tags in model.tag_words([row.words for row in part])]
    return entity_f1(predicted, expected)


def _answered(model: Model, rows: Sequence[Row]) -> Scores:
    expected = [[answer.text for answer in row.answers] for row in rows if row.answers]
    if len(expected) != len(rows):
        raise InputError("no answers to judge by", "the data", "add an answers column")
    pairs = [(row.text, row.text_b or "") for row in rows]
    return answer_f1([answer.text for part in _parts(pairs) for answer in model.answer(part)], expected)


def _guessed(model: Model, rows: Sequence[Row]) -> Scores:
    """A seeded 15 % of each text's tokens, hidden and guessed."""
    mask, counts = model.tokenizer.mask_id, []
    for part in _parts([text for row in rows for text in (row.text, row.text_b) if text is not None]):
        tokens = model.tokenize(part)
        hidden = [hidden_tokens(text, item.places) for text, item in zip(part, tokens, strict=True)]
        asked = [
            replace(item, ids=[mask if i in some else token for i, token in enumerate(item.ids)], rest=())
            for item, some in zip(tokens, map(set, hidden), strict=True)
        ]
        for item, masked, some, best in zip(tokens, asked, hidden, model.best_tokens(asked), strict=True):
            # The text may hold a mask token of its own.
            places = [i for i, token in enumerate(masked.ids) if token == mask]
            hits = sum(item.ids[i] == guess for i, guess in zip(places, best, strict=True) if i in some)
            counts.append((hits, len(some)))
    return masked_accuracy(counts)


_JUDGES: Mapping[str, Callable[[Model, Sequence[Row]], Scores]] = {
    "label": _classified,
    "labels": _multiply_classified,
    "score": _rated,
    "tags": _tagged,
    "answers": _answered,
    "text": _guessed,
}


def texts_of(rows: Sequence[Row]) -> list[str]:
    """The texts of rows, both of a pair, one after the other."""
    return [part for row in rows for part in (row.text, row.text_b) if part is not None]
