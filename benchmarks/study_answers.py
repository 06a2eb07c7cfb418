"""The words of docs/study.md: for each question two lines whose numbers come from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from study_found import Found, Points
from study_plan import BOTH, CLASSIFIED, DEPTHS, ENCODED, FULL, ROUNDED, TOGETHER, lowest, recipe
from study_plan import together as one_run

# Points below the teacher that the mean of the classified sets, and of the encoder, should not pass.
AIMS, ENCODER_AIM = {3: 0.5, 2: 1.5, 1: 4.0}, 1.5
UNKNOWN = "not measured yet"


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
    told = [
        f"{method} {', '.join(f'{value:+.1f} at {depth}' for depth, value in of_depth.items() if value is not None)}"
        for method, of_depth in means.items()
        if any(value is not None for value in of_depth.values())
    ]
    return f"""## 1. Is distillation needed?

Points by layers, mean of five sets where all five are measured: {"; ".join(told) or UNKNOWN}.
"none" begins with the pre-trained layers and learns the labels; "logits" also the teacher's answers, "hidden" its hidden states too; "elastic" trains all depths in one run. All keep the lowest layers.
"""  # noqa: E501


def cuts(found: Found, starts: Mapping[str, Mapping[str, Points | None]]) -> str:
    """Question 2."""
    means = {name: found.mean(of_set) for name, of_set in starts.items()}
    told = "; ".join(f"{name} {value:+.1f}" for name, value in means.items() if value is not None)
    return f"""## 2. Which layers can go, and must a depth be pre-trained?

Three layers, mean of five sets where all five are measured: {told or UNKNOWN}.
"Fine-tuned" layers are the teacher's; "from scratch" is a model of three layers that was never pre-trained. All learn by `hidden`.
"""  # noqa: E501


def depth(found: Found) -> str:
    """Question 3."""
    told = []
    for name in (*CLASSIFIED, ENCODED):
        known = {k: points for k in DEPTHS if (points := found.points(recipe(name, k)))}
        enough = next((k for k, points in known.items() if points.high >= 0), FULL)
        if known:
            told.append(f"{name} {enough}")
    return f"""## 3. Where does the next layer stop paying?

The fewest layers that cannot be told from the teacher (its interval reaches zero), of the depths measured: {", ".join(told)}.
How much each further layer brings differs from set to set: the table and the picture have it.
"""  # noqa: E501


def width(found: Found) -> str:
    """Question 4."""
    return """## 4. Fewer layers, or narrower ones?

3 x 1536 and 6 x 384 have about as many parameters, and so have 4 x 1536 and 6 x 768. What is cut are the neurons that matter least; all begin with the pre-trained layers and learn by `hidden`, on sst2_sent.
"""  # noqa: E501


def rounded(found: Found) -> str:
    """Question 5."""
    means = {k: found.mean({name: found.rounded(lowest(name, k)) for name in CLASSIFIED}) for k in ROUNDED}
    told = ", ".join(f"{layers} layers {value:+.1f}" for layers, value in means.items() if value is not None)
    return f"""## 5. Does int8 cost shallow models more?

int8 against fp32, mean of five sets where all five are measured: {told or UNKNOWN}.
int8 is the scheme (dynamic or static) that does best on dev, with the modules in float that `--quant-drop` asks for; students keep the lowest layers.
"""  # noqa: E501


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
