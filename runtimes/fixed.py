"""Sessions of graphs that take one shape only, as ``--fixed`` makes them: batches are fitted to it and cut back."""

from __future__ import annotations

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
        self._outputs = TASKS[artifact.manifest.task].outputs

    def run(self, feed: Feed) -> dict[str, Array]:
        rows, length = next(iter(feed.values())).shape
        if length > self._sequence:
            what = f"{length} tokens, where the graph takes {self._sequence}"
            raise InputError(what, self._where, "cut the texts, or export it without --fixed")
        parts = [self._session.run(self._fitted(feed, start)) for start in range(0, rows, self._batch)]
        wanted = {"batch": slice(rows), "sequence": slice(length)}
        found = {}
        for output in self._outputs:
            cut = tuple(wanted.get(axis, slice(None)) for axis in output.shape)
            found[output.name] = np.concatenate([part[output.name] for part in parts])[cut]
        return found

    def _fitted(self, feed: Feed, start: int) -> Feed:
        """The rows from ``start`` on that one call takes, padded on the right; the last is repeated where rows lack.

        Other rows might widen the range that an int8 graph finds its activations in, and change its answers.
        """
        fitted = {}
        for name, array in feed.items():
            rows = array[start : start + self._batch]
            wide = np.full((self._batch, self._sequence), self._fill.get(name, 0), dtype=array.dtype)
            wide[:, : rows.shape[1]] = rows[np.minimum(np.arange(self._batch), len(rows) - 1)]
            fitted[name] = wide
        return fitted

    def facts(self) -> dict[str, Any]:
        return {**self._session.facts(), "shape": [self._batch, self._sequence]}

    def close(self) -> None:
        self._session.close()
