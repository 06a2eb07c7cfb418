"""The checkpoints that peers are compared on, with texts to calibrate and to test them with."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu.peers import ROOT
from edgebert.families import FAMILIES
from edgebert.shaping import sizes
from edgebert.tasks import TASKS
from edgebert.training.data import read, sample_texts

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# What NNCF asks for; edgebert calibrates on the train part itself.
CALIBRATION_TEXTS = 300


@dataclass(frozen=True)
class Model:
    """A checkpoint. ``train_texts`` and ``test_texts`` are files of JSON lists; of random weights there is no data.

    ``gold`` are the numbers of the test texts' labels.
    """

    path: Path
    train_texts: Path
    data: Path | None = None
    test_texts: Path | None = None
    gold: tuple[int, ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        """The checkpoint's ``config.json``."""
        found: dict[str, Any] = json.loads((self.path / "config.json").read_text("utf-8"))
        return found

    @property
    def digest(self) -> str:
        """A name for it: its folder's, and the beginning of its weights' hash."""
        with (self.path / "model.safetensors").open("rb") as file:
            return f"{self.path.name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"

    def operations(self, batch: int, length: int, *, first_token: bool = False) -> float:
        """Of the encoder's matrix products in one call, attention's among them: two for each multiply-add.

        ``first_token``: the last layer computes keys and values of all tokens, and the rest of the first alone.
        """
        shape = sizes.shape_of(self.config, FAMILIES["bert"], TASKS["text-classification"])
        whole = sizes.flops_per_token(shape, length) * batch * length
        h, f = shape.hidden, shape.ffn
        left_out = 2 * (2 * h * h + 2 * h * f + 2 * length * h) * batch * (length - 1)
        return float(whole - left_out if first_token else whole)


def with_random_weights(shape: Sequence[str], tokenizer: Path, work: Path) -> Model:
    """A BERT classifier of this shape (vocabulary, layers, width, heads, FFN), made once.

    Its ``tokenizer`` is that of a checkpoint: some peers load none but a whole BERT's.
    """
    path = work / f"random-{'-'.join(shape)}"
    if not path.exists():
        maker = ROOT / "benchmarks" / "random_models.py"
        subprocess.run([sys.executable, maker, path, "bert", *shape], check=True, stderr=subprocess.DEVNULL)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, path / name)
    words = [
        word for word in json.loads((path / "tokenizer.json").read_text("utf-8"))["model"]["vocab"] if word.isalnum()
    ]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 126))) for _ in range(CALIBRATION_TEXTS)]
    return Model(path, _written(work / "random-texts.json", texts))


def fine_tuned(path: Path, data: Path, work: Path) -> Model:
    """A checkpoint with the labelled data that it was tuned for."""
    rows = read(data)
    train = [row.text for row in sample_texts(rows.train, CALIBRATION_TEXTS)]
    model = Model(path, _written(work / "train-texts.json", train), data)
    numbers = model.config["label2id"]
    test = _written(work / "test-texts.json", [row.text for row in rows.test])
    return Model(path, model.train_texts, data, test, tuple(numbers[row.label] for row in rows.test))


def _written(file: Path, texts: Sequence[str]) -> Path:
    file.write_text(json.dumps(texts), "utf-8")
    return file
