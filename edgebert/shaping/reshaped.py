"""A checkpoint of another shape: its config, its manifest and what stands beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgebert.artifact import Architecture, Artifact, Manifest
from edgebert.families import FAMILIES
from edgebert.shaping.checkpoint import copy_companions, read_json

_POOLING = "1_Pooling/config.json"


def config_of(source: Artifact, shape: Architecture) -> dict[str, Any]:
    """The source's ``config.json`` with the numbers of ``shape``.

    Embedding tables that were as wide as the hidden states still are; narrower ones stay.
    """
    family, config = FAMILIES[shape.family], read_json(source.path / "config.json")
    changed = {
        family.layers_key: shape.layers, family.hidden_key: shape.hidden,
        family.heads_key: shape.heads, family.ffn_key: shape.ffn,
    }  # fmt: skip
    if follows(source):
        changed |= {family.embedding_key: shape.hidden} if family.embedding_key else {}
    return {**config, **changed}


def follows(source: Artifact) -> bool:
    """Whether the embedding tables are as wide as the hidden states."""
    key = FAMILIES[source.manifest.architecture.family].embedding_key
    return key is None or read_json(source.path / "config.json")[key] == source.manifest.architecture.hidden


def write_companions(source: Artifact, shape: Architecture, out: Path) -> None:
    """Write tokenizer and pooling; how wide the pooled vectors are stands among the latter."""
    copy_companions(source, out)
    if (out / _POOLING).is_file():
        pooling = read_json(out / _POOLING)
        widths = {key: shape.hidden for key in pooling if key.endswith("embedding_dimension")}
        write_config(out / _POOLING, {**pooling, **widths})


def write_config(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file as Hugging Face does."""
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def described(source: Artifact, shape: Architecture) -> Manifest:
    """The source's manifest for a checkpoint of another shape; which layers were kept means nothing if none were."""
    kept = source.manifest.kept_layers
    if shape.layers != source.manifest.architecture.layers:
        kept = tuple(range(shape.layers))
    return replace(source.manifest, architecture=shape, kept_layers=kept)
