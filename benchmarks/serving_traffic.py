"""Real traffic behind one FastAPI app: edgebert beside sentence-transformers' ONNX backend and Optimum's pipeline.

    python benchmarks/serving_traffic.py [--folder .serving] [--rounds N] [--seconds S] [--tasks embed,predict]

The test texts of the shared sets, each set as often as the others, one a request, 1 to 512 tokens; all libraries read
the same int8 artifact. In each round each library has a fresh server and is asked one text after the other (unloaded),
by 32 callers all the time (capacity), and at random times at 70 % of its own capacity (open-loop Poisson; latency from
when a request was to be sent). The client is on the same machine, for all alike.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common import heading, spread
from open_loop import percentile, percentiles
from serving_engines import ENGINES
from serving_load import Client, alone, at_rate, saturated
from serving_places import SHARED, artifact, environments

from edgebert.judging.evaluate import texts_of
from edgebert.training.data import read

HERE = Path(__file__).resolve().parent
CALLERS, SHARE, ALONE = 32, 0.7, 1000
START_SECONDS = 120.0
# Each library but fastembed, which has no classifier and no server story of its own; the others in both ways.
VARIANTS = {
    "embed": ("edgebert", "sentence-transformers", "sentence-transformers, one at a time"),
    "predict": ("edgebert", "optimum", "optimum, one at a time"),
}
SETS = ("banking77", "clinc150", "qnli_small", "sst2_sent", "stsb", "wnut17", "xquad_en/test.jsonl.gz")


@dataclass
class Seen:
    """What was seen of a library, over all rounds. Latencies in seconds."""

    capacity: list[float] = field(default_factory=list)
    unloaded: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    lost: int = 0


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".serving"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--tasks", default=",".join(VARIANTS))
    asked = parser.parse_args()
    texts = mixed(SHARED / "data", 5000)
    print(heading("Mixed traffic at 70 % of capacity, one text a request"))
    for task in asked.tasks.split(","):
        model = artifact(asked.folder, task)
        pythons = environments(asked.folder, ENGINES[task])
        seen = {name: Seen() for name in VARIANTS[task] if name.partition(",")[0] in pythons}
        for number in range(asked.rounds):
            for name, found in seen.items():
                engine, _, serial = name.partition(",")
                with server(pythons[engine], engine, task, model, serial=bool(serial)) as port:
                    ask(port, texts, found, asked.seconds, number)
        _print(task, model, seen)


def mixed(folder: Path, count: int) -> list[str]:
    """Test texts, each set as often as the others, in an order that is the same every time."""
    generator = random.Random(0)
    sets = [texts_of(read(folder / name).test) for name in SETS]
    return [generator.choice(generator.choice(sets)) for _ in range(count)]


@contextmanager
def server(python: Path, engine: str, task: str, model: Path, *, serial: bool) -> Iterator[int]:
    """The port of a library's server that answers; ended afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [python, "-m", "uvicorn", "--app-dir", str(HERE), "serving_app:app", "--port", str(port)]
    settings = {"ENGINE": engine, "TASK": task, "FOLDER": str(model), "SERIAL": str(int(serial))}
    quiet = ["--log-level", "warning", "--no-access-log"]
    process = subprocess.Popen([*command, *quiet], env={**os.environ, **settings, "HF_HUB_OFFLINE": "1"})
    try:
        _wait(process, port)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Until it listens. Raises RuntimeError where it ends instead, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not start")


def ask(port: int, texts: Sequence[str], seen: Seen, seconds: float, number: int) -> None:
    """One round of one library."""
    client = Client(port)
    alone(client, texts[: ALONE // 10])
    seen.unloaded += alone(client, texts[:ALONE])
    seen.capacity.append(saturated(client, texts, CALLERS, seconds))
    found = at_rate(client, texts, SHARE * seen.capacity[-1], seconds, number)
    seen.loaded += [value for value in found if value is not None]
    seen.lost += found.count(None)
    client.close()


def _print(task: str, model: Path, seen: Mapping[str, Seen]) -> None:
    print(f"### {task}: {model.name}\n")
    percents = "p50, p95, p99 ms"
    print(f"| library | capacity, texts/s | unloaded {percents} | at 70 % {percents} | p99 over unloaded | lost |")
    print("|---|---|---|---|---|---|")
    for name, found in seen.items():
        ratio = percentile(found.loaded, 0.99) / percentile(found.unloaded, 0.99)
        cells = (spread(found.capacity), percentiles(found.unloaded), percentiles(found.loaded), f"{ratio:.1f}")
        print(f"| {name} | {' | '.join(cells)} | {found.lost} |")
    peers = [statistics.median(found.capacity) for name, found in seen.items() if name != "edgebert"]
    if peers:
        times = statistics.median(seen["edgebert"].capacity) / max(peers)
        print(f"\nedgebert's capacity is {times:.2f} times that of the better of the others.\n")


if __name__ == "__main__":
    sys.exit(main())
