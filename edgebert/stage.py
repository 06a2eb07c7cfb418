"""Stages: functions that write files. The wrapper here makes the folder, hashes, keeps the history, publishes.

A folder is published whole or not at all: written as a hidden sibling, flushed to disk, renamed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgebert.artifact import MANIFEST, MANIFEST_HASH, Artifact, FileEntry, Manifest, Step, hash_line
from edgebert.errors import EnvironmentMissing, UsageError, with_place
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
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; what a killed run left beside it goes first."""
    path = _settled(path)
    recover(path)
    with _held(path, _touch) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")
        _flush(temporary)
        os.replace(temporary, path)


def _settled(out: Path) -> Path:
    """The path by which a folder is reached while it is replaced.

    A relative name such as "." has no name to make siblings of, and the way there must not lead through the
    folder itself, as ``model/../model`` does.
    """
    out = out.absolute()
    return out.resolve() if out.name == ".." else out.parent.resolve() / out.name


@contextmanager
def publish(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write into that appears at ``out`` when the block ends well, and nowhere when it does not."""
    out = _settled(out)
    recover(out)
    if out.exists() and not force:
        raise UsageError("already exists", str(out), "choose another folder with -o, or overwrite with --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _held(out, Path.mkdir) as temporary:
        yield temporary
        _flush_tree(temporary)
        _swap(temporary, out)


@contextmanager
def scratch(near: Path) -> Iterator[Path]:
    """A temporary folder beside ``near``, removed at the end; what a killed run left there goes first."""
    near = _settled(near)
    recover(near)
    near.parent.mkdir(parents=True, exist_ok=True)
    with _held(near, Path.mkdir) as folder:
        yield folder


def require_space(folder: Path, needed: int, purpose: str, held: int = 0) -> None:
    """Raise EnvironmentMissing unless ``needed`` bytes are free where ``folder`` is or will be made.

    ``held`` bytes are there already and count as free.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free + held
    if free < needed:
        what = f"disk full: {purpose} needs {needed:,} bytes, {free:,} are free"
        raise EnvironmentMissing(what, str(folder), "free space, or choose another folder with -o")


def bytes_below(folder: Path) -> int:
    """What the files below a folder take; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _swap(new: Path, out: Path) -> None:
    """Rename ``new`` to ``out``; a folder that stood there is set aside first and removed last."""
    if not out.exists():
        os.rename(new, out)
        _flush(out.parent)
        return
    old = _sibling(out, "old")
    # The lock goes with the folder wherever it is renamed to.
    lock = _lock(out)
    if lock is None:
        raise EnvironmentMissing("another run is replacing this folder", str(out), "wait for it")
    try:
        os.rename(out, old)
        os.rename(new, out)
        _flush(out.parent)
        shutil.rmtree(old)
    finally:
        os.close(lock)


def recover(out: Path) -> None:
    """Finish what a killed run left beside ``out``: put a set-aside folder back, remove dead temporaries."""
    out = _settled(out)
    for left in _left_in(out.parent, f".{glob.escape(out.name)}.*-*"):
        _finish(left)


def recover_all(folder: Path) -> None:
    """:func:`recover` for everything in a folder, whatever it is called."""
    for left in _left_in(folder, ".*.*-*"):
        _finish(left)


def _left_in(folder: Path, pattern: str) -> list[Path]:
    """Temporaries of the dead. Set-aside folders come first: what they replace is then in its place."""
    found = [path for path in folder.glob(pattern) if _SIBLING.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: (_kind(path) != "old", path.name))


def _finish(left: Path) -> None:
    lock = _lock(left)
    if lock is None:
        return
    match = _SIBLING.fullmatch(left.name)
    out = left.with_name(match["name"]) if match else left
    if _kind(left) == "old" and not out.exists():
        os.rename(left, out)
    else:
        _remove(left)
    os.close(lock)


# What stands beside `name` while it is written: `.name.tmp-` or, set aside while it is replaced, `.name.old-`.
_SIBLING = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<owner>[0-9]+)-[0-9a-f]+", re.DOTALL)


def _kind(sibling: Path) -> str:
    match = _SIBLING.fullmatch(sibling.name)
    return match["kind"] if match else ""


def _sibling(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def _held(out: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new sibling of ``out``, locked while it is written, gone at the end unless it was renamed."""
    while True:
        temporary = _sibling(out, "tmp")
        try:
            make(temporary)
        except OSError as error:
            error.filename = str(out)
            raise
        lock = _lock(temporary)
        if lock is not None:
            break
        # Another run took it for a dead one's in the moment before it was locked.
    try:
        yield temporary
    except Exception as error:
        # A write that fails does not say where: this is the folder that the user named.
        placed = with_place(error, str(out))
        if placed is error:
            raise
        raise placed from error
    finally:
        _remove(temporary)
        os.close(lock)


def _lock(path: Path) -> int | None:
    """An open file that holds the lock of a sibling, or None where its owner lives.

    The kernel lets go of a lock when its process dies, however it dies; a process id would be given to
    another, and every container has the same few.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        mine = False
    except OSError:
        # A file system without locks: the process id in the name has to do.
        mine = not _another_lives(path)
    if mine:
        return descriptor
    os.close(descriptor)
    return None


def _another_lives(sibling: Path) -> bool:
    match = _SIBLING.fullmatch(sibling.name)
    owner = int(match["owner"]) if match else os.getpid()
    if owner == os.getpid():
        return False
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _touch(path: Path) -> None:
    path.touch()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
