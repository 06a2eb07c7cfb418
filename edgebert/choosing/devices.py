"""Measurements from other machines: what ``edgebert bench DIR --json`` wrote there, brought to a sweep here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgebert.choosing.budget import Budget
from edgebert.choosing.candidate import Candidate
from edgebert.errors import InputError
from edgebert.judging.conditions import Conditions
from edgebert.judging.latency import Latency
from edgebert.strict_json import parse_json

_MOST_BYTES = 64_000_000
_AGAIN = "write it again with edgebert bench DIR --json"


@dataclass(frozen=True)
class Device:
    """A machine where artifacts were measured: their latencies by digest and target, and how calm it was."""

    name: str
    environment: Mapping[str, Any]
    conditions: Mapping[str, Any]
    latencies: Mapping[tuple[str, str], Latency]

    def measured(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The trained candidates with this machine's latencies; one that it did not measure has none."""
        trained = (c for c in candidates if c.trained)
        return tuple(replace(c, latency=self.latencies.get((c.digest, c.target))) for c in trained)


def read_device(path: Path, candidates: Sequence[Candidate], bench: Mapping[str, Any]) -> Device:
    """Read a device's measurements of a sweep's candidates, which was measured with the settings ``bench``.

    Raises InputError where the file is no document of ``edgebert bench``, measured none of them, or calls of
    another size or length.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError("no such file", where, _AGAIN) from None
    if len(raw) > _MOST_BYTES:
        raise InputError("too large for measurements", where, _AGAIN)
    document = parse_json(raw, where)
    try:
        found = {
            (str(row["digest"]), str(row["target"])): Latency.from_dict(row["latency"]) for row in document["results"]
        }
        conditions = dict(document["conditions"])
        absent = ({f.name for f in fields(Conditions)} | {"stable", "reasons"}) - conditions.keys()
        if conditions and absent:
            raise KeyError(min(absent))
        device = Device(path.stem, dict(document["environment"]), conditions, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"not measurements of edgebert bench ({error!r})", where, _AGAIN) from None
    for name in ("batch_size", "seq_len"):
        if other := {getattr(latency, name) for latency in found.values()} - {bench.get(name)}:
            what = f"measured with {name} {other.pop()}, the fit with {bench.get(name)}"
            raise InputError(what, where, f"run edgebert bench with the fit's own --{name.replace('_', '-')}")
    if not any((c.digest, c.target) in found for c in candidates):
        raise InputError(
            "none of its artifacts is of this sweep", where, "run edgebert bench on this very folder there"
        )
    return device


def slowest(candidates: Sequence[Candidate], devices: Sequence[Device], budget: Budget | None) -> tuple[Candidate, ...]:
    """Trained candidates with the latency of the device where each is worst off: a pick must fit on all."""
    ways = [device.measured(candidates) for device in devices]
    return tuple(max(same, key=lambda c: _trouble(c, budget)) for same in zip(*ways, strict=True))


def _trouble(candidate: Candidate, budget: Budget | None) -> tuple[bool, float]:
    if candidate.latency is None:
        return True, 0.0
    return False, budget.excess(candidate) if budget else candidate.latency.p50
