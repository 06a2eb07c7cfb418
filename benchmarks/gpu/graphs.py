"""Graphs without their weights: small enough to be carried, and filled where they run.

Made where edgebert's exporters are (the extra ``build``); read with numpy and torch alone. A graph's weights are
external data of one virtual file, whose content is laid out by an index of parameter names.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = "weights"
PRECISIONS = ("fp32", "fp16", "bf16")
# What is packed is compared with what a GPU is used for.
PACKED = "fp16"
VOCAB, POSITIONS = 30522, 512


@dataclass(frozen=True)
class Shape:
    """A BERT by its numbers; the labels are two."""

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = VOCAB

    def config(self) -> Any:
        """transformers' config of it."""
        from transformers import BertConfig

        return BertConfig(
            vocab_size=self.vocab, hidden_size=self.hidden, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.ffn, max_position_embeddings=POSITIONS,
        )  # fmt: skip

    def flops(self, batch: int, length: int) -> float:
        """Of one call, as edgebert counts them: two a multiply-add of every matrix product of the encoder."""
        from edgebert.shaping import sizes

        shape = sizes.Shape(self.layers, self.hidden, self.heads, self.ffn, self.vocab)
        return float(sizes.flops_per_token(shape, length) * batch * length)


BASE = Shape("bert-base", 12, 768, 12, 3072)
SHAPES = (
    BASE,
    replace(BASE, name="bert-base-6", layers=6),
    replace(BASE, name="bert-base-3", layers=3),
    Shape("bert-large", 24, 1024, 16, 4096),
    Shape("minilm", 6, 384, 12, 1536),
)
TINY = (Shape("tiny", 2, 32, 4, 64, 120),)


def random_model(shape: Shape) -> Any:
    """A classifier with random weights, biases too, the same wherever it is made."""
    import torch
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification._from_config(shape.config(), attn_implementation="sdpa").eval()
    # numpy's numbers stay as they are from version to version.
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = generator.standard_normal(tuple(parameter.shape), np.float32) * np.float32(0.02)
            parameter.copy_(torch.from_numpy(drawn + 1 if name.endswith("LayerNorm.weight") else drawn))
    return model


def prepare(shape: Shape, out: Path) -> None:
    """Write ``NAME-FORM.onnx`` and ``.json`` for target cuda: a form is a precision, packed too."""
    from functools import partial

    from edgebert import stage
    from edgebert.exporters.cuda_fuse import FuseConfig, fuse
    from edgebert.exporters.graph import build_graph, trace
    from edgebert.exporters.pack import PackConfig, pack
    from edgebert.exporters.signature import PORTABLE
    from edgebert.shaping.checkpoint import open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = random_model(shape)
        model.save_pretrained(root / "model")
        # Nothing here reads text, but a checkpoint has a tokenizer.
        (root / "model" / "tokenizer.json").write_text(json.dumps(_tokenizer()), "utf-8")
        source = open_checkpoint(str(root / "model"), "text-classification")
        graph = stage.run("graph", partial(build_graph, template=trace(source)), source, PORTABLE, root / "graph")
        made = {each: stage.run("fuse", fuse, graph, FuseConfig(each), root / each) for each in PRECISIONS}
        made[f"{PACKED}-packed"] = stage.run("pack", pack, made[PACKED], PackConfig(), root / "packed")
        for form, artifact in made.items():
            name, parameters = out / f"{shape.name}-{form}", set(model.state_dict())
            _strip(artifact.path / "model.onnx", parameters, name, shape, _checksum(model))


def _tokenizer() -> dict[str, Any]:
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3},
    }  # fmt: skip
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "model": model}


def _strip(graph: Path, parameters: set[str], out: Path, shape: Shape, drawn: int) -> None:
    """The graph with each weight that is a parameter in the virtual file, and the index of that.

    What was computed of parameters stays in the graph: ``drawn`` tells of which.
    """
    import onnx
    from onnx import TensorProto, external_data_helper, helper

    model = onnx.load(graph)
    index, offset = [], 0
    for tensor in model.graph.initializer:
        if tensor.name.removesuffix(".T") not in parameters:
            continue
        raw = tensor.raw_data
        external_data_helper.set_external_data(tensor, WEIGHTS, offset, len(raw))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        index.append({"name": tensor.name, "dtype": dtype, "offset": offset, "bytes": len(raw)})
        offset += len(raw)
    out.with_suffix(".onnx").write_bytes(model.SerializeToString())
    document = {"shape": asdict(shape), "weights": drawn, "bytes": offset, "tensors": index}
    out.with_suffix(".json").write_text(json.dumps(document), "utf-8")


def _checksum(model: Any) -> int:
    """Of the biases: they would differ if any random number before them did."""
    biases = [value for name, value in model.state_dict().items() if name.endswith(".bias")]
    return zlib.crc32(b"".join(_bytes(value, "float32") for value in biases))


def _bytes(tensor: Any, dtype: str) -> bytes:
    """A tensor's values in a type, which numpy alone need not know."""
    import torch

    found = tensor.to(getattr(torch, dtype)).contiguous()
    return bytes(found.view(torch.uint8).numpy().tobytes())


def filled(folder: Path, shape: Shape, form: str, model: Any) -> tuple[bytes, bytes]:
    """A prepared graph, and the content of its virtual file by a model's own weights. No onnx is needed."""
    document = json.loads((folder / f"{shape.name}-{form}.json").read_text("utf-8"))
    if document["shape"] != asdict(shape):
        raise ValueError(f"{folder} was prepared for another {shape.name}: run --prepare again")
    if document["weights"] != _checksum(model):
        raise ValueError(f"{folder} was prepared with other weights of {shape.name}: run --prepare with these versions")
    state, content = model.state_dict(), bytearray(document["bytes"])
    for entry in document["tensors"]:
        plain = entry["name"].removesuffix(".T")
        tensor = state[plain].T if plain != entry["name"] else state[plain]
        raw = _bytes(tensor.detach().cpu(), entry["dtype"])
        if len(raw) != entry["bytes"]:
            raise ValueError(f"{entry['name']} has {len(raw)} bytes where the graph has {entry['bytes']}")
        content[entry["offset"] : entry["offset"] + len(raw)] = raw
    return (folder / f"{shape.name}-{form}.onnx").read_bytes(), bytes(content)
