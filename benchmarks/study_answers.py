"""The words of docs/study.md: for each question two lines whose numbers come from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from study_found import Found, Points
from study_plan import (
    BOTH,
    CLASSIFIED,
    DEPTHS,
    ENCODED,
    FULL,
    NARROWED,
    ROUNDED,
    SHAPES,
    TOGETHER,
    lowest,
    recipe,
    shape,
    teacher_of,
)
from study_plan import together as one_run

# Points below the teacher that the mean of the classified sets, and of the encoder, should not pass.
AIMS, ENCODER_AIM = {3: 0.5, 2: 1.5, 1: 4.0}, 1.5
UNKNOWN = "not measured yet"
# Points of a mean that an answer takes notice of.
NOTICED = 0.5


def head(found: Found) -> str:
    """What was run, on what, and how to read it."""
    rows = list(found.rows.values())
    machines = sorted({row["cpu"] for row in rows})
    dates = sorted({row["date"] for row in rows})
    hours = sum({row["run"]: row["cpu_seconds"] for row in rows}.values()) / 3600
    versions = {name: sorted({row["versions"].get(name, "") for row in rows}) for name in ("torch", "transformers")}
    told = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    teachers = "; ".join(
        f"{name} {100 * row['fp32']:.1f} ({row['metric']}, {row['texts']} texts)"
        for name in (*CLASSIFIED, ENCODED)
        if (row := found.teacher(name))
    )
    return f"""# The study: how many layers does a BERT need?

MiniLM-L6 (6 layers, 384 wide) is fine-tuned for a task and made shallower in every way that edgebert knows; each result is compared with its 6-layer teacher on the task's test part. Every number here comes from [the rows](study/rows.jsonl) of `make study`, which goes on where it was cut off; `python benchmarks/study_page.py` writes this page. {len({row["run"] for row in rows})} runs, {hours:.1f} hours of one core for the students' training, {" and ".join(machines)}, {" to ".join(dict.fromkeys((dates[0], dates[-1])))}, {told}.

Numbers are points of the task's metric (accuracy; entity F1 for wnut17; Spearman's correlation of cosines for stsb) between a student and its teacher, both in fp32 unless said, with the paired 95 % interval over the texts of test. One seed each. The teachers: {teachers}. "Mean of five" is over the classified sets.

{_aims(found)}
{_notes(found)}"""  # noqa: E501


def _notes(found: Found) -> str:
    """What rows say of how they were made, where that is not as the code is now."""
    notes = {str(row["note"]): row["run"] for row in found.rows.values() if "note" in row}
    return "".join(f"\n`{run}`: {note}\n" for note, run in notes.items())


def _aims(found: Found) -> str:
    lines = []
    for layers, aim in AIMS.items():
        value = found.mean(found.by_depth(layers))
        if value is not None:
            verdict = "reached" if value >= -aim else "missed"
            lines.append(f"{layers} layers {value:+.1f} (aim -{aim}: {verdict})")
    encoder = found.points(recipe(ENCODED, 3))
    if encoder:
        verdict = "reached" if encoder.value >= -ENCODER_AIM else "missed"
        lines.append(f"{ENCODED} at 3 layers {encoder.value:+.1f} (aim -{ENCODER_AIM}: {verdict})")
    return f"In short, by the recipe that `edgebert fit` uses: {'; '.join(lines) or UNKNOWN}."


def needed(found: Found, means: Mapping[str, Mapping[int, float | None]]) -> str:
    """Question 1."""
    lost = {}
    for depth in DEPTHS:
        with_teacher = [value for m in ("logits", "hidden") if (value := means[m].get(depth)) is not None]
        without = means["none"].get(depth)
        if with_teacher and without is not None:
            lost[depth] = (without, max(with_teacher))
    told = "; ".join(f"with {k} layers {a:+.1f} without a teacher, {b:+.1f} with one" for k, (a, b) in lost.items())
    needed = [depth for depth, (without, taught) in lost.items() if taught - without >= NOTICED]
    verdict = f"Yes, with {_and(needed)} layers" if needed else "No" if lost else UNKNOWN
    return f"""## 1. Is distillation needed?

{verdict}: {told or UNKNOWN} (mean of five sets).
"none" begins with the pre-trained layers and learns the labels; "logits" also the teacher's answers, "hidden" its hidden states too; "elastic" trains all depths in one run. All keep the lowest layers.
"""  # noqa: E501


def cuts(found: Found, starts: Mapping[str, Mapping[str, Points | None]]) -> str:
    """Question 2."""
    both = {name: mean([_value(of_set[data]) for data in BOTH]) for name, of_set in starts.items()}
    known = sorted(((value, name) for name, value in both.items() if value is not None), reverse=True)
    told = "; ".join(f"{name} {value:+.1f}" for value, name in known)
    return f"""## 2. Which layers can go, and must a depth be pre-trained?

Three layers, mean of {" and ".join(BOTH)}, from the best: {told or UNKNOWN}.
"Fine-tuned" layers are the teacher's; "from scratch" is a model of three layers that was never pre-trained. All learn by `hidden`.
"""  # noqa: E501


def depth(found: Found) -> str:
    """Question 3."""
    told, slopes = [], []
    for name in (*CLASSIFIED, ENCODED):
        known = {k: points for k in DEPTHS if (points := found.points(recipe(name, k)))}
        enough = next((k for k, points in known.items() if points.high >= 0), FULL)
        if known:
            told.append(f"{name} {enough}")
        for precision in ("fp32", "int8"):
            least, most = (found.p50(name, precision, k) for k in (ROUNDED[0], FULL))
            if least is not None and most is not None:
                slopes.append(f"{name} {(most - least) / (FULL - ROUNDED[0]):.2f} ({precision})")
    cost = f" A layer more costs one text, in ms at the median: {', '.join(slopes)}." if slopes else ""
    return f"""## 3. Where does the next layer stop paying?

The fewest layers that cannot be told from the teacher (its interval reaches zero), of the depths measured: {", ".join(told)}.{cost}
How much each further layer brings differs from set to set: the table and the picture have it.
"""  # noqa: E501


def width(found: Found) -> str:
    """Question 4."""
    told = []
    for one, other in zip(SHAPES[::2], SHAPES[1::2], strict=True):
        points = [found.points(shape(*which)) for which in (one, other)]
        if all(points):
            gap = points[1].value - points[0].value
            told.append(f"{_x(other)} has {gap:+.1f} points against {_x(one)}{_longer(found, one, other)}")
    return f"""## 4. Fewer layers, or narrower ones?

At equal parameters: {"; ".join(told) or UNKNOWN}.
3 x 1536 and 6 x 384 have about as many parameters, and so have 4 x 1536 and 6 x 768. What is cut are the neurons that matter least; all begin with the pre-trained layers and learn by `hidden`, on {NARROWED}.
"""  # noqa: E501


def _x(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _longer(found: Found, one: tuple[int, int], other: tuple[int, int]) -> str:
    """How much longer one shape takes than the other."""
    ratios = []
    for precision in ("fp32", "int8"):
        times = [found.p50(NARROWED, f"{precision} {layers}x{ffn}", layers) for layers, ffn in (one, other)]
        if times[0] is not None and times[1] is not None:
            ratios.append(f"{times[1] / times[0]:.2f} times in {precision}")
    return f" and takes {', '.join(ratios)} as long" if ratios else ""


def rounded(found: Found) -> str:
    """Question 5."""
    means = {k: found.mean({name: found.rounded(lowest(name, k)) for name in CLASSIFIED}) for k in ROUNDED}
    means[FULL] = found.mean({name: found.rounded(teacher_of(name)) for name in CLASSIFIED})
    known = {k: value for k, value in means.items() if value is not None}
    told = ", ".join(f"{value:+.1f} with {layers} layers" for layers, value in known.items())
    shallow = [k for k, value in known.items() if FULL in known and known[FULL] - value >= NOTICED]
    verdict = f"Yes, with {_and(shallow)} layers" if shallow else "No" if len(known) > 1 else UNKNOWN
    return f"""## 5. Does int8 cost shallow models more?

{verdict}: int8 against fp32, mean of five sets where all five are measured, {told or UNKNOWN}.
int8 is the scheme (dynamic or static) that does best on dev, with the modules in float that `--quant-drop` asks for; students keep the lowest layers.
"""  # noqa: E501


def _and(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _value(points: Points | None) -> float | None:
    return None if points is None else points.value


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where a value is missing."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def together(found: Found) -> str:
    """What it costs to train all depths at once."""
    told = []
    for data in BOTH:
        runs = [(found.points(one_run(data), depth), found.points(lowest(data, depth))) for depth in TOGETHER]
        apart = mean([a.value - b.value if a and b else None for a, b in runs])
        told += [f"{data} {apart:+.2f}"] if apart is not None else []
    return f"""## 6. All depths from one training?

All six depths by `elastic` in one run against each distilled alone, by `hidden` and of the same lowest layers, mean of the six: {", ".join(told) or UNKNOWN} points.
What one run costs beside distilling the deepest alone is in [training_cost](results/training_cost.md).
"""  # noqa: E501


def helped(found: Found) -> str:
    """What was tried beside the recipe."""
    return """## What helped, and what did not

Runs of `hidden` with one setting changed.
"""
