"""`edgebert package --format triton`: the repository keeps Triton's schema, and its ensemble answers as `load` does."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, edgebert
from fake_trt import Machine
from fake_trt import install as install_gpu
from google.protobuf import text_format
from tiny import LABELS, Exports, checkpoint, texts
from triton_stub import Server, config_of, install, schema, strings

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.cli.package import preferred
from edgebert.errors import UsageError
from edgebert.exporters.pbtxt import Word, entries
from edgebert.exporters.pbtxt import text_format as written
from edgebert.exporters.triton import PAD_TO, write_repository
from edgebert.profiles import EngineRequest, Profile
from edgebert.serving.model import load
from edgebert.serving.tokens import Text, TextTokenizer

pytestmark = pytest.mark.usefixtures("one_trace", "triton_schema")


@pytest.fixture(autouse=True)
def _backend(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def exported(folder: Path, task: str = "text-classification", family: str = "bert", target: str = "cpu") -> Artifact:
    model = checkpoint(folder / "m", family, task, layers=1)
    return build.export(str(model), target=target, out=folder / "o")[0]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_classifiers_ensemble_answers_as_load_does(tmp_path: Path, family: str) -> None:
    artifact = exported(tmp_path, family=family)
    done = edgebert("package", artifact.path, "--format", "triton", "-o", tmp_path / "r", "--name", "films", "--json")
    assert done.json["models"] == ["films", "films-tokens", "films-graph"]
    server = Server(tmp_path / "r", "films")
    asked: list[Text] = [*texts(9, seed=2), "", " ".join(["long"] * 200), "Ein Größenwahn, naïve 😀"]
    with load(artifact.path) as model:
        pairs: list[Text] = [("a fine", "film"), ("b" * 90, "a dull one")]
        parts = [asked[:1], asked[1:6], asked[6:], pairs]
        for part, found in zip(parts, server.ask([strings(part) for part in parts]), strict=True):
            assert not isinstance(found, str)
            np.testing.assert_allclose(found["logits"], model.logits(part), atol=1e-5)
    assert (tmp_path / "r" / "films-graph" / "labels.txt").read_text().splitlines() == list(LABELS)


def test_an_encoders_ensemble_answers_as_load_does(tmp_path: Path) -> None:
    artifact = exported(tmp_path, "feature-extraction")
    server = Server(write_repository(artifact, tmp_path / "r", "vectors").path, "vectors")
    with load(artifact.path) as model:
        asked = texts(7, seed=5)
        (found,) = server.ask([strings(asked)])
        assert not isinstance(found, str)
        np.testing.assert_allclose(found["embedding"], model.encode(asked), atol=1e-5)


def test_tokens_are_edgeberts_and_few_lengths(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", "text-classification", 1)
    server = Server(write_repository(artifact, tmp_path / "r", "m").path, "m")
    tokenizer = TextTokenizer(artifact)
    asked = [[text] for text in [*texts(12, seed=7), "", "x" * 500]]
    found = server._run("m-tokens", [strings(each) for each in asked])
    for text, arrays in zip(asked, found, strict=True):
        assert not isinstance(arrays, str)
        items = tokenizer.encode(text)
        width = arrays["input_ids"].shape[1]
        assert width == min(artifact.manifest.max_length, -(-len(items[0]) // PAD_TO) * PAD_TO)
        for name, array in tokenizer.collate(items, width).items():
            np.testing.assert_array_equal(arrays[name], array)


def test_what_is_no_text_harms_no_other(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", "text-classification", 1)
    server = Server(write_repository(artifact, tmp_path / "r", "m").path, "m")
    bad = {"TEXT": np.array([[b"\xff\xfe"]], dtype=object)}
    huge = {"TEXT": np.array([[b"a" * 1_000_001]], dtype=object)}
    first, second, third = server.ask([bad, strings(["a film"]), huge])
    assert isinstance(first, str)
    assert "utf-8" in first
    assert isinstance(third, str)
    assert "1000001 characters" in third
    assert not isinstance(second, str)
    with load(artifact.path) as model:
        np.testing.assert_allclose(second["logits"], model.logits(["a film"]), atol=1e-5)


def test_batches_and_warm_up_are_configured(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", "text-classification", 1)
    config = config_of(write_repository(artifact, tmp_path / "r", "m", [4, 16, 64]).path / "m-graph")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert [each.batch_size for each in config.model_warmup] == [1, config.max_batch_size]
    names = {spec.name for spec in artifact.manifest.inputs}
    assert all(set(each.inputs) == names for each in config.model_warmup)
    assert [schema().ModelInstanceGroup.Kind.Name(each.kind) for each in config.instance_group] == ["KIND_CPU"]


@pytest.mark.parametrize("target", ["cuda", "ort-trt"])
def test_graphs_for_gpus_go_to_gpus(tmp_path: Path, target: str) -> None:
    artifact = exported(tmp_path, target=target)
    repository = write_repository(artifact, tmp_path / "r", "m").path
    config = config_of(repository / "m-graph")
    assert (config.backend, config.instance_group[0].kind) == ("onnxruntime", schema().ModelInstanceGroup.KIND_GPU)
    accelerators = [each.name for each in config.optimization.execution_accelerators.gpu_execution_accelerator]
    assert accelerators == (["tensorrt"] if target == "ort-trt" else [])
    with load(artifact.path, "cpu") as model:
        (found,) = Server(repository, "m").ask([strings(["a film"])])
        assert not isinstance(found, str)
        np.testing.assert_allclose(found["logits"], model.logits(["a film"]), atol=1e-5)


def test_a_packed_graph_is_not_warmed_up_with_texts_that_have_no_token(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", layers=2)
    (artifact,) = build.export(str(model), target="cuda", packing=True, out=tmp_path / "o")
    config = config_of(write_repository(artifact, tmp_path / "r", "m").path / "m-graph")
    assert (config.backend, list(config.model_warmup)) == ("onnxruntime", [])


def test_engines_are_named_by_compute_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(Machine(), monkeypatch)
    model = checkpoint(tmp_path / "m", layers=1)
    request = EngineRequest(profile=Profile((1, 32), (4, 32), (8, 64)))
    (artifact,) = build.export(str(model), target="trt", out=tmp_path / "o", engine=request)
    repository = write_repository(artifact, tmp_path / "r", "m").path
    config = config_of(repository / "m-graph")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 8)
    assert dict(config.cc_model_filenames) == {"8.9": "engine-sm89.plan"}
    assert [path.name for path in (repository / "m-graph" / "1").iterdir()] == ["engine-sm89.plan"]
    assert json.loads((repository / "m-tokens" / "1" / "settings.json").read_text())["least"] == 32
    request = EngineRequest(profile=Profile((2, 8), (2, 8), (2, 8)))
    (narrow,) = build.export(str(model), target="trt", out=tmp_path / "n", engine=request)
    with pytest.raises(UsageError, match="takes no single text"):
        write_repository(narrow, tmp_path / "q", "m")
    gc.collect()


class Front(BaseHTTPRequestHandler):
    """Triton's HTTP front, as far as the example goes."""

    triton: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (given,) = asked["inputs"]
        assert (self.path, given["name"], given["datatype"]) == ("/v2/models/films/infer", "TEXT", "BYTES")
        texts = np.array([text.encode() for text in given["data"]], object).reshape(given["shape"])
        (found,) = self.triton.ask([{"TEXT": texts}])
        assert not isinstance(found, str)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in found.items()
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"outputs": outputs}).encode())

    def log_message(self, *_: object) -> None: ...


def test_the_example_asks_as_the_protocol_has_it(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", "text-classification", 1)
    Front.triton = Server(write_repository(artifact, tmp_path / "r", "films").path, "films")
    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            example = str(ROOT / "examples" / "triton_client.py")
            client = [sys.executable, example, url, "films", "a fine film", "a dull one"]
            done = subprocess.run(client, capture_output=True, text=True, check=True)
        finally:
            server.shutdown()
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["a fine film", "a dull one"]
    with load(artifact.path) as model:
        truth = model.logits([row[0] for row in rows])
    np.testing.assert_allclose([[float(value) for value in row[1:]] for row in rows], truth, atol=1e-3)


def test_preferred_sizes_are_those_that_bring_more() -> None:
    assert preferred({1: 100, 2: 190, 4: 195, 8: 300, 16: 290, 32: 310}) == [2, 8]
    assert preferred({1: 100, 8: 101}) == []
    assert preferred({}) == []


def test_measurements_come_from_bench(exports: Exports, tmp_path: Path) -> None:
    artifact = exports.artifact("bert", "text-classification", 1)
    row = {"digest": artifact.digest, "target": "cpu"}
    for size, speed in ((1, 100.0), (8, 700.0)):
        document = {"results": [{**row, "batch_size": size, "texts_per_s": speed}]}
        (tmp_path / f"b{size}.json").write_text(json.dumps(document))
    files = f"{tmp_path / 'b1.json'},{tmp_path / 'b8.json'}"
    asked = ("package", artifact.path, "--format", "triton", "--bench", files, "-o", tmp_path / "r")
    assert edgebert(*asked, "--json").json["preferred_batch_size"] == [8]
    assert edgebert(*asked).code == 2
    assert edgebert(*asked, "--force").code == 0
    (tmp_path / "b1.json").write_text(json.dumps({"results": [{**row, "digest": "other"}]}))
    done = edgebert(*asked, "--force")
    assert done.code == 3
    assert "it does not measure this artifact" in done.error
    (tmp_path / "b1.json").write_text("{}")
    assert "not measurements of edgebert bench" in edgebert(*asked, "--force").error


def test_what_triton_cannot_run_is_refused(exports: Exports, tmp_path: Path) -> None:
    tagger = exports.artifact("bert", "token-classification", 1)
    done = edgebert("package", tagger.path, "--format", "triton", "-o", tmp_path / "r")
    assert done.code == 2
    assert "no ensemble answers token-classification" in done.error
    assert edgebert("package", tagger.path, "--format", "bento", "-o", tmp_path / "r").code == 2
    assert edgebert("package", tmp_path / "none", "--format", "triton", "-o", tmp_path / "r").code == 3
    assert not (tmp_path / "r").exists()


def test_text_format_is_read_back_as_it_was_written() -> None:
    message = {
        "name": 'a "quoted" naïve\n\\ name', "max_batch_size": 4, "input": [
            {"name": "x", "data_type": Word("TYPE_INT64"), "dims": [-1, 3]}, {"name": "y", "dims": []},
        ],
        "cc_model_filenames": entries({"8.9": "a.plan"}),
    }  # fmt: skip
    found = text_format.Parse(written(message), schema().ModelConfig())
    assert (found.name, found.max_batch_size) == (message["name"], 4)
    assert [(each.name, list(each.dims)) for each in found.input] == [("x", [-1, 3]), ("y", [])]
    assert dict(found.cc_model_filenames) == {"8.9": "a.plan"}
