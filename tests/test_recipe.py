"""A student drops nothing, a teacher what its checkpoint says; and steps are as large as the labels are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from edgebert import build
from edgebert.errors import UsageError
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.shaping.depth import students_keep
from edgebert.training.dropout import set_dropout
from edgebert.training.plan import TrainConfig, check_settings, settled, teacher_recipe


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("task", [tiny.TASKS[0], "token-classification"])
def test_no_share_makes_training_answers_repeat(family: str, task: str, tmp_path: Path) -> None:
    module: Any = load_module(open_checkpoint(str(tiny.checkpoint(tmp_path, family, task))), for_training=True).train()
    kept = module.config.to_dict()
    inputs = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8, dtype=torch.int64)}

    def answers() -> list[torch.Tensor]:
        with torch.no_grad():
            return [module(**inputs).logits for _ in range(2)]

    first, again = answers()
    assert not torch.equal(first, again), "the tiny models drop a tenth"
    set_dropout(module, 0.0)
    first, again = answers()
    assert torch.equal(first, again)
    set_dropout(module, 0.5)
    first, again = answers()
    assert not torch.equal(first, again)
    assert module.config.to_dict() == kept


def test_who_drops_and_at_which_rate(tmp_path: Path) -> None:
    few, many = (
        tiny.checkpoint(tmp_path / "few"),
        tiny.checkpoint(tmp_path / "many", labels=[str(i) for i in range(11)]),
    )
    wide = tiny.checkpoint(tmp_path / "wide", labels=[str(i) for i in range(11)], size=tiny.Size(hidden=520, heads=4))
    encoders = [
        tiny.checkpoint(
            tmp_path / f"encoder-{hidden}", task="feature-extraction", size=tiny.Size(hidden=hidden, heads=4)
        )
        for hidden in (512, 520)
    ]
    sources = [open_checkpoint(str(place)) for place in (few, many, wide, *encoders)]

    def filled(config: TrainConfig) -> list[tuple[float | None, float | None]]:
        return [(one.lr, one.dropout) for one in (settled(config, source) for source in sources)]

    rates = [1e-4, 3e-4, 1e-4, 1e-3, 1e-4]
    assert filled(TrainConfig()) == [(rate, 0.0) for rate in rates]
    assert filled(TrainConfig(method="none")) == [(rate, None) for rate in rates]
    assert filled(TrainConfig(method="none", dropout=0.0, lr=1.0)) == [(1.0, 0.0)] * 5
    assert filled(TrainConfig(dropout=0.2, lr=2.0)) == [(2.0, 0.2)] * 5
    assert settled(settled(TrainConfig(), sources[1]), sources[0]).lr == 3e-4, "what is settled stays"
    assert filled(teacher_recipe(384, 77)) == [(2e-4, None)] * 5


def test_taggers_drop_what_their_checkpoint_says_and_keep_the_lowest_layers(tmp_path: Path) -> None:
    tagger, other = (
        open_checkpoint(str(tiny.checkpoint(tmp_path / task, task=task)))
        for task in ("token-classification", tiny.TASKS[0])
    )
    assert [settled(TrainConfig(), source).dropout for source in (tagger, other)] == [None, 0.0]
    assert settled(TrainConfig(dropout=0.0), tagger).dropout == 0.0
    assert [students_keep(None, kind) for kind in ("tags", "label", "answers")] == ["first", "alternate", "alternate"]
    assert students_keep("last", "tags") == "last"
    assert students_keep(None, "label", nested=True) == "first"
    words = [{"tokens": text.split(), "tags": ["O"] * len(text.split())} for text in tiny.texts(12, seed=1)]
    words[0]["tags"][0] = "B-X"
    data = tiny.write_parts(tmp_path / "data", words)
    (made,) = build.distill(
        str(tiny.checkpoint(tmp_path / "bare", task="feature-extraction")),
        data,
        [2],
        tmp_path / "out",
        TrainConfig(max_steps=1),
    )
    assert made.path.name == "bare-l2"
    assert made.manifest.history[-1].config["dropout"] is None


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_that_means_nothing_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="dropout is"):
        check_settings(TrainConfig(dropout=share))
