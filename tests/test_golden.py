"""An artifact proves itself where it is opened: what it answers must be what it answered where it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgebert import build, stage
from edgebert.artifact import Artifact, Manifest
from edgebert.errors import CheckFailed
from edgebert.exporters.seal import GOLDEN
from edgebert.judging.verify import verify
from edgebert.runtimes import ort
from edgebert.serving.golden import read_golden
from edgebert.serving.model import load, open_model
from edgebert.serving.rows import outputs
from edgebert.tasks import TASKS


def exported(folder: Path, task: str = "text-classification", precision: str = "fp32", target: str = "cpu") -> Artifact:
    model = tiny.checkpoint(folder / "model", task=task, layers=1)
    (made,) = build.export(str(model), precision=precision, target=target, out=folder / "out")
    return made


def with_golden(artifact: Artifact, change: Mapping[str, float], out: Path) -> Artifact:
    """The artifact with numbers added to its golden arrays of these kinds, sealed again."""

    def rewrite(source: Artifact, config: Any, folder: Path) -> Manifest:
        for name in source.manifest.files:
            source.copy(name, folder / name)
        with np.load(source.path / GOLDEN) as kept:
            arrays = {name: kept[name] + np.float32(change.get(name.partition(".")[2], 0)) for name in kept}
        typed = {name: array.astype(np.int64) if "_" in name else array for name, array in arrays.items()}
        np.savez(folder / GOLDEN, **typed)
        return source.manifest

    return stage.run("changed", rewrite, artifact, artifact.manifest.architecture, out)


@pytest.mark.parametrize("task", tiny.TASKS)
def test_golden_vectors_hold_what_the_artifact_itself_gave(task: str, tmp_path: Path) -> None:
    made = exported(tmp_path, task)
    golden = read_golden(made)
    with load(made.path) as model:
        actual = outputs(model.run, golden.feeds, TASKS[task].compared)
    assert len(golden.answers) == len(golden.expected) == len(golden.feeds) > 0
    for row, other in zip(golden.answers, actual, strict=True):
        np.testing.assert_allclose(row, other, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "target"), [("int8-dynamic", "cpu"), ("int8-static", "cpu"), ("int8", "openvino")]
)
def test_int8_proves_itself_too(precision: str, target: str, tmp_path: Path) -> None:
    made = exported(tmp_path, precision=precision, target=target)
    with load(made.path, threads=1) as model:
        assert model.predict(["a fine film"])


@pytest.mark.parametrize(("kind", "whose"), [("answer", "its own, on the mean"), ("output", "PyTorch's")])
def test_other_answers_than_where_it_was_made_are_an_error(kind: str, whose: str, tmp_path: Path) -> None:
    changed = with_golden(exported(tmp_path), {kind: 0.01}, tmp_path / "changed")
    with pytest.raises(CheckFailed, match=re.escape(f"golden vectors ({whose})")) as caught:
        load(changed.path)
    assert caught.value.exit_code == 4
    assert str(changed.path) in str(caught.value)
    # Whoever judges it gets to see by how much.
    open_model(changed.path).close()
    stages, _ = verify(changed.path)
    assert [line.ok for line in stages] == [kind == "answer"]


def test_another_engine_is_held_to_the_reference_alone(tmp_path: Path) -> None:
    changed = with_golden(exported(tmp_path), {"answer": 0.01}, tmp_path / "changed")
    load(changed.path, target="openvino", threads=1).close()


def test_int8_that_saturates_here_is_an_error_on_its_own_answers(tmp_path: Path) -> None:
    # Within what int8 may differ from PyTorch, beyond what one machine may differ from another.
    changed = with_golden(exported(tmp_path, precision="int8-dynamic"), {"answer": 0.2}, tmp_path / "changed")
    with pytest.raises(CheckFailed, match="its own"):
        load(changed.path)


def test_artifacts_without_answers_of_their_own_are_opened(tmp_path: Path) -> None:
    made = exported(tmp_path)

    def rewrite(source: Artifact, config: Any, folder: Path) -> Manifest:
        for name in source.manifest.files:
            source.copy(name, folder / name)
        with np.load(source.path / GOLDEN) as kept:
            np.savez(folder / GOLDEN, **{name: kept[name] for name in kept if not name.endswith(".answer")})
        return source.manifest

    old = stage.run("older", rewrite, made, made.manifest.architecture, tmp_path / "old")
    assert read_golden(old).answers == []
    load(old.path).close()


@pytest.mark.parametrize(
    ("made_on", "here", "saturates"),
    [
        (["avx2", "avx512_vnni"], ("avx2",), True),
        (["avx2"], ("avx2",), False),
        (["avx2", "avx_vnni"], ("avx2", "avx512_vnni"), False),
        ("nonsense", ("avx2",), False),
    ],
)
def test_int8_made_for_vnni_is_computed_without_saturating_elsewhere(
    made_on: object, here: tuple[str, ...], saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported(tmp_path, precision="int8-dynamic")
    monkeypatch.setattr("edgebert.machine.isa", lambda: here)
    manifest = Manifest.from_dict({**made.manifest.to_dict(), "needs": {"isa": made_on}}, "")
    assert ort.saturates_here(Artifact(made.path, manifest)) is saturates
