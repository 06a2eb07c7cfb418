"""The report's three figures, drawn by matplotlib as SVG that is part of the page.

Text stays text and colours become the page's CSS variables, so a figure follows the reader's light or dark
mode. Each is drawn twice, for wide screens and for phones, since a scaled drawing scales its letters too.
Nothing here puts findings into words: report.py does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from edgebert.choosing.candidate import Candidate
from edgebert.judging.latency import Latency

# Pixels of a wide screen and of a phone: the figures are shown at about their own size on both.
_WIDE = (680, 380)
_NARROW = (340, 340)
_TEXT = 12.0

# Colours that stand for the page's CSS variables until the drawing is done.
_INK, _MUTED, _RULE, _PAPER = "#010203", "#010204", "#010205", "#010206"
_PICK, _ALARM = "#010207", "#010208"
_SERIES = tuple(f"#0103{number:02x}" for number in range(1, 7))
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _RULE: "rule",
    _PAPER: "paper",
    _PICK: "pick",
    _ALARM: "alarm",
} | {colour: f"series-{number}" for number, colour in enumerate(_SERIES, 1)}
_MARKERS = ("o", "s", "^", "D", "v", "P")

# What matplotlib writes and the page does without: the page has its own fonts, widths and line joins.
_NOISE = (
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL),
    re.compile(r' xmlns(:xlink)?="[^"]*"| version="[^"]*"'),
    re.compile(r' (width|height)="[\d.]+pt"'),
    re.compile(r" font-family: [^;\"]*;"),
    re.compile(r' transform="rotate\(-0 [^)]*\)"'),
)

# A fixed salt, or the ids of clip paths change with every run; text as text; "$" is a dollar.
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgebert",
    "text.parse_math": False,
    "font.size": _TEXT,
}

# A candidate, its latency in ms at the scene's percentile, its test metric as a fraction.
Point = tuple[Candidate, float, float]


@dataclass(frozen=True)
class Scene:
    """What the figures show. ``percentile`` is p50 or p95; ``budget_ms`` None where latency is not limited.

    ``lines`` are fits of p50 over depth, each {"target", "precision", "a", "b", "worst"} in ms.
    """

    candidates: Sequence[Candidate]
    pick: Candidate | None
    percentile: str
    budget_ms: float | None
    metric_label: str
    lines: Sequence[Mapping[str, Any]]

    def series(self) -> list[tuple[str, str]]:
        """The (precision, target) pairs in the order of their colours."""
        return sorted({(c.precision, c.target) for c in self.candidates})

    def is_pick(self, candidate: Candidate) -> bool:
        """Whether this is the one that was picked."""
        return self.pick is not None and candidate.key == self.pick.key

    def series_name(self, pair: tuple[str, str]) -> str:
        """A pair as people call it: the target only where there are several."""
        several = len({target for _, target in self.series()}) > 1
        return f"{pair[0]} on {pair[1]}" if several else pair[0]


@dataclass(frozen=True)
class Drawing:
    """One figure as two SVG elements."""

    wide: str
    narrow: str


def draw(scene: Scene) -> dict[str, Drawing]:
    """The figures by name, "quality", "depth" and "sizes"; those without a single point are left out."""
    return {
        name: Drawing(_svg(scene, kind, _WIDE, f"{name}-wide"), _svg(scene, kind, _NARROW, f"{name}-narrow"))
        for name, kind in _KINDS.items()
        if kind.has_points(scene)
    }


def spread(latency: Latency | None, percentile: str) -> tuple[float, float, float] | None:
    """A percentile with its interval in ms, (value, low, high), or None where it was not measured."""
    if latency is None:
        return None
    p50 = (latency.p50, latency.p50_low, latency.p50_high)
    value, low, high = p50 if percentile == "p50" else (latency.p95, latency.p95_low, latency.p95_high)
    if value is None or low is None or high is None:
        return None
    return value, low, high


def comparable(scene: Scene) -> list[Point]:
    """The trained candidates with latency and test metric."""
    found = []
    for candidate in scene.candidates:
        latency = spread(candidate.latency, scene.percentile)
        if candidate.trained and latency and candidate.test:
            found.append((candidate, latency[0], candidate.test.value))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front: the points that no other beats in both latency and metric, fastest first."""
    best = float("-inf")
    kept = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if point[2] > best:
            best = point[2]
            kept.append(point)
    return kept


def _quality(scene: Scene, axes: Axes) -> list[Line2D]:
    """Metric against latency; the front is a staircase, since between two candidates there is none."""
    points = comparable(scene)
    best = front(points)
    right = max([x for _, x, _ in points] + [scene.budget_ms or 0.0]) * 1.12
    stairs = [*((x, 100 * y) for _, x, y in best), (right, 100 * best[-1][2])]
    axes.step(*zip(*stairs, strict=True), where="post", color=_MUTED, linewidth=1.2, zorder=1)
    axes.set_xlim(0, right)
    for candidate, x, y in points:
        _quality_point(scene, axes, candidate, (x, 100 * y), on_front=(candidate, x, y) in best)
    axes.margins(y=0.12)
    if scene.budget_ms is not None:
        axes.axvline(scene.budget_ms, color=_ALARM, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
        axes.axvspan(scene.budget_ms, right, color=_ALARM, alpha=0.06, linewidth=0, zorder=0)
    axes.set_xlabel(f"{scene.percentile} latency of one text, ms")
    used = {(c.precision, c.target) for c, _, _ in points}
    keys = [_key(scene, pair) for pair in scene.series() if pair in used]
    return [*keys, Line2D([], [], color=_MUTED, linewidth=1.2, label="Pareto front"), *_budget_key(scene)]


def _quality_point(
    scene: Scene, axes: Axes, candidate: Candidate, point: tuple[float, float], *, on_front: bool
) -> None:
    colour, marker = _look(scene, candidate)
    latency, metric = spread(candidate.latency, scene.percentile), candidate.test
    assert latency is not None
    assert metric is not None
    _bars(axes, point, colour, horizontal=latency[1:], vertical=(100 * metric.low, 100 * metric.high))
    axes.plot(*point, marker, color=colour, markeredgecolor=_PAPER, markersize=9, zorder=4)
    picked = scene.is_pick(candidate)
    if picked:
        _ring(axes, point)
    # Above and left of the front there is nothing; a beaten point has room below; a long label needs width.
    left = on_front and not (picked and point[0] < 0.2 * axes.get_xlim()[1])
    side, height, away = (-1 if left else 1), (6 if on_front else -15), (12 if picked else 6)
    _label(
        axes,
        f"pick: {candidate.layers}" if picked else f"{candidate.layers}",
        point,
        (side * away, height),
        picked=picked,
        ha="right" if left else "left",
    )


def _depth(scene: Scene, axes: Axes) -> list[Line2D]:
    """p50 against layers with the fitted lines; hollow marks were measured but not trained."""
    measured = [(c, spread(c.latency, "p50")) for c in scene.candidates]
    for candidate, latency in measured:
        if latency:
            colour, marker = _look(scene, candidate)
            fill = colour if candidate.trained else _PAPER
            _bars(axes, (candidate.layers, latency[0]), colour, vertical=latency[1:])
            point = (candidate.layers, latency[0])
            axes.plot(*point, marker, color=colour, markerfacecolor=fill, markersize=8, zorder=4)
            if scene.is_pick(candidate):
                _ring(axes, point)
    last = max(c.layers for c, latency in measured if latency)
    used = {(c.precision, c.target) for c, latency in measured if latency}
    keys = [_key(scene, pair) for pair in scene.series() if pair in used]
    for line in scene.lines:
        pair = (line["precision"], line["target"])
        if pair in used:
            colour = _SERIES[scene.series().index(pair) % len(_SERIES)]
            ends = [line["a"], line["a"] + line["b"] * last]
            axes.plot([0, last], ends, color=colour, linewidth=1.3, zorder=2)
    axes.set_xlim(0, last + 0.5)
    axes.set_ylim(0, None)
    if scene.budget_ms is not None:
        axes.axhline(scene.budget_ms, color=_ALARM, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layers")
    if any(not c.trained for c, latency in measured if latency):
        hollow = {"marker": "o", "markerfacecolor": _PAPER, "linestyle": ""}
        keys.append(Line2D([], [], color=_MUTED, label="hollow: not trained", **hollow))  # type: ignore[arg-type]
    return [*keys, *_budget_key(scene)]


def _sizes(scene: Scene, axes: Axes) -> list[Line2D]:
    """Grouped bars, one group a depth; precisions that differ only in target share a size and a bar."""
    size = {(c.layers, c.precision): c.bytes / 1e6 for c in scene.candidates if c.bytes}
    depths = sorted({layers for layers, _ in size})
    precisions = sorted({precision for _, precision in size})
    width = 0.8 / len(precisions)
    keys = []
    for number, precision in enumerate(precisions):
        pair = next(pair for pair in scene.series() if pair[0] == precision)
        colour = _SERIES[scene.series().index(pair) % len(_SERIES)]
        for place, layers in enumerate(depths):
            height = size.get((layers, precision))
            if height is None:
                continue
            x = place + (number - (len(precisions) - 1) / 2) * width
            pick = scene.pick
            picked = pick is not None and (layers, precision) == (pick.layers, pick.precision)
            axes.bar(x, height, width * 0.92, color=colour, linewidth=0)
            if len(size) <= 14:
                _label(axes, f"{height:.0f}", (x, height), (0, 3), picked=picked, ha="center")
        keys.append(Line2D([], [], color=colour, marker="s", markersize=9, linestyle="", label=precision))
    axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    axes.margins(y=0.1)
    axes.set_xlabel("layers")
    return keys


@dataclass(frozen=True)
class _Kind:
    """A kind of figure. ``paint`` draws into the axes and returns what belongs in the key."""

    paint: Callable[[Scene, Axes], list[Line2D]]
    has_points: Callable[[Scene], bool]
    upright: Callable[[Scene], str]


_KINDS = {
    "quality": _Kind(
        _quality,
        lambda scene: bool(comparable(scene)),
        lambda scene: f"{scene.metric_label} (numbers: layers)",
    ),
    "depth": _Kind(
        _depth,
        lambda scene: any(c.latency for c in scene.candidates),
        lambda _: "p50 latency of one text, ms",
    ),
    "sizes": _Kind(_sizes, lambda scene: any(c.bytes for c in scene.candidates), lambda _: "size, MB"),
}


def _look(scene: Scene, candidate: Candidate) -> tuple[str, str]:
    """Colour and marker of a candidate's series."""
    number = scene.series().index((candidate.precision, candidate.target))
    return _SERIES[number % len(_SERIES)], _MARKERS[number % len(_MARKERS)]


def _key(scene: Scene, pair: tuple[str, str]) -> Line2D:
    number = scene.series().index(pair)
    colour, marker = _SERIES[number % len(_SERIES)], _MARKERS[number % len(_MARKERS)]
    name = scene.series_name(pair)
    return Line2D([], [], color=colour, marker=marker, markersize=8, linestyle="", label=name)


def _budget_key(scene: Scene) -> list[Line2D]:
    if scene.budget_ms is None:
        return []
    label = f"budget: {scene.percentile} {scene.budget_ms:g} ms"
    return [Line2D([], [], color=_ALARM, linewidth=1.4, linestyle=(0, (5, 3)), label=label)]


def _bars(
    axes: Axes,
    point: tuple[float, float],
    colour: str,
    *,
    horizontal: tuple[float, float] | None = None,
    vertical: tuple[float, float] | None = None,
) -> None:
    """Intervals as thin bars through a point. An interval need not hold its point: draw what was measured."""
    thin = {"color": colour, "linewidth": 1.4, "alpha": 0.55, "zorder": 3}
    if horizontal:
        axes.plot(horizontal, (point[1], point[1]), **thin)  # type: ignore[arg-type]
    if vertical:
        axes.plot((point[0], point[0]), vertical, **thin)  # type: ignore[arg-type]


def _ring(axes: Axes, point: tuple[float, float]) -> None:
    """The mark of the pick."""
    ring = {"markersize": 18, "markerfacecolor": "none", "markeredgecolor": _PICK, "markeredgewidth": 2.2}
    axes.plot(*point, "o", zorder=5, **ring)  # type: ignore[arg-type]


def _label(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], *, picked: bool, ha: str
) -> None:
    """Text beside a point, ``offset`` pixels away."""
    colour, weight = (_PICK, "bold") if picked else (_INK, "normal")
    axes.annotate(text, point, xytext=offset, textcoords="offset points", zorder=6, ha=ha, color=colour, weight=weight)


def _svg(scene: Scene, kind: _Kind, size: tuple[int, int], prefix: str) -> str:
    """Draw one figure at a size in pixels and return it as an element for the page."""
    # After a reset, so that the reader's own matplotlib settings do not reach into the report.
    with style.context(_SETTINGS, after_reset=True):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        _plain(axes)
        keys = kind.paint(scene, axes)
        figure.suptitle(kind.upright(scene), x=0, ha="left", color=_MUTED, fontsize=_TEXT)
        columns = min(len(keys), 5 if size[0] > 500 else 2)
        figure.legend(
            handles=keys, loc="outside lower left", ncols=columns, frameon=False, labelcolor=_INK,
            fontsize=_TEXT, handletextpad=0.5, columnspacing=1.4, borderaxespad=0,
        )  # fmt: skip
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _for_page(buffer.getvalue(), prefix)


def _plain(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=_TEXT, length=0)
    axes.grid(axis="y", color=_RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(_MUTED)


def _for_page(svg: str, prefix: str) -> str:
    """The SVG element alone, without a fixed size, with ids of its own and the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    for noise in _NOISE:
        svg = noise.sub("", svg)
    svg = svg.replace("xlink:href", "href").replace('href="#', f'href="#{prefix}-')
    svg = svg.replace(' id="', f' id="{prefix}-').replace("url(#", f"url(#{prefix}-")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
