"""``make demo``: from pre-trained weights and labelled text to a report to open and a model to deploy.

Everything it does is a command that is printed before it runs. Usage: python examples/demo.py [FOLDER]
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo_data import write

# Half of what the full model takes: reachable on any machine, and not by the full model.
BUDGET_SHARE = 0.5


def main() -> None:
    """Run the demo in FOLDER (default edgebert-out/demo)."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "edgebert-out/demo")
    start = time.monotonic()
    data = folder / "data"
    if not data.exists():
        print(f"Writing 3,800 labelled requests of 48 kinds to {data}", flush=True)
        write(data, seed=0)
    budget = _budget(folder, data)
    fit = [
        "fit",
        "--model",
        "minilm",
        "--data",
        str(data),
        "--budget",
        budget,
        "--layers",
        "1,3,6",
    ]
    # Few rows: longer training than the recipe's.
    result = _edgebert([*fit, "--epochs", "8", "-o", str(folder / "fit")])
    _finish(result, start)


def _budget(folder: Path, data: Path) -> str:
    """A budget for this machine: half the median latency of the full model. Kept, so that a second run resumes."""
    note = folder / "budget.txt"
    if not note.exists():
        print("\nHow fast is the full model here?", flush=True)
        exported = _edgebert(["export", "--layers", "6", "--force", "-o", str(folder / "full")])
        path = exported["artifacts"][0]["path"]
        measured = _edgebert(["bench", path, "--data", str(data)])
        note.write_text(f"p50={BUDGET_SHARE * measured['results'][0]['p50_ms']:.1f}ms\n")
    return note.read_text().strip()


def _edgebert(arguments: list[str]) -> dict[str, Any]:
    print(f"\n$ edgebert {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "edgebert", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    # 5: nothing fits; the document then names the nearest.
    if done.returncode not in (0, 5):
        sys.exit(done.returncode)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _finish(result: dict[str, Any], start: float) -> None:
    pick = result["pick"]
    print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes.")
    print(f"  report  {Path(result['report']).resolve()}")
    if pick is None:
        print("  pick    none: the machine was too busy to meet the budget; run make demo again")
        return
    metric = pick["metric"]
    print(f"  pick    {Path(pick['path']).resolve()}")
    print(
        f"          {pick['layers']} layers, {pick['precision']}: {metric['name']} {metric['value']:.1%}, "
        f"p50 {pick['latency_ms']['p50']:.2f} ms, {pick['bytes'] / 1e6:.1f} MB"
    )
    print(f'\nTry it:\n  python -c "import edgebert; print(edgebert.load({pick["path"]!r})', end="")
    print(".predict(['play some jazz in the kitchen please']))\"")


if __name__ == "__main__":
    main()
