"""Which tokens of an unlabelled text are hidden for a model to guess: seeded, a function of the text alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edgebert.spans import Place

# Devlin et al. 2018 (arXiv:1810.04805), section 3.1.
SHARE = 0.15


def hidden_tokens(text: str, places: Sequence[Place], seed: int = 0) -> list[int]:
    """Numbers, in order, of the tokens to hide: 15 % of those that stand for a part of the text, one at least.

    ``places`` are the tokens' places in the text; special tokens have places of no length.
    """
    real = [token for token, (start, end) in enumerate(places) if start < end]
    count = min(len(real), max(1, round(SHARE * len(real))))
    # A generator seeded by a string is the same in every process.
    return sorted(random.Random(f"{seed} {text}").sample(real, count))
