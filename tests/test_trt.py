"""Targets trt and trt-rtx on a pretended GPU (`fake_trt.py`): calls, padding, caches, whose engine runs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import edgebert
from cuda.bindings import runtime
from fake_trt import Machine, install
from hostile import relist
from tiny import TASKS, Exports, checkpoint, texts

from edgebert import build, stage
from edgebert.artifact import Artifact
from edgebert.errors import CheckFailed, EnvironmentMissing, InputError, OutOfMemory
from edgebert.judging.parity import feeds
from edgebert.profiles import EngineRequest, Profile
from edgebert.registry import target_named
from edgebert.runtimes import device
from edgebert.runtimes.session import SessionConfig
from edgebert.serving.model import load
from edgebert.serving.tokens import TextTokenizer

pytestmark = pytest.mark.usefixtures("one_trace")

FULL = runtime.cudaError_t.cudaErrorMemoryAllocation
# One output and two.
TWO = ("text-classification", "question-answering")
# Every batch must be padded to it or split for it.
PROFILE = Profile((2, 8), (2, 16), (4, 64))


Plug = Callable[[Machine], Machine]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Puts a machine in the place of the one before."""
    yield lambda machine: install(machine, monkeypatch)
    # What tests left open gives its memory back where it took it from.
    gc.collect()


@pytest.fixture
def gpu(plug: Plug) -> Machine:
    return plug(Machine())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("trt") / "m", layers=1)


def exported(model: Path, out: Path, precision: str = "fp32", profile: Profile | None = PROFILE) -> Artifact:
    request = EngineRequest(profile=profile)
    return build.export(str(model), target="trt", precision=precision, out=out, engine=request)[0]


def test_answers_are_the_references_whatever_is_padded_and_split(exports: Exports, gpu: Machine) -> None:
    for task in TWO:
        artifact = exports.artifact("bert", task, 1)
        session = target_named("trt").resolve()(artifact, SessionConfig(threads=1))
        truth = target_named("torch").resolve()(exports.checkpoint("bert", task, 1), SessionConfig(threads=1))
        for feed in feeds(TextTokenizer(artifact), texts(7, seed=3)):
            found, expected = session.run(feed), truth.run(feed)
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_a_profile_that_no_batch_fits_changes_no_answer(model: Path, tmp_path: Path, gpu: Machine) -> None:
    with (
        load(exported(model, tmp_path).path, trust_engine=True) as narrow,
        load(exported(model, tmp_path / "wide", profile=None).path, trust_engine=True) as wide,
    ):
        asked = texts(9, seed=4)
        np.testing.assert_allclose(narrow.logits(asked), wide.logits(asked), atol=1e-5)
        assert narrow.facts()["profile"] == "2x8,2x16,4x64"


def test_a_call_copies_computes_and_copies_back_between_two_marks(exports: Exports, gpu: Machine) -> None:
    with load(exports.artifact("bert", TASKS[0], 1).path, "trt") as model:
        gpu.calls.clear()
        before = model.facts()
        model.logits(["a film"])
        after = model.facts()
    assert gpu.calls == [*["HostToDevice"] * 3, "mark", "execute", "mark", "DeviceToHost", "wait"]
    assert after["device_calls"] - before["device_calls"] == 1
    assert after["device_ms"] - before["device_ms"] == pytest.approx(0.25)
    assert after["device_bytes"] > 0
    assert (after["runtime"], after["device"], after["capability"]) == ("tensorrt", "A GPU", "8.9")


def test_memory_is_given_back(exports: Exports, gpu: Machine) -> None:
    model = load(exports.artifact("bert", TASKS[0], 1).path, "trt")
    assert gpu.memory
    model.close()
    del model
    gc.collect()
    assert gpu.memory == {}


def test_nothing_is_built_inside_a_request(model: Path, tmp_path: Path, gpu: Machine) -> None:
    artifact = exported(model, tmp_path, profile=Profile((1, 1), (1, 8), (2, 16)))
    with load(artifact.path, trust_engine=True) as opened:
        built = gpu.built
        opened.logits(texts(5, seed=1, longest=30))
        assert opened.tokenize([" ".join(["a"] * 30)])[0].truncated
        with pytest.raises(InputError, match=r"17 tokens, where the engine takes 16: .*longer --profile"):
            opened.run({spec.name: np.ones((1, 17), np.int64) for spec in artifact.manifest.inputs})
        assert gpu.built == built


def test_a_shipped_engine_is_opened_only_where_it_is_trusted(model: Path, tmp_path: Path, gpu: Machine) -> None:
    artifact = exported(model, tmp_path)
    assert [name for name in artifact.manifest.files if name.endswith(".plan")] == ["engine-sm89.plan"]
    built = gpu.built
    with load(artifact.path, trust_engine=True) as opened:
        assert (opened.facts()["engine"], gpu.built) == ("the artifact's", built)
    with load(artifact.path) as opened:
        assert (opened.facts()["engine"], gpu.built) == ("built here", built + 1)


@pytest.mark.parametrize("other", [Machine(capability="12.0"), Machine(version="11.4.0")], ids=["gpu", "version"])
def test_an_engine_for_another_gpu_or_library(model: Path, tmp_path: Path, plug: Plug, other: Machine) -> None:
    plug(Machine())
    artifact = exported(model, tmp_path)
    gc.collect()
    gpu = plug(other)
    theirs, ours = "tensorrt 10.16.1 for compute capability 8.9", f"tensorrt {gpu.version} .*{gpu.capability}"
    with pytest.raises(EnvironmentMissing, match=rf"{theirs}, where this is {ours}: .*pass cache_dir"):
        load(artifact.path, trust_engine=True)
    assert gpu.built == 0
    for source, count in (("built here", 1), ("the cache's", 1)):
        with load(artifact.path, trust_engine=True, cache_dir=tmp_path / "cache") as opened:
            assert (opened.facts()["engine"], gpu.built) == (source, count)


def test_models_of_one_shape_are_never_each_others(tmp_path: Path, gpu: Machine) -> None:
    answers = []
    for seed in (1, 2):
        made = exported(checkpoint(tmp_path / f"m{seed}", layers=1, seed=seed), tmp_path / f"o{seed}")
        with load(made.path, cache_dir=tmp_path / "cache") as opened:
            answers.append(opened.logits(["a film"]))
    assert not np.allclose(answers[0], answers[1])


def test_a_kept_engine_that_is_refused_is_built_anew(exports: Exports, tmp_path: Path, gpu: Machine) -> None:
    path, cache = exports.artifact("bert", TASKS[0], 1).path, tmp_path / "cache"
    load(path, "trt", cache_dir=cache).close()
    (kept,) = cache.glob("engine-*/content")
    assert cache.stat().st_mode & 0o777 == 0o700
    kept.write_bytes(b"cut")
    with load(path, "trt", cache_dir=cache) as opened:
        assert opened.facts()["engine"] == "built here"
    with load(path, "trt", cache_dir=cache) as opened:
        assert opened.facts()["engine"] == "the cache's"


def test_timings_of_kernels_are_kept_by_gpu_and_version(exports: Exports, tmp_path: Path, plug: Plug) -> None:
    seen: list[bytes] = []
    for machine in (Machine(), Machine(), Machine(version="11.4.0"), Machine(capability="9.0")):
        plug(machine)
        task = TWO[len(seen) % 2]
        load(exports.artifact("bert", task, 1).path, "trt", cache_dir=tmp_path / "cache").close()
        gc.collect()
        seen += machine.timings
    # The second model goes on from what the first one measured; another version or GPU begins anew.
    assert seen == [b"", b"+", b"", b""]


def test_a_changed_engine_is_never_opened(model: Path, tmp_path: Path, gpu: Machine) -> None:
    artifact = exported(model, tmp_path)
    plan = artifact.path / "engine-sm89.plan"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with pytest.raises(InputError, match="does not match its hash"):
        load(artifact.path, trust_engine=True)
    # Signed by whoever changed it: the library refuses what is none of its engines.
    plan.write_bytes(b"\x80\x05no engine")
    relist(artifact.path)
    with pytest.raises(InputError, match=r"tensorrt 10.16.1 refuses the engine"):
        load(artifact.path, trust_engine=True)


def test_a_graph_that_the_library_does_not_read_is_refused_with_its_reason(exports: Exports, gpu: Machine) -> None:
    path = exports.artifact("bert", TASKS[0], 2, "int8-dynamic").path
    with pytest.raises(InputError, match=r"does not read the graph \(DynamicQuantizeLinear a node: false\)"):
        load(path, "trt")


def test_where_it_can_run_the_engine_itself_is_in_the_ledger(model: Path, tmp_path: Path, gpu: Machine) -> None:
    for precision in ("fp32", "fp16", "bf16", "int8", "fp8"):
        artifact = exported(model, tmp_path, precision)
        names = [line["name"] for line in artifact.manifest.checks["parity"]]
        assert names[-2:] == ["corners 2x8,2x16,4x64", "engine"]
        assert artifact.manifest.checks["engine"] == {"executed": True}


def test_an_engine_that_answers_otherwise_is_not_published(
    model: Path, tmp_path: Path, gpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stream that is not waited for leaves whatever the memory held.
    monkeypatch.setattr(device.Stream, "wait", lambda self: gpu.waiting.clear())
    with pytest.raises(CheckFailed, match="parity of engine failed"):
        exported(model, tmp_path / "o")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["m-l1-trt-fp32.parity.json"]


def test_a_gpu_without_fp8_says_so_before_anything_is_built_and_at_load(
    model: Path, tmp_path: Path, plug: Plug
) -> None:
    plug(Machine())
    made = exported(model, tmp_path, "fp8")
    gc.collect()
    older = plug(Machine(capability="8.6"))
    for refused in (
        lambda: exported(model, tmp_path / "older", "fp8"),
        lambda: load(made.path),
        lambda: load(made.path, trust_engine=True, cache_dir=tmp_path / "cache"),
    ):
        with pytest.raises(EnvironmentMissing, match=r"no fp8 on compute capability 8.6: .*: fp8 needs 8.9 or more"):
            refused()
    assert older.built == 0
    assert not (tmp_path / "older").exists()


def test_trt_builds_for_the_gpu_at_hand_alone(model: Path, tmp_path: Path, gpu: Machine) -> None:
    done = edgebert("export", "--model", model, "--target", "trt", "--compute-capability", "8.9", "-o", tmp_path / "o")
    assert done.code == 2
    assert "TensorRT builds for the GPU at hand alone" in done.error


def test_no_memory_on_the_gpu_is_said_so(exports: Exports, gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebert.runtimes.device.cuda.cudaMalloc", lambda count: (FULL, 0))
    with pytest.raises(OutOfMemory, match="out of GPU memory"):
        load(exports.artifact("bert", TASKS[0], 1).path, "trt")


def test_an_export_keeps_timings_where_it_is_told(model: Path, tmp_path: Path, gpu: Machine) -> None:
    for number in range(2):
        request = EngineRequest(profile=PROFILE, cache_dir=tmp_path / "cache")
        build.export(str(model), target="trt", out=tmp_path / str(number), engine=request)
    assert gpu.timings == [b"", b"+"]
    assert stage.bytes_below(tmp_path / "cache") == len(b"++")
