"""Narrowing: what is cut is what derivatives say matters least, a few units at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from commands import edgebert
from safetensors.torch import load_file, save_file

from edgebert import build, stage
from edgebert.artifact import Artifact
from edgebert.building.widths import Asked
from edgebert.errors import InputError
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.training.data import read
from edgebert.training.narrowing import NarrowConfig, Scores, narrow

HIDDEN, HEADS, FFN = tiny.HIDDEN, tiny.HEADS, tiny.FFN
HEAD = HIDDEN // HEADS
BATCH = {
    "input_ids": torch.tensor([[2, 9, 8, 7, 3], [2, 20, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.labelled(tmp_path_factory.mktemp("data"), rows=24)


def planted(folder: Path, useless: dict[str, tuple[int, list[int]]]) -> Artifact:
    """A classifier of two layers with zeros at some indices of an axis of some weights."""
    tiny.checkpoint(folder, layers=2)
    tensors = load_file(folder / "model.safetensors")
    for name, (axis, indices) in useless.items():
        tensors[name].index_fill_(axis, torch.tensor(indices), 0.0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(str(folder))


def logits(checkpoint: Artifact) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_module(checkpoint)(**BATCH).logits
    return found


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_scores_are_derivatives_by_masks(family: str, tmp_path: Path) -> None:
    """Against masks that really are there: one for each head's and each neuron's output, one after each LayerNorm."""
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model", family, layers=2)))
    scores = Scores(source)
    scores.add(scores.module(**BATCH).logits.square().sum())

    module = load_module(source, for_training=True)
    masks: dict[str, torch.Tensor] = {}

    def masked(name: str, size: int, repeat: int, *, after: bool) -> None:
        mask = masks[name] = torch.ones(size, requires_grad=True)
        part = module.get_submodule(name)
        if after:
            part.register_forward_hook(lambda _, __, found: found * mask.repeat_interleave(repeat))
        else:
            part.register_forward_pre_hook(lambda _, found: (found[0] * mask.repeat_interleave(repeat),))

    attention, last, norms = {
        "bert": ("attention.output.dense", "output.dense", ("attention.output.LayerNorm", "output.LayerNorm")),
        "roberta": ("attention.output.dense", "output.dense", ("attention.output.LayerNorm", "output.LayerNorm")),
        "distilbert": ("attention.out_lin", "ffn.lin2", ("sa_layer_norm", "output_layer_norm")),
    }[family]
    layers = [f"{family}.{'transformer' if family == 'distilbert' else 'encoder'}.layer.{k}." for k in (0, 1)]
    for layer in layers:
        masked(layer + attention, HEADS, HEAD, after=False)
        masked(layer + last, FFN, 1, after=False)
    norm_names = [f"{family}.embeddings.LayerNorm", *(layer + norm for layer in layers for norm in norms)]
    for name in norm_names:
        masked(name, HIDDEN, 1, after=True)
    module(**BATCH).logits.square().sum().backward()
    gradients = {name: mask.grad.double().abs() for name, mask in masks.items() if mask.grad is not None}
    for number, layer in enumerate(layers):
        assert torch.allclose(scores.of["heads", number], gradients[layer + attention], rtol=1e-3, atol=1e-4)
        # The other half of a neuron's score is the derivative by a mask on what goes into its activation.
        assert (scores.of["ffn", number] >= gradients[layer + last] - 1e-4).all()
    hidden = torch.stack([gradients[name] for name in norm_names]).sum(dim=0)
    assert torch.allclose(scores.of["hidden", 0], hidden, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_neurons_that_do_nothing_go_first(rounds: int, data: Path, tmp_path: Path) -> None:
    idle = list(range(0, FFN, 2))
    names = [f"bert.encoder.layer.{layer}.output.dense.weight" for layer in (0, 1)]
    source = planted(tmp_path / "model", dict.fromkeys(names, (1, idle)))
    made = build.resize(str(source.path), tmp_path / "out", asked=Asked(ffn=FFN // 2), data=data, rounds=rounds)
    assert (logits(made) - logits(source)).abs().max() < 1e-5
    assert [step.config["ffn"] for step in made.manifest.history] == ([32] if rounds == 1 else [54, 43, 32])
    found = made.manifest.checks["width"]
    assert found["exact"] is False
    assert found["max_abs_error"] < 1e-5


def test_heads_that_do_nothing_go_with_hidden_states_that_do_nothing(data: Path, tmp_path: Path) -> None:
    norms = ["embeddings.LayerNorm"]
    norms += [
        f"encoder.layer.{k}.{name}" for k in (0, 1) for name in ("attention.output.LayerNorm", "output.LayerNorm")
    ]
    idle = [1, 5, 6, 12, 20, 21, 30, 31]
    useless = {f"bert.{name}.{kind}": (0, idle) for name in norms for kind in ("weight", "bias")}
    columns = {0: 2, 1: 0}
    for layer, head in columns.items():
        name = f"bert.encoder.layer.{layer}.attention.output.dense.weight"
        useless[name] = (1, list(range(head * HEAD, (head + 1) * HEAD)))
    source = planted(tmp_path / "model", useless)
    config = NarrowConfig(HIDDEN - HEAD, HEADS - 1, FFN, read(data).digest)
    made = stage.run("narrow", partial(narrow, data=read(data)), source, config, tmp_path / "out")
    before, after = (load_file(place.path / "model.safetensors") for place in (source, made))
    kept = [index for index in range(HIDDEN) if index not in idle]
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(after[table], before[table][:, kept])
    for layer, head in columns.items():
        query = f"bert.encoder.layer.{layer}.attention.self.query.bias"
        rows = [index for index in range(HIDDEN) if index // HEAD != head]
        assert torch.equal(after[query], before[query][rows])
    assert (made.manifest.architecture.hidden, made.manifest.architecture.heads) == (24, 3)


@pytest.mark.parametrize(
    ("family", "task"), [*((f, tiny.TASKS[0]) for f in tiny.FAMILIES), *(("bert", t) for t in tiny.TASKS)]
)
def test_every_family_and_task_can_be_narrowed(family: str, task: str, data: Path, tmp_path: Path) -> None:
    """Where data has no labels for the task, answers' sensitivity stands for the loss."""
    source = tiny.checkpoint(tmp_path / "model", family, task, layers=2)
    asked = Asked(hidden=24, ffn=40)
    made = build.resize(str(source), tmp_path / "out", asked=asked, data=data, rounds=2)
    (made.path / "edgebert.json").unlink()
    shape = open_checkpoint(str(made.path)).manifest.architecture
    assert (shape.hidden, shape.heads, shape.ffn) == (24, 3, 40)
    load_module(open_checkpoint(str(made.path)))
    assert made.manifest.checks["width"]["max_abs_error"] > 0


def test_labels_matter(data: Path, tmp_path: Path) -> None:
    """The loss is the task's where the data has its labels, and another measure where it has not."""
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model", layers=2)))
    rows = read(data)
    bare = replace(rows, kind="none", labels=(), train=tuple(replace(row, label=None) for row in rows.train))
    config = NarrowConfig(HIDDEN, HEADS, 20, rows.digest)
    made = [
        stage.run("narrow", partial(narrow, data=part), source, config, tmp_path / name).manifest.files
        for name, part in (("with", rows), ("again", rows), ("without", bare))
    ]
    assert made[0] == made[1] != made[2]


def test_narrower_and_wider_at_once(data: Path, tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", layers=2)
    flags = ["--hidden", 64, "--ffn", 32, "--data", data, "--rounds", 2, "--layers", 1]
    done = edgebert("resize", "--model", model, *flags, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    made = Artifact.open(tmp_path / "out")
    assert [step.stage for step in made.manifest.history] == ["truncate", "narrow", "narrow", "widen"]
    assert made.manifest.checks["width"]["from"] == {"hidden": HIDDEN, "heads": HEADS, "ffn": FFN}
    assert json.loads((made.path / "config.json").read_text())["hidden_size"] == 64


def test_weights_that_are_no_numbers_are_refused(data: Path, tmp_path: Path) -> None:
    source = planted(tmp_path / "model", {})
    tensors = load_file(source.path / "model.safetensors")
    tensors["classifier.weight"].fill_(float("nan"))
    save_file(tensors, source.path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="no finite numbers"):
        build.resize(str(source.path), tmp_path / "out", asked=Asked(ffn=8), data=data)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
