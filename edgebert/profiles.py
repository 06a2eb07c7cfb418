"""The shapes that an engine is built for: from the least over the likeliest to the largest, in texts x tokens."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.errors import UsageError

Sizes = tuple[int, int]
# Texts in a call at most, unless it is said.
_MOST_TEXTS = 32


@dataclass(frozen=True)
class Profile:
    """Texts x tokens: an engine takes all from ``least`` to ``most``, and is fastest at ``best``."""

    least: Sizes
    best: Sizes
    most: Sizes

    @property
    def corners(self) -> list[Sizes]:
        """The extremes of both axes with each other, and the best, each once."""
        (few, short), (many, long) = self.least, self.most
        return list(dict.fromkeys([(few, short), (few, long), (many, short), (many, long), self.best]))

    def check(self, longest: int) -> None:
        """Raise UsageError where the three do not ascend, or the model reads fewer than so many tokens."""
        for axis in (0, 1):
            ascending = self.least[axis], self.best[axis], self.most[axis]
            if list(ascending) != sorted(ascending) or ascending[0] < 1:
                raise UsageError(f"profile {self} does not ascend", "--profile", "least,best,most as in 1x8,1x32,8x128")
        if self.most[1] > longest:
            raise UsageError(f"profile {self} is too long", "--profile", f"the model reads at most {longest} tokens")

    def __str__(self) -> str:
        return ",".join("{}x{}".format(*sizes) for sizes in (self.least, self.best, self.most))

    @classmethod
    def of(cls, sizes: Sequence[Sequence[Any]]) -> Profile:
        """From what JSON or a flag holds: three pairs."""
        least, best, most = ((int(texts), int(tokens)) for texts, tokens in sizes)
        return cls(least, best, most)


def default_profile(longest: int, lengths: Sequence[int] = ()) -> Profile:
    """Any text that the model reads, best for one of the median of ``lengths``."""
    usual = min(longest, round(statistics.median(lengths))) if lengths else min(longest, 32)
    return Profile((1, 1), (1, max(1, usual)), (_MOST_TEXTS, longest))


@dataclass(frozen=True)
class EngineRequest:
    """How engines are asked for: for which GPUs (``8.9``; none: the one at hand), and for which shapes.

    ``profile`` None is :func:`default_profile`. ``cache_dir`` is a private folder for TensorRT's timings of kernels.
    """

    capabilities: tuple[str, ...] = ()
    profile: Profile | None = None
    cache_dir: Path | None = None


NO_REQUEST = EngineRequest()
