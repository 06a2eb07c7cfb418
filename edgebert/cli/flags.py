"""Flags that several commands share, each spelled once, and the types that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgebert.profiles import Profile
from edgebert.tolerances import QUANT_DROP

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_OUT = "edgebert-out"
# Beyond, counts mean nothing, and some libraries hold them in 32 bits.
_MOST = 10_000_000


def count(least: int = 1) -> click.IntRange:
    """A whole number of something."""
    return click.IntRange(least, _MOST)


class _Numbers(click.ParamType[Any]):
    """Comma-separated whole numbers."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a whole number or a comma-separated list of them", param, ctx)


class _Names(click.ParamType[Any]):
    """Comma-separated names."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(word.strip() for word in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} is not a name or a comma-separated list of them", param, ctx)
        return names


class _Columns(click.ParamType[Any]):
    """``text=sentence,label=y``."""

    name = "FIELD=COLUMN,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pairs = [word.partition("=") for word in str(value).split(",")]
        if not all(field and equals and column for field, equals, column in pairs):
            self.fail(f"{value!r} is not of the form text=sentence,label=y", param, ctx)
        return {field.strip(): column.strip() for field, _, column in pairs}


class _Sizes(click.ParamType[Any]):
    """``1x128``."""

    name = "BxS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        words = str(value).split("x")
        if len(words) != 2 or not all(word.isascii() and word.isdigit() and len(word) < 8 for word in words):
            self.fail(f"{value!r} is not of the form 1x128", param, ctx)
        return int(words[0]), int(words[1])


class _Profile(click.ParamType[Any]):
    """``1x32,8x128,32x384``."""

    name = "BxS,BxS,BxS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Profile:
        if isinstance(value, Profile):
            return value
        words = str(value).split(",")
        if len(words) != 3:
            self.fail(f"{value!r} is not of the form 1x32,8x128,32x384", param, ctx)
        return Profile.of([SIZES.convert(word, param, ctx) for word in words])


NUMBERS, NAMES, COLUMNS, SIZES, PROFILE = _Numbers(), _Names(), _Columns(), _Sizes(), _Profile()


def model(function: F) -> F:
    """``--model``; where the default applies, the command names it in its output."""
    return click.option("--model", default="minilm", help="Checkpoint folder, hub id, or minilm.")(function)


def data(*, required: bool = False) -> Callable[[F], F]:
    """``--data`` and ``--columns``."""

    def decorate(function: F) -> F:
        return click.option(
            "--data",
            required=required,
            help="Folder with train/dev/test files, or one .jsonl[.gz], .csv, .tsv, .parquet, .txt.",
        )(columns(function))

    return decorate


def columns(function: F) -> F:
    """``--columns``, for data of any flag."""
    return click.option(
        "--columns",
        type=COLUMNS,
        default={},
        show_default=False,
        help="Map fields to your column names: text=sentence,label=y.",
    )(function)


def prune(function: F) -> F:
    """``--prune-vocab``: the data whose tokens alone stay."""
    return click.option(
        "--prune-vocab",
        default=None,
        help="Keep only the tokens that this data's train part needs, single characters and special tokens.",
    )(function)


def out(text: str, *, required: bool = False) -> Callable[[F], F]:
    """``-o/--out``."""
    # A default of None would count as given.
    fallback: dict[str, Any] = {"required": True} if required else {"default": DEFAULT_OUT}
    return click.option("-o", "--out", type=click.Path(path_type=Path), help=text, **fallback)


def layers(text: str) -> Callable[[F], F]:
    """``--layers``: one number or a list."""
    return click.option("--layers", type=NUMBERS, default=None, help=text)


def keep(default: str | None) -> Callable[[F], F]:
    """``--keep``; without a default it is what students keep."""
    text = "Which layers stay: first, last, alternate, symmetric, auto (by --data), or a list such as 0,2,4"
    told = default or "alternate; first for taggers and for --method elastic"
    return click.option("--keep", default=default, help=f"{text} [default: {told}].")


def targets(default: str | None) -> Callable[[F], F]:
    """``--target``: one or a list."""
    return click.option(
        "--target",
        "target",
        type=NAMES,
        default=default,
        help="Where it runs: cpu, openvino, torch, cuda, ort-trt, trt, trt-rtx; one or a list.",
    )


def precisions(default: str) -> Callable[[F], F]:
    """``--precision``: one or a list."""
    text = (
        "fp32, fp16, bf16, int8 (the scheme that keeps the task best: int8-dynamic, int8-static), fp8; one or a list."
    )
    return click.option("--precision", type=NAMES, default=default, help=text)


def engines(function: F) -> F:
    """``--compute-capability``, ``--profile`` and ``--cache-dir``: of targets that run engines."""
    for option in (
        click.option(
            "--cache-dir",
            type=click.Path(path_type=Path),
            default=None,
            help="Private folder (0700) for the kernel timings of target trt [default: none kept].",
        ),
        click.option(
            "--profile",
            type=PROFILE,
            default=None,
            help="Texts x tokens an engine takes: least, likeliest, most, as in 1x32,8x128,32x384 "
            "[default: 1x1 to 32 texts of all lengths, likeliest 1 x the data's median].",
        ),
        click.option(
            "--compute-capability",
            type=NAMES,
            default=(),
            show_default=False,
            help="GPUs that trt-rtx builds engines for, such as 8.9,12.0 [default: the one here].",
        ),
    ):
        function = option(function)
    return function


def quant_drop(function: F) -> F:
    """``--quant-drop``: what int8 or fp8 may cost before some of it stays in float."""
    return click.option(
        "--quant-drop",
        type=click.FloatRange(0, 100),
        default=QUANT_DROP,
        help="Points int8 or fp8 may lose on dev, beyond chance, before the fewest modules that mend it stay in float.",
    )(function)


def budget(function: F) -> F:
    """``--budget`` and ``--max-drop``: what a pick must keep to."""
    function = click.option(
        "--max-drop", type=float, default=None, help="Points the pick may lose against the full-depth fp32 teacher."
    )(function)
    return click.option(
        "--budget",
        default=None,
        help="What the pick must keep to, one or a list: p95=10ms or p50=4ms (one text per call, text to answer), "
        "size=25MB, memory=200MB.",
    )(function)


def benches(text: str) -> Callable[[F], F]:
    """``--bench``: files of measurements, one or a list."""
    return click.option("--bench", type=NAMES, default=(), show_default=False, help=text)


def bench(function: F) -> F:
    """What is timed, and how often: threads, batch size, length, rounds."""
    function = click.option(
        "--threads",
        type=count(1),
        default=None,
        help="Threads a call may use [default: all allowed].",
    )(function)
    function = click.option(
        "--seq-len",
        type=count(3),
        default=None,
        help="Tokens per text [default: the data's own lengths].",
    )(function)
    function = click.option(
        "--rounds",
        type=count(1),
        default=20,
        help="Rounds of measuring, two to a process; fewer are quicker and less sure.",
    )(function)
    return click.option("--batch-size", type=count(1), default=1, help="Texts per call.")(function)


def training(function: F) -> F:
    """The training settings that a user may change; unset ones keep their recipe."""
    for option in reversed(
        (
            click.option(
                "--method",
                default=None,
                help="none, logits, hidden (logits and hidden states), relations (of tokens; any width), or elastic "
                "(all depths in one run) [default: hidden].",
            ),
            click.option(
                "--epochs",
                type=click.FloatRange(0, min_open=True),
                default=None,
                help="Passes over train [default: 5; the teacher 3, of many classes 5].",
            ),
            click.option(
                "--max-steps",
                type=count(1),
                default=None,
                help="At most this many steps a training run.",
            ),
            click.option(
                "--train-batch-size",
                type=count(1),
                default=None,
                help="Texts per step [default: 32].",
            ),
            click.option(
                "--lr",
                type=click.FloatRange(0, min_open=True),
                default=None,
                help="Peak learning rate [default: 1e-4, of many classes 3e-4, of sentence encoders 1e-3; "
                "the teacher 5e-5 and 2e-4].",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(0, min_open=True),
                default=None,
                help="Softening of the teacher's answers [default: 2].",
            ),
            click.option(
                "--alpha",
                type=click.FloatRange(0, 1),
                default=None,
                help="Weight of the given labels beside the teacher's [default: 0.3].",
            ),
            click.option(
                "--dropout",
                type=click.FloatRange(0, 1, max_open=True),
                default=None,
                help="Share of values that training drops "
                "[default: 0; of taggers, and without a teacher, the checkpoint's].",
            ),
            click.option(
                "--augment",
                type=count(0),
                default=None,
                help="Variants of each text that students ask their teacher about too, in every epoch [default: 0].",
            ),
            click.option(
                "--max-length",
                type=count(3),
                default=None,
                help="Tokens per text in training [default: 128].",
            ),
        )
    ):
        function = option(function)
    return function


def seed(function: F) -> F:
    """``--seed``."""
    numbers = click.IntRange(0, 2**32 - 1)
    return click.option("--seed", type=numbers, default=0, help="Seed of everything drawn by chance.")(function)


def force(function: F) -> F:
    """``--force``."""
    return click.option("--force", is_flag=True, help="Overwrite what exists.")(function)
