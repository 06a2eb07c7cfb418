"""bert-large and xlm-roberta-large shapes with random weights: seconds and peak memory of export and verify.

Memory is VmHWM of the command's process (Linux), over the bytes of the model's weights. The texts are short:
what a model of this size takes is its weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import heading

LAYERS, HIDDEN, HEADS, FFN, POSITIONS = 24, 1024, 16, 4096, 512
# The multilingual model's sizes in the family roberta: its own tokenizer plays no part here.
MODELS = {"bert-large": ("bert", 30522), "xlm-roberta-large": ("roberta", 250002)}
WORDS = [f"word{number}" for number in range(200)]
PROGRAM = """
import atexit, os, pathlib
from edgebert.cli import main
def tell():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    pathlib.Path(os.environ["PEAK_FILE"]).write_text(str(peak * 1024))
atexit.register(tell)
main()
"""


def main() -> None:
    """Print the table for the models named on the command line, or all."""
    if sys.argv[1:2] == ["make"]:
        _make(sys.argv[2], Path(sys.argv[3]))
        return
    rows = [row for name in sys.argv[1:] or MODELS for row in _rows(name)]
    print(heading("Big models: seconds and peak memory"))
    print("| model | MB of weights | command | seconds | peak MB | times the weights | left behind |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def _rows(name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In a process of its own, so that this one stays small.
        subprocess.run([sys.executable, __file__, "make", name, str(root / "model")], check=True)
        (root / "texts.txt").write_text("".join(f"{' '.join(WORDS[: 3 + i % 9])}\n" for i in range(24)))
        size = (root / "model" / "model.safetensors").stat().st_size
        export = ["export", "--model", "model", "--data", "texts.txt", "-o", "out", "--precision"]
        artifacts = [f"out/model-l{LAYERS}-cpu-{precision}" for precision in ("fp32", "int8")]
        commands = [[*export, "fp32,int8"], *(["verify", path] for path in artifacts)]
        return [_row(name, size, command, root) for command in commands]


def _row(name: str, size: int, command: list[str], root: Path) -> str:
    place = root / "tmp"
    place.mkdir(exist_ok=True)
    package = str(Path(__file__).resolve().parent.parent)
    variables = {"PEAK_FILE": str(root / "peak"), "TMPDIR": str(place), "PYTHONPATH": package}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, "-q"], check=True, cwd=root, env={**os.environ, **variables}
    )
    seconds = time.perf_counter() - start
    peak = int((root / "peak").read_text())
    wanted = {f"model-l{LAYERS}-cpu-fp32", f"model-l{LAYERS}-cpu-int8"}
    left = [path.name for path in (*place.iterdir(), *(root / "out").iterdir()) if path.name not in wanted]
    said = " ".join(word for word in command if word not in ("--model", "model", "--data", "texts.txt", "-o", "out"))
    numbers = f"{seconds:.0f} | {peak / 1e6:.0f} | {peak / size:.2f}"
    return f"| {name} | {size / 1e6:.0f} | {said} | {numbers} | {', '.join(left) or 'nothing'} |"


def _make(name: str, folder: Path) -> None:
    """A Hugging Face folder of that shape with random weights."""
    import torch
    import transformers

    family, vocab = MODELS[name]
    tokenizer = _wordpiece(vocab) if family == "bert" else _byte_pairs(vocab)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    shape: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": FFN,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "bert":
        config: transformers.PretrainedConfig = transformers.BertConfig(max_position_embeddings=POSITIONS, **shape)
    else:
        # The first two rows of the position table are no positions.
        config = transformers.RobertaConfig(
            max_position_embeddings=POSITIONS + 2, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            **shape,
        )  # fmt: skip
    kind: Any = transformers.AutoModelForSequenceClassification
    kind.from_config(config).save_pretrained(folder)


def _wordpiece(vocab: int) -> dict[str, Any]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS]
    pieces += [f"other{number}" for number in range(vocab - len(pieces))]
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {piece: number for number, piece in enumerate(pieces)},
    }  # fmt: skip
    return _tokenizer(model, special, "[CLS]", "[SEP]", {"type": "BertPreTokenizer"})


def _byte_pairs(vocab: int) -> dict[str, Any]:
    from tokenizers import pre_tokenizers

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"other{number}" for number in range(vocab - len(pieces))]
    model = {"type": "BPE", "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": []}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _tokenizer(model, special, "<s>", "</s>", split)


def _tokenizer(
    model: dict[str, Any], special: list[str], begin: str, end: str, split: dict[str, Any]
) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    text = [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    closed = [*text, {"SpecialToken": {"id": end, "type_id": 0}}]
    both = [*closed, {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]
    ids = {name: {"id": name, "ids": [special.index(name)], "tokens": [name]} for name in (begin, end)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, "content": name, **plain} for number, name in enumerate(special)],
        "normalizer": None, "pre_tokenizer": split,
        "post_processor": {"type": "TemplateProcessing", "single": closed, "pair": both, "special_tokens": ids},
        "decoder": None, "model": model,
    }  # fmt: skip


if __name__ == "__main__":
    main()
