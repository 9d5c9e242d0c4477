"""The paper: one self-contained HTML page, the same in Markdown, with its figures and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.errors import InputError
from seedtalk.records import atomic_dir, atomic_file
from seedtalk.reporting.figures import png, svg
from seedtalk.reporting.words import score, signed
from seedtalk.studies import figures, tables, words
from seedtalk.studies.analysing import Analysis, Finding
from seedtalk.studies.reading import Collected

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "seedtalk paper"  # what an index.html of this module holds, so that none else is replaced


@dataclass(frozen=True)
class Table:
    """A table as the page and the Markdown both show it: text, the first column a name."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    strong: set[tuple[int, int]] = field(default_factory=set)  # (row, column) in bold
    folded: bool = False  # behind a line to open, on the page


@dataclass(frozen=True)
class Picture:
    """A figure with its name among the files and its caption."""

    name: str
    svg: str
    png: bytes
    caption: str


def write_paper(studies: Sequence[tuple[Collected, Analysis | None]], out: Path) -> None:
    """Write ``index.html``, ``README.md``, ``figures/`` and ``tables/`` into the folder `out`.

    Parameters
    ----------
    studies
        Each with its analysis; None where it was not run.
    out
        New, empty, or written by this function before: its figures and tables are replaced.

    Raises
    ------
    InputError
        When the folder holds something else.
    """
    page = out / "index.html"
    if out.exists() and any(out.iterdir()):
        known = page.is_file() and MARK in page.read_text(encoding="utf-8", errors="replace")
        if not known:
            raise InputError(f"{out}: holds files of another kind; name another folder with --out")
    pictures = {
        collected.name: _pictures(collected, analysis)
        for collected, analysis in studies
        if analysis
    }
    told = [_study(*pair, pictures.get(pair[0].name, [])) for pair in studies]
    with atomic_dir(out / "figures") as folder:
        for one in (picture for found in pictures.values() for picture in found):
            (folder / f"{one.name}.svg").write_text(f"{one.svg}\n", "utf-8", newline="\n")
            (folder / f"{one.name}.png").write_bytes(one.png)
    with atomic_dir(out / "tables") as folder:
        for collected, analysis in studies:
            if analysis is not None:
                _write_tables(folder, collected.name, analysis)
    overview = words.overview([analysis for _, analysis in studies])
    for path, text in (
        (page, render(told, overview)),
        (out / "README.md", markdown(told, overview)),
    ):
        with atomic_file(path) as file:
            file.write(text)


def _write_tables(folder: Path, name: str, analysis: Analysis) -> None:
    made = {
        f"{name}-means.csv": tables.means(analysis),
        f"{name}-differences.csv": tables.differences(analysis),
        f"{name}-measures.csv": tables.measures(analysis),
        f"{name}-means.tex": tables.results(analysis),
        f"{name}-differences.tex": tables.effects(analysis),
    }
    for file, text in made.items():
        if text:
            (folder / file).write_text(text, encoding="utf-8", newline="\n")


def _pictures(collected: Collected, analysis: Analysis) -> list[Picture]:
    study, finding, found = collected.study, analysis.headline, []
    compare = study.compare
    if finding is not None:
        where = f"{finding.metric} of {finding.system} on {finding.benchmark}"
        if compare.along is not None:
            found.append(
                _picture(
                    f"{collected.name}-curves",
                    figures.curves(collected, finding),
                    f"{where} over {compare.along}, with 95% bands. Dashed, dark, open diamonds: "
                    f"the reference {compare.reference}.",
                )
            )
        else:
            found.append(
                _picture(
                    f"{collected.name}-means",
                    figures.means(collected, finding),
                    f"{where}, with 95% intervals. Diamond: the reference {compare.reference}.",
                )
            )
        if finding.overall:
            found.append(
                _picture(
                    f"{collected.name}-differences",
                    figures.differences(collected, finding),
                    f"{where}: each {compare.factor} minus {compare.reference}, paired, with 95% "
                    "intervals. Right of the line is ahead. Filled: clear after Holm's "
                    "correction; open: too close to call.",
                )
            )
    if analysis.measured:
        found.append(
            _picture(
                f"{collected.name}-measures",
                figures.measures(analysis),
                f"What the runs measured besides, by {compare.factor}: mean over seeds of each "
                "run's number over all its cells, with its 95% t-interval where there are two "
                f"seeds or more. Diamond: the reference {compare.reference}.",
            )
        )
    return found


def _picture(name: str, figure: Figure, caption: str) -> Picture:
    return Picture(name, svg(figure, name, caption), png(figure), caption)


def _study(
    collected: Collected, analysis: Analysis | None, pictures: list[Picture]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": collected.name,
        "title": collected.study.title,
        "question": " ".join(collected.study.question.split()),
        "short": words.short(analysis),
        "sure": words.sure(analysis),
        "command": words.command(collected),
        "run": analysis is not None,
        "pictures": pictures,
        "verdict": [],
        "facts": [],
        "tables": [],
        "not_shown": [],
        "missing": [],
        "estimate": (
            f"It would take {len(collected.cells) * len(collected.study.seeds)} runs of about "
            f"{collected.study.minutes:g} minutes on two cores."
        ),
    }
    if analysis is not None:
        told.update(
            verdict=words.verdict(analysis),
            facts=words.facts(analysis),
            tables=_tables(analysis),
            not_shown=words.not_shown(analysis),
            missing=analysis.missing,
        )
    return told


def _tables(analysis: Analysis) -> list[Table]:
    finding, found = analysis.headline, []
    if finding is not None:
        if finding.overall:
            found.append(_differences(analysis, finding))
        found.append(_cells(analysis, finding))
    if any(other.overall for other in analysis.more):
        found.append(_others(analysis))
    if analysis.measured:
        found.append(_measures(analysis))
    return found


def _differences(analysis: Analysis, finding: Finding) -> Table:
    compare = analysis.collected.study.compare
    rows = []
    for one in tables.ranked(finding.overall):
        e = one.estimate
        rows.append(
            [
                one.level,
                signed(e.mean),
                f"{signed(e.low)} to {signed(e.high)}",
                tables.p_value(one.p),
                tables.p_value(one.adjusted),
                f"{one.agreeing} of {e.seeds}",
                score(one.detectable),
                one.verdict,
            ]
        )
    return Table(
        f"Against {compare.reference}, over all cells",
        [
            compare.factor,
            f"difference of {finding.metric}",
            "95% interval",
            "p",
            "p (Holm)",
            "seeds agreeing",
            "detectable",
            "it is",
        ],
        rows,
        note="Seeds agreeing: of how many seeds the own difference has the sign of the whole.",
        strong={(n, 7) for n, row in enumerate(rows) if row[7] != "too close to call"},
    )


def _cells(analysis: Analysis, finding: Finding) -> Table:
    collected = analysis.collected
    factors = list(collected.study.factors)
    best = tables.best(collected, finding)
    against = {one.cell: one for one in finding.each}
    rows, strong = [], set()
    for number, point in enumerate(finding.points):
        e, one = point.estimate, against.get(point.cell)
        reference = collected.level(point.cell) == collected.study.compare.reference
        if point.cell in best:
            strong.add((number, len(factors)))
        rows.append(
            [
                *(point.cell.of(factor) for factor in factors),
                score(e.mean),
                f"{score(e.low)} to {score(e.high)}",
                "–" if one is None else signed(one.estimate.mean),
                "–"
                if one is None
                else f"{signed(one.estimate.low)} to {signed(one.estimate.high)}",
                "–" if one is None else tables.p_value(one.adjusted),
                "reference" if reference else "not paired" if one is None else one.verdict,
                f"{e.seeds}",
            ]
        )
    return Table(
        f"Each cell: {finding.metric} of {finding.system} on {finding.benchmark}",
        [
            *factors,
            finding.metric,
            "95% interval",
            "difference",
            "95% interval",
            "p (Holm)",
            "it is",
            "seeds",
        ],
        rows,
        note="Holm's correction is for all the cells here. Bold: the best of equal other levels, "
        "where it is clearly ahead of the reference.",
        strong=strong,
        folded=tables.several(finding),
    )


def _others(analysis: Analysis) -> Table:
    rows = []
    for finding in analysis.more:
        for one in tables.ranked(finding.overall):
            e = one.estimate
            rows.append(
                [
                    finding.system,
                    finding.benchmark,
                    finding.metric,
                    one.level,
                    signed(e.mean),
                    f"{signed(e.low)} to {signed(e.high)}",
                    tables.p_value(one.adjusted),
                    one.verdict,
                ]
            )
    compare = analysis.collected.study.compare
    return Table(
        f"Further systems and metrics against {compare.reference}, over all cells",
        [
            "system",
            "benchmark",
            "metric",
            compare.factor,
            "difference",
            "95% interval",
            "p (Holm)",
            "it is",
        ],
        rows,
        note="Exploratory: Holm's correction is within a metric of a system, not over them.",
        folded=True,
    )


def _measures(analysis: Analysis) -> Table:
    factors = list(analysis.collected.study.factors)
    names = list(dict.fromkeys(m.measure for m in analysis.measured))
    found = {(m.measure, m.cell): m for m in analysis.measured if m.cell is not None}
    rows = []
    for cell in analysis.collected.cells:
        mine = [found.get((name, cell)) for name in names]
        if any(mine):
            rows.append(
                [
                    *(cell.of(factor) for factor in factors),
                    *("–" if m is None else tables.shown(m.mean, m.low, m.high) for m in mine),
                ]
            )
    return Table(
        "Measures of each cell",
        [*factors, *names],
        rows,
        note="Mean over seeds, with its 95% t-interval where there are two seeds or more.",
        folded=True,
    )


def render(studies: Sequence[dict[str, Any]], overview: str) -> str:
    """Return the HTML page of studies as `write_paper` tells them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("seedtalk.studies", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markup"] = Markup  # for svg(), which escapes every text
    return environment.get_template("paper.html.j2").render(
        mark=MARK, overview=overview, studies=studies, method=words.METHOD
    )


def markdown(studies: Sequence[dict[str, Any]], overview: str) -> str:
    """Return the page as Markdown, its figures as links to ``figures/``."""
    blocks = [
        "# The studies",
        "Written by `seedtalk paper` from `studies/`; do not edit. The same as a page: "
        "[index.html](index.html).",
        escape(overview),
        _rows(
            ["question", "verdict", "how sure"],
            [
                [
                    f"[{escape(s['title'])}](#{anchor(s['title'])})",
                    escape(s["short"]),
                    escape(s["sure"]),
                ]
                for s in studies
            ],
        ),
    ]
    for study in studies:
        blocks += [f"## {escape(study['title'])}", escape(study["question"])]
        if not study["run"]:
            blocks.append(f"Not run. {escape(study['estimate'])} `{study['command']}`")
            continue
        blocks += [f"**Verdict.** {escape(study['verdict'][0])}"]
        blocks += [escape(line) for line in study["verdict"][1:]]
        for one in study["pictures"]:
            blocks += [
                f"![{escape(one.caption)}](figures/{one.name}.png)",
                f"*{escape(one.caption)}*",
            ]
        blocks += [block for table in study["tables"] for block in _markdown_table(table)]
        blocks += ["### Not shown", _list(study["not_shown"])] if study["not_shown"] else []
        blocks += ["### Missing", _list(study["missing"])] if study["missing"] else []
        blocks += [
            "### How it was done",
            _list([f"{name}: {value}" for name, value in study["facts"]]),
            f"`{study['command']}`, then `seedtalk paper`.",
        ]
    blocks += ["## How the numbers are made", escape(words.METHOD)]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(table: Table) -> list[str]:
    rows = [
        [
            f"**{escape(cell)}**" if (r, c) in table.strong else escape(cell)
            for c, cell in enumerate(row)
        ]
        for r, row in enumerate(table.rows)
    ]
    blocks = [f"### {escape(table.title)}", _rows([escape(h) for h in table.header], rows)]
    return [*blocks, escape(table.note)] if table.note else blocks


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def escape(text: str) -> str:
    """Return `text` as Markdown that shows it as it is, in one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#~$!])", r"\\\1", flat).replace("&", "&amp;")


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading: lower case, without punctuation."""
    return re.sub(r"[^\w\- ]", "", " ".join(title.split()).lower()).replace(" ", "-")
