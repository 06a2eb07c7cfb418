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
