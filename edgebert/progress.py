"""Progress on stderr: bars for people at a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TypeVar, cast

from tqdm import tqdm

log = logging.getLogger("edgebert")
T = TypeVar("T")


def bar(items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a bar that appears after two seconds; silent where stderr is no terminal or under -q."""
    shown = tqdm(
        items,
        desc=label,
        total=total,
        file=sys.stderr,
        delay=2.0,
        leave=False,
        disable=None if log.isEnabledFor(logging.INFO) else True,
    )
    return cast("Iterable[T]", shown)


class Counted:
    """A bar over steps that somebody else takes: how many, it learns when they begin."""

    def __init__(self, label: str) -> None:
        quiet = not log.isEnabledFor(logging.INFO)
        self._bar = tqdm(desc=label, file=sys.stderr, delay=2.0, leave=False, disable=True if quiet else None)

    def start(self, total: int) -> None:
        """There are so many."""
        self._bar.total = total

    def step(self) -> None:
        """One more is done."""
        self._bar.update()

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
