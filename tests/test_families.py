"""Every family over every task: from a checkpoint through export and parity to answers that are PyTorch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from edgebert import build
from edgebert.judging.verify import verify
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer
from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.tasks import TASKS

TEXTS = tiny.texts(6, seed=4)


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_pair_goes_all_the_way(family: str, task: str, tmp_path: Path) -> None:
    source = open_checkpoint(str(tiny.checkpoint(tmp_path / "tiny", family, task, layers=1)))
    assert source.manifest.task == task
    made = build.export(str(source.path), out=tmp_path / "out")[0]
    stages, _ = verify(made.path)
    assert [line.ok for line in stages] == [True]
    with load(made.path, threads=1) as model:
        feed = TextTokenizer(source).collate(TextTokenizer(source).encode(TEXTS))
        with torch.inference_mode():
            found = load_module(source)(**{name: torch.from_numpy(array) for name, array in feed.items()})
        expected = TASKS[task].joined({output.name: found[output.name].numpy() for output in TASKS[task].outputs})
        np.testing.assert_allclose(model.run(feed), expected, atol=1e-4)
        asked = [("which film?", text) for text in TEXTS] if TASKS[task].asks else TEXTS
        assert len(model.finish(model.tokenize(asked))) == len(TEXTS)
