"""What batches of tokens give, as one flat array a text: the form in which outputs are compared and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgebert.serving.tokens import Batch

Float = npt.NDArray[np.floating]
Run = Callable[[Batch], Float]


def outputs(run: Run, batches: Sequence[Batch], most: int | None = None) -> list[Float]:
    """One array [d] a text: its outputs, or those of its visible tokens end to end, of ``most`` spread evenly."""
    return [row for feed in batches for row in rows_of(run(feed), feed, most)]


def rows_of(result: Float, feed: Batch, most: int | None = None) -> list[Float]:
    """The same of one batch's ``result``."""
    return [
        row if row.ndim == 1 else _spread(row[mask.astype(bool)], most).ravel()
        for row, mask in zip(result, feed["attention_mask"], strict=True)
    ]


def _spread(rows: Float, most: int | None) -> Float:
    if most is None or len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
