"""The parity ledger: every step from the PyTorch checkpoint to the artifact, compared on real text.

Texts of varied length are run alone and in padded batches, one of them padded in unusual ways as well. A step's
reference is the step before it, so the ledger says where an error entered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact
from edgebert.judging.evaluate import text_of
from edgebert.judging.metrics import cosine_rows
from edgebert.registry import target_named
from edgebert.runtimes.session import Session, SessionConfig
from edgebert.serving.tokens import Batch, Text, TextTokenizer
from edgebert.tasks import TASKS
from edgebert.training.data import Data, sample_texts

Float = npt.NDArray[np.floating]
Run = Callable[[Batch], Float]

_BATCH = 8
# Texts that the ledger is written on.
PARITY_TEXTS = 48


@dataclass(frozen=True)
class Tolerance:
    """What a step may change. ``max_abs_error`` is a share of the reference's largest magnitude (at least 1)."""

    max_abs_error: float
    cosine: float
    label_agreement: float


# fp32: another order of summation. int8: docs/decisions/004-parity-tolerances.md has the measurements.
TOLERANCES = {
    "truncate": Tolerance(0.0, 1.0 - 1e-12, 1.0),
    "fp32": Tolerance(1e-4, 1.0 - 1e-6, 1.0),
    "int8": Tolerance(0.5, 0.97, 0.9),
}


@dataclass(frozen=True)
class Stage:
    """One line of the ledger. Errors are absolute, and ``cosine`` are taken over all outputs together.

    ``tolerance`` bounds ``max_abs_error``, ``min_cosine`` and ``min_label_agreement`` the other two.
    ``label_agreement`` is None where the task has no labels; a reference that is itself undecided between
    two labels within the tolerance counts as agreeing.
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    label_agreement: float | None
    tolerance: float
    min_cosine: float
    min_label_agreement: float | None
    ok: bool


def feeds(tokenizer: TextTokenizer, texts: Sequence[Text]) -> list[Batch]:
    """Every text alone, then all of them in right-padded batches of about eight, short with long.

    The last batch is one of these again, padded on the left and with holes.
    """
    tokens = tokenizer.encode(texts)
    alone = [tokenizer.collate([item]) for item in tokens]
    count = -(-len(tokens) // _BATCH)
    # Every count-th text: texts come sorted by length, and batches of one length have no padding.
    padded = [tokenizer.collate(tokens[i::count]) for i in range(count)]
    return [*alone, *padded, unusual(padded[0])]


def unusual(batch: Batch) -> Batch:
    """A right-padded batch with every even row padded on the left, and every third token of the others masked."""
    changed = {name: array.copy() for name, array in batch.items()}
    mask = changed["attention_mask"]
    for row, length in enumerate(mask.sum(axis=1)):
        if row % 2 == 0:
            for array in changed.values():
                array[row] = np.roll(array[row], -int(length))
        else:
            mask[row, 2::3] = 0
    return changed


def outputs(run: Run, batches: Sequence[Batch]) -> list[Float]:
    """One array [d] a text: logits, or the visible tokens' vectors end to end."""
    rows: list[Float] = []
    for feed in batches:
        result = run(feed)
        for row, mask in zip(result, feed["attention_mask"], strict=True):
            rows.append(row if row.ndim == 1 else row[mask.astype(bool)].ravel())
    return rows


def compare(name: str, kind: str, reference: Sequence[Float], actual: Sequence[Float], *, labels: bool) -> Stage:
    """A ledger line from the outputs of two steps on the same batches. NaN and infinity never pass."""
    tolerance = TOLERANCES[kind]
    with np.errstate(invalid="ignore"):
        errors = np.concatenate([np.abs(a.astype(np.float64) - r) for r, a in zip(reference, actual, strict=True)])
    finite = bool(np.isfinite(errors).all())
    largest = max(1.0, *(float(np.abs(row[np.isfinite(row)]).max(initial=0.0)) for row in reference))
    allowed = tolerance.max_abs_error * largest
    worst, mean = float(errors.max()), float(errors.mean())
    cosine = float(cosine_rows(np.concatenate(reference)[None], np.concatenate(actual)[None])[0]) if finite else 0.0
    agreement = _agreement(reference, actual, min(allowed, 1e-3)) if labels else None
    ok = finite and worst <= allowed and cosine >= tolerance.cosine
    ok = ok and (agreement is None or agreement >= tolerance.label_agreement)
    return Stage(
        name,
        max_abs_error=worst if finite else float("1e308"),
        mean_abs_error=mean if finite else float("1e308"),
        cosine=cosine,
        label_agreement=agreement,
        tolerance=allowed,
        min_cosine=tolerance.cosine,
        min_label_agreement=tolerance.label_agreement if labels else None,
        ok=ok,
    )


def _agreement(reference: Sequence[Float], actual: Sequence[Float], margin: float) -> float:
    same = [r[int(a.argmax())] >= r.max() - 2 * margin for r, a in zip(reference, actual, strict=True)]
    return float(np.mean(same))


def onnx_stage(
    name: str, reference: Sequence[Float], artifact: Artifact, batches: Sequence[Batch]
) -> tuple[Stage, list[Float]]:
    """The ledger line of an exported artifact on its own target, and its outputs for the next line."""
    session = target_named(artifact.manifest.target).resolve()(artifact, SessionConfig())
    try:
        actual = outputs(runner(session, artifact), batches)
    finally:
        session.close()
    kind = artifact.manifest.precision.partition("-")[0]
    return compare(name, kind, reference, actual, labels=TASKS[artifact.manifest.task].has_labels), actual


def runner(session: Session, artifact: Artifact) -> Run:
    """The task's one output of a session, as a function of a batch."""
    output = TASKS[artifact.manifest.task].output
    return lambda feed: session.run(feed)[output]


def sample() -> list[Text]:
    """The packaged text sample: thirty texts of 1 to 93 words."""
    return list(files("edgebert").joinpath("data/sample.txt").read_text("utf-8").splitlines())


def ledger_texts(data: Data | None) -> tuple[list[Text], str]:
    """Texts for the ledger and where they are from: the data's train part, or the packaged sample."""
    if data is None:
        return sample(), "edgebert's packaged text sample"
    rows = sample_texts(data.train, PARITY_TEXTS)
    return [text_of(row) for row in rows], f"{len(rows)} texts of {data.name} (train)"
