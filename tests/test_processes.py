"""Several processes that train one model come to what one comes to, and one of them writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from commands import edgebert, environment
from safetensors.torch import load_file

from edgebert.artifact import Artifact
from edgebert.errors import UsageError
from edgebert.training.plan import TrainConfig, check_settings

# One epoch, evaluated once, of whole batches: a last one that is smaller would be filled up for two processes.
FLAGS = ("--epochs", 1, "--train-batch-size", 8, "--lr", 1e-3, "--max-length", 16)
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def two(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``edgebert`` in two processes."""
    command = [*TWO, "-m", "edgebert", *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=900)


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    data = tiny.labelled(tmp_path / "data", rows=48)
    model = tiny.checkpoint(tmp_path / "model", layers=2, fresh=True)
    # What drops out is drawn in each process.
    config = json.loads((model / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config))
    command = ("distill", "--model", model, "--data", data, "--method", "elastic", "--layers", "1,2", *FLAGS)
    alone = edgebert(*command, "-o", tmp_path / "alone")
    assert alone.code == 0, alone.err
    done = two(*command, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    places = [tmp_path / "two" / f"model-l{depth}" for depth in (1, 2)]
    # One of them writes and speaks.
    assert done.stdout.splitlines() == [str(place) for place in places]
    assert done.stderr.count("training 1, 2 layers together") == 1
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["model-l1", "model-l2", "work"]
    assert not list((tmp_path / "two" / "work").iterdir())
    before = load_file(model / "model.safetensors")
    for place in places:
        expected = Artifact.open(tmp_path / "alone" / place.name).manifest.checks["training"]
        found = Artifact.open(place).manifest.checks["training"]
        assert found["step"] == expected["step"]
        assert found["value"] == pytest.approx(expected["value"], abs=0.13)
        ours, theirs = (load_file(path / "model.safetensors") for path in (place, tmp_path / "alone" / place.name))
        moved = torch.cat([(theirs[name] - before[name]).flatten() for name in theirs])
        apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in theirs])
        # bfloat16 rounds halves of a batch otherwise than the whole.
        assert apart.norm() < 0.15 * moved.norm()


def test_a_batch_must_be_shared_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    check_settings(TrainConfig())
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="batches of 32 texts for 3 processes"):
        check_settings(TrainConfig())
    check_settings(TrainConfig(train_batch_size=33))


def test_a_fit_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    model = tiny.checkpoint(tmp_path / "model")
    done = edgebert("fit", "--model", model, "--data", model, "--budget", "p50=1s", "-o", tmp_path / "out")
    assert (done.code, "2 processes were started" in done.error) == (2, True)
