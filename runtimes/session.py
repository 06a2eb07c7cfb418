"""The contract of a runtime: ``open(artifact, config) -> Session``. Host arrays in, host arrays out.

The caller owns the clock, the batching and the tokens; a session only computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.machine import allowed_threads

Array = npt.NDArray[Any]
Feed = Mapping[str, npt.NDArray[np.int64]]

_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
# Of which table a type is a row, the engine knows; that it is no negative one must be known here.
_MOST_TYPES = 2**31


@dataclass(frozen=True)
class SessionConfig:
    """How to open a session. ``threads`` None means all that this process may use.

    ``timing_only`` lets a runtime that cannot read the artifact's weights make up others: latency does
    not depend on them, answers do, so serving never sets it. ``cache_dir`` is a private folder for what an engine
    compiles; without one nothing is written. ``trust_engine`` allows an engine that the artifact brings, which is
    native code, to be opened. ``lanes`` is how many calls at once share the threads out among them.
    """

    threads: int | None = None
    timing_only: bool = False
    cache_dir: Path | None = None
    trust_engine: bool = False
    lanes: int = 1

    @property
    def thread_count(self) -> int:
        """The number of threads to use: at least 1, never more than the machine grants."""
        return max(1, min(self.threads or allowed_threads(), allowed_threads()))

    @property
    def threads_a_call(self) -> int:
        """The number of threads that one call has."""
        return max(1, self.thread_count // self.lanes)


class Session(Protocol):
    """An open model."""

    def run(self, feed: Feed) -> dict[str, Array]:
        """Compute every output of one batch. ``feed`` is as :func:`checked` reads it.

        May be called from several threads. Raises InputError for another feed, and once the session is closed.
        """

    def facts(self) -> dict[str, Any]:
        """What really runs: provider, version, threads."""

    def close(self) -> None:
        """Give memory and threads back, after the calls that are running; calling it twice does nothing."""


def checked(feed: Feed, artifact: Artifact) -> dict[str, Array]:
    """A batch as every engine can be given it: int64 [batch, sequence] for each of the artifact's inputs.

    The mask holds ones and, anywhere, zeros; a row of zeros alone has finite outputs that mean nothing. Token
    types may be left out, and are zeros then. Some artifacts take padding on the right alone. Raises InputError for
    everything else: an engine would broadcast a mask of another shape, count ids from the end, scale attention by a
    mask of twos, or leave out what is no padding, and answer.
    """
    arrays = dict(feed)
    names = [spec.name for spec in artifact.manifest.inputs]
    if _TYPES in names and _TYPES not in arrays and _IDS in arrays:
        arrays[_TYPES] = np.zeros_like(arrays[_IDS])
    if arrays.keys() != set(names):
        raise _refused(f"inputs {', '.join(sorted(arrays))}", artifact, f"the model reads {', '.join(names)}")
    shape = arrays[_IDS].shape
    if len(shape) != 2 or any(array.shape != shape or array.dtype != np.int64 for array in arrays.values()):
        kinds = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
        raise _refused(f"inputs of other types or shapes ({kinds})", artifact, "give int64 [batch, sequence] in each")
    # Read as unsigned, a negative number is a huge one: one pass finds both.
    largest = {name: int(array.view(np.uint64).max(initial=0)) for name, array in arrays.items()}
    if largest[_MASK] > 1:
        raise _refused("a mask of other values than 0 and 1", artifact, "give 1 for tokens that count, 0 for others")
    if not takes(arrays[_MASK], artifact):
        other = "without --packed" if artifact.manifest.needs.get("packed") else "in fp32"
        raise _refused("padding elsewhere than on the right", artifact, f"pad on the right, or export it {other}")
    if largest[_IDS] >= (vocab := artifact.manifest.architecture.vocab):
        raise _refused("token ids beyond the vocabulary", artifact, f"give 0 to {vocab - 1}")
    if largest.get(_TYPES, 0) >= _MOST_TYPES:
        raise _refused("token types that are no numbers of a text", artifact, "give 0 and 1")
    return arrays


def takes(mask: Array, artifact: Artifact) -> bool:
    """Whether an artifact can be asked with a mask (int [batch, sequence] of 0 and 1).

    One whose attention is told lengths, or whose padding is left out, only where each row begins with its tokens, one
    at least, and all its padding follows.
    """
    return not padded_right(artifact) or bool(mask[:, :1].all() and (mask[:, 1:] <= mask[:, :-1]).all())


def padded_right(artifact: Artifact) -> bool:
    """Whether an artifact takes no other padding."""
    needs = artifact.manifest.needs
    return needs.get("padding") == "right" or bool(needs.get("packed"))


def _refused(what: str, artifact: Artifact, remedy: str) -> InputError:
    return InputError(what, str(artifact.path), remedy)


def closed(artifact: Artifact) -> InputError:
    """The error of a session that is used after it was closed."""
    return InputError("the model is closed", str(artifact.path), "load it again")


class Open(Protocol):
    """What a runtime module offers."""

    def __call__(self, artifact: Artifact, config: SessionConfig) -> Session:
        """Open an artifact. Raises InputError where the engine refuses it, EnvironmentMissing where it cannot run."""
