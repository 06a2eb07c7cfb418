"""Building in Python: what the commands of these names call, and the stages that a fit puts together."""

from __future__ import annotations

from edgebert.building.distilling import distill, learns_labels, train_stage, train_together, with_head
from edgebert.building.exporting import Exporter, export
from edgebert.building.places import bytes_needed, check_output
from edgebert.building.resizing import kept_layers, pruned, resize
from edgebert.building.widths import ROUNDS, Asked

__all__ = [
    "ROUNDS",
    "Asked",
    "Exporter",
    "bytes_needed",
    "check_output",
    "distill",
    "export",
    "kept_layers",
    "learns_labels",
    "pruned",
    "resize",
    "train_stage",
    "train_together",
    "with_head",
]
