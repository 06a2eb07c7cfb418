"""How long real texts are, and batches of random tokens as long as they.

``sst2_lengths.json`` holds, by tokens, how many of SST-2's sentences are so long: counted where the data is, by

    python benchmarks/gpu_tables.py --count-lengths DATA

and read on the GPU machine, which has neither data nor tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

COUNTED = Path(__file__).resolve().parent / "sst2_lengths.json"


def count(data: Path) -> None:
    """Write the numbers of a folder of data: of its test part, with the default model's tokens."""
    from edgebert.serving.tokens import TextTokenizer
    from edgebert.shaping.checkpoint import open_checkpoint
    from edgebert.training.data import read

    texts = [row.text for row in read(str(data)).test]
    tokens = TextTokenizer(open_checkpoint("minilm")).encode(texts)
    found = Counter(len(item.ids) for item in tokens)
    COUNTED.write_text(json.dumps({str(length): found[length] for length in sorted(found)}) + "\n", "utf-8")


def drawn(rows: int, batches: int) -> list[Any]:
    """Lengths of some batches, int [rows] each, drawn with the frequencies that were counted; always the same."""
    counted = {int(length): number for length, number in json.loads(COUNTED.read_text("utf-8")).items()}
    shares = np.array(list(counted.values())) / sum(counted.values())
    generator = np.random.default_rng(rows)
    return [generator.choice(list(counted), rows, p=shares) for _ in range(batches)]


def feed_of(lengths: Any, vocab: int, width: int | None = None) -> dict[str, Any]:
    """A batch of random tokens of these lengths, padded on the right to the longest, or to ``width``."""
    width = int(max(lengths)) if width is None else width
    generator = np.random.default_rng(len(lengths) * 1000 + width)
    mask = (np.arange(width) < np.asarray(lengths)[:, None]).astype(np.int64)
    ids = generator.integers(1, vocab, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
