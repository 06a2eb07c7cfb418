"""Arithmetic of shapes, against published tables and against PyTorch's own counting."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
import torch

from edgebert.families import FAMILIES
from edgebert.shaping.sizes import Shape, flops_per_token, matrices, parameters, shape_of, weight_bytes, with_layers
from edgebert.tasks import TASKS

# The 24 small BERTs of google-research/bert, by layers and hidden size.
GOOGLE = {
    2: (4_385_920, 9_591_040, 22_458_880, 38_603_520),
    4: (4_782_464, 11_170_560, 28_763_648, 52_779_264),
    6: (5_179_008, 12_750_080, 35_068_416, 66_955_008),
    8: (5_575_552, 14_329_600, 41_373_184, 81_130_752),
    10: (5_972_096, 15_909_120, 47_677_952, 95_306_496),
    12: (6_368_640, 17_488_640, 53_982_720, 109_482_240),
}
SIZES = [(layers, hidden, GOOGLE[layers][i]) for layers in GOOGLE for i, hidden in enumerate((128, 256, 512, 768))]


def bert(layers: int, hidden: int, vocab: int = 30522) -> Shape:
    return Shape(layers, hidden, heads=hidden // 64, ffn=4 * hidden, vocab=vocab)


@pytest.mark.parametrize(("layers", "hidden", "expected"), SIZES)
def test_the_small_berts(layers: int, hidden: int, expected: int) -> None:
    assert parameters(bert(layers, hidden)) == expected


def test_other_published_sizes() -> None:
    assert parameters(bert(24, 1024)) == 335_141_888
    minilm = Shape(6, 384, 12, 1536, 30522)
    assert parameters(minilm) == 22_713_216
    distilbert = Shape(6, 768, 12, 3072, 30522, types=0, pooler=False)
    assert parameters(distilbert) == 66_362_880
    xlm_roberta = Shape(12, 768, 12, 3072, 250_002, positions=514, types=1)
    assert parameters(xlm_roberta) == 278_043_648
    camembert = replace(xlm_roberta, vocab=32_005)
    assert parameters(camembert) == 110_621_952


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_parameters_are_those_that_pytorch_counts(layers: int, family: str, task: str) -> None:
    labels = 5 if TASKS[task].has_labels else 0
    heads = {"id2label": {i: str(i) for i in range(labels)}} if labels else {}
    config = tiny.config_of(family, 99, layers, heads)
    with torch.device("meta"):
        module = tiny.auto_class(task).from_config(config)
    shape = shape_of(json.loads(config.to_json_string(use_diff=False)), FAMILIES[family], TASKS[task], labels)
    assert parameters(shape) == sum(parameter.numel() for parameter in module.parameters())
    stored = sum(p.numel() for name, p in module.named_parameters() if p.ndim == 2)
    assert matrices(shape) == stored


def test_a_config_as_the_hub_has_it() -> None:
    published = {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
        "vocab_size": 30522, "max_position_embeddings": 512,
    }  # fmt: skip
    assert shape_of(published, FAMILIES["bert"], TASKS["feature-extraction"]) == Shape(
        6, 384, 12, 1536, 30522, positions=512, types=2
    )


def test_layers_cost_the_same_each() -> None:
    sizes = [parameters(with_layers(bert(12, 256), layers)) for layers in range(1, 13)]
    assert {b - a for a, b in pairwise(sizes)} == {12 * 256**2 + 13 * 256}
    assert with_layers(bert(12, 256), 4) == bert(4, 256)


def test_flops_by_hand() -> None:
    # A layer of width 2 and ffn 3 on 5 tokens: four 2 x 2 products, two 2 x 3, scores and mixture 5 x 2 each.
    tiny_shape = Shape(layers=1, hidden=2, heads=1, ffn=3, vocab=7)
    assert flops_per_token(tiny_shape, 5) == 2 * (4 * 4 + 2 * 6 + 2 * 10)
    assert flops_per_token(with_layers(tiny_shape, 3), 5) == 3 * flops_per_token(tiny_shape, 5)
    # bert-base on 128 tokens: 22.3 GFLOPs a text, as TinyBERT (arXiv:1909.10351) counts 22.5 B.
    assert flops_per_token(bert(12, 768), 128) * 128 == pytest.approx(22.5e9, rel=0.02)


def test_bytes_by_precision() -> None:
    shape = replace(bert(6, 384), heads=12)
    sizes = weight_bytes(shape)
    assert sizes.keys() == {"fp32", "fp16", "int8"}
    assert sizes["fp32"] == 4 * parameters(shape) == 2 * sizes["fp16"]
    assert sizes["int8"] == matrices(shape) + 4 * (parameters(shape) - matrices(shape))
    assert sizes["int8"] == pytest.approx(parameters(shape), rel=0.01)
