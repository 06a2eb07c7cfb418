"""One suite over the whole table of targets: what every runtime must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import program, without
from tiny import checkpoint, texts

from edgebert import build
from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.judging.parity import feeds
from edgebert.registry import check_pair, target_named, targets_here
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer

pytestmark = pytest.mark.usefixtures("one_trace")
TARGETS_HERE = targets_here()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runtimes")
    model = checkpoint(folder / "model")
    return {
        name: build.export(str(model), layers=2, target=name, precision="fp32", out=folder / name)[0].path
        for name in TARGETS_HERE
    }


@pytest.mark.parametrize("target", TARGETS_HERE)
def test_a_session_gives_the_reference_answer_for_every_batch(artifacts: dict[str, Path], target: str) -> None:
    artifact, reference = Artifact.open(artifacts[target]), Artifact.open(artifacts["torch"])
    session = target_named(target).resolve()(artifact, SessionConfig(threads=1))
    truth = target_named("torch").resolve()(reference, SessionConfig(threads=1))
    for feed in feeds(TextTokenizer(artifact), texts(12, seed=3)):
        np.testing.assert_allclose(session.run(feed)["logits"], truth.run(feed)["logits"], atol=1e-5)


@pytest.mark.parametrize("target", TARGETS_HERE)
def test_a_session_says_what_really_runs(artifacts: dict[str, Path], target: str) -> None:
    session = target_named(target).resolve()(Artifact.open(artifacts[target]), SessionConfig(threads=1))
    facts = session.facts()
    assert facts["threads"] == 1
    assert {"runtime", "version", "provider"} <= facts.keys()
    session.close()
    session.close()


@pytest.mark.parametrize("target", TARGETS_HERE)
def test_a_model_answers_on_its_own_target(artifacts: dict[str, Path], target: str) -> None:
    with load(artifacts[target]) as model:
        assert len(model.predict(texts(3, seed=1))) == 3


def test_an_exported_graph_is_never_served_with_made_up_weights(artifacts: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="cannot run this onnx artifact"):
        load(artifacts["cpu"], target="torch")


def test_an_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="one of cpu, openvino, torch, cuda, ort-trt, trt, trt-rtx"):
        target_named("abacus")


def test_a_pair_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(
        UsageError,
        match="cpu: fp32, int8, int8-dynamic, int8-static; openvino: fp32, bf16, int8, int8-static; torch: fp32",
    ):
        check_pair("torch", "int8")


@pytest.mark.parametrize(("target", "package"), [("cpu", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_is_an_error_with_the_command_that_brings_it(
    artifacts: dict[str, Path], tmp_path: Path, target: str, package: str
) -> None:
    absent = without([package], tmp_path)
    for arguments in (("bench", artifacts["cpu"], "--target", target), ("verify", artifacts[target])):
        done = program(*arguments, PYTHONPATH=absent)
        assert done.code == 6
        assert f"missing package: {package}: pip install 'edgebert[{target}]'" in done.error
