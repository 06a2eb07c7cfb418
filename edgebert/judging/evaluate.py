"""The task metric of an artifact, measured through the very path that will serve it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgebert.errors import InputError
from edgebert.judging.metrics import Scores, accuracy, agreement, cosine_rows, spearman
from edgebert.serving.model import Model
from edgebert.serving.tokens import MAX_ITEMS, Text
from edgebert.training.data import Row


def text_of(row: Row) -> Text:
    """What the model reads of a row: its text, or the pair."""
    return row.text if row.text_b is None else (row.text, row.text_b)


def evaluate(model: Model, rows: Sequence[Row], reference: Model | None = None) -> Scores:
    """Scores of ``model`` on ``rows``.

    A classifier: accuracy. An encoder: Spearman's rank correlation with the rated pairs, or, where rows
    are not rated, the cosine with the ``reference`` encoder's vectors. Raises InputError where the rows
    do not allow any of these.
    """
    if model.artifact.manifest.labels:
        expected = [row.label for row in rows]
        if not all(isinstance(label, str) for label in expected):
            raise InputError("no class labels to judge a classifier by", "the data", "add a label column")
        return _classified(model, rows, list(map(str, expected)))
    if all(row.text_b is not None and isinstance(row.label, float) for row in rows):
        first, second = _vectors(model, [row.text for row in rows]), _vectors(model, [str(row.text_b) for row in rows])
        return spearman(cosine_rows(first, second), [float(row.label or 0.0) for row in rows])
    if reference is None:
        raise InputError("neither ratings nor a reference to judge an encoder by", "the data", "add text_b and label")
    return agreement(_vectors(model, texts_of(rows)), _vectors(reference, texts_of(rows)))


def _vectors(model: Model, texts: Sequence[Text]) -> npt.NDArray[np.float32]:
    return np.concatenate([model.encode(part) for part in _parts(texts)])


def _parts(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """As many texts as a call may have; an empty list is one part."""
    for start in range(0, max(1, len(texts)), MAX_ITEMS):
        yield texts[start : start + MAX_ITEMS]


def _classified(model: Model, rows: Sequence[Row], expected: Sequence[str]) -> Scores:
    """Accuracy, with the answers that it comes from."""
    labels = model.artifact.manifest.labels
    index = {label: number for number, label in enumerate(labels)}
    answers = [answer for part in _parts([text_of(row) for row in rows]) for answer in model.predict(part)]
    return replace(
        accuracy([answer.label for answer in answers], expected),
        labels=labels,
        predicted=np.array([index[answer.label] for answer in answers], dtype=np.int32),
        confidence=np.array([answer.score for answer in answers], dtype=np.float32),
    )


def texts_of(rows: Sequence[Row]) -> list[str]:
    """The texts of rows, both of a pair, one after the other."""
    return [part for row in rows for part in (row.text, row.text_b) if part is not None]
