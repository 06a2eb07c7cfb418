"""Depth: which layers of a checkpoint stay. Weights are moved, the config rewritten, the head kept.

The strategies are those of Sajjad et al. 2023, "On the effect of dropping layers of pre-trained transformer
models" (arXiv:2004.03844). There a layer is dropped; here its complement is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import InputError, UsageError
from edgebert.families import FAMILIES, Family
from edgebert.shaping.checkpoint import copy_companions, read_json
from edgebert.shaping.stored import weight_files
from edgebert.tasks import Kind

if TYPE_CHECKING:
    import torch

KEEP_FIRST, KEEP_SPREAD, KEEP_AUTO = "first", "alternate", "auto"


def first(layers: int, depth: int) -> tuple[int, ...]:
    """The lowest ``layers``: top-layer dropping."""
    del depth
    return tuple(range(layers))


def last(layers: int, depth: int) -> tuple[int, ...]:
    """The highest ``layers``: bottom-layer dropping."""
    return tuple(range(depth - layers, depth))


def alternate(layers: int, depth: int) -> tuple[int, ...]:
    """Layer ⌊i · depth / layers⌋ for each i: spread evenly, the lowest always among them.

    At half the depth every other layer, which is Sajjad's alternate dropping of the even ones (counted from 1)
    and the "every other" of Fan et al. 2020 (LayerDrop, arXiv:1909.11556). Sajjad drops every other layer from
    the top also where fewer are to go; here the gaps are spread, as in DynaBERT (Hou et al. 2020).
    """
    return tuple(i * depth // layers for i in range(layers))


def symmetric(layers: int, depth: int) -> tuple[int, ...]:
    """Both ends, the middle dropped: the lowest ⌈layers / 2⌉ and the highest ⌊layers / 2⌋."""
    high = layers // 2
    return (*range(layers - high), *range(depth - high, depth))


STRATEGIES: Mapping[str, Callable[[int, int], tuple[int, ...]]] = {
    KEEP_FIRST: first,
    "last": last,
    KEEP_SPREAD: alternate,
    "symmetric": symmetric,
}


def students_keep(keep: str | None, kind: Kind, *, nested: bool = False) -> str:
    """``--keep`` of layers that are trained: as asked, else from all over the model, which the study found better.

    But for taggers (``kind`` is that of the data) the lowest, and so for ``nested`` depths, which share them:
    docs/decisions/031 and 033.
    """
    return keep or (KEEP_FIRST if nested or kind == "tags" else KEEP_SPREAD)


@dataclass(frozen=True)
class TruncateConfig:
    """Indices of the layers that stay, in the order they will run."""

    keep: tuple[int, ...]


def most_important(layers: int, importance: Sequence[float]) -> tuple[int, ...]:
    """The ``layers`` largest of ``importance`` [depth], in their order; of equal ones the lower."""
    ranked = sorted(range(len(importance)), key=lambda index: (-importance[index], index))
    return tuple(sorted(ranked[:layers]))


def layers_to_keep(layers: int, keep: str, depth: int, importance: Sequence[float] | None = None) -> tuple[int, ...]:
    """Indices for ``--layers layers --keep keep`` on a model ``depth`` layers deep.

    ``keep`` names one of STRATEGIES, is ``auto`` (the most important by ``importance`` [depth]), or a
    comma-separated list of indices in the order they will run. Raises UsageError where the numbers do not fit
    the model, or ``auto`` has nothing to go by.
    """
    if not 1 <= layers <= depth:
        raise UsageError(f"cannot keep {layers} of {depth} layers", "--layers", f"a number from 1 to {depth}")
    if keep in STRATEGIES:
        return STRATEGIES[keep](layers, depth)
    if keep == KEEP_AUTO:
        if importance is None:
            raise UsageError(f"{KEEP_AUTO} measures layers on text", "--data", "give text like yours, labelled or not")
        return most_important(layers, importance)
    try:
        indices = tuple(int(word) for word in keep.split(","))
    except ValueError:
        remedy = f"{', '.join(STRATEGIES)}, {KEEP_AUTO}, or numbers such as 0,2,4"
        raise UsageError(f"unreadable layer list {keep!r}", "--keep", remedy) from None
    if len(set(indices)) != len(indices) or not all(0 <= i < depth for i in indices):
        raise UsageError(f"layers {keep} repeat or do not exist", "--keep", f"different numbers from 0 to {depth - 1}")
    if len(indices) != layers:
        raise UsageError(f"{len(indices)} layers are listed for --layers {layers}", "--keep", f"list {layers}")
    return indices


def check_keep(counts: Iterable[int], keep: str, depth: int) -> None:
    """Raise UsageError for depths and a ``keep`` that do not fit the model, before anything is measured."""
    for layers in counts:
        layers_to_keep(layers, keep, depth, importance=[0.0] * depth)


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


@contextmanager
def only_layers(module: torch.nn.Module, family: Family, keep: Sequence[int]) -> Iterator[None]:
    """Let only the layers ``keep`` of a loaded model run, in that order, until the block ends.

    What :func:`truncate` writes must compute the same: this is the other way to it, without moving a weight.
    """
    import torch

    parent, name = layers_of(module, family)
    layers: torch.nn.ModuleList = getattr(parent, name)
    setattr(parent, name, torch.nn.ModuleList([layers[index] for index in keep]))
    try:
        yield
    finally:
        setattr(parent, name, layers)


@contextmanager
def answering_from(module: torch.nn.Module, family: Family, state: torch.Tensor) -> Iterator[None]:
    """Let a loaded model answer as if ``state`` [batch, sequence, hidden] were what its layers give, until the end."""

    def replace(_: torch.nn.Module, __: object, found: Any) -> Any:
        found["last_hidden_state"] = state
        return found

    hook = layers_of(module, family)[0].register_forward_hook(replace)
    try:
        with only_layers(module, family, []):
            yield
    finally:
        hook.remove()


def layers_of(module: torch.nn.Module, family: Family) -> tuple[torch.nn.Module, str]:
    """The part of a transformers model that runs its layers one after the other, and their name in it."""
    place, _, name = family.layer_prefix.rstrip(".").rpartition(".")
    return encoder_of(module).get_submodule(place), name


def encoder_of(module: torch.nn.Module) -> torch.nn.Module:
    """The encoder of a transformers model: what is below the head, or all of it."""
    encoder: torch.nn.Module = module.base_model  # type: ignore[assignment]
    return encoder


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
