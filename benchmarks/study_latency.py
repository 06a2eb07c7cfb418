"""How long one text takes at each depth: the artifacts that `study_int8.py` made, timed in turn. For an idle machine.

    python benchmarks/study_latency.py [FOLDER [DATA]] [--sets sst2_sent,...] [--threads 1] [--rounds 10]

Texts are those of each set's test, one a call. Milliseconds at the median go to docs/study/latencies.json, by set,
precision and depth, with the conditions; of the shapes that are compared with depths, by shape. A set keeps the times
it has where not all of its artifacts are in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import study_rows
from serving_places import SHARED
from study_plan import SETS, Run, rounded_runs, shaped

from edgebert.artifact import Artifact
from edgebert.errors import EdgebertError
from edgebert.judging.bench import measure
from edgebert.judging.conditions import conditions_facts
from edgebert.judging.evaluate import text_of
from edgebert.judging.latency import BenchConfig, Contender
from edgebert.machine import environment
from edgebert.training.data import read

PLACE = study_rows.ROWS.with_name("latencies.json")


def main() -> None:
    """Measure the asked sets, each in a run of its own, and keep what was known of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".study"))
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "data", help="folder with a folder for each set")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=PLACE)
    asked = parser.parse_args()
    logging.getLogger("edgebert").setLevel(logging.ERROR)
    for name in asked.sets.split(","):
        gone = [run.name for run in rounded_runs() if run.data == name and not _places(run, asked.folder)]
        if gone:
            print(f"{name}: not timed, since {len(gone)} of its models are not in {asked.folder}: {gone[0]}, ...")
            continue
        found = _measured(name, asked)
        known = json.loads(asked.out.read_text("utf-8")) if asked.out.exists() else {}
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps({**known, name: found}, indent=1) + "\n", "utf-8")
        stable = found["conditions"]["stable"]
        print(f"{name}: {'calm' if stable else '; '.join(found['conditions']['reasons'])}", flush=True)


def _measured(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by what `study_found.py` asks for, with the conditions and the machine."""
    artifacts = list(_artifacts(name, asked.folder))
    texts = [text_of(row) for row in read(asked.data / name).test]
    contenders = [Contender(artifact.path, artifact.manifest.target) for _, artifact in artifacts]
    result = measure(contenders, texts, BenchConfig(threads=asked.threads, rounds=asked.rounds))
    found: dict[str, Any] = {"conditions": conditions_facts(result.conditions), "threads": asked.threads}
    found["machine"] = environment()
    for (run, artifact), latency in zip(artifacts, result.results, strict=True):
        if isinstance(latency, EdgebertError):
            raise latency
        shape = artifact.manifest.architecture
        way = "fp32" if artifact.manifest.precision == "fp32" else "int8"
        key = f"{way} {shape.layers}x{shape.ffn}" if run in shaped() else way
        found.setdefault(key, {})[str(shape.layers)] = round(latency.p50, 4)
    return found


def _artifacts(name: str, folder: Path) -> Iterator[tuple[Run, Artifact]]:
    """What was kept of a set, with the run it is of."""
    for run in rounded_runs():
        for place in _places(run, folder) if run.data == name else ():
            yield run, Artifact.open(place)


def _places(run: Run, folder: Path) -> list[Path]:
    """Where `study_int8.py` keeps what it exports of a run's model."""
    return sorted((folder / "artifacts" / run.name).glob("*"))


if __name__ == "__main__":
    main()
