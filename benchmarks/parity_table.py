"""Every family, task, depth, target and precision against PyTorch, on 64 texts of 1 to 256 tokens.

    python benchmarks/parity_table.py [--family bert,...] [--task fill-mask,...] [--layers N] [-o FILE]

A model with random weights is exported at all its depths from one trace, as a user's is, and each graph is compared
with the checkpoint in PyTorch, with eager attention: each text alone, all in right-padded batches of eight, and one of
these padded on the left and with holes. Leaves with 4 where a cell fails.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from common import heading

from edgebert.artifact import Artifact
from edgebert.build import Exporter
from edgebert.building.schemes import schemes_of
from edgebert.errors import CheckFailed
from edgebert.families import FAMILIES
from edgebert.judging import parity
from edgebert.machine import allowed_threads
from edgebert.registry import TARGETS
from edgebert.runtimes.reference import reference_session
from edgebert.serving.rows import outputs
from edgebert.serving.tokens import Text, TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tasks import TASKS, Problem, Task

# The tests' models with random weights, and the demo's texts.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))
import demo_data
import tiny

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
# What can be built and is no choice between others, on every runtime that reads graphs.
WAYS = [
    (target.name, precision)
    for target in TARGETS.values()
    for precision in target.precisions
    if target.name != "torch" and not target.judged_on and schemes_of(target.name, precision) == (precision,)
]
# Absolute, not a share of the largest output.
MOST_ERROR = {"fp32": 1e-4}
WORDS = 2000
SIZE = tiny.Size(hidden=64, heads=4, ffn=256, max_length=320, embedding=32)


@dataclass(frozen=True)
class Model:
    """One kind of model; the table's rows are these at each precision."""

    family: str
    task: Task
    problem: Problem

    @property
    def name(self) -> str:
        """Of the task, and of the problem where a task has several."""
        return self.task.name if len(self.task.problems) == 1 else f"{self.task.name}, {self.problem.name}"


@dataclass(frozen=True)
class Cell:
    """One artifact compared."""

    model: Model
    layers: int
    target: str
    precision: str
    line: parity.Stage

    @property
    def ok(self) -> bool:
        """Exact precisions: the ledger's tolerance, labels included, and the table's own; others: error and cosine.

        Outputs of random weights lie close to each other, as those of a trained model do not: that int8 or bf16
        prefers another says nothing.
        """
        line = self.line
        if self.precision in MOST_ERROR:
            return line.ok and line.max_abs_error <= MOST_ERROR[self.precision]
        return line.max_abs_error <= line.tolerance and line.cosine >= line.min_cosine


def main() -> None:
    """Print the table, write it, and leave with 4 where a cell fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default=",".join(FAMILIES))
    parser.add_argument("--task", default=",".join(TASKS))
    parser.add_argument("--layers", type=int, default=3, help="of the deepest; it is cut at every depth")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest text")
    parser.add_argument("--jobs", type=int, default=allowed_threads(), help="models compared at the same time")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS / "parity_table.md")
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    lengths = [1 + round(i * (asked.longest - 1) / max(1, asked.texts - 1)) for i in range(asked.texts)]
    models = models_of(asked.family.split(","), asked.task.split(","))
    cells: list[Cell] = []
    context = get_context("spawn")
    cpus: SimpleQueue[int] = context.SimpleQueue()
    for cpu in itertools.islice(itertools.cycle(sorted(os.sched_getaffinity(0))), asked.jobs):
        cpus.put(cpu)
    with ProcessPoolExecutor(asked.jobs, context, _pin, (cpus,)) as pool:
        found = pool.map(_cells, models, itertools.repeat(asked.layers), itertools.repeat(lengths))
        for number, (model, compared) in enumerate(zip(models, found, strict=True), 1):
            print(f"{number} of {len(models)}: {model.family}, {model.name}", file=sys.stderr)
            cells += compared
    page = "\n".join([heading("Parity with PyTorch: families, tasks, depths, precisions"), *_page(cells, lengths)])
    print(page)
    asked.out.write_text(page + "\n", "utf-8")
    sys.exit(exit_code(cells))


def models_of(families: Sequence[str], tasks: Sequence[str]) -> list[Model]:
    """Every problem of these tasks in every one of these families."""
    pairs = itertools.product(families, tasks)
    return [Model(family, TASKS[task], problem) for family, task in pairs for problem in TASKS[task].problems]


def exit_code(cells: Sequence[Cell]) -> int:
    """0, or that of a failed check where a cell failed."""
    return 0 if all(cell.ok for cell in cells) else CheckFailed.exit_code


def _pin(cpus: SimpleQueue[int]) -> None:
    # A CPU for each process: threads of several would wait for each other.
    os.sched_setaffinity(0, {cpus.get()})


def _cells(model: Model, layers: int, lengths: Sequence[int]) -> list[Cell]:
    return list(_compared(model, layers, lengths))


def _compared(model: Model, layers: int, lengths: Sequence[int]) -> Iterator[Cell]:
    words = _words()
    known = [word for word, _ in Counter(word.strip(".,?!").lower() for word in words).most_common(WORDS) if word]
    labels = ("score",) if model.problem.data == "score" else None
    with tempfile.TemporaryDirectory() as folder:
        made = tiny.checkpoint(
            Path(folder) / "model", model.family, model.task.name, layers, labels, problem=model.problem.name,
            size=SIZE, words=known,
        )  # fmt: skip
        source = open_checkpoint(str(made), model.task.name)
        exporter = Exporter(source, texts_of(source, words, lengths), "", Path(folder))
        for depth in range(1, layers + 1):
            checkpoint = exporter.truncated(range(depth))
            run = parity.runner(reference_session(checkpoint), checkpoint)
            reference = outputs(run, exporter.feeds, model.task.compared)
            for target, precision in WAYS:
                graph = exporter.unproven(checkpoint, target, precision)
                line = parity.onnx_stage(precision, reference, graph, exporter.feeds, target)[0]
                yield Cell(model, depth, target, precision, line)


def _words() -> list[str]:
    """Running text: the packaged sample, and requests from the demo's grammar."""
    requests = demo_data.generate(seed=0, train=800, dev=0, test=0)["train"]
    return " ".join([*map(str, parity.sample()), *(row["text"] for row in requests)]).split()


def texts_of(source: Artifact, words: Sequence[str], lengths: Sequence[int]) -> list[Text]:
    """Texts of so many tokens, without the special ones; every fourth is a pair that has them together.

    Words are taken as they come; one with more tokens than are missing is left out.
    """
    tokenizer = TextTokenizer(source)

    def counts(texts: Sequence[str]) -> list[int]:
        return [len(tokens) - tokenizer.specials for tokens in tokenizer.encode(texts)]

    # Some tokenizers read the first word of a text otherwise than one that follows a blank.
    (one,), first, later = counts(["a"]), counts(words), counts([f"a {word}" for word in words])
    stream = itertools.cycle(zip(words, first, (count - one for count in later), strict=True))

    def text(length: int) -> str:
        chosen: list[str] = []
        while length:
            word, alone, within = next(stream)
            count = within if chosen else alone
            if 0 < count <= length:
                chosen.append(word)
                length -= count
        return " ".join(chosen)

    return [
        (text(length // 3), text(length - length // 3)) if number % 4 == 3 else text(length)
        for number, length in enumerate(lengths)
    ]


def _page(cells: Sequence[Cell], lengths: Sequence[int]) -> Iterator[str]:
    """A row for each family, task and precision, with the worst over its depths, and what was compared."""
    yield "| family | task | target | precision | depths | max error | min cosine | same label | failed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.model.family, cell.model.name, cell.target, cell.precision), []).append(cell)
    for key, found in rows.items():
        lines = [cell.line for cell in found]
        agreements = [line.label_agreement for line in lines if line.label_agreement is not None]
        numbers = (
            f"1 to {max(cell.layers for cell in found)}", f"{max(line.max_abs_error for line in lines):.1e}",
            f"{min(line.cosine for line in lines):.6f}", f"{min(agreements):.2%}" if agreements else "",
            ", ".join(str(cell.layers) for cell in found if not cell.ok),
        )  # fmt: skip
        yield f"| {' | '.join((*key, *numbers))} |"
    yield ""
    yield _told(cells, lengths)


def _told(cells: Sequence[Cell], lengths: Sequence[int]) -> str:
    failed = sum(not cell.ok for cell in cells)
    return (
        f"{len(cells)} cells (family × task × depth × target and precision), {failed} failed. "
        f"Numbers are the worst over the depths. Each cell is {len(lengths)} texts of {min(lengths)} to {max(lengths)} "
        "tokens, special tokens not counted, every fourth a pair of texts: each text alone, all in right-padded "
        "batches of eight, and one of "
        "these padded on the left and with holes in its masks. Errors are absolute, of all outputs of all tokens that "
        "are not padding (of masked words: at four tokens a text, of all words), against PyTorch with eager "
        "attention. "
        "fp32 may err by 1e-4 and must have every label right; a label that the reference prefers by less than the "
        "tolerance counts as right. bf16 and int8 are held to the "
        "[ledger's](../decisions/004-parity-tolerances.md) error and cosine; their labels are shown and not "
        "judged, since random weights prefer none by much. "
        f"Models have random weights, are {SIZE.hidden} wide and have {SIZE.heads} heads; texts are edgebert's "
        "packaged sample and requests from the demo's grammar."
    )


if __name__ == "__main__":
    main()
