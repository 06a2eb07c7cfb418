"""Six depths of minilm exported and verified in one run, against one depth: whole processes, in turn."""

from __future__ import annotations

import statistics
import sys
import tempfile

from common import heading, in_turn, seconds, spread

ROUNDS = 3


def main() -> None:
    """Print the table."""
    times = in_turn({layers: lambda layers=layers: _export(layers) for layers in ("6", "1,2,3,4,5,6")}, ROUNDS)  # type: ignore[misc]
    print(heading("Export and verify: six depths against one, fp32"))
    print("| depths | seconds, median (least to most) |\n|---|---|")
    for layers, values in times.items():
        print(f"| {layers} | {spread(values)} |")
    ratios = [six / one for one, six in zip(times["6"], times["1,2,3,4,5,6"], strict=True)]
    print(f"\nRatio, round by round: {', '.join(f'{r:.2f}' for r in ratios)}; median {statistics.median(ratios):.2f}")


def _export(layers: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return seconds([sys.executable, "-m", "edgebert", "export", "--layers", layers, "-q", "-o", f"{folder}/out"])


if __name__ == "__main__":
    main()
