"""Target openvino: which precision really runs, few shapes whatever the lengths, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from commands import edgebert
from hostile import relist
from test_masks import feed_of
from tiny import TASKS, Exports, checkpoint, texts

from edgebert.errors import EnvironmentMissing, InputError
from edgebert.exporters.precision import PrecisionConfig, set_precision
from edgebert.machine import has_bf16
from edgebert.registry import target_named
from edgebert.runtimes import fixed, ov
from edgebert.runtimes.ov import LENGTH_STEP
from edgebert.runtimes.reference import reference_session
from edgebert.runtimes.session import Feed, Session, SessionConfig
from edgebert.serving.model import load

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this CPU does not compute in bf16")


def session_of(exports: Exports, precision: str = "fp32", config: SessionConfig | None = None) -> Session:
    artifact = exports.artifact("bert", TASKS[0], 2, precision)
    opened: Session = target_named("openvino").resolve()(artifact, config or SessionConfig(threads=1))
    return opened


def feed(exports: Exports, rows: int, length: int) -> dict[str, np.ndarray]:
    return feed_of(exports.checkpoint("bert", TASKS[0], 2), np.ones((rows, length), np.int64))


PRECISIONS = [
    ("fp32", "f32", "f32"),
    pytest.param("bf16", "bf16", "bf16", marks=needs_bf16),
    ("int8-static", "u8", "f32"),
]


@pytest.mark.parametrize(("precision", "products", "around"), PRECISIONS)
def test_the_precision_that_runs_is_the_one_that_is_named(
    exports: Exports, precision: str, products: str, around: str
) -> None:
    facts = session_of(exports, precision).facts()
    # Six a layer, the pooler and the classifier.
    assert facts["products"] == {products: 14}
    assert facts["around"] == around
    assert facts["threads"] == 1
    assert facts["provider"] == "CPU"


def test_lengths_are_padded_to_a_few_and_the_waste_is_told(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    session, seen = session_of(exports), set()
    fitted = fixed.fitted

    def watched(batch: Feed, rows: int, length: int, fill: dict[str, int]) -> Feed:
        seen.add((rows, length))
        return fitted(batch, rows, length, fill)

    monkeypatch.setattr(ov, "fitted", watched)
    assert session.facts()["padding"] == 0
    for length in range(2, 3 * LENGTH_STEP + 1):
        assert session.run(feed(exports, 2, length))["logits"].shape == (2, 3)
    assert seen == {(2, LENGTH_STEP), (2, 2 * LENGTH_STEP), (2, 3 * LENGTH_STEP)}
    given = sum(range(2, 3 * LENGTH_STEP + 1))
    computed = (LENGTH_STEP - 1 + 2 * LENGTH_STEP + 3 * LENGTH_STEP) * LENGTH_STEP
    assert session.facts()["padding"] == pytest.approx(1 - given / computed, abs=1e-4)


def test_the_longest_is_the_models_own(exports: Exports) -> None:
    artifact = exports.artifact("bert", TASKS[0], 2)
    longest = artifact.manifest.max_length
    session = session_of(exports)
    for length in (longest - 1, longest):
        assert np.isfinite(session.run(feed(exports, 1, length))["logits"]).all()


def test_a_row_without_tokens_is_what_pytorch_makes_of_it(exports: Exports) -> None:
    reference = reference_session(exports.checkpoint("bert", TASKS[0], 2))
    batch = feed(exports, 2, 5)
    batch["attention_mask"][1] = 0
    expected = reference.run(batch)["logits"]
    np.testing.assert_allclose(session_of(exports).run(batch)["logits"], expected, atol=1e-5)


def test_calls_at_once_have_requests_of_their_own(exports: Exports) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with load(exports.artifact("bert", TASKS[0], 2).path, "openvino", threads=1) as model:
        asked = [texts(3, seed=seed) for seed in range(16)]
        truth = [model.logits(part) for part in asked]
        with ThreadPoolExecutor(8) as pool:
            for expected, found in zip(truth, pool.map(model.logits, asked), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_what_would_run_in_float_is_not_called_int8(exports: Exports) -> None:
    with pytest.raises(InputError, match=r"computes in f32 what the manifest calls int8.*--target openvino"):
        session_of(exports, "int8-dynamic")


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that does not compute in bf16, as both who ask see it."""
    for module in ("edgebert.runtimes.ov", "edgebert.exporters.precision"):
        monkeypatch.setattr(f"{module}.has_bf16", lambda: False)


@pytest.mark.usefixtures("without_bf16")
def test_bf16_is_refused_where_the_cpu_has_none(exports: Exports, tmp_path: Path) -> None:
    config = PrecisionConfig("openvino", "bf16")
    with pytest.raises(EnvironmentMissing, match=r"does not compute in bf16.*use fp32 or int8"):
        set_precision(exports.artifact("bert", TASKS[0], 2), config, tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_bf16
def test_a_bf16_artifact_is_refused_where_the_cpu_has_none(exports: Exports, request: pytest.FixtureRequest) -> None:
    session_of(exports, "bf16")
    request.getfixturevalue("without_bf16")
    with pytest.raises(EnvironmentMissing, match=r"does not compute in bf16.*use fp32 or int8"):
        session_of(exports, "bf16")


@needs_bf16
def test_onnx_runtime_does_not_pass_for_bf16(exports: Exports) -> None:
    with pytest.raises(InputError, match="computes nothing in bf16"):
        load(exports.artifact("bert", TASKS[0], 2, "bf16").path, "cpu")


def test_compiled_models_are_kept_where_the_caller_says(exports: Exports, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", exports.artifact("bert", TASKS[0], 2).path
    with load(path, "openvino", threads=1, cache_dir=cache) as model:
        truth, digest = model.logits(["a film"]), model.artifact.digest
    kept = {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()}
    assert kept
    assert {file.parent for file in kept} == {cache / digest}
    with load(path, "openvino", threads=1, cache_dir=cache) as model:
        np.testing.assert_array_equal(model.logits(["a film"]), truth)
        assert model.facts()["products"] == {"f32": 14}
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()} == kept


def test_weights_beside_the_graph_are_refused(exports: Exports, tmp_path: Path) -> None:
    sound = exports.artifact("bert", TASKS[0], 2)
    for name in ("edgebert.json", *sound.manifest.files):
        (tmp_path / name).write_bytes((sound.path / name).read_bytes())
    onnx_ir.save(onnx_ir.load(sound.path / "model.onnx"), tmp_path / "model.onnx", external_data="model.onnx_data")
    relist(tmp_path)
    with pytest.raises(InputError, match=r"reads no weights beside the graph.*use target cpu"):
        load(tmp_path, "openvino")


def test_every_command_knows_the_target(tmp_path: Path) -> None:
    model, out = checkpoint(tmp_path / "m", layers=1), tmp_path / "out"
    wanted = ["fp32", "int8", *(["bf16"] if has_bf16() else [])]
    asked = ("--model", model, "--target", "openvino", "--precision", ",".join(wanted), "-o", out, "--json")
    made = edgebert("export", *asked).json["artifacts"]
    assert [(entry["target"], entry["precision"]) for entry in made] == [("openvino", name) for name in wanted]
    for entry in made:
        done = edgebert("verify", entry["path"], "--reference", model, "--json")
        assert (done.code, done.json["ok"]) == (0, True)
        assert edgebert("doctor", entry["path"]).code == 0
    timed = edgebert("bench", *(entry["path"] for entry in made), "--samples", 2, "--threads", 1, "--json")
    rows = [(row["target"], row["precision"]) for row in timed.json["results"]]
    assert rows == [("openvino", name) for name in sorted(wanted)]
