"""Checkpoints: which folders are taken, what is read off them, and what is refused before any code of theirs runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgebert import stage
from edgebert.artifact import Architecture, Artifact, Pooling, TensorSpec
from edgebert.errors import EdgebertError, EnvironmentMissing, InputError, UsageError
from edgebert.families import FAMILIES
from edgebert.shaping.checkpoint import HeadConfig, add_head, load_module, open_checkpoint
from edgebert.shaping.depth import TruncateConfig, truncate
from edgebert.stage import hash_file
from edgebert.tasks import TASKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "tiny", layers=2)


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None takes the field out."""
    document = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}), "utf-8")


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("task", tiny.TASKS)
def test_what_a_folder_says_of_itself(family: str, task: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "some-model", family, task, layers=2)
    manifest = open_checkpoint(str(folder)).manifest
    vocab = tiny.tokenizer_of(family).get_vocab_size()
    assert manifest.architecture == Architecture(family, 2, tiny.HIDDEN, tiny.HEADS, tiny.FFN, vocab)
    assert (manifest.format, manifest.name, manifest.task) == ("torch", "some-model", task)
    assert (manifest.precision, manifest.target, manifest.kept_layers) == ("fp32", "torch", (0, 1))
    assert manifest.max_length == tiny.MAX_LENGTH
    assert manifest.labels == tiny.HEADS_OF.get(task, ())
    assert manifest.pooling == (Pooling("mean", normalize=True) if TASKS[task].pools else None)
    assert (manifest.problem, manifest.metric) == (None, TASKS[task].problems[0].metric)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if FAMILIES[family].token_types else [])]
    assert manifest.inputs == tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in names)
    outputs = TASKS[task].outputs
    assert manifest.outputs == tuple(TensorSpec(output.name, "float32", output.shape) for output in outputs)
    assert manifest.files["model.safetensors"] == hash_file(folder / "model.safetensors")
    assert "tokenizer.json" in manifest.files


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("task", tiny.TASKS)
def test_weights_are_loaded_exactly(family: str, task: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", family, task, layers=2)
    module = load_module(open_checkpoint(str(folder)))
    stored = load_file(folder / "model.safetensors")
    loaded = module.state_dict()
    assert not module.training
    # A masked head's table of words is the encoder's, and stored once.
    read = {tensor.data_ptr() for name, tensor in loaded.items() if name in stored}
    assert all(tensor.data_ptr() in read for tensor in loaded.values())
    assert all(torch.equal(tensor, stored[name]) for name, tensor in loaded.items() if name in stored)


def test_a_folder_called_minilm_is_that_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(tmp_path / "minilm")
    monkeypatch.chdir(tmp_path)
    artifact = open_checkpoint("minilm")
    assert (artifact.manifest.name, artifact.manifest.architecture.hidden) == ("minilm", tiny.HIDDEN)


def test_the_built_in_model_is_the_published_one(minilm: str) -> None:
    manifest = open_checkpoint(minilm).manifest
    assert manifest.name == "minilm"
    assert manifest.architecture == Architecture("bert", layers=6, hidden=384, heads=12, ffn=1536, vocab=30522)
    assert manifest.task == "feature-extraction"
    assert manifest.pooling == Pooling("mean", normalize=True)
    assert manifest.max_length == 256
    weights = manifest.files["model.safetensors"]
    assert weights.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.mark.parametrize(
    ("name", "kind", "match"),
    [
        ("./nowhere", InputError, "no such checkpoint folder"),
        ("/nowhere/at/all", InputError, "no such checkpoint folder"),
        ("a/b/c", InputError, "no such checkpoint folder"),
        ("not a name!", InputError, "neither a folder nor a hub id"),
        ("someone/some-model", EnvironmentMissing, "the hub did not serve it"),
    ],
)
def test_names_that_lead_nowhere(
    name: str, kind: type[EdgebertError], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=match):
        open_checkpoint(name)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint folder"):
        open_checkpoint(str(folder / "config.json"))


@pytest.mark.parametrize("family", ["gpt2", "t5", None, 7, ["bert"]])
def test_another_family_is_refused_with_the_list(family: object, folder: Path) -> None:
    rewrite(folder / "config.json", model_type=family)
    with pytest.raises(InputError, match=f"unsupported model family.*{', '.join(tiny.FAMILIES)}"):
        open_checkpoint(str(folder))
    assert tuple(FAMILIES) == tiny.FAMILIES


class Planted:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused_unopened(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    load_module(open_checkpoint(str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights are pickle only.*safetensors"):
        open_checkpoint(str(folder))
    assert not (tmp_path / "planted").exists()


def test_remote_code_is_refused_unrun(folder: Path, tmp_path: Path) -> None:
    (folder / "custom.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'planted')!r})\nclass Model: pass\n")
    rewrite(folder / "config.json", auto_map={"AutoModel": "custom.Model"})
    with pytest.raises(InputError, match=r"asks to run its own code.*auto_map"):
        open_checkpoint(str(folder))
    assert not (tmp_path / "planted").exists()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_header(**fields: Any) -> Callable[[Path], object]:
    """Lies in the header of the weights, about the table of words."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        header["bert.embeddings.word_embeddings.weight"] |= fields
        changed = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])

    return change


def change_weights(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda f: (f / "model.safetensors").write_bytes(change((f / "model.safetensors").read_bytes()))


def set_config(**fields: Any) -> Callable[[Path], object]:
    return lambda f: rewrite(f / "config.json", **fields)


def shards_at(name: str, *, whole: bool = True) -> Callable[[Path], object]:
    """An index that says all weights are in the file ``name``; a good one lies outside the folder."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        index = {"weight_map": {"bert.pooler.dense.weight": name}} if whole else {"weight_map": 7}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"file is missing.*config\.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), r"not valid JSON.*config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no weights.*model\.safetensors"),
    "no layer count": (lambda f: rewrite(f / "config.json", num_hidden_layers=None), "num_hidden_layers"),
    "layers in words": (set_config(num_hidden_layers="two"), "lacks a usable num_hidden_layers: 'two'"),
    "half a layer": (set_config(num_hidden_layers=1.5), "lacks a usable num_hidden_layers: 1.5"),
    "true layers": (set_config(num_hidden_layers=True), "lacks a usable num_hidden_layers: True"),
    "no layers": (set_config(num_hidden_layers=0), "lacks a usable num_hidden_layers: 0"),
    "a billion layers": (set_config(num_hidden_layers=10**9), "lacks a usable num_hidden_layers: 1000000000"),
    "fewer layers than weights": (set_config(num_hidden_layers=1), "num_hidden_layers 1, the weights have 2"),
    "more layers than weights": (set_config(num_hidden_layers=3), "num_hidden_layers 3, the weights have 2"),
    "heads that do not divide": (set_config(num_attention_heads=5), "hidden_size 32 is no multiple of .* 5"),
    "no heads": (set_config(num_attention_heads=0), "lacks a usable num_attention_heads: 0"),
    "another width": (set_config(hidden_size=64), r"word_embeddings.* another shape: \(\d+, 32\) for \(\d+, 64\)"),
    "another vocabulary": (set_config(vocab_size=10), r"word_embeddings.* another shape: \(\d+, 32\) for \(10, 32\)"),
    "other positions": (set_config(max_position_embeddings=9), r"position_embeddings.* for \(9, 32\)"),
    "positions in words": (set_config(max_position_embeddings="many"), "lacks a usable max_position_embeddings"),
    "labels in a list": (set_config(id2label=["a", "b"]), "id2label does not number"),
    "labels with a gap": (set_config(id2label={"0": "a", "2": "b"}), "id2label does not number"),
    "no architecture": (set_config(architectures=7), "no task for architecture 7"),
    "key twice": (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), r"duplicate key.*config\.json"),
    "NaN": (lambda f: (f / "config.json").write_text('{"a": NaN}'), r"NaN is not JSON.*config\.json"),
    "nesting": (lambda f: (f / "config.json").write_text('{"a":' * 100_000), r"not valid JSON.*config\.json"),
    "tokenizer without length": (
        lambda f: rewrite(f / "tokenizer_config.json", model_max_length="x"),
        r"lacks a usable model_max_length.*tokenizer_config\.json",
    ),
    "torn weights": (cut_weights, r"unreadable weights.*model\.safetensors"),
    "empty weights": (change_weights(lambda raw: b""), "unreadable weights"),
    "weights longer than said": (change_weights(lambda raw: raw + b"more"), "longer than its header says"),
    "a pickle with another name": (change_weights(lambda raw: pickle.dumps([1, 2])), "unreadable weights"),
    "header of 2^60 bytes": (change_weights(lambda raw: struct.pack("<Q", 2**60) + raw[8:]), "unreadable weights"),
    "header of null": (change_weights(lambda raw: struct.pack("<Q", 4) + b"null"), "not a JSON object"),
    "dims of 2^64": (change_header(shape=[2**32, 2**32]), "another shape"),
    "offsets of 2^60": (change_header(data_offsets=[0, 2**60]), "longer than its header says"),
    "shape in words": (change_header(shape=["a"]), "header of bert"),
    "whole numbers for weights": (change_header(dtype="I32"), "word_embeddings.weight are I32"),
    "shards outside": (shards_at("../outside.safetensors"), r"shard '\.\./outside.*no safetensors file of this folder"),
    "shards at the root": (shards_at("/etc/passwd"), "shard '/etc/passwd' is no safetensors"),
    "shards that are pickles": (shards_at("pytorch_model.bin"), "is no safetensors"),
    "shards that are missing": (shards_at("model-1.safetensors"), "shard is missing"),
    "no map of shards": (shards_at("", whole=False), "no weight_map"),
    "another head": (
        lambda f: rewrite(f / "config.json", architectures=["BertForMultipleChoice"]),
        "no task for architecture BertForMultipleChoice.*" + ", ".join(TASKS),
    ),
}


@pytest.mark.parametrize(("harm", "match"), HARMS.values(), ids=HARMS)
def test_an_incomplete_folder_is_refused(harm: Callable[[Path], object], match: str, folder: Path) -> None:
    harm(folder)
    with pytest.raises(InputError, match=match):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("modules", ["[", "7", '["pooling"]', '[{"idx": 0}]'])
def test_broken_pooling_files_are_refused(modules: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)
    (folder / "modules.json").write_text(modules)
    with pytest.raises(InputError, match=r"modules\.json"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({"pooling_mode_cls_token": True}, Pooling("cls", normalize=True)),
        ({"pooling_mode_max_tokens": True}, Pooling("max", normalize=True)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None),
        ({"pooling_mode_weightedmean_tokens": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, Pooling("mean", normalize=True)),
        ({"pooling_mode": "cls", "embedding_dimension": tiny.HIDDEN}, Pooling("cls", normalize=True)),
        ({"pooling_mode": ["max"]}, Pooling("max", normalize=True)),
        ({"pooling_mode": ["cls", "mean"]}, None),
        ({"pooling_mode": "lasttoken"}, None),
        ({"pooling_mode": 7}, None),
        ({}, None),
    ],
)
def test_pooling_is_one_of_three(modes: dict[str, Any], expected: Pooling | None, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    if expected is None:
        with pytest.raises(InputError, match="pooling is not one of cls, mean, max"):
            open_checkpoint(str(folder))
    else:
        assert open_checkpoint(str(folder)).manifest.pooling == expected


def test_a_layer_after_pooling_is_not_left_out_in_silence(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    with pytest.raises(InputError, match=r"a module Dense on top of the encoder.*modules\.json"):
        open_checkpoint(str(folder))


def test_a_plain_encoder_pools_by_unnormalized_means(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)
    (folder / "modules.json").unlink()
    assert open_checkpoint(str(folder)).manifest.pooling == Pooling("mean", normalize=False)


def test_the_shortest_limit_counts(folder: Path) -> None:
    rewrite(folder / "tokenizer_config.json", model_max_length=10**30)
    assert open_checkpoint(str(folder)).manifest.max_length == tiny.MAX_LENGTH
    rewrite(folder / "tokenizer_config.json", model_max_length=20)
    assert open_checkpoint(str(folder)).manifest.max_length == 20
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert open_checkpoint(str(folder)).manifest.max_length == 12


def test_labels_stand_in_the_order_of_their_index(folder: Path) -> None:
    names = {str(i): f"label {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    rewrite(folder / "config.json", id2label=names)
    assert open_checkpoint(str(folder)).manifest.labels == tuple(f"label {i}" for i in range(11))


def test_the_task_can_be_told(folder: Path) -> None:
    told = open_checkpoint(str(folder), "feature-extraction")
    assert (told.manifest.task, told.manifest.labels) == ("feature-extraction", ())
    assert open_checkpoint(str(folder), "auto").manifest.task == "text-classification"
    with pytest.raises(UsageError, match="unknown task 'poetry'.*" + ", ".join(TASKS)):
        open_checkpoint(str(folder), "poetry")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_bare_encoder_is_no_classifier(family: str, tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "tiny", family, "feature-extraction", layers=1)
    told = open_checkpoint(str(folder), "text-classification")
    with pytest.raises(InputError, match=r"weights missing: .*classifier.*fine-tune"):
        load_module(told)


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "wider": (lambda f: rewrite(f / "config.json", intermediate_size=65), r"another shape: .* for \(65"),
    "another activation": (
        lambda f: rewrite(f / "config.json", hidden_act="exec"),
        r"cannot build .*exec.*config\.json",
    ),
}


@pytest.mark.parametrize(("harm", "match"), UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("use", [load_module, lambda source: head_on(source, source.path.with_name("made"))])
def test_weights_that_do_not_fit_are_refused(
    use: Callable[[Artifact], object], harm: Callable[[Path], object], match: str, folder: Path
) -> None:
    harm(folder)
    source = open_checkpoint(str(folder))
    with pytest.raises(InputError, match=match):
        use(source)


def test_weights_torn_after_they_were_described_are_refused(folder: Path) -> None:
    source = open_checkpoint(str(folder))
    cut_weights(folder)
    with pytest.raises(InputError, match=r"unreadable weights.*tiny"):
        load_module(source)


def test_weights_may_be_links_as_in_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    before = open_checkpoint(str(folder)).digest
    (tmp_path / "blobs").mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).rename(tmp_path / "blobs" / name)
        (folder / name).symlink_to(Path("..", "blobs", name))
    source = open_checkpoint(str(folder))
    assert source.digest == before
    load_module(source)


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_of_a_tokenizer_is_not_run(where: str, folder: Path, tmp_path: Path) -> None:
    (folder / "custom.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'planted')!r})\nclass Made: pass\n")
    rewrite(folder / where, auto_map={"AutoTokenizer": ["custom.Made", None]})
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(InputError):
        truncated(open_checkpoint(str(folder)), tmp_path / "made")
    assert not (tmp_path / "planted").exists()


def head_on(source: Artifact, out: Path, seed: int = 0) -> Artifact:
    return stage.run("head", add_head, source, HeadConfig(("a", "b"), seed), out)


def test_an_encoder_without_a_pooler_gets_a_fresh_one(tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)))
    weights = load_file(source.path / "model.safetensors")
    save_file({name: weights[name] for name in weights if "pooler" not in name}, source.path / "model.safetensors")
    made = head_on(open_checkpoint(str(source.path)), tmp_path / "made")
    assert "bert.pooler.dense.weight" in load_file(made.path / "model.safetensors")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_fresh_head_keeps_the_encoder(family: str, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "tiny", family, "feature-extraction", layers=2)))
    state = torch.random.get_rng_state()
    made = head_on(source, tmp_path / "made")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (made.manifest.task, made.manifest.labels, made.manifest.pooling) == (
        "text-classification",
        ("a", "b"),
        None,
    )
    assert made.manifest.outputs[0].name == "logits"
    assert not made.has("modules.json")
    before, after = load_file(source.path / "model.safetensors"), load_file(made.path / "model.safetensors")
    prefix = FAMILIES[family].base_prefix
    encoder = {name: tensor for name, tensor in after.items() if name.startswith(prefix)}
    assert len(encoder) > 30
    assert all(torch.equal(tensor, before[name.removeprefix(prefix)]) for name, tensor in encoder.items())
    # It is a checkpoint like any other, with or without its manifest.
    (made.path / "edgebert.json").unlink()
    assert open_checkpoint(str(made.path)).manifest.labels == ("a", "b")


def test_the_seed_decides_the_head(tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "tiny", task="feature-extraction", layers=1)))
    made = [head_on(source, tmp_path / str(index), seed) for index, seed in enumerate((0, 0, 1))]
    digests = [artifact.manifest.files["model.safetensors"].sha256 for artifact in made]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_weights_in_shards(tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "whole")))
    shutil.copytree(source.path, tmp_path / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    load_module(source).save_pretrained(tmp_path / "shards", max_shard_size="60KB")  # type: ignore[operator]
    shards = open_checkpoint(str(tmp_path / "shards"))
    assert sum(name.endswith(".safetensors") for name in shards.manifest.files) > 1
    assert shards.has("model.safetensors.index.json")
    whole, cut = (
        stage.run("truncate", truncate, artifact, TruncateConfig((0, 1)), tmp_path / "out" / artifact.manifest.name)
        for artifact in (source, shards)
    )
    assert cut.manifest.files["model.safetensors"] == whole.manifest.files["model.safetensors"]


def test_a_slow_tokenizer_is_made_fast(folder: Path, tmp_path: Path) -> None:
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces = sorted(fast.get_vocab().items(), key=lambda item: item[1])
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces), "utf-8")
    rewrite(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    made = truncated(open_checkpoint(str(folder)), tmp_path / "made")
    again = Tokenizer.from_file(str(made.path / "tokenizer.json"))
    for text in ["The film is a slow joke!", "naïve 日本 x7"]:
        assert again.encode(text, "a song").ids == fast.encode(text, "a song").ids


def test_an_unusable_slow_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("[")
    (folder / "merges.txt").touch()
    rewrite(folder / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    with pytest.raises(InputError, match="no usable tokenizer"):
        truncated(open_checkpoint(str(folder)), tmp_path / "made")


def test_without_a_tokenizer_nothing_is_made(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"no tokenizer.*tokenizer\.json"):
        truncated(open_checkpoint(str(folder)), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def truncated(source: Artifact, out: Path) -> Artifact:
    return stage.run("truncate", truncate, source, TruncateConfig((0,)), out)


def test_an_exported_artifact_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    made = truncated(open_checkpoint(str(folder)), tmp_path / "made")
    assert open_checkpoint(str(made.path)) == made
    rewrite(made.path / "edgebert.json", format="onnx")
    with pytest.raises(InputError, match="an exported artifact is not a checkpoint"):
        open_checkpoint(str(made.path))
