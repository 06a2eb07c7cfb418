"""Golden vectors: a few token arrays, what PyTorch gave for them, and what the artifact itself gave where it was made.

By the second an artifact proves itself where it is opened: another CPU may compute the same graph otherwise, as x86
without VNNI does where sums of 8-bit products saturate (onnxruntime#5849). Read without believing the archive.
"""

from __future__ import annotations

import io
import math
import statistics
import zipfile
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed, InputError
from edgebert.exporters.seal import GOLDEN
from edgebert.serving.rows import Float, Run, outputs
from edgebert.serving.tokens import Batch
from edgebert.tasks import TASKS
from edgebert.tolerances import tolerance_of

_MOST_ARRAYS = 1000
_DTYPES = ("int64", "float32")
# What zipfile and numpy raise on bytes that are no archive of arrays.
_UNREADABLE = (ValueError, KeyError, EOFError, RuntimeError, MemoryError, SyntaxError, TokenError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Golden:
    """Batches of one text each, for each the output [d] that PyTorch gave, and that the artifact gave when it was made.

    ``answers`` is empty in artifacts that do not tell.
    """

    feeds: list[Batch]
    expected: list[Float]
    answers: list[Float]


def prove(artifact: Artifact, run: Run, *, same_engine: bool) -> None:
    """Raise CheckFailed where an artifact does not answer here as it did where it was made.

    On the ``same_engine`` only the order of summation may be another. In int8 that lets a value fall on the other side
    of a half once in a while, and moves one text; sums that saturate move them all: so the mean over the texts counts.
    On any engine PyTorch's outputs must be met within the precision's tolerance. An artifact without golden vectors, as
    stages make it, has nothing to prove.
    """
    if not artifact.has(GOLDEN):
        return
    golden, tolerance = read_golden(artifact), tolerance_of(artifact.manifest.precision)
    actual = outputs(run, golden.feeds, TASKS[artifact.manifest.task].compared)
    largest = max(1.0, *(float(np.abs(row).max(initial=0.0)) for row in golden.expected))
    _require(artifact, "PyTorch's", max(_apart(golden.expected, actual)), tolerance.max_abs_error * largest)
    if same_engine and golden.answers:
        mean = statistics.fmean(_apart(golden.answers, actual))
        _require(artifact, "its own, on the mean", mean, tolerance.elsewhere * largest)


def _require(artifact: Artifact, whose: str, error: float, allowed: float) -> None:
    if error > allowed:
        what = f"answers {error:.3g} away from the golden vectors ({whose}), where {allowed:.3g} is allowed"
        raise CheckFailed(what, str(artifact.path), "export it on this machine, or use --precision fp32")


def _apart(expected: list[Float], actual: list[Float]) -> list[float]:
    """The largest difference of each text; infinite where there is none that means anything."""

    def most(row: Float, other: Float) -> float:
        sound = row.shape == other.shape and bool(np.isfinite(other).all())
        return float(np.abs(other - row).max(initial=0.0)) if sound else math.inf

    return [most(row, other) for row, other in zip(expected, actual, strict=True)]


def read_golden(artifact: Artifact) -> Golden:
    """The golden vectors of an artifact. Raises InputError where they are not what edgebert writes."""
    where = str(artifact.path / GOLDEN)
    try:
        arrays = _arrays(artifact.read(GOLDEN))
        names = [spec.name for spec in artifact.manifest.inputs]
        count = sum(name.endswith(".output") for name in arrays)
        feeds = [{name: arrays[f"{i}.{name}"] for name in names} for i in range(count)]
        expected = [arrays[f"{i}.output"] for i in range(count)]
        answers = [arrays[name] for i in range(count) if (name := f"{i}.answer") in arrays]
        _check(artifact, feeds, expected)
        if [row.shape for row in answers] not in ([], [row.shape for row in expected]):
            raise ValueError("answers of another shape than outputs")
    except _UNREADABLE as error:
        raise InputError(f"unusable golden vectors ({error})", where, "export the artifact again") from None
    return Golden(feeds, expected, answers)


def _check(artifact: Artifact, feeds: list[Batch], expected: list[npt.NDArray[Any]]) -> None:
    vocab, longest = artifact.manifest.architecture.vocab, artifact.manifest.max_length
    if not feeds:
        raise ValueError("there are none")
    for feed, output in zip(feeds, expected, strict=True):
        ids = feed["input_ids"]
        if len({array.shape for array in feed.values()}) != 1 or ids.ndim != 2 or ids.size == 0:
            raise ValueError("inputs of different shapes")
        if ids.shape[1] > longest or ids.min() < 0 or ids.max() >= vocab:
            raise ValueError(f"more than {longest} tokens, or an id beyond {vocab}")
        if any(array.min() < 0 or array.max() > 1 for name, array in feed.items() if name != "input_ids"):
            raise ValueError("a mask or type other than 0 and 1")
        if {array.dtype.name for array in feed.values()} != {"int64"} or output.dtype != np.float32:
            raise ValueError("arrays of other types")
        if ids.shape[0] != 1 or output.ndim != 1:
            raise ValueError("not one text with one row of outputs")


def _arrays(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz``. Members are stored, as numpy.savez does: a compressed one could hold anything."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > _MOST_ARRAYS or sum(member.file_size for member in members) > len(content):
            raise ValueError("more arrays than the file has bytes for")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed arrays")
        return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}


def _array(content: bytes) -> npt.NDArray[Any]:
    """One ``.npy``, whose header must declare exactly the bytes that follow it."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array format other than 1.0")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    data = memoryview(content)[file.tell() :]
    if by_columns or dtype.name not in _DTYPES or min(shape, default=0) < 0:
        raise ValueError("an array of another kind")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array declares {math.prod(shape)} elements and holds {len(data) // dtype.itemsize}")
    # A copy: PyTorch takes no array that it may not write to.
    return np.frombuffer(data, dtype).reshape(shape).copy()
