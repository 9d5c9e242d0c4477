"""A study's numbers put into words, by rule: equal findings give equal sentences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from seedtalk.reporting.words import listed, score, signed, whole
from seedtalk.studies.analysing import Analysis, Difference, Finding
from seedtalk.studies.reading import Collected
from seedtalk.studies.tables import p_value, ranked, several

FEW = 5  # seeds: with fewer, what seeds change is known roughly only
NAMED = 4  # levels in a sentence of the overview
METHOD = (
    "A mean is over all conversations and seeds of a cell, each conversation weighing as many "
    "targets as it has where the metric does. Its 95% interval draws seeds and conversations with "
    "replacement, 10,000 times; a conversation that several runs answer is drawn for all of them "
    "at once. A difference is paired: the same seed, the same conversation and the same levels of "
    "every other factor. Its p-value is two-sided and of the same draws; 'clearly ahead' and "
    "'clearly behind' mean that it is under 0.05 after Holm's correction for the number of levels "
    "compared. The intervals themselves are not widened for it, so that one may exclude zero and "
    "its level still be too close to call. The detectable difference is the true difference that "
    "such a test, uncorrected, finds four times in five: what is smaller is easily missed."
)


def by_verdict(found: Sequence[Difference], verdict: str) -> list[Difference]:
    """Return the differences of one verdict, the highest first."""
    return [one for one in ranked(found) if one.verdict == verdict]


def short(analysis: Analysis | None) -> str:
    """Return the verdict in a line, for the overview; `analysis` is None where not run."""
    if analysis is None:
        return "not run"
    finding = analysis.headline
    if finding is None:
        return "run, but its headline scores were not collected"
    if not finding.overall:
        return "nothing to compare yet"
    reference = analysis.collected.study.compare.reference
    parts = []
    for verdict in ("ahead", "behind"):
        found = by_verdict(finding.overall, verdict)
        if found:
            parts.append(f"{_names(found)} clearly {verdict}")
    close = by_verdict(finding.overall, "too close to call")
    if not parts:
        return f"too close to call: no level is clearly ahead of {reference} or behind it"
    told = f"{' and '.join(parts)}{' of' if parts[-1].endswith('ahead') else ''} {reference}"
    return told + (f"; {_names(close)} too close to call" if close else "")


def _names(found: Sequence[Difference]) -> str:
    names = [one.level for one in found]
    if len(names) > NAMED + 1:
        names = [*names[:NAMED], f"{len(names) - NAMED} more"]
    return listed(names)


def sure(analysis: Analysis | None) -> str:
    """Return how sure the verdict is: what it rests on, and what it could have seen."""
    if analysis is None or analysis.headline is None or not analysis.headline.overall:
        return "–"
    found = analysis.headline.overall
    seeds = max(one.estimate.seeds for one in found)
    told = _count(seeds, "seed")
    if seeds < 2:
        told += " (what a seed changes is not covered)"
    told += f", {_count(max(one.estimate.conversations for one in found), 'conversation')}"
    sizes = sorted(one.detectable for one in found)
    if score(sizes[0]) == score(sizes[-1]):
        return f"{told}; differences under {score(sizes[0])} are easily missed"
    return f"{told}; differences under {score(sizes[0])} to {score(sizes[-1])} are easily missed"


def verdict(analysis: Analysis) -> list[str]:
    """Return the verdict in sentences: the headline over all cells, cells that depart, others."""
    finding = analysis.headline
    study = analysis.collected.study
    if finding is None:
        return [
            f"The scores of {study.scores.systems[0]} on {study.scores.benchmarks[0]} in "
            f"{study.compare.metric} were not collected, so there is no verdict."
        ]
    if not finding.overall:
        return [
            f"No level was run beside {study.compare.reference}, so there is nothing to compare."
        ]
    told = [
        f"In {finding.metric} of {finding.system} on {finding.benchmark}, against "
        f"{study.compare.reference}: {_standing(finding.overall)}"
    ]
    if several(finding):
        told.append(_cells(finding, study.compare.reference))
    told += [
        f"{other.system} on {other.benchmark}, in {other.metric}: {_other(other)}"
        for other in analysis.more
        if other.metric == finding.metric and other.overall
    ]
    return told


def _standing(found: Sequence[Difference]) -> str:
    parts = []
    for verdict, opening in (
        ("ahead", "clearly ahead"),
        ("behind", "clearly behind"),
        ("too close to call", "too close to call"),
    ):
        mine = by_verdict(found, verdict)
        if mine:
            # Of many levels the table has the intervals; the clear ones are told in full.
            many = verdict == "too close to call" and len(found) > NAMED
            say = _named if many else _told
            parts.append(f"{opening}: {listed([say(one) for one in mine])}")
        elif verdict == "ahead":
            parts.append("no level is clearly ahead")
    return "; ".join(parts) + "."


def _named(one: Difference) -> str:
    return f"{one.level} ({signed(one.estimate.mean)})"


def _told(one: Difference) -> str:
    e = one.estimate
    seeds = f", {one.agreeing} of {e.seeds} seeds" if e.seeds > 1 else ""
    return (
        f"{one.level} ({signed(e.mean)}, {signed(e.low)} to {signed(e.high)}, "
        f"p {p_value(one.adjusted)}{seeds})"
    )


def _cells(finding: Finding, reference: str) -> str:
    clear = [
        f"{one.cell.name} ({one.verdict}, {signed(one.estimate.mean)})"
        for one in finding.each
        if one.cell is not None and one.verdict != "too close to call"
    ]
    count = len(finding.each)
    if not clear:
        return f"Taken one by one, none of the {count} cells departs clearly from {reference}."
    return (
        f"Taken one by one, {len(clear)} of the {count} cells "
        f"depart{'s' if len(clear) == 1 else ''} clearly from {reference}: {listed(clear)}."
    )


def _other(finding: Finding) -> str:
    if all(one.estimate.low == one.estimate.high == 0 for one in finding.overall):
        return "the same at every level, as of a system that what is compared does not reach."
    parts = [
        f"{listed([_named(one) for one in mine])} clearly {verdict}"
        for verdict in ("ahead", "behind")
        if (mine := by_verdict(finding.overall, verdict))
    ]
    return f"{'; '.join(parts) or 'no level departs clearly from the reference'}."


def facts(analysis: Analysis) -> list[tuple[str, str]]:
    """Return how the study was done, as names and values."""
    collected = analysis.collected
    study, runs = collected.study, collected.runs
    rows = [] if runs is None else runs.to_dict("records")
    wanted = len(collected.cells) * len(study.seeds)
    counts = sorted(int(str(row["dialogues"])) for row in rows if row["dialogues"])
    rows_told = [
        ("compared", f"{study.compare.factor}: {levels(collected, study.compare.factor)}"),
        *((f, levels(collected, f)) for f in study.factors if f != study.compare.factor),
        ("runs", f"{len(rows)} of {wanted} ({_count(len(collected.cells), 'cell')})"),
        ("seeds", ", ".join(map(str, sorted({seed for _, seed in collected.places.values()})))),
        # A factor of that name stands above, and in place of the column.
        ("teacher", "" if "teacher" in study.factors else _column(rows, "teacher")),
        ("training dialogues of a run", _range(counts)),
        ("systems", ", ".join(_system(collected, name) for name in study.scores.systems)),
        ("benchmarks", _benchmarks(collected)),
        ("commit", _column(rows, "commit")),
        ("needs", "; ".join(study.needs)),
        ("time", f"about {study.minutes:g} minutes a run on two cores"),
    ]
    return [(name, value) for name, value in rows_told if value]


def command(collected: Collected) -> str:
    """Return the command that makes the study."""
    return f"seedtalk study run {collected.name}"


def levels(collected: Collected, factor: str) -> str:
    """Return the levels of a factor, the reference marked."""
    compare = collected.study.compare
    return ", ".join(
        f"{level} (reference)" if factor == compare.factor and level == compare.reference else level
        for level in collected.study.factors[factor]
    )


def _benchmarks(collected: Collected) -> str:
    told = []
    for name in collected.study.scores.benchmarks:
        rows = collected.scores[collected.scores["benchmark"] == name]
        told.append(f"{name} ({_count(rows['conversation_id'].nunique(), 'conversation')})")
    return ", ".join(told)


def not_shown(analysis: Analysis) -> list[str]:
    """Return what the study does not show."""
    collected, finding = analysis.collected, analysis.headline
    told = []
    done = {seed for _, seed in collected.places.values()}
    if len(done) == 1:
        told.append(
            "What another seed would give: there is one seed, so the intervals cover the choice "
            "of conversations only, not that of seeds, training order and initial weights."
        )
    elif len(done) < FEW:
        told.append(
            f"What seeds change, with any precision: {len(done)} seeds bound it roughly, and "
            "intervals over so few are too narrow where seeds matter more than conversations."
        )
    if finding is not None and by_verdict(finding.overall, "too close to call"):
        sizes = [o.detectable for o in by_verdict(finding.overall, "too close to call")]
        least, most = score(min(sizes)), score(max(sizes))
        told.append(
            "That what is too close to call is equal: a true difference of "
            f"{least if least == most else f'{least} to {most}'} in {finding.metric} is found "
            "four times in five only, before the correction, and a smaller one less often."
        )
    if finding is not None and several(finding):
        told.append(
            "That a difference over all cells holds in each of them: the cells stand in the "
            "table, corrected for their own number."
        )
    if "likes" in collected.study.scores.benchmarks:
        told.append(
            "How people fare in conversation: the benchmark likes asks in plain requests that "
            "name what held-out users liked."
        )
    runs = collected.runs
    if runs is not None and (runs["teacher"] == "extractive").all():
        told.append(
            "What a large language model would have written: the extractive teacher turns phrases "
            "of a review into a request, and is no such model."
        )
    if analysis.more or len(collected.study.measures):
        told.append(
            "A test of the further systems, metrics and measures together: each metric of a "
            "system is corrected for its levels only, and measures are not tested at all."
        )
    unpaired = sum(o.unpaired for o in finding.overall) if finding is not None else 0
    if unpaired:
        told.append(
            f"Differences on {_count(unpaired, 'conversation')} that only one of two compared "
            "runs answered, counted by run: they are left out."
        )
    return told


def overview(analyses: Sequence[Analysis | None]) -> str:
    """Return what all the studies found together, in a paragraph."""
    done = [one for one in analyses if one is not None]
    settled = [one.headline.overall for one in done if one.headline and one.headline.overall]
    ahead = sum(any(d.verdict == "ahead" for d in found) for found in settled)
    behind = sum(any(d.verdict == "behind" for d in found) for found in settled)
    idle = sum(all(d.verdict == "too close to call" for d in found) for found in settled)
    part = sum(bool(one.missing) for one in done)
    told = [
        f"{_count(len(analyses), 'study', 'studies')}, of which {len(done)} "
        f"{'was' if len(done) == 1 else 'were'} run" + (f" ({part} in part)" if part else "") + "."
    ]
    if settled:
        told.append(
            f"A level is clearly ahead of its reference in {ahead}, clearly behind in {behind}; in "
            f"{idle} nothing is clear either way."
        )
    told.append(
        "A negative result counts as much as a positive one here; every sentence follows from the "
        "numbers by a rule."
    )
    return " ".join(told)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def _column(rows: Sequence[Mapping[Hashable, Any]], name: str) -> str:
    return ", ".join(sorted({str(row[name]) for row in rows if row[name]}))


def _system(collected: Collected, name: str) -> str:
    """Return a system's name, and what it stands for where that differs between cells."""
    others = collected.study.scores.alias.get(name, ())
    return f"{name} ({' or '.join(others)})" if others else name


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    if counts[0] == counts[-1]:
        return whole(counts[0])
    return f"{whole(counts[0])} to {whole(counts[-1])}"
