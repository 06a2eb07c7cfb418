"""The table of families, tasks, depths and precisions: a short form of it, and what it takes for a failure."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import ROOT, environment
from tiny import Exports

from edgebert.families import FAMILIES
from edgebert.judging.parity import compare
from edgebert.serving.tokens import TextTokenizer
from edgebert.tasks import TASKS

sys.path.append(str(ROOT / "benchmarks"))
parity_table = importlib.import_module("parity_table")

TAGGER = ("camembert", "token-classification")


def test_the_table_of_one_family_and_task(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    flags = ("--family", TAGGER[0], "--task", TAGGER[1], "--layers", "2", "--texts", "9", "--longest", "40", "-o", out)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "parity_table.py", *flags],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.read_text("utf-8") == done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    ways = parity_table.WAYS
    assert {way[0] for way in ways} == {"cpu", "openvino"}
    assert [row[:5] for row in rows] == [[*TAGGER, *way, "1 to 2"] for way in ways]
    assert [row[8] for row in rows] == [""] * len(ways)
    assert 0 < float(rows[0][5]) <= 1e-4
    assert rows[0][7] == "100.00%"
    assert f"{2 * len(ways)} cells (family × task × depth × target and precision), 0 failed." in done.stdout
    assert "9 texts of 1 to 40 tokens" in done.stdout


def test_every_family_task_and_problem_is_in_it() -> None:
    models = parity_table.models_of(tuple(FAMILIES), tuple(TASKS))
    names = {(model.family, model.task.name, model.problem.name) for model in models}
    assert len(models) == len(names) == len(FAMILIES) * sum(len(task.problems) for task in TASKS.values())


@pytest.mark.parametrize("family", ["bert", "roberta", "camembert"])
def test_texts_have_the_lengths_that_are_asked_for(family: str, exports: Exports) -> None:
    source, lengths = exports.checkpoint(family, tiny.TASKS[0]), [1, 2, 7, 30, 55]
    texts = parity_table.texts_of(source, ["a", "paper", "Stone,", "x", *tiny.WORDS[:9]], lengths)
    tokenizer = TextTokenizer(source)
    (one, two) = map(len, tokenizer.encode(["a", ("a", "a")]))
    in_pairs = two - 2 * (one - tokenizer.specials)
    specials = [tokenizer.specials if isinstance(text, str) else in_pairs for text in texts]
    assert [len(tokens) - n for tokens, n in zip(tokenizer.encode(texts), specials, strict=True)] == lengths
    assert [isinstance(text, tuple) for text in texts] == [False, False, False, True, False]


def test_fp32_is_held_to_an_absolute_error() -> None:
    (model, *_) = parity_table.models_of(("bert",), ("feature-extraction",))
    reference = [np.array([9.0, 1.0], dtype=np.float32)]
    line = compare("fp32", "fp32", reference, [reference[0] + np.float32(5e-4)], None)
    # The ledger's tolerance is a share of the largest output.
    assert line.ok
    cell = parity_table.Cell(model, 1, "cpu", "fp32", line)
    assert not cell.ok
    assert parity_table.Cell(model, 1, "cpu", "fp32", replace(line, max_abs_error=9e-5)).ok
    # int8 by error and cosine alone.
    assert parity_table.Cell(model, 1, "cpu", "int8-static", replace(line, ok=False)).ok
    assert not parity_table.Cell(model, 1, "cpu", "int8-static", replace(line, max_abs_error=2 * line.tolerance)).ok
    assert not parity_table.Cell(model, 1, "cpu", "int8-static", replace(line, cosine=0.5)).ok
    assert parity_table.exit_code([cell]) == 4
