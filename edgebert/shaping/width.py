"""Width: the units of a checkpoint (hidden states, heads, neurons) copied or left out, wherever made and read.

Copies that are read with shares which sum to one change nothing (Chen, Goodfellow, Shlens 2016, "Net2Net",
arXiv:1511.05641). Neurons can be copied any number of times. Hidden states pass through LayerNorm, whose mean and
variance stay only where all are copied equally often: an integer factor is exact, another is not (Chen et al. 2022,
"bert2BERT", arXiv:2110.07143). A head stays as wide as it is: Hugging Face's configs tie heads to hidden states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edgebert.artifact import Artifact, Manifest
from edgebert.errors import InputError
from edgebert.families import FAMILIES, Family, Part
from edgebert.shaping.depth import read_weights
from edgebert.shaping.reshaped import config_of, described, follows, write_companions, write_config
from edgebert.shaping.stored import WEIGHTS


@dataclass(frozen=True)
class WidenConfig:
    """How wide the result is, nothing narrower than the source, heads as wide as there; the seed of the shares."""

    hidden: int
    heads: int
    ffn: int
    seed: int = 0


@dataclass(frozen=True)
class Choice:
    """Of which old unit each new one is a copy: of ``hidden`` states, and in each layer of ``heads`` and ``ffn``."""

    hidden: Tensor
    heads: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]


def widen(source: Artifact, config: WidenConfig, out: Path) -> Manifest:
    """Stage: copy units, in turn, until there are as many as asked for.

    Exact up to rounding where ``config.hidden`` is a multiple of the source's. Raises InputError for weights that no
    part of the family is known to have.
    """
    old = source.manifest.architecture
    hidden = torch.arange(config.hidden) % old.hidden
    heads, ffn = torch.arange(config.heads) % old.heads, torch.arange(config.ffn) % old.ffn
    choice = Choice(hidden, (heads,) * old.layers, (ffn,) * old.layers)
    return write_chosen(source, choice, out, config.seed)


def write_chosen(source: Artifact, choice: Choice, out: Path, seed: int = 0) -> Manifest:
    """Write the checkpoint that the chosen units make; ``seed`` draws the shares of copies."""
    from safetensors.torch import save_file

    old = source.manifest.architecture
    shape = replace(old, hidden=len(choice.hidden), heads=len(choice.heads[0]), ffn=len(choice.ffn[0]))
    chosen = _Chosen(FAMILIES[old.family], choice, old.hidden // old.heads, seed, embedding=follows(source))
    save_file(chosen.weights(read_weights(source)), out / WEIGHTS, metadata={"format": "pt"})
    write_config(out / "config.json", config_of(source, shape))
    write_companions(source, shape, out)
    return described(source, shape)


def named_parts(family: Family, names: Iterator[str]) -> Iterator[tuple[str, Part | None, int, bool]]:
    """Of each parameter its name, the part it belongs to, its layer (0 outside of them), whether it is a bias."""
    layer = re.compile(rf"(?:^|\.){re.escape(family.layer_prefix)}(\d+)\.")
    for name in names:
        module, _, last = name.rpartition(".")
        match = layer.search(name)
        yield name, family.part(module), int(match[1]) if match else 0, last == "bias"


class _Chosen:
    """The weights of a checkpoint, rewritten for chosen units; ``embedding``: tables are as wide as hidden states."""

    def __init__(self, family: Family, choice: Choice, head: int, seed: int, *, embedding: bool) -> None:
        self._family, self._choice, self._head, self._embedding = family, choice, head, embedding
        self._generator = torch.Generator().manual_seed(seed)

    def weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors, in the order of their names so that shares are the same whatever file they come from."""
        found = {}
        for name, part, layer, bias in named_parts(self._family, iter(sorted(tensors))):
            tensor = tensors[name]
            # Old checkpoints keep a table of position numbers, which is no weight.
            if tensor.is_floating_point():
                if part is None:
                    raise InputError(f"unknown weights {name}", self._family.name, "leave the width as it is")
                tensor = self._rewritten(tensor.float(), part, layer, bias=bias)
            found[name] = tensor.contiguous()
        return found

    def _rewritten(self, tensor: Tensor, part: Part, layer: int, *, bias: bool) -> Tensor:
        made = self._copies(part.makes, layer)
        if part.table:
            # Rows are words; a bias is of these too.
            return tensor if bias or made is None else tensor[:, made]
        if made is not None:
            tensor = tensor[made]
        if part.guesses and made is not None:
            # The table of words reads all copies of what it is compared with, and has no shares of its own.
            tensor = tensor / _counts(made)[made]
        read = None if tensor.ndim < 2 else self._copies(part.reads, layer)
        return tensor if read is None else tensor[:, read] * self._shares(read, len(tensor))

    def _copies(self, units: str | None, layer: int) -> Tensor | None:
        """Of which old unit each new one is a copy; None where units stay as they are."""
        if units == "hidden" or (units == "embedding" and self._embedding):
            return self._choice.hidden
        if units == "heads":
            return (self._choice.heads[layer][:, None] * self._head + torch.arange(self._head)).flatten()
        return self._choice.ffn[layer] if units == "ffn" else None

    def _shares(self, read: Tensor, rows: int) -> Tensor:
        """Shares [rows, new units] that sum to one over the copies of each old unit.

        Different in every row: copies with the same shares everywhere would get gradients that differ by a factor
        only, which Adam divides away, and stay copies forever.
        """
        counts = _counts(read)
        if bool((counts <= 1).all()):
            return torch.ones(1)
        drawn = 0.5 + torch.rand(rows, len(read), generator=self._generator, dtype=torch.float64)
        sums = torch.zeros(rows, len(counts), dtype=torch.float64).index_add_(1, read, drawn)
        return (drawn / sums[:, read]).float()


def _counts(copies: Tensor) -> Tensor:
    return torch.bincount(copies)
