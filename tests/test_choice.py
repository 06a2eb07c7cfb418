"""Folders of several artifacts: which of them is opened, and what is said of the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TASKS, Exports

from edgebert import stage
from edgebert.artifact import Artifact, Manifest
from edgebert.errors import EnvironmentMissing, InputError
from edgebert.machine import has_int8_dot, isa
from edgebert.serving import choice
from edgebert.serving.model import load

SHALLOW, DEEP, INT8, BF16 = "l2-cpu-fp32", "l3-cpu-fp32", "l3-cpu-int8", "l3-openvino-bf16"


def shelf(exports: Exports, folder: Path, *names: str) -> Path:
    """A folder with copies of the artifacts of these names."""
    for name in names:
        layers, target, precision = name.split("-")
        source = exports.artifact("bert", TASKS[0], int(layers[1:]), "fp32" if precision == "bf16" else precision)
        # One model, as in the folder of one export.
        changed = replace(source.manifest, name="tiny", target=target, precision=precision)
        copy(source.path, folder / name, changed)
    return folder


def copy(source: Path, to: Path, manifest: Manifest) -> None:
    shutil.copytree(source, to)
    (to / "edgebert.json.sha256").unlink()
    stage.write_manifest(to, manifest)


def measure(folder: Path, artifacts: Path, **p50: float | None) -> None:
    """A fit's journal, in which these artifacts (``_`` for ``-``) take so many milliseconds."""
    rows = [
        {"digest": Artifact.open(artifacts / name.replace("_", "-")).digest, "latency_ms": value and {"p50": value}}
        for name, value in p50.items()
    ]
    untrained = {"digest": "", "latency_ms": {"p50": 0.01}}
    lines = [json.dumps(row) for row in (untrained, *rows)]
    (folder / "sweep.jsonl").write_text("\n".join([*lines, '{"digest": "to']), "utf-8")


def chosen(folder: Path, target: str | None = None) -> tuple[str, str, dict[str, str]]:
    """What is opened, why, and why not the others."""
    with load(folder, target, threads=1) as model:
        assert len(model.predict(["a film"])) == 1
        found = model.facts()
    told = found["choice"]
    assert told["folder"] == str(folder)
    return Path(found["artifact"]).name, told["why"], told["passed_over"]


def test_one_artifact_is_no_choice(exports: Exports) -> None:
    with load(exports.artifact("bert", TASKS[0]).path) as model:
        assert "choice" not in model.facts()


def test_of_what_nobody_measured_the_deepest_and_int8(exports: Exports, tmp_path: Path) -> None:
    folder = shelf(exports, tmp_path, SHALLOW, DEEP, INT8)
    name, why, others = chosen(folder)
    assert name == INT8
    assert why == (
        "not measured; by depth, then int8, fp8, fp16, bf16, fp32, "
        "then cpu, openvino, torch, cuda, ort-trt, trt, trt-rtx"
    )
    assert others == {DEEP: why, SHALLOW: why}


def test_a_target_that_is_named_leaves_its_own(exports: Exports, tmp_path: Path) -> None:
    folder = shelf(exports, tmp_path, INT8, "l2-openvino-fp32")
    name, _, others = chosen(folder, "openvino")
    assert (name, others) == ("l2-openvino-fp32", {INT8: "made for target cpu"})
    with pytest.raises(EnvironmentMissing, match=r"no artifact of 2 can run here.*l3-cpu-int8: made for target cpu"):
        load(folder, "torch")


def test_the_pick_of_a_fit_comes_first(exports: Exports, tmp_path: Path) -> None:
    shelf(exports, tmp_path / "artifacts", SHALLOW, DEEP, INT8)
    shutil.copytree(tmp_path / "artifacts" / SHALLOW, tmp_path / "best")
    measure(tmp_path, tmp_path / "artifacts", l2_cpu_fp32=2.0, l3_cpu_fp32=3.0, l3_cpu_int8=1.0)
    for folder in (tmp_path, tmp_path / "artifacts"):
        name, why, others = chosen(folder)
        assert (name, why) == (SHALLOW, "the fit's own pick")
        assert {Path(name).name: reason for name, reason in others.items()} == {
            INT8: "p50 1.00 ms where the fit was measured", DEEP: "p50 3.00 ms where the fit was measured",
        }  # fmt: skip


def test_a_pick_that_came_alone_is_one_of_the_artifacts(exports: Exports, tmp_path: Path) -> None:
    shelf(exports, tmp_path, DEEP)
    (tmp_path / DEEP).rename(tmp_path / "best")
    assert chosen(tmp_path) == ("best", "the fit's own pick", {})


@pytest.mark.parametrize(("int8", "fp32", "expected"), [(1.0, 3.0, INT8), (4.0, 3.0, DEEP), (None, 3.0, DEEP)])
def test_without_a_pick_the_fastest_that_was_measured(
    int8: float | None, fp32: float, expected: str, exports: Exports, tmp_path: Path
) -> None:
    shelf(exports, tmp_path / "artifacts", DEEP, INT8)
    measure(tmp_path, tmp_path / "artifacts", l3_cpu_int8=int8, l3_cpu_fp32=fp32)
    assert chosen(tmp_path)[0] == expected


def lacking(monkeypatch: pytest.MonkeyPatch, sets: Sequence[str]) -> None:
    monkeypatch.setattr("edgebert.machine.isa", lambda: tuple(name for name in isa() if name not in sets))


BF16_SETS, DOT_SETS = ("avx512_bf16", "amx_bf16", "bf16"), ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def test_where_the_pick_cannot_run_others_of_its_depth_do(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf(exports, tmp_path / "artifacts", SHALLOW, DEEP, BF16)
    shutil.copytree(tmp_path / "artifacts" / BF16, tmp_path / "best")
    measure(tmp_path, tmp_path / "artifacts", l2_cpu_fp32=2.0, l3_cpu_fp32=3.0, l3_openvino_bf16=1.0)
    lacking(monkeypatch, BF16_SETS)
    name, why, others = chosen(tmp_path)
    assert (name, why) == (DEEP, "as deep as the fit's pick; p50 3.00 ms where the fit was measured")
    assert others[f"artifacts/{BF16}"] == "this CPU does not compute in bf16"


def test_int8_of_another_cpu_is_passed_over_where_it_would_saturate(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shelf(exports, tmp_path, DEEP, INT8)
    made = Artifact.open(folder / INT8).manifest
    whole = replace(made, target="openvino", needs={**made.needs, "isa": ["avx2", "avx512_vnni"]})
    reduced = replace(whole, needs={**made.needs, "isa": ["avx2"]})
    copy(folder / INT8, folder / "whole", whole)
    shutil.rmtree(folder / INT8)
    assert choice.obstacle(whole, None) is None or not has_int8_dot()
    lacking(monkeypatch, DOT_SETS)
    name, _, others = chosen(folder)
    assert (name, "would saturate" in others["whole"]) == (DEEP, True)
    assert choice.obstacle(reduced, None) is None
    # ONNX Runtime is told to compute with unsigned weights.
    assert choice.obstacle(replace(whole, target="cpu"), None) is None


def test_a_runtime_that_is_not_installed_is_passed_over(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shelf(exports, tmp_path, SHALLOW, "l3-openvino-fp32", "l3-trt-fp32")
    monkeypatch.setattr("edgebert.registry.find_spec", lambda name: None if name in ("openvino", "tensorrt") else name)
    name, _, others = chosen(folder)
    assert name == SHALLOW
    assert "pip install 'edgebert[openvino]'" in others["l3-openvino-fp32"]
    assert "missing package: tensorrt" in others["l3-trt-fp32"]
    shutil.rmtree(folder / SHALLOW)
    with pytest.raises(EnvironmentMissing, match="no artifact of 2 can run here"):
        load(folder)


def test_artifacts_of_several_models_are_no_choice_of_ours(exports: Exports, tmp_path: Path) -> None:
    shelf(exports, tmp_path, DEEP)
    encoder = exports.artifact("bert", TASKS[1])
    shutil.copytree(encoder.path, tmp_path / "encoder")
    with pytest.raises(InputError, match=r"artifacts of several models \(.*tiny for text-classification \(3 labels\)"):
        load(tmp_path)


def test_a_broken_artifact_is_an_error_and_not_passed_over(exports: Exports, tmp_path: Path) -> None:
    shelf(exports, tmp_path, DEEP, INT8)
    (tmp_path / DEEP / "edgebert.json").write_bytes(b"{")
    with pytest.raises(InputError, match=rf"not valid JSON.*{DEEP}"):
        load(tmp_path)


def test_what_holds_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere", "a\0b"):
        with pytest.raises(InputError, match="not an edgebert artifact"):
            load(path)


def test_a_graph_of_one_shape_comes_after_those_of_any(exports: Exports) -> None:
    plain = exports.artifact("bert", TASKS[0])
    inputs = tuple(replace(spec, shape=(1, 64)) for spec in plain.manifest.inputs)
    fixed = Artifact(plain.path, replace(plain.manifest, inputs=inputs))
    offers = [choice.Offer(artifact, name, False, False, 1.0) for name, artifact in (("a", fixed), ("b", plain))]
    assert min(offers, key=lambda offer: offer.rank).name == "b"
