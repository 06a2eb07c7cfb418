"""Sessions of graphs that take one shape only, as ``--fixed`` makes them: batches are fitted to it and cut back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.runtimes.session import Array, Feed, Session
from edgebert.tasks import TASKS
from edgebert.tokenizer import pad_id


def to_its_shape(session: Session, artifact: Artifact) -> Session:
    """The session itself, or, where its graph takes one shape only, one that takes any batch up to its length."""
    fixed = artifact.manifest.fixed
    return session if fixed is None else _FixedSession(session, artifact, *fixed)


class _FixedSession:
    def __init__(self, session: Session, artifact: Artifact, batch: int, sequence: int) -> None:
        self._session, self._where = session, str(artifact.path)
        self._batch, self._sequence = batch, sequence
        self._fill = {"input_ids": pad_id(artifact)}
        self._task = artifact.manifest.task

    def run(self, feed: Feed) -> dict[str, Array]:
        rows, length = next(iter(feed.values())).shape
        if length > self._sequence:
            what = f"{length} tokens, where the graph takes {self._sequence}"
            raise InputError(what, self._where, "cut the texts, or export it without --fixed")
        starts = range(0, rows, self._batch)
        parts = [self._session.run(self._part(feed, start)) for start in starts]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cut_back(whole, self._task, rows, length)

    def _part(self, feed: Feed, start: int) -> Feed:
        """The rows from ``start`` on that one call takes."""
        rows = {name: array[start : start + self._batch] for name, array in feed.items()}
        return fitted(rows, self._batch, self._sequence, self._fill)

    def facts(self) -> dict[str, Any]:
        return {**self._session.facts(), "shape": [self._batch, self._sequence]}

    def close(self) -> None:
        self._session.close()


def fitted(feed: Feed, rows: int, length: int, fill: Mapping[str, int]) -> Feed:
    """The batch as [rows, length], padded on the right with what ``fill`` names (else 0); the last row is repeated.

    Other rows might widen the range that an int8 graph finds its activations in, and change its answers.
    """
    found = {}
    for name, array in feed.items():
        if array.shape != (rows, length):
            wide = np.full((rows, length), fill.get(name, 0), dtype=array.dtype)
            wide[:, : array.shape[1]] = array[np.minimum(np.arange(rows), len(array) - 1)]
            array = wide
        found[name] = array
    return found


def cut_back(outputs: Mapping[str, Array], task: str, rows: int, length: int) -> dict[str, Array]:
    """The task's outputs without the rows and tokens that :func:`fitted` added."""
    wanted = {"batch": slice(rows), "sequence": slice(length)}
    return {
        output.name: outputs[output.name][tuple(wanted.get(axis, slice(None)) for axis in output.shape)]
        for output in TASKS[task].outputs
    }
