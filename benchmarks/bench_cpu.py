"""edgebert's CPU artifacts beside their peers: latency on token arrays, speed and accuracy on real sentences.

    python benchmarks/bench_cpu.py [--parts base-1,base-2,minilm-1,sst2] [--only REGEX] [--sittings N] [--rounds N]

`make bench-cpu` makes the peers' environments first; `benchmarks/cpu/peers.toml` says who is compared, and how. Each
peer has processes of its own, and all take turns in every round, in an order drawn anew, while the others are frozen.
A peer that cannot be installed, converted or run is a row that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import heading
from cpu import driver, models, tables
from cpu.peers import ROOT, Peer, Table, read

SHARED = Path(os.environ.get("EDGEBERT_SHARED", ROOT.parent / "shared"))
BERT_BASE = "30522,12,768,12,3072"
QUICK = {"sittings": 1, "rounds": 2, "seconds": 0.2}


@dataclass(frozen=True)
class Part:
    """A table: which model does what work with how many threads. Without a batch size the work is texts."""

    title: str
    model: str
    threads: int
    batch: int = 0
    length: int = 0

    @property
    def kind(self) -> str:
        """What the peers are given."""
        return "arrays" if self.batch else "texts"


PARTS = {
    "base-1": Part("bert-base with random weights, 1 x 128 tokens, 1 thread", "base", 1, 1, 128),
    "base-2": Part("bert-base with random weights, 1 x 128 tokens, 2 threads", "base", 2, 1, 128),
    "minilm-1": Part("MiniLM-L6, 8 x 32 tokens, 1 thread", "minilm", 1, 8, 32),
    "sst2": Part("MiniLM-L6 on the test sentences of SST-2, tokenization included, 2 threads", "minilm", 2),
}


def main() -> None:
    """Measure the parts asked for, and write what was found after each."""
    asked = _arguments()
    bench = Bench(read(asked.peers), asked)
    pages = [heading("edgebert on CPUs beside its peers"), bench.how()]
    for name in asked.parts.split(","):
        pages.append(bench.part(name))
        asked.out.write_text("\n".join([*pages, bench.settings()]), "utf-8")
    print(asked.out.read_text("utf-8"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--only", default="", help="peers whose name this regular expression finds")
    parser.add_argument("--sittings", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a peer's turn on token arrays")
    parser.add_argument("--quick", action="store_true", help="to see that all run: the numbers mean nothing")
    parser.add_argument("--peers", type=Path, default=ROOT / "benchmarks" / "cpu" / "peers.toml")
    parser.add_argument("--base", default=BERT_BASE, help="vocabulary, layers, width, heads, FFN of the random model")
    parser.add_argument("--minilm", type=Path, default=SHARED / "models" / "minilm-l6-sst2")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "sst2_sent")
    parser.add_argument("--work", type=Path, default=ROOT / ".peers" / "work", help="for what is converted, and logs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "bench_cpu.md")
    asked = parser.parse_args()
    if unknown := set(asked.parts.split(",")) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    for name, value in QUICK.items() if asked.quick else ():
        setattr(asked, name, value)
    return asked


class Bench:
    """The peers and the options, and what was found so far."""

    def __init__(self, table: Table, asked: argparse.Namespace) -> None:
        self._table, self._asked = table, asked
        self._peers = [peer for peer in table.peers if re.search(asked.only, peer.name)]
        self._work: Path = asked.work
        self._work.mkdir(parents=True, exist_ok=True)
        self._models: dict[str, models.Model] = {}
        self._failures: dict[tuple[str, str], str] = {}
        self._found: dict[str, driver.Outcome] = {}

    def how(self) -> str:
        """How the numbers came about, for the head of the page."""
        return (
            f"{self._asked.sittings} sittings of {self._asked.rounds} rounds; a sitting has fresh processes, and in "
            "each round every peer has a turn, in an order drawn anew, while the others are frozen. Numbers are "
            "medians over rounds (least to most); ratios are of the same round, and say how many times as fast a row "
            "is.\n"
        )

    def part(self, name: str) -> str:
        """Measure one table."""
        part = PARTS[name]
        peers = [peer for peer in self._peers if part.kind in peer.work]
        entrants = {peer.name: self._entrant(peer, part) for peer in [*peers, self._table.machine]}
        outcomes = [
            driver.Outcome(peer.name, failure=self._prepared(peer, part, entrants[peer.name])) for peer in peers
        ]
        for outcome in outcomes:
            if outcome.failure:
                del entrants[outcome.name]
        measured = driver.measure(
            list(entrants.values()), self._asked.sittings, self._asked.rounds, self._work / "logs", tell=_tell
        )
        # All answers, for whoever wants other statistics of them.
        (self._work / f"{name}.json").write_text(json.dumps([asdict(outcome) for outcome in measured]), "utf-8")
        by_name = {outcome.name: outcome for outcome in measured}
        outcomes = [by_name.get(outcome.name, outcome) for outcome in outcomes]
        self._found |= {outcome.name: outcome for outcome in outcomes}
        lines = self._lines(part, outcomes, by_name[self._table.machine.name])
        return "\n".join([f"### {part.title}\n", *lines])

    def settings(self) -> str:
        """What each peer ran with."""
        return "\n".join(["### Settings and versions\n", *tables.settings_lines(list(self._found.values())), ""])

    def _lines(self, part: Part, outcomes: Sequence[driver.Outcome], machine: driver.Outcome) -> Iterator[str]:
        model, against = self._model(part.model), self._table.against[part.kind]
        if part.kind == "texts":
            yield from tables.texts_table(outcomes, model.gold, against)
        else:
            whole, least = (model.operations(part.batch, part.length, first_token=only) for only in (False, True))
            work = {peer.name: (peer.precision, least if peer.first_token else whole) for peer in self._peers}
            yield from tables.arrays_table(outcomes, machine, work, against, self._table.exact)
            yield (
                f"\n{whole / 1e9:.2f} billion operations a call, of matrix products alone; edgebert's graphs do "
                f"{least / 1e9:.2f} of them, and their share of the peak counts these."
            )
        yield "\n" + tables.machine_line(machine) + "\n"

    def _entrant(self, peer: Peer, part: Part) -> driver.Entrant:
        model = self._model(part.model)
        work: dict[str, Any] = {
            "batch": part.batch, "length": part.length, "vocab": model.config["vocab_size"],
            "seconds": self._asked.seconds,
        }  # fmt: skip
        settings = {
            **peer.settings,
            "model": str(model.path),
            "data": model.data and str(model.data),
            "train_texts": str(model.train_texts),
            "folder": str(self._work / "converted" / model.digest / peer.fingerprint),
            "threads": part.threads,
            "work": work if part.batch else {"texts": str(model.test_texts)},
        }
        pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(part.threads))
        return driver.Entrant(peer.name, peer.command, settings, part.threads, {**peer.variables, **pools})

    def _prepared(self, peer: Peer, part: Part, entrant: driver.Entrant) -> str:
        """Why a peer cannot take part, or nothing; its model is converted once for all parts."""
        key = peer.name, part.model
        if key not in self._failures:
            _tell(f"{part.model}: preparing {peer.name}")
            whole = replace(entrant, cpus=len(os.sched_getaffinity(0)))
            self._failures[key] = peer.missing or driver.prepare(whole, self._work / "logs")
        return self._failures[key]

    def _model(self, name: str) -> models.Model:
        if name not in self._models:
            asked = self._asked
            self._models[name] = (
                models.with_random_weights(asked.base.split(","), asked.minilm, self._work)
                if name == "base"
                else models.fine_tuned(asked.minilm, asked.data, self._work)
            )
        return self._models[name]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
