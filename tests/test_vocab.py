"""A pruned vocabulary: on the texts it was made for nothing changes, not a bit; on others the loss is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from commands import edgebert
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import InputError, UsageError
from edgebert.runtimes.reference import reference_session
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import open_checkpoint
from edgebert.tasks import TASKS
from edgebert.tokenizer import open_tokenizer
from edgebert.training.data import read

# The last of these has words that no piece begins, and one that only a longer dead end makes unknown.
TEXTS = ["the film was good", "a quiet river", "night falls on the city", "glass, stone & paper: 42!", "☃ été ☃☃"]
OTHERS = ["the winter market", "the film was good", "xyz"]

# A unigram tokenizer weighs whole cuttings of a text against each other: it is refused.
UNIGRAM = ("xlm-roberta", "camembert")
each_pair = pytest.mark.parametrize(
    ("family", "task"), [(family, task) for family in tiny.FAMILIES if family not in UNIGRAM for task in tiny.TASKS]
)


def data(folder: Path, texts: list[str] = TEXTS, others: list[str] = OTHERS) -> Path:
    folder.mkdir()
    for split, rows in (("train", texts), ("dev", others), ("test", others)):
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    return folder


def pruned(source: Artifact, folder: Path) -> Artifact:
    return build.pruned(source, read(data(folder / "data")), folder / "pruned")


@each_pair
def test_nothing_changes_on_the_texts_it_was_made_for(family: str, task: str, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model", family, task)))
    made = pruned(source, tmp_path)
    assert made.manifest.architecture.vocab < source.manifest.architecture.vocab
    feeds = []
    for artifact in (source, made):
        tokenizer = TextTokenizer(artifact)
        feeds.append(tokenizer.collate(tokenizer.encode(TEXTS)))
    joined = TASKS[task].joined
    expected, result = (
        joined(reference_session(artifact).run(feed)) for artifact, feed in zip((source, made), feeds, strict=True)
    )
    assert (feeds[0]["input_ids"] != feeds[1]["input_ids"]).any()
    if task == "fill-mask":
        # Fewer tokens to guess among: those that stayed are as likely, computed in a product of another width.
        old, new = open_tokenizer(source).get_vocab(), open_tokenizer(made).get_vocab()
        assert result == pytest.approx(
            expected[..., [old[token] for token in sorted(new, key=new.__getitem__)]], abs=1e-5
        )
        return
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("family", UNIGRAM)
def test_a_unigram_tokenizer_is_refused(family: str, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model", family, tiny.TASKS[0])))
    with pytest.raises(InputError, match="cannot prune a Unigram tokenizer"):
        pruned(source, tmp_path)
    assert not (tmp_path / "pruned").exists()


@each_pair
def test_transformers_loads_it_and_reads_as_we_do(family: str, task: str, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model", family, task)))
    made = pruned(source, tmp_path)
    module = tiny.auto_class(task).from_pretrained(made.path)
    vocab = made.manifest.architecture.vocab
    assert module.config.vocab_size == module.get_input_embeddings().num_embeddings == vocab
    theirs = transformers.AutoTokenizer.from_pretrained(str(made.path))
    ours = open_tokenizer(made)
    before = open_tokenizer(source)
    assert ours.get_vocab_size() == len(theirs) == vocab
    for text in (*TEXTS, *OTHERS):
        assert theirs(text)["input_ids"] == ours.encode(text).ids
    for name in ("pad_token_id", "mask_token_id", "unk_token_id"):
        assert before.id_to_token(getattr(module.config, name, None) or 0) is not None
        assert ours.id_to_token(getattr(theirs, name)) == getattr(theirs, name.removesuffix("_id"))
    assert theirs.pad_token_id == module.config.pad_token_id


def test_characters_and_special_tokens_stay_and_unused_words_go(tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "model")))
    vocab = open_tokenizer(pruned(source, tmp_path)).get_vocab()
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "z", "##a", "##z", "7", "!"} <= vocab.keys()
    assert {"film", "good", "river"} <= vocab.keys()
    assert not {"winter", "market", "sings"} & vocab.keys()
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_the_loss_is_measured_on_the_other_splits(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    loss = pruned(open_checkpoint(str(folder)), tmp_path).manifest.checks["vocab"]
    # dev and test, three texts each; of these one holds words that went, and is spelled out now.
    assert loss["texts"] == 2 * len(OTHERS)
    assert loss["changed"] == pytest.approx(1 / 3)
    assert loss["unknown_before"] == loss["unknown_after"] == 0
    rows = (loss["tokens_before"] - loss["tokens_after"]) * tiny.HIDDEN * 4
    assert loss["bytes_before"] == (folder / "model.safetensors").stat().st_size
    assert abs(loss["bytes_before"] - loss["bytes_after"] - rows) < 200


def test_other_files_with_ids_follow(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model", "roberta")
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "vocab.json").write_text(json.dumps(document["model"]["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nĠ a\n", "utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["added_tokens_decoder"] = {
        str(token["id"]): {"content": token["content"]} for token in document["added_tokens"]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    made = pruned(open_checkpoint(str(folder)), tmp_path)
    after = json.loads((made.path / "tokenizer.json").read_text("utf-8"))["model"]
    assert json.loads((made.path / "vocab.json").read_text("utf-8")) == after["vocab"]
    merges = [line.split() for line in (made.path / "merges.txt").read_text("utf-8").splitlines()[1:]]
    assert merges == after["merges"]
    assert 0 < len(merges) < len(document["model"]["merges"])
    settings = json.loads((made.path / "tokenizer_config.json").read_text("utf-8"))
    for number, token in settings["added_tokens_decoder"].items():
        assert after["vocab"][token["content"]] == int(number)


def test_a_padding_and_truncation_of_its_own_stay(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(pad_id=4, pad_token="[MASK]", length=5)
    tokenizer.save(str(folder / "tokenizer.json"))
    made = pruned(open_checkpoint(str(folder)), tmp_path)
    after = json.loads((made.path / "tokenizer.json").read_text("utf-8"))
    assert after["truncation"]["max_length"] == 5
    assert after["padding"]["pad_id"] == after["model"]["vocab"]["[MASK]"]


def with_tokenizer(folder: Path, tokenizer: Tokenizer, family: str) -> Artifact:
    """A checkpoint whose words are those of a tokenizer; its special tokens are the tiny one's."""
    tiny.checkpoint(folder, family, layers=1)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["vocab_size"] = tokenizer.get_vocab_size()
    module = tiny.auto_class(tiny.TASKS[0]).from_config(transformers.AutoConfig.for_model(**config))
    module.save_pretrained(folder)
    return open_checkpoint(str(folder))


def test_an_unknown_word_stays_unknown(tmp_path: Path) -> None:
    # "abc" is "ab" and a dead end; without "ab" it would be read as "a", "##bc".
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "ab", "##bc", "de"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(pieces[:5])
    source = with_tokenizer(tmp_path / "model", tokenizer, "bert")
    made = build.pruned(source, read(data(tmp_path / "data", ["abc abc", "a"], ["de"])), tmp_path / "out")
    assert open_tokenizer(made).encode("abc").tokens == ["[UNK]"]
    assert made.manifest.checks["vocab"]["unknown_after"] == 1


@given(st.lists(st.text("abc ", max_size=12), min_size=1, max_size=4), st.data())
def test_byte_pairs_merge_as_before(texts: list[str], draw: st.DataObject) -> None:
    from edgebert.shaping.vocab import _byte_pairs, _pairs

    # Any order of merges, some of which make the same piece in two ways.
    words = ["ab", "bc", "ca", "abc", "bca", "aa", "aab"]
    every = [(word[:i], word[i:]) for word in words for i in range(1, len(word))]
    merges = draw.draw(st.permutations(every))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*alphabet, *words])}

    def tokenizer(vocab: dict[str, int], pairs: list[tuple[str, str]]) -> Tokenizer:
        made = Tokenizer(models.BPE(vocab, pairs))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return made

    before = tokenizer(vocabulary, merges)
    model: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    used = {number for text in texts for number in before.encode(text).ids}
    kept = {piece for piece, number in vocabulary.items() if number in {*used, *_byte_pairs(model, used)}}
    pairs = [pair for pair in _pairs(merges) if {*pair, "".join(pair)} <= kept]
    after = tokenizer({piece: number for number, piece in enumerate(sorted(kept))}, pairs)
    for text in texts:
        assert after.encode(text).tokens == before.encode(text).tokens


@pytest.mark.parametrize("name", ["end_of_word_suffix", "ignore_merges", "byte_fallback"])
def test_other_kinds_of_byte_pairs_are_refused(name: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model", "roberta")
    document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    document["model"][name] = "</w>" if name == "end_of_word_suffix" else True
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError, match=f"cannot prune a BPE tokenizer with {name}"):
        pruned(open_checkpoint(str(folder)), tmp_path)
    assert not (tmp_path / "pruned").exists()


def test_rows_of_a_masked_language_models_head_are_pruned_too(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "model", task="feature-extraction")
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    made = pruned(open_checkpoint(str(folder)), tmp_path)
    kind: Any = transformers.BertForMaskedLM
    module, report = kind.from_pretrained(made.path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert module.get_output_embeddings().out_features == made.manifest.architecture.vocab


def test_the_commands_prune(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", task="feature-extraction")
    texts = data(tmp_path / "data")
    before = {path: path.read_bytes() for path in model.iterdir() if path.is_file()}
    flags = ("--model", model, "--prune-vocab", texts)
    done = edgebert("export", *flags, "--layers", "2", "--precision", "fp32,int8", "-o", tmp_path / "out", "--json")
    assert done.code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["model-pruned-l2-cpu-fp32", "model-pruned-l2-cpu-int8"]
    for name in names:
        assert edgebert("verify", tmp_path / "out" / name).code == 0
        with load(tmp_path / "out" / name) as session:
            assert len(session.encode(TEXTS)) == len(TEXTS)
    done = edgebert("resize", *flags, "--layers", "1", "-o", tmp_path / "small")
    assert done.code == 0
    assert "vocabulary: 146 to 85 tokens, weights" in done.err
    small = Artifact.open(tmp_path / "small").manifest
    assert (small.architecture.layers, [step.stage for step in small.history]) == (1, ["truncate", "prune-vocab"])
    assert edgebert("resize", *flags, "-o", tmp_path / "deep").code == 0
    assert Artifact.open(tmp_path / "deep").manifest.architecture.layers == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "deep", "model", "out", "small"]
    assert before == {path: path.read_bytes() for path in model.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match="nothing to change"):
        build.resize(str(model), tmp_path / "same")


def test_minilm_keeps_its_vectors(minilm: str, shared: Path, tmp_path: Path) -> None:
    source, rows = open_checkpoint(minilm), read(shared / "data" / "sst2_sent")
    made = build.pruned(source, rows, tmp_path / "pruned")
    texts = [row.text for row in rows.train[:8]]
    vectors = []
    for artifact in (source, made):
        tokenizer = TextTokenizer(artifact)
        vectors.append(reference_session(artifact).run(tokenizer.collate(tokenizer.encode(texts))))
    assert vectors[0]["last_hidden_state"].tobytes() == vectors[1]["last_hidden_state"].tobytes()
    loss = made.manifest.checks["vocab"]
    assert loss["bytes_after"] < 0.8 * loss["bytes_before"]
    assert 0 < loss["changed"] < 0.5
    assert loss["unknown_after"] < 0.001
