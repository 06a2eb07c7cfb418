"""A fresh model of a shape: random weights as its family draws them, with the tokenizer and head of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from edgebert.artifact import Architecture, Artifact, Manifest
from edgebert.shaping.checkpoint import quiet_transformers
from edgebert.shaping.reshaped import config_of, described, write_companions
from edgebert.tasks import TASKS


@dataclass(frozen=True)
class FreshConfig:
    """The shape, and the seed of the weights."""

    shape: Architecture
    seed: int = 0


def fresh(source: Artifact, config: FreshConfig, out: Path) -> Manifest:
    """Stage: a model of ``config.shape`` that has learned nothing. Only its words and labels are the source's."""
    quiet_transformers()
    settings = config_of(source, config.shape)
    hf_config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    auto_class = getattr(transformers, TASKS[source.manifest.task].auto_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        auto_class.from_config(hf_config).save_pretrained(out, safe_serialization=True)
    write_companions(source, config.shape, out)
    return described(source, config.shape)
