"""Training on tiny real models: it learns, repeats itself, survives interruptions, and keeps quiet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgebert import build, stage
from edgebert.artifact import Artifact, Manifest, Pooling
from edgebert.errors import CheckFailed, EdgebertError, EnvironmentMissing, InputError, UsageError
from edgebert.shaping.checkpoint import HeadConfig, add_head, load_module, open_checkpoint
from edgebert.shaping.depth import TruncateConfig, truncate
from edgebert.training.batches import Collator, LengthGrouped, tokenize
from edgebert.training.data import Data, Row
from edgebert.training.plan import teacher_recipe
from edgebert.training.teacher import LiveTargets, keep
from edgebert.training.trainer import TrainConfig, train
from edgebert.training.work import Best, Work

FILLERS = ["the", "film", "is", "a", "story", "of", "people", "and", "its", "music"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = {word: index for index, word in enumerate([*SPECIAL, "good", "bad", *FILLERS])}
LABELS = ("negative", "positive")

QUICK = TrainConfig(method="none", epochs=6.0, train_batch_size=8, lr=3e-3, max_length=16)
DISTILL = replace(QUICK, method="hidden")


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, VOCAB[word]) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    # As MiniLM's file does; training must not follow it.
    tokenizer.enable_padding(length=128)
    return tokenizer


def make_encoder(folder: Path, seed: int = 0, spread: float = 0.02) -> Artifact:
    """A bare 4-layer encoder with random weights of that standard deviation."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(VOCAB), hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, initializer_range=spread,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return open_checkpoint(str(folder))


def make_rows(count: int, start: int) -> tuple[Row, ...]:
    """Texts of 2 to 9 words; one of them, good or bad, decides."""
    rows = []
    for i in range(start, start + count):
        words = [FILLERS[(i * step + step) % len(FILLERS)] for step in range(1, 2 + i % 8)]
        words.insert(i % len(words), ("bad", "good")[i % 2])
        rows.append(Row(" ".join(words), None, LABELS[i % 2]))
    return tuple(rows)


DATA = Data("toy", make_rows(60, 0), make_rows(40, 60), make_rows(20, 100), LABELS, "label", "0" * 64)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def untrained(encoder: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return stage.run("head", add_head, encoder, HeadConfig(LABELS), tmp_path_factory.mktemp("head") / "tiny")


@pytest.fixture(scope="module")
def teacher(untrained: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(untrained, QUICK, tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(teacher: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("student") / "tiny"
    return stage.run("truncate", truncate, teacher, TruncateConfig((0, 1)), out)


def run(
    source: Artifact, config: TrainConfig, folder: Path, teacher: Artifact | None = None, **options: Any
) -> Artifact:
    """Train ``source`` as a stage: in ``folder``/work, to ``folder``/out."""
    data = options.pop("data", DATA)
    build = functools.partial(train, data=data, teacher=teacher, work=folder / "work", **options)
    return stage.run("train", build, source, config, folder / "out")


def weights(artifact: Artifact) -> str:
    return artifact.manifest.files["model.safetensors"].sha256


def training_of(artifact: Artifact) -> dict[str, Any]:
    return dict(artifact.manifest.checks["training"])


@contextmanager
def interrupted_at(line: str) -> Iterator[None]:
    """Ctrl-C at the moment the trainer logs a line that begins so."""

    class Interrupter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(line):
                raise KeyboardInterrupt

    log, handler = logging.getLogger("edgebert"), Interrupter()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def test_fine_tuning_learns_and_leaves_a_whole_checkpoint(untrained: Artifact, teacher: Artifact) -> None:
    assert training_of(teacher) == {
        "split": "dev",
        "metric": "accuracy",
        "value": 1.0,
        "step": training_of(teacher)["step"],
    }
    assert teacher.manifest.labels == LABELS
    assert teacher.manifest.architecture == untrained.manifest.architecture
    assert [step.stage for step in teacher.manifest.history] == ["head", "train"]
    assert sorted(teacher.manifest.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    again = open_checkpoint(str(teacher.path))
    assert again.digest == teacher.digest
    assert load_module(again)(input_ids=torch.tensor([[2, VOCAB["good"], 3]])).logits.argmax() == 1


def test_labels_are_matched_to_the_checkpoint(untrained: Artifact, teacher: Artifact, tmp_path: Path) -> None:
    index = {name: str(i) for i, name in enumerate(LABELS)}
    train_rows, dev_rows, test_rows = (
        tuple(replace(row, label=index[str(row.label)]) for row in part) for part in (DATA.train, DATA.dev, DATA.test)
    )
    numbered = replace(DATA, train=train_rows, dev=dev_rows, test=test_rows, labels=("0", "1"))
    assert weights(run(untrained, QUICK, tmp_path, data=numbered)) == weights(teacher)


@pytest.mark.parametrize("method", ["logits", "hidden"])
def test_a_student_learns_from_its_teacher(method: str, untrained: Artifact, teacher: Artifact, tmp_path: Path) -> None:
    source = stage.run("truncate", truncate, untrained, TruncateConfig((0, 1)), tmp_path / "short")
    # Cross-entropy left out: whatever it knows, it has from the teacher.
    config = replace(DISTILL, method=method, alpha=0.0)
    trained = run(source, config, tmp_path, teacher)
    assert training_of(trained)["value"] == 1.0
    assert trained.manifest.architecture.layers == 2
    assert distance(trained, teacher, (0, 2, 4)) < distance(source, teacher, (0, 2, 4)) or method == "logits"


def distance(student: Artifact, teacher: Artifact, states: tuple[int, ...]) -> float:
    """Mean squared difference of hidden states on the dev texts, one at a time."""
    total = 0.0
    ours, theirs = load_module(student), load_module(teacher)
    for row in tokenize(student, DATA.dev, 16):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            mine = ours(input_ids=ids, output_hidden_states=True).hidden_states
            yours = theirs(input_ids=ids, output_hidden_states=True).hidden_states
        total += sum(float((mine[i] - yours[state]).square().mean()) for i, state in enumerate(states))
    return total


def test_the_seed_decides(student: Artifact, teacher: Artifact, tmp_path: Path) -> None:
    config = replace(DISTILL, max_steps=5)
    first = run(student, config, tmp_path / "a", teacher)
    torch.manual_seed(99)
    second = run(student, config, tmp_path / "b", teacher)
    other = run(student, replace(config, seed=1), tmp_path / "c", teacher)
    assert weights(first) == weights(second)
    assert weights(first) != weights(other)
    assert training_of(first)["step"] == 5


# 60 rows in batches of 8: an epoch has 8 steps, the last epoch is half a one.
INTERRUPTED = {"none": replace(QUICK, max_steps=20), "hidden": replace(DISTILL, max_steps=20)}


@pytest.fixture(scope="module")
def uninterrupted(
    student: Artifact, teacher: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    return {
        method: run(student, config, tmp_path_factory.mktemp(method), teacher) for method, config in INTERRUPTED.items()
    }


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("hidden", "saved step 3"),
        ("hidden", "saved step 8"),
        ("none", "saved step 11"),
        ("hidden", "epoch 2:"),
        ("none", "epoch 2.5:"),
        ("hidden", "saved step 20"),
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    method: str, line: str, uninterrupted: dict[str, Artifact],
    student: Artifact, teacher: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with interrupted_at(line):
        run(student, INTERRUPTED[method], tmp_path, teacher, save_seconds=0.0)
    assert not (tmp_path / "out").exists()
    with caplog.at_level(logging.INFO, "edgebert"):
        resumed = run(student, INTERRUPTED[method], tmp_path, teacher)
    assert "resuming at step" in caplog.text
    assert weights(resumed) == weights(uninterrupted[method])
    assert training_of(resumed) == training_of(uninterrupted[method])


@pytest.mark.parametrize("harm", ["cut", "missing", "unsealed"])
def test_a_torn_checkpoint_is_skipped(
    harm: str, uninterrupted: dict[str, Artifact],
    student: Artifact, teacher: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with interrupted_at("saved step 6"):
        run(student, INTERRUPTED["none"], tmp_path, teacher, save_seconds=0.0)
    newest = tmp_path / "work" / "checkpoint-6"
    if harm == "cut":
        content = (newest / "optimizer.pt").read_bytes()
        (newest / "optimizer.pt").write_bytes(content[: len(content) // 2])
    else:
        (newest / ("sizes.json" if harm == "unsealed" else "rng_state.pth")).unlink()
    with caplog.at_level(logging.INFO, "edgebert"):
        resumed = run(student, INTERRUPTED["none"], tmp_path, teacher)
    assert "resuming at step 5 of 20" in caplog.text
    assert weights(resumed) == weights(uninterrupted["none"])


def test_another_run_starts_afresh(
    student: Artifact, teacher: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with interrupted_at("saved step 3"):
        run(student, replace(DISTILL, max_steps=12), tmp_path, teacher, save_seconds=0.0)
    with caplog.at_level(logging.INFO, "edgebert"):
        run(student, replace(DISTILL, max_steps=4), tmp_path, teacher)
    assert "resuming" not in caplog.text


def test_a_folder_with_other_files_is_left_alone(untrained: Artifact, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="folder is not empty"):
        run(untrained, QUICK, tmp_path)
    assert (tmp_path / "work" / "thesis.txt").exists()


def test_trained_weights_survive_until_they_are_published(
    untrained: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(source: Artifact, config: TrainConfig, out: Path) -> Manifest:
        train(source, config, out, data=DATA, teacher=None, work=tmp_path / "work", save_seconds=0.0)
        raise KeyboardInterrupt

    config = replace(QUICK, data=DATA.digest)
    with pytest.raises(KeyboardInterrupt):
        stage.run("train", killed, untrained, config, tmp_path / "out")
    with caplog.at_level(logging.INFO, "edgebert"):
        made = build.train_stage(untrained, config, tmp_path / "out", data=DATA, teacher=None, work=tmp_path / "work")
    assert "resuming at step" in caplog.text
    assert not (tmp_path / "work").exists()
    # A run killed right here left the work of a training that is done.
    (tmp_path / "work").mkdir()
    assert (
        build.train_stage(untrained, config, tmp_path / "out", data=DATA, teacher=None, work=tmp_path / "work") == made
    )
    assert not (tmp_path / "work").exists()


def test_training_is_quiet_but_says_where_it_stands(
    student: Artifact,
    teacher: Artifact,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        run(student, replace(DISTILL, epochs=1.0), tmp_path, teacher)
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == {"edgebert"}
    assert caplog.messages[-1] == "epoch 1: dev accuracy 1.0000, best so far"
    assert caplog.messages[-2].startswith("step 8/8, loss ")


def test_a_diverging_run_is_stopped(untrained: Artifact, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"training diverged.*lower --lr"):
        run(untrained, replace(QUICK, lr=1e30), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["logits", "hidden"])
def test_a_sentence_encoder_learns_its_teachers_vectors(method: str, tmp_path: Path) -> None:
    pooling = Pooling("mean", normalize=True)
    guide = with_manifest(make_encoder(tmp_path / "guide", spread=0.2), pooling=pooling)
    other = with_manifest(make_encoder(tmp_path / "other", seed=1, spread=0.2), pooling=pooling)
    source = stage.run("truncate", truncate, other, TruncateConfig((0, 1)), tmp_path / "short")
    pairs = tuple(replace(row, text_b=f"{row.text} music", label=None) for row in DATA.train)
    data = Data("pairs", pairs, pairs[:10], pairs[:10], (), "none", "0" * 64)
    config = replace(DISTILL, method=method, epochs=2.0)
    begun = run(source, replace(config, max_steps=1), tmp_path / "begun", guide, data=data)
    done = run(source, config, tmp_path / "done", guide, data=data)
    # 60 pairs are 120 texts, 15 batches of 8 an epoch.
    assert training_of(done) == {**training_of(begun), "value": training_of(done)["value"], "step": 30}
    assert training_of(done)["metric"] == "negative loss"
    assert 0 > training_of(done)["value"] > training_of(begun)["value"] / 2
    assert done.manifest.pooling == pooling


def with_manifest(artifact: Artifact, **changes: Any) -> Artifact:
    return Artifact(artifact.path, replace(artifact.manifest, **changes))


MISFITS: dict[str, tuple[TrainConfig, dict[str, Any], type[EdgebertError], str]] = {
    "no teacher": (DISTILL, {"teacher": None}, InputError, "needs a teacher"),
    "other labels": (DISTILL, {"labels": ("x", "y")}, InputError, "labels differ"),
    "other order": (DISTILL, {"labels": LABELS[::-1]}, InputError, "labels differ"),
    "other task": (DISTILL, {"task": "feature-extraction"}, InputError, "tasks differ"),
    "other width": (DISTILL, {"hidden": 64}, InputError, "widths differ: 32 and 64.*--method relations"),
    "other vocabulary": (DISTILL, {"vocab": 9}, InputError, "vocabularies differ"),
    "scores": (QUICK, {"data": replace(DATA, kind="score")}, InputError, "scores, for single_label_classification"),
    "no labels": (QUICK, {"data": replace(DATA, kind="none")}, InputError, "no labels to train on"),
    "labels of others": (QUICK, {"data": replace(DATA, labels=("x", "y"))}, InputError, "are not those of"),
    "unknown method": (replace(QUICK, method="magic"), {}, UsageError, "unknown training method"),
    "no epochs": (replace(QUICK, epochs=0.0), {}, UsageError, "--epochs"),
    "endless epochs": (replace(QUICK, epochs=float("inf")), {}, UsageError, "--epochs"),
    "no number": (replace(QUICK, lr=float("nan")), {}, UsageError, "--lr"),
    "no steps": (replace(QUICK, max_steps=0), {}, UsageError, "--max-steps"),
    "empty batches": (replace(QUICK, train_batch_size=0), {}, UsageError, "--train-batch-size"),
}


@pytest.mark.parametrize(("config", "changes", "kind", "match"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    config: TrainConfig, changes: dict[str, Any], kind: type[EdgebertError], match: str,
    student: Artifact, teacher: Artifact, tmp_path: Path,
) -> None:  # fmt: skip
    shape = {key: changes.pop(key) for key in ("hidden", "vocab") if key in changes}
    data, guide = changes.get("data", DATA), changes.get("teacher", teacher)
    told = {key: value for key, value in changes.items() if key in ("labels", "task")}
    if guide is not None:
        guide = with_manifest(teacher, architecture=replace(teacher.manifest.architecture, **shape), **told)
    with pytest.raises(kind, match=match):
        run(student, config, tmp_path, guide, data=data)
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_encoder_needs_a_teacher(encoder: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learns only from a teacher"):
        run(with_manifest(encoder, pooling=Pooling("cls", normalize=False)), QUICK, tmp_path)


@pytest.fixture(scope="module")
def collate(teacher: Artifact) -> Collator:
    return Collator(tokenize(teacher, DATA.dev, 16), None, pad_id=0, token_types=True)


def test_batches_are_padded_to_their_longest(collate: Collator) -> None:
    batch = collate([1, 7])
    lengths = [len(collate.rows[i].ids) for i in (1, 7)]
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["rows"].tolist() == [1, 7]


def test_pairs_have_two_token_types_and_are_cut(teacher: Artifact) -> None:
    rows = tokenize(teacher, [Row("good film", "the music is bad"), Row("a " * 50, "b " * 50)], 16)
    assert rows[0].types == (0, 0, 0, 0, 1, 1, 1, 1, 1)
    assert [len(row.ids) for row in rows] == [9, 16]


@pytest.mark.parametrize("states", [(), (0, 2, 4)])
def test_kept_targets_equal_live_ones(
    states: tuple[int, ...], teacher: Artifact, collate: Collator, tmp_path: Path
) -> None:
    live = LiveTargets(load_module(teacher), None, states, bf16=False)
    place: Callable[[Any], Any] = lambda inputs: inputs  # noqa: E731
    kept = keep(live, collate, range(40), tmp_path, place)
    (stored,) = tmp_path.iterdir()
    inputs = collate([3, 30, 7])
    expected, found = live(inputs), kept(inputs)
    assert expected.logits is not None
    assert found.logits is not None
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)
    for ours, theirs in zip(found.hidden, expected.hidden, strict=True):
        mask = inputs["attention_mask"].unsqueeze(-1)
        assert torch.allclose(ours * mask, theirs * mask, atol=4e-3)
    # The second time everything is read; a torn chunk is computed again.
    before, torn = load_file(stored)["answers"].clone(), stored.read_bytes()[:100]
    stored.unlink()  # it is mapped into memory: never shorten it in place
    stored.write_bytes(torn)
    keep(live, collate, range(40), tmp_path, place)
    assert torch.equal(load_file(stored)["answers"], before)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (8, 8), (60, 8), (1000, 32)])
def test_batches_of_similar_length(count: int, size: int) -> None:
    lengths = [(i * 37) % 101 + 1 for i in range(count)]
    sampler = LengthGrouped(lengths, size, seed=0)
    batches = sampler.batches(0)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])
    assert batches == LengthGrouped(lengths, size, seed=0).batches(0)
    if count > size:
        assert batches != sampler.batches(1)
        assert batches != LengthGrouped(lengths, size, seed=1).batches(0)
    if count == 1000:
        padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
        assert padded < 1.2 * sum(lengths)
    sampler.set_epoch(1)
    assert list(sampler) == [index for batch in sampler.batches(1) for index in batch]


def test_a_tie_goes_to_the_later(tmp_path: Path) -> None:
    work, module = Work.open(tmp_path / "work", "key"), torch.nn.Linear(2, 2)
    assert work.best() is None
    assert work.offer(module, Best(0.5, 1))
    assert work.offer(module, Best(0.5, 2))
    assert not work.offer(module, Best(0.4, 3))
    assert work.best() == Best(0.5, 2)


def test_a_disk_too_small_is_named_with_the_bytes(tmp_path: Path) -> None:
    work = Work.open(tmp_path / "work", "key")
    work.require_space(1)
    with pytest.raises(EnvironmentMissing, match=f"training needs 1,000,000,000,000,000,000 bytes.*{tmp_path}"):
        work.require_space(10**18)


def test_the_teachers_recipe() -> None:
    bert, larger = (3.0, 5e-5), (5.0, 2e-4)
    wide = [(768, 77, bert), (1024, 2, bert)]
    for hidden, labels, expected in [(384, 2, bert), (512, 10, bert), (512, 11, larger), (384, 77, larger), *wide]:
        recipe = teacher_recipe(hidden, labels)
        assert (recipe.method, recipe.epochs, recipe.lr) == ("none", *expected)
