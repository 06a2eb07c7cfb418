"""Depth: which layers of a checkpoint stay. Weights are moved, the config rewritten, the head kept."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import InputError, UsageError
from edgebert.families import FAMILIES, Family
from edgebert.shaping.checkpoint import copy_companions, read_json
from edgebert.shaping.stored import weight_files

if TYPE_CHECKING:
    import torch

KEEP_FIRST = "first"


@dataclass(frozen=True)
class TruncateConfig:
    """Indices of the layers that stay, in the order they will run."""

    keep: tuple[int, ...]


def layers_to_keep(layers: int, keep: str, depth: int) -> tuple[int, ...]:
    """Indices for ``--layers layers --keep keep`` on a model ``depth`` layers deep.

    ``keep`` is ``first`` or a comma-separated list of indices. Raises UsageError where the numbers
    do not fit the model.
    """
    if not 1 <= layers <= depth:
        raise UsageError(f"cannot keep {layers} of {depth} layers", "--layers", f"a number from 1 to {depth}")
    if keep == KEEP_FIRST:
        return tuple(range(layers))
    try:
        indices = tuple(int(word) for word in keep.split(","))
    except ValueError:
        raise UsageError(f"unreadable layer list {keep!r}", "--keep", "first, or numbers such as 0,2,4") from None
    if len(set(indices)) != len(indices) or not all(0 <= i < depth for i in indices):
        raise UsageError(f"layers {keep} repeat or do not exist", "--keep", f"different numbers from 0 to {depth - 1}")
    if len(indices) != layers:
        raise UsageError(f"{len(indices)} layers are listed for --layers {layers}", "--keep", f"list {layers}")
    return indices


def truncate(source: Artifact, config: TruncateConfig, out: Path) -> Manifest:
    """Stage: keep the layers ``config.keep`` of a checkpoint.

    With the first k layers kept, the last hidden state equals the full model's ``hidden_states[k]`` bit
    for bit: no weight is changed, only renamed.
    """
    from safetensors.torch import save_file

    family = FAMILIES[source.manifest.architecture.family]
    tensors = move_layers(read_weights(source), family, config.keep)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    hf_config = {**read_json(source.path / "config.json"), family.layers_key: len(config.keep)}
    (out / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
    copy_companions(source, out)
    return replace(
        source.manifest,
        architecture=replace(source.manifest.architecture, layers=len(config.keep)),
        kept_layers=tuple(source.manifest.kept_layers[i] for i in config.keep),
    )


def move_layers(tensors: dict[str, torch.Tensor], family: Family, keep: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Rename layer ``keep[i]``'s tensors to layer i, drop the other layers', leave the rest as it is.

    Raises InputError where a kept layer has no tensors.
    """
    pattern = re.compile(rf"^((?:.*\.)?{re.escape(family.layer_prefix)})(\d+)\.(.*)$")
    place = {old: new for new, old in enumerate(keep)}
    moved: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        match = pattern.match(name)
        if match is None:
            moved[name] = tensor
        elif (old := int(match[2])) in place:
            seen.add(old)
            moved[f"{match[1]}{place[old]}.{match[3]}"] = tensor
    if absent := set(keep) - seen:
        raise InputError(f"no weights for layer {min(absent)}", family.name, "give a complete checkpoint")
    return moved


def read_weights(source: Artifact) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, under the names they are stored by. Raises InputError for unreadable files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(source.path):
        try:
            tensors.update(load_file(path))
        except SafetensorError as error:
            raise InputError(f"unreadable weights ({error})", str(path), "copy the checkpoint again") from None
    return tensors
