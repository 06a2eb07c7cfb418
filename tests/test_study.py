"""The study's plan, one of its trainings on a tiny model, and the page that its rows give."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import ROOT

from edgebert import build
from edgebert.training.plan import TrainConfig

sys.path.append(str(ROOT / "benchmarks"))
study_answers, study_found, study_page, study_plan, study_rows, study_run = (
    importlib.import_module(f"study_{name}") for name in ("answers", "found", "page", "plan", "rows", "run")
)


def test_every_run_has_a_name_of_its_own() -> None:
    runs = study_plan.plan()
    assert len({run.name for run in runs}) == len(runs)
    assert {run.data for run in runs} == set(study_plan.SETS)
    assert [run.is_teacher for run in runs[:6]] == [True] * 6
    assert not any(run.is_teacher for run in runs[6:])


def test_the_pages_questions_ask_for_runs_of_the_plan() -> None:
    runs = study_plan.plan()
    for method in study_page.METHODS:
        for data in study_plan.CLASSIFIED:
            assert all(study_page.by_method(method, data, depth)[0] in runs for depth in study_plan.DEPTHS)
    assert set(study_plan.shaped()) <= set(runs)


def row(run: Any, layers: int, points: float) -> dict[str, Any]:
    return {
        "run": run.name, "layers": layers, "metric": "accuracy", "fp32": 0.8, "teacher": 0.82, "texts": 100,
        "points": [points, points - 1, points + 1], "dev": 0.8, "best_step": 10, "parameters": 1000 * layers,
        "date": "2026-01-02", "device": "cpu", "cpu": "Some CPU", "versions": {"torch": "2", "transformers": "5"},
        "cpu_seconds": 36, "int8": 0.79, "int8_points": [-0.5, -1.0, 0.0], "scheme": "static",
    }  # fmt: skip


def test_the_page_is_made_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run for run in study_plan.plan() if run.data != "wnut17"]
    made = [row(run, layers, -layers / 8) for run in runs for layers in run.layers]
    made += [row(study_plan.recipe("wnut17", 2), 2, -2.25)]
    study_rows.append(tmp_path / "rows.jsonl", made)
    times = {"sst2_sent": {"fp32": {"3": 2.0}, "int8": {"3": 1.125, "6": 2.25}, "int8 3x1536": {"3": 1.5}}}
    (tmp_path / "latencies.json").write_text(json.dumps(times))
    command = ["study_page.py", "--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--latencies", str(tmp_path / "latencies.json")])
    study_page.main()
    page = (tmp_path / "study.md").read_text("utf-8")
    # Two layers are the only depth that all five sets have: (4 x -0.25 - 2.25) / 5.
    assert "2 layers -0.7 (aim -1.5: reached)" in page
    assert "| 3 | -0.4 (-1.4 to +0.6) |" in page
    assert "1.12" in page
    # One run's rows and the runs of single depths were given the same points.
    assert "banking77 +0.00 (of 1, 2, 3, 4, 5 and 6 layers)" in page
    assert "| banking77, one run | -0.1 | -0.2 | -0.4 | -0.5 | -0.6 | -0.8 | -0.4 |" in page
    # Of layers that are cut as the recipe cuts them, by answers alone.
    assert "| alternate, logits |" in page
    assert "- `elastic-l1.2.3.4.5.6-teacher`: wnut17" in page
    for name in ("methods", "cuts", "layers", "depth", "width", "int8", "variants"):
        assert "</svg>" in (tmp_path / "study" / f"{name}.svg").read_text("utf-8")
        assert f"(study/{name}.svg)" in page


def test_every_run_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run for run in study_plan.plan() if not run.is_teacher and run.seed == 0]
    made = [{**row(run, k, 0.0), "points": [i / 10, -99.0, 99.0]} for i, run in enumerate(runs, 1) for k in run.layers]
    study_rows.append(tmp_path / "rows.jsonl", made)
    nowhere = str(tmp_path / "latencies.json")
    monkeypatch.setattr(
        sys, "argv", ["page", "--rows", str(tmp_path / "rows.jsonl"), "--latencies", nowhere, "--out", str(tmp_path)]
    )
    study_page.main()
    cells = re.findall(r"(?<=\| )[+-][\d.]+(?= )", (tmp_path / "study.md").read_text("utf-8"))
    assert [run.name for i, run in enumerate(runs, 1) if f"{i / 10:+.1f}" not in cells] == []


def test_seeds_are_one_cell_where_all_are_there(tmp_path: Path) -> None:
    at = {0: -1.0, 1: -2.0, 2: -3.0}
    made = [row(study_plan.seeded(data, 2, seed), 2, at[seed]) for data in study_plan.CLASSIFIED for seed in at]
    study_rows.append(tmp_path / "rows.jsonl", made)
    found = study_found.Found.read(tmp_path / "rows.jsonl", tmp_path / "latencies.json")
    assert str(study_found.Points.of(found.seeds(study_plan.recipe("sst2_sent", 2)))) == "-2.0 ±1.0 (-3.0 to -1.0)"
    assert found.by_seed(2) == [-1.0, -2.0, -3.0]
    study_rows.append(tmp_path / "less.jsonl", made[:-1])
    less = study_found.Found.read(tmp_path / "less.jsonl", tmp_path / "latencies.json")
    assert str(study_found.Points.of(less.seeds(study_plan.recipe("wnut17", 2)))) == "-1.0 (-2.0 to +0.0)"
    assert less.by_seed(2) == [-1.0, -2.0]


def test_a_run_is_beside_what_was_trained_where_it_was(tmp_path: Path) -> None:
    plain, varied = study_plan.recipe("stsb", 2), study_plan.many("stsb", 2)
    made = [row(plain, 2, -5.0), *({**row(study_plan.seeded("stsb", 2, n), 2, -n), "device": "GPU"} for n in (1, 2))]
    study_rows.append(tmp_path / "rows.jsonl", [*made, {**row(varied, 2, -1.0), "device": "GPU"}])
    found = study_found.Found.read(tmp_path / "rows.jsonl", tmp_path / "latencies.json")
    assert study_found.Points.of(found.without(varied)).value == -1.5
    few = study_plan.fresh("stsb", 2)
    study_rows.append(tmp_path / "rows.jsonl", [row(few, 2, -1.0)])
    found = study_found.Found.read(tmp_path / "rows.jsonl", tmp_path / "latencies.json")
    assert study_found.Points.of(found.without(few)).value == -5.0


def test_a_training_done_again_on_another_machine_is_what_that_machines_are_beside(tmp_path: Path) -> None:
    plain, better = study_plan.recipe("wnut17", 3), study_plan.taught_better("wnut17")
    made = [row(plain, 3, -1.0), {**row(plain, 3, -2.0), "cpu": "Another"}]
    made += [{**row(better, 3, -1.5), "cpu": "Another", "dev": 0.75}]
    study_rows.append(tmp_path / "rows.jsonl", made)
    found = study_found.Found.read(tmp_path / "rows.jsonl", tmp_path / "latencies.json")
    assert found.points(plain).value == -1.0
    own, without, dev = found.effect(better)
    assert (own.value, without.value, dev) == (-1.5, -2.0, pytest.approx(-5.0))
    assert "wnut17 with 3 layers -1.0 and -2.0 (1 seed)" in study_answers.helped(found)
    assert "wnut17 -2.0 to -1.5 (dev -5.0)" in study_answers.better_teachers(found)


def test_options_are_what_one_types() -> None:
    run = study_plan.Run("sst2_sent", "logits", (2,), settings=(("epochs", 5), ("train_batch_size", 256), ("lr", 1e-3)))
    assert TrainConfig().epochs == study_plan.EPOCHS, "what is left out of the options is what goes without saying"
    assert run.options == "--method logits --train-batch-size 256 --lr 0.001"


def test_settings_are_compared_with_what_goes_without_them() -> None:
    run = study_plan.Run("wnut17", "hidden", (3,), settings=(("epochs", 15), ("dropout", 0.0)))
    assert run.without.name == "wnut17-hidden-l3-teacher-dropout0"
    assert run.without.without.name == "wnut17-hidden-l3-teacher"
    # The rate by which the encoder's are compared goes with each, and is a setting of its own by itself.
    slow = study_plan.slowly(study_plan.Run("stsb", "hidden", (3,), settings=(("augment", 2),)))
    names = [slow.name, slow.without.name, slow.without.without.name]
    assert names == [f"stsb-hidden-l3-teacher{more}" for more in ("-augment2-lr0.0001", "-lr0.0001", "")]
    relations = study_plan.slowly(study_plan.Run("stsb", "relations", (3,)))
    assert relations.without.name == "stsb-hidden-l3-teacher-lr0.0001"


def test_a_student_of_a_better_teacher_is_compared_with_one_of_the_teacher() -> None:
    run = study_plan.taught_better("qnli_small")
    assert run.needs == study_plan.better_teacher("qnli_small")
    assert run.needs.needs == study_plan.teacher_of("qnli_small")
    assert run.without == study_plan.recipe("qnli_small", 3)


def test_the_committed_page_is_what_the_committed_rows_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study_page.py", "--out", str(tmp_path)])
    study_page.main()
    assert (tmp_path / "study.md").read_text("utf-8") == (ROOT / "docs" / "study.md").read_text("utf-8")


def test_times_are_kept_where_artifacts_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_latency = importlib.import_module("study_latency")
    times = tmp_path / "latencies.json"
    times.write_text('{"stsb": {"fp32": {"1": 0.5}}}')
    monkeypatch.setattr(sys, "argv", ["study_latency.py", str(tmp_path), "--sets", "stsb", "--out", str(times)])
    study_latency.main()
    assert json.loads(times.read_text()) == {"stsb": {"fp32": {"1": 0.5}}}
    assert "stsb: not timed" in capsys.readouterr().out


def test_one_training_is_judged_beside_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "MODEL", str(tiny.checkpoint(tmp_path / "model", layers=6)))
    place = tiny.labelled(tmp_path / "sst2_sent")
    few = (("max_steps", 2),)
    run = study_plan.Run("sst2_sent", "elastic", (1, 2), settings=few)
    found = list(study_run.rows(run, tmp_path / "out", place))
    assert [one["layers"] for one in found] == [1, 2]
    assert all(one["run"] == run.name and len(one["points"]) == 3 for one in found)
    teacher = tmp_path / "out" / "teachers" / "sst2_sent"
    before = (teacher / "model.safetensors").stat()
    for start, ffn in (("scratch", study_plan.FFN), ("pre-trained", 64)):
        run = study_plan.Run("sst2_sent", "hidden", (1,), start, ffn=ffn, settings=few)
        (one,) = study_run.rows(run, tmp_path / "out", place)
        assert one["teacher"] == found[0]["teacher"]
        assert one["fp32"] - one["teacher"] == pytest.approx(one["points"][0] / 100, abs=1e-4)
    assert (teacher / "model.safetensors").stat() == before
    assert not any((tmp_path / "out" / "work").iterdir())


def test_a_better_teacher_teaches_and_goes_with_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "MODEL", str(tiny.checkpoint(tmp_path / "model", layers=6)))
    monkeypatch.setattr(study_run, "TrainConfig", functools.partial(TrainConfig, max_steps=2))
    place, out = tiny.labelled(tmp_path / "sst2_sent"), tmp_path / "out"
    run, taught = study_plan.taught_better("sst2_sent"), []
    distill = build.distill

    def tell(model: str, *arguments: Any, **options: Any) -> Any:
        taught.append(Path(model).name)
        return distill(model, *arguments, **options)

    monkeypatch.setattr(study_run.build, "distill", tell)
    (one,) = study_run.rows(run, out, place)
    assert one["run"] == "sst2_sent-hidden-l3-teacher-alternate-better"
    assert taught == ["model", "sst2_sent", "sst2_sent-better"]
    # What is there already has a row, but nobody knows what it cost.
    (kept,) = study_run.rows(study_plan.better_teacher("sst2_sent"), out, place)
    assert "cpu_seconds" in one
    assert "cpu_seconds" not in kept
    # One that learned from another teacher would teach on.
    shutil.rmtree(out / "teachers" / "sst2_sent")
    list(study_run.rows(study_plan.teacher_of("sst2_sent"), out, place))
    assert not (out / "teachers" / "sst2_sent-better").exists()
