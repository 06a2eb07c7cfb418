"""The demo's corpus: reproducible, balanced, without leaks between splits, clean of the notation."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "demo_data.py"
SIZES = {"train": 960, "dev": 240, "test": 480}
Corpus = dict[str, list[dict[str, str]]]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


demo_data = load()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    made: Corpus = demo_data.generate(0, **SIZES)
    return made


def texts(corpus: Corpus, *splits: str) -> list[str]:
    return [row["text"] for split in splits or corpus for row in corpus[split]]


def test_sizes_are_as_asked(corpus: Corpus) -> None:
    assert {split: len(rows) for split, rows in corpus.items()} == SIZES


def test_seed_decides_every_byte(tmp_path: Path) -> None:
    for folder, seed in (("one", 7), ("same", 7), ("other", 8)):
        demo_data.write(tmp_path / folder, seed, 96, 48, 48)
    for split in SIZES:
        one, same, other = ((tmp_path / folder / f"{split}.jsonl").read_bytes() for folder in ("one", "same", "other"))
        assert one == same != other


def test_files_hold_one_row_a_line(tmp_path: Path) -> None:
    demo_data.write(tmp_path / "deep" / "folder", 3, 96, 48, 48)
    lines = (tmp_path / "deep" / "folder" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == demo_data.generate(3, 96, 48, 48)["train"]


def test_no_text_occurs_twice(corpus: Corpus) -> None:
    counts = Counter(text.lower() for text in texts(corpus))
    assert counts.most_common(1)[0][1] == 1


def test_every_label_in_every_split_and_balanced(corpus: Corpus) -> None:
    labels = set(demo_data.parse(demo_data.INTENTS, held_out=False))
    assert len(labels) == 48
    for rows in corpus.values():
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == labels
        assert max(counts.values()) <= 2 * min(counts.values())


def test_no_notation_is_left(corpus: Corpus) -> None:
    assert not [text for text in texts(corpus) if re.search(r"[][(){}<>|*]|  | [.,?]|\?[.,]", text)]


def test_texts_are_noisy(corpus: Corpus) -> None:
    train = texts(corpus, "train")
    assert any(text.isupper() for text in train)
    assert 0.2 < sum(text.islower() for text in train) / len(train) < 0.6


def test_dev_and_test_have_fillers_and_templates_that_train_has_not(corpus: Corpus) -> None:
    held_out = re.compile(r"priya|helsinki|orthodontist|no need to|nobody asked|never mind")
    assert not held_out.search("\n".join(texts(corpus, "train")).lower())
    dev, test = (len(held_out.findall("\n".join(texts(corpus, split)).lower())) for split in ("dev", "test"))
    assert dev > 10
    assert test > 20


def test_every_intent_has_actions_and_sentences_seen_and_held_out() -> None:
    seen, everything = (demo_data.parse(demo_data.INTENTS, held_out) for held_out in (False, True))
    for label, templates in everything.items():
        for group in (seen[label], [template for template in templates if template not in seen[label]]):
            assert {"<" in template for template in group} == {True, False}


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("book", ("book", "booked", "booking")),
        ("schedule", ("schedule", "scheduled", "scheduling")),
        ("send", ("send", "sent", "sending")),
    ],
)
def test_verbs_are_inflected(verb: str, forms: tuple[str, ...]) -> None:
    assert tuple(demo_data.inflect(verb, form) for form in ("do", "did", "doing")) == forms


def test_a_typo_changes_no_more_than_one_word() -> None:
    speaker = demo_data.Speaker(random.Random(1), held_out=False)
    clean = "cancel my flight"
    typed = [speaker.mistyped(clean) for _ in range(100)]
    assert len(set(typed)) > 10
    for text in typed:
        assert sum(a != b for a, b in zip(text.split(), clean.split(), strict=True)) <= 1
