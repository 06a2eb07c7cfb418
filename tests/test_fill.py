"""Masked words: which are hidden, what is guessed for them, and how a shallower model learns to guess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Exports

from edgebert import build
from edgebert.errors import ItemError, UsageError
from edgebert.judging.evaluate import evaluate
from edgebert.judging.metrics import masked_accuracy
from edgebert.judging.verify import verify
from edgebert.masking import hidden_tokens
from edgebert.serving.blanks import likeliest
from edgebert.serving.model import Model, load
from edgebert.shaping.checkpoint import load_module, open_checkpoint, shape_of
from edgebert.shaping.sizes import weight_bytes
from edgebert.training.data import Row
from edgebert.training.plan import TrainConfig

pytestmark = pytest.mark.usefixtures("one_trace")

TASK = "fill-mask"


@pytest.fixture(scope="module")
def filler(exports: Exports) -> Model:
    return load(exports.artifact("bert", TASK).path, threads=1)


@given(st.integers(0, 60), st.integers(0, 3), st.text(max_size=5))
def test_about_fifteen_percent_are_hidden(real: int, special: int, text: str) -> None:
    places = [(0, 0)] * special + [(i, i + 1) for i in range(real)]
    hidden = hidden_tokens(text, places)
    assert hidden == hidden_tokens(text, places) == sorted(set(hidden))
    assert len(hidden) == (max(1, round(0.15 * real)) if real else 0)
    assert all(special <= token < special + real for token in hidden)


def test_the_likeliest_by_hand() -> None:
    logits = np.log(np.array([1, 4, 2, 4, 1], dtype=np.float32))
    found = likeliest(logits, 3)
    assert [token for token, _ in found] == [1, 3, 2]
    assert [score for _, score in found] == pytest.approx([1 / 3, 1 / 3, 1 / 6])
    assert len(likeliest(logits, 99)) == 5


@pytest.mark.parametrize("family", ["bert", "roberta", "camembert"])
def test_guesses_are_pytorchs(family: str, exports: Exports) -> None:
    source = exports.checkpoint(family, TASK)
    tokenizer = tiny.tokenizer_of(family)
    mask = "[MASK]" if family == "bert" else "<mask>"
    text = f"the {mask} film is {mask} and quick"
    encoding = tokenizer.encode(text)
    with torch.inference_mode():
        rows = load_module(source)(input_ids=torch.tensor([encoding.ids])).logits[0].softmax(-1)
    with load(exports.artifact(family, TASK).path, threads=1) as model:
        (blanks,) = model.fill([text], top_k=3)
    assert [text[blank.start : blank.end] for blank in blanks] == [mask, mask]
    for blank, place in zip(blanks, np.flatnonzero(np.array(encoding.tokens) == mask), strict=True):
        top = rows[int(place)].topk(3)
        assert [guess.score for guess in blank.guesses] == pytest.approx(top.values.tolist(), abs=1e-5)
        assert [guess.token for guess in blank.guesses] == [tokenizer.decode([i]).strip() for i in top.indices.tolist()]


def test_what_has_no_blank_is_named(filler: Model) -> None:
    with pytest.raises(ItemError, match=r"nothing to fill in.*item 1: write \[MASK\]"):
        filler.fill(["a [MASK]", "a <mask>"])
    with pytest.raises(ItemError, match="item 0"):
        filler.fill(["a " * 200 + "[MASK]"])
    with pytest.raises(UsageError, match="top_k"):
        filler.fill(["[MASK]"], top_k=0)
    assert filler.fill([]) == []


def test_the_share_of_guesses_by_hand() -> None:
    metric = masked_accuracy([(1, 2), (0, 1), (2, 2), (0, 0)]).metric_value()
    assert (metric.name, metric.value) == ("masked_accuracy", 3 / 5)
    assert masked_accuracy([(0, 0)]).metric_value().value == 0.0


def test_the_ledger_looks_at_a_few_tokens_of_each_text(exports: Exports, tmp_path: Path) -> None:
    made = build.export(str(exports.checkpoint("bert", TASK).path), precision="int8", out=tmp_path)[0]
    vocab = made.manifest.architecture.vocab
    # The table of words stands in the graph twice.
    weights = weight_bytes(shape_of(exports.checkpoint("bert", TASK)))
    graph = exports.artifact("bert", TASK).manifest.files["model.onnx"].bytes
    assert weights["fp32"] < graph < weights["fp32"] + 60_000
    with np.load(made.path / "golden.npz") as golden:
        sizes = {golden[name].size for name in golden if name.endswith(".output")}
    assert max(sizes) == 4 * vocab
    assert verify(made.path)[0][0].ok


def test_the_metric_hides_the_same_tokens_every_time(filler: Model) -> None:
    rows = [Row(text) for text in tiny.texts(20, seed=9)] + [Row("[MASK] a film")]
    scores = evaluate(filler, rows)
    assert scores.metric == "masked_accuracy"
    np.testing.assert_array_equal(scores.rows, evaluate(filler, rows).rows)
    assert (scores.rows[:, 1] >= 1).all()


def test_a_sentence_encoder_with_a_masked_head_is_an_encoder(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for architecture in ("BertForMaskedLM", "BertForPreTraining"):
        (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}), "utf-8")
        assert open_checkpoint(str(folder)).manifest.task == "feature-extraction"
    (folder / "modules.json").unlink()
    assert open_checkpoint(str(folder)).manifest.task == "feature-extraction"


def test_a_shallower_model_learns_to_guess(tmp_path: Path) -> None:
    # Every text is one word, over and over: what is hidden stands beside.
    rows = [{"text": " ".join([tiny.WORDS[i % 8]] * (4 + i % 5))} for i in range(64)]
    data = tiny.write_parts(tmp_path / "data", rows)
    source = tiny.checkpoint(tmp_path / "tiny", task=TASK, layers=2, fresh=True)
    quick = TrainConfig(method="none", epochs=12.0, train_batch_size=8, lr=5e-3, max_length=16)
    (teacher,) = build.distill(str(source), data, [2], tmp_path / "teacher", quick)
    assert teacher.manifest.checks["training"]["metric"] == "masked_accuracy"
    assert teacher.manifest.checks["training"]["value"] > 0.9
    config = TrainConfig(method="logits", epochs=12.0, train_batch_size=8, lr=5e-3, alpha=0.0, max_length=16)
    (student,) = build.distill(str(teacher.path), data, [1], tmp_path / "student", config)
    made = build.export(str(student.path), data=data, out=tmp_path / "out")[0]
    metric = verify(made.path, data=data)[1]
    assert metric is not None
    assert metric.value == pytest.approx(student.manifest.checks["training"]["value"], abs=0.01)
    assert metric.value > 0.8
