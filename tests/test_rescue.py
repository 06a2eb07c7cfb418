"""int8 that loses too much: the fewest modules that must stay in float, found by what each alone does."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.building.rescue import fewest, rescued
from edgebert.building.schemes import Loss, Trial
from edgebert.judging import parity
from edgebert.judging.verify import verify
from edgebert.registry import target_named
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tolerances import TOLERANCES, Tolerance

LAYERS, BROKEN = 1, "bert.encoder.layer.0.output.dense"


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_that_are_enough_in_few_questions(most: int, needed: int) -> None:
    asked: list[int] = []

    def enough(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert fewest(enough, most) == (needed if needed <= most else None)
    assert max(asked) <= most
    assert len(asked) <= 2 * math.ceil(math.log2(most) + 1) + 1


def test_modules_leave_in_the_order_of_what_each_does_alone(folder: Path) -> None:
    effects = {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}
    line = parity.Stage("int8", 0.0, 0.0, 1.0, None, 0.5, 0.97, None, ok=True)
    source = open_checkpoint(str(folder / "model"))

    def trial(excluded: object) -> Trial:
        assert isinstance(excluded, list)
        return Trial(" ".join(excluded), source, line, [])

    found = rescued(list(effects), effects.__getitem__, trial, lambda one: "c" in one.precision)
    assert found is not None
    assert found.trial.precision == "b d c"
    assert found.effects == {"b": 0.4, "d": 0.3, "c": 0.2}
    assert rescued(list(effects), effects.__getitem__, trial, lambda one: False) is None


@pytest.mark.parametrize(("high", "exceeds"), [(-0.6, True), (-0.4, False), (0.3, False)])
def test_only_a_loss_that_chance_does_not_explain_exceeds(high: float, exceeds: bool) -> None:
    assert Loss("accuracy", -2.0, -3.0, high).exceeds(0.5) is exceeds


@pytest.mark.parametrize(("target", "precision"), [("cpu", "int8-dynamic"), ("openvino", "int8")])
def test_the_one_module_that_int8_ruins_stays_in_float(
    target: str, precision: str, folder: Path, tmp_path: Path
) -> None:
    made = exported(folder, tmp_path / "out", precision, target)
    checks = made.manifest.checks
    assert [each["module"] for each in checks["excluded"]["modules"]] == [BROKEN]
    assert checks["integer"]["float"] == [BROKEN]
    assert checks["loss"]["high"] >= -0.5
    card = (made.path / "README.md").read_text()
    assert f"- `{BROKEN}` (alone in int8: mean error" in card
    assert f"since all of int8 {checks['excluded']['because']}:" in card
    stages, _ = verify(made.path)
    assert all(line.ok for line in stages)
    # What was left in float is said: the runtime takes no more of it than that.
    target_named(target).resolve()(made, SessionConfig(threads=1)).close()


def test_whoever_allows_the_loss_gets_all_of_int8(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The ledger would have its say as well.
    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(9.0, -1.0, 0.0, 9.0))
    made = exported(folder, tmp_path / "out", "int8-static", quant_drop=100.0)
    assert "excluded" not in made.manifest.checks
    assert made.manifest.checks["integer"]["float"] == []
    assert made.manifest.checks["loss"]["points"] < -5


def test_without_data_the_ledger_says_what_is_lost(folder: Path, tmp_path: Path) -> None:
    (made,) = build.export(str(folder / "model"), precision="int8-dynamic", out=tmp_path / "out")
    assert "loss" not in made.manifest.checks
    assert made.manifest.checks["integer"]["float"] == [BROKEN]
    assert "is allowed" in made.manifest.checks["excluded"]["because"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and data that its own answers label; one neuron is as loud as int8 is deaf, and says nothing."""
    folder = tmp_path_factory.mktemp("rescue")
    model = tiny.checkpoint(folder / "model", layers=LAYERS, labels=("no", "yes"))
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    layer = module.bert.encoder.layer[-1]
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = 2000.0
        layer.intermediate.dense.weight[0] = 0.0
        layer.output.dense.weight[:, 0] = 0.0
    module.save_pretrained(model)
    texts = tiny.texts(600, seed=3)
    tokenizer = TextTokenizer(open_checkpoint(str(model)))
    feed = {name: torch.from_numpy(array) for name, array in tokenizer.collate(tokenizer.encode(texts)).items()}
    with torch.inference_mode():
        margins = np.diff(module(**feed).logits.numpy(), axis=1)[:, 0]
    # The surest of both: what int8 does to sound modules must not matter.
    chosen = [*margins.argsort()[:60], *margins.argsort()[-60:]]
    rows = [{"text": texts[i], "label": "yes" if margins[i] > 0 else "no"} for i in chosen]
    random.Random(0).shuffle(rows)
    assert len({row["label"] for row in rows}) == 2
    data = folder / "data"
    data.mkdir()
    for part, some in (("train", rows[:20]), ("dev", rows[20:])):
        (data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def exported(folder: Path, out: Path, precision: str, target: str = "cpu", quant_drop: float = 0.5) -> Artifact:
    (made,) = build.export(
        str(folder / "model"), precision=precision, target=target, data=str(folder / "data"), out=out,
        quant_drop=quant_drop,
    )  # fmt: skip
    return made
