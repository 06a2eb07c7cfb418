"""The rows of the table of words that a training uses: learned as in the whole table, saved as the whole table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from edgebert.shaping.checkpoint import load_module, open_checkpoint
from edgebert.training.batches import pad_id_of
from edgebert.training.dropout import set_dropout
from edgebert.training.table import UsedRows, train_used_rows

# Token ids of two texts; the second is padded.
TEXTS = ([5, 9, 30, 9], [7, 12])


def modules(family: str, folder: Path) -> tuple[Any, Any]:
    """The same model with its table whole, and with the rows that TEXTS use."""
    source = open_checkpoint(str(tiny.checkpoint(folder, family)))
    whole, some = (load_module(source, for_training=True).train() for _ in range(2))
    for module in (whole, some):
        set_dropout(module, 0.0)
    train_used_rows(some, TEXTS, pad_id_of(some))
    return whole, some


def loss(module: Any) -> torch.Tensor:
    pad = pad_id_of(module)
    ids = torch.tensor([TEXTS[0], [*TEXTS[1], pad, pad]])
    found = module(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
    return torch.nn.functional.cross_entropy(found.logits, torch.tensor([0, 1]))


def differing(first: Any, second: Any, within: float) -> list[str]:
    """Names of weights that are not alike."""
    ours, theirs = first.state_dict(), second.state_dict()
    assert list(ours) == list(theirs)
    return [name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=0, atol=within)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_learn_what_the_whole_table_does(family: str, tmp_path: Path) -> None:
    whole, some = modules(family, tmp_path)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    assert differing(whole, some, 0) == []
    assert loss(whole).item() == loss(some).item()
    for module in (whole, some):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            loss(module).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)
            optimizer.step()
    assert differing(whole, some, 1e-5) == []
    table = next(name for name in before if name.endswith("word_embeddings.weight"))
    moved = (whole.state_dict()[table] != before[table]).any(dim=1).nonzero().flatten().tolist()
    assert {token for ids in TEXTS for token in ids} <= set(moved)
    unread = [row for row in range(len(before[table])) if row not in moved]
    assert torch.equal(some.state_dict()[table][unread], before[table][unread])
    assert sum(p.numel() for p in some.parameters()) < sum(p.numel() for p in whole.parameters())


def test_it_is_saved_and_loaded_as_the_whole_table(tmp_path: Path) -> None:
    whole, some = modules("bert", tmp_path)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(1.0)
    assert differing(whole, some, 0) != []
    some.load_state_dict(whole.state_dict())
    assert differing(whole, some, 0) == []
    assert loss(whole).item() == loss(some).item()
    some.save_pretrained(tmp_path / "saved")
    again = load_module(open_checkpoint(str(tiny.checkpoint(tmp_path / "other", seed=1))))
    again.load_state_dict(some.state_dict())
    assert differing(whole, again, 0) == []


def test_padding_learns_nothing() -> None:
    table = torch.nn.Embedding(6, 3, padding_idx=2)
    rows = UsedRows(table, [1, 2, 5])
    ids = torch.tensor([[5, 1, 2]])
    assert torch.equal(rows(ids), table(ids))
    rows(ids).sum().backward()
    assert rows.rows.grad is not None
    assert rows.rows.grad.abs().sum(dim=1).tolist() == [3.0, 0.0, 3.0]
