"""`edgebert fit` end to end on tiny models: the pick, what is trained, what is never done twice, interruptions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import Done, command, edgebert, environment, one_cpu, tree
from fit_folders import at, rows, times, write
from safetensors.torch import load_file, save_file

import edgebert as package
from edgebert.artifact import Artifact
from edgebert.choosing.journal import Journal
from edgebert.choosing.words import full

# Few steps: what is tested is what is done, not how well the result reads.
TRAINING = ("--max-steps", 2, "--train-batch-size", 16, "--max-length", 16)
QUICK = (*TRAINING, "--threads", 1, "--remeasure", 0, "--rounds", 2)


@pytest.fixture(scope="module", autouse=True)
def _one_cpu() -> Iterator[None]:
    with one_cpu():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return tiny.labelled(place / "data", rows=24)


@pytest.fixture(scope="module")
def bare(place: Path) -> Path:
    return tiny.checkpoint(place / "bare", task="feature-extraction", layers=4)


@pytest.fixture(scope="module")
def encoder(place: Path) -> Path:
    return tiny.checkpoint(place / "encoder", task="feature-extraction", layers=2)


@pytest.fixture(scope="module")
def tuned(place: Path) -> Path:
    """A checkpoint whose labels are the data's."""
    return tiny.checkpoint(place / "tuned", layers=4)


@pytest.fixture(scope="module")
def first(place: Path, bare: Path, data: Path) -> tuple[tuple[object, ...], Done]:
    """A fit of a bare encoder, and the command that made it."""
    fitting = ("fit", "--model", bare, "--data", data, "--layers", "1,4", *QUICK, "--rounds", 4, "-o", place / "fitted")
    return fitting, edgebert(*fitting, "--budget", "p50=1s", "--json")


@pytest.fixture
def fitted(place: Path, first: tuple[tuple[object, ...], Done]) -> Path:
    assert first[1].code == 0, first[1].err
    return place / "fitted"


def keys(candidates: list[dict[str, Any]], **fields: object) -> list[tuple[int, str]]:
    chosen = [c for c in candidates if all(c[name] == value for name, value in fields.items())]
    return sorted((c["layers"], c["precision"]) for c in chosen)


def test_a_fit_says_what_it_does_and_ends_with_a_pick(fitted: Path, first: tuple[tuple[object, ...], Done]) -> None:
    done = first[1]
    pick = done.json["pick"]
    assert {"pick", "candidates", "report"} <= done.json.keys()
    assert {"path", "layers", "target", "precision", "metric", "latency_ms", "bytes"} <= pick.keys()
    assert pick["path"] == str(fitted / "best")
    assert pick["latency_ms"]["p50"] > 0
    assert pick["metric"]["name"] == "accuracy"
    assert 0 <= pick["metric"]["low"] <= pick["metric"]["value"] <= pick["metric"]["high"] <= 1
    assert keys(done.json["candidates"], trained=True, failed=None) == [
        (1, "fp32"), (1, "int8"), (4, "fp32"), (4, "int8"),
    ]  # fmt: skip
    assert done.json["report"] == str(fitted / "report.html")
    assert "bare is not fine-tuned for these 3 labels" in done.err


def test_the_best_of_a_fit_answers(fitted: Path, first: tuple[tuple[object, ...], Done]) -> None:
    pick = first[1].json["pick"]
    assert Artifact.open(fitted / "best").digest == pick["digest"]
    with package.load(fitted / "best") as model:
        assert {answer.label for answer in model.predict(tiny.texts(5))} <= set(tiny.LABELS)
        assert model.logits(["a film"]).shape == (1, 3)


def test_the_journal_has_a_line_for_each_finished_candidate(fitted: Path) -> None:
    four = [(1, "fp32"), (1, "int8"), (4, "fp32"), (4, "int8")]
    assert keys(rows(fitted), trained=False) == keys(rows(fitted), trained=True) == four
    assert all(row["latency"]["samples"] >= 200 for row in rows(fitted))


def test_the_report_stands_in_three_forms_and_names_the_pick(
    fitted: Path, first: tuple[tuple[object, ...], Done]
) -> None:
    told = json.loads((fitted / "report.json").read_text("utf-8"))
    pick = first[1].json["pick"]
    assert told["pick"]["digest"] == pick["digest"]
    for name in ("report.md", "report.html"):
        assert f"{pick['layers']} layer" in (fitted / name).read_text("utf-8")


def test_nothing_half_done_is_left(fitted: Path) -> None:
    assert not (fitted / "work").exists()
    assert [path.name for path in fitted.rglob(".*")] == [".lock"]


def test_the_same_command_again_does_nothing_twice(fitted: Path, first: tuple[tuple[object, ...], Done]) -> None:
    journal, kept = (fitted / "sweep.jsonl").read_bytes(), times(fitted, "checkpoints", "artifacts", "scores")
    again = edgebert(*first[0], "--budget", "p50=1s", "--json")
    assert again.code == 0
    assert again.json == first[1].json
    assert (fitted / "sweep.jsonl").read_bytes() == journal
    assert times(fitted, "checkpoints", "artifacts", "scores") == kept
    for word in ("tracing", "training 1", "fine-tuning", "measuring", "accuracy"):
        assert word not in again.err


def test_what_decides_is_of_one_measurement_with_its_conditions(fitted: Path) -> None:
    runs = {row["latency"]["run"] for row in rows(fitted) if row["trained"]}
    assert len(runs) == 1
    facts = json.loads((fitted / "fit.json").read_text("utf-8"))
    told = json.loads((fitted / "report.json").read_text("utf-8"))
    assert told["conditions"] == facts["runs"][runs.pop()]["conditions"]
    assert told["conditions"]["reference"] == "l4-cpu-fp32 on cpu"
    assert told["environment"]["threads"] >= 1


def test_another_depth_later_is_measured_together_with_the_finished(
    fitted: Path, first: tuple[tuple[object, ...], Done], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(fitted, tmp_path / "fit"))
    again = [*first[0][:-1], folder]
    again[again.index("1,4")] = "2"
    kept = times(folder, "checkpoints", "artifacts")
    done = edgebert(*again, "--budget", "p50=1s", "--json")
    assert done.code == 0, done.err
    assert kept.items() <= times(folder, "checkpoints", "artifacts").items()
    latest = {(row["layers"], row["precision"]): row["latency"]["run"] for row in rows(folder) if row["trained"]}
    assert sorted(latest) == [(n, p) for n in (1, 2, 4) for p in ("fp32", "int8")]
    assert len(set(latest.values())) == 1
    # Nothing fits another budget: what was best for this one is not left to be deployed.
    none = edgebert(*again, "--budget", "p50=1us")
    assert none.code == 5
    assert "best/ was the pick for another budget" in none.err
    assert not (folder / "best").exists()


def test_a_reader_that_leaves_does_not_hide_that_nothing_fits(fitted: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        done = subprocess.run(
            command("pick", fitted, "--budget", "p50=1us", "--json"), env=environment(), stdout=nobody,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert b"error: nothing fits" in done.stderr


def test_a_drop_alone_picks_the_fastest_within_it(
    fitted: Path, first: tuple[tuple[object, ...], Done], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(fitted, tmp_path / "fit"))
    write(folder, [at(row, 100.0 * row["layers"] + (row["precision"] == "fp32")) for row in rows(folder)])
    journal = (folder / "sweep.jsonl").read_bytes()
    done = edgebert(*first[0][:-1], folder, "--max-drop", 100, "--json")
    assert done.code == 0
    assert (folder / "sweep.jsonl").read_bytes() == journal
    assert (done.json["pick"]["layers"], done.json["pick"]["precision"]) == (1, "int8")
    assert done.json["reason"] == "the fastest within 100 points of the teacher on dev"
    told = json.loads((folder / "report.json").read_text("utf-8"))
    flips = told["changes"]["flips"]
    gap = told["pick"]["metric"]["value"] - told["teacher"]["metric"]["value"]
    assert (flips["gained"] - flips["lost"]) / flips["texts"] == pytest.approx(gap)
    assert sum(c["texts"] for c in told["changes"]["classes"]) == flips["texts"]
    assert all(step["way"] != "faster" and step["ms"] >= 0 for step in told["steps"])


def test_the_folder_keeps_answers_and_the_texts_they_answer(fitted: Path) -> None:
    journal = Journal(fitted)
    rows = journal.texts()
    assert rows is not None
    for candidate in journal.candidates(trained=True):
        scores = journal.scores(candidate, "test")
        assert scores is not None
        assert scores.predicted is not None
        assert scores.confidence is not None
        answers = [scores.labels[index] for index in scores.predicted]
        assert [float(a == row.label) for a, row in zip(answers, rows, strict=True)] == scores.rows[:, 0].tolist()
        assert all(1 / 3 <= value <= 1 for value in scores.confidence)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--seed", 1), "bench seed, seed, teacher training seed, training seed changed"),
        (("--lr", 1e-3), "teacher training lr, training lr changed"),
        (("--seq-len", 8), "bench seq_len changed"),
        (("--data", "other"), "data changed"),
        (("--model", "other"), "model changed"),
    ],
)
def test_another_input_is_refused_by_name(
    change: tuple[object, object], named: str,
    fitted: Path, first: tuple[tuple[object, ...], Done], tuned: Path, tmp_path: Path,
) -> None:  # fmt: skip
    flag, value = change
    if value == "other":
        value = tuned if flag == "--model" else tiny.labelled(tmp_path / "other", rows=12)
    before = tree(fitted)
    done = edgebert(*first[0], "--budget", "p50=1s", flag, value)
    assert done.code == 2
    assert f"error: {named} since this fit was begun" in done.error
    assert str(fitted) in done.error
    assert tree(fitted) == before


def test_a_folder_at_work_is_refused(fitted: Path, first: tuple[tuple[object, ...], Done]) -> None:
    with Journal(fitted).locked():
        done = edgebert(*first[0], "--budget", "p50=1s")
    assert done.code == 6
    assert "another fit is at work in this folder" in done.error


def test_pick_chooses_again_without_measuring(fitted: Path, first: tuple[tuple[object, ...], Done]) -> None:
    before = tree(fitted)
    same = edgebert("pick", fitted, "--budget", "p50=1s", "--json")
    assert same.code == 0
    assert same.json["pick"]["digest"] == first[1].json["pick"]["digest"]
    assert same.json["pick"]["path"].startswith(str(fitted / "artifacts"))
    none = edgebert("pick", fitted, "--budget", "p50=1us", "--json")
    assert none.code == 5
    assert none.json["pick"] is None
    # A budget is kept or missed by the upper end of what was measured.
    ends = [c["latency"]["p50_high"] for c in none.json["candidates"]]
    assert none.json["nearest"][0]["latency"]["p50_high"] == min(ends)
    assert tree(fitted) == before


def test_a_pick_from_a_moved_folder_leads_there(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "elsewhere")
    done = edgebert("pick", tmp_path / "elsewhere", "--max-drop", 100)
    assert Artifact.open(done.out.strip()).path.parent.parent == tmp_path / "elsewhere"


def test_report_writes_what_was_lost(fitted: Path, first: tuple[tuple[object, ...], Done], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(fitted, folder)
    for path in folder.glob("report.*"):
        path.unlink()
    done = edgebert("report", folder, "--json")
    assert done.code == 0
    assert done.json["report"] == str(folder / "report.html")
    assert done.json["pick"]["digest"] == first[1].json["pick"]["digest"]
    assert sorted(path.name for path in folder.glob("report.*")) == ["report.html", "report.json", "report.md"]


@pytest.fixture(scope="module")
def unfit(place: Path, tuned: Path, data: Path) -> tuple[tuple[object, ...], Done]:
    """A fit of a fine-tuned checkpoint to a budget that nothing meets."""
    fitting = ("fit", "--model", tuned, "--data", data, "--precision", "fp32", *QUICK, "-o", place / "unfit")
    return fitting, edgebert(*fitting, "--budget", "p50=1us", "--json")


def test_where_nothing_fits_nothing_is_trained_and_the_nearest_is_told(
    place: Path, unfit: tuple[tuple[object, ...], Done]
) -> None:
    done, folder = unfit[1], place / "unfit"
    assert done.code == 5
    assert "nothing fits p50=0.001ms: nearest is" in done.error
    assert done.json["pick"] is None
    assert keys(done.json["candidates"], trained=False) == [(n, "fp32") for n in (1, 2, 3, 4)]
    assert done.json["nearest"][0]["why"].endswith("over the budget")
    assert Path(done.json["report"]).is_file()
    assert not (folder / "best").exists()
    assert not list(folder.glob("checkpoints/*"))


def test_only_depths_that_can_win_are_trained(
    place: Path, tmp_path: Path, unfit: tuple[tuple[object, ...], Done]
) -> None:
    fitting, folder = unfit[0][:-1], tmp_path / "fit"
    shutil.copytree(place / "unfit", folder)
    # As on a machine where every layer takes a tenth of a second.
    write(folder, [at(row, 100.0 * row["layers"]) for row in rows(folder)])
    done = edgebert(*fitting, folder, "--budget", "p50=350ms", "--json")
    assert done.code == 0
    # Three layers fit, two may lose nothing, one cannot win; four are the teacher, which knows the labels.
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["l2", "l3"]
    assert keys(done.json["candidates"], trained=True) == [(2, "fp32"), (3, "fp32"), (4, "fp32")]
    assert keys(done.json["candidates"], trained=False) == [(1, "fp32")]
    assert "teacher" not in done.err
    assert "depths worth training for p50=350ms: 3, 2" in done.err
    assert done.json["pick"]["layers"] in (2, 3, 4)


def test_a_student_that_fails_is_a_row_and_the_rest_go_on(tuned: Path, data: Path, tmp_path: Path) -> None:
    broken = tiny.checkpoint(tmp_path / "broken", layers=2)
    weights = load_file(broken / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    save_file({**weights, name: weights[name] * float("nan")}, broken / "model.safetensors", {"format": "pt"})
    folder = tmp_path / "fit"
    done = edgebert(
        "fit", "--model", tuned, "--data", data, "--init-from", broken, "--precision", "fp32", "--layers", "1,2",
        *QUICK, "--budget", "p50=1s", "-o", folder, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["pick"]["layers"] == 1
    (failed,) = [c for c in done.json["candidates"] if c["failed"]]
    assert failed["layers"] == 2
    assert "training diverged" in failed["failed"]
    assert "2 layers fp32 on cpu failed: training diverged" in done.err


def test_an_encoder_on_unlabelled_text_is_judged_by_its_likeness_to_the_full_one(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(tiny.texts(30, longest=8)), "utf-8")
    done = edgebert(
        "fit", "--model", encoder, "--data", tmp_path / "lines.txt", "--layers", "1,2", "--precision", "fp32",
        *QUICK, "--budget", "p50=1s", "-o", tmp_path / "fit", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    one, two = sorted(done.json["candidates"], key=lambda c: int(c["layers"]))
    assert one["metric"]["name"] == two["metric"]["name"] == "cosine"
    assert two["metric"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert 0.1 < one["metric"]["value"] < 0.9999
    assert json.loads((tmp_path / "fit" / "report.json").read_text("utf-8"))["changes"] is None
    assert [path.suffix for path in (tmp_path / "fit" / "scores").iterdir()] == [".npz", ".npz"]
    with package.load(tmp_path / "fit" / "best") as model:
        assert model.encode(["a film"]).shape == (1, tiny.HIDDEN)


def test_an_encoder_on_rated_pairs_is_judged_by_rank_correlation(encoder: Path, tmp_path: Path) -> None:
    texts = tiny.texts(30, longest=8)
    pairs = [
        {"text": text, "text_b": other if i % 3 else text, "label": 1.5 if i % 3 else 5.0}
        for i, (text, other) in enumerate(zip(texts, texts[1:] + texts[:1], strict=True))
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    done = edgebert(
        "fit", "--model", encoder, "--data", tmp_path, "--layers", "1", "--precision", "fp32",
        *QUICK, "--budget", "p50=1s", "-o", tmp_path / "fit", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["pick"]["metric"]["name"] == "spearman"
    # Equal texts are rated higher, and any encoder sees that they are equal.
    assert done.json["pick"]["metric"]["value"] > 0.7
    verified = edgebert("verify", tmp_path / "fit" / "best", "--data", tmp_path, "--json")
    assert verified.json["metric"] == done.json["pick"]["metric"]


def test_a_pick_on_a_restless_machine_says_so_everywhere(tuned: Path, data: Path, tmp_path: Path) -> None:
    busy = [sys.executable, "-c", "while True: pass"]
    with contextlib.ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)):
            burner = stack.enter_context(subprocess.Popen(busy))
            stack.callback(burner.kill)
            os.sched_setaffinity(burner.pid, {cpu})
        done = edgebert(
            "fit", "--model", tuned, "--data", data, "--layers", "4", "--precision", "fp32", *QUICK,
            "--remeasure", 1, "--budget", "p50=10s", "-o", tmp_path / "fit", "--json",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["pick"]["layers"] == 4
    assert done.json["conditions"]["stable"] is False
    assert any("other programs used" in reason for reason in done.json["conditions"]["reasons"])
    assert "measuring again" in done.err
    assert "unstable, take these latencies with care" in done.err
    for name in ("report.md", "report.html", "report.json"):
        assert "the machine was unstable while latencies were measured" in (tmp_path / "fit" / name).read_text("utf-8")


def test_a_strategy_decides_which_layers_every_candidate_has(tuned: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fit"
    fitting = (
        "fit", "--model", tuned, "--data", data, "--layers", "2", "--precision", "fp32", *QUICK, "--budget", "p50=1s",
        "-o", folder, "--json",
    )  # fmt: skip
    done = edgebert(*fitting, "--keep", "symmetric")
    assert done.code == 0, done.err
    kept = {2: [0, 3], 4: [0, 1, 2, 3]}
    told = json.loads((folder / "report.json").read_text("utf-8"))
    for candidate in (*rows(folder), *done.json["candidates"], *told["candidates"]):
        assert candidate["kept_layers"] == kept[candidate["layers"]]
    (two,) = [candidate for candidate in Journal(folder).candidates(trained=True) if candidate.layers == 2]
    assert full(two) == "2 layers (0, 3), fp32 on cpu"
    artifact = Artifact.open(folder / "artifacts" / "l2-cpu-fp32")
    assert artifact.manifest.kept_layers == (0, 3)
    other = edgebert(*fitting, "--keep", "last")
    assert other.code == 2
    assert "keep changed since this fit was begun (keep was symmetric, is last)" in other.error


MISFITS: dict[str, tuple[tuple[object, ...], int, str]] = {
    "nothing to fit to": ((), 2, "nothing to fit to"),
    "no unit": (("--budget", "p95=10"), 2, "no unit"),
    "no drop": (("--max-drop", -1), 2, "--max-drop"),
    "no layers": (("--budget", "p95=1s", "--layers", "0"), 2, "cannot keep 0 of 4 layers"),
    "too many layers": (("--budget", "p95=1s", "--layers", "2,5"), 2, "cannot keep 5 of 4 layers"),
    "no such pair": (("--budget", "p95=1s", "--target", "torch", "--precision", "int8"), 2, "torch: fp32"),
    "other target": (("--budget", "p95=1s", "--target", "trt"), 6, "missing package: tensorrt"),
    "no labels": (("--budget", "p95=1s", "--data", "lines.txt"), 2, "the data has no labels"),
    "no file": (("--budget", "p95=1s", "--data", "nothing"), 3, "no such data file or folder"),
    "no method": (("--budget", "p95=1s", "--method", "magic"), 2, "unknown training method"),
    "no checkpoint": (("--budget", "p95=1s", "--init-from", "./nothing"), 3, "no such checkpoint folder"),
    "no other depth": (
        ("--budget", "p95=1s", "--layers", "2", "--keep", "last", "--init-from", "deep"), 2, "the model has 4 layers",
    ),
    "no pair for a target": (("--budget", "p95=1s", "--target", "cpu,torch", "--precision", "int8"), 2, "torch"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "code", "words"), MISFITS.values(), ids=MISFITS)
def test_what_cannot_be_fitted_is_refused_before_anything_is_written(
    flags: tuple[object, ...], code: int, words: str,
    tuned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    tiny.checkpoint(tmp_path / "deep", layers=5)
    before = tree(tmp_path)
    done = edgebert("fit", "--model", tuned, "--data", data, "-o", "out", "--json", *flags)
    assert done.code == code, done.err
    assert words in done.error
    assert done.out == ""
    assert tree(tmp_path) == before
