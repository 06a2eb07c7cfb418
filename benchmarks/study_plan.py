"""The study's trainings, in the order in which they are run: what `study.py` runs and `study_page.py` tells of.

Each is named by what tells it from the others; a row of its results has the same name. Questions share trainings: the
student of three layers that is distilled from hidden states is in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebert.shaping import depth

CLASSIFIED = ("sst2_sent", "banking77", "clinc150", "qnli_small", "wnut17")
ENCODED, TAGGED = "stsb", "wnut17"
# The rate by which methods, cuts and settings of the encoder were compared; its recipe's is larger since.
SLOWLY = ("lr", 1e-4)
# Few classes and many: what is asked of these first.
BOTH = ("sst2_sent", "banking77")
# Of so few classes that the recipe's steps are smaller than those of many.
FEW = ("sst2_sent", "qnli_small")
SETS = (*CLASSIFIED, ENCODED)
FULL, DEPTHS, MIDDLE = 6, (1, 2, 3, 4, 5), 3
# Depths that are trained in one run.
TOGETHER = (*DEPTHS, FULL)
# Seeds of the recipe, by depth.
SEEDS = {3: (0, 1, 2, 3), 2: (0, 1, 2), 1: (0, 1, 2)}
# Depths whose cost in int8 is measured, and which are timed; and the teacher's.
ROUNDED = (1, 2, 3)
CUTS = ("first", "last", "alternate", "symmetric", "auto")
# The set on which width is weighed against depth, and the shapes: layers and feed-forward size. The first two have as
# many parameters, and so have the last two.
NARROWED = "sst2_sent"
SHAPES = ((3, 1536), (6, 384), (4, 1536), (6, 768))
FFN = 1536
# What a student is trained for unless told.
EPOCHS = 5
# As many variants as TinyBERT's (Jiao et al. 2020, section 3.3), in batches of a GPU's size.
MANY = {"augment": 20, "train_batch_size": 256, "lr": 3e-4}
# Where they were tried by larger steps, and for how many epochs.
LARGER = {
    ("qnli_small", 2): 5, ("sst2_sent", 2): 5, (TAGGED, 2): 5, (ENCODED, 2): 3,
    (TAGGED, 1): 5, (ENCODED, 1): 3, ("banking77", 1): 4,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training of a student, or of several depths together, or of a set's teacher (method "none", all layers).

    ``start`` is what its layers are before it: the "teacher"'s, the "pre-trained" ones or "scratch".
    ``settings`` are what differs from the recipe of `edgebert distill`, as name and value. ``better`` is whether it
    is distilled from the set's better teacher rather than from the fine-tuned one.
    """

    data: str
    method: str
    layers: tuple[int, ...]
    start: str = "teacher"
    keep: str = "first"
    ffn: int = FFN
    seed: int = 0
    settings: tuple[tuple[str, float], ...] = ()
    better: bool = False

    @property
    def name(self) -> str:
        """What tells it from every other run, and is a file's name too."""
        parts = [self.data, self.method, "l" + ".".join(map(str, self.layers)), self.start]
        parts += [self.keep] if self.keep != "first" else []
        parts += [f"ffn{self.ffn}"] if self.ffn != FFN else []
        parts += ["better"] if self.better else []
        parts += [f"seed{self.seed}"] if self.seed else []
        parts += [f"{name}{value:g}" for name, value in self.settings]
        return "-".join(parts)

    @property
    def options(self) -> str:
        """What `edgebert distill` is asked for beside depth, layers kept and start."""
        chosen = {**({"method": self.method} if self.method != "hidden" else {}), **dict(self.settings)}
        if chosen.get("epochs") == EPOCHS:
            del chosen["epochs"]
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in chosen.items())

    @property
    def without(self) -> Run:
        """What tells what its settings bring: the run without them, but with a dropout or a rate that go with them.

        Without settings of its own, what tells what its teacher brings, or its method.
        """
        if self.better:
            return replace(self, better=False)
        own = tuple(setting for setting in self.settings if setting != SLOWLY)
        dropout = tuple(setting for setting in own if setting[0] == "dropout")
        if own:
            rate = (SLOWLY,) if SLOWLY in self.settings else ()
            return replace(self, settings=(*(dropout if dropout != own else ()), *rate))
        if self.method != "hidden":
            return replace(self, method="hidden")
        return replace(self, settings=())

    @property
    def is_teacher(self) -> bool:
        """Whether it is what the others of its set are compared with."""
        return self.method == "none" and self.layers == (FULL,)

    @property
    def needs(self) -> Run | None:
        """The run whose checkpoint has to be there before it; None for a set's own teacher."""
        if self.is_teacher:
            return None
        return better_teacher(self.data) if self.better else teacher_of(self.data)


def teacher_of(data: str) -> Run:
    """The training of a set's teacher; of the sentence encoder nothing is trained."""
    return Run(data, "none", (FULL,), "pre-trained")


def better_teacher(data: str) -> Run:
    """A set's teacher distilled once more, into as many layers (born again: Furlanello et al. 2018)."""
    return lowest(data, FULL)


def kept_in(run: Run, folder: Path) -> Path | None:
    """Where the checkpoint of a run is kept that others are distilled from; None of those that need not be.

    The encoder's teacher is as it came.
    """
    if run.is_teacher and run.data != ENCODED:
        return folder / "teachers" / run.data
    return folder / "teachers" / f"{run.data}-better" if run == better_teacher(run.data) else None


def plan() -> list[Run]:
    """All runs, each once; those that most questions ask for come first."""
    ordered = [teacher_of(data) for data in SETS]
    ordered += [lowest(data, layers) for layers in (3, 1, 2) for data in SETS]
    ordered += [*_kept(), *_methods(3, SETS), *(together(data) for data in BOTH)]
    ordered += [run for data in BOTH for run in _cuts(data)]
    ordered += [*tried(), *shaped()]
    ordered += [run for data in CLASSIFIED for run in (better_teacher(data), taught_better(data))]
    ordered += [recipe(data, layers) for layers in DEPTHS for data in SETS]
    ordered += [*_methods(1, SETS), *(together(data) for data in SETS)]
    ordered += [lowest(data, layers) for layers in TOGETHER for data in BOTH]
    ordered += [run for sets in (BOTH, SETS) for layers in (2, 5, 4) for run in _methods(layers, sets)]
    ordered += [lowest(data, layers) for layers in (4, 5) for data in SETS]
    ordered += [seeded(data, layers, seed) for layers, seeds in SEEDS.items() for seed in seeds for data in CLASSIFIED]
    return list(dict.fromkeys(ordered))


def tried() -> list[Run]:
    """What was tried beside the recipe: trainings with settings of their own."""
    return list(dict.fromkeys([*_settings(), *_rates(), *_many_variants()]))


def taught_better(data: str) -> Run:
    """A student of three layers, of a better teacher."""
    return replace(recipe(data, MIDDLE), better=True)


def _rates() -> Iterator[Run]:
    """The recipe by other steps than its own."""
    yield from (slowly(recipe(ENCODED, layers)) for layers in DEPTHS)
    yield from (replace(recipe(ENCODED, MIDDLE), settings=(("lr", lr),)) for lr in (3e-4, 3e-3))
    for data in FEW:
        larger = (("lr", 3e-4),)
        yield from (replace(seeded(data, MIDDLE, seed), settings=larger) for seed in SEEDS[MIDDLE])
        yield from (replace(recipe(data, layers), settings=larger) for layers in (2, 1))
    yield from (replace(recipe(data, MIDDLE), settings=(("lr", 1e-3),)) for data in ("banking77", "clinc150"))


def slowly(run: Run) -> Run:
    """The same by the steps by which trainings of its set are compared: those of the encoder are small."""
    return replace(run, settings=(*run.settings, SLOWLY)) if run.data == ENCODED else run


def compared(data: str, method: str, layers: int, start: str = "teacher", keep: str = "first") -> Run:
    """A training by which methods or cuts are compared: of the encoder by smaller steps than its recipe takes."""
    return slowly(Run(data, method, (layers,), start, keep))


def recipe(data: str, layers: int) -> Run:
    """A student as `edgebert fit` makes it."""
    keep = depth.students_keep(None, "tags" if data == TAGGED else "label")
    same = depth.STRATEGIES[keep](layers, FULL) == depth.first(layers, FULL)
    return Run(data, "hidden", (layers,), keep=depth.KEEP_FIRST if same else keep)


def lowest(data: str, layers: int) -> Run:
    """The same of the teacher's lowest layers: methods and settings are compared so."""
    return compared(data, "hidden", layers)


def seeded(data: str, layers: int, seed: int) -> Run:
    """A student as `edgebert fit` makes it, of another seed."""
    return replace(recipe(data, layers), seed=seed)


def rounded_runs() -> list[Run]:
    """The runs whose result is also judged in int8, and timed."""
    students = [lowest(data, layers) for data in SETS for layers in ROUNDED]
    return [*(teacher_of(data) for data in SETS), *students, *shaped()]


def _methods(layers: int, sets: Sequence[str]) -> Iterator[Run]:
    """Whether distillation is needed: without a teacher, and with its answers alone."""
    for data in sets:
        if data != ENCODED:
            yield Run(data, "none", (layers,), "pre-trained")
        yield compared(data, "logits", layers)


def _kept() -> Iterator[Run]:
    """Layers from all over the teacher instead of its lowest, at the depths that lose most, and by which method."""
    for method, layers, keep in (
        ("hidden", 3, "alternate"), ("hidden", 2, "alternate"), ("logits", 3, "alternate"),
    ):  # fmt: skip
        yield from (compared(data, method, layers, keep=keep) for data in SETS)


def together(data: str) -> Run:
    """All depths from one training."""
    return replace(compared(data, "elastic", FULL), layers=TOGETHER)


def _cuts(data: str) -> Iterator[Run]:
    """Which layers can go, whether fine-tuned layers are a better start, and whether any layers are needed."""
    yield Run(data, "hidden", (MIDDLE,), "pre-trained")
    yield from (Run(data, "hidden", (MIDDLE,), keep=keep) for keep in CUTS[1:])
    yield Run(data, "hidden", (MIDDLE,), "scratch")


def shaped() -> list[Run]:
    """Students of equal size, of fewer layers or of narrower ones."""
    return [shape(layers, ffn) for layers, ffn in SHAPES]


def shape(layers: int, ffn: int) -> Run:
    """A student of so many layers with so wide feed-forward layers."""
    return Run(NARROWED, "hidden", (layers,), "pre-trained", ffn=ffn)


def _settings() -> Iterator[Run]:
    """One setting of the recipe changed at a time: why the recipe is as it is, and what its aims were missed by.

    "augment": so many variants of each text to ask the teacher about, whose steps come on top.
    """
    changed = {
        ("dropout", 0.1): [("sst2_sent", 3), ("sst2_sent", 1), ("banking77", 3), ("banking77", 1)],
        ("dropout", 0.0): [(TAGGED, 3), (TAGGED, 2), (TAGGED, 1)],
        ("lr", 1e-4): [("banking77", 1)],
        ("epochs", 15): [("qnli_small", 2)],
    }
    for setting, students in changed.items():
        yield from (Run(data, "hidden", (layers,), settings=(setting,)) for data, layers in students)
    yield from _undropped()
    # What three times the steps bring without variants.
    yield replace(recipe("qnli_small", 2), settings=(("epochs", 15),))
    yield from (replace(recipe(data, 2), settings=(("augment", 2),)) for data in CLASSIFIED if data != TAGGED)
    # Where three layers lose most.
    yield from (replace(recipe(data, MIDDLE), settings=(("augment", 2),)) for data in ("qnli_small", TAGGED))
    encoder = recipe(ENCODED, 3)
    yield slowly(replace(encoder, settings=(("augment", 2),)))
    yield replace(encoder, method="relations")
    yield slowly(replace(encoder, method="relations"))
    yield replace(recipe("qnli_small", 2), settings=(("augment", 8), ("epochs", 2)))


def many(data: str, layers: int) -> Run:
    """The recipe with far more variants."""
    return replace(recipe(data, layers), settings=tuple(MANY.items()))


def larger(data: str, layers: int) -> Run:
    """The same by larger steps."""
    return replace(recipe(data, layers), settings=_many_for(LARGER[data, layers], 1e-3))


def _many_for(epochs: int, lr: float) -> tuple[tuple[str, float], ...]:
    return tuple({"augment": MANY["augment"], "epochs": epochs, **MANY, "lr": lr}.items())


def _many_variants() -> Iterator[Run]:
    """Far more variants, more yet of pairs, for longer and by larger steps; and few instead of the same text again."""
    pairs, tags = recipe("qnli_small", 2), recipe(TAGGED, 2)
    yield replace(pairs, settings=tuple({**MANY, "augment": 80}.items()))
    yield replace(pairs, settings=(("epochs", 20), *MANY.items()))
    yield from (many(data, 2) for data in SETS)
    yield from (many(data, 1) for data in (*BOTH, TAGGED))
    # Of the other layers.
    yield replace(pairs, keep="first", settings=_many_for(EPOCHS, MANY["lr"]))
    yield replace(tags, keep="alternate", settings=_many_for(EPOCHS, MANY["lr"]))
    yield replace(tags, settings=(("augment", 8), ("epochs", 5), ("train_batch_size", 64), ("lr", 3e-4)))
    yield from (larger(data, layers) for data, layers in LARGER)
    for layers in (3, 2):
        yield from (fresh(data, layers) for data in SETS if data != "clinc150")
    # As many steps over the texts alone, by the same rate.
    yield replace(pairs, settings=(("lr", 3e-4), ("epochs", 15)))


def fresh(data: str, layers: int) -> Run:
    """The recipe with variants instead of the same texts again: as many steps."""
    return replace(recipe(data, layers), settings=(("augment", EPOCHS - 1), ("epochs", 1), ("lr", 3e-4)))


def _undropped() -> Iterator[Run]:
    """What was tried of taggers when their students dropped nothing."""
    nothing = ("dropout", 0.0)
    for method, layers, keep in (("hidden", 3, "alternate"), ("hidden", 2, "alternate"), ("logits", 3, "alternate")):
        yield Run(TAGGED, method, (layers,), keep=keep, settings=(nothing,))
    yield Run(TAGGED, "logits", (3,), settings=(nothing,))
    yield Run(TAGGED, "hidden", (3,), settings=(("epochs", 15), nothing))
    yield from (Run(TAGGED, "hidden", (n,), keep="alternate", settings=(("augment", 2), nothing)) for n in (3, 2))
