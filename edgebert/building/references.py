"""What PyTorch answers on the ledger's texts, for every checkpoint that is exported from one source.

Checkpoints that are the source's own first layers need not run one by one: a pass through all layers comes by each
of them. That these layers, cut out, give the same to the bit is a line of every ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from edgebert.artifact import Artifact
from edgebert.judging import parity
from edgebert.runtimes.session import Array
from edgebert.serving.rows import Float, outputs, rows_of
from edgebert.serving.tokens import Batch
from edgebert.tasks import TASKS


class References:
    """Answers of ``source``, of checkpoints cut from it and of students of its shape, on ``feeds``.

    ``depths`` are those at which its first layers will be asked for.
    """

    def __init__(self, source: Artifact, feeds: Sequence[Batch], depths: Sequence[int] = ()) -> None:
        self._source, self._feeds, self._depths = source, feeds, sorted(set(depths))
        self._task = TASKS[source.manifest.task]
        # A checkpoint's precisions follow each other: the latest is asked for again.
        self._latest: tuple[str, list[Float]] = "", []

    def of(self, checkpoint: Artifact) -> list[Float]:
        """One array [d] a text, as :func:`~edgebert.serving.outputs` has them."""
        if self._latest[0] != checkpoint.digest:
            depth = self._own_depth(checkpoint)
            rows = self._by_depth[depth] if depth in self._depths and self._together else self._alone(checkpoint)
            self._latest = checkpoint.digest, rows
        return self._latest[1]

    def kept(self, checkpoint: Artifact) -> list[int] | None:
        """The layers of the source that were cut out to make a checkpoint; None where it is anything else."""
        steps = checkpoint.manifest.history[len(self._source.manifest.history) :]
        if [step.stage for step in steps] != ["truncate"] or steps[0].source != self._source.digest:
            return None
        return list(steps[0].config["keep"])

    def hidden(self, keep: Sequence[int]) -> Array:
        """The source's last hidden state [batch, sequence, hidden], on the last feed, if only ``keep`` run."""
        from edgebert.runtimes.reference import hidden_after

        if len(self._depths) > 1 and list(keep) == list(range(len(keep))):
            return self._states[len(keep)]
        return hidden_after(self._source, keep, self._feeds[-1])

    @cached_property
    def _states(self) -> list[Array]:
        from edgebert.runtimes.reference import hidden_states

        return hidden_states(self._source, self._feeds[-1])

    @property
    def _together(self) -> bool:
        """Whether one pass through all layers is the shorter way, and what it finds at all depths is small."""
        small = self._task.compared is None and not self._task.pools
        return small and sum(self._depths) > self._source.manifest.architecture.layers

    def _own_depth(self, checkpoint: Artifact) -> int | None:
        """How many of the source's first layers a checkpoint is; None where it is anything else."""
        depth = self._source.manifest.architecture.layers
        if checkpoint.digest == self._source.digest:
            return depth
        keep = self.kept(checkpoint)
        return len(keep) if keep is not None and keep == list(range(len(keep))) else None

    def _alone(self, checkpoint: Artifact) -> list[Float]:
        from edgebert.runtimes.reference import reference_session

        run = parity.runner(reference_session(checkpoint), checkpoint)
        return outputs(run, self._feeds, self._task.compared)

    @cached_property
    def _by_depth(self) -> dict[int, list[Float]]:
        from edgebert.runtimes.reference import FirstLayers

        model = FirstLayers(self._source, self._depths)
        found: dict[int, list[Float]] = {depth: [] for depth in self._depths}
        for feed in self._feeds:
            for depth, answer in model.run(feed).items():
                found[depth] += rows_of(self._task.joined(answer), feed)
        return found
