"""Stages: functions that write files. The wrapper here makes the folder, hashes, keeps the history, publishes.

A folder is published whole or not at all: written as a hidden sibling, flushed to disk, renamed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgebert.artifact import MANIFEST, MANIFEST_HASH, Artifact, FileEntry, Manifest, Step, hash_line
from edgebert.errors import UsageError
from edgebert.machine import versions


class Config(Protocol):
    """A frozen dataclass of JSON values: the settings of one stage, written into the history."""

    @property
    def __dataclass_fields__(self) -> dict[str, Any]: ...


C = TypeVar("C", bound=Config)
Build = Callable[[Artifact, C, Path], Manifest]


def run(name: str, build: Build[C], source: Artifact, config: C, out: Path, *, force: bool = False) -> Artifact:
    """Run one stage and publish what it wrote at ``out``.

    ``build`` writes files into the folder it is given and returns the manifest without files and
    history. Raises UsageError where ``out`` exists and ``force`` is not set.
    """
    with publish(out, force=force) as folder:
        manifest = build(source, config, folder)
        step = Step(name, settings_of(config), versions(), source.digest)
        manifest = dataclasses.replace(manifest, files=hash_files(folder), history=(*source.manifest.history, step))
        # Through JSON and back, so that the manifest in memory is the one that a reader will see.
        manifest = Manifest.from_dict(manifest.to_dict(), str(out))
        write_manifest(folder, manifest)
    return Artifact(out, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``edgebert.json`` and, beside it, its own hash."""
    write_json(folder / MANIFEST, manifest.to_dict())
    (folder / MANIFEST_HASH).write_bytes(hash_line(hash_file(folder / MANIFEST).sha256))


def settings_of(config: Config) -> dict[str, Any]:
    """A config as plain JSON types."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[call-overload]
    return settings


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Hash and size of every file below the folder, by relative name, sorted; the manifest and its hash left out."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: hash_file(folder / name) for name in names if name not in (MANIFEST, MANIFEST_HASH)}


def hash_file(path: Path) -> FileEntry:
    """sha256 and size of one file, read once."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(digest, file.tell())


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def publish(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write into that appears at ``out`` when the block ends well, and nowhere when it does not."""
    # A relative name such as "." has no name to make siblings of.
    out = out.absolute()
    recover(out)
    if out.exists() and not force:
        raise UsageError("already exists", str(out), "choose another folder with -o, or overwrite with --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(out, "tmp")
    temporary.mkdir()
    try:
        yield temporary
        _flush_tree(temporary)
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch(near: Path) -> Iterator[Path]:
    """A temporary folder beside ``near``, removed at the end; what a killed run left there goes first."""
    near = near.absolute()
    recover(near)
    folder = _sibling(near, "tmp")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``; a folder that stood there is set aside first and removed last."""
    if not out.exists():
        os.rename(new, out)
        _flush(out.parent)
        return
    old = _sibling(out, "old")
    os.rename(out, old)
    os.rename(new, out)
    _flush(out.parent)
    shutil.rmtree(old)


def recover(out: Path) -> None:
    """Finish what a killed run left beside ``out``: put a set-aside folder back, remove dead temporaries."""
    if not out.parent.is_dir():
        return
    for sibling in sorted(out.parent.glob(f".{out.name}.*-*")):
        kind, _, owner = sibling.name.removeprefix(f".{out.name}.").partition("-")
        if kind not in ("tmp", "old") or _alive(owner.partition("-")[0]):
            continue
        if kind == "old" and not out.exists():
            os.rename(sibling, out)
        else:
            shutil.rmtree(sibling, ignore_errors=True)


def _sibling(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
