"""How far outputs may be from those they are compared with, for each precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """What a step may change. ``max_abs_error`` is a share of the reference's largest magnitude (at least 1).

    ``elsewhere`` is the mean over texts of the same share, between two machines that run one graph on one engine.
    """

    max_abs_error: float
    cosine: float
    label_agreement: float
    elsewhere: float


# fp32: another order of summation. 8 bits, and ``elsewhere``: docs/decisions/004-parity-tolerances.md has measurements.
TOLERANCES: Mapping[str, Tolerance] = {
    "truncate": Tolerance(0.0, 1.0 - 1e-12, 1.0, 0.0),
    "width": Tolerance(1e-5, 1.0 - 1e-8, 1.0, 0.0),
    "fp32": Tolerance(1e-4, 1.0 - 1e-6, 1.0, 1e-4),
    "fp16": Tolerance(0.01, 1.0 - 1e-5, 0.99, 0.005),
    "bf16": Tolerance(0.1, 0.999, 0.95, 0.03),
    "int8": Tolerance(0.5, 0.97, 0.9, 0.01),
    "fp8": Tolerance(0.5, 0.97, 0.9, 0.02),
}
# Points of the task metric that 8 bits may lose on dev before modules are left in float: docs/decisions/017.
QUANT_DROP = 0.5
# Those that artifacts have; the others are steps of the ledger.
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def is_eight_bit(precision: str) -> bool:
    """Whether weights and activations are rounded to 8 bits: what that costs the task is judged, and mended."""
    return precision.partition("-")[0] in ("int8", "fp8")


def tolerance_of(precision: str) -> Tolerance:
    """The tolerance of a precision, whatever its scheme (``int8-static``)."""
    return TOLERANCES[precision.partition("-")[0]]
