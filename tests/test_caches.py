"""What PyTorch's compiler would leave in the system's folder for temporary files goes with the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny
from commands import program

from edgebert.cli.caches import passing_compiler_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def test_export_and_distill_leave_no_temporaries(tmp_path: Path) -> None:
    model, data, place = tiny.checkpoint(tmp_path / "m"), tiny.labelled(tmp_path / "data", rows=6), tmp_path / "tmp"
    place.mkdir()
    training = ("--data", data, "--max-steps", 1, "--train-batch-size", 2)
    for command in (("export", "--layers", 1), ("distill", "--layers", 1, *training)):
        done = program(*command, "--model", model, "-o", tmp_path / command[0], TMPDIR=str(place))
        assert done.code == 0, done.err
        assert list(place.iterdir()) == []


def test_a_cache_goes_and_the_users_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with passing_compiler_cache():
        passing = Path(os.environ[VARIABLE])
        assert not passing.exists()
        (passing / "dynamo").mkdir(parents=True)
    assert not passing.exists()
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with passing_compiler_cache():
        (tmp_path / "kept").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert os.environ[VARIABLE] == str(tmp_path)
