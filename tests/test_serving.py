from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, TASKS, Exports, texts

import edgebert
from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import InputError, ItemError, UsageError
from edgebert.machine import allowed_threads
from edgebert.runtimes.ov import LENGTH_STEP
from edgebert.serving.answers import normalized, pool, softmax
from edgebert.serving.model import Model, load
from edgebert.serving.tokens import TextTokenizer, batches
from edgebert.shaping.checkpoint import load_module

TEXTS = texts(40, seed=11)
ODD = ["", "   ", "\t\n", "😀 film", "e\u0301te", "\x00", "שלום עולם", "a" * 5000, "film\u200d", "ﬁne"]


@pytest.fixture(scope="module")
def classifier(exports: Exports) -> Model:
    return load(exports.artifact("bert", TASKS[0]).path, threads=1)


@pytest.fixture(scope="module")
def encoder(exports: Exports) -> Model:
    return load(exports.artifact("bert", TASKS[1]).path, threads=1)


def test_the_answer_to_a_text_does_not_depend_on_its_company(classifier: Model) -> None:
    together = classifier.logits(TEXTS)
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_permuting_texts_permutes_answers(classifier: Model) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = classifier.logits([TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled, classifier.logits(TEXTS)[order], atol=1e-5)


def test_a_prediction_names_the_largest_logit(classifier: Model) -> None:
    for prediction, row in zip(classifier.predict(TEXTS), classifier.logits(TEXTS), strict=True):
        names = classifier.artifact.manifest.labels
        assert prediction.label == names[int(row.argmax())]
        assert prediction.score == max(prediction.scores.values()) == prediction.scores[prediction.label]
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("text", ODD, ids=repr)
def test_odd_texts_are_texts(classifier: Model, text: str) -> None:
    assert np.isfinite(classifier.logits([text, (text, "film")])).all()


def test_nothing_in_nothing_out(classifier: Model, encoder: Model) -> None:
    assert classifier.predict([]) == []
    assert classifier.logits([]).shape == (0, 3)
    assert encoder.encode([]).shape == (0, 32)


@pytest.mark.parametrize(
    "bad",
    [None, b"bytes", 3, "\ud800", ["a", "b"], ("a", "b", "c"), ("a", None), ("a", "\udfff"), ("a",), ()],
    ids=repr,
)
def test_what_is_no_text_is_named_by_its_place(classifier: Model, bad: Any) -> None:
    with pytest.raises(ItemError) as error:
        classifier.predict(["fine", "fine", bad, "fine"])
    assert error.value.index == 2
    assert len(classifier.predict(["fine"])) == 1


def test_one_text_instead_of_a_list_is_refused(classifier: Model) -> None:
    with pytest.raises(UsageError, match="list"):
        classifier.predict("a film")


def test_a_pair_is_not_its_texts_joined(classifier: Model) -> None:
    pair, joined = classifier.logits([("good film", "dull story"), "good film dull story"])
    assert np.abs(pair - joined).max() > 1e-3


def test_truncation_is_told(classifier: Model) -> None:
    short, long = classifier.predict(["a film", " ".join(["film"] * 500)])
    assert (short.truncated, long.truncated) == (False, True)


def test_vectors_are_the_references_means(exports: Exports, encoder: Model) -> None:
    source = exports.checkpoint("bert", TASKS[1])
    module, tokenizer = load_module(source), TextTokenizer(source)
    feed = tokenizer.collate(tokenizer.encode(TEXTS))
    with torch.inference_mode():
        hidden = module(**{name: torch.from_numpy(array) for name, array in feed.items()}).last_hidden_state
    mask = torch.from_numpy(feed["attention_mask"])[..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(encoder.encode(TEXTS), torch.nn.functional.normalize(means).numpy(), atol=1e-5)


def test_classifier_and_encoder_do_not_do_each_others_work(classifier: Model, encoder: Model) -> None:
    with pytest.raises(UsageError, match="not an encoder"):
        classifier.encode(["film"])
    with pytest.raises(UsageError, match="not a classifier"):
        encoder.predict(["film"])


def test_threads_share_a_model(classifier: Model) -> None:
    truth = classifier.logits(TEXTS)
    with ThreadPoolExecutor(32) as pool:
        for found in pool.map(lambda _: classifier.logits(TEXTS), range(64)):
            np.testing.assert_array_equal(found, truth)


def test_a_closed_model_says_so(exports: Exports) -> None:
    model = load(exports.artifact("bert", TASKS[0]).path)
    model.close()
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.predict(["film"])


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_pytorchs(exports: Exports, family: str) -> None:
    source = exports.checkpoint(family, TASKS[0])
    module, theirs = load_module(source), transformers.AutoTokenizer.from_pretrained(str(source.path))
    pairs = list(zip(TEXTS[:9], TEXTS[9:18], strict=True))
    with load(exports.artifact(family, TASKS[0]).path, threads=1) as model, torch.inference_mode():
        for items, columns in ((TEXTS, (TEXTS,)), (pairs, (TEXTS[:9], TEXTS[9:18]))):
            inputs = theirs(*columns, padding=True, truncation=True, max_length=64, return_tensors="pt")
            names = [spec.name for spec in source.manifest.inputs]
            expected = module(**{name: inputs[name] for name in names}).logits.numpy()
            np.testing.assert_allclose(model.logits(items), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@given(first=st.text(max_size=40), second=st.none() | st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_token_ids_equal_transformers(exports: Exports, family: str, first: str, second: str | None) -> None:
    source = exports.checkpoint(family, TASKS[0])
    path = str(source.path / "tokenizer.json")
    theirs: Any = transformers.PreTrainedTokenizerFast(tokenizer_file=path)  # type: ignore[no-untyped-call]
    item = first if second is None else (first, second)
    (ours,) = TextTokenizer(source).encode([item])
    # In lists: outside of one, transformers takes an empty second text for none.
    pair = None if second is None else [second]
    expected = theirs([first], pair, truncation="longest_first", max_length=64)["input_ids"][0]
    assert ours.ids == expected
    # A single text takes another path than a batch.
    assert TextTokenizer(source).encode([item, item])[1].ids == expected


def test_the_engines_arrays_are_not_copied(classifier: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    session: Any = classifier._session
    run = session.run

    def remembered(feed: Any) -> Any:
        given.append(run(feed))
        return given[-1]

    monkeypatch.setattr(session, "run", remembered)
    found = classifier.run(classifier.tokenizer.collate(classifier.tokenize(TEXTS[:3])))
    assert found is given[0]["logits"]


@given(st.lists(st.integers(1, 60), max_size=50), st.integers(16, 256))
def test_batches_hold_everything_once_within_the_limit(lengths: list[int], limit: int) -> None:
    items = [[0] * n for n in lengths]
    found = list(batches(items, limit))  # type: ignore[arg-type]
    assert sorted(i for batch in found for i in batch) == list(range(len(items)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= limit


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]], dtype=np.float32)), [[1, 0]])


@pytest.mark.parametrize("limit", [0, 2, 65])
def test_a_length_that_the_model_cannot_read_is_refused(exports: Exports, limit: int) -> None:
    with pytest.raises(InputError, match="max_length"):
        load(exports.artifact("bert", TASKS[0]).path, max_length=limit)


def test_serving_imports_no_framework(exports: Exports) -> None:
    program = (
        "import json, sys, edgebert\n"
        f"edgebert.load({str(exports.artifact('bert', TASKS[0]).path)!r}).predict(['a film'])\n"
        "print(json.dumps([m for m in ('torch', 'transformers', 'onnx', 'onnx_ir') if m in sys.modules]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", program])) == []


def test_the_package_offers_what_it_says() -> None:
    assert edgebert.load is load
    with pytest.raises(AttributeError):
        edgebert.nothing  # noqa: B018


def test_an_artifact_in_a_folder_with_blanks_loads(exports: Exports, tmp_path: Path) -> None:
    copy = tmp_path / "ein Ördner 模型"
    copy.mkdir()
    source = exports.artifact("bert", TASKS[0])
    for name in ("edgebert.json", *source.manifest.files):
        (copy / name).write_bytes((source.path / name).read_bytes())
    with load(copy) as model:
        assert len(model.predict(["a film"])) == 1


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "a flipped byte": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_harmed_file_is_refused_before_it_is_used(
    exports: Exports, tmp_path: Path, harm: Callable[[bytes], bytes], name: str
) -> None:
    folder = copy_of(exports, tmp_path)
    (folder / name).write_bytes(harm((folder / name).read_bytes()))
    with pytest.raises(InputError, match=f"does not match its hash.*{name}"):
        load(folder)


def copy_of(exports: Exports, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports.artifact("bert", TASKS[0]).path, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("model.onnx", b"", "the graph is refused"),
        ("model.onnx", b"\x08\x01garbage", "the graph is refused"),
        ("tokenizer.json", b"{}", "unusable tokenizer"),
        ("tokenizer.json", b"\xff", "not valid JSON"),
        ("config.json", b"[", "not valid JSON"),
        ("config.json", b"[]", "not a JSON object"),
    ],
)
def test_garbage_that_was_listed_is_refused(
    exports: Exports, tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    folder = copy_of(exports, tmp_path)
    (folder / name).write_bytes(content)
    manifest = Artifact.open(folder).manifest
    stage.write_manifest(folder, replace(manifest, files=stage.hash_files(folder)))
    with pytest.raises(InputError, match=f"{match}.*{name}"):
        load(folder)


def test_nothing_is_written_where_a_model_lies(exports: Exports) -> None:
    folder = exports.artifact("bert", TASKS[0]).path
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with load(folder, threads=1) as model:
        model.predict(TEXTS)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_threads_are_those_asked_for_and_allowed(exports: Exports) -> None:
    path = exports.artifact("bert", TASKS[0]).path
    for asked, expected in ((1, 1), (None, allowed_threads()), (10_000, allowed_threads())):
        with load(path, threads=asked) as model:
            facts = model.facts()
            assert (facts["threads"], facts["provider"]) == (expected, "CPUExecutionProvider")


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_the_share_of_padding_is_among_the_facts(target: str, exports: Exports) -> None:
    texts = ["a film", "a film that is long and slow"]
    with load(exports.artifact("bert", TASKS[0]).path, target, threads=1) as model:
        assert model.facts()["padding"] == 0
        lengths = [len(tokens) for tokens in model.tokenize(texts)]
        model.predict(texts)
        longest = max(lengths) if target == "cpu" else -(-max(lengths) // LENGTH_STEP) * LENGTH_STEP
        assert model.facts()["padding"] == pytest.approx(1 - sum(lengths) / (2 * longest), abs=1e-3)


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_pooling_does_not_ask_on_which_side_the_padding_is(mode: str) -> None:
    hidden = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    moved = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    rolled = np.stack([np.roll(hidden[0], 2, axis=0), hidden[1]])
    np.testing.assert_allclose(pool(rolled, moved, mode), pool(hidden, mask, mode), rtol=1e-6)
    # A row without a token is finite, and leaves the other as it is.
    none = pool(hidden, mask * np.array([[0], [1]]), mode)
    assert np.isfinite(normalized(none)).all()
    assert np.array_equal(none[1], pool(hidden, mask, mode)[1])


@pytest.mark.parametrize(("mode", "expected"), [("mean", [2.0, 1.0]), ("cls", [1.0, 2.0]), ("max", [3.0, 2.0])])
def test_pooling_by_hand(mode: str, expected: list[float]) -> None:
    hidden = np.array([[[1, 2], [3, 0], [99, 99]]], dtype=np.float32)
    mask = np.array([[1, 1, 0]])
    assert pool(hidden, mask, mode).tolist() == [expected]
    unit = np.array(expected) / np.linalg.norm(expected)
    np.testing.assert_allclose(normalized(pool(hidden, mask, mode))[0], unit, rtol=1e-6)
