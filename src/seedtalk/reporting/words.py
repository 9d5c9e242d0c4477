"""Numbers put into words, by rule: every sentence of the report follows from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from seedtalk.reporting.inputs import SIGNALS, SLICES, Benchmark, Evidence
from seedtalk.reporting.tables import Comparison

REASONS = {  # of ingest and curate, where their keys alone do not say it
    "below_min_item_ratings": "too few ratings",
    "no_title": "no title",
    "same_title_and_year": "title and year seen before",
    "other_source": "from another source",
    "no_title_found": "no title found in the text",
    "ambiguous": "title ambiguous",
    "film_without_ratings": "of a film without ratings",
    "item_below_min_item_ratings": "of an item with too few ratings",
    "held_out_user": "by a held-out user",
    "duplicate_text": "text seen before",
    "not_in_sample": "left out by the sample",
    "failed_request": "the request failed",
    "unparsable": "not of the form asked for",
    "no_query": "the seeker does not speak last",
    "placeholder": "leaves a gap of the prompt unfilled",
    "wrong_turns": "the speakers do not take turns",
    "language": "not English",
    "no_recommendations": "too few titles in the catalogue",
    "leak": "names a title it recommends",
    "contaminated": "shares words with an evaluation conversation",
    "near_duplicate": "near-duplicate of one kept before",
}

NAMED = 3  # baselines in a sentence, the best of a kind; the table has all
DECODING = {  # how the students ranked; the baselines rank every candidate
    "exact": "",
    "beam": " The students rank what a search of the catalogue's titles finds.",
    "free": " The students rank what they write as a list, where it is in the catalogue.",
}


def title(
    evidence: Evidence, compared: Mapping[str, Mapping[str, Sequence[Comparison]]], headline: str
) -> str:
    """Return the finding in a line: the first benchmark's best tuned student, and its blend."""
    benchmark = evidence.benchmarks[0]
    found = [one for one in compared[benchmark.name].values() if one[0].subject.kind == "tuned"]
    if not found:
        return f"Baselines and untouched students on {benchmark.name}: no student was tuned"
    comparisons = found[0]
    tuned = comparisons[0].subject
    value = tuned.scores[headline]["mean"]
    own = [c for c in comparisons if c.other.kind == "zero-shot"]
    if own:
        before = own[0].other.scores[headline]["mean"]
        verb = {"ahead": "lifts", "behind": "lowers", "too close to call": "does not clearly move"}
        change = f"{verb[own[0].verdict]} {tuned.student}"
        numbers = f"{headline} on {benchmark.name} {score(before)}\u00a0→\u00a0{score(value)}"
        first = f"Tuning {change}: {numbers}"
    else:
        first = f"{tuned.name} reaches {headline} {score(value)} on {benchmark.name}"
    blends = [
        one for one in compared[benchmark.name].values() if one[0].subject.alone == tuned.name
    ]
    if blends:
        joined = blends[0][0].subject.scores[headline]["mean"]
        return f"{first}; joined with the signals {score(joined)}{_against(blends[0])}"
    return first + _against(comparisons)


def _against(comparisons: Sequence[Comparison]) -> str:
    """Return how the baselines stand, as the end of a sentence."""
    baselines = [c for c in comparisons if c.other.kind == "baseline"]
    ahead = [c.other.name for c in baselines if c.verdict == "behind"]
    if not baselines:
        return ""
    if all(c.verdict == "ahead" for c in baselines):
        return "; ahead of every baseline"
    if not ahead:
        return "; no baseline is clearly ahead of it"
    if len(ahead) <= 2:
        return f"; {listed(ahead)} {'is' if len(ahead) == 1 else 'are'} still ahead"
    return f"; {len(ahead)} of {len(baselines)} baselines are still ahead"


def verdict(
    evidence: Evidence, compared: Mapping[str, Mapping[str, Sequence[Comparison]]], headline: str
) -> list[str]:
    """Return the finding in paragraphs: the students, then what made them and what it is worth."""
    paragraphs = []
    for benchmark in evidence.benchmarks:
        # A student before its blend, which is told by what it adds.
        for comparisons in sorted(
            compared[benchmark.name].values(), key=lambda one: one[0].subject.kind == "blend"
        ):
            say = _blend_words if comparisons[0].subject.kind == "blend" else _student_words
            paragraphs.append(say(benchmark, comparisons, headline))
        if not compared[benchmark.name]:
            paragraphs.append(f"On {benchmark.name} no tuned student was evaluated.")
    paragraphs.append(" ".join([teacher(evidence), *_caveats(evidence, headline)]))
    return paragraphs


def _student_words(benchmark: Benchmark, comparisons: Sequence[Comparison], headline: str) -> str:
    tuned = comparisons[0].subject
    reached = tuned.scores[headline]
    words = [
        f"On {benchmark.name}, {tuned.name} reaches {headline} of {score(reached['mean'])} "
        f"(95% interval {score(reached['low'])} to {score(reached['high'])})."
    ]
    for one in comparisons:
        if one.other.kind == "zero-shot":
            gap = one.difference
            change = {
                "ahead": "the training data helped: the interval excludes zero",
                "behind": "the training data hurt: the interval excludes zero",
                "too close to call": "no effect is shown: the interval includes zero",
            }[one.verdict]
            words.append(
                f"Untouched, the same model reaches {score(one.other.scores[headline]['mean'])}; "
                f"the paired difference is {signed(gap['mean'])} ({signed(gap['low'])} to "
                f"{signed(gap['high'])}), so {change}."
            )
    baselines = [one for one in comparisons if one.other.kind == "baseline"]
    return " ".join([*words, *_standing(baselines)])


def _blend_words(benchmark: Benchmark, comparisons: Sequence[Comparison], headline: str) -> str:
    blend = comparisons[0].subject
    reached = blend.scores[headline]
    words = [
        f"Joined with the domain's own signals on {benchmark.name}, {blend.name} reaches "
        f"{headline} of {score(reached['mean'])} (95% interval {score(reached['low'])} to "
        f"{score(reached['high'])})."
    ]
    for one in comparisons:
        if one.other.name == SIGNALS:
            effect = {
                "ahead": "the student adds to them",
                "behind": "the student takes from them",
                "too close to call": "nothing is shown to be added by the student",
            }[one.verdict]
            opening = "The signals alone, at the same weights, reach"
        elif one.other.kind == "blend":
            effect = {
                "ahead": "its tuning counts in the blend too",
                "behind": "its tuning hurts the blend",
                "too close to call": "its tuning is not shown to count in the blend",
            }[one.verdict]
            opening = "With the untouched student in its place they reach"
        else:
            continue
        gap = one.difference
        words.append(
            f"{opening} {score(one.other.scores[headline]['mean'])}; the paired difference is "
            f"{signed(gap['mean'])} ({signed(gap['low'])} to {signed(gap['high'])}), so {effect}."
        )
    baselines = [
        one for one in comparisons if one.other.kind == "baseline" and one.other.name != SIGNALS
    ]
    return " ".join([*words, *_standing(baselines)])


def _standing(baselines: Sequence[Comparison]) -> list[str]:
    words = []
    for wanted, opening in (
        ("behind", "Clearly ahead of it"),
        ("too close to call", "Too close to call"),
        ("ahead", "Clearly behind it"),
    ):
        named = [
            f"{one.other.name} ({signed(-one.difference['mean'])})"
            for one in baselines
            if one.verdict == wanted
        ]
        if named:
            more = len(named) - NAMED
            told = [*named[:NAMED], f"{more} more"] if more > 1 else named
            words.append(f"{opening}: {listed(told)}.")
        elif wanted == "behind" and baselines:
            words.append("No baseline is clearly ahead of it.")
    return words


def teacher(evidence: Evidence) -> str:
    """Say which teacher and data made the dialogues."""
    corpus, told, synthesis = evidence.corpus, evidence.teacher, evidence.synthesis
    if transfer := synthesis.get("transfer"):
        return (
            f"The {whole(transfer['train'])} training dialogues are another domain's "
            "(curate.train_on is transfer), made by the teacher "
            f"{listed(list(transfer['teachers']))}. "
            f"Nothing made of this domain's reviews ({corpus['source']}) was learnt."
        )
    words = [
        f"The {whole(synthesis['train'])} training dialogues were made of "
        f"{whole(told['requests'])} "
        f"seeds out of {whole(evidence.selection['pool'])} reviews ({corpus['source']})"
    ]
    if told["backend"] == "extractive":
        words[0] += (
            " by the extractive teacher, which turns phrases of a review into a request. It "
            "stands in for a large language model; it is not one."
        )
    else:
        words[0] += (
            f" by the teacher {told['model']}, a language model ({told['backend']} backend)."
        )
    if synthesis["grounding"] == "none":
        words.append("It did not see the reviews: this is the ungrounded baseline.")
    words.append(
        {
            "collaborative": "The recommendations in them come from what the same users liked.",
            "teacher": "The recommendations in them are the teacher's, linked to the catalogue.",
            "both": "The recommendations in them are the teacher's, linked to the catalogue, then "
            "what the same users liked.",
        }[synthesis["targets"]]
    )
    return " ".join(words)


def _caveats(evidence: Evidence, headline: str) -> list[str]:
    words = []
    if any(benchmark.name == "likes" for benchmark in evidence.benchmarks):
        words.append(
            "The benchmark likes is a proxy: plain requests that name items which held-out users "
            "liked, not conversations between people."
        )
    sampled = sorted({b.protocol["candidates"] for b in evidence.benchmarks} - {0})
    if sampled:
        words.append(
            f"Each query ranks {listed([whole(n) for n in sampled])} candidates, its targets among "
            "items drawn at random. That is easier than ranking the whole catalogue: compare "
            "these numbers only with each other."
        )
    idle = [b.name for b in evidence.benchmarks if _copies_nothing(b, headline)]
    if idle:
        where = "here" if len(idle) == len(evidence.benchmarks) else f"on {listed(idle)}"
        words.append(
            f"copy-context has nothing to copy {where}: named items are no candidates, so it "
            "ranks by chance."
        )
    return words


def _copies_nothing(benchmark: Benchmark, headline: str) -> bool:
    """Return whether copy-context scores as `random` does, within the interval of that."""
    scores = {system.name: system.scores[headline] for system in benchmark.systems}
    if "copy-context" not in scores or "random" not in scores:
        return False
    floor = scores["random"]
    return floor["low"] <= scores["copy-context"]["mean"] <= floor["high"]


def protocol(benchmark: Benchmark) -> str:
    """Say what was asked and what was ranked."""
    protocol = benchmark.protocol
    asked = (
        f"{whole(protocol['queries'])} queries in {whole(protocol['conversations'])} "
        "conversations; "
    )
    if protocol["candidates"]:
        ranked = (
            f"each ranks {whole(protocol['candidates'])} items: its targets and others drawn at "
            "random from the catalogue, without those mentioned or seen."
        )
    else:
        ranked = "each ranks the whole catalogue without items mentioned or seen."
    return asked + ranked + DECODING[protocol["decoding"]]


def reviewed(benchmark: Benchmark) -> str:
    """Say how many of the targets have a review."""
    counts = [benchmark.slices[name].targets for name in SLICES]
    return (
        f"{whole(counts[0])} of the {whole(sum(counts))} targets "
        f"({percent(share(counts[0], sum(counts)))}) have a review in the corpus; what reviews "
        "teach can show on those only."
    )


def reason(key: str) -> str:
    """Return why something was dropped or quarantined, in words."""
    return REASONS.get(key, key.replace("_", " "))


def share(part: int, of: int) -> float:
    """Return `part` of `of`, 0 where there is nothing."""
    return part / of if of else 0.0


def listed(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def shortened(text: str, limit: int) -> str:
    """Cut `text` at a word's end before `limit` characters, and say so with an ellipsis."""
    flat = " ".join(text.split())
    if len(flat) <= limit:
        return flat
    return flat[: limit - 1].rsplit(" ", 1)[0].rstrip(".,;:!?-– ") + " …"


def score(value: float) -> str:
    """Format a score: ``0.550``."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Format a difference, with its sign: ``+0.283``, ``−0.020``."""
    text = f"{value:+.3f}".replace("-", "−")
    return "0.000" if text[1:] == "0.000" else text


def whole(value: float) -> str:
    """Format a count: ``2,502``."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Format a number of any size: counts whole, others with three digits."""
    if float(value).is_integer() and abs(value) >= 1:
        return whole(value)
    return f"{value:.3g}" if abs(value) < 1000 else whole(value)


def percent(value: float) -> str:
    """Format a share: ``12.5%``."""
    if 0 < value < 0.0005:
        return "<0.1%"
    return f"{100 * value:.1f}%"


def shown(value: Any) -> str:
    """Return a parameter as text; of an absolute path, only its last part."""
    if isinstance(value, tuple | list):
        return ", ".join(shown(one) for one in value)
    if isinstance(value, str | PurePath) and PurePath(value).is_absolute():
        return f"…/{PurePath(value).name}"
    return str(value)
