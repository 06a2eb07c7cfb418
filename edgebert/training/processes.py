"""Several processes that train one model, on one machine or many: each works on its share of every batch.

All see the same folders. The first writes what is published and decides what the clock decides; the others read. Their
gradients are averaged here and not by DistributedDataParallel's hooks: these know one forward pass a step, and a model
that answers at several depths makes several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, distributed

from edgebert import ranks
from edgebert.errors import UsageError

T = TypeVar("T")


def wait() -> None:
    """Until all processes are here."""
    if ranks.count() > 1:
        _join()
        distributed.barrier()


def in_turn(make: Callable[[], T]) -> T:
    """What ``make`` gives: in the first process before it is called in the others, which find what it left on disk."""
    made = make() if ranks.first() else None
    wait()
    if not ranks.first():
        made = make()
    wait()
    return made  # type: ignore[return-value]


def agreed(flags: Sequence[bool]) -> list[bool]:
    """The first process's answers, where each would have its own."""
    if ranks.count() == 1:
        return list(flags)
    _join()
    said = list(flags)
    distributed.broadcast_object_list(said, src=0)
    return said


def average(values: Tensor) -> Tensor:
    """The mean of all processes' values."""
    if ranks.count() == 1:
        return values
    together = values.clone()
    distributed.all_reduce(together)
    return together / ranks.count()


def average_gradients(module: torch.nn.Module) -> None:
    """Give every process the mean of all processes' gradients."""
    if ranks.count() == 1:
        return
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    for gradient, mean in zip(
        gradients, torch.split(average(together), [each.numel() for each in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))


def check_share(batch_size: int) -> None:
    """Raise UsageError where a batch cannot be shared out evenly."""
    if batch_size % ranks.count():
        what = f"batches of {batch_size} texts for {ranks.count()} processes"
        raise UsageError(what, "--train-batch-size", "give a multiple of the number of processes")


def _join() -> None:
    if not distributed.is_initialized():
        # Chooses gloo or NCCL as the Trainer will.
        PartialState(cpu=not torch.cuda.is_available())
