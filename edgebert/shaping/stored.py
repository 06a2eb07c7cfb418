"""What a checkpoint's files say before anything of them is loaded: numbers of the config, shapes of the weights.

Read here, without torch, so that a lie is an error with a name and not a crash of the library it is fed to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebert.artifact import Architecture
from edgebert.errors import InputError
from edgebert.families import Family
from edgebert.strict_json import parse_json

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# No transformer comes near; beyond, numbers only fill memory.
_MOST_LAYERS = 10_000
_MOST = 2**24
_HEADER_BYTES = 100_000_000
_FLOATS = ("F64", "F32", "F16", "BF16")
_AGAIN = "copy the checkpoint again"
Shapes = Mapping[str, tuple[int, ...]]


def architecture_of(config: Mapping[str, Any], family: Family, where: str) -> Architecture:
    """The shape that a ``config.json`` states. Raises InputError for a number that is none, or means nothing."""
    hidden, heads = (whole(config, key, where) for key in (family.hidden_key, family.heads_key))
    if hidden % heads:
        raise InputError(f"{family.hidden_key} {hidden} is no multiple of {family.heads_key} {heads}", where, _AGAIN)
    return Architecture(
        family.name,
        layers=whole(config, family.layers_key, where, most=_MOST_LAYERS),
        hidden=hidden,
        heads=heads,
        ffn=whole(config, family.ffn_key, where),
        vocab=whole(config, "vocab_size", where),
    )


def whole(config: Mapping[str, Any], key: str, where: str, default: int | None = None, most: int = _MOST) -> int:
    """A whole number from 1 to ``most`` under a key. Raises InputError where it is anything else."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        what = f"config.json lacks a usable {key}" + ("" if value is None else f": {value!r:.40}")
        raise InputError(what, where, f"a whole number from 1 to {most}; give a complete checkpoint")
    return value


def labels_of(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The class names of a ``config.json``, in the order of their index."""
    if not config.get("id2label"):
        return tuple(f"LABEL_{i}" for i in range(whole(config, "num_labels", where, default=2)))
    names = config["id2label"]
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        raise InputError("id2label does not number the labels from 0", where, "give a complete checkpoint")
    return tuple(str(names[str(index)]) for index in range(len(names)))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a checkpoint: one, or the shards that its index names.

    Raises InputError where there are none, where they are pickles, or where the index leads out of the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        return _shards(folder)
    if any(file for end in ("bin", "pt", "pth") for file in folder.glob(f"*.{end}")):
        remedy = "convert them to model.safetensors where you trust them"
        raise InputError("weights are pickle only", str(folder), remedy)
    raise InputError("no weights", str(folder), f"a checkpoint holds {WEIGHTS}")


def _shards(folder: Path) -> list[Path]:
    index = folder / WEIGHTS_INDEX
    places = parse_json(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError("no weight_map", str(index), _AGAIN)
    for name in places.values():
        # A link is fine, the hub's cache is made of them; a name that leads elsewhere is not.
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise InputError(f"shard {name!r:.80} is no safetensors file of this folder", str(index), _AGAIN)
        if not (folder / name).is_file():
            raise InputError("shard is missing", str(folder / name), _AGAIN)
    return [folder / name for name in sorted(set(places.values()))]


def check_weights(folder: Path, config: Mapping[str, Any], shape: Architecture, family: Family) -> None:
    """Raise InputError where the weights are unreadable, or another model than ``config.json`` describes."""
    shapes = {name: size for path in weight_files(folder) for name, size in _shapes_in(path).items()}
    where = str(folder)
    numbers = re.compile(rf"(?:.*\.)?{re.escape(family.layer_prefix)}(\d+)\.")
    stored = {int(match[1]) for name in shapes if (match := numbers.match(name))}
    if stored != set(range(shape.layers)):
        what = f"config.json says {family.layers_key} {shape.layers}, the weights have {len(stored)} layers"
        raise InputError(what, where, "give the config.json that belongs to them")
    positions = whole(config, "max_position_embeddings", where)
    width = whole(config, family.embedding_key, where) if family.embedding_key else shape.hidden
    for name, rows in ((family.word_table, shape.vocab), (family.position_table, positions)):
        found = next((size for full, size in shapes.items() if full.endswith(name)), None)
        if found is not None and found != (rows, width):
            what = f"weights {name} have another shape: {found} for {(rows, width)}"
            raise InputError(what, where, "give the config.json that belongs to them")


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a safetensors file by name, from its header alone."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _HEADER_BYTES):
            raise InputError("unreadable weights (the header is cut or no header)", str(path), _AGAIN)
        header = parse_json(file.read(length), str(path))
    header.pop("__metadata__", None)
    shapes = {name: _shape(entry, name, path) for name, entry in header.items()}
    ends = [entry["data_offsets"][1] for entry in header.values()]
    if max(ends, default=0) != size - 8 - length:
        raise InputError("unreadable weights (cut, or longer than its header says)", str(path), _AGAIN)
    return shapes


def _shape(entry: Any, name: str, path: Path) -> tuple[int, ...]:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(), int()]}:
            # Old checkpoints keep a table of position numbers, which is no weight.
            if kind not in _FLOATS and name.endswith((".weight", ".bias")):
                raise InputError(f"weights {name} are {kind:.10}", str(path), f"give one of {', '.join(_FLOATS)}")
            if all(isinstance(size, int) for size in shape):
                return tuple(shape)
    raise InputError(f"unreadable weights (header of {name:.80})", str(path), _AGAIN)
