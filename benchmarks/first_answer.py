"""A fresh process to its first answer: `import edgebert`, load, answer; and the memory it then holds."""

from __future__ import annotations

import json
import subprocess
import sys

from common import heading, spread

ROUNDS = 11
PROGRAM = """
import time; start = time.perf_counter()
import edgebert; imported = time.perf_counter()
model = edgebert.load({path!r}); loaded = time.perf_counter()
(model.predict if model.artifact.manifest.labels else model.encode)(["a first answer"])
import json, os
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps({{"import": imported - start, "load": loaded - imported, "answer": time.perf_counter() - loaded,
                  "all": time.perf_counter() - start, "mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}}))
"""


def main() -> None:
    """Print the table for the artifact given on the command line."""
    program = PROGRAM.format(path=sys.argv[1])
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", program])) for _ in range(ROUNDS)]
    print(heading("From a fresh interpreter to the first answer"))
    print("| what | median (least to most) |\n|---|---|")
    for key, label in (
        ("import", "import edgebert, s"), ("load", "load, s"), ("answer", "first answer, s"),
        ("all", "together, s"), ("mb", "resident memory, MB"),
    ):  # fmt: skip
        print(f"| {label} | {spread([run[key] for run in runs])} |")


if __name__ == "__main__":
    main()
