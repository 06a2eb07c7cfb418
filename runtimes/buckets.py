"""The shapes that a GPU is asked in: few, since each costs a plan and a CUDA graph when it is first seen.

A batch is padded to the next of them. Up to a few thousand tokens a call takes about as long as the host needs to
launch its kernels, or, replayed as a CUDA graph, as a GPU needs to begin and end them: more rows are next to free
there (docs/results/gpu_tables.md: eight texts take 1.3 times as long as one). Beyond, every token costs its share, so
that there rows stay as they are, and nothing is captured.
"""

from __future__ import annotations

# Tokens of a batch, padding included, up to which it is captured.
MOST_CAPTURED = 4096
# Lengths are multiples of the first up to the second, and of the third beyond. ONNX Runtime has no fast attention in
# 16 bits for other lengths than multiples of 8.
_STEP, _SHORT, _LONG_STEP = 16, 128, 64


def bucket(rows: int, length: int, longest: int) -> tuple[int, int]:
    """The shape that a batch of so many rows and tokens is padded to; ``longest`` is what the model takes at most."""
    step = _STEP if length <= _SHORT else _LONG_STEP
    wide = max(length, min(-(-length // step) * step, longest))
    tall = 1 << (rows - 1).bit_length()
    return (tall if tall * wide <= MOST_CAPTURED else rows), wide


def is_captured(rows: int, length: int) -> bool:
    """Whether calls of a shape that :func:`bucket` gave are replayed: some hundred shapes in all."""
    return rows * length <= MOST_CAPTURED and rows.bit_count() == 1
