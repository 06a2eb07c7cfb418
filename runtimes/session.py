"""The contract of a runtime: ``open(artifact, config) -> Session``. Host arrays in, host arrays out.

The caller owns the clock, the batching and the tokens; a session only computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgebert.artifact import Artifact
from edgebert.errors import InputError
from edgebert.machine import allowed_threads

Array = npt.NDArray[Any]
Feed = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class SessionConfig:
    """How to open a session. ``threads`` None means all that this process may use.

    ``timing_only`` lets a runtime that cannot read the artifact's weights make up others: latency does
    not depend on them, answers do, so serving never sets it.
    """

    threads: int | None = None
    timing_only: bool = False

    @property
    def thread_count(self) -> int:
        """The number of threads to use: at least 1, never more than the machine grants."""
        return max(1, min(self.threads or allowed_threads(), allowed_threads()))


class Session(Protocol):
    """An open model."""

    def run(self, feed: Feed) -> dict[str, Array]:
        """Compute every output of one batch. ``feed``: int64 [batch, sequence] for each input name.

        May be called from several threads. Raises InputError once the session is closed.
        """

    def facts(self) -> dict[str, Any]:
        """What really runs: provider, version, threads."""

    def close(self) -> None:
        """Give memory and threads back, after the calls that are running; calling it twice does nothing."""


def closed(artifact: Artifact) -> InputError:
    """The error of a session that is used after it was closed."""
    return InputError("the model is closed", str(artifact.path), "load it again")


class Open(Protocol):
    """What a runtime module offers."""

    def __call__(self, artifact: Artifact, config: SessionConfig) -> Session:
        """Open an artifact. Raises InputError where the engine refuses it, EnvironmentMissing where it cannot run."""
