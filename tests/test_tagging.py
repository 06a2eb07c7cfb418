"""Tagging: from tokens and tags through training and export to entities with their places, and to their F1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Exports

from edgebert import build
from edgebert.errors import InputError, ItemError, UsageError
from edgebert.judging.evaluate import evaluate
from edgebert.judging.verify import verify
from edgebert.serving.entities import entities_of, word_labels
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import TextTokenizer, Tokens
from edgebert.shaping.checkpoint import load_module
from edgebert.spans import entities, words_of
from edgebert.training.data import Row, match_labels, read
from edgebert.training.plan import TrainConfig

pytestmark = pytest.mark.usefixtures("one_trace")

TASK = "token-classification"
QUICK = TrainConfig(method="none", epochs=12.0, train_batch_size=8, lr=3e-3, max_length=32)
NAMES = ("O", "B-x", "I-x")


@pytest.fixture(scope="module")
def tagger(exports: Exports) -> Model:
    return load(exports.artifact("bert", TASK).path, threads=1)


def test_entities_by_hand() -> None:
    # [CLS] un ##usual , film [SEP]: the second token of a word has no say.
    logits = np.log(np.array([[1, 1, 1], [1, 6, 1], [6, 1, 1], [1, 1, 2], [6, 1, 1], [1, 6, 1]], dtype=np.float32))
    places = ((0, 0), (0, 2), (2, 7), (7, 8), (9, 13), (0, 0))
    item = Tokens([1] * 6, [0] * 6, False, (), places, (None, 0, 0, 1, 2, None))
    (entity,) = entities_of(logits, item, NAMES)
    assert (entity.label, entity.start, entity.end) == ("x", 0, 8)
    assert entity.score == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert word_labels(logits, item, [(0, 8), (9, 13), (14, 15)], NAMES) == ["B-x", "O", "O"]
    nothing = Tokens([1, 1], [0, 0], False, (), ((0, 0), (0, 0)), (None, None))
    assert entities_of(logits[:2], nothing, NAMES) == []


def test_entities_are_pytorchs(exports: Exports, tagger: Model) -> None:
    text = "The old film sees  Naïve, quick rivers!"
    module = load_module(exports.checkpoint("bert", TASK))
    encoding = tiny.wordpiece().encode(text)
    with torch.inference_mode():
        rows = module(input_ids=torch.tensor([encoding.ids])).logits[0].softmax(-1)
    firsts = [i for i, word in enumerate(encoding.word_ids) if word is not None and encoding.word_ids[i - 1] != word]
    tags = [tiny.TAGS[int(rows[i].argmax())] for i in firsts]
    words: list[Any] = [encoding.word_to_chars(word) for word in range(len(firsts))]
    expected = [(kind, words[a][0], words[b - 1][1]) for kind, a, b in entities(tags)]
    (found,) = tagger.tag([text])
    assert [(entity.label, entity.start, entity.end) for entity in found] == expected
    scores = [float(rows[firsts[a:b]].max(-1).values.mean()) for _, a, b in entities(tags)]
    assert [entity.score for entity in found] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_places_hold_no_blanks(family: str, exports: Exports) -> None:
    texts = ["a film", "  the  old\nriver ", "naïve 日本 x7, 😀!", "", "   ", "e\u0301te"]
    tokens = TextTokenizer(exports.checkpoint(family, TASK)).encode(texts)
    words = [words_of(item.places, item.words) for item in tokens]
    for text, found in zip(texts, words, strict=True):
        assert all(text[word.start : word.end].strip() == text[word.start : word.end] for word in found)
    cut = [[text[word.start : word.end] for word in found] for text, found in zip(texts, words, strict=True)]
    assert cut[:2] == [["a", "film"], ["the", "old", "river"]]
    assert (cut[3], cut[4]) == ([], [])


def test_given_words_get_a_label_each(tagger: Model) -> None:
    words = [["U.N.", "film", "naïve"], ["a"] * 100, ["x"]]
    labels = tagger.tag_words(words)
    assert [len(row) for row in labels] == [3, 100, 1]
    # The model reads 64 tokens, two of them special.
    assert set(labels[1][62:]) == {"O"}
    assert tagger.tag_words([["x"]]) == labels[2:]


def test_long_texts_are_tagged_in_windows(exports: Exports) -> None:
    path = exports.artifact("bert", TASK).path
    text = " ".join(tiny.texts(12, seed=2))
    with load(path, threads=1, overflow="chunk") as whole, load(path, threads=1) as cut:
        first, second, *_ = whole.tokenize([text])[0].windows
        (found,), (some,) = whole.tag([text]), cut.tag([text])
    assert found[-1].end > some[-1].end
    # From where the second window speaks, it sees more than the first.
    end = second.places[second.told][0][0]
    assert first.places[first.told][-1][1] < end < some[-1].end
    before = [[(e.start, e.label) for e in entities if e.end < end] for entities in (found, some)]
    assert before[0][:-1] == before[1][:-1] != []


def test_who_is_no_tagger_says_so(exports: Exports, tagger: Model) -> None:
    with (
        load(exports.artifact("bert", "text-classification").path) as other,
        pytest.raises(UsageError, match="not a tagger"),
    ):
        other.tag(["a"])
    with pytest.raises(UsageError, match=r"not a classifier.*or call tag"):
        tagger.predict(["a"])
    with pytest.raises(ItemError, match="item 1"):
        tagger.tag(["a", ("b", "c")])  # type: ignore[list-item]
    assert tagger.tag([]) == []


def sentences(count: int = 80) -> list[dict[str, Any]]:
    """`film` begins a thing and `story` after it continues one; `night` is a time. `x.y.` is cut into many tokens."""
    rows = []
    for i, text in enumerate(tiny.texts(count, 7, longest=3, words=tiny.WORDS[20:25])):
        tokens = [*text.split(), *(["film", "story"] if i % 2 else ["film"]), "x.y.", *(["night"] if i % 3 else [])]
        tags = {"film": "B-thing", "story": "I-thing", "night": "B-time"}
        rows.append({"tokens": tokens, "tags": [tags.get(token, "O") for token in tokens]})
    return rows


def test_tokens_and_tags_are_read(tmp_path: Path) -> None:
    data = read(tiny.write_parts(tmp_path / "data", sentences()))
    # There is no time of two words in it, but there may be elsewhere.
    assert (data.kind, data.labels) == ("tags", ("B-thing", "B-time", "I-thing", "I-time", "O"))
    row = data.train[1]
    assert row.text == " ".join(row.words)
    assert isinstance(row.label, tuple)
    assert len(row.label) == len(row.words)
    matched = match_labels(data, ("O", "b-thing", "i-thing", "b-time", "i-time"), "tags")
    assert matched is not None
    assert matched.train[1].label == tuple(tag if tag == "O" else tag.lower() for tag in row.label)
    lines = [json.dumps({"w": each["tokens"], "t": each["tags"]}) + "\n" for each in sentences(20)]
    (tmp_path / "mapped.jsonl").write_text("".join(lines))
    assert read(tmp_path / "mapped.jsonl", {"tokens": "w", "tags": "t"}).kind == "tags"


@pytest.mark.parametrize("columns", [{"tokens": ["a"]}, {"text": "a b", "tokens": ["a", "b"], "tags": ["O", "O"]}])
def test_tags_decide_where_there_are_tokens_and_a_text(columns: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": "yn"[i % 2], **columns} for i in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if "tags" in columns:
        with pytest.raises(InputError, match="only one class"):
            read(tmp_path / "train.jsonl")
    else:
        assert (read(tmp_path / "train.jsonl").kind, read(tmp_path / "train.jsonl").labels) == ("label", ("n", "y"))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"1 tags for 2 tokens.*line 3, field 'tags'"),
        ({"tokens": "a b", "tags": ["O", "O"]}, r"not a list of words but str.*field 'tokens'"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "an empty word"),
        ({"tokens": [], "tags": []}, "an empty word, or none"),
        ({"tokens": ["a", 7], "tags": ["O", "O"]}, "not text but int"),
        ({"tokens": ["a"]}, "no label here"),
        ({"text": "a", "label": ["O"]}, "tokens in some rows, text in others"),
    ],
)
def test_tags_that_do_not_fit_are_named(row: dict[str, Any], match: str, tmp_path: Path) -> None:
    rows = [*sentences(2), row]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(InputError, match=match):
        read(tmp_path / "train.jsonl")


def test_where_words_end_is_part_of_the_data(tmp_path: Path) -> None:
    digests = set()
    for tokens in (["a b", "c"], ["a", "b c"]):
        rows = [{"tokens": tokens, "tags": ["B-x", "O"]}, *sentences(12)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        digests.add(read(tmp_path / "train.jsonl").digest)
    assert len(digests) == 2


def test_a_bare_encoder_learns_to_tag(tmp_path: Path) -> None:
    data = tiny.write_parts(tmp_path / "data", sentences())
    source = tiny.checkpoint(tmp_path / "bare", task="feature-extraction", layers=2)
    (teacher,) = build.distill(str(source), data, [2], tmp_path / "out", QUICK)
    assert (teacher.manifest.task, teacher.manifest.metric) == (TASK, "entity_f1")
    assert teacher.manifest.checks["training"]["value"] > 0.9
    config = TrainConfig(method="hidden", epochs=8.0, train_batch_size=8, lr=3e-3, alpha=0.0, max_length=32)
    (student,) = build.distill(str(teacher.path), data, [1], tmp_path / "students", config)
    assert student.manifest.checks["training"]["value"] > 0.8
    made = build.export(str(student.path), precision="int8", data=data, out=tmp_path / "artifacts")[0]
    metric = verify(made.path, data=data)[1]
    assert metric is not None
    # The path that serves finds what training found in the same words.
    assert metric.value == pytest.approx(student.manifest.checks["training"]["value"], abs=0.05)
    with load(made.path, threads=1) as model:
        (found,) = model.tag(["song city film story x.y. night"])
        assert (found[0].label, found[0].start, found[0].end) == ("thing", 10, 20)
        with pytest.raises(InputError, match="no tags to judge by"):
            evaluate(model, [Row("a", None, "yes")])
