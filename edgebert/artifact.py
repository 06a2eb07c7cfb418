"""The artifact: a folder that never changes once written, described by its manifest ``edgebert.json``.

Reading and describing live here; writing one whole or not at all lives in ``stage.py``. The page
``docs/artifact.md`` is the format's specification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from edgebert.errors import InputError
from edgebert.families import FAMILIES
from edgebert.files import open_plain, read_plain
from edgebert.machine import has_int8_dot
from edgebert.strict_json import canonical_json, parse_json
from edgebert.tasks import TASKS, Problem
from edgebert.tolerances import PRECISIONS

MANIFEST = "edgebert.json"
# The manifest holds everybody's hash but its own. In the format of sha256sum.
MANIFEST_HASH = f"{MANIFEST}.sha256"
SCHEMA = "1.0"
MAX_MANIFEST_BYTES = 4_000_000

# Fields of the manifest that its first readers did not know.
_LATER = ("problem", "metric")

FORMATS = ("onnx", "torch")
POOLING_MODES = ("mean", "cls", "max")

# How many bytes of a file are read at most. protobuf cannot hold 2 GiB; what lies beside the graph can be larger.
_MAX_BYTES = {".onnx": 2**31 - 1, ".onnx_data": 2**36, ".safetensors": 2**36, ".plan": 2**36}
_MAX_SIDE_BYTES = 128_000_000
_PIECE_BYTES = 2**20
# Formats that run code when they are opened.
_CODE = re.compile(r"\.(ckpt|pickle|pkl|pt|pth|py)$|(^|/)pytorch_model[^/]*\.bin$")


@dataclass(frozen=True)
class FileEntry:
    """One file of the artifact: its sha256 (hex) and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Architecture:
    """The shape of a BERT: the numbers that decide its size and speed."""

    family: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: numpy dtype name and shape such as ``("batch", "sequence")``, numbers where it is fixed."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one text vector, outside the graph."""

    mode: str
    normalize: bool


@dataclass(frozen=True)
class Step:
    """One stage of the history: what ran, with which settings and versions, on which source."""

    stage: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    source: str


@dataclass(frozen=True)
class Manifest:
    """Everything known about an artifact. ``format`` is ``torch`` (a checkpoint) or ``onnx``.

    ``problem`` says how the outputs are read where the task's usual way is not it, ``metric`` what the model is
    judged by. Both came later: while None they are left out of the JSON, and of the digest.
    """

    format: str
    name: str
    task: str
    architecture: Architecture
    kept_layers: tuple[int, ...]
    precision: str
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_length: int
    labels: tuple[str, ...] = ()
    pooling: Pooling | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA
    problem: str | None = None
    metric: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, ready for :func:`canonical_json`."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: value for name, value in document.items() if value is not None or name not in _LATER}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str) -> Manifest:
        """Raises InputError naming the field that is missing, unknown or of another type."""
        _check_schema(document.get("schema"), where)
        manifest: Manifest = _decode(cls, document, where, "manifest")
        _check_words(manifest, where)
        return manifest

    @cached_property
    def digest(self) -> str:
        """The artifact's identity: sha256 of the canonical manifest (RFC 8785)."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Batch and sequence of a graph that takes this shape and no other; None where it takes any."""
        match self.inputs[:1]:
            case (TensorSpec(shape=(int(batch), int(sequence))),):
                return batch, sequence
        return None

    @property
    def bytes(self) -> int:
        """Bytes of everything listed: what it costs to ship."""
        return sum(entry.bytes for entry in self.files.values())


@dataclass(frozen=True)
class Artifact:
    """A folder and its manifest. Files are read through :meth:`read`, which checks their hash.

    ``links`` allows links among the files: for checkpoints without a manifest of their own, which the user
    chose and which a hub's cache is made of.
    """

    path: Path
    manifest: Manifest
    links: bool = False
    _manifest_hash: str = field(default="", compare=False, repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read the manifest of a folder. Raises InputError where there is none or it is broken."""
        folder = Path(path)
        where = str(folder / MANIFEST)
        try:
            raw = read_plain(folder, MANIFEST, MAX_MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            # ValueError: a path with a NUL in it.
            raise InputError("not an edgebert artifact", str(folder), f"no {MANIFEST} there; check the path") from None
        manifest = Manifest.from_dict(parse_json(raw, where), where)
        return cls(folder, manifest, _manifest_hash=hashlib.sha256(raw).hexdigest())

    @property
    def digest(self) -> str:
        """See :attr:`Manifest.digest`."""
        return self.manifest.digest

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, hashed on the very bytes returned. Raises InputError on a mismatch."""
        with self._opened(name) as file:
            # One byte more than there should be: a file that grows meanwhile is not the one that was measured.
            content = file.read(self.manifest.files[name].bytes + 1)
        self._check(name, FileEntry(hashlib.sha256(content).hexdigest(), len(content)))
        return content

    def copy(self, name: str, to: Path) -> None:
        """Copy a listed file, hashed on the very bytes copied; a piece at a time, since weights may be large.

        Raises InputError on a mismatch; the copy is then of no use.
        """
        digest, size = hashlib.sha256(), 0
        with open(to, "wb") as copy, self._opened(name) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += copy.write(piece)
        self._check(name, FileEntry(digest.hexdigest(), size))

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        entry = self.manifest.files.get(name)
        where = str(self.path / name)
        if entry is None:
            raise InputError("file is not listed in the manifest", where, "export the artifact again")
        limit = _MAX_BYTES.get(PurePosixPath(name).suffix, _MAX_SIDE_BYTES)
        try:
            with open_plain(self.path, name, limit, entry.bytes, links=self.links) as file:
                yield file
        except FileNotFoundError:
            raise InputError("file is missing", where, "export the artifact again") from None

    def _check(self, name: str, found: FileEntry) -> None:
        if found != self.manifest.files[name]:
            where = str(self.path / name)
            raise InputError("file does not match its hash in the manifest", where, "copy or export the artifact again")

    def check_files(self, *, but: Collection[str] = ()) -> None:
        """Raise InputError where a listed file is missing or is another; ``but`` are those read later anyhow."""
        for name in self.manifest.files:
            if name not in but:
                self.read(name)

    def check_manifest(self) -> None:
        """Raise InputError where the manifest is not, byte for byte, the one that was written.

        Runtimes call it last before the engine sees anything: a manifest that contradicts the graph is
        then refused by what it says. A folder without the hash (an older one, or a copy of what the manifest
        lists) is read all the same.
        """
        if not self._manifest_hash:
            return
        where = str(self.path / MANIFEST)
        try:
            written = read_plain(self.path, MANIFEST_HASH, 1000)
        except FileNotFoundError:
            return
        if written != hash_line(self._manifest_hash):
            raise InputError(f"manifest does not match {MANIFEST_HASH}", where, "copy or export the artifact again")

    def has(self, name: str) -> bool:
        """Whether the manifest lists that file."""
        return name in self.manifest.files


def problem_of(manifest: Manifest) -> Problem:
    """How a model's outputs are read. A manifest names one of its task's problems, or none for the usual one."""
    task = TASKS[manifest.task]
    return task.problem(manifest.problem) or task.problems[0]


def made_for_int8_dot(manifest: Manifest) -> bool:
    """Whether an int8 graph was made where products do not saturate: its weights then have the whole range."""
    names = manifest.needs.get("isa")
    return manifest.precision.startswith("int8") and isinstance(names, (list, tuple)) and has_int8_dot(names)


def axis_size(manifest: Manifest, axis: str) -> int | None:
    """How long an axis of the outputs is; None where it is not always the same."""
    shape = manifest.architecture
    sequence = None if manifest.fixed is None else manifest.fixed[1]
    sizes = {"labels": len(manifest.labels), "hidden": shape.hidden, "vocab": shape.vocab, "sequence": sequence}
    return sizes[axis]


def width_of(manifest: Manifest) -> int:
    """How many numbers the last axis of the joined outputs has (see :meth:`~edgebert.tasks.Task.joined`)."""
    outputs = TASKS[manifest.task].outputs
    return len(outputs) if len(outputs) > 1 else axis_size(manifest, outputs[0].shape[-1]) or 0


def hash_line(sha256: str) -> bytes:
    """The content of the file that holds the manifest's own hash, as ``sha256sum -c`` reads it."""
    return f"{sha256}  {MANIFEST}\n".encode()


def _check_schema(schema: object, where: str) -> None:
    major = str(schema).partition(".")[0]
    if not isinstance(schema, str) or not major.isdigit():
        raise InputError(f"unreadable schema {schema!r}", where, "export the artifact again")
    if int(major) > int(SCHEMA.partition(".")[0]):
        raise InputError(f"schema {schema} is newer than {SCHEMA}", where, f"needs edgebert >= {major}.0")


def _check_words(manifest: Manifest, where: str) -> None:
    """Raise InputError for a word that the code would look up in a table and not find there."""
    pooling = manifest.pooling.mode if manifest.pooling else POOLING_MODES[0]
    for name, word, known in (
        ("format", manifest.format, FORMATS),
        ("task", manifest.task, TASKS),
        ("architecture.family", manifest.architecture.family, FAMILIES),
        ("precision", manifest.precision.partition("-")[0], PRECISIONS),
        ("pooling.mode", pooling, POOLING_MODES),
    ):
        if word not in known:
            raise InputError(f"field {name} is {word!r}", where, f"edgebert knows {', '.join(known)}")
    task = TASKS[manifest.task]
    if task.problem(manifest.problem) is None:
        problems = ", ".join(problem.name for problem in task.problems)
        raise InputError(f"field problem is {manifest.problem!r}", where, f"{task.name} knows {problems}")


def _decode(kind: Any, value: Any, where: str, name: str) -> Any:
    """``value`` as ``kind``, which is a dataclass, tuple, mapping, optional or plain type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, name)
    if origin is types.UnionType:
        return _decode(_member(args, value), value, where, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(args[0], item, where, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {
            _checked_key(key, where, name): _decode(args[1], item, where, f"{name}.{key}")
            for key, item in value.items()
        }
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise InputError(f"field {name} has the wrong type", where, "export the artifact again")


def _member(kinds: tuple[Any, ...], value: Any) -> Any:
    """The member of a union that a value is meant as: that of its type, else the first."""
    return next((kind for kind in kinds if kind is type(value)), kinds[0])


def _decode_dataclass(kind: Any, value: Any, where: str, name: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"field {name} is not an object", where, "export the artifact again")
    hints = typing.get_type_hints(kind)
    required = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := required - value.keys():
        raise InputError(f"field {name}.{min(missing)} is missing", where, "export the artifact again")
    known = {key: _decode(hints[key], item, where, key) for key, item in value.items() if key in hints}
    return kind(**known)


def _checked_key(key: str, where: str, name: str) -> str:
    if name == "files" and not safe_name(key):
        raise InputError(f"file name {key!r} leads out of the artifact", where, "do not trust this artifact")
    if name == "files" and _CODE.search(key):
        raise InputError(f"file {key!r} may run code when it is opened", where, "keep weights as safetensors or ONNX")
    return key


def safe_name(name: str) -> bool:
    """Whether a listed file name stays inside the folder, on every operating system."""
    parts = PurePosixPath(name).parts
    plain = not any(bad in name for bad in ("\\", "\0", ":")) and not name.startswith("/")
    return plain and bool(parts) and ".." not in parts and "/".join(parts) == name
