"""``edgebert sizes``: known names, equal sizes, predicted latency."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from commands import edgebert, one_cpu
from hypothesis import given
from hypothesis import strategies as st

from edgebert.building.predicting import Line, measured_depths
from edgebert.shaping.known import KNOWN


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("sizes") / "tiny", layers=4)


def test_known_names_need_no_hub() -> None:
    done = edgebert("sizes", "--model", "bert-base-uncased", "--layers", "6,12", "--json")
    assert [shape["params"] for shape in done.json["shapes"]] == [66_955_008, 109_482_240]
    whole = edgebert("sizes", "--known", "--json").json["shapes"]
    assert [shape["name"] for shape in whole] == list(KNOWN)
    assert "google/electra-small-discriminator" in edgebert("sizes", "--known").err


def test_a_folder_goes_before_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.checkpoint(tmp_path / "roberta-base", layers=2)
    monkeypatch.chdir(tmp_path)
    shapes = edgebert("sizes", "--model", "roberta-base", "--json").json["shapes"]
    assert [shape["hidden"] for shape in shapes] == [tiny.HIDDEN] * 2


@pytest.mark.parametrize("name", ["roberta-base", "model"])
def test_a_head_can_be_chosen(name: str, model: Path) -> None:
    arguments = ("sizes", "--model", model if name == "model" else name, "--layers", 1, "--json")
    counts = [
        edgebert(*arguments, "--task", "text-classification", "--labels", labels).json["shapes"][0]
        for labels in (2, 77)
    ]  # fmt: skip
    assert counts[1]["params"] - counts[0]["params"] == 75 * (counts[0]["hidden"] + 1)
    assert edgebert(*arguments, "--task", "poetry").code == 2


def test_equal_sizes_in_one_line() -> None:
    done = edgebert("sizes", "--model", "bert-base-uncased", "--params", "110M", "--layers", "6,12", "--json")
    shapes = {(s["layers"], s["hidden"], s["ffn"]) for s in done.json["shapes"]}
    assert {(12, 768, 3072), (6, 1024, 4096), (6, 768, 7680)} <= shapes
    assert {layers for layers, _, _ in shapes} == {6, 12}


def test_sizes_that_mean_nothing_are_refused(model: Path) -> None:
    for value in ("", "M", "-1M", "0", "1e6", "nan", "110X", "9999B"):
        done = edgebert("sizes", "--model", model, "--params", value)
        assert (done.code, "--params" in done.error) == (2, True)
    assert "no shape" in edgebert("sizes", "--model", "bert-base-uncased", "--params", "1K").error
    assert "tokenizer" in edgebert("sizes", "--model", "bert-base-uncased", "--latency").error


def test_latency_is_predicted_from_two_depths(model: Path) -> None:
    with one_cpu():
        arguments = ("--latency", "--threads", 1, "--seq-len", 16, "--precision", "fp32,int8", "--json")
        done = edgebert("sizes", "--model", model, *arguments)
    assert done.code == 0, done.err
    (group,) = done.json["measured"]
    assert set(group["lines"]) == {"fp32", "int8"}
    for precision, line in group["lines"].items():
        assert line["layers"] == [1, 3]
        first, second = line["p50_ms"]
        times = [shape["latency_ms"][precision] for shape in done.json["shapes"]]
        assert times[0] == first > 0
        assert times[2] == second
        assert times[1] == pytest.approx((first + second) / 2)
        assert times[3] == pytest.approx(second + (second - first) / 2)
    assert group["conditions"]["seconds"] > 0


def test_a_line_by_hand() -> None:
    line = Line((3, 9), (4.0, 10.0))
    assert [line.at(layers) for layers in (3, 6, 9, 12)] == [4, 7, 10, 13]


@given(st.integers(1, 100))
def test_measured_depths_are_near_all_others(deepest: int) -> None:
    near, far = measured_depths(deepest)
    assert 1 <= near < far <= max(2, deepest)
    assert deepest - far <= max(1, deepest / 4 + 1)
