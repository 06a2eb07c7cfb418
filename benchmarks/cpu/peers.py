"""The table of peers, read from TOML: who is compared, by which worker in which environment, with which settings."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).resolve().parent
ROOT = WORKERS.parent.parent
BOTH = ("arrays", "texts")
# Nothing is asked of the network, and nobody is told.
QUIET = {
    "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """A row of the tables. ``python`` "" is the interpreter that runs this.

    ``first_token``: its graph's last layer computes that one alone.
    """

    name: str
    worker: str
    precision: str = ""
    python: str = ""
    work: tuple[str, ...] = BOTH
    first_token: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> tuple[str, ...]:
        """What starts its worker."""
        return (str(ROOT / self.python) if self.python else sys.executable, str(WORKERS / self.worker))

    @property
    def variables(self) -> dict[str, str]:
        """Its environment variables; this checkout is to be found by our own interpreter alone."""
        return QUIET if self.python else {**QUIET, "PYTHONPATH": str(ROOT)}

    @property
    def fingerprint(self) -> str:
        """A name for what its conversions depend on: its worker's code and all that its environment holds."""
        place = Path(self.command[0]).parent.parent
        installed = sorted(path.name for path in place.glob("lib/python*/site-packages/*.dist-info"))
        code = (WORKERS / self.worker).read_bytes()
        digest = hashlib.sha256(code + " ".join(installed).encode()).hexdigest()
        return f"{Path(self.worker).stem}-{digest[:12]}"

    @property
    def missing(self) -> str:
        """Why its worker cannot start: the last line that installing its environment said. "" where it can."""
        if not self.python or (ROOT / self.python).is_file():
            return ""
        log = (ROOT / self.python).parent.parent.with_suffix(".log")
        said = log.read_text("utf-8").split("\n") if log.is_file() else ["make peers"]
        return f"not installed: {next((line for line in reversed(said) if line.strip()), 'make peers')}"


@dataclass(frozen=True)
class Table:
    """All peers, what their ratios are to and errors from, and the worker that measures the machine itself."""

    peers: tuple[Peer, ...]
    machine: Peer
    against: Mapping[str, tuple[str, ...]]
    exact: str


def read(path: Path) -> Table:
    """The table in a file."""
    document = tomllib.loads(path.read_text("utf-8"))
    peers = tuple(Peer(**{**row, "work": tuple(row.get("work", BOTH))}) for row in document["peer"])
    machine = Peer(name="machine", **document["machine"])
    against = {work: tuple(names) for work, names in document["against"].items()}
    return Table(peers, machine, against, document["exact"])
