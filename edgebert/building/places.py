"""Where results go: names of artifacts, what they take on disk, and folders to work in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgebert import stage
from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.shaping import sizes
from edgebert.shaping.checkpoint import shape_of

# How often weights are on disk beside the fp32 graph: as built, and sealed. int8 may be built in two schemes.
_COPIES = {"fp32": 1, "int8": 3}


def bytes_needed(source: Artifact, depths: Sequence[int], precisions: Sequence[str], engines: int = 0) -> int:
    """What it takes on disk to export these depths at these precisions, intermediate artifacts included.

    ``engines`` are built of each, of about the weights' size: once beside the graph, once as it is published.
    """
    companions = sum(entry.bytes for name, entry in source.manifest.files.items() if not name.endswith(".safetensors"))
    shape = shape_of(source)
    total = 0
    for depth in depths:
        weights = sizes.weight_bytes(sizes.with_layers(shape, depth))
        # The cut checkpoint and its graph; then each result, one of another precision also before it is sealed.
        kept = [weights["fp32"]] * 2
        for precision in precisions:
            kept += [weights[_stored_as(precision)]] * (_COPIES.get(precision, 2) + 2 * engines)
        total += sum(size + companions for size in kept)
    return total


def _stored_as(precision: str) -> str:
    """The precision that the weights of an artifact of ``precision`` have in its file: bf16 is computed from fp32."""
    return "int8" if precision.startswith("int8") else "fp32"


def depth_name(keep: Sequence[int]) -> str:
    """How a depth is called in names of files: by its number of layers, and by which where they are not the first."""
    plain = tuple(keep) == tuple(range(len(keep)))
    return f"l{len(keep)}" + ("" if plain else "-keep" + "-".join(map(str, keep)))


def check_output(source: Artifact, out: Path) -> None:
    """Raise UsageError where results would be written into the checkpoint they come from."""
    if out.resolve() == source.path.resolve():
        raise UsageError("output folder is the checkpoint itself", str(out), "choose another with -o")


def check_free(paths: Sequence[Path], out: Path, *, force: bool) -> None:
    """Raise UsageError where a result is asked for twice, or exists and may not be replaced."""
    if len(set(paths)) != len(paths):
        raise UsageError("the same artifact is asked for twice", str(out), "list each depth, target and precision once")
    for path in paths:
        stage.recover(path)
        if path.exists() and not force:
            raise UsageError("already exists", str(path), "choose another folder with -o, or overwrite with --force")


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder for intermediate artifacts on the same disk, gone afterwards, however it ends."""
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    stage.recover_all(out)
    try:
        with stage.scratch(out / "work") as work:
            yield work
    finally:
        for folder in created:
            # A run that made nothing leaves nothing.
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
