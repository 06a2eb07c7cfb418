"""Width: wider checkpoints answer as before, narrower ones lose what matters least, and other shapes are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from commands import edgebert
from safetensors.torch import load_file, save_file

from edgebert import build, stage
from edgebert.artifact import Architecture, Artifact
from edgebert.building.widths import Asked, fresh_shape, shape_for
from edgebert.errors import InputError, UsageError
from edgebert.runtimes.reference import reference_session
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import load_module, open_checkpoint, shape_of
from edgebert.shaping.sizes import parameters
from edgebert.shaping.width import WidenConfig, widen
from edgebert.tasks import TASKS
from edgebert.training.data import read

EVERY = [(family, task) for family in tiny.FAMILIES for task in tiny.TASKS]
HIDDEN, HEADS, FFN = tiny.HIDDEN, tiny.HEADS, tiny.FFN
TEXTS = ["a fine film", "the story", "dull", "this music is loud and the ending strange"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Artifact]:
    folder = tmp_path_factory.mktemp("models")
    return {
        (family, task): open_checkpoint(str(tiny.checkpoint(folder / f"{family}-{task}", family, task, layers=2)))
        for family, task in EVERY
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.labelled(tmp_path_factory.mktemp("data"), rows=24)


def answers(checkpoint: Artifact) -> torch.Tensor:
    """All outputs on a padded batch, side by side on the last axis; padding left out."""
    tokenizer = TextTokenizer(checkpoint)
    feed = tokenizer.collate(tokenizer.encode(TEXTS))
    found = torch.from_numpy(TASKS[checkpoint.manifest.task].joined(reference_session(checkpoint).run(feed)))
    return found if found.ndim == 2 else found[torch.from_numpy(feed["attention_mask"]).bool()]


def plain(checkpoint: Artifact) -> Artifact:
    """The same folder without edgebert's manifest: all that any other program sees."""
    (checkpoint.path / "edgebert.json").unlink()
    return open_checkpoint(str(checkpoint.path))


@pytest.mark.parametrize(("family", "task"), EVERY)
@pytest.mark.parametrize("times", [(2, 1), (3, 1.5), (1, 1.5)])
def test_wider_answers_as_before(
    family: str, task: str, times: tuple[int, float], models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models[family, task]
    hidden, ffn = HIDDEN * times[0], round(FFN * times[1])
    config = WidenConfig(hidden, HEADS * times[0], ffn)
    made = plain(stage.run("widen", widen, source, config, tmp_path / "wide"))
    shape = made.manifest.architecture
    assert (shape.hidden, shape.heads, shape.ffn) == (hidden, HEADS * times[0], ffn)
    before, after = answers(source), answers(made)
    if task == "feature-extraction":
        before = before.repeat(1, times[0])
    # Of the largest, as in the ledger: logits of words are more than 4 in these models.
    assert (after - before).abs().max() < 1e-5 * max(1.0, float(before.abs().max()))
    assert before.std() > 0.01


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_wide_electra_keeps_its_tables(family: str, models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    made = stage.run("widen", widen, models[family, "fill-mask"], WidenConfig(64, 8, 64), tmp_path / "wide")
    config = json.loads((made.path / "config.json").read_text())
    table = load_file(made.path / "model.safetensors")[f"{family}.embeddings.word_embeddings.weight"]
    assert table.shape[1] == config.get("embedding_size", 64) == (16 if family == "electra" else 64)


def test_an_electra_whose_tables_are_as_wide_as_its_states_stays_so(tmp_path: Path) -> None:
    size = tiny.Size(embedding=HIDDEN)
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "e", "electra", "fill-mask", layers=2, size=size)))
    made = plain(stage.run("widen", widen, source, WidenConfig(64, 8, 64), tmp_path / "wide"))
    assert json.loads((made.path / "config.json").read_text())["embedding_size"] == 64
    assert (answers(made) - answers(source)).abs().max() < 1e-5


def test_pooled_vectors_are_as_wide_as_is_said(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    made = stage.run("widen", widen, models["bert", "feature-extraction"], WidenConfig(64, 8, 64), tmp_path / "wide")
    assert json.loads((made.path / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"] == 64


def test_names_of_old_checkpoints_are_read(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    source = models["bert", "text-classification"]
    old = tiny.checkpoint(tmp_path / "old", layers=2)
    for file in source.path.iterdir():
        if file.is_file():
            (old / file.name).write_bytes(file.read_bytes())
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(old / "model.safetensors")
    for new, former in renamed.items():
        tensors = {name.replace(new, former): tensor for name, tensor in tensors.items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    made = stage.run("widen", widen, open_checkpoint(str(old)), WidenConfig(64, 8, 96), tmp_path / "wide")
    assert (answers(made) - answers(source)).abs().max() < 1e-5


def test_weights_that_nobody_knows_are_refused(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "odd", layers=1)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "adapter.down.weight": torch.zeros(8, 32)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"unknown weights adapter\.down\.weight"):
        stage.run("widen", widen, open_checkpoint(str(folder)), WidenConfig(64, 8, 64), tmp_path / "wide")


def test_copies_go_their_own_ways_in_training(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    """Adam divides by the gradient's size: copies would stay copies if their gradients differed by a factor alone."""
    made = stage.run("widen", widen, models["bert", "text-classification"], WidenConfig(64, 8, 96), tmp_path / "wide")
    module = load_module(made)
    layer = module.get_submodule("bert.encoder.layer.0")
    neurons, queries = (layer.get_submodule(name) for name in ("intermediate.dense", "attention.self.query"))
    for part, unit, copy in ((neurons, 3, 3 + FFN), (queries, 3, 3 + HIDDEN)):
        assert torch.equal(part.bias[unit], part.bias[copy])  # type: ignore[index]
    module(input_ids=torch.tensor([[2, 9, 8, 7, 3]]), labels=torch.tensor([1])).loss.backward()
    for part, unit, copy in ((neurons, 3, 3 + FFN), (queries, 3, 3 + HIDDEN)):
        gradient = part.weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert torch.cosine_similarity(gradient[unit], gradient[copy], dim=0) < 0.999


def test_the_same_seed_makes_the_same_checkpoint(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    source = models["bert", "text-classification"]
    files = [
        stage.run("widen", widen, source, WidenConfig(64, 8, 96, seed), tmp_path / str(number)).manifest.files
        for number, seed in enumerate((5, 5, 6))
    ]
    assert files[0] == files[1] != files[2]


def test_between_whole_numbers_what_changed_is_told(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", layers=2)
    done = edgebert("resize", "--model", model, "--hidden", 48, "-o", tmp_path / "wide", "--json")
    (entry,) = done.json["artifacts"]
    assert (entry["hidden"], entry["heads"], entry["ffn"]) == (48, 6, FFN)
    found = entry["checks"]["width"]
    assert found["exact"] is False
    assert found["max_abs_error"] > 1e-3
    assert found["cosine"] < 1
    assert found["from"] == {"hidden": HIDDEN, "heads": HEADS, "ffn": FFN}
    exact = edgebert("resize", "--model", model, "--hidden", 64, "--ffn", 100, "--layers", 1, "-o", tmp_path / "x")
    assert "width: exact; answers on edgebert's packaged text sample differ by" in exact.err
    assert "1 layers of 64 with 8 heads and ffn 100" in exact.err
    made = Artifact.open(tmp_path / "x")
    assert [step.stage for step in made.manifest.history] == ["truncate", "widen"]
    assert made.manifest.checks["width"]["max_abs_error"] < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "wide", "x"]


def test_similarities_stand_for_vectors_of_another_width(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", "bert", "feature-extraction", layers=1)
    made = build.resize(str(model), tmp_path / "wide", asked=Asked(hidden=96))
    assert made.manifest.checks["width"]["compared"] == "similarities"
    assert made.manifest.checks["width"]["label_agreement"] is None
    assert made.manifest.checks["width"]["max_abs_error"] < 1e-5


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(hidden=64), (64, 8, 64)),
        (Asked(heads=6), (48, 6, 64)),
        (Asked(hidden=16, heads=2), (16, 2, 64)),
        (Asked(ffn=7), (32, 4, 7)),
    ],
)
def test_shapes_that_weights_can_be_given(
    asked: Asked, expected: tuple[int, int, int], models: dict[tuple[str, str], Artifact], data: Path
) -> None:
    shape = shape_for(models["bert", "text-classification"].manifest.architecture, asked, read(data))
    assert (shape.hidden, shape.heads, shape.ffn) == expected


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--hidden", 36], "--hidden: 32 or 40"),
        (["--hidden", 3], "--hidden: 8"),
        (["--heads", 8, "--hidden", 32], "--heads 4 with --hidden 32"),
        (["--ffn", 32], "--data: give text"),
        (["--heads", 3], "--data: give text"),
        ([], "give --layers, a width"),
        (["--init", "scratch", "--heads", 5], "give both"),
        (["--init", "scratch", "--layers", 0], "a number from 1 up"),
        (["--layers", 0], "a number from 1 to 2"),
        (["--hidden", 0], "--hidden"),
        (["--ffn", 64, "--init", "magic"], "--init"),
    ],
)
def test_other_shapes_are_refused_with_what_is_possible(
    flags: list[object], says: str, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    done = edgebert("resize", "--model", models["bert", "text-classification"].path, *flags, "-o", tmp_path / "out")
    assert done.code == 2
    assert says in done.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_fresh_model_of_any_shape(family: str, models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    source = models[family, "text-classification"]
    flags = ["--layers", 4, "--hidden", 48, "--heads", 3, "--ffn", 50, "--init", "scratch", "--seed", 3]
    assert edgebert("resize", "--model", source.path, *flags, "-o", tmp_path / "new").code == 0
    assert edgebert("resize", "--model", source.path, *flags, "-o", tmp_path / "again").code == 0
    made, again = (Artifact.open(tmp_path / name) for name in ("new", "again"))
    assert made.manifest.files == again.manifest.files
    shape = made.manifest.architecture
    assert (shape.layers, shape.hidden, shape.heads, shape.ffn) == (4, 48, 3, 50)
    assert made.manifest.kept_layers == (0, 1, 2, 3)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(made.path)
    assert sum(p.numel() for p in loaded.parameters()) == parameters(shape_of(made))
    assert loaded.config.id2label == dict(enumerate(tiny.LABELS))
    assert answers(plain(made)).std() > 0


def test_a_fresh_shape_keeps_the_heads_width() -> None:
    shape = Architecture("bert", 2, HIDDEN, HEADS, FFN, 100)
    assert fresh_shape(shape, Asked(hidden=64), 9).heads == 8
    assert fresh_shape(shape, Asked(ffn=5), None) == replace(shape, ffn=5)
    with pytest.raises(UsageError, match="no multiple"):
        fresh_shape(shape, Asked(hidden=31), None)
