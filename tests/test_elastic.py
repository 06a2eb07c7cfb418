"""Elastic: all depths from one run, each a plain checkpoint that answers as it did there."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import edgebert
from safetensors.torch import load_file

from edgebert import build, stage
from edgebert.artifact import Artifact
from edgebert.choosing.request import FitRequest
from edgebert.choosing.workshop import Workshop
from edgebert.families import FAMILIES
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.shaping.depth import TruncateConfig, truncate
from edgebert.training.exits import Exits, balanced
from edgebert.training.objectives.base import Outputs
from edgebert.training.plan import TrainConfig
from edgebert.training.teacher import forward
from edgebert.training.trainer import share_alone

TASKS = [task for task in tiny.TASKS if task != "fill-mask"]
INPUTS = {
    "input_ids": torch.tensor([[4, 9, 8, 7, 5], [4, 20, 5, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
QUICK = TrainConfig(method="elastic", epochs=3.0, train_batch_size=8, lr=1e-3, max_length=16)


def answer(found: Outputs) -> torch.Tensor:
    made = found.logits if found.pooled is None else found.pooled
    assert made is not None
    return made


def opened(folder: Path, family: str, task: str) -> tuple[Artifact, torch.nn.Module, Exits]:
    source = open_checkpoint(str(tiny.checkpoint(folder, family, task)))
    module = load_module(source)
    return source, module, Exits(module, FAMILIES[family], source.manifest.pooling, (3, 1, 2))


@pytest.mark.parametrize(("family", "task"), [(f, t) for f in tiny.FAMILIES for t in TASKS])
def test_exits_answer_as_cut_checkpoints_do(family: str, task: str, tmp_path: Path) -> None:
    source, module, exits = opened(tmp_path / "model", family, task)
    with torch.no_grad():
        found = exits(module, INPUTS)
        for depth, one in zip((1, 2, 3), found, strict=True):
            cut = stage.run("truncate", truncate, source, TruncateConfig(tuple(range(depth))), tmp_path / str(depth))
            alone = load_module(cut)
            expected = forward(alone, INPUTS, source.manifest.pooling, hidden=False)
            assert torch.allclose(answer(one), answer(expected), atol=1e-6)
            weights = exits.weights(depth)
            assert weights.keys() == alone.state_dict().keys()
            assert all(torch.equal(tensor, weights[name]) for name, tensor in alone.state_dict().items())
    # Nothing is left of the detour.
    assert torch.equal(answer(exits(module, INPUTS)[-1]), answer(found[-1]))


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_each_depth_has_a_head_of_its_own_and_shares_its_layers(family: str, tmp_path: Path) -> None:
    _, module, exits = opened(tmp_path / "model", family, "text-classification")
    before = [exits.weights(depth) for depth in exits.depths]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    answer(exits(module, INPUTS)[0]).square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    changed = [
        {name for name, tensor in exits.weights(depth).items() if not torch.equal(tensor, old[name])}
        for depth, old in zip(exits.depths, before, strict=True)
    ]
    head = {name for name in changed[0] if "classifier" in name}
    assert head
    assert changed[0] - head == changed[1] == changed[2] or family == "bert"
    assert not any(name in changed[2] for name in head)
    assert all(".layer.0." in name or "embeddings" in name or name in head or "pooler" in name for name in changed[0])
    assert not any("pooler" in name for name in changed[2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.labelled(tmp_path_factory.mktemp("data"), rows=48)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows its task."""
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.checkpoint(folder / "model", layers=3, fresh=True)
    config = replace(QUICK, method="none", epochs=12.0, lr=3e-3)
    (made,) = build.distill(str(model), data, [3], folder / "out", config)
    assert made.manifest.checks["training"]["value"] > 0.6
    return made.path


def test_one_run_trains_every_depth(teacher: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--method", "elastic", "--layers", "1,3,2", "--epochs", 12, "--lr", 3e-3, "--max-length", 16]
    command = ("distill", "--model", teacher, "--data", data, *flags, "-o", tmp_path / "out")
    done = edgebert(*command, "--json")
    assert done.code == 0, done.err
    assert [entry["layers"] for entry in done.json["artifacts"]] == [1, 3, 2]
    assert "training 1, 2, 3 layers together" in done.err
    made = {entry["layers"]: Artifact.open(entry["path"]) for entry in done.json["artifacts"]}
    for depth, artifact in made.items():
        (artifact.path / "edgebert.json").rename(tmp_path / f"{depth}.json")
        plain = open_checkpoint(str(artifact.path))
        assert plain.manifest.architecture.layers == depth
        load_module(plain)
        (tmp_path / f"{depth}.json").rename(artifact.path / "edgebert.json")
        assert artifact.manifest.history[-1].config["exits"] == [1, 2, 3]
        assert artifact.manifest.checks["training"]["value"] > 0.5
    assert not (tmp_path / "out" / "work" / "together").exists()
    # Nothing is trained again, and what was trained otherwise is not taken for it.
    again = edgebert(*command, "--json")
    assert "training" not in again.err
    assert [entry["digest"] for entry in again.json["artifacts"]] == [
        entry["digest"] for entry in done.json["artifacts"]
    ]  # fmt: skip
    other = edgebert(*command, "--seed", 1)
    assert (other.code, "seed changed" in other.error) == (2, True)


def test_each_depth_keeps_the_weights_that_did_best(
    teacher: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgebert"):
        made = build.distill(str(teacher), data, [1, 3], tmp_path / "out", QUICK)
    lines = [line for line in caplog.messages if " layers " in line and line[0].isdigit()]
    # Most of the epochs together, then the shallow one alone; the deeper is the second column of the former.
    both, alone = [line for line in lines if ", " in line], [line for line in lines if ", " not in line]
    assert len(both) == 3
    assert [line[0] for line in alone] == ["1"]
    for artifact, column in zip(made, (0, 1), strict=True):
        values = [float(line.split(", ")[column].split()[-1]) for line in both]
        values += [float(line.split()[-1]) for line in alone[column:]]
        assert artifact.manifest.checks["training"]["value"] == pytest.approx(max(values), abs=1e-4)


class Interrupter(logging.Handler):
    def __init__(self, line: str) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self._line):
            raise KeyboardInterrupt


@pytest.mark.parametrize("line", ["epoch 2:", "training 1 layers alone"])
def test_an_interrupted_run_ends_as_one_that_was_not(line: str, teacher: Path, data: Path, tmp_path: Path) -> None:
    whole = build.distill(str(teacher), data, [1, 2], tmp_path / "whole", QUICK)
    log, handler = logging.getLogger("edgebert"), Interrupter(line)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        with pytest.raises(KeyboardInterrupt):
            build.distill(str(teacher), data, [1, 2], tmp_path / "out", QUICK)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    resumed = build.distill(str(teacher), data, [1, 2], tmp_path / "out", QUICK)
    assert [one.manifest.files for one in resumed] == [one.manifest.files for one in whole]
    assert [one.manifest.checks for one in resumed] == [one.manifest.checks for one in whole]


def test_depths_count_by_how_much_of_themselves_is_mended() -> None:
    losses = torch.tensor([8.0, 0.5, 0.0], requires_grad=True)
    found = balanced(losses)
    assert found.item() == pytest.approx(8.5 / 3)
    found.backward()  # type: ignore[no-untyped-call]
    assert losses.grad is not None
    shares = (losses.grad * (losses.detach() + 0.01).sqrt()).tolist()
    assert shares == pytest.approx([1 / 3] * 3)


def test_every_depth_but_the_deepest_trains_alone_as_long_as_the_others() -> None:
    for depths in ((1, 2), (1, 2, 3, 4, 5, 6), (2, 6, 12)):
        others = depths[:-1]
        assert len({round(depth * share_alone(depth, depths), 9) for depth in others}) == 1
        # In all as long as a fifth of the epochs of each.
        assert sum(depth * share_alone(depth, depths) for depth in others) == pytest.approx(0.2 * sum(others))


def test_a_fit_trains_all_its_depths_in_one_run(
    teacher: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = FitRequest(str(teacher), str(data), tmp_path / "fit", replace(QUICK, max_steps=4))
    workshop = Workshop(asked.for_depths((3, 1, 2), 3, "label"))
    with caplog.at_level(logging.INFO, "edgebert"):
        made = {depth: workshop.train(tuple(range(depth))) for depth in (3, 2, 1)}
    # The full depth is the teacher, which knows these labels.
    assert made[3].path == teacher
    assert caplog.messages.count("training 1, 2 layers together") == 1
    assert [made[depth].manifest.architecture.layers for depth in (1, 2)] == [1, 2]
    assert [made[depth].manifest.history[-1].config["exits"] for depth in (1, 2)] == [[1, 2]] * 2
    assert [made[depth].path.name for depth in (1, 2)] == ["l1", "l2"]


def test_every_depth_begins_with_the_teachers_head(teacher: Path, data: Path, tmp_path: Path) -> None:
    base = tiny.checkpoint(tmp_path / "base", task="feature-extraction", seed=5)
    config = replace(QUICK, max_steps=1, lr=1e-9)
    made = build.distill(str(teacher), data, [1, 3], tmp_path / "out", config, init_from=str(base))
    expected = load_file(teacher / "model.safetensors")
    heads = {name for name in expected if "pooler" in name or "classifier" in name}
    assert len(heads) == 4
    for weights in (load_file(one.path / "model.safetensors") for one in made):
        assert all(torch.allclose(weights[name], expected[name], atol=1e-6) for name in heads)
        assert not torch.equal(
            weights["bert.encoder.layer.0.output.dense.weight"], expected["bert.encoder.layer.0.output.dense.weight"]
        )


def rows_of(kind: str) -> tuple[str, list[dict[str, Any]]]:
    """A task, and data for it."""
    texts = tiny.texts(40, 5, longest=8)
    labels = [tiny.LABELS[index % 3] for index in range(40)]
    pairs = zip(texts, reversed(texts), labels, strict=True)
    kinds: dict[str, tuple[str, list[dict[str, Any]]]] = {
        "texts": ("feature-extraction", [{"text": text} for text in texts]),
        "pairs": ("text-classification", [{"text": a, "text_b": b, "label": label} for a, b, label in pairs]),
        "tags": (
            "token-classification",
            [{"tokens": t.split(), "tags": ["O"] * (len(t.split()) - 1) + ["B-thing"]} for t in texts],
        ),
        "answers": (
            "question-answering",
            [{"question": "it", "context": t, "answers": [{"text": t.split()[0], "start": 0}]} for t in texts],
        ),
    }
    return kinds[kind]


@pytest.mark.parametrize("kind", ["texts", "pairs", "tags", "answers"])
def test_other_tasks(kind: str, tmp_path: Path) -> None:
    task, rows = rows_of(kind)
    data = tiny.write_parts(tmp_path / "data", rows)
    labels = {"token-classification": ["O", "B-thing"]}.get(task)
    model = str(tiny.checkpoint(tmp_path / "model", "bert", task, labels=labels))
    made = build.distill(model, data, [1, 2, 3], tmp_path / "out", replace(QUICK, max_steps=3))
    assert [one.manifest.architecture.layers for one in made] == [1, 2, 3]
    assert [json.loads((one.path / "config.json").read_text())["num_hidden_layers"] for one in made] == [1, 2, 3]
    # Narrower and wider at once, and trained from what it came from.
    asked = build.Asked(hidden=2 * tiny.HIDDEN, ffn=tiny.FFN // 2)
    other = build.resize(model, tmp_path / "other", 2, asked=asked, data=data, rounds=1)
    config = replace(QUICK, method="relations", max_steps=3)
    (made_of_other,) = build.distill(model, data, [2], tmp_path / "more", config, init_from=str(other.path))
    shape = made_of_other.manifest.architecture
    assert (shape.layers, shape.hidden, shape.ffn) == (2, 2 * tiny.HIDDEN, tiny.FFN // 2)


def test_what_cannot_be_trained_together_is_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    flags = ["--model", teacher, "--data", data, "-o", tmp_path / "out"]
    last = edgebert("distill", *flags, "--method", "elastic", "--layers", "1,2", "--keep", "last")
    assert (last.code, "share their lower layers" in last.error) == (2, True)
    fit = edgebert("fit", *flags, "--method", "elastic", "--budget", "p50=9ms", "--layers", "3")
    assert (fit.code, "list depths below the model's own" in fit.error) == (2, True)
    fit = edgebert("fit", *flags, "--method", "elastic", "--budget", "p50=9ms", "--keep", "last")
    assert (fit.code, "share their lower layers" in fit.error) == (2, True)
    masked = tiny.checkpoint(tmp_path / "masked", task="fill-mask")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny.texts(30, 1, longest=8)) + "\n")
    flags = ["--model", masked, "--data", text, "-o", tmp_path / "out", "--layers", "1,2", "--method", "elastic"]
    done = edgebert("distill", *flags)
    assert (done.code, "table of words" in done.error) == (3, True)
