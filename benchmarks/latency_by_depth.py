"""Does the line through two measured depths, which `edgebert sizes --latency` goes by, foretell all others?"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from common import heading

from edgebert.build import Exporter
from edgebert.building.predicting import Line, measured_depths
from edgebert.errors import EdgebertError
from edgebert.judging import parity
from edgebert.judging.bench import measure
from edgebert.judging.conditions import conditions_facts
from edgebert.judging.latency import BenchConfig, Contender
from edgebert.shaping.checkpoint import open_checkpoint


def main() -> None:
    """Print, for each precision, every depth as measured and as foretold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="minilm", help="checkpoint [default: minilm]")
    parser.add_argument("--precision", default="fp32,int8")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=400)
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    source = open_checkpoint(asked.model)
    depth = source.manifest.architecture.layers
    depths, bench = range(1, depth + 1), BenchConfig(1, asked.seq_len, asked.threads, asked.samples)
    print(heading(f"Latency by depth: {source.manifest.name}, {asked.seq_len} tokens, {asked.threads} threads"))
    with tempfile.TemporaryDirectory() as folder:
        exporter = Exporter(source, parity.sample(), "", Path(folder))
        for precision in asked.precision.split(","):
            built = [exporter.unproven(exporter.truncated(range(k)), "cpu", precision) for k in depths]
            found = measure([Contender(artifact.path, "cpu") for artifact in built], parity.sample(), bench, depth - 1)
            times = {}
            for layers, result in zip(depths, found.results, strict=True):
                if isinstance(result, EdgebertError):
                    raise result
                times[layers] = result.p50
            near, far = measured_depths(depth)
            print("| precision | layers | measured p50 ms | foretold | off by |\n|---|---|---|---|---|")
            line = Line((near, far), (times[near], times[far]))
            for layers, ms in times.items():
                off = "the line" if layers in (near, far) else f"{line.at(layers) / ms - 1:+.1%}"
                print(f"| {precision} | {layers} | {ms:.2f} | {line.at(layers):.2f} | {off} |", flush=True)
            facts = conditions_facts(found.conditions)
            print(f"\n{'calm' if facts['stable'] else 'UNSTABLE: ' + '; '.join(facts['reasons'])}\n")


if __name__ == "__main__":
    main()
