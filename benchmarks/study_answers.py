"""The words of docs/study.md: for each question two lines whose numbers come from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from study_found import Found, Points, mean, value
from study_plan import (
    BOTH,
    CLASSIFIED,
    DEPTHS,
    ENCODED,
    FULL,
    LARGER,
    MANY,
    MIDDLE,
    NARROWED,
    ROUNDED,
    SEEDS,
    SHAPES,
    TOGETHER,
    Run,
    larger,
    lowest,
    many,
    plan,
    recipe,
    seeded,
    shape,
    taught_better,
    teacher_of,
)
from study_plan import together as one_run

# Points below the teacher that the mean of the classified sets, and of the encoder, should not pass.
AIMS, ENCODER_AIM = {3: 0.5, 2: 1.5, 1: 4.0}, 1.5
UNKNOWN = "not measured yet"
# Up to which ratio two latencies are called equal.
ALIKE = 1.05
# What layers that never were pre-trained are called.
SCRATCH = "from scratch"
# Points of a mean that an answer takes notice of.
NOTICED = 0.5


def head(found: Found) -> str:
    """What was run, on what, and how to read it."""
    rows = [*found.rows.values(), *found.again]
    dates = sorted({row["date"] for row in rows})
    seeds = _and([f"{len(which)} with {_layers(layers)}" for layers, which in SEEDS.items()])
    teachers = "; ".join(
        f"{name} {100 * row['fp32']:.1f} ({row['metric']}, {row['texts']} texts)"
        for name in (*CLASSIFIED, ENCODED)
        if (row := found.teacher(name))
    )
    return f"""# The study: how many layers does a BERT need?

MiniLM-L6 (6 layers, 384 wide) is fine-tuned for a task and made shallower in every way that edgebert knows; each result is compared with its 6-layer teacher on the task's test part. Every number here comes from [rows](study/rows.jsonl) and [latencies](study/latencies.json) of `make study`, which goes on where it was cut off; `python benchmarks/study_page.py` writes this page. {" to ".join(dict.fromkeys((dates[0], dates[-1])))}: {"; ".join(_machines(rows))}. Each trained the teachers that it needed, by the same command; a student is compared with its own machine's, and cells of a row may be of different ones.

Numbers are points of the task's metric (accuracy; entity F1 for wnut17; Spearman's correlation of cosines for stsb) between a student and its teacher, both in fp32 unless said, in brackets the paired 95 % interval over the texts of test. Of the recipe there are more seeds than one ({seeds}), and of a few other rows: the points and both ends of the interval are their means, ± their standard deviation where they are three or more. Everything else is of one seed. The teachers (those of the first machine): {teachers}. "Mean of five" is over the classified sets. What sets the tagger's recipe apart was [chosen on the dev part](decisions/033-taggers-keep-the-lowest-and-drop.md) of wnut17.

Rows of a table that differ by less than about a point are not told apart. The teachers are fine-tuned as BERT's authors do it, on labels alone, for 3 to 5 epochs; students begin where these end, and may pass them. Of stsb, the encoder MiniLM itself is the teacher, and there is no student without one. A dash stands for what was not run.

Layers that students keep of the teacher's 0 to 5: "first" the lowest, "last" the highest, "alternate" from all over (0, 2, 4), "symmetric" both ends (0, 1, 5), "auto" those that matter most by measurement. The aims were set before anything was measured.

{_aims(found)}
{_notes(found)}"""  # noqa: E501


def _machines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many runs were made by which machine and versions."""
    made: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        device = "" if row["device"] == "cpu" else f"{row['device']} beside "
        versions = (f"{name} {row['versions'].get(name, '')}" for name in ("torch", "transformers"))
        made.setdefault((f"{device}{row['cpu']}", *versions), set()).add(row["run"])
    return [f"{len(runs)} runs on {', '.join(which)}" for which, runs in made.items()]


def _notes(found: Found) -> str:
    """What rows say of how they were made, where that is not as the code is now."""
    notes = {str(row["note"]): row["run"] for row in found.rows.values() if "note" in row}
    return "".join(f"\n`{run}`: {note}\n" for note, run in notes.items())


def _aims(found: Found) -> str:
    lines = []
    for layers, aim in AIMS.items():
        seeds = found.by_seed(layers)
        if seeds:
            spread = f" ±{statistics.stdev(seeds):.1f}" if len(seeds) > 1 else ""
            lost = statistics.mean(seeds)
            verdict = "reached" if lost >= -aim else "missed"
            varied = found.mean({name: found.points(many(name, layers)) for name in CLASSIFIED})
            more = "" if varied is None else f", with {MANY['augment']} variants of each text {varied:+.1f}"
            lines.append(f"{_layers(layers)} {lost:+.1f}{spread} (aim -{aim}: {verdict}{more})")
    encoder = Points.of(found.seeds(recipe(ENCODED, 3)))
    if encoder:
        verdict = "reached" if encoder.value >= -ENCODER_AIM else "missed"
        lines.append(f"{ENCODED} at 3 layers {encoder} (aim -{ENCODER_AIM}: {verdict})")
    used = "the recipe that `edgebert fit` uses (`hidden`; alternate layers, the tagger's the lowest)"
    return f"In short, by {used}: {'; '.join(lines) or UNKNOWN}."


def needed(found: Found, means: Mapping[str, Mapping[int, float | None]]) -> str:
    """Question 1."""
    told, gains = [], {}
    for depth in DEPTHS:
        known = {m: value for m in ("none", "logits", "hidden") if (value := means[m].get(depth)) is not None}
        if "none" in known and len(known) > 1:
            gains[depth] = max(known.values()) - known["none"]
            told.append(f"with {_layers(depth)} {', '.join(f'{m} {value:+.1f}' for m, value in known.items())}")
    verdict = _verdict({depth: gain >= NOTICED for depth, gain in gains.items()})
    return f"""## 1. Is distillation needed?

{verdict}: {"; ".join(told) or UNKNOWN} (mean of five sets, the lowest layers).{_but_one(found)}
"none" begins with the pre-trained layers and learns the labels; "logits" also the teacher's answers, "hidden" its hidden states too; "elastic" trains all depths in one run. All keep the lowest layers here; of alternate layers, which `fit` keeps, see section 2. {ENCODED} is compared by `--lr 0.0001` here and in sections 2, 5 and 6: its recipe's steps are ten times as large, since [decision 035](decisions/035-encoders-take-larger-steps.md).
"""  # noqa: E501


def _but_one(found: Found) -> str:
    """How much of what is lost without a teacher is lost on one set."""
    of_set = {name: found.points(Run(name, "none", (MIDDLE,), "pre-trained")) for name in CLASSIFIED}
    known = {name: points.value for name, points in of_set.items() if points}
    if len(known) < len(CLASSIFIED):
        return ""
    worst = min(known, key=lambda name: known[name])
    others = statistics.mean(value for name, value in known.items() if name != worst)
    return (
        f" Of what {_layers(MIDDLE)} lose without one, most is {worst}'s {known[worst]:+.1f}; "
        f"the others have {others:+.1f} on the mean."
    )


def _verdict(noticed: Mapping[int, bool]) -> str:
    """Yes or no by depth, of those measured."""
    yes, no = ([depth for depth, found in noticed.items() if found is said] for said in (True, False))
    parts = [f"Yes with {_and(yes)}"] if yes else []
    parts += [f"{'no' if yes else 'No'} with {_and(no)}"] if no else []
    return f"{', '.join(parts)} layers" if parts else "Not measured yet"


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count != 1 else ''}"


def cuts(found: Found, starts: Mapping[str, Mapping[str, Points | None]]) -> str:
    """Question 2."""
    both = {name: mean([value(of_set[data]) for data in BOTH]) for name, of_set in starts.items()}
    known = sorted(((value, name) for name, value in both.items() if value is not None), reverse=True)
    told = "; ".join(f"{name} {value:+.1f}" for value, name in known)
    trained, scratch, verdict = [value for value, name in known if name != SCRATCH], both.get(SCRATCH), ""
    if trained and scratch is not None:
        verdict = (
            f"Most will do that were once pre-trained: {min(trained):+.1f} to {max(trained):+.1f} points; "
            f"{scratch:+.1f} with layers that never were. "
        )
    return f"""## 2. Which layers can go, and must a depth be pre-trained?

{verdict}Mean of {" and ".join(BOTH)}, {_layers(MIDDLE)} by `hidden`, from the best: {told or UNKNOWN}.
"Fine-tuned" layers are the teacher's, "pre-trained" the encoder's before it was fine-tuned.
"""


def depth(found: Found) -> str:
    """Question 3."""
    told, slopes = [], []
    for name in (*CLASSIFIED, ENCODED):
        known = {k: points for k in DEPTHS if (points := Points.of(found.seeds(recipe(name, k))))}
        enough = next((k for k, points in known.items() if points.high >= 0), None)
        told += [f"{name} {enough or f'more than {max(known)}'}"] if known else []
        slope = {way: _slope(found, name, way) for way in ("int8", "fp32")}
        if all(slope.values()):
            slopes.append(f"{name} {slope['int8']:.2f} ({slope['fp32']:.2f})")
    cost = (
        f"A layer more takes, of one text, in ms at the median in int8 (fp32): {', '.join(slopes)}." if slopes else ""
    )
    return f"""## 3. Where does the next layer stop paying?

The fewest layers whose interval reaches the teacher: {", ".join(told)}. The smaller the test part, the wider its interval: the table has how far each depth is.
{cost}
"""  # noqa: E501


def _slope(found: Found, name: str, precision: str) -> float | None:
    """Milliseconds that one layer more takes, between the fewest timed and all."""
    few, many = (found.p50(name, precision, layers) for layers in (ROUNDED[0], FULL))
    return None if few is None or many is None else (many - few) / (FULL - ROUNDED[0])


def width(found: Found) -> str:
    """Question 4."""
    told, gaps = [], []
    for one, other in zip(SHAPES[::2], SHAPES[1::2], strict=True):
        fewer, narrower = (found.points(shape(*which)) for which in (one, other))
        if fewer and narrower:
            gaps.append(narrower.value - fewer.value)
            told.append(f"{_wide(other)} have {gaps[-1]:+.1f} points against {_wide(one)}{_longer(found, one, other)}")
    undecided = " undecided" if gaps and min(gaps) < 0 < max(gaps) else ""
    return f"""## 4. Fewer layers, or narrower ones?

At equal parameters{undecided}: {"; ".join(told) or UNKNOWN}.{_as_fast(found)}
Pairs of equal parameters, hidden states 384 wide as ever. What is cut are the neurons that matter least; all begin with the lowest pre-trained layers and learn by `hidden`, on {NARROWED}, one seed.
"""  # noqa: E501


def _wide(which: tuple[int, int]) -> str:
    return f"{_layers(which[0])} with a feed-forward size of {which[1]}"


def _longer(found: Found, one: tuple[int, int], other: tuple[int, int]) -> str:
    """How much longer one shape takes than the other."""
    ratios = []
    for precision in ("fp32", "int8"):
        times = [found.p50(NARROWED, f"{precision} {layers}x{ffn}", layers) for layers, ffn in (one, other)]
        if times[0] is not None and times[1] is not None:
            ratios.append(f"{times[1] / times[0]:.2f} times in {precision}")
    return f" and take {', '.join(ratios)} as long" if ratios else ""


def _as_fast(found: Found) -> str:
    """Shapes that take equally long, beside each other."""
    timed = {which: found.p50(NARROWED, f"int8 {which[0]}x{which[1]}", which[0]) for which in SHAPES}
    told = []
    for one, other in combinations(SHAPES, 2):
        a, b, ours, theirs = timed[one], timed[other], found.points(shape(*one)), found.points(shape(*other))
        if a and b and ours and theirs and max(a, b) / min(a, b) <= ALIKE:
            told.append(f"{_wide(one)} {ours.value:+.1f} in {a:.2f} ms, {_wide(other)} {theirs.value:+.1f} in {b:.2f}")
    return f" At equal latency in int8: {'; '.join(told)}." if told else ""


def rounded(found: Found) -> str:
    """Question 5."""
    means = {k: found.mean({name: found.rounded(lowest(name, k)) for name in CLASSIFIED}) for k in ROUNDED}
    means[FULL] = found.mean({name: found.rounded(teacher_of(name)) for name in CLASSIFIED})
    known = {k: value for k, value in means.items() if value is not None}
    told = ", ".join(f"{value:+.1f} with {_layers(layers)}" for layers, value in known.items())
    whole = known.get(FULL)
    verdict = _verdict({k: whole - value >= NOTICED for k, value in known.items() if whole is not None and k != FULL})
    return f"""## 5. Does int8 cost shallow models more?

{verdict}. int8 against fp32, mean of five sets where all five are measured: {told or UNKNOWN}.
int8 is the scheme (dynamic or static) that does best on dev, with the modules in float that `--quant-drop` asks for; students keep the lowest layers.
"""  # noqa: E501


def _and(parts: Sequence[object]) -> str:
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last


def together(found: Found) -> str:
    """What it costs to train all depths at once."""
    told = []
    for data in (*CLASSIFIED, ENCODED):
        pairs = {k: (found.points(one_run(data), k), found.points(lowest(data, k))) for k in TOGETHER}
        gaps = {k: shared.value - alone.value for k, (shared, alone) in pairs.items() if shared and alone}
        told += [f"{data} {statistics.mean(gaps.values()):+.2f} (of {_and(list(gaps))} layers)"] if gaps else []
    return f"""## 6. All depths from one training?

`elastic` trains six depths in one run. Against each distilled alone, by `hidden` and of the same lowest layers, on the mean: {", ".join(told) or UNKNOWN}.
CPU time against distilling the deepest alone: {", ".join(_costs(found)) or UNKNOWN}; [training_cost](results/training_cost.md) has that of a few rows.
"""  # noqa: E501


def _costs(found: Found) -> list[str]:
    """How much longer one run takes than the deepest alone, by set."""
    told = []
    for data in BOTH:
        shared, alone = found.row(one_run(data), FULL), found.row(lowest(data, FULL))
        known = [row["cpu_seconds"] for row in (shared, alone) if row and "cpu_seconds" in row]
        told += [f"{data} {known[0] / known[1]:.2f} times"] if len(known) == 2 else []
    return told


def helped(found: Found) -> str:
    """What was tried beside the recipe."""
    runs = {name: many(name, 2) for name in (*CLASSIFIED, ENCODED)}
    pairs = {name: (Points.of(found.without(run)), found.points(run)) for name, run in runs.items()}
    told = [f"{name} {less.value:+.1f} to {more.value:+.1f}" for name, (less, more) in pairs.items() if less and more]
    faster = [f"{name} {p.value:+.1f}" for name, k in LARGER if k == 2 and (p := found.points(larger(name, k)))]
    return f"""## What helped, and what did not

Many variants of the texts, where few layers are kept: 2 layers go from {", ".join(told) or UNKNOWN}, by `{many(ENCODED, 2).options}`; with `--lr 0.001` {", ".join(faster) or UNKNOWN}.
`--augment` N: the teacher is asked about N variants of every text too (words hidden or exchanged, parts, new pairs), so that an epoch has 1 + N times the texts. `--augment 4 --epochs 1` takes as many steps as the recipe, `--augment 2` as many as 15 epochs.{_minutes(found)} "Without" is the same training without these options, and of the same layers. Three things stay in both: `--method logits`, a tagger's `--dropout 0.0` beside another option, an encoder's `--lr 0.0001` beside another option. It is the mean of the seeds trained on the same machine; where there are none, of all seeds. "dev" is what they bring on dev, by which such things are chosen, to the same seed.
{_again(found)}"""  # noqa: E501


def _again(found: Found) -> str:
    """What another machine makes of the same trainings."""
    told = []
    for name in CLASSIFIED:
        for layers in DEPTHS:
            names = {seeded(name, layers, seed).name for seed in SEEDS.get(layers, (0,))}
            again = {row["run"]: row for row in found.again if row["run"] in names}
            if again:
                first = [row for (run, _), row in found.rows.items() if run in again]
                values = [f"{points.value:+.1f}" for rows in (first, again.values()) if (points := Points.of([*rows]))]
                seeds = f"{len(again)} seed{'s' if len(again) > 1 else ''}"
                told.append(f"{name} with {_layers(layers)} {' and '.join(values)} ({seeds})")
    return f"""
The same trainings again, asked of `study_run.py` by name on another machine, of a teacher trained there: {"; ".join(told) or UNKNOWN}. Rows that differ by no more than such a pair are not told apart.
"""  # noqa: E501


def better_teachers(found: Found) -> str:
    """What a better teacher brings."""
    told = []
    for name in CLASSIFIED:
        own, without, dev = found.effect(taught_better(name))
        if own and without and dev is not None:
            told.append(f"{name} {without.value:+.1f} to {own.value:+.1f} (dev {dev:+.1f})")
    return f"""A better teacher: the fine-tuned teacher is distilled once more, by `hidden` into as many layers, and that model teaches (born again: [Furlanello et al. 2018](https://arxiv.org/abs/1805.04770)). One seed of it, beside what the same machine trained of the fine-tuned teacher, of other seeds where it did not train this one, with {_layers(MIDDLE)}: {", ".join(told) or UNKNOWN}.
"""  # noqa: E501


def _minutes(found: Found) -> str:
    """How long trainings with many variants took."""
    size = ("train_batch_size", MANY["train_batch_size"])
    rows = [row for run in plan() if size in run.settings and (row := found.row(run)) and row["device"] != "cpu"]
    if not rows:
        return ""
    least, most = (which(row["cpu_seconds"] for row in rows) / 60 for which in (min, max))
    devices = _and(sorted({row["device"] for row in rows}))
    return f" In batches of {size[1]} each took {least:.1f} to {most:.1f} minutes of one core beside {devices}."
