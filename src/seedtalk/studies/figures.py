"""Figures of the studies, in the report's style: equal input gives equal bytes.

Nothing is told by colour alone: lines differ in dashes and marks and carry their names; a mark is
filled where a difference is clear. Panels stand under each other, so that their words stay
readable on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seedtalk.reporting.figures import BLUE, INK, ORANGE, SERIES, WIDTH, style
from seedtalk.studies.analysing import Analysis, Difference, Finding, Measured, Point
from seedtalk.studies.reading import Cell, Collected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1)))
MARKS = ("o", "s", "^", "v", "P")
TOGETHER = 4  # levels beside the reference in one panel; more have a panel each
LEFT = 22  # characters of a label, the rest is cut
INK_BAND = "#9aa0a8"


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def short(name: str) -> str:
    """Return `name` as a label of bounded length."""
    return name if len(name) <= LEFT else name[: LEFT - 1] + "…"


def facets(collected: Collected, cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Return the combinations of other levels, in the order declared; one of () without others."""
    return list(dict.fromkeys(collected.facet(cell) for cell in cells))


def curves(collected: Collected, finding: Finding) -> Figure:
    """Draw a system's means over ``compare.along``, with bands; the reference dark and dashed."""
    study = collected.study
    along = list(study.factors[str(study.compare.along)])
    levels = list(dict.fromkeys(collected.level(p.cell) for p in finding.points))
    others = [level for level in levels if level != study.compare.reference]
    kinds = facets(collected, [p.cell for p in finding.points])
    groups = [others] if len(others) <= TOGETHER else [[level] for level in others]
    panels = [(kind, group) for kind in kinds for group in groups]
    columns = 1 if len(groups) == 1 else 2
    rows = -(-len(panels) // columns)
    with style():
        figure = _figure((2.9 if columns == 1 else 1.5) * rows + 0.3)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _curve_panel(axes, collected, finding.points, *panel, along, columns == 1)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
            above = grid[rows - 2, columns - 1] if rows > 1 else None
            if above is not None:
                above.xaxis.set_tick_params(labelbottom=True)
        figure.supxlabel(str(study.compare.along), fontsize=9)
        figure.supylabel(finding.metric, fontsize=9)
        return figure


def _curve_panel(
    axes: Any,
    collected: Collected,
    points: Sequence[Point],
    kind: tuple[str, ...],
    group: Sequence[str],
    along: list[str],
    named: bool,
) -> None:
    reference = collected.study.compare.reference
    where = {level: float(level) for level in along}  # numbers, says the declaration
    ends = []
    for number, level in enumerate([reference, *group]):
        mine = sorted(
            (
                (where[str(collected.along(p.cell))], p.estimate)
                for p in points
                if collected.level(p.cell) == level and collected.facet(p.cell) == kind
            ),
            key=lambda pair: pair[0],
        )
        if not mine:
            continue
        first = level == reference
        colour = INK if first else (SERIES[number - 1] if named else BLUE)
        x = [place for place, _ in mine]
        low, high = [e.low for _, e in mine], [e.high for _, e in mine]
        if len(mine) == 1:
            axes.plot([x[0], x[0]], [low[0], high[0]], color=colour, lw=1.2, alpha=0.6)
        axes.fill_between(x, low, high, color=INK_BAND if first else colour, alpha=0.16, lw=0)
        axes.plot(
            x,
            [e.mean for _, e in mine],
            color=colour,
            lw=2.2 if first else 1.6,
            ls=DASHES[1] if first else DASHES[0 if number == 1 else number % len(DASHES)],
            marker="D" if first else MARKS[(number - 1) % len(MARKS)],
            ms=4.5,
            mfc="white" if first else colour,
            zorder=3 if first else 2.5,
        )
        ends.append((mine[-1][1].mean, x[-1], level, colour, first))
    title = ", ".join(kind)
    if named:
        _name_lines(axes, ends)
    else:
        title = f"{short(group[0])}" + (f" · {title}" if title else "")
    if title:
        axes.set_title(title, fontsize=9, loc="left")
    axes.set_xticks(list(where.values()), [f"{place:g}" for place in where.values()])
    axes.margins(x=0.06)


def _name_lines(axes: Any, ends: list[tuple[float, float, str, str, bool]]) -> None:
    """Write each line's name at its right end, moved apart where they would lie on each other."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    height = -float("inf")
    right = max(x for _, x, *_ in ends)
    for mean, x, level, colour, first in sorted(ends, key=lambda end: (end[0], end[2])):
        height = max(mean, height + gap)
        axes.annotate(
            short(level),
            (x, mean),
            xytext=(right, height),
            textcoords="data",
            ha="left",
            va="center",
            color=colour,
            fontsize=8.5,
            fontweight="bold" if first else "normal",
            annotation_clip=False,
            bbox={"boxstyle": "square,pad=0.1", "fc": "none", "ec": "none"},
        ).set_x(right + 0.03 * (axes.get_xlim()[1] - axes.get_xlim()[0]))


def _dots(
    axes: Any,
    rows: Sequence[tuple[str, float, float | None, float | None, bool, bool]],
    zero: bool = False,
) -> None:
    """Draw rows of (label, mean, low, high, filled, bold), the first on top."""
    for place, (_, mean, low, high, filled, bold) in enumerate(rows):
        colour = INK if bold else BLUE
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(
            mean,
            place,
            "D" if bold else "o",
            ms=6,
            mfc=colour if filled else "white",
            mec=colour,
            mew=1.5,
        )
    axes.set_yticks(range(len(rows)), [short(row[0]) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row[5]:
            tick.set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    if zero:
        axes.axvline(0.0, color=ORANGE, lw=1.1, ls=(0, (4, 3)), zorder=1.5)


def _stacked(heights: Sequence[int], share: bool = True) -> tuple[Figure, list[Any]]:
    """Return a figure of panels under each other, as high as they have rows."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(sum(0.27 * rows + 0.38 for rows in heights) + 0.4)
    grid = figure.subplots(
        len(heights),
        1,
        sharex=share,
        squeeze=False,
        gridspec_kw={"height_ratios": [0.27 * rows + 0.2 for rows in heights]},
    )
    for axes in grid[:, 0]:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, list(grid[:, 0])


def means(collected: Collected, finding: Finding) -> Figure:
    """Draw a dot and its interval for each level, a panel for each combination of the others."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in finding.points:
        others = point.cell.without(collected.study.compare.factor)
        groups.setdefault(others, []).append(point)
    with style():
        figure, panels = _stacked([len(points) for points in groups.values()])
        for axes, (kind, points) in zip(panels, groups.items(), strict=True):
            _dots(
                axes,
                [
                    (
                        level := collected.level(p.cell),
                        p.estimate.mean,
                        p.estimate.low,
                        p.estimate.high,
                        True,
                        level == collected.study.compare.reference,
                    )
                    for p in points
                ],
            )
            if kind:
                axes.set_title(", ".join(kind), fontsize=9, loc="left")
        panels[-1].set_xlabel(f"{finding.metric}, mean and 95% interval")
        return figure


def differences(collected: Collected, finding: Finding) -> Figure:
    """Draw each level minus the reference: over all cells and, of few levels, cell by cell."""
    groups: dict[tuple[str, ...], list[Difference]] = {("over all",): finding.overall}
    if len(finding.each) > len(finding.overall) and len(finding.overall) <= TOGETHER:
        for one in finding.each:
            if one.cell is not None:
                kind = one.cell.without(collected.study.compare.factor)
                groups.setdefault(kind, []).append(one)
    reference = collected.study.compare.reference
    with style():
        figure, panels = _stacked([len(rows) for rows in groups.values()])
        for axes, (kind, rows) in zip(panels, groups.items(), strict=True):
            _dots(
                axes,
                [
                    (
                        one.level,
                        one.estimate.mean,
                        one.estimate.low,
                        one.estimate.high,
                        one.verdict != "too close to call",
                        False,
                    )
                    for one in rows
                ],
                zero=True,
            )
            if len(groups) > 1:
                axes.set_title(", ".join(kind), fontsize=9, loc="left")
        panels[-1].set_xlabel(f"{finding.metric}, difference to {short(reference)}")
        return figure


def measures(analysis: Analysis) -> Figure:
    """Draw every shown measure, a panel each: one row a level, over all its cells."""
    reference = analysis.collected.study.compare.reference
    groups: dict[str, list[Measured]] = {}
    for one in analysis.measured:
        if one.cell is None:
            groups.setdefault(one.measure, []).append(one)
    with style():
        figure, panels = _stacked([len(mine) for mine in groups.values()], share=False)
        for axes, (measure, mine) in zip(panels, groups.items(), strict=True):
            _dots(
                axes,
                [(m.level, m.mean, m.low, m.high, True, m.level == reference) for m in mine],
            )
            axes.set_title(measure, fontsize=9, loc="left")
        return figure
