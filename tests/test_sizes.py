from __future__ import annotations

from pathlib import Path

import pytest
from tiny import FAMILIES, TASKS, checkpoint

from edgebert.families import FAMILIES as KNOWN
from edgebert.shaping.checkpoint import load_module, open_checkpoint, read_json
from edgebert.shaping.sizes import Shape, flops_per_token, parameters, shape_of, weight_bytes

# V = 30522, F = 4H, with pooler: the parameters of Google's 24 small BERTs without their MLM head.
PUBLISHED = {
    (2, 128): 4_385_920, (12, 128): 6_368_640, (4, 256): 11_170_560, (4, 512): 28_763_648,
    (8, 512): 41_373_184, (6, 768): 66_955_008, (12, 768): 109_482_240,
}  # fmt: skip


@pytest.mark.parametrize(("shape", "count"), PUBLISHED.items(), ids=str)
def test_parameters_equal_the_published_ones(shape: tuple[int, int], count: int) -> None:
    layers, hidden = shape
    assert parameters(Shape(layers, hidden, hidden // 64, 4 * hidden, vocab=30522)) == count


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_those_of_the_model(family: str, task: str, layers: int, tmp_path: Path) -> None:
    source = open_checkpoint(str(checkpoint(tmp_path / "model", family, task, layers)))
    labels = source.manifest.labels
    shape = shape_of(read_json(source.path / "config.json"), KNOWN[family], len(labels))
    # An encoder is loaded without its pooler, which no answer needs.
    pooler = 0 if labels or not KNOWN[family].pooler else shape.hidden * shape.hidden + shape.hidden
    assert parameters(shape) - pooler == sum(p.numel() for p in load_module(source).parameters())


def test_int8_is_about_a_quarter() -> None:
    size = weight_bytes(Shape(6, 384, 12, 1536, vocab=30522))
    assert size["fp32"] == 4 * 22_713_216
    assert size["fp16"] == 2 * 22_713_216
    assert 0.25 < size["int8"] / size["fp32"] < 0.26


def test_flops_grow_with_depth_and_length() -> None:
    one, two = (Shape(layers, 384, 12, 1536, vocab=30522) for layers in (1, 2))
    assert flops_per_token(two, 128) == 2 * flops_per_token(one, 128)
    # 2 a multiply-add: four projections, two FFN matrices, scores and their sum.
    assert flops_per_token(one, 128) == 2 * (4 * 384 * 384 + 2 * 384 * 1536 + 2 * 128 * 384)
