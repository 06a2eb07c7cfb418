"""Depth: the layers that stay are the right ones, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.building.references import References
from edgebert.errors import InputError, UsageError
from edgebert.families import FAMILIES
from edgebert.runtimes.reference import FirstLayers, hidden_after, reference_session
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.shaping.depth import STRATEGIES, TruncateConfig, layers_to_keep, only_layers, truncate

DEPTH = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Artifact]:
    folder = tmp_path_factory.mktemp("models")
    return {
        (family, task): open_checkpoint(str(tiny.checkpoint(folder / f"{family}-{task}", family, task, DEPTH)))
        for family in tiny.FAMILIES
        for task in tiny.TASKS
    }


def cut(source: Artifact, keep: tuple[int, ...], out: Path) -> Artifact:
    return stage.run("truncate", truncate, source, TruncateConfig(keep), out)


def batch(source: Artifact) -> dict[str, torch.Tensor]:
    """Three rows of 1, 9 and 33 tokens, padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, source.manifest.architecture.vocab, (3, 33), generator=generator)
    mask = (torch.arange(33) < torch.tensor([[1], [9], [33]])).long()
    return {"input_ids": ids, "attention_mask": mask}


def hidden_states(source: Artifact) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        states: tuple[torch.Tensor, ...] = load_module(source)(**batch(source), output_hidden_states=True).hidden_states
    return states


@pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
def test_the_last_hidden_state_is_the_full_models_own(
    family: str, task: str, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models[family, task]
    full = hidden_states(source)
    assert all(not torch.equal(full[k], full[k + 1]) for k in range(DEPTH))
    for k in range(1, DEPTH + 1):
        kept = cut(source, tuple(range(k)), tmp_path / str(k))
        states = hidden_states(kept)
        assert len(states) == k + 1
        assert torch.equal(states[-1], full[k])
        assert kept.manifest.architecture.layers == k
        # Any program that reads Hugging Face folders sees the same.
        (kept.path / "edgebert.json").unlink()
        plain = open_checkpoint(str(kept.path))
        assert plain.manifest.architecture == kept.manifest.architecture
        assert torch.equal(hidden_states(plain)[-1], full[k])


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("keep", [(0, 2), (3,), (3, 1, 0), (0, 1, 2, 3)])
def test_each_layer_moves_whole(
    keep: tuple[int, ...], family: str, task: str, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models[family, task]
    made = cut(source, keep, tmp_path / "made")
    assert made.manifest.kept_layers == keep
    before, after = load_file(source.path / "model.safetensors"), load_file(made.path / "model.safetensors")
    prefix = (FAMILIES[family].base_prefix if task != "feature-extraction" else "") + FAMILIES[family].layer_prefix
    origin = {f"{prefix}{new}.": f"{prefix}{old}." for new, old in enumerate(keep)}
    expected = {name: tensor for name, tensor in before.items() if not name.startswith(prefix)}
    for new, old in origin.items():
        expected |= {new + name.removeprefix(old): before[name] for name in before if name.startswith(old)}
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert json.loads((made.path / "config.json").read_text())[FAMILIES[family].layers_key] == len(keep)
    assert made.has("tokenizer.json")
    assert made.has("modules.json") == (task == "feature-extraction")
    load_module(made)


@pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
@pytest.mark.parametrize("keep", [(0, 1), (0, 2), (3,), (1, 3), (3, 1, 0)])
def test_gaps_compute_what_the_full_model_computes_without_the_others(
    keep: tuple[int, ...], family: str, task: str, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models[family, task]
    feed = {name: tensor.numpy() for name, tensor in batch(source).items()}
    made = cut(source, keep, tmp_path / "made")
    expected = hidden_after(source, keep, feed)
    assert np.array_equal(hidden_after(made, range(len(keep)), feed), expected)
    others = [layers for layers in ((0, 1, 2, 3), keep[::-1], keep[:-1], keep[1:]) if layers not in (keep, ())]
    assert not any(np.array_equal(hidden_after(source, layers, feed), expected) for layers in others)


@pytest.mark.parametrize(("family", "task"), tiny.PAIRS)
def test_one_pass_answers_as_every_depth_does(
    family: str, task: str, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models[family, task]
    feed = {name: tensor.numpy() for name, tensor in batch(source).items()}
    found = FirstLayers(source, [1, 3, 4]).run(feed)
    for depth, answer in found.items():
        expected = reference_session(cut(source, tuple(range(depth)), tmp_path / f"{depth}")).run(feed)
        assert answer.keys() == expected.keys()
        assert all(np.array_equal(answer[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("layers", "together"), [((1, 2, 4), True), ((1, 2), False), ((4,), False)])
def test_references_are_the_same_whichever_way_is_shorter(
    layers: tuple[int, ...], together: bool, models: dict[tuple[str, str], Artifact], tmp_path: Path
) -> None:
    source = models["bert", "text-classification"]
    feed = {name: tensor.numpy() for name, tensor in batch(source).items()}
    references = References(source, [feed], layers)
    checkpoints = {str(depth): cut(source, tuple(range(depth)), tmp_path / f"{depth}") for depth in layers if depth < 4}
    others = {"all": source, "last": cut(source, (3,), tmp_path / "last")}
    for checkpoint in (checkpoints | others).values():
        expected = list(reference_session(checkpoint).run(feed)["logits"])
        found = references.of(checkpoint)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        assert references.of(checkpoint) is found
    assert ("_by_depth" in vars(references)) == together
    for keep in (range(1), range(3), (1, 3)):
        assert np.array_equal(references.hidden(keep), hidden_after(source, keep, feed))


def test_a_model_has_all_its_layers_again_after_some_ran_alone(models: dict[tuple[str, str], Artifact]) -> None:
    source = models["bert", "text-classification"]
    module = load_module(source)
    before = list(module.state_dict())
    with only_layers(module, FAMILIES["bert"], (2,)):
        assert len(list(module.state_dict())) < len(before)
    assert list(module.state_dict()) == before


def test_ten_and_more_layers_are_not_mixed_up(tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "deep", layers=12)))
    made = cut(source, (1, 10, 11), tmp_path / "made")
    before, after = load_file(source.path / "model.safetensors"), load_file(made.path / "model.safetensors")
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    assert all(torch.equal(after[name.format(new)], before[name.format(old)]) for new, old in enumerate((1, 10, 11)))


def test_cutting_twice_remembers_the_first_numbers(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    source = models["bert", "text-classification"]
    once = cut(source, (0, 2, 3), tmp_path / "once")
    twice = cut(once, (0, 2), tmp_path / "twice")
    assert twice.manifest.kept_layers == (0, 3)
    direct = cut(source, (0, 3), tmp_path / "direct")
    assert twice.manifest.files == direct.manifest.files


def test_a_checkpoint_without_the_layer_is_refused(models: dict[tuple[str, str], Artifact], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights for layer 4"):
        cut(models["bert", "text-classification"], (0, 4, 5), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"unreadable weights.*model\.safetensors"):
        cut(open_checkpoint(str(folder)), (0,), tmp_path / "made")


@pytest.mark.parametrize(
    ("layers", "keep", "expected"),
    [
        (1, "first", (0,)),
        (3, "first", (0, 1, 2)),
        (6, "first", (0, 1, 2, 3, 4, 5)),
        (3, "0,2,4", (0, 2, 4)),
        (2, "5, 0", (5, 0)),
        (1, "5", (5,)),
        (2, "last", (4, 5)),
        (3, "alternate", (0, 2, 4)),
        (4, "alternate", (0, 1, 3, 4)),
        (1, "alternate", (0,)),
        (4, "symmetric", (0, 1, 4, 5)),
        (3, "symmetric", (0, 1, 5)),
        (1, "symmetric", (0,)),
    ],
)
def test_layers_to_keep(layers: int, keep: str, expected: tuple[int, ...]) -> None:
    assert layers_to_keep(layers, keep, depth=6) == expected


counts = st.integers(1, 48).flatmap(lambda depth: st.tuples(st.integers(1, depth), st.just(depth)))


@pytest.mark.parametrize("keep", STRATEGIES)
@given(counts)
def test_every_strategy_keeps_so_many_layers_in_their_order(keep: str, count: tuple[int, int]) -> None:
    layers, depth = count
    kept = layers_to_keep(layers, keep, depth)
    assert len(kept) == layers
    assert kept == tuple(sorted(set(kept)))
    assert set(kept) <= set(range(depth))
    assert layers < depth or kept == tuple(range(depth))


@given(counts)
def test_what_each_strategy_leaves_out(count: tuple[int, int]) -> None:
    layers, depth = count
    first, last, alternate, symmetric = (layers_to_keep(layers, keep, depth) for keep in STRATEGIES)
    assert (first[0], first[-1]) == (0, layers - 1)
    assert (last[0], last[-1]) == (depth - layers, depth - 1)
    # The gaps of an even spread differ by one at most, the one to the end included.
    gaps = {after - before for before, after in zip(alternate, (*alternate[1:], depth), strict=True)}
    assert alternate[0] == 0
    assert max(gaps) - min(gaps) <= 1
    # What is dropped is one run in the middle, with as many layers below it as above, or one more.
    dropped = sorted(set(range(depth)) - set(symmetric))
    assert dropped == list(range(dropped[0], dropped[-1] + 1)) if dropped else layers == depth
    if dropped:
        assert dropped[0] - (depth - 1 - dropped[-1]) in (0, 1)


@pytest.mark.parametrize(
    ("layers", "keep", "dropped"),
    [(8, "first", (9, 10, 11, 12)), (8, "last", (1, 2, 3, 4)), (8, "symmetric", (5, 6, 7, 8)),
     (6, "alternate", (2, 4, 6, 8, 10, 12))],
)  # fmt: skip
def test_twelve_layers_are_dropped_as_in_the_paper(layers: int, keep: str, dropped: tuple[int, ...]) -> None:
    # Sajjad et al. 2023, section 3, which counts layers from 1.
    assert {layer - 1 for layer in dropped} == set(range(12)) - set(layers_to_keep(layers, keep, 12))


@pytest.mark.parametrize(
    ("layers", "keep", "match"),
    [
        (0, "first", "cannot keep 0 of 6 layers: --layers: a number from 1 to 6"),
        (-1, "first", "cannot keep -1"),
        (7, "first", "cannot keep 7"),
        (7, "0,1,2,3,4,5,6", "cannot keep 7"),
        (2, "0,0", "repeat or do not exist: --keep: different numbers from 0 to 5"),
        (2, "0,6", "repeat or do not exist"),
        (2, "-1,0", "repeat or do not exist"),
        (2, "0,1,2", "3 layers are listed for --layers 2"),
        (3, "0,1", "2 layers are listed for --layers 3"),
        (2, "middle", "unreadable layer list 'middle': --keep: first, last, alternate, symmetric, auto, or numbers"),
        (2, "0,,1", "unreadable layer list"),
        (1, "", "unreadable layer list"),
        (1, "1.0", "unreadable layer list"),
    ],
)
def test_layers_that_cannot_be_kept(layers: int, keep: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        layers_to_keep(layers, keep, depth=6)
