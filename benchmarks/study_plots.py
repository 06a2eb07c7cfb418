"""The study's pictures, drawn by matplotlib as SVG files: lines over depth, bars by set, metric against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Told apart by people who see no red or no green too (Okabe and Ito 2008), and by their marks in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
SIZE = (6.8, 3.8)
# A fixed salt, or ids change with every run; text as text; a page of its own colour, for readers in the dark.
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "edgebert", "font.size": 11.0, "font.family": "sans-serif"}


@dataclass(frozen=True)
class Series:
    """One line or group of bars: x, y and, where known, the interval [low, high] of each y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()
    labels: Sequence[str] = ()


def lines(place: Path, series: Sequence[Series], x: str, y: str, *, levels: Mapping[str, float] | None = None) -> None:
    """Metric over depth or latency, a line for each series; ``levels`` are named lines across."""
    with style.context(SETTINGS):
        figure, axes = _empty(x, y)
        for number, one in enumerate(series):
            colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
            axes.plot(one.x, one.y, mark + "-", color=colour, label=one.name, linewidth=1.6, markersize=6)
            for place_x, (low, high) in zip(one.x, one.intervals, strict=False):
                axes.plot([place_x, place_x], [low, high], color=colour, linewidth=1.0, alpha=0.6)
            for place_x, place_y, label in zip(one.x, one.y, one.labels, strict=False):
                axes.annotate(label, (place_x, place_y), xytext=(0, 7), textcoords="offset points", ha="center", size=9)
        if all(float(value).is_integer() for one in series for value in one.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, level in (levels or {}).items():
            axes.axhline(level, color="#777777", linewidth=1.0, linestyle=(0, (5, 3)), label=name)
        _write(place, figure, axes)


def bars(place: Path, groups: Sequence[str], series: Sequence[Series], y: str) -> None:
    """A bar for each series in each group; ``x`` of a series are the groups' numbers."""
    with style.context(SETTINGS):
        figure, axes = _empty("", y)
        width = 0.8 / max(1, len(series))
        for number, one in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * width
            places = [value + shift for value in one.x]
            axes.bar(places, one.y, width * 0.92, color=COLOURS[number % len(COLOURS)], label=one.name)
            for place_x, (low, high) in zip(places, one.intervals, strict=False):
                axes.plot([place_x, place_x], [low, high], color="#333333", linewidth=0.9)
        axes.set_xticks(range(len(groups)), groups)
        axes.axhline(0, color="#333333", linewidth=0.8)
        _write(place, figure, axes)


def _empty(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _write(place: Path, figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=10)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, format="svg", metadata={"Date": None})
