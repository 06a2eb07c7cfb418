"""Trainings of the study, one after the other: trained, judged on test in fp32, their rows printed.

    python benchmarks/study_run.py FOLDER DATA < NAMES

NAMES are runs' of `study_plan.py`, a line each; after the rows of each comes a line that says so. FOLDER keeps the
teachers, and the students whose int8 is asked for.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import study_rows
import torch
from study_plan import ENCODED, FFN, FULL, Run, better_teacher, kept_in, plan, rounded_runs, teacher_of

from edgebert import build
from edgebert.artifact import Artifact, problem_of
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import Metric, Scores, difference
from edgebert.machine import environment
from edgebert.runtimes.reference import TorchSession
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import Model
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import load_module, open_checkpoint, shape_of
from edgebert.training.data import Data, match_labels, read
from edgebert.training.plan import TrainConfig, teacher_recipe

MODEL = "minilm"


def main() -> None:
    """Train and print one row for each depth, as JSON."""
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    runs = {run.name: run for run in plan()}
    for line in sys.stdin:
        run = runs[line.strip()]
        for row in rows(run, folder, data / run.data):
            print(json.dumps(row))
        print(study_rows.end_of(run.name), end="", flush=True)


def rows(run: Run, folder: Path, place: Path) -> Iterator[dict[str, Any]]:
    """The results of a run, a row for each of its depths."""
    work, kept = folder / "work" / run.name, kept_in(run, folder)
    before, there = time.process_time(), kept is not None and kept.exists()
    teaches = run.is_teacher or kept
    made = [teacher_checkpoint(run, folder, place)] if teaches else _students(run, folder, place, work)
    # Of one that is there already nobody knows any more.
    seconds = {} if there else {"cpu_seconds": round(time.process_time() - before)}
    data = in_terms_of(made[0], read(place))
    teacher = _teachers_scores(run.data, folder, place, data)
    for checkpoint in made:
        yield _row(run, checkpoint, data, teacher) | seconds
    if run in rounded_runs() and not run.is_teacher:
        _keep(made[0], folder / "students" / run.name)
    shutil.rmtree(work, ignore_errors=True)


def _keep(checkpoint: Artifact, place: Path) -> None:
    """Keep a student for `study_int8.py`."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.path.rename(place)


def teacher_checkpoint(run: Run, folder: Path, place: Path) -> Artifact:
    """The checkpoint of a run that others are distilled from, trained where it is missing; of the encoder, MiniLM."""
    out = kept_in(run, folder)
    if out is None:
        return open_checkpoint(MODEL)
    if not out.exists():
        work = folder / "work" / run.name
        (made,) = _fine_tuned(place, work) if run.is_teacher else _students(run, folder, place, work)
        out.parent.mkdir(parents=True, exist_ok=True)
        made.path.rename(out)
        if run.is_teacher:
            # Of another teacher.
            _kept_scores(run.data, folder).unlink(missing_ok=True)
            if better := kept_in(better_teacher(run.data), folder):
                shutil.rmtree(better, ignore_errors=True)
        shutil.rmtree(work)
    return open_checkpoint(str(out))


def _fine_tuned(place: Path, work: Path) -> list[Artifact]:
    recipe = teacher_recipe(open_checkpoint(MODEL).manifest.architecture.hidden, len(read(place).labels))
    return build.distill(MODEL, place, [FULL], work, recipe)


def _teachers_scores(name: str, folder: Path, place: Path, data: Data) -> Scores:
    """What the teacher's metric on test is computed from; kept, since every student is compared with it."""
    kept = _kept_scores(name, folder)
    if not kept.exists():
        found = _scores(teacher_checkpoint(teacher_of(name), folder, place), data)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"metric": found.metric, "rows": found.rows.tolist()}))
        part.rename(kept)
    known = json.loads(kept.read_text())
    return Scores(known["metric"], np.asarray(known["rows"]))


def _kept_scores(name: str, folder: Path) -> Path:
    return folder / "teachers" / f"{name}-scores.json"


def _students(run: Run, folder: Path, place: Path, work: Path) -> list[Artifact]:
    assert run.needs
    teacher = str(teacher_checkpoint(run.needs, folder, place).path)
    config = replace(TrainConfig(method=run.method, seed=run.seed), **dict(run.settings))
    start = _start(run, work, place)
    if run.data == ENCODED:
        teacher = MODEL
    return build.distill(teacher, place, run.layers, work, config, keep=run.keep, init_from=start)


def _start(run: Run, work: Path, place: Path) -> str | None:
    """The checkpoint that a student's layers come from; None where it is the teacher."""
    if run.start == "teacher":
        return None
    out = work / "from"
    if run.start == "scratch" and not out.exists():
        build.resize(MODEL, out, FULL, init="scratch", seed=run.seed)
    elif run.ffn != FFN and not out.exists():
        build.resize(MODEL, out, asked=build.Asked(ffn=run.ffn), data=place)
    return str(out) if out.exists() else MODEL


def in_terms_of(checkpoint: Artifact, data: Data) -> Data:
    """The data in a checkpoint's labels."""
    manifest = checkpoint.manifest
    return match_labels(data, manifest.labels, problem_of(manifest).data) or data


def _row(run: Run, checkpoint: Artifact, data: Data, teacher: Scores) -> dict[str, Any]:
    scores, facts = _scores(checkpoint, data), environment()
    training = checkpoint.manifest.checks.get("training", {})
    return {
        "run": run.name, "layers": checkpoint.manifest.architecture.layers, "metric": scores.metric,
        "fp32": value(scores), "teacher": value(teacher), "points": points(difference(scores, teacher)),
        "dev": training.get("value"), "best_step": training.get("step"), "texts": len(scores.rows),
        "parameters": sizes.parameters(shape_of(checkpoint)),
        "date": str(datetime.datetime.now(datetime.UTC).date()), "device": _name_of(_device()), "cpu": facts["cpu"],
        "versions": facts["versions"],
    }  # fmt: skip


def _device() -> torch.device:
    """What trains: the Trainer takes a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _scores(checkpoint: Artifact, data: Data) -> Scores:
    """In fp32, where it was trained, by one thread."""
    module = load_module(checkpoint, for_training=True).to(_device())
    session = TorchSession(checkpoint, module, SessionConfig(threads=1))
    return judged(Model(checkpoint, session, TextTokenizer(checkpoint)), data)


def judged(opened: Model, data: Data) -> Scores:
    """What an opened model's metric on test is computed from."""
    with opened as model:
        return evaluate(model, data.test)


def value(scores: Scores) -> float:
    """The metric, as rows have it."""
    return round(scores.metric_value().value, 5)


def points(gap: Metric) -> list[float]:
    """A difference and its paired interval in points."""
    return [round(100 * value, 3) for value in (gap.value, gap.low, gap.high)]


if __name__ == "__main__":
    main()
