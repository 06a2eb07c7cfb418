"""Another machine decides: measured there by the base install alone, picked here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import Done, edgebert, environment, one_cpu, tree, without

TRAINING = ("--max-steps", 2, "--train-batch-size", 16, "--max-length", 16)
QUICK = (*TRAINING, "--threads", 1, "--remeasure", 0, "--rounds", 2)
# What the base install and its runtime have not.
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "accelerate", "jinja2", "matplotlib")


@pytest.fixture(scope="module", autouse=True)
def _one_cpu() -> Iterator[None]:
    with one_cpu():
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("devices")
    model, data = tiny.checkpoint(place / "tuned", layers=2), tiny.labelled(place / "data", rows=24)
    done = edgebert(
        "fit", "--model", model, "--data", data, "--layers", "1,2", *QUICK, "--budget", "p50=1s", "-o", place / "fit"
    )
    assert done.code == 0, done.err
    return place / "fit"


@pytest.fixture(scope="module")
def device(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edgebert bench DIR --json` writes on a machine without torch, from a folder that it may not change."""
    place = tmp_path_factory.mktemp("edge")
    copy = Path(shutil.copytree(fitted, place / "fit"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(copy)
    bare = environment(PYTHONPATH=without(HEAVY, place))
    with open(place / "device.json", "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "edgebert", "bench", copy, "--json", "--threads", "1", "--rounds", "4"],
            env=bare, stdout=out, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "timing the texts that the fit in" in done.stderr
    assert tree(copy) == before
    return place / "device.json"


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def slower(device: Path, folder: Path, factors: dict[int, float], name: str = "board") -> Path:
    """The same measurements on a machine that is so many times as slow at each depth."""
    found = document(device)
    for row in found["results"]:
        for key in ("p50", "p50_low", "p50_high", "p95", "p95_low", "p95_high"):
            row["latency"][key] *= factors[row["layers"]]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(found), "utf-8")
    return path


def test_the_base_install_measures_every_artifact_of_a_fit(fitted: Path, device: Path) -> None:
    found = document(device)
    assert [(row["layers"], row["precision"]) for row in found["results"]] == [
        (1, "fp32"), (1, "int8"), (2, "fp32"), (2, "int8"),
    ]  # fmt: skip
    assert all(row["samples"] >= 200 for row in found["results"])
    assert {"reference", "conditions", "environment"} <= found.keys()
    assert found["reference"] == "l2-cpu-fp32 on cpu"


def pick(fitted: Path, *flags: object) -> Done:
    return edgebert("pick", fitted, "--budget", "p50=500ms", *flags, "--json")


def test_a_pick_is_made_by_the_other_machines_latencies(fitted: Path, device: Path, tmp_path: Path) -> None:
    before = tree(fitted)
    there = pick(fitted, "--bench", device).json
    rows = {row["digest"]: row for row in document(device)["results"]}
    assert there["pick"]["latency_ms"]["p50"] == rows[there["pick"]["digest"]]["p50_ms"]
    assert all(c["trained"] for c in there["candidates"])
    # A machine so slow that only the smaller depth fits.
    board = slower(device, tmp_path, {1: 1.0, 2: 1e6})
    assert pick(fitted, "--bench", board).json["pick"]["layers"] == 1
    nothing = pick(fitted, "--bench", slower(device, tmp_path, {1: 1e6, 2: 1e6}, "brick"))
    assert nothing.code == 5
    assert nothing.json["pick"] is None
    assert tree(fitted) == before


def test_with_several_machines_the_pick_fits_on_all(fitted: Path, device: Path, tmp_path: Path) -> None:
    board = slower(device, tmp_path, {1: 1.0, 2: 1e6})
    done = pick(fitted, "--bench", f"{device},{board}")
    assert done.json["pick"]["layers"] == 1
    assert [(d["name"], d["pick"] is not None) for d in done.json["devices"]] == [("device", True), ("board", True)]


def test_a_restless_machine_is_not_picked_by_in_silence(fitted: Path, device: Path, tmp_path: Path) -> None:
    found = document(device)
    found["conditions"] |= {"stable": False, "reasons": ["other programs used 60% of the CPU time"]}
    (tmp_path / "busy.json").write_text(json.dumps(found), "utf-8")
    done = edgebert("pick", fitted, "--budget", "p50=500ms", "--bench", f"{device},{tmp_path / 'busy.json'}")
    assert "UNSTABLE" in done.err
    assert "busy: UNSTABLE, do not trust these numbers: other programs used 60% of the CPU time" in done.err
    told = pick(fitted, "--bench", tmp_path / "busy.json").json
    assert told["conditions"]["reasons"] == ["other programs used 60% of the CPU time"]
    assert told["warnings"][0].startswith("busy: the machine was unstable")


def test_calls_of_another_size_are_not_compared(fitted: Path, device: Path, tmp_path: Path) -> None:
    found = document(device)
    for row in found["results"]:
        row["latency"]["batch_size"] = 8
    (tmp_path / "eight.json").write_text(json.dumps(found), "utf-8")
    done = pick(fitted, "--bench", tmp_path / "eight.json")
    assert done.code == 3
    assert "measured with batch_size 8, the fit with 1" in done.error


def test_several_machines_stand_in_one_report(fitted: Path, device: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fitted, tmp_path / "fit"))
    board = slower(device, tmp_path, {1: 1.0, 2: 1e6})
    done = edgebert("report", folder, "--bench", f"{device},{board}", "--json")
    assert done.code == 0, done.err
    told = document(folder / "report.json")
    assert [d["name"] for d in told["devices"]] == ["device", "board"]
    assert told["devices"][1]["pick"]["layers"] == 1
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text("utf-8")
        assert "board" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "not measurements of edgebert bench"),
        (b'{"results": [{}], "environment": {}, "conditions": {}}', "not measurements of edgebert bench"),
        (b'{"results": [], "environment": {}, "conditions": {"stable": true}}', "not measurements of edgebert bench"),
        (b'{"results": [], "environment": {}, "conditions": {}}', "none of its artifacts is of this sweep"),
    ],
)
def test_what_is_no_measurement_of_these_artifacts_is_refused(
    fitted: Path, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    done = pick(fitted, "--bench", tmp_path / "bad.json")
    assert done.code == 3
    assert words in done.error
    assert "bad.json" in done.error
    missing = pick(fitted, "--bench", tmp_path / "nowhere.json")
    assert (missing.code, "no such file" in missing.error) == (3, True)
