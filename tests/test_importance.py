"""Importance: what is measured in one pass is what cut checkpoints give one by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from commands import edgebert
from safetensors.torch import load_file, save_file

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.build import kept_layers
from edgebert.errors import InputError, UsageError
from edgebert.judging.metrics import cosine_rows
from edgebert.runtimes.reference import reference_session
from edgebert.serving.answers import pool
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.shaping.depth import TruncateConfig, layers_to_keep, most_important, truncate
from edgebert.training.data import Data, read
from edgebert.training.importance import Importance, measure_importance

LAYERS = 3
Feed = dict[str, npt.NDArray[np.int64]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("importance")


@pytest.fixture(scope="module")
def data(folder: Path) -> Data:
    return read(tiny.labelled(folder / "data", rows=18))


def model(folder: Path, family: str, task: str) -> Artifact:
    return open_checkpoint(str(tiny.checkpoint(folder / f"{family}-{task}", family, task, LAYERS, seed=3)))


def alone(source: Artifact, data: Data) -> list[Feed]:
    """Every text of train without any padding."""
    tokenizer = TextTokenizer(source)
    return [tokenizer.collate([tokens]) for tokens in tokenizer.encode([row.text for row in data.train])]


def cut(source: Artifact, keep: Sequence[int], out: Path) -> Artifact:
    return stage.run("truncate", truncate, source, TruncateConfig(tuple(keep)), out)


def answers(source: Artifact, feeds: Sequence[Feed], output: str) -> list[npt.NDArray[np.float64]]:
    session = reference_session(source)
    return [session.run(feed)[output].astype(np.float64) for feed in feeds]


def losses(logits: Sequence[npt.NDArray[np.float64]], data: Data) -> npt.NDArray[np.float64]:
    rows = np.concatenate(logits)
    right = [tiny.LABELS.index(str(row.label)) for row in data.train]
    result: npt.NDArray[np.float64] = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), right]
    return result


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_classifiers_numbers_are_those_of_cut_checkpoints(
    family: str, folder: Path, data: Data, tmp_path: Path
) -> None:
    source = model(folder, family, "text-classification")
    found = measure_importance(source, data, tuned=True)
    feeds = alone(source, data)
    labels = [tiny.LABELS.index(str(row.label)) for row in data.train]
    for depth in range(1, LAYERS + 1):
        logits = answers(cut(source, range(depth), tmp_path / f"first-{depth}"), feeds, "logits")
        hits = np.concatenate(logits).argmax(axis=1) == labels
        assert found.curve[depth - 1] == pytest.approx(hits.mean())
    whole = losses(answers(source, feeds, "logits"), data).mean()
    assert found.loss is not None
    for skipped in range(LAYERS):
        others = [layer for layer in range(LAYERS) if layer != skipped]
        without = losses(answers(cut(source, others, tmp_path / f"without-{skipped}"), feeds, "logits"), data).mean()
        assert found.loss[skipped] == pytest.approx(without - whole, abs=1e-4)
    assert (found.metric, found.texts, found.ranking) == ("accuracy", 18, found.loss)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_encoders_numbers_are_those_of_cut_checkpoints(
    family: str, folder: Path, data: Data, tmp_path: Path
) -> None:
    source = model(folder, family, "feature-extraction")
    found = measure_importance(source, data, tuned=True)
    feeds = alone(source, data)

    def vectors(checkpoint: Artifact) -> npt.NDArray[np.float32]:
        tokens = answers(checkpoint, feeds, "last_hidden_state")
        pooled = [pool(t.astype(np.float32), f["attention_mask"], "mean") for t, f in zip(tokens, feeds, strict=True)]
        return np.concatenate(pooled)

    full = vectors(source)
    for depth in range(1, LAYERS + 1):
        cosines = cosine_rows(vectors(cut(source, range(depth), tmp_path / str(depth))), full)
        assert found.curve[depth - 1] == pytest.approx(cosines.mean(), abs=1e-5)
    assert found.curve[-1] == pytest.approx(1.0)
    assert (found.metric, found.loss, found.ranking) == ("cosine", None, found.change)


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_change_is_over_real_tokens_and_padding_does_not_count(
    family: str, task: str, folder: Path, data: Data
) -> None:
    source = model(folder, family, task)
    found = measure_importance(source, data, tuned=True)
    module, cosines = load_module(source), []
    for feed in alone(source, data):
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array) for name, array in feed.items()}
            states = [state[0].numpy() for state in module(**inputs, output_hidden_states=True).hidden_states]
        cosines.append([cosine_rows(before, after) for before, after in pairwise(states)])
    for layer in range(LAYERS):
        mean = np.concatenate([of_text[layer] for of_text in cosines]).mean()
        assert found.change[layer] == pytest.approx(1 - mean, abs=1e-5)


def idle(folder: Path, layer: int) -> Artifact:
    """A checkpoint of which one layer hands on what it is given: nothing is added, and what comes in is normalized."""
    path = tiny.checkpoint(folder, task="feature-extraction", fresh=True)
    weights = load_file(path / "model.safetensors")
    for name in (f"encoder.layer.{layer}.{part}.dense.weight" for part in ("attention.output", "output")):
        weights[name] *= 0
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return open_checkpoint(str(path))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_auto_leaves_out_a_layer_that_does_nothing(layer: int, data: Data, tmp_path: Path) -> None:
    source = idle(tmp_path / "idle", layer)
    told: list[Importance] = []
    (kept,) = kept_layers(source, [LAYERS - 1], "auto", data, tell=told.append)
    assert kept == tuple(index for index in range(LAYERS) if index != layer)
    assert told[0].change[layer] == pytest.approx(0.0, abs=1e-5)
    assert min(value for index, value in enumerate(told[0].change) if index != layer) > 0.01


def test_a_fresh_head_proves_nothing(folder: Path, data: Data) -> None:
    found = measure_importance(model(folder, "bert", "text-classification"), data, tuned=False)
    assert (found.metric, found.loss) == ("cosine", None)
    assert found.curve[-1] == pytest.approx(1.0)


def test_text_without_labels_measures_change_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(tiny.texts(40)))
    source = model(folder, "bert", "text-classification")
    found = measure_importance(source, read(tmp_path / "lines.txt"), tuned=True, texts=20)
    assert (found.metric, found.loss, found.texts) == ("cosine", None, 20)


def test_measuring_again_gives_the_same_and_so_does_json(folder: Path, data: Data) -> None:
    source = model(folder, "bert", "text-classification")
    found = measure_importance(source, data, tuned=True)
    assert measure_importance(source, data, tuned=True) == found
    assert Importance.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_weights_that_are_no_numbers_are_refused(data: Data, tmp_path: Path) -> None:
    path = tiny.checkpoint(tmp_path / "broken")
    weights = load_file(path / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"] *= float("nan")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="no finite numbers"):
        measure_importance(open_checkpoint(str(path)), data, tuned=True)


def test_the_most_important_stay_in_their_order_and_ties_go_to_the_lower() -> None:
    assert most_important(2, (0.1, 0.5, 0.2, 0.4)) == (1, 3)
    assert most_important(2, (0.3, 0.1, 0.3, 0.3)) == (0, 2)
    assert layers_to_keep(3, "auto", 4, (-0.1, -0.3, 0.0, -0.2)) == (0, 2, 3)


def test_auto_without_text_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--data"):
        kept_layers(model(folder, "bert", "text-classification"), [1], "auto", None)
    with pytest.raises(UsageError, match="cannot keep 4 of 3"):
        kept_layers(model(folder, "bert", "text-classification"), [4], "auto", None)


QUICK = ("--max-steps", 1, "--max-length", 16)
COMMANDS: dict[str, tuple[object, ...]] = {
    "export": (),
    "resize": (),
    "distill": QUICK,
    "fit": (*QUICK, "--precision", "fp32", "--budget", "p50=1s", "--threads", 1, "--remeasure", 0, "--rounds", 2),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_the_importance_and_keeps_by_it(
    name: str, folder: Path, data: Data, tmp_path: Path
) -> None:
    source = model(folder, "bert", "text-classification")
    given = ("--model", source.path, "--layers", 2, "--keep", "auto", *COMMANDS[name], "-o", tmp_path / "out")
    found = measure_importance(source, data, tuned=True)
    expected = most_important(2, found.ranking)
    done = edgebert(name, *given, "--data", folder / "data", "--json")
    assert done.code == 0, done.err
    told = Importance.from_dict(done.json["importance"])
    for field in dataclasses.fields(Importance):
        ours, theirs = getattr(told, field.name), getattr(found, field.name)
        assert ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, tuple) else theirs)
    shown = done.err.index("layers on 18 texts of train")
    work = [done.err.index(word) for word in ("training 2 layers", "tracing", "measuring 2") if word in done.err]
    assert all(shown < place for place in work)
    assert work or name == "resize"
    made = tmp_path / "out" if name == "resize" else next((tmp_path / "out").rglob("*l2*/edgebert.json")).parent
    assert Artifact.open(made).manifest.kept_layers == expected
    if name != "resize":
        # What is kept in a fit's folder decides when it goes on.
        again = edgebert(name, *given, "--data", folder / "data", "--json", *(["--force"] if name == "export" else []))
        assert again.json["importance"] == done.json["importance"]


@pytest.mark.parametrize("name", ["export", "resize"])
def test_a_command_without_data_says_what_auto_needs(name: str, folder: Path, tmp_path: Path) -> None:
    source = model(folder, "bert", "text-classification")
    done = edgebert(name, "--model", source.path, "--layers", 2, "--keep", "auto", "-o", tmp_path / "out")
    assert done.code == 2
    assert "auto measures layers on text: --data:" in done.error
    assert not (tmp_path / "out").exists()
