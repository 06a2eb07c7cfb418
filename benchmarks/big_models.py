"""bert-large and xlm-roberta-large shapes with random weights: seconds and peak memory of export and verify.

Memory is VmHWM of the command's process (Linux), over the bytes of the model's weights. The texts are short:
what a model of this size takes is its weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import heading

LAYERS, HIDDEN, HEADS, FFN = 24, 1024, 16, 4096
# The multilingual model's sizes in the family roberta: its own tokenizer plays no part here.
MODELS = {"bert-large": ("bert", 30522), "xlm-roberta-large": ("roberta", 250002)}
WORDS = [f"word{number}" for number in range(200)]
MAKER = Path(__file__).with_name("random_models.py")
PROGRAM = """
import atexit, os, pathlib
from edgebert.cli import main
def tell():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    pathlib.Path(os.environ["PEAK_FILE"]).write_text(str(peak * 1024))
atexit.register(tell)
main()
"""


def main() -> None:
    """Print the table for the models named on the command line, or all."""
    rows = [row for name in sys.argv[1:] or MODELS for row in _rows(name)]
    print(heading("Big models: seconds and peak memory"))
    print("| model | MB of weights | command | seconds | peak MB | times the weights | left behind |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def _rows(name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shape = map(str, (*MODELS[name], LAYERS, HIDDEN, HEADS, FFN))
        # In a process of its own, so that this one stays small.
        subprocess.run([sys.executable, MAKER, root / "model", *shape], check=True)
        (root / "texts.txt").write_text("".join(f"{' '.join(WORDS[: 3 + i % 9])}\n" for i in range(24)))
        size = (root / "model" / "model.safetensors").stat().st_size
        export = ["export", "--model", "model", "--data", "texts.txt", "-o", "out", "--precision"]
        artifacts = [f"out/model-l{LAYERS}-cpu-{precision}" for precision in ("fp32", "int8")]
        commands = [[*export, "fp32,int8"], *(["verify", path] for path in artifacts)]
        return [_row(name, size, command, root) for command in commands]


def _row(name: str, size: int, command: list[str], root: Path) -> str:
    place = root / "tmp"
    place.mkdir(exist_ok=True)
    package = str(Path(__file__).resolve().parent.parent)
    variables = {"PEAK_FILE": str(root / "peak"), "TMPDIR": str(place), "PYTHONPATH": package}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, "-q"], check=True, cwd=root, env={**os.environ, **variables}
    )
    seconds = time.perf_counter() - start
    peak = int((root / "peak").read_text())
    wanted = {f"model-l{LAYERS}-cpu-fp32", f"model-l{LAYERS}-cpu-int8"}
    left = [path.name for path in (*place.iterdir(), *(root / "out").iterdir()) if path.name not in wanted]
    said = " ".join(word for word in command if word not in ("--model", "model", "--data", "texts.txt", "-o", "out"))
    numbers = f"{seconds:.0f} | {peak / 1e6:.0f} | {peak / size:.2f}"
    return f"| {name} | {size / 1e6:.0f} | {said} | {numbers} | {', '.join(left) or 'nothing'} |"


if __name__ == "__main__":
    main()
