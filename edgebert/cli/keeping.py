"""What ``--keep auto`` goes by, shown to people when it is known and kept for the JSON document."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgebert.cli import Document, table

if TYPE_CHECKING:
    from edgebert.training.importance import Importance

log = logging.getLogger("edgebert")


class Told:
    """Called with the importance of a model's layers: shows it, and has it in ``document`` under its name.

    Without ``--keep auto`` it is never called, and the document stays empty.
    """

    def __init__(self) -> None:
        self.document: Document = {}

    def __call__(self, found: Importance) -> None:
        """Show and keep."""
        log.info("%s", show(found))
        self.document = {"importance": found.to_dict()}


def show(found: Importance) -> str:
    """A line a layer: its importance, and what the layers up to it are worth alone."""
    heads = ("layer", "change", "loss if skipped", f"{found.metric} if the last")
    rows = [
        (
            str(index), f"{found.change[index]:.4f}",
            "-" if found.loss is None else f"{found.loss[index]:+.4f}", f"{found.curve[index]:.4f}",
        )
        for index in range(len(found.change))
    ]  # fmt: skip
    chosen_by = "change" if found.loss is None else "loss if skipped"
    return f"layers on {found.texts} texts of train, nothing trained; auto keeps the largest {chosen_by}\n" + table(
        heads, rows
    )
