"""``edgebert fit``: the main job."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from edgebert.choosing.budget import check_max_drop, parse_budget
from edgebert.cli import Document, command, flags
from edgebert.cli.keeping import Told
from edgebert.cli.pick import document_of, require_pick, show
from edgebert.judging.latency import BenchConfig
from edgebert.machine import readable


@command("edgebert fit --model bert-base-uncased --data reviews.csv --budget p95=10ms -o fitted", show)
@flags.model
@flags.data(required=True)
@flags.budget
@flags.layers("Depths to try [default: all].")
@flags.keep(None)
@flags.targets("cpu")
@flags.precisions("fp32,int8")
@flags.quant_drop
@flags.bench
@flags.training
@click.option(
    "--init-from",
    default=None,
    help="Checkpoint whose layers students start from [default: the model's own].",
)
@click.option("--exhaustive", is_flag=True, help="Train every depth, not only those that can win.")
@click.option(
    "--remeasure",
    type=click.IntRange(0),
    default=2,
    help="How often to measure again while the machine is not calm.",
)
@flags.seed
@flags.out("Folder of this fit; the same command goes on in it.")
def run(
    model: str,
    data: str,
    columns: dict[str, str],
    budget: str | None,
    max_drop: float | None,
    layers: tuple[int, ...] | None,
    keep: str | None,
    target: tuple[str, ...],
    precision: tuple[str, ...],
    quant_drop: float,
    threads: int | None,
    batch_size: int,
    rounds: int,
    seq_len: int | None,
    init_from: str | None,
    exhaustive: bool,
    remeasure: int,
    seed: int,
    out: Path,
    **training: Any,
) -> Document:
    """Find the most accurate model within a latency budget: measure, train, verify, measure, pick."""
    limit = parse_budget(budget) if budget is not None else None
    check_max_drop(max_drop)
    # After the cheap checks: these import torch.
    from edgebert.choosing.report import write_report
    from edgebert.choosing.request import FitRequest
    from edgebert.choosing.sweep import fit
    from edgebert.training.plan import TrainConfig

    chosen = {name: value for name, value in training.items() if value is not None}
    own = ("method", "temperature", "alpha", "dropout", "augment")
    shared = {name: value for name, value in chosen.items() if name not in own}
    request = FitRequest(
        model=model, data=data, folder=out, budget=limit, max_drop=max_drop, layers=layers, keep=keep,
        targets=target, precisions=precision, columns=columns, init_from=init_from, exhaustive=exhaustive,
        quant_drop=quant_drop, remeasure=remeasure, seed=seed,
        student=TrainConfig(seed=seed, **chosen), teacher={**shared, "seed": seed},
        bench=BenchConfig(batch_size=batch_size, seq_len=seq_len, threads=threads, rounds=rounds, seed=seed),
        command=readable(shlex.join(["edgebert", *sys.argv[1:]])),
    )  # fmt: skip
    told = Told()
    result = fit(request, told)
    page = write_report(out, result)
    document = {**document_of(result, out, os.fspath(page)), **told.document}
    if result.verdict.pick is not None:
        document["pick"]["path"] = os.fspath(out / "best")
    return require_pick(document, result)
