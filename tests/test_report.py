"""The report: complete, self-contained, safe against hostile names, the same bytes for the same sweep."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import answers
import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from edgebert.choosing import plots
from edgebert.choosing.candidate import Candidate, Report, Step, Verdict
from edgebert.choosing.changes import changes_between
from edgebert.choosing.report import write_report
from edgebert.choosing.steps import Clock, next_steps
from edgebert.choosing.words import ms, signed
from edgebert.judging.latency import Latency
from edgebert.judging.metrics import Metric, difference

DEPTHS = range(1, 7)
PRECISIONS = ("fp32", "int8")
TRAINED = {("fp32", 6), ("int8", 6), ("int8", 5), ("int8", 4), ("fp32", 2), ("int8", 3)}
ACCURACY = {1: 0.803, 2: 0.842, 3: 0.866, 4: 0.881, 5: 0.884, 6: 0.887}
PICK = "4 layers, int8 on cpu: 88.0 % accuracy (86.5–89.4), p95 3.5 ms (3.4–3.7), 19.2 MB"
HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)>|`$x^2$`"""
VOID = {"meta", "link", "br", "img", "input", "hr"}


def latency(layers: int, precision: str) -> Latency:
    p50 = (0.62 + 1.41 * layers) if precision == "fp32" else (0.55 + 0.62 * layers)
    p95 = p50 * 1.13 + 0.12
    return Latency(
        p50=p50, p50_low=p50 * 0.98, p50_high=p50 * 1.02, p95=p95, p95_low=p95 * 0.96, p95_high=p95 * 1.05,
        tokenize_p50=0.13, texts_per_s=960 / p50, samples=400, batch_size=1, seq_len=None, threads=2,
        cold_start_ms=88.0 + 9 * layers, memory_bytes=142_000_000 + 9_000_000 * layers,
    )  # fmt: skip


def stage(name: str, error: float, *, ok: bool = True) -> dict[str, object]:
    return {
        "name": name, "max_abs_error": error, "mean_abs_error": error / 7, "cosine": 1 - error / 1000,
        "label_agreement": 0.99, "tolerance": 0.5, "min_cosine": 0.95, "min_label_agreement": 0.9, "ok": ok,
    }  # fmt: skip


def candidate(layers: int, precision: str) -> Candidate:
    size = 46_900_000 + 7_100_000 * layers if precision == "fp32" else 12_000_000 + 1_800_000 * layers
    found = Candidate(layers, "cpu", precision, tuple(range(layers)), trained=False, bytes=size)
    if (precision, layers) == ("fp32", 5):
        return dataclasses.replace(found, bytes=0, failed="out of memory while measuring")
    found = dataclasses.replace(found, latency=latency(layers, precision))
    if (precision, layers) not in TRAINED:
        return found
    value = ACCURACY[layers] - (0.001 if precision == "int8" else 0)
    ledger = [stage("truncate", 0.0), stage("fp32", 4.8e-7)]
    return dataclasses.replace(
        found,
        trained=True,
        dev=Metric("accuracy", value + 0.004, value - 0.017, value + 0.023),
        test=Metric("accuracy", value, value - 0.0148, value + 0.0143),
        path=f"artifacts/{layers}-cpu-{precision}",
        stages=(*ledger, stage("int8", 0.21)) if precision == "int8" else tuple(ledger),
    )


def sweep() -> Report:
    candidates = {(p, n): candidate(n, p) for p in PRECISIONS for n in DEPTHS}
    pick = candidates["int8", 4]
    return Report(
        command="edgebert fit --model minilm --data data/sst2_sent --budget p95=4ms --seed 7",
        created="2026-02-03T09:41:00Z",
        task="text-classification",
        model={"name": "minilm", "family": "bert", "layers": 6, "hidden": 384, "params": 22_700_000},
        data={"name": "sst2_sent", "train": 6920, "dev": 872, "test": 1821, "labels": ["good", "bad"]},
        budget={"limits": [{"quantity": "p95", "most": 4.0}], "max_drop": None},
        teacher=candidates["fp32", 6],
        candidates=tuple(candidates.values()),
        verdict=Verdict(
            pick,
            "the most accurate on dev whose p95 upper bound is within 4 ms",
            (
                (candidates["int8", 5], "more accurate by 0.3 points on dev, but 0.2 ms over the budget"),
                (candidates["int8", 3], "faster by 0.7 ms, but 1.5 points less accurate on dev"),
            ),
            ties=("3 layers int8 on cpu",),
        ),
        depth_lines=(
            {"target": "cpu", "precision": "fp32", "a": 0.62, "b": 1.41, "worst": 0.021},
            {"target": "cpu", "precision": "int8", "a": 0.55, "b": 0.62, "worst": 0.034},
        ),
        environment={
            "cpu": "AMD EPYC 9R14", "threads": 2, "isa": ["avx2", "avx512f", "avx512_vnni"],
            "memory_bytes": 16_500_000_000, "system": "Linux 6.8", "python": "3.11.9",
            "versions": {"edgebert": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0"},
        },
        warnings=("5 layers, fp32 on cpu was left out: out of memory while measuring",),
    )  # fmt: skip


def with_changes(classes: int, texts: int) -> Report:
    """The sweep with all that answers add: the changes and the next millisecond."""
    report = sweep()
    labels = [f"intent_{number:02}" for number in range(classes)] if classes > 2 else ["bad", "good"]
    rows = answers.rows(labels, texts)
    expected = np.arange(texts) % len(labels)
    teacher = answers.scores(labels, expected, 0.2, seed=1)
    ours, other = (
        answers.scores(labels, expected, wrong, seed, near=teacher) for wrong, seed in ((0.05, 2), (0.03, 3))
    )
    measured = {(6, "cpu", "fp32"): teacher, (4, "cpu", "int8"): ours, (5, "cpu", "int8"): other}
    candidates = tuple(
        dataclasses.replace(c, test=measured[c.key].metric_value()) if c.key in measured else c
        for c in report.candidates
    )
    pick = candidates[9]
    return dataclasses.replace(
        report,
        candidates=candidates,
        teacher=candidates[5],
        verdict=dataclasses.replace(report.verdict, pick=pick, against_teacher=difference(ours, teacher)),
        changes=changes_between(ours, teacher, rows),
        steps=next_steps(candidates, pick, measured, Clock("p95", 4.0)),
    )


def nothing_fits() -> Report:
    report = sweep()
    misses = tuple(zip(report.candidates[6:8], ("p95 is 0.4 ms over", "p95 is 1.1 ms over"), strict=True))
    verdict = Verdict(None, "nothing fits p95=1ms", misses)
    return dataclasses.replace(report, budget={"limits": [{"quantity": "p95", "most": 1.0}]}, verdict=verdict)


class Page(HTMLParser):
    """Checks nesting on the way; keeps tags with their attributes, ids and the text of each id and tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((tuple(self.open), data))

    def text(self, *, inside: str = "body") -> str:
        found = (word for path, word in self.words if inside in path and "svg" not in path)
        return " ".join("".join(found).split())

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's report, written once for the tests that only read it."""
    path = tmp_path_factory.mktemp("report")
    write_report(path, sweep())
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def page_of(folder: Path, report: Report) -> Page:
    page = Page(write_report(folder, report).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_writes_three_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = write_report(tmp_path, sweep())

    assert path == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_page_says_what_was_picked_and_at_what_cost(page: Page) -> None:
    text = page.text()

    assert f"{PICK}. Budget p95 = 4 ms." in text
    assert "The most accurate on dev whose p95 upper bound is within 4 ms." in text
    assert "−0.7 points 88.0 against 88.7 % accuracy" in text
    assert "2.9× as fast p95 3.5 against 10 ms" in text
    assert "4.7× smaller 19.2 against 89.5 MB" in text
    assert "edgebert fit --model minilm --data data/sst2_sent --budget p95=4ms --seed 7" in text
    assert "5 layers, fp32 on cpu was left out" in text


def test_page_asks_nothing_of_the_network_and_runs_nothing(folder: Path, page: Page) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")

    assert re.findall(r"https?://|@import|url\((?!#)", html) == []
    assert [name for name, _ in page.tags if name in {"script", "iframe", "object"}] == []
    assert all(target.startswith(("#", "data:,")) for target in page.attributes("href"))
    assert page.attributes("src") == []


def test_page_is_sane_for_keyboard_and_screen_reader(page: Page) -> None:
    ids = page.attributes("id")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]

    assert ("html", {"lang": "en"}) in page.tags
    assert len(ids) == len(set(ids))
    assert {t[1:] for t in page.attributes("href") if t.startswith("#")} <= set(ids)
    assert set(page.attributes("aria-labelledby")) <= set(ids)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    drawings = [attrs["aria-label"] or "" for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert len(drawings) == 3
    assert "The pick is 4 layers int8 with 88.0 % accuracy at 3.5 ms." in drawings[0]
    assert "int8 takes 0.62 ms per layer" in drawings[1]
    assert "From 13.8 MB (1 layer int8) to 89.5 MB (6 layers fp32)" in drawings[2]


def test_the_next_millisecond_is_told_both_ways(tmp_path: Path) -> None:
    report = with_changes(2, 1821)
    better = report.steps[1]
    text = page_of(tmp_path, report).text()
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert "One step faster: 3 layers, int8 on cpu −0.70 ms, " in text
    assert f"One step better: 5 layers, int8 on cpu +0.70 ms, {signed(100 * (better.gain or 0))} points" in text
    assert "per ms; paired 95 % interval " in text
    assert "points; needs a budget of p95 = 4.5 ms" in text
    assert "- One step better: 5 layers, int8 on cpu: +0.70 ms, " in markdown


def test_where_there_is_no_step_the_page_says_so(tmp_path: Path) -> None:
    report = with_changes(2, 1821)
    untrained = Step("untrained", report.candidates[10], "p95", 1.3, 5.5)
    text = page_of(tmp_path, dataclasses.replace(report, steps=(untrained,))).text()

    assert "Not trained: 5 layers, int8 on cpu +1.3 ms by p95; latency only; needs a budget of p95 = 5.5 ms" in text
    assert "Nothing faster than the pick was trained; nothing slower that was trained is more accurate on test." in text


def test_changes_by_class_and_the_surest_mistakes(tmp_path: Path) -> None:
    report = with_changes(2, 1821)
    page = page_of(tmp_path, report)
    changes = report.changes
    assert changes
    worst, first = changes.classes[0], changes.examples[0]

    assert f"lost {changes.flips.lost} right before, wrong now: " in page.text()
    assert f"{worst.label}{signed(100 * worst.change)}" in page.text(inside="tbody")
    assert page.text(inside="blockquote").count("(text ") == len(changes.examples) == 10
    assert f"{first.text} Right: {first.label} (teacher, " in page.text()
    assert "other" not in page.text(inside="summary")
    assert "by chance" not in page.text()


def test_many_classes_show_those_that_changed_most_and_fold_the_rest(tmp_path: Path) -> None:
    report = with_changes(77, 3080)
    page = page_of(tmp_path, report)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.changes

    assert "The other 67 classes" in page.text(inside="summary")
    assert "With 77 classes, about 4 intervals leave out zero by chance alone." in page.text()
    for change in report.changes.classes:
        assert change.label in page.text(inside="tbody")
        assert f"| {change.label} | ".replace("_", "\\_") in markdown
    assert "<details><summary>The other 67 classes</summary>" in markdown
    assert "\n\n\n" not in markdown


def test_without_answers_the_page_says_why_there_are_no_changes(page: Page, tmp_path: Path) -> None:
    assert "against the teacher" not in page.text(inside="h2")
    told = "Which answers changed against the teacher is told for single-label classification only"
    report = sweep()
    assert told in page.text()
    write_report(tmp_path, report)
    assert told in (tmp_path / "report.md").read_text("utf-8")
    same = dataclasses.replace(report, verdict=dataclasses.replace(report.verdict, pick=report.teacher))
    for other in (with_changes(2, 1821), same, nothing_fits()):
        assert told not in page_of(tmp_path, other).text()
    assert "next millisecond" not in page.text()


def test_hostile_texts_and_labels_stay_text(tmp_path: Path) -> None:
    report = with_changes(2, 1821)
    assert report.changes
    (example, *_), (change, *_) = report.changes.examples, report.changes.classes
    changes = dataclasses.replace(
        report.changes,
        examples=(dataclasses.replace(example, text=HOSTILE, text_b=HOSTILE, label=HOSTILE, pick=HOSTILE),),
        classes=(dataclasses.replace(change, label=HOSTILE),),
    )
    page = page_of(tmp_path, dataclasses.replace(report, changes=changes))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == []
    assert page.text().count(HOSTILE) == 5
    assert re.findall(r"(?m)^(?!    ).*(?<!\\)<", markdown) == []


def test_every_candidate_has_a_row_with_its_status(page: Page) -> None:
    states = [attrs["class"] or "" for tag, attrs in page.tags if tag == "tr" and "class" in attrs]
    text = page.text(inside="tbody")

    assert sorted(states) == ["failed"] + ["fits"] * 1 + ["over"] * 4 + ["picked"] + ["untrained"] * 5
    for status in (
        "the teacher; over by 6.4 ms",
        "picked",
        "fits; tied with the pick",
        "failed: out of memory",
        "not trained; over by 1.6 ms",
        "not trained; fast enough",
    ):
        assert status in text


def test_ledger_of_each_trained_candidate(tmp_path: Path) -> None:
    report = sweep()
    spoilt = dataclasses.replace(report.candidates[6], trained=True, stages=(stage("int8", 1e308, ok=False),))
    candidates = (*report.candidates[:6], spoilt, *report.candidates[7:])
    page = page_of(tmp_path, dataclasses.replace(report, candidates=candidates))

    assert len([tag for tag, _ in page.tags if tag == "details"]) == len(TRAINED) + 1
    assert len([tag for tag, attrs in page.tags if tag == "details" and "open" in attrs]) == 1
    assert "1 layer, int8 on cpu: 0 of 1 steps ok" in page.text(inside="summary")
    assert "not finite" in page.text(inside="details")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    report = dataclasses.replace(
        sweep(),
        command=HOSTILE,
        task=HOSTILE,
        model={"name": HOSTILE, HOSTILE: HOSTILE},
        data={"name": HOSTILE, "labels": [HOSTILE]},
        verdict=dataclasses.replace(sweep().verdict, reason=HOSTILE),
        warnings=(HOSTILE,),
    )
    page = page_of(tmp_path, report)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == []
    assert page.text().count(HOSTILE) == 11  # 2 in the heading, task, reason, 5 facts, command, warning
    assert re.findall(r"(?m)^(?!    ).*(?<!\\)<", markdown) == []


def test_hostile_precision_stays_text_in_the_drawings(tmp_path: Path) -> None:
    report = sweep()
    odd = dataclasses.replace(report.candidates[6], precision=HOSTILE)
    page = page_of(tmp_path, dataclasses.replace(report, candidates=(*report.candidates, odd)))

    assert [tag for tag, _ in page.tags if tag in {"script", "img"}] == []
    assert any("svg" in path and HOSTILE in word for path, word in page.words)


def test_nothing_fits(tmp_path: Path) -> None:
    page = page_of(tmp_path, nothing_fits())
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")

    assert "Nothing fits. No candidate meets the budget p95 = 1 ms." in page.text()
    assert "1 layer, int8 on cpu: p95 is 0.4 ms over" in page.text()
    assert "against the full-depth" not in page.text()
    assert "**Nothing fits.**" in markdown
    assert document["pick"] is None
    assert [entry["layers"] for entry in document["nearest"]] == [1, 2]


def test_only_a_drop_binds(tmp_path: Path) -> None:
    report = dataclasses.replace(sweep(), budget={"max_drop": 1.0})
    page = page_of(tmp_path, report)

    assert "Budget at most 1 points below the teacher." in page.text()
    assert "p50 3.0 ms" in page.text()
    assert "4.5 points below the teacher on dev" in page.text()


def test_too_few_samples_for_a_p95(tmp_path: Path) -> None:
    short = dataclasses.replace(latency(4, "int8"), p95=None, p95_low=None, p95_high=None, samples=60)
    pick = dataclasses.replace(candidate(4, "int8"), latency=short)
    verdict = Verdict(pick, "The only one.")
    page = page_of(tmp_path, dataclasses.replace(sweep(), candidates=(pick,), teacher=None, verdict=verdict))
    drawn = " ".join(word for path, word in page.words if "svg" in path)

    assert "88.0 % accuracy (86.5–89.4), p50 3.0 ms (3.0–3.1), 19.2 MB. Budget p95 = 4 ms." in page.text()
    assert "p50 latency of one text, ms" in drawn
    assert "budget" not in drawn


@pytest.mark.parametrize("name", ["spearman", "cosine"])
def test_metrics_that_are_no_shares_are_points(tmp_path: Path, name: str) -> None:
    report = sweep()
    pick = dataclasses.replace(candidate(4, "int8"), test=Metric(name, 0.8234, 0.8, 0.8412), dev=None)
    verdict = dataclasses.replace(report.verdict, pick=pick)
    page = page_of(tmp_path, dataclasses.replace(report, candidates=(pick,), teacher=None, verdict=verdict))

    assert f"4 layers, int8 on cpu: 82.3 points {name} (80.0–84.1), p95" in page.text()
    assert f"{name}, points" in page.text(inside="th")


def test_a_sweep_without_numbers_still_has_a_report(tmp_path: Path) -> None:
    failed = Candidate(3, "cpu", "fp32", (0, 1, 2), False, failed="no space")
    verdict = Verdict(None, "Nothing could be measured.")
    report = dataclasses.replace(sweep(), candidates=(failed,), teacher=None, verdict=verdict, depth_lines=())
    page = page_of(tmp_path, report)

    assert "failed: no space" in page.text()
    assert page.attributes("role") == ["region"]


def test_same_sweep_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_report(tmp_path, sweep())

    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_markdown_has_a_row_for_each_candidate_and_step(folder: Path) -> None:
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    candidates, ledger = ([row for row in rows if len(row) == width] for width in (13, 8))

    assert len(candidates) == 2 + len(PRECISIONS) * len(DEPTHS)
    assert len(ledger) == 2 + sum(len(c.stages) for c in sweep().candidates)
    assert len(candidates) + len(ledger) == len(rows)
    assert f"**{PICK}.**" in markdown
    assert "\n\n\n" not in markdown
    assert f"## Command\n\n    {sweep().command}\n" in markdown


def test_json_holds_the_contract(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))

    assert {"pick", "candidates", "nearest", "verdict", "budget", "environment", "command"} <= document.keys()
    assert document["pick"].keys() >= {
        "path",
        "layers",
        "target",
        "precision",
        "metric",
        "latency_ms",
        "bytes",
    }
    assert document["pick"]["metric"]["name"] == "accuracy"
    assert [Candidate.from_dict(entry) for entry in document["candidates"]] == list(sweep().candidates)
    assert document["nearest"][0]["why"].startswith("more accurate by 0.3 points")


def test_json_holds_steps_and_changes_as_data(tmp_path: Path) -> None:
    report = with_changes(2, 1821)
    write_report(tmp_path, report)
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    assert document["steps"][0]["candidate"] == {"layers": 3, "target": "cpu", "precision": "int8"}
    assert document["steps"][1]["gain"] == report.steps[1].gain
    assert document["changes"] == json.loads(json.dumps(dataclasses.asdict(report.changes)))  # type: ignore[arg-type]
    assert document["changes"]["flips"]["texts"] == 1821


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    write_report(tmp_path, sweep())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = dataclasses.replace(sweep(), model={"name": object()}, depth_lines=({"target": "cpu"},))

    with pytest.raises(KeyError):
        write_report(tmp_path, broken)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04567, "0.046"),
        (0.5, "0.50"),
        (3.44, "3.4"),
        (9.949, "9.9"),
        (9.96, "10"),
        (123.4, "123"),
        (None, "–"),
    ],
)
def test_milliseconds(value: float | None, text: str) -> None:
    assert ms(value) == text


@pytest.mark.parametrize(("value", "text"), [(-0.64, "−0.6"), (0.64, "+0.6"), (-0.04, "0.0"), (0.0, "0.0")])
def test_signed_points(value: float, text: str) -> None:
    assert signed(value) == text


def test_front_keeps_what_nothing_beats() -> None:
    made = candidate(1, "int8")
    points = [(made, 1.0, 0.8), (made, 2.0, 0.9), (made, 2.0, 0.85), (made, 3.0, 0.9), (made, 4.0, 0.95)]

    assert plots.front(points) == [(made, 1.0, 0.8), (made, 2.0, 0.9), (made, 4.0, 0.95)]
