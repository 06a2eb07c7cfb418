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

from edgebert.artifact import Artifact, Manifest, problem_of, width_of
from edgebert.judging.evaluate import text_of
from edgebert.judging.metrics import cosine_rows
from edgebert.registry import target_named
from edgebert.runtimes.session import Session, SessionConfig, takes
from edgebert.serving.rows import Float, Run, outputs
from edgebert.serving.tokens import Batch, Text, TextTokenizer
from edgebert.tasks import TASKS, Task
from edgebert.tolerances import TOLERANCES, Tolerance
from edgebert.training.data import Data, sample_texts

# The outputs of a text [d] laid out as decisions [n, choices], of which the largest counts.
Choices = Callable[[Float], Float]

_BATCH = 8
# Rows of a batch that are also run alone.
_SINGLE = 4
# Two outputs that are closer than this are a tie.
_TIE = 1e-3
# Texts that the ledger is written on.
PARITY_TEXTS = 48
# How many of the sample's shortest texts stand for questions.
_SHORT = 7


@dataclass(frozen=True)
class Stage:
    """One line of the ledger. Errors are absolute, and ``cosine`` are taken over all outputs together.

    ``tolerance`` bounds ``max_abs_error``, ``min_cosine`` and ``min_label_agreement`` the other two.
    ``label_agreement`` is the share of equal decisions, None where outputs decide nothing; a reference that is
    itself undecided between two labels counts as agreeing (:func:`_undecided` says what that means).
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

    Then the first rows of the first of these batches one by one, as they are padded there; and that batch once more,
    padded on the left and with holes.
    """
    tokens = tokenizer.encode(texts)
    alone = [tokenizer.collate([item]) for item in tokens]
    # Every so manieth text: texts come sorted by length, and batches of one length have no padding.
    padded = [tokenizer.collate(tokens[i :: _batches(len(tokens))]) for i in range(_batches(len(tokens)))]
    rows = range(min(_SINGLE, len(padded[0]["input_ids"])))
    single = [{name: array[row : row + 1] for name, array in padded[0].items()} for row in rows]
    return [*alone, *padded, *single, unusual(padded[0])]


def padded_part(texts: int) -> tuple[slice, slice]:
    """Where the right-padded batches are among :func:`feeds` of so many texts, and their rows among the outputs."""
    return slice(texts, texts + _batches(texts)), slice(texts, 2 * texts)


def _batches(texts: int) -> int:
    return -(-texts // _BATCH)


@dataclass(frozen=True)
class Invariance:
    """How far the outputs of a text move, at most and absolute: by ``padding`` alone, and by ``neighbours`` besides.

    ``largest`` is the largest magnitude among the outputs.
    """

    padding: float
    neighbours: float
    largest: float


def invariance(answers: Sequence[Float], texts: int) -> Invariance:
    """What padding and neighbours do to outputs, from those on :func:`feeds` of so many texts."""
    alone = answers[: texts : _batches(texts)][:_SINGLE]
    together, single = answers[texts : texts + len(alone)], answers[2 * texts : 2 * texts + len(alone)]
    return Invariance(_apart(alone, single), _apart(single, together), _apart(answers, [0.0 * row for row in answers]))


def _apart(some: Sequence[Float], others: Sequence[Float]) -> float:
    return max(float(np.abs(one - other).max(initial=0.0)) for one, other in zip(some, others, strict=True))


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


def choices_of(manifest: Manifest) -> Choices | None:
    """What the outputs of an artifact decide: a class for each of its rows, yes or no for each class, or nothing.

    Or a place: of several outputs, each has its largest at one of the tokens.
    """
    width = width_of(manifest)
    layouts: dict[str, Choices] = {
        "class": lambda row: row.reshape(-1, width),
        "each": lambda row: np.column_stack([row, np.zeros_like(row)]),
        "place": lambda row: row.reshape(-1, width).T,
    }
    choice = problem_of(manifest).choice
    return None if choice is None else layouts[choice]


def compare(
    name: str, kind: str, reference: Sequence[Float], actual: Sequence[Float], choices: Choices | None
) -> Stage:
    """A ledger line from the outputs of two steps on the same batches. NaN and infinity never pass."""
    tolerance = TOLERANCES[kind]
    with np.errstate(invalid="ignore"):
        errors = np.concatenate([np.abs(a.astype(np.float64) - r) for r, a in zip(reference, actual, strict=True)])
    finite = bool(np.isfinite(errors).all())
    largest = max(1.0, *(float(np.abs(row[np.isfinite(row)]).max(initial=0.0)) for row in reference))
    allowed = tolerance.max_abs_error * largest
    worst, mean = float(errors.max()), float(errors.mean())
    cosine = float(cosine_rows(np.concatenate(reference)[None], np.concatenate(actual)[None])[0]) if finite else 0.0
    agreement = _agreement(reference, actual, choices, tolerance, allowed) if choices else None
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
        min_label_agreement=tolerance.label_agreement if choices else None,
        ok=ok,
    )


def _agreement(
    reference: Sequence[Float], actual: Sequence[Float], choices: Choices, tolerance: Tolerance, allowed: float
) -> float:
    """The share of decisions that are the same, or that the reference is undecided about."""
    decided = [choices(row) for row in reference]
    undecided = _undecided(sum(map(len, decided)), tolerance, allowed, reference)
    same = [_same(ours, choices(row), undecided) for ours, row in zip(decided, actual, strict=True)]
    return float(np.mean(np.concatenate(same)))


def _same(reference: Float, actual: Float, undecided: float) -> npt.NDArray[np.bool_]:
    chosen = np.take_along_axis(reference, actual.argmax(axis=1)[:, None], axis=1)[:, 0]
    same: npt.NDArray[np.bool_] = chosen >= reference.max(axis=1) - undecided
    return same


def _undecided(decisions: int, tolerance: Tolerance, allowed: float, reference: Sequence[Float]) -> float:
    """How much more the reference may prefer its own choice and still be undecided: both may have moved by half of it.

    Of so few decisions that the agreement asked for lets none of them differ, a toss-up would decide alone. Each choice
    may then have moved by what outputs err at the least cosine that passes, a share of their root mean square.
    """
    moved = min(allowed, _TIE)
    if tolerance.label_agreement < 1 and decisions < round(1 / (1 - tolerance.label_agreement)):
        values = np.concatenate(reference).astype(np.float64)
        moved = min(allowed, float(np.sqrt(np.mean(values**2) * (tolerance.cosine**-2 - 1))))
    return 2 * moved


def onnx_stage(
    name: str,
    reference: Sequence[Float],
    artifact: Artifact,
    batches: Sequence[Batch],
    target: str | None = None,
    config: SessionConfig | None = None,
) -> tuple[Stage, list[Float]]:
    """The ledger line of an exported artifact on ``target`` (its own), and its outputs for the next line.

    Of the batches those that it takes: attention that is told lengths answers for no other padding than on the right.
    """
    known = [takes(feed["attention_mask"], artifact) for feed in batches]
    rows = [taken for taken, feed in zip(known, batches, strict=True) for _ in feed["attention_mask"]]
    reference = [row for row, taken in zip(reference, rows, strict=True) if taken]
    batches = [feed for feed, taken in zip(batches, known, strict=True) if taken]
    session = target_named(target or artifact.manifest.target).resolve()(artifact, config or SessionConfig())
    try:
        actual = outputs(runner(session, artifact), batches, TASKS[artifact.manifest.task].compared)
    finally:
        session.close()
    kind = artifact.manifest.precision.partition("-")[0]
    return compare(name, kind, reference, actual, choices_of(artifact.manifest)), actual


def runner(session: Session, artifact: Artifact) -> Run:
    """The task's outputs of a session, as one array and a function of a batch."""
    task = TASKS[artifact.manifest.task]
    return lambda feed: task.joined(session.run(feed))


def sample(task: Task | None = None) -> list[Text]:
    """The packaged text sample: thirty texts of 1 to 93 words; for a task that wants pairs each after a short one."""
    texts = files("edgebert").joinpath("data/sample.txt").read_text("utf-8").splitlines()
    if task is None or not task.asks:
        return list(texts)
    short = sorted(texts, key=len)[:_SHORT]
    return [(short[number % _SHORT], text) for number, text in enumerate(texts)]


def ledger_texts(data: Data | None, task: Task | None = None) -> tuple[list[Text], str]:
    """Texts for the ledger and where they are from: the data's train part, or the packaged sample."""
    if data is None:
        return sample(task), "edgebert's packaged text sample"
    rows = sample_texts(data.train, PARITY_TEXTS)
    return [text_of(row) for row in rows], f"{len(rows)} texts of {data.name} (train)"
