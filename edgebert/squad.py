"""How answers are compared: exact match and F1 of words as SQuAD's evaluation script defines them (evaluate-v2.0.py).

Rajpurkar et al. 2016 (arXiv:1606.05250), section 6.1, and 2018 (arXiv:1806.03822) for what is left of an answer
that is all articles and punctuation. English articles are dropped whatever the language.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and articles, single blanks between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def compared(answer: str, expected: Sequence[str]) -> tuple[float, float]:
    """F1 and exact match (0 or 1) with whichever of the ``expected`` answers is the nearest in each."""
    # One that nothing is left of counts only where there is no other.
    truths = [text for text in map(normalized, expected) if text] or [""]
    ours = normalized(answer)
    return max(_f1(ours.split(), truth.split()) for truth in truths), float(ours in truths)


def _f1(ours: Sequence[str], truth: Sequence[str]) -> float:
    if not ours or not truth:
        return float(ours == truth)
    same = (Counter(ours) & Counter(truth)).total()
    return 2 * same / (len(ours) + len(truth))
