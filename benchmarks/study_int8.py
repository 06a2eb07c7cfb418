"""What int8 costs the study's models, on test: rows beside those of `study.py`, artifacts for `study_latency.py`.

    python benchmarks/study_int8.py [FOLDER [DATA]] [--rows docs/study/rows.jsonl] [--only TEXT]

Each of the teachers and students that `study.py` kept in FOLDER is exported to fp32 and int8; what has a row is not
done again.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import study_rows
from serving_places import SHARED
from study_plan import Run, rounded_runs
from study_run import in_terms_of, judged, points, teacher_checkpoint, value

from edgebert import build
from edgebert.judging.metrics import difference
from edgebert.serving.model import load
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.training.data import read


def main() -> None:
    """Judge what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".study"))
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "data", help="folder with a folder for each set")
    parser.add_argument("--rows", type=Path, default=study_rows.ROWS)
    parser.add_argument("--only", default="", help="runs whose names hold this")
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    rows = study_rows.read(asked.rows)
    trained, done = {row["run"] for row in rows}, {row["run"] for row in rows if "int8" in row}
    for run in rounded_runs():
        if asked.only in run.name and run.name in trained - done:
            row = rounded(run, asked.folder, asked.data / run.data)
            study_rows.append(asked.rows, [row])
            print(f"{run.name}: int8 {row['int8_points'][0]:+.2f}", file=sys.stderr, flush=True)


def rounded(run: Run, folder: Path, place: Path) -> dict[str, Any]:
    """What int8 costs the model of a run against its fp32 artifact, and the scheme that was chosen on dev."""
    if run.is_teacher:
        checkpoint = teacher_checkpoint(run, folder, place)
    else:
        checkpoint = open_checkpoint(str(folder / "students" / run.name))
    data, out = in_terms_of(checkpoint, read(place)), folder / "artifacts" / run.name
    shutil.rmtree(out, ignore_errors=True)
    made = build.export(str(checkpoint.path), precision=["fp32", "int8"], data=place, out=out)
    exact, small = (judged(load(artifact.path), data) for artifact in made)
    return {
        "run": run.name, "layers": checkpoint.manifest.architecture.layers, "int8": value(small),
        "int8_points": points(difference(small, exact)), "scheme": made[1].manifest.needs["scheme"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
