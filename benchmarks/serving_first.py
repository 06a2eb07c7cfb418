"""A fresh process to the first answer of a sentence encoder, beside fastembed, sentence-transformers and Optimum.

    python benchmarks/serving_first.py [--folder .serving] [--rounds N]

All read the same int8 artifact. `make serving-peers` makes the environments. The clock is the parent's: it
starts before the interpreter does. Files are in the system's cache, for all alike, after a first round that is not
counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import heading, in_turn, spread
from serving_engines import ENGINES
from serving_places import artifact, environments

HERE = Path(__file__).resolve().parent
PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from serving_engines import ENGINES
answer = ENGINES["embed"][{name!r}].open({folder!r})
vector = answer(["a first answer"])[0]
print(len(vector), flush=True)
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(lines["VmRSS"].split()[0]) * 1024, flush=True)
"""
FACTS = """
import sys, json
sys.path.insert(0, {here!r})
from serving_engines import ENGINES, installed, versions
requirement = ENGINES["embed"][{name!r}].requirement
names = ({name!r}, "optimum-onnx", "transformers", "torch", "tokenizers", "onnxruntime", "numpy")
print(json.dumps([requirement, installed(requirement), versions(dict.fromkeys(names))]))
"""


def first_answer(python: Path, program: str) -> tuple[float, int]:
    """Seconds to the first answer, and resident bytes after it. Raises CalledProcessError where there is none."""
    start = time.perf_counter()
    with subprocess.Popen([python, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        taken = time.perf_counter() - start
        resident = process.stdout.read()
    if process.returncode or not said.strip():
        raise subprocess.CalledProcessError(process.returncode, [str(python)], said + resident)
    return taken, int(resident)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".serving"))
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    pythons, model = environments(asked.folder, ENGINES["embed"]), artifact(asked.folder, "embed")
    memory: dict[str, list[float]] = {name: [] for name in pythons}

    def job(name: str) -> float:
        program = PROGRAM.format(here=str(HERE), name=name, folder=str(model))
        taken, resident = first_answer(pythons[name], program)
        memory[name].append(resident / 1e6)
        return taken

    for name in pythons:
        job(name)
        memory[name].clear()
    found = in_turn({name: lambda name=name: job(name) for name in pythons}, asked.rounds)  # type: ignore[misc]
    _print(found, memory, pythons)


def _print(found: Mapping[str, list[float]], memory: Mapping[str, list[float]], pythons: Mapping[str, Path]) -> None:
    print(heading("A fresh process to the first answer, MiniLM-L6"))
    print("| library | seconds, median (least to most) | resident MB | packages | installed by | versions |")
    print("|---|---|---|---|---|---|")
    for name, python in pythons.items():
        facts: list[Any] = json.loads(
            subprocess.check_output([python, "-c", FACTS.format(here=str(HERE), name=name)], text=True)
        )
        requirement, packages, versions = facts
        print(f"| {name} | {spread(found[name])} | {spread(memory[name])} | {packages} | {requirement} | {versions} |")


if __name__ == "__main__":
    main()
