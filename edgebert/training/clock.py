"""The callback that decides by the clock when to save and what to tell, and by the epoch when to evaluate."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgebert import ranks
from edgebert.errors import CheckFailed
from edgebert.progress import bar
from edgebert.training.processes import agreed, wait
from edgebert.training.work import Work

log = logging.getLogger("edgebert")
SECONDS_BETWEEN_LINES = 10.0


class Clock(TrainerCallback):
    """Saves every ``save_seconds``, evaluates after every epoch, reports progress.

    Never saves right before an evaluation: the generators' state after it is what the next epoch starts
    from, in the run that goes on as in the one that is resumed.
    """

    def __init__(self, work: Work, metric: str, save_seconds: float) -> None:
        self._work = work
        self._metric = metric
        self._save_seconds = save_seconds
        self._began = self._saved = self._spoke = 0.0
        self._first_step = 0
        self._bar: Iterator[int] = iter(())

    def close(self) -> None:
        """Take the bar off the terminal, also after an interruption."""
        self._bar = iter(())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._began = self._saved = self._spoke = time.monotonic()
        self._first_step = state.global_step
        steps = range(state.global_step, state.max_steps)
        self._bar = iter(bar(steps, "train"))
        next(self._bar, None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint or a line when it is time."""
        now = time.monotonic()
        next(self._bar, None)
        ends_epoch = float(state.epoch or 0.0).is_integer() or state.global_step >= state.max_steps
        # Saving and logging take all processes, whose clocks differ.
        control.should_log, control.should_save = agreed(
            [now - self._spoke >= SECONDS_BETWEEN_LINES, not ends_epoch and now - self._saved >= self._save_seconds]
        )

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate, and save unless that was done a moment ago."""
        control.should_log = control.should_evaluate = True
        (control.should_save,) = agreed([time.monotonic() - self._saved >= self._save_seconds / 3])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Say where the run stands. Raises CheckFailed when the loss is no number any more."""
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise CheckFailed(f"training diverged (loss {loss})", f"step {state.global_step}", "lower --lr")
        self._spoke = time.monotonic()
        # With a terminal the bar says it.
        level = logging.DEBUG if sys.stderr.isatty() else logging.INFO
        log.log(
            level,
            "step %d/%d, loss %.4f%s",
            state.global_step,
            state.max_steps,
            loss,
            self._left(state),
        )

    def _left(self, state: TrainerState) -> str:
        done = state.global_step - self._first_step
        rest = state.max_steps - state.global_step
        if not rest or not done:
            return ""
        return f", {(time.monotonic() - self._began) / done * rest:.0f} s left"

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Say how good the weights are, and whether they are the best so far."""
        if metrics is None:
            return
        value = metrics[f"eval_{self._metric}"]
        best = ", best so far" if metrics["eval_better"] else ""
        log.info("epoch %.3g: dev %s %.4f%s", state.epoch, self._metric, value, best)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        wait()
        if ranks.first():
            self._work.seal(state.global_step)
        self._saved = time.monotonic()
        log.debug("saved step %d", state.global_step)
