"""The artifact: one identity, one serialization, and every broken or hostile one refused by name."""

from __future__ import annotations

import json
import math
import os
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from edgebert import stage
from edgebert.artifact import (
    MANIFEST,
    MANIFEST_HASH,
    MAX_MANIFEST_BYTES,
    Architecture,
    Artifact,
    FileEntry,
    Manifest,
    Pooling,
    Step,
    TensorSpec,
    safe_name,
)
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.files import private_folder
from edgebert.strict_json import canonical_json, parse_json

# What RFC 8785 can write: text without lone surrogates, integers that a double holds.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | TEXT | st.integers(1 - 2**53, 2**53 - 1) | FLOATS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)

MANIFEST_OF_A_PAIR_MODEL = Manifest(
    format="onnx",
    name="tiny",
    task="text-classification",
    architecture=Architecture("bert", layers=2, hidden=32, heads=4, ffn=64, vocab=99),
    kept_layers=(0, 3),
    precision="int8",
    target="cpu",
    inputs=(TensorSpec("input_ids", "int64", ("batch", "sequence")),),
    outputs=(TensorSpec("logits", "float32", ("batch", "labels")),),
    max_length=64,
    labels=("non", "où"),
    pooling=Pooling("mean", normalize=True),
    history=(Step("graph", {"opset": 18, "rate": 1e-7}, {"torch": "2.13.0"}, "0" * 64),),
    needs={"isa": ["avx2"]},
    checks={"parity": [{"name": "x", "label_agreement": None, "max_abs_error": 1.5e-6}]},
)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "artifact"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 4)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    manifest = replace(MANIFEST_OF_A_PAIR_MODEL, files=stage.hash_files(folder))
    stage.write_json(folder / MANIFEST, manifest.to_dict())
    return Artifact.open(folder)


@given(JSON)
@example([1e21, 1e20, 123456789012345680000.0, 1e-6, 1e-7, 5e-324, 1.7976931348623157e308, -0.0, 0.1, 100.0])
@example({"\ufb33": 1, "\U0001f600": 2, "€": 3, "\r": 4, "ö": 5, "1": 6, "\x80": 7})
@example('\x7f\x00\u2028\\"/\b')
def test_canonical_json_is_rfc_8785(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(FLOATS)
def test_canonical_numbers_are_rfc_8785(value: float) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_has_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        canonical_json({"x": [value]})


def test_a_manifest_survives_json() -> None:
    document = json.loads(json.dumps(MANIFEST_OF_A_PAIR_MODEL.to_dict()))
    again = Manifest.from_dict(document, "here")
    assert again == MANIFEST_OF_A_PAIR_MODEL
    assert again.digest == MANIFEST_OF_A_PAIR_MODEL.digest
    assert len(again.digest) == 64


def test_everything_in_the_manifest_is_part_of_the_identity() -> None:
    changes: list[dict[str, Any]] = [
        {"name": "other"}, {"labels": ("où", "non")}, {"max_length": 63}, {"kept_layers": (0, 2)},
        {"files": {"model.onnx": FileEntry("0" * 64, 1)}}, {"checks": {}}, {"pooling": None}, {"history": ()},
    ]  # fmt: skip
    digests = {replace(MANIFEST_OF_A_PAIR_MODEL, **change).digest for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_an_older_minor_schema_and_unknown_fields_are_read() -> None:
    document = {**MANIFEST_OF_A_PAIR_MODEL.to_dict(), "schema": "1.9", "invented_later": {"x": 1}}
    assert Manifest.from_dict(document, "here").labels == MANIFEST_OF_A_PAIR_MODEL.labels


def test_save_load_save_gives_identical_bytes(artifact: Artifact) -> None:
    saved = (artifact.path / MANIFEST).read_bytes()
    stage.write_json(artifact.path / MANIFEST, Artifact.open(artifact.path).manifest.to_dict())
    assert (artifact.path / MANIFEST).read_bytes() == saved
    assert "où".encode() in saved


def test_listed_files_are_read_and_counted(artifact: Artifact) -> None:
    assert artifact.read("model.onnx") == bytes(range(256)) * 4
    assert artifact.read("1_Pooling/config.json") == b"{}"
    assert artifact.manifest.bytes == 1026
    assert artifact.has("model.onnx")
    assert not artifact.has(MANIFEST)


ARCHITECTURE = MANIFEST_OF_A_PAIR_MODEL.to_dict()["architecture"]


def manifest_with(**changes: Any) -> bytes:
    return json.dumps({**MANIFEST_OF_A_PAIR_MODEL.to_dict(), **changes}).encode()


def manifest_without(field: str) -> bytes:
    document = MANIFEST_OF_A_PAIR_MODEL.to_dict()
    del document[field]
    return json.dumps(document).encode()


def listing(name: str) -> bytes:
    return manifest_with(files={name: {"sha256": "0" * 64, "bytes": 1}})


BROKEN: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "not valid JSON"),
    "blank": (b" \n", "not valid JSON"),
    "cut": (manifest_with()[:-40], "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "latin-1": ('{"name": "où"}'.encode("latin-1"), "not valid JSON"),
    "duplicate keys": (b'{"schema": "1.0", "schema": "1.0"}', "duplicate key"),
    "duplicate keys inside": (b'{"schema": "1.0", "needs": {"a": 1, "a": 2}}', "duplicate key"),
    "NaN": (manifest_with(max_length=math.nan), "NaN is not JSON"),
    "infinity": (manifest_with(needs={"x": [-math.inf]}), "-Infinity is not JSON"),
    "nesting": (b'{"needs":' * 100_000, "not valid JSON"),
    "nested lists": (b'{"needs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    "a number of 5000 digits": (b'{"max_length":' + b"9" * 5000 + b"}", "not valid JSON"),
    "no object": (b"{}", "unreadable schema None"),
    "schema is a number": (manifest_with(schema=1.0), "unreadable schema 1.0"),
    "schema is a word": (manifest_with(schema="one"), "unreadable schema 'one'"),
    "newer schema": (manifest_with(schema="2.0"), "schema 2.0 is newer than 1.0.*needs edgebert >= 2.0"),
    "missing field": (manifest_without("task"), r"manifest\.task is missing"),
    "missing shape": (manifest_with(architecture={"family": "bert"}), r"architecture\.ffn is missing"),
    "text for a number": (manifest_with(max_length="64"), "field max_length has the wrong type"),
    "true for a number": (manifest_with(max_length=True), "field max_length has the wrong type"),
    "text for a list": (manifest_with(labels="no"), "field labels has the wrong type"),
    "numbers among labels": (manifest_with(labels=["no", 1]), r"field labels\[1\] has the wrong type"),
    "list for an object": (manifest_with(files=[]), "field files has the wrong type"),
    "text for an entry": (manifest_with(files={"a": "b"}), r"files\.a is not an object"),
    "parent": (listing("../secret"), "leads out of the artifact"),
    "hidden parent": (listing("a/../../secret"), "leads out of the artifact"),
    "absolute": (listing("/etc/passwd"), "leads out of the artifact"),
    "drive": (listing("C:secret"), "leads out of the artifact"),
    "backslash": (listing("..\\secret"), "leads out of the artifact"),
    "NUL": (listing("model.onnx\0.txt"), "leads out of the artifact"),
    "pickle": (listing("pytorch_model.bin"), "may run code"),
    "program": (listing("modeling.py"), "may run code"),
    "unknown task": (manifest_with(task="divination"), "task is 'divination'.*edgebert knows"),
    "unknown format": (manifest_with(format="pickle"), "format is 'pickle'"),
    "unknown family": (manifest_with(architecture={**ARCHITECTURE, "family": "gpt"}), "family is 'gpt'"),
    "unknown pooling": (manifest_with(pooling={"mode": "sum", "normalize": True}), "mode is 'sum'"),
    "no name": (listing(""), "leads out of the artifact"),
    "doubled slash": (listing("a//b"), "leads out of the artifact"),
    "dot": (listing("./a"), "leads out of the artifact"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "match"), BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_is_refused_by_name(content: bytes, match: str, artifact: Artifact) -> None:
    (artifact.path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        Artifact.open(artifact.path)
    assert str(artifact.path / MANIFEST) in caught.value.where
    assert caught.value.remedy


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="not an edgebert artifact"):
            Artifact.open(path)


def test_a_huge_manifest_is_not_read(artifact: Artifact) -> None:
    # A sparse file: a hundred megabytes that cost no disk.
    os.truncate(artifact.path / MANIFEST, 100_000_000)
    with pytest.raises(InputError, match="file too large"):
        Artifact.open(artifact.path)
    os.truncate(artifact.path / MANIFEST, MAX_MANIFEST_BYTES)
    with pytest.raises(InputError, match="not valid JSON"):
        Artifact.open(artifact.path)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "cut to nothing": lambda content: b"",
    "cut at 1 %": lambda content: content[: len(content) // 100],
    "cut at half": lambda content: content[: len(content) // 2],
    "cut at 99 %": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "first byte flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last byte flipped": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_harmed_file_is_refused(harm: Callable[[bytes], bytes], artifact: Artifact) -> None:
    path = artifact.path / "model.onnx"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"does not match its hash.*model\.onnx"):
        artifact.read("model.onnx")
    assert artifact.read("1_Pooling/config.json") == b"{}"


def test_missing_and_unlisted_files_are_refused(artifact: Artifact) -> None:
    (artifact.path / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"file is missing.*model\.onnx"):
        artifact.read("model.onnx")
    (artifact.path / "extra.bin").write_bytes(b"x")
    for name in ("extra.bin", MANIFEST, "../artifact/model.onnx"):
        with pytest.raises(InputError, match="not listed"):
            artifact.read(name)


@pytest.mark.parametrize("name", ["model.onnx", "1_Pooling/config.json", MANIFEST])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_only_plain_files_are_opened(kind: str, name: str, artifact: Artifact, tmp_path: Path) -> None:
    path, outside = artifact.path / name, tmp_path / "outside"
    path.rename(outside)
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(outside),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "hard link": lambda: path.hardlink_to(outside),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises(InputError, match=r"plain file|link.*could lead out"):
        read(artifact.path, name)


def read(folder: Path, name: str) -> bytes:
    artifact = Artifact.open(folder)
    return b"" if name == MANIFEST else artifact.read(name)


def test_a_folder_inside_may_not_be_a_link_and_the_artifact_itself_may(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(artifact.path)
    assert read(tmp_path / "way", "1_Pooling/config.json") == b"{}"
    (artifact.path / "1_Pooling").rename(tmp_path / "outside")
    (artifact.path / "1_Pooling").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"link.*could lead out"):
        artifact.read("1_Pooling/config.json")


def test_a_checkpoint_from_a_hubs_cache_is_made_of_links(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.path / "model.onnx"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert replace(artifact, links=True).read("model.onnx") == bytes(range(256)) * 4


def test_a_size_that_is_not_the_listed_one_is_not_read(artifact: Artifact) -> None:
    # A sparse file: a terabyte that costs no disk, and that no memory would hold.
    os.truncate(artifact.path / "model.onnx", 2**40)
    with pytest.raises(InputError, match=r"does not match its hash.*1099511627776 bytes instead of 1024"):
        artifact.read("model.onnx")


def test_a_listed_size_is_not_believed(artifact: Artifact) -> None:
    os.truncate(artifact.path / "1_Pooling" / "config.json", 2**30)
    os.truncate(artifact.path / "model.onnx", 2**31)
    files = {name: FileEntry("0" * 64, (artifact.path / name).stat().st_size) for name in artifact.manifest.files}
    stage.write_manifest(artifact.path, replace(artifact.manifest, files=files))
    for name in files:
        with pytest.raises(InputError, match="file too large"):
            read(artifact.path, name)


def test_every_bit_of_the_manifest_is_protected(artifact: Artifact) -> None:
    stage.write_manifest(artifact.path, artifact.manifest)
    Artifact.open(artifact.path).check_manifest()
    for name in (MANIFEST, MANIFEST_HASH):
        content = (artifact.path / name).read_bytes()
        for bit in random.Random(0).sample(range(8 * len(content)), 300):
            (artifact.path / name).write_bytes(flipped(content, bit))
            with pytest.raises(InputError):
                Artifact.open(artifact.path).check_manifest()
        (artifact.path / name).write_bytes(content)


def flipped(content: bytes, bit: int) -> bytes:
    harmed = bytearray(content)
    harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


def test_an_older_artifact_without_the_manifests_hash_is_read(artifact: Artifact) -> None:
    assert not (artifact.path / MANIFEST_HASH).exists()
    artifact.check_manifest()


def test_the_manifests_hash_is_what_sha256sum_reads(artifact: Artifact) -> None:
    stage.write_manifest(artifact.path, artifact.manifest)
    sha256, name = (artifact.path / MANIFEST_HASH).read_text().split()
    assert (sha256, name) == (stage.hash_file(artifact.path / MANIFEST).sha256, MANIFEST)


def test_a_private_folder_is_ours_alone(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "deep" / "cache")
    assert made.stat().st_mode & 0o777 == 0o700
    assert private_folder(made) == made
    for mode in (0o770, 0o707, 0o777 | stat.S_ISVTX):
        made.chmod(mode)
        with pytest.raises(EnvironmentMissing, match="others can write to the cache folder") as caught:
            private_folder(made)
        assert caught.value.exit_code == 6
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentMissing, match="not a folder"):
        private_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_private_folder_is_not_someone_elses(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(EnvironmentMissing, match="belongs to someone else"):
        private_folder(tmp_path)


@given(st.lists(st.sampled_from(["a", "b.json", "..", ".", "", "/", "\\", "\0", "c:", "ü"]), max_size=4))
def test_a_safe_name_stays_inside(parts: list[str]) -> None:
    name = "/".join(parts)
    if safe_name(name):
        inside = os.path.normpath(os.path.join("/artifact", name))
        assert inside == f"/artifact/{name}"
        assert not set("\\\0:") & set(name)


def test_plain_names_are_safe() -> None:
    assert all(map(safe_name, ("model.onnx", "1_Pooling/config.json", "ü b.txt", "..a", "a..b/c")))


@given(JSON)
def test_parse_json_reads_what_json_writes(value: Any) -> None:
    assert parse_json(json.dumps({"x": value}).encode(), "here") == {"x": value}
