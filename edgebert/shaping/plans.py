"""Shapes of equal size: which depths, widths and feed-forward sizes come to the same number of parameters.

Layers, width and feed-forward size trade against each other at equal parameters, but not at equal work or equal
latency: half the layers are half the steps that follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgebert.shaping.sizes import Shape, flops_per_token, parameters

WIDTHS = (128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
DEPTHS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
# Another feed-forward size is a multiple of this: what fills the registers and tiles of CPUs and GPUs.
FFN_STEP = 128
# How far from the size that is asked for a shape may be.
TOLERANCE = 0.02
_HEAD = 64
# Feed-forward sizes beyond these many times the width are no shape that anyone trains.
_LEAST_FFN, _MOST_FFN = 2, 12


def equal_sized(
    like: Shape, params: int, depths: Sequence[int] = DEPTHS, widths: Sequence[int] = WIDTHS
) -> list[Shape]:
    """Shapes of about ``params`` parameters with the vocabulary, positions and head of ``like``, most FLOPs first.

    For each width and depth the feed-forward layer is four times the width where that comes to the size, else the
    size that does. Heads are 64 wide, as BERT's are (of narrower models one of the width).
    """
    found = [shape for width in widths for depth in depths for shape in _of_size(like, params, depth, width)]
    return sorted(found, key=lambda shape: (-flops_per_token(shape, 128), shape.layers))


def _of_size(like: Shape, params: int, depth: int, width: int) -> Iterator[Shape]:
    table = like.embedding if like.projected else 0
    plain = replace(like, layers=depth, hidden=width, heads=max(1, width // _HEAD), ffn=4 * width, embedding=table)
    for shape in (plain, replace(plain, ffn=_fitting_ffn(plain, params))):
        usual = _LEAST_FFN * width <= shape.ffn <= _MOST_FFN * width
        if usual and abs(parameters(shape) - params) <= TOLERANCE * params:
            yield shape
            return


def _fitting_ffn(shape: Shape, params: int) -> int:
    """The feed-forward size at which a shape comes nearest to ``params``, in steps of FFN_STEP."""
    # A unit has a row and a column in each layer, and a bias.
    unit = shape.layers * (2 * shape.hidden + 1)
    return shape.ffn + FFN_STEP * round((params - parameters(shape)) / unit / FFN_STEP)
