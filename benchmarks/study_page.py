"""docs/study.md and its pictures, from the committed rows and latencies: every number on the page is one of these.

    python benchmarks/study_page.py [--rows docs/study/rows.jsonl] [--latencies docs/study/latencies.json] [--out docs]

What the answers say in words is in `study_answers.py`. What is not measured yet is a dash, and listed at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import study_answers as answers
import study_rows
from study_found import Found, Points, mean, table, value
from study_plan import (
    CLASSIFIED,
    CUTS,
    DEPTHS,
    FULL,
    MANY,
    MIDDLE,
    NARROWED,
    ROUNDED,
    SETS,
    SHAPES,
    TOGETHER,
    Run,
    better_teacher,
    compared,
    lowest,
    many,
    plan,
    recipe,
    shape,
    taught_better,
    together,
    tried,
)
from study_plots import Series, bars, lines

METHODS = ("none", "logits", "hidden", "elastic")
POINTS = "points to the 6-layer teacher"


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=study_rows.ROWS)
    parser.add_argument("--latencies", type=Path, default=study_rows.ROWS.with_name("latencies.json"))
    parser.add_argument("--out", type=Path, default=study_rows.ROWS.parent.parent)
    asked = parser.parse_args()
    found, pictures = Found.read(asked.rows, asked.latencies), asked.out / "study"
    sections = (_needed, _cuts, _depth, _width, _rounded, _together, _helped)
    parts = [answers.head(found), *(section(found, pictures) for section in sections), _missing(found)]
    (asked.out / "study.md").write_text("\n".join(parts), "utf-8")


def by_method(method: str, data: str, layers: int) -> tuple[Run, int]:
    """The run that trains a depth by a method, and the depth."""
    if method == "elastic":
        return together(data), layers
    return compared(data, method, layers, "pre-trained" if method == "none" else "teacher"), layers


def _needed(found: Found, pictures: Path) -> str:
    def points(method: str, layers: int) -> dict[str, Points | None]:
        return {data: found.points(*by_method(method, data, layers)) for data in SETS}

    means = {method: {depth: found.mean(points(method, depth)) for depth in DEPTHS} for method in METHODS}
    drawn = [_series(method, of_depth) for method, of_depth in means.items()]
    lines(pictures / "methods.svg", [one for one in drawn if one.x], "layers", "mean points to the teacher, five sets")
    summary = table(["layers", *METHODS], [[depth, *(means[m][depth] for m in METHODS)] for depth in DEPTHS])
    rows = [[data, depth, *(points(m, depth)[data] for m in METHODS)] for data in SETS for depth in DEPTHS]
    picture = "![Points to the teacher over layers, by method](study/methods.svg)\n"
    return "\n".join([answers.needed(found, means), picture, summary, table(["set", "layers", *METHODS], rows)])


def _cuts(found: Found, pictures: Path) -> str:
    starts: dict[str, dict[str, Points | None]] = {
        f"{keep}, fine-tuned": {data: found.points(compared(data, "hidden", MIDDLE, keep=keep)) for data in SETS}
        for keep in CUTS
    }
    for start, name in (("pre-trained", "first, pre-trained"), ("scratch", answers.SCRATCH)):
        starts[name] = {data: found.points(compared(data, "hidden", MIDDLE, start)) for data in SETS}
    drawn = [_bars_of(name, of_set) for name, of_set in starts.items()]
    bars(pictures / "cuts.svg", SETS, [one for one in drawn if one.x], POINTS)
    rows = [[f"{name}, hidden", *of_set.values(), found.mean(of_set)] for name, of_set in starts.items()]
    rows += _by_cut(found, MIDDLE, ("logits",))
    picture = "![Points to the teacher at three layers, by the layers kept](study/cuts.svg)\n"
    tables = [table(["three layers", *SETS, "mean of five"], rows)]
    for layers, name in ((2, "two layers"), (1, "one layer")):
        tables.append(table([name, *SETS, "mean of five"], _by_cut(found, layers)))
    return "\n".join([answers.cuts(found, starts), picture, *tables])


def _by_cut(found: Found, layers: int, methods: Sequence[str] = ("hidden", "logits")) -> list[list[object]]:
    """What is kept at a depth, by which method: the runs that there are."""
    rows: list[list[object]] = []
    for method in methods:
        for keep in CUTS:
            of_set = {data: found.points(compared(data, method, layers, keep=keep)) for data in SETS}
            if any(of_set.values()):
                rows.append([f"{keep}, {method}", *of_set.values(), found.mean(of_set)])
    return rows


def _depth(found: Found, pictures: Path) -> str:
    of_set = [_series(data, {k: value(Points.of(found.seeds(recipe(data, k)))) for k in DEPTHS}) for data in SETS]
    lines(pictures / "layers.svg", [one for one in of_set if one.x], "layers", POINTS, levels={"teacher": 0.0})
    drawn = []
    for data in SETS:
        timed = (*ROUNDED, FULL)
        known = [(depth, found.p50(data, "int8", depth), _int8_points(found, data, depth)) for depth in timed]
        there = [(x, y, depth) for depth, x, y in known if x is not None and y is not None]
        drawn.append(
            Series(data, [x for x, _, _ in there], [y for _, y, _ in there], labels=[str(d) for _, _, d in there])
        )
    if any(one.x for one in drawn):
        lines(pictures / "depth.svg", [one for one in drawn if one.x], "p50 latency of one text in int8, ms", POINTS)
    rows = []
    for depth in DEPTHS:
        points = {data: Points.of(found.seeds(recipe(data, depth))) for data in SETS}
        rows.append([depth, *points.values(), found.mean(points)])
    times = [
        [precision, depth, *(_ms(found.p50(data, precision, depth)) for data in SETS)]
        for precision in ("fp32", "int8")
        for depth in (*ROUNDED, FULL)
    ]
    picture = "![Points to the teacher over layers, a line for each set](study/layers.svg)\n"
    if any(one.x for one in drawn):
        picture += "\n![Points over latency, a line for each set, a mark for each depth](study/depth.svg)\n"
    tables = [table(["layers", *SETS, "mean of five"], rows)]
    if any(value for _, _, *values in times for value in values):
        tables.append(table(["p50 ms of one text", "layers", *SETS], times))
    return "\n".join([answers.depth(found), picture, *tables])


def _int8_points(found: Found, data: str, depth: int) -> float | None:
    """int8 at a depth against the teacher in fp32."""
    run = lowest(data, depth) if depth != FULL else None
    row = found.row(run) if run else found.teacher(data)
    return 100 * (row["int8"] - row["teacher"]) if row and "int8" in row else None


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _width(found: Found, pictures: Path) -> str:
    rows, drawn = [], []
    for layers, ffn in SHAPES:
        run = shape(layers, ffn)
        points, row = found.points(run), found.row(run)
        times = [found.p50(NARROWED, f"{precision} {layers}x{ffn}", layers) for precision in ("fp32", "int8")]
        rows.append([f"{layers} x {ffn}", f"{row['parameters']:,}" if row else None, points, *map(_ms, times)])
        if points and times[1] is not None:
            drawn.append(Series(f"{layers} x {ffn}", [times[1]], [points.value], [(points.low, points.high)]))
    if drawn:
        lines(pictures / "width.svg", drawn, "p50 latency of one text in int8, ms", POINTS)
    picture = "![Points to the teacher over latency, a mark for each shape](study/width.svg)\n"
    heads = ["layers x feed-forward", "parameters", "points", "fp32 p50 ms", "int8 p50 ms"]
    return "\n".join([answers.width(found), *([picture] if drawn else []), table(heads, rows)])


def _rounded(found: Found, pictures: Path) -> str:
    rows, drawn = [], []
    for depth in (*ROUNDED, FULL):
        points = {data: _rounded_at(found, data, depth) for data in SETS}
        rows.append([depth, *points.values(), found.mean(points)])
    for data in SETS:
        known = [(depth, points) for depth in (*ROUNDED, FULL) if (points := _rounded_at(found, data, depth))]
        drawn.append(Series(data, [d for d, _ in known], [p.value for _, p in known]))
    lines(pictures / "int8.svg", [one for one in drawn if one.x], "layers", "points, int8 against fp32")
    picture = "![Points of int8 against fp32 over layers, a line for each set](study/int8.svg)\n"
    return "\n".join([answers.rounded(found), picture, table(["layers", *SETS, "mean of five"], rows)])


def _rounded_at(found: Found, data: str, depth: int) -> Points | None:
    row = found.row(lowest(data, depth)) if depth != FULL else found.teacher(data)
    return Points(*row["int8_points"]) if row and "int8_points" in row else None


def _together(found: Found, pictures: Path) -> str:
    rows: list[list[object]] = []
    for data in SETS:
        alone = {depth: value(found.points(lowest(data, depth))) for depth in TOGETHER}
        shared = {depth: value(found.points(together(data), depth)) for depth in TOGETHER}
        both = [depth for depth in TOGETHER if alone[depth] is not None and shared[depth] is not None]
        for name, of_depth in (("alone", alone), ("one run", shared)):
            of_both = mean([of_depth[depth] for depth in both]) if both else None
            rows.append([f"{data}, {name}", *of_depth.values(), of_both])
    heads = ["layers", *map(str, TOGETHER), "mean where both are"]
    return "\n".join([answers.together(found), table(heads, rows)])


def _helped(found: Found, pictures: Path) -> str:
    """What was tried beside the recipe: every run with settings of its own, beside the recipe's."""
    runs = sorted(tried(), key=lambda run: (SETS.index(run.data), -run.layers[0]))
    rows: list[list[object]] = [
        [run.data, run.layers[0], run.keep, f"`{run.options}`", *found.effect(run)]
        for run in runs
        if run.seed == 0 and found.row(run)
    ]
    varied = {data: many(data, 2) for data in SETS}
    drawn = [
        _bars_of("the recipe", {data: Points.of(found.without(run)) for data, run in varied.items()}),
        _bars_of(f"{MANY['augment']} variants of each text", {data: found.points(run) for data, run in varied.items()}),
    ]
    bars(pictures / "variants.svg", SETS, [one for one in drawn if one.x], POINTS)
    picture = "![Points to the teacher at two layers, by the recipe and with many variants](study/variants.svg)\n"
    heads = ["set", "layers", "kept", "asked of `edgebert distill`", "points", "without", "dev"]
    better = [answers.better_teachers(found), _better_teachers(found)]
    return "\n".join([answers.helped(found), picture, table(heads, rows), *better])


def _better_teachers(found: Found) -> str:
    """What a better teacher is, and what its students are."""
    runs = [taught_better(data) for data in CLASSIFIED]
    kinds = {
        f"the better teacher, {FULL} layers": {
            run.data: Points.of([row]) if (row := found.beside(run, better_teacher(run.data))) else None for run in runs
        },
        f"{MIDDLE} layers, of it": {run.data: found.points(run) for run in runs},
        f"{MIDDLE} layers, of the fine-tuned one": {
            run.data: Points.of(found.without(run)) if found.row(run) else None for run in runs
        },
    }
    rows = [[name, *of_set.values(), found.mean(of_set)] for name, of_set in kinds.items()]
    return table(["points to the fine-tuned teacher", *CLASSIFIED, "mean of five"], rows)


def _bars_of(name: str, of_set: Mapping[str, Points | None]) -> Series:
    known = [(number, points) for number, data in enumerate(SETS) if (points := of_set[data])]
    return Series(name, [n for n, _ in known], [p.value for _, p in known], [(p.low, p.high) for _, p in known])


def _series(name: str, of_depth: Mapping[int, float | None]) -> Series:
    known = [(depth, value) for depth, value in of_depth.items() if value is not None]
    return Series(name, [x for x, _ in known], [y for _, y in known])


def _missing(found: Found) -> str:
    runs = plan()
    missing: dict[str, list[str]] = {}
    for run in runs:
        if found.row(run) is None:
            missing.setdefault(run.name.removeprefix(f"{run.data}-"), []).append(run.data)
    done = len(runs) - sum(map(len, missing.values()))
    never = "A teacher of other weights than MiniLM's, and many variants with three layers and more, were not planned."
    more = "`make study` goes on with the others:\n" if missing else "What has a dash was not planned."
    told = [f"## What was not run\n\n{never}\n\n{done} of {len(runs)} planned runs are done. {more}"]
    return "\n".join([*told, *(f"- `{way}`: {', '.join(sets)}" for way, sets in missing.items())]) + "\n"


if __name__ == "__main__":
    main()
