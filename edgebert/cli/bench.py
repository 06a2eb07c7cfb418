"""``edgebert bench``: latency and throughput of artifacts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import click

from edgebert.artifact import MANIFEST, Artifact
from edgebert.choosing.journal import Journal
from edgebert.cli import Document, calm, command, flags, table
from edgebert.errors import EdgebertError, EnvironmentMissing, InputError
from edgebert.folders import artifact_folders
from edgebert.judging.bench import measure
from edgebert.judging.conditions import conditions_facts
from edgebert.judging.evaluate import text_of
from edgebert.judging.latency import BenchConfig, Contender, Latency
from edgebert.judging.parity import sample
from edgebert.machine import environment
from edgebert.registry import target_named
from edgebert.serving.tokens import Text
from edgebert.tasks import TASKS
from edgebert.training.data import read

log = logging.getLogger("edgebert")

# How deep below a folder artifacts may lie: fits stand beside exports, with their artifacts/ in them.
_DEPTH = 3


def _show(document: Document) -> str:
    rows = [
        (
            Path(r["artifact"]).name, r["target"], r["precision"],
            f"{r['p50_ms']:.2f}", f"{r['p50_low']:.2f}-{r['p50_high']:.2f}",
            "-" if r["p95_ms"] is None else f"{r['p95_ms']:.2f}", f"{r['tokenize_p50_ms']:.2f}",
            f"{r['texts_per_s']:.0f}", _ratio(r["latency"]["ratio"]),
            "-" if r["device_ms"] is None else f"{r['device_ms']:.2f}",
            f"{r['memory_bytes'] / 1e6:.0f}", f"{r['device_bytes'] / 1e6:.0f}",
            f"{r['cold_start_ms']:.0f}", str(r["samples"]),
        )
        for r in document["results"]
    ]  # fmt: skip
    heads = (
        "artifact",
        "target",
        "precision",
        "p50 ms",
        "95 %",
        "p95 ms",
        "tokens ms",
        "texts/s",
        "x reference",
        "GPU ms",
        "MB RAM",
        "MB GPU",
        "start ms",
        "samples",
    )
    absent = [f"{each['target']}: not here: {each['why']}" for each in document["missing"]]
    return "\n".join([table(heads, rows), *absent, f"reference: {document['reference']}", calm(document["conditions"])])


def _ratio(ratio: Document | None) -> str:
    return "-" if ratio is None else f"{ratio['value']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


@command("edgebert bench edgebert-out/minilm-l3-cpu-int8 --target cpu,torch", _show)
@click.argument("artifacts", metavar="[ARTIFACT]...", nargs=-1, type=click.Path(path_type=Path))
@flags.targets(None)
@flags.bench
@flags.data()
@click.option(
    "--samples",
    type=flags.count(),
    default=400,
    help="Calls for each, more where quick; p95 needs 200.",
)
@click.option("--trust-engine", is_flag=True, help="Open engines that artifacts bring: native code.")
@flags.seed
def run(
    artifacts: tuple[Path, ...],
    target: tuple[str, ...] | None,
    threads: int | None,
    batch_size: int,
    rounds: int,
    seq_len: int | None,
    data: str | None,
    columns: dict[str, str],
    samples: int,
    trust_engine: bool,
    seed: int,
) -> Document:
    """Measure artifacts, each in its own process, interleaved in rounds, tokenization included.

    ARTIFACT may be a folder of several, such as that of a fit; without it, everything under edgebert-out.
    """
    # Of targets that are asked for by name, before an artifact is: it may be on another machine.
    _missing(target or ())
    opened = [Artifact.open(path) for path in _found(artifacts)]
    missing = _missing(dict.fromkeys(target or (artifact.manifest.target for artifact in opened)))
    wanted = [(artifact, name) for artifact in opened for name in target or (artifact.manifest.target,)]
    jobs = [(artifact, name) for artifact, name in wanted if name not in missing]
    config = BenchConfig(
        batch_size, seq_len, threads, samples=samples, rounds=rounds, seed=seed, trust_engine=trust_engine
    )
    # The largest is the reference: it is slow enough for the clock, and the same in every run.
    reference = max(range(len(jobs)), key=lambda i: (*_scale(jobs[i][0]), -i))
    found = measure(
        [Contender(a.path, name) for a, name in jobs], _texts(data, columns, artifacts, opened), config, reference
    )
    entries = []
    for (artifact, name), result in zip(jobs, found.results, strict=True):
        if isinstance(result, EdgebertError):
            raise result
        entries.append(_entry(artifact, name, result))
    return {
        "results": entries, "missing": [{"target": name, "why": str(error)} for name, error in missing.items()],
        "reference": found.conditions and found.conditions.reference,
        "conditions": conditions_facts(found.conditions), "environment": environment(),
    }  # fmt: skip


def _missing(targets: Iterable[str]) -> dict[str, EnvironmentMissing]:
    """Why this machine cannot run each of the targets that it cannot. Raises the reason where it can run none."""
    found: dict[str, EnvironmentMissing] = {}
    names = list(targets)
    for name in names:
        try:
            target_named(name).resolve()
        except EnvironmentMissing as error:
            found[name] = error
    if found and len(found) == len(names):
        raise next(iter(found.values()))
    return found


def _scale(artifact: Artifact) -> tuple[int, int]:
    return artifact.manifest.architecture.layers, artifact.manifest.bytes


def _found(paths: tuple[Path, ...]) -> list[Path]:
    """The artifacts that the arguments name: themselves, or everything below a folder of them."""
    roots = paths or (Path(flags.DEFAULT_OUT),)
    found: list[Path] = []
    for root in roots:
        if (root / MANIFEST).is_file() or not root.is_dir():
            found.append(root)
            continue
        found += artifact_folders(root, _DEPTH)
    if not found or (not paths and found == [Path(flags.DEFAULT_OUT)]):
        raise InputError("no artifacts", str(roots[0]), "make one with edgebert export --layers 3")
    if not paths:
        log.info("benchmarking %s", ", ".join(map(str, found)))
    return sorted(found)


def _texts(
    data: str | None, columns: dict[str, str], artifacts: tuple[Path, ...], opened: list[Artifact]
) -> list[Text]:
    """The texts of ``data``; those of the fit whose folder is measured; or the packaged sample."""
    if data is not None:
        return [text_of(row) for row in read(data, columns).test]
    for place in artifacts or (Path(flags.DEFAULT_OUT),):
        # A fit's folder, its artifacts/, or one of them.
        for folder in (place, *place.absolute().parents[:2]):
            if texts := Journal(folder).bench_texts():
                log.info("timing the texts that the fit in %s was measured with", folder)
                return texts
    log.info("no --data: timing edgebert's packaged text sample")
    return sample(TASKS[opened[0].manifest.task])


def _entry(artifact: Artifact, target: str, latency: Latency) -> Document:
    return {
        "artifact": str(artifact.path), "layers": artifact.manifest.architecture.layers, "target": target,
        "precision": "fp32" if target == "torch" else artifact.manifest.precision,
        "batch_size": latency.batch_size, "seq_len": latency.seq_len, "threads": latency.threads,
        "samples": latency.samples, "p50_ms": latency.p50, "p50_low": latency.p50_low, "p50_high": latency.p50_high,
        "p95_ms": latency.p95, "p95_low": latency.p95_low, "p95_high": latency.p95_high,
        "tokenize_p50_ms": latency.tokenize_p50, "texts_per_s": latency.texts_per_s,
        "cold_start_ms": latency.cold_start_ms, "memory_bytes": latency.memory_bytes,
        "device_ms": latency.device_ms, "device_bytes": latency.device_bytes,
        "ratio": latency.ratio and latency.ratio.value, "digest": artifact.digest,
        "latency": dataclasses.asdict(latency),
    }  # fmt: skip
