"""Which of several processes this is that were started to train one model. torch-free: only names in the environment.

torchrun, `accelerate launch` and schedulers set WORLD_SIZE, RANK and LOCAL_RANK.
"""

from __future__ import annotations

import os


def count() -> int:
    """How many processes train together; 1 where nobody started several."""
    # WORLD_SIZE alone may mean anything to whoever set it.
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes results and talks to people."""
    return rank() == 0
