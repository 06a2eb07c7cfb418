"""8 bits that lose too much of the task: the fewest modules whose staying in float brings it back.

Each module is quantized alone, and its effect on the outputs measured; the most harmful are then left in float until
the loss on dev is within bounds: "partial quantization", Wu et al. 2020 (arXiv:2004.09602), section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgebert.building.schemes import Trial
from edgebert.progress import bar


@dataclass(frozen=True)
class Rescue:
    """The trial that keeps the task, and the mean error that each of its excluded modules alone brings."""

    trial: Trial
    effects: Mapping[str, float]


def rescued(
    modules: Sequence[str],
    effect: Callable[[str], float],
    build: Callable[[Sequence[str]], Trial],
    keeps: Callable[[Trial], bool],
) -> Rescue | None:
    """The trial with the fewest modules excluded that ``keeps`` the task; None where none does.

    ``effect`` is what quantizing one module alone does to the outputs, ``build`` makes the trial without some.
    """
    effects = {name: effect(name) for name in bar(modules, "measuring what each module loses in 8 bits")}
    ranked = sorted(modules, key=lambda name: -effects[name])
    tried: dict[int, Trial] = {}

    def enough(count: int) -> bool:
        if count not in tried:
            tried[count] = build(ranked[:count])
        return keeps(tried[count])

    count = fewest(enough, len(ranked))
    if count is None:
        return None
    return Rescue(tried[count], {name: effects[name] for name in ranked[:count]})


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The least number from 1 to ``most`` that is enough, if all beyond it are: doubled until one is, then bisected."""
    low, high = 0, 1
    while not enough(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
