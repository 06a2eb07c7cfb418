"""The shapes that a GPU is asked in: few, since each costs a plan and a CUDA graph when it is first seen.

A batch is padded to the next of them. Up to a thousand tokens a call takes about as long as the GPU needs to begin and
end its kernels, so that rows are next to free (docs/results/gpu_tables.md: eight texts of 128 tokens take 1.3 times as
long as one). Up to four thousand, launches by the host still take longer than a replay, but rows cost what they are:
there are steps of an eighth to a quarter. Beyond, rows stay as they are, and nothing is captured.
"""

from __future__ import annotations

# Tokens of a batch, padding included, up to which rows are free, and up to which a shape is captured.
FREE, MOST_CAPTURED = 1024, 4096
# Lengths are multiples of the first up to the second, and of the third beyond. ONNX Runtime has no fast attention in
# 16 bits for other lengths than multiples of 8.
_STEP, _SHORT, _LONG_STEP = 16, 128, 64


def bucket(rows: int, length: int, longest: int) -> tuple[int, int]:
    """The shape that a batch of so many rows and tokens is padded to; ``longest`` is what the model takes at most."""
    step = _STEP if length <= _SHORT else _LONG_STEP
    wide = max(length, min(-(-length // step) * step, longest))
    tall = _power(rows) if _power(rows) * wide <= FREE else _eighth(rows)
    return (tall if tall * wide <= MOST_CAPTURED else rows), wide


def is_captured(rows: int, length: int) -> bool:
    """Whether calls of a shape that :func:`bucket` gave are replayed."""
    return rows * length <= MOST_CAPTURED and rows == _eighth(rows)


def _power(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


def _eighth(rows: int) -> int:
    """The next multiple of an eighth of the next power of two: 9 becomes 10, 17 becomes 20."""
    step = max(1, _power(rows) // 8)
    return -(-rows // step) * step
