"""The studies' tables, as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from seedtalk.reporting.words import compact, score, signed
from seedtalk.studies.analysing import Analysis, Difference, Estimate, Finding
from seedtalk.studies.reading import Cell, Collected

ESTIMATE = ("mean", "low", "high", "standard_error", "seeds", "conversations")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
    "–": "--",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
}


def latex(text: str) -> str:
    """Return `text` with every character that LaTeX reads as syntax escaped, in one line."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV; floats with six digits behind the point, nothing where a value is None."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_plain(value) for value in row])
    return buffer.getvalue()


def _plain(value: object) -> str:
    if value is None:
        return ""
    return f"{value + 0.0:.6f}" if isinstance(value, float) else str(value)


def means(analysis: Analysis) -> str:
    """Return the CSV of every mean: a row per benchmark, system, metric and cell."""
    factors = list(analysis.collected.study.factors)
    rows = [
        [f.benchmark, f.system, f.metric, *_levels(p.cell, factors), *_numbers(p.estimate)]
        for f in findings(analysis)
        for p in f.points
    ]
    return as_csv(["benchmark", "system", "metric", *factors, *ESTIMATE], rows)


def differences(analysis: Analysis) -> str:
    """Return the CSV of every difference to the reference; a factor is empty where over all."""
    collected = analysis.collected
    factors = list(collected.study.factors)
    rows = []
    for finding in findings(analysis):
        for one in [*finding.overall, *(finding.each if several(finding) else [])]:
            levels = (
                [one.level if f == collected.study.compare.factor else "" for f in factors]
                if one.cell is None
                else _levels(one.cell, factors)
            )
            rows.append(
                [
                    finding.benchmark,
                    finding.system,
                    finding.metric,
                    *levels,
                    *_numbers(one.estimate),
                    one.p,
                    one.adjusted,
                    one.detectable,
                    one.agreeing,
                    one.verdict,
                ]
            )
    names = ["p", "p_holm", "detectable", "seeds_agreeing", "verdict"]
    return as_csv(["benchmark", "system", "metric", *factors, *ESTIMATE, *names], rows)


def measures(analysis: Analysis) -> str:
    """Return the CSV of the shown measures, by cell."""
    factors = list(analysis.collected.study.factors)
    rows = [
        [m.measure, *_levels(m.cell, factors), m.mean, m.low, m.high, m.seeds]
        for m in analysis.measured
        if m.cell is not None
    ]
    return as_csv(["measure", *factors, "mean", "low", "high", "seeds"], rows)


def results(analysis: Analysis) -> str:
    """Return the LaTeX table of the headline system: a row a cell, a column a metric.

    Bold is the best mean of a column among the cells of equal other levels, only where it is
    clearly ahead of the reference, by the p-value adjusted over all cells of the column.
    """
    collected, headline = analysis.collected, analysis.headline
    if headline is None:
        return ""
    columns = [headline, *_metrics(analysis, headline)]
    factors = list(collected.study.factors)
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(factors)}{'l' * len(columns)}}}",
        r"\toprule",
        " & ".join(latex(name) for name in [*factors, *(c.metric for c in columns)]) + r" \\",
        r"\midrule",
    ]
    bold = [best(collected, column) for column in columns]
    tables = [{p.cell: p.estimate for p in column.points} for column in columns]
    for cell in collected.cells:
        if not any(cell in table for table in tables):
            continue
        cells = [latex(level) for level in _levels(cell, factors)]
        for table, strong in zip(tables, bold, strict=True):
            cells.append(_latex_score(table[cell], cell in strong) if cell in table else "--")
        lines.append(" & ".join(cells) + r" \\")
    note = (
        f"{latex(headline.system)} on {latex(headline.benchmark)}: mean and 95\\% interval over "
        "seeds and conversations. Bold: best, and clearly ahead of "
        f"{latex(collected.study.compare.reference)} (Holm)."
    )
    return "\n".join([f"% {note}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_score(estimate: Estimate, bold: bool) -> str:
    mean = rf"\textbf{{{score(estimate.mean)}}}" if bold else score(estimate.mean)
    return rf"{mean} {{\footnotesize [{score(estimate.low)}, {score(estimate.high)}]}}"


def effects(analysis: Analysis) -> str:
    """Return the LaTeX table of the headline's differences over all cells."""
    collected, headline = analysis.collected, analysis.headline
    if headline is None:
        return ""
    lines = [
        r"\begin{tabular}{lllll}",
        r"\toprule",
        " & ".join(
            latex(name)
            for name in (
                collected.study.compare.factor,
                f"{headline.metric} − {collected.study.compare.reference}",
                "95% interval",
                "p (Holm)",
                "detectable",
            )
        )
        + r" \\",
        r"\midrule",
    ]
    for one in headline.overall:
        mean = latex(signed(one.estimate.mean))
        lines.append(
            " & ".join(
                [
                    latex(one.level),
                    rf"\textbf{{{mean}}}" if one.verdict == "ahead" else mean,
                    latex(f"{signed(one.estimate.low)} to {signed(one.estimate.high)}"),
                    latex(p_value(one.adjusted)),
                    latex(score(one.detectable)),
                ]
            )
            + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def findings(analysis: Analysis) -> list[Finding]:
    """Return the headline, where there is one, and all others."""
    return [*([analysis.headline] if analysis.headline else []), *analysis.more]


def several(finding: Finding) -> bool:
    """Return whether a level has several cells, so that each cell is worth telling."""
    return any(one.cells > 1 for one in finding.overall)


def best(collected: Collected, finding: Finding) -> set[Cell]:
    """Return the cells that are best of their other levels and clearly ahead of the reference."""
    ahead = {one.cell for one in finding.each if one.verdict == "ahead"}
    groups: dict[tuple[str, ...], list[tuple[float, Cell]]] = {}
    for point in finding.points:
        others = point.cell.without(collected.study.compare.factor)
        groups.setdefault(others, []).append((point.estimate.mean, point.cell))
    found = set()
    for group in groups.values():
        top = max(mean for mean, _ in group)
        found |= {cell for mean, cell in group if mean == top and cell in ahead}
    return found


def p_value(value: float) -> str:
    """Return a p-value to be read: three digits behind the point, never 0."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def shown(mean: float, low: float | None, high: float | None) -> str:
    """Return a measure with its interval where it has one."""
    return (
        compact(mean)
        if low is None or high is None
        else (f"{compact(mean)} ({compact(low)} to {compact(high)})")
    )


def ranked(found: Sequence[Difference]) -> list[Difference]:
    """Return differences, the highest first, ties by name."""
    return sorted(found, key=lambda one: (-one.estimate.mean, one.level))


def _metrics(analysis: Analysis, headline: Finding) -> list[Finding]:
    """Return the further metrics of the headline's system and benchmark."""
    return [
        f for f in analysis.more if (f.benchmark, f.system) == (headline.benchmark, headline.system)
    ]


def _levels(cell: Cell, factors: Sequence[str]) -> list[str]:
    return [cell.of(factor) for factor in factors]


def _numbers(estimate: Estimate) -> list[object]:
    return [
        estimate.mean,
        estimate.low,
        estimate.high,
        estimate.error,
        estimate.seeds,
        estimate.conversations,
    ]
