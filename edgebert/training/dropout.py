"""Dropout (Srivastava et al. 2014) of a model that is trained: a student that imitates its teacher needs none.

docs/decisions/026-students-drop-nothing.md has the measurements.
"""

from __future__ import annotations

import torch


def set_dropout(module: torch.nn.Module, share: float) -> None:
    """Have training drop that share of values everywhere. The config, which is the checkpoint's, is left alone."""
    # Attention of every family reads its share from such a part too.
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = share
