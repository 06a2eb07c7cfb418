"""Arithmetic of shapes, against published tables and against PyTorch's own counting."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from edgebert.families import FAMILIES
from edgebert.shaping.known import KNOWN, known_named
from edgebert.shaping.plans import TOLERANCE, equal_sized
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


# As programs that loaded them with transformers have counted and printed.
PUBLISHED = {
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-base-cased": 108_310_272,
    "google-bert/bert-large-uncased": 335_141_888,
    "google-bert/bert-large-cased": 333_579_264,
    "google-bert/bert-base-multilingual-cased": 177_853_440,
    "distilbert/distilbert-base-uncased": 66_362_880,
    "prajjwal1/bert-tiny": 4_385_920,
    "huawei-noah/TinyBERT_General_4L_312D": 14_350_248,
    "FacebookAI/roberta-base": 124_645_632,
    "FacebookAI/roberta-large": 355_359_744,
    "FacebookAI/xlm-roberta-base": 278_043_648,
    "FacebookAI/xlm-roberta-large": 559_890_432,
    "google/electra-large-discriminator": 334_092_288,
    **{f"google/bert_uncased_L-{layers}_H-{hidden}_A-{hidden // 64}": count for layers, hidden, count in SIZES},
}
# As papers and model cards round them.
ROUNDED = {
    "distilbert/distilroberta-base": (82e6, 1e6),
    "microsoft/MiniLM-L12-H384-uncased": (33e6, 1e6),
    "sentence-transformers/all-MiniLM-L6-v2": (22.7e6, 0.1e6),
    "almanach/camembert-base": (110e6, 1e6),
    "huawei-noah/TinyBERT_General_6L_768D": (67e6, 1e6),
    "google/electra-small-discriminator": (14e6, 1e6),
    "google/electra-base-discriminator": (110e6, 2e6),
}
ENCODER = TASKS["feature-extraction"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_names_have_the_published_counts(name: str) -> None:
    known = known_named(name)
    assert known is not None
    assert parameters(known.shape(ENCODER, 0)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_known_names_have_the_rounded_counts(name: str) -> None:
    count, within = ROUNDED[name]
    assert parameters(KNOWN[name].shape(ENCODER, 0)) == pytest.approx(count, abs=within)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_names_are_what_pytorch_builds_of_their_config(name: str) -> None:
    known = KNOWN[name]
    family = FAMILIES[known.family]
    numbers = {
        family.layers_key: known.layers, family.hidden_key: known.hidden, family.heads_key: known.heads,
        family.ffn_key: known.ffn, "vocab_size": known.vocab, "max_position_embeddings": known.positions,
    }  # fmt: skip
    numbers |= {"type_vocab_size": known.types} if known.family != "distilbert" else {}
    numbers |= {family.embedding_key: known.embedding or known.hidden} if family.embedding_key else {}
    config = transformers.AutoConfig.for_model(known.family, **numbers)
    for task, labels in ((ENCODER, 0), (TASKS["text-classification"], 3), (TASKS["fill-mask"], 0)):
        config.num_labels = labels or 2
        with torch.device("meta"):
            module = tiny.auto_class(task.name).from_config(config)
        assert parameters(known.shape(task, labels)) == sum(p.numel() for p in module.parameters())


def test_masked_heads_have_the_sizes_of_the_paper() -> None:
    # Turc et al. 2019, table 1: millions of parameters with the head of pre-training.
    for layers, hidden, millions in ((2, 128, 4.4), (4, 256, 11.3), (4, 512, 29.1), (8, 512, 41.7), (12, 768, 110.1)):
        name = f"google/bert_uncased_L-{layers}_H-{hidden}_A-{hidden // 64}"
        # That head has a pooler too, for the next sentence: two labels on it.
        pooled = parameters(KNOWN[name].shape(TASKS["text-classification"], 2))
        head = hidden**2 + 3 * hidden + 30_522
        assert (pooled + head) / 1e6 == pytest.approx(millions, abs=0.06)


def test_names_are_known_with_and_without_their_owner() -> None:
    assert known_named("bert-base-uncased") == known_named("google-bert/bert-base-uncased") is not None
    assert known_named("bert_uncased_L-4_H-312_A-12") is None
    assert known_named("") is None


def test_equal_sizes_answer_the_question_of_width() -> None:
    found = {(s.layers, s.hidden, s.ffn): s for s in equal_sized(bert(12, 768), 110_000_000)}
    assert {(12, 768, 3072), (6, 1024, 4096), (6, 768, 7680)} <= found.keys()
    assert parameters(found[6, 1024, 4096]) == 108_409_856
    twelve, wide = (flops_per_token(found[key], 128) for key in ((12, 768, 3072), (6, 1024, 4096)))
    assert wide / twelve == pytest.approx(0.88, abs=0.01)


@given(
    st.integers(4_000_000, 400_000_000),
    st.sampled_from([bert(12, 768), replace(bert(12, 256), embedding=128, pooler=False), bert(2, 128, 250_002)]),
)
def test_equal_sizes_are_equal(params: int, like: Shape) -> None:
    found = equal_sized(like, params)
    assert len({(s.layers, s.hidden) for s in found}) == len(found)
    work = [flops_per_token(shape, 128) for shape in found]
    assert work == sorted(work, reverse=True)
    for shape in found:
        assert parameters(shape) == pytest.approx(params, rel=TOLERANCE)
        assert shape.hidden % shape.heads == 0
        assert 2 * shape.hidden <= shape.ffn <= 12 * shape.hidden
        assert (shape.vocab, shape.embedding, shape.pooler) == (like.vocab, like.embedding, like.pooler)


def test_only_the_depths_that_are_asked_for() -> None:
    assert {shape.layers for shape in equal_sized(bert(12, 768), 110_000_000, depths=(6,))} == {6}
    assert equal_sized(bert(12, 768), 1_000) == []


def test_a_projection_works_too() -> None:
    plain = replace(bert(1, 256), heads=4)
    assert flops_per_token(replace(plain, embedding=128), 128) - flops_per_token(plain, 128) == 2 * 128 * 256
