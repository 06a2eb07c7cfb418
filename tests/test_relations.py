"""Relations between tokens: worked examples, what they must not depend on, and learning from a wider teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from commands import edgebert
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgebert import stage
from edgebert.artifact import Artifact, Pooling
from edgebert.errors import InputError
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.training.batches import Collator, tokenize
from edgebert.training.data import Data, read
from edgebert.training.objectives.relations import relation_heads, relations_loss, similarity_loss, teacher_layer
from edgebert.training.teacher import LiveTargets, forward, keep
from edgebert.training.trainer import TrainConfig, train

NARROW = tiny.Size(hidden=16, heads=2, ffn=32)
CONFIG = TrainConfig(method="relations", epochs=6.0, train_batch_size=8, lr=3e-3, max_length=16)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [(384, 768, 48), (768, 768, 48), (384, 1024, 32), (312, 768, 24), (16, 32, 2), (8, 1024, 1), (7, 32, 1)],
)
def test_both_are_cut_into_as_many_heads(student: int, teacher: int, heads: int) -> None:
    assert relation_heads(student, teacher) == relation_heads(teacher, student) == heads


def test_the_layer_that_is_compared() -> None:
    assert [teacher_layer(layers) for layers in (1, 6, 12, 24)] == [0, 5, 11, 20]


def reference(student: Tensor, teacher: Tensor, lengths: list[int], heads: int) -> float:
    """The same in loops, without padding."""
    values: list[float] = []
    for row, length in enumerate(lengths):
        for head in range(heads):
            both = []
            for vectors in (teacher, student):
                width = vectors.shape[-1] // heads
                own = vectors[row, :length, head * width : (head + 1) * width]
                both.append(torch.softmax(own @ own.T / math.sqrt(width), dim=-1))
            values += (both[0] * (both[0] / both[1]).log()).sum(dim=1).tolist()
    return sum(values) / len(values)


def test_relations_against_loops() -> None:
    lengths = [5, 2, 1]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    ours, theirs = [random(3, 5, 16, seed=i) for i in range(3)], [random(3, 5, 32, seed=9 + i) for i in range(3)]
    expected = sum(reference(s, t, lengths, 2) for s, t in zip(ours, theirs, strict=True))
    assert relations_loss(ours, theirs, mask).item() == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 4), st.integers(0, 50))
def test_padding_does_not_count(padding: int, seed: int) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    ours, theirs = random(2, 3, 16, seed=seed), random(2, 3, 16, seed=seed + 1)
    wide = [torch.cat([x, 100 * random(2, padding, 16, seed=seed + 2)], dim=1) for x in (ours, theirs)]
    wider = torch.cat([mask, torch.zeros(2, padding, dtype=torch.long)], dim=1)
    assert torch.isclose(relations_loss([ours], [theirs], mask), relations_loss([wide[0]], [wide[1]], wider), rtol=1e-4)


def test_equal_relations_cost_nothing() -> None:
    mask, vectors = torch.ones(2, 4, dtype=torch.long), random(2, 4, 16)
    assert relations_loss([vectors], [vectors], mask).item() == pytest.approx(0, abs=1e-6)
    # A rotation within the heads leaves all products what they are.
    turned = torch.linalg.qr(random(8, 8)).Q
    rotated = torch.cat([vectors[..., :8] @ turned, vectors[..., 8:] @ turned], dim=-1)
    assert relations_loss([vectors], [rotated], mask).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(TypeError, match="queries"):
        relations_loss([], [vectors], mask)


def test_similarities_by_hand() -> None:
    ours = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    theirs = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    # Cosines 1, 0, 0, 1 beside four times 1.
    assert similarity_loss(ours, theirs).item() == pytest.approx(0.5)
    assert similarity_loss(ours, 7 * ours).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_queries_keys_and_values_are_the_layers_own(family: str, tmp_path: Path) -> None:
    module = load_module(open_checkpoint(str(tiny.checkpoint(tmp_path / "m", family, layers=2))))
    inputs = {"input_ids": torch.tensor([[4, 9, 8, 7, 5]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad():
        found = forward(module, inputs, None, hidden=True, attention=1)
        names = "q_lin k_lin v_lin" if family == "distilbert" else "self.query self.key self.value"
        stack = "transformer" if family == "distilbert" else "encoder"
        for name, made in zip(names.split(), found.attention, strict=True):
            part = module.base_model.get_submodule(f"{stack}.layer.1.attention.{name}")  # type: ignore[union-attr]
            assert torch.equal(part(found.hidden[1]), made)
        assert forward(module, inputs, None, hidden=False).attention == ()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return read(tiny.labelled(tmp_path_factory.mktemp("data")))


def test_kept_relations_equal_live_ones(data: Data, tmp_path: Path) -> None:
    teacher = open_checkpoint(str(tiny.checkpoint(tmp_path / "t", layers=2)))
    collate = Collator(tokenize(teacher, data.dev, 16), None, pad_id=0, token_types=True)
    live = LiveTargets(load_module(teacher), None, (0,), bf16=False, attention=1)
    kept = keep(live, collate, range(12), tmp_path, lambda inputs: inputs)
    inputs = collate([3, 10, 7])
    expected, found = live(inputs), kept(inputs)
    assert (len(found.hidden), len(found.attention)) == (1, 3)
    mask = inputs["attention_mask"].unsqueeze(-1)
    for ours, theirs in zip(found.attention, expected.attention, strict=True):
        assert torch.allclose(ours * mask, theirs * mask, atol=1e-2)


def distance(student: Artifact, teacher: Artifact, data: Data) -> float:
    collate = Collator(tokenize(student, data.dev, 16), None, pad_id=0, token_types=True)
    inputs = collate(range(len(data.dev)))
    with torch.no_grad():
        ours, theirs = (
            forward(load_module(one), inputs, one.manifest.pooling, hidden=False, attention=layer).attention
            for one, layer in ((student, 0), (teacher, 1))
        )
    return relations_loss(ours, theirs, inputs["attention_mask"]).item()


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_narrow_student_of_another_family_learns(family: str, data: Data, tmp_path: Path) -> None:
    teacher = open_checkpoint(str(tiny.checkpoint(tmp_path / "teacher", layers=2, labels=data.labels)))
    folder = tiny.checkpoint(tmp_path / "student", family, layers=1, labels=data.labels, seed=1, size=NARROW)
    student = open_checkpoint(str(folder))
    # In one epoch, and so with one look at dev: by the labels of a random teacher an early one may be the best.
    data = replace(data, train=data.train * 6)
    build = partial(train, data=data, teacher=teacher, work=tmp_path / "work")
    made = stage.run("train", build, student, replace(CONFIG, alpha=0.0, epochs=1.0), tmp_path / "out")
    assert distance(made, teacher, data) < 0.7 * distance(student, teacher, data)
    assert made.manifest.architecture == student.manifest.architecture


def test_a_narrow_encoder_learns_similarities(data: Data, tmp_path: Path) -> None:
    pooling = Pooling("mean", normalize=True)
    task = "feature-extraction"
    teacher, student = (
        open_checkpoint(str(tiny.checkpoint(tmp_path / f"{layers}", "bert", task, layers, seed=layers, size=size)))
        for layers, size in ((2, tiny.TINY), (1, NARROW))
    )
    assert student.manifest.pooling == pooling
    found = []
    for steps in (1, 40):
        build = partial(train, data=data, teacher=teacher, work=tmp_path / f"work{steps}")
        config = replace(CONFIG, max_steps=steps)
        made = stage.run("train", build, student, config, tmp_path / f"out{steps}")
        found.append(made.manifest.checks["training"]["value"])
    assert 0 > found[1] > 0.7 * found[0]
    for method in ("hidden", "logits"):
        build = partial(train, data=data, teacher=teacher, work=tmp_path / "no")
        with pytest.raises(InputError, match=r"widths differ: 16 and 32.*--method relations"):
            stage.run("train", build, student, replace(CONFIG, method=method), tmp_path / "none")


def test_from_the_command_line(tmp_path: Path) -> None:
    labelled = tiny.labelled(tmp_path / "data")
    teacher = tiny.checkpoint(tmp_path / "teacher", layers=2)
    base = tiny.checkpoint(tmp_path / "base", "distilbert", "feature-extraction", layers=2, size=NARROW)
    flags = ["--init-from", base, "--method", "relations", "--layers", 1, "--max-steps", 2, "--max-length", 16]
    done = edgebert("distill", "--model", teacher, "--data", labelled, *flags, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (entry,) = done.json["artifacts"]
    made = Artifact.open(entry["path"]).manifest.architecture
    assert (made.family, made.layers, made.hidden) == ("distilbert", 1, 16)
