"""Artifacts made to harm: each case takes a sound folder and changes it. `test_hostile.py` opens them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgebert import stage
from edgebert.artifact import MANIFEST, Artifact

Case = Callable[[Path], None]

FLOAT, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING


def relist(folder: Path) -> None:
    """Make the manifest agree with what was changed: hashes are no obstacle to whoever packs the folder."""
    manifest = Artifact.open(folder).manifest
    stage.write_manifest(folder, replace(manifest, files=stage.hash_files(folder)))


def graph(change: Callable[[onnx.ModelProto], None]) -> Case:
    def case(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        relist(folder)

    return case


def raw(change: Callable[[bytes], bytes]) -> Case:
    def case(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(change((folder / "model.onnx").read_bytes()))
        relist(folder)

    return case


def tensor(change: Callable[[onnx.TensorProto], object]) -> Case:
    """Change the word embeddings, the first large tensor there is."""

    def apply(model: onnx.ModelProto) -> None:
        change(next(t for t in model.graph.initializer if t.name.endswith("word_embeddings.weight")))

    return graph(apply)


def outside(**entries: str) -> Callable[[onnx.TensorProto], None]:
    def change(proto: onnx.TensorProto) -> None:
        proto.ClearField("raw_data")
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            proto.external_data.add(key=key, value=value)

    return change


def external(**entries: str) -> Case:
    """Weights in a listed ``model.onnx_data`` of a few bytes, at the place that the entries name."""

    def case(folder: Path) -> None:
        (folder / "model.onnx_data").write_bytes(bytes(100))
        tensor(outside(**{"location": "model.onnx_data", **entries}))(folder)

    return case


def attribute(value: Any, field: str = "") -> Case:
    def apply(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        if field:
            getattr(node.attribute.add(name="evil"), field).CopyFrom(value)
        else:
            node.attribute.append(helper.make_attribute("evil", value))

    return graph(apply)


def node(**fields: str) -> Case:
    def apply(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model.graph.node[0], name, value)

    return graph(apply)


def functions(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def dims(*sizes: int) -> Callable[[onnx.TensorProto], None]:
    def change(proto: onnx.TensorProto) -> None:
        proto.dims[:] = sizes

    return change


def external_in_attribute(folder: Path) -> None:
    proto = onnx.TensorProto(data_type=FLOAT, dims=[4], name="x")
    outside(location="model.onnx_data", offset="0", length="16")(proto)
    (folder / "model.onnx_data").write_bytes(bytes(100))
    attribute(proto)(folder)


def manifest(**changes: Any) -> Case:
    def case(folder: Path) -> None:
        document = json.loads((folder / MANIFEST).read_text())
        for path, value in changes.items():
            *above, last = path.split("__")
            place = document
            for key in above:
                place = place[key]
            place[last] = value
        (folder / MANIFEST).write_text(json.dumps(document))

    return case


def listing(name: str) -> Case:
    def case(folder: Path) -> None:
        document = json.loads((folder / MANIFEST).read_text())
        document["files"][name] = document["files"].pop("config.json")
        (folder / MANIFEST).write_text(json.dumps(document))

    return case


def settings(name: str, change: Callable[[dict[str, Any]], object]) -> Case:
    """Change a JSON file of the artifact."""

    def case(folder: Path) -> None:
        document = json.loads((folder / name).read_text("utf-8"))
        change(document)
        (folder / name).write_text(json.dumps(document), "utf-8")
        relist(folder)

    return case


def content(name: str, data: bytes) -> Case:
    def case(folder: Path) -> None:
        (folder / name).write_bytes(data)
        relist(folder)

    return case


def tokenizer(**parts: Any) -> Case:
    return settings("tokenizer.json", lambda document: document.update(parts))


def vocabulary(**pieces: int) -> Case:
    return settings("tokenizer.json", lambda document: document["model"]["vocab"].update(pieces))


def missing_special(document: dict[str, Any]) -> None:
    document["post_processor"]["special_tokens"].pop("[SEP]")


def missing_unknown(document: dict[str, Any]) -> None:
    document["model"]["unk_token"] = "[NOWHERE]"
    document["added_tokens"] = []


def moved_away(name: str, put: Callable[[Path, Path], object]) -> Case:
    """Move a file out of the folder and put something that leads there in its place."""

    def case(folder: Path) -> None:
        away = folder.parent / f"{folder.name}-outside"
        (folder / name).rename(away)
        put(folder / name, away)

    return case


def planted_code(folder: Path) -> None:
    canary = folder.parent / "canary-run"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    change = {"AutoModel": "modeling_evil.Model", "AutoConfig": "modeling_evil.Config"}
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "auto_map": change}))
    files = stage.hash_files(folder)
    del files["modeling_evil.py"]
    stage.write_manifest(folder, replace(Artifact.open(folder).manifest, files=files))


def nested(depth: int) -> bytes:
    """A graph within an attribute of a node of a graph, and so on."""
    heads: list[bytes] = []
    length = 0
    for number in [6, 5, 1] * depth + [7]:
        heads.append(_head(number, length))
        length += len(heads[-1])
    return b"".join(reversed(heads))


def _field(number: int, payload: bytes) -> bytes:
    return _head(number, len(payload)) + payload


def _head(number: int, length: int) -> bytes:
    digits = bytearray()
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *digits, length])


_REGEX = {"Regex": "(a+)+$"}
_SPLIT = {"type": "Split", "pattern": _REGEX, "behavior": "Isolated", "invert": False}

CASES: dict[str, tuple[Case, str]] = {
    # Paths and links.
    "path upward": (listing("../canary"), "leads out"),
    "path absolute": (listing("/etc/passwd"), "leads out"),
    "path with NUL": (listing("config\0.json"), "leads out"),
    "path with backslash": (listing("..\\canary"), "leads out"),
    "symbolic link": (moved_away("model.onnx", lambda path, away: path.symlink_to(away)), "link"),
    "hard link": (moved_away("tokenizer.json", lambda path, away: path.hardlink_to(away)), "link"),
    "device": (moved_away("config.json", lambda path, away: path.symlink_to("/dev/zero")), "link"),
    "pipe": (moved_away("model.onnx", lambda path, away: os.mkfifo(path)), "not a plain file"),
    "linked manifest": (moved_away(MANIFEST, lambda path, away: path.symlink_to(away)), "link"),
    # Operators and what else a graph may hold.
    "foreign operators": (node(domain="evil.ops"), "operator .* of the domain 'evil.ops'"),
    "foreign operator set": (
        graph(lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))), "ai.onnx.ml",
    ),
    "compiled node": (node(op_type="EPContext", domain="com.microsoft"), "EPContext"),
    "functions": (graph(functions), "local functions"),
    "training information": (graph(training), "training information"),
    "sparse tensors": (graph(sparse), "sparse tensors"),
    "sparse attribute": (attribute(onnx.SparseTensorProto(), "sparse_tensor"), "sparse tensor"),
    "subgraph": (attribute(onnx.GraphProto(name="g")), "subgraph"),
    "graphs 100 000 deep": (content("model.onnx", nested(100_000)), "subgraph"),
    "two graphs": (raw(lambda model: model + model), "twice"),
    "no graph": (content("model.onnx", b"\x08\x0a"), "no graph"),
    # Data elsewhere, and lengths that nothing stands behind.
    "data upward": (external(location="../canary"), "outside of model.onnx_data"),
    "data absolute": (external(location="/etc/passwd"), "outside of model.onnx_data"),
    "data in memory": (external(location="*/_ORT_MEM_ADDR_/*"), "outside of model.onnx_data"),
    "data not listed": (tensor(outside(location="model.onnx_data")), "outside of model.onnx_data"),
    "data in an attribute": (external_in_attribute, "where none may be"),
    "negative offset": (external(offset="-8"), "external data at '-8'"),
    "offset beyond": (external(offset=str(2**62)), "external data of"),
    "length of 2^60": (external(length=str(2**60)), "external data of"),
    "dimensions 2^32 x 2^32": (tensor(dims(2**32, 2**32)), "declares"),
    "dimensions of 0 and 2^62": (tensor(dims(0, 2**62)), "declares 0"),
    "negative dimension": (tensor(dims(-1, 32)), "negative dimension"),
    "many dimensions": (tensor(dims(*[1] * 50)), "more than 8"),
    "strings": (tensor(lambda proto: setattr(proto, "data_type", STRING)), "elements of type 8"),
    "cut": (raw(lambda model: model[:-100]), "the graph is refused"),
    "a number without end": (content("model.onnx", b"\x08" + b"\xff" * 50), "more than 64 bits"),
    "a length of 2^60": (content("model.onnx", b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x10"), "declared"),
    "ten million nodes": (content("model.onnx", _field(7, b"\x0a\x00" * 10_000_000)), "too many fields"),
    # Disagreement: both values are named.
    "vocab": (manifest(architecture__vocab=147), "vocab: the manifest says 147, the graph 146"),
    "labels": (manifest(labels=["no", "yes"]), "labels: the manifest says 2, the graph 3"),
    "hidden": (manifest(architecture__hidden=48), "hidden: the manifest says 48, the graph 32"),
    "max_length": (manifest(max_length=512), "max_length: the manifest says 512, the graph at most 64"),
    "inputs": (manifest(inputs=[]), "inputs: the manifest says"),
    "task": (manifest(task="feature-extraction", labels=[]), "outputs: the manifest says"),
    "target": (manifest(target="abacus"), "unknown target 'abacus'"),
    # The tokenizer.
    "regular expression": (tokenizer(pre_tokenizer=_SPLIT), "pre_tokenizer is 'Split'"),
    "regular expression within": (
        tokenizer(pre_tokenizer={"type": "Sequence", "pretokenizers": [_SPLIT]}), "pre_tokenizer is 'Split'",
    ),
    "replacement": (
        tokenizer(normalizer={"type": "Replace", "pattern": _REGEX, "content": ""}), "normalizer is 'Replace'",
    ),
    "another model": (tokenizer(model={"type": "BPE", "vocab": {}, "merges": ["a"]}), "model is 'BPE'"),
    "id of 2^31": (vocabulary(evil=2**31), "id 2147483648"),
    "negative id": (vocabulary(evil=-1), "id -1"),
    "an id twice": (vocabulary(evil=0), "share an id"),
    "a special token without ids": (settings("tokenizer.json", missing_special), "without ids"),
    "no piece for unknown words": (settings("tokenizer.json", missing_unknown), "is no piece"),
    "endless words": (
        settings("tokenizer.json", lambda document: document["model"].update(max_input_chars_per_word=2**40)),
        "max_input_chars_per_word",
    ),
    "parts of another kind": (tokenizer(normalizer=[1]), "laid out"),
    "tokenizer 100 000 deep": (content("tokenizer.json", b'{"model":' * 100_000), "not valid JSON"),
    "tokenizer twice": (content("tokenizer.json", b'{"model": {}, "model": {}}'), "duplicate key"),
    "tokenizer of 40 MB": (content("tokenizer.json", b" " * 40_000_000), "file too large"),
    # Code.
    "planted code": (planted_code, "its own code"),
    "pickle": (listing("pytorch_model.bin"), "may run code"),
}  # fmt: skip


def archive(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("0.output.npy", data)
    return file.getvalue()


def array_header(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


# What `verify` reads besides.
GOLDEN_CASES: dict[str, tuple[Case, str]] = {
    "no archive": (content("golden.npz", b"PK"), "golden vectors"),
    "nothing in it": (content("golden.npz", archive(b"")), "golden vectors"),
    "a bomb": (content("golden.npz", archive(bytes(200_000_000), zipfile.ZIP_DEFLATED)), "golden vectors"),
    "a header of 2^60": (content("golden.npz", archive(array_header(f"({2**60},)"))), "declares"),
    "a header that nests": (content("golden.npz", archive(array_header("(" * 5000))), "golden vectors"),
    "pickled objects": (content("golden.npz", archive(pickled())), "golden vectors"),
}
