"""How the method is known to fail, looked for in a run: each by a stated rule and its numbers.

A signature is shown only where the numbers cross the lines drawn here; where there is an
interval, only if it excludes zero. The lines are rules of thumb, justified one by one;
docs/diagnostics.md has them for readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seedtalk.reporting import words
from seedtalk.reporting.inputs import Benchmark, Evidence, audited
from seedtalk.reporting.tables import Comparison

if TYPE_CHECKING:
    import pandas as pd

Found = Literal["shown", "not shown", "cannot tell"]

GENERIC, RANDOM = "generic queries", "random ahead of active selection"
WORSE, MISMATCH = "tuned worse than zero-shot", "distribution mismatch"
OVER_FITTING, FORGETTING = "over-fitting", "forgetting"

# Generic queries, two of four. People who ask for films open in many ways (the commonest has
# .03 to .07 of them on INSPIRED and ReDial): a fifth with the same three words is a template.
# Their self-BLEU is .27 to .40, their distinct pairs of words .49 to .67 in 94 to 287 requests;
# the latter fall as text grows. Requests about different films that are as alike as .5 on average
# say little of their film (two reviews are at about .25).
OPENINGS = 0.2
REPEATED = 0.6
DISTINCT = 0.2
ALIKE = 0.5
# Random ahead: below the middle 95% of random selections in two of three. One alone may be what a
# strategy pays for what it maximises.
ACTIVE = {"coverage": "coverage", "log_det": "log-determinant", "distinct_items": "items"}
TWO = 2
# Mismatch: texts of two sources can nearly always be told apart by their style, so that telling
# them apart, nine pairs of ten, does not suffice; one of the others must say in what they differ.
SEPARABLE = 0.9
NEAREST = 0.5  # two reviews of one domain, on whatever, are at about .25
LENGTHS = 2.0  # times as long or as short
COVERED = 0.5  # of what is to be found, half is never recommended in training
# Over-fitting: a judgement, as is the next; neither comes from a measurement.
RISE = 0.05
# Forgetting: the words of the seeker, which are not learnt, surprise the model more: its
# perplexity on them is over a tenth higher than it was.
FORGOT = 0.1

ADVICE = {
    GENERIC: "another teacher or a higher teacher.temperature, more of prompt.styles, a lower "
    "curate.near_duplicate or select.max_per_item",
    RANDOM: "select.method facility, fisher or hybrid, another embed.encoder, or random itself; "
    "run the ablation before trusting either",
    WORSE: "what helps against the causes shown; where none is, more seeds or a lower "
    "finetune.learning_rate",
    MISMATCH: "prompt.styles like the requests to come, more prompt.turns, "
    "prompt.targets=collaborative or seeds of more items, curate.train_on=both with real dialogues",
    OVER_FITTING: "fewer finetune.epochs, more finetune.evaluations, a lower "
    "finetune.learning_rate, a smaller lora_r, more seeds",
    FORGETTING: "lora in place of full, fewer lora_layers, a lower finetune.learning_rate, fewer "
    "finetune.epochs",
}


@dataclass(frozen=True)
class Signature:
    """A way to fail, and whether this run shows it.

    Attributes
    ----------
    name
        Which.
    about
        The benchmark or student it is of; empty of the whole run.
    found
        Whether it is shown.
    numbers
        What was looked at: label and value, as they are printed.
    sentence
        What they say.
    """

    name: str
    about: str
    found: Found
    numbers: tuple[tuple[str, str], ...]
    sentence: str

    @property
    def advice(self) -> str:
        """What to try where it is shown."""
        return ADVICE[self.name]


def find(
    evidence: Evidence, compared: Mapping[str, Mapping[str, Sequence[Comparison]]]
) -> list[Signature]:
    """Look for every signature.

    Parameters
    ----------
    evidence
        What `read_evidence` returned.
    compared
        `tables.compare` of each benchmark, by its name.

    Returns
    -------
    list of Signature
        Of the run; then of each benchmark and tuned student.
    """
    quality = evidence.quality
    apart = {b.name: mismatch(b.name, quality) for b in evidence.benchmarks}
    fitted = {name: over_fitting(name, frame) for name, frame in evidence.losses.items()}
    forgot = {name: forgetting(name, frame) for name, frame in evidence.losses.items()}
    return [
        generic(quality),
        behind_random(evidence.selection),
        *(
            worse(benchmark, comparisons, [apart[benchmark.name], fitted[name], forgot[name]])
            for benchmark in evidence.benchmarks
            for name, comparisons in compared[benchmark.name].items()
            if comparisons and comparisons[0].subject.kind == "tuned"
        ),
        *apart.values(),
        *fitted.values(),
        *forgot.values(),
    ]


def told(signatures: Sequence[Signature]) -> str | None:
    """Return a sentence that names what is shown; None where nothing is."""
    shown = [s for s in signatures if s.found == "shown"]
    if not shown:
        return None
    about: dict[str, list[str]] = {}
    for one in shown:
        about.setdefault(one.name, []).extend([one.about] if one.about else [])
    named = [f"{name} ({words.listed(of)})" if of else name for name, of in about.items()]
    return (
        f"Known ways to fail that this run shows: {words.listed(named)}. The numbers and what to "
        "try are under “What may be wrong”."
    )


def generic(quality: Mapping[str, Any]) -> Signature:
    """Say whether the seekers' requests are all alike."""
    opening, repeated, pairs, alike = (
        quality.get(name)
        for name in ("opening_share", "self_bleu", "distinct_2", "pairwise_cosine")
    )
    numbers = (
        (
            f"commonest opening (worry over {words.percent(OPENINGS)})",
            "not measured" if opening is None else words.percent(opening),
        ),
        (f"self-BLEU (worry over {REPEATED:g})", _told(repeated)),
        (f"distinct pairs of words (worry under {DISTINCT:g})", _told(pairs)),
        (f"cosine of two requests (worry over {ALIKE:g})", _told(alike)),
    )
    crossed = [
        opening is not None and opening > OPENINGS,
        repeated is not None and repeated > REPEATED,
        pairs is not None and pairs < DISTINCT,
        alike is not None and alike > ALIKE,
    ]
    if sum(crossed) >= TWO:
        text = "Many requests say the same: two of four lines or more are crossed."
        return Signature(GENERIC, "", "shown", numbers, text)
    if sum(crossed) + (opening, repeated, pairs, alike).count(None) >= TWO:
        text = "Too few of the measures are defined here."
        return Signature(GENERIC, "", "cannot tell", numbers, text)
    text = "The requests open and go on in different ways."
    if any(crossed):
        text = "One of four lines is crossed, which is not enough to call the requests generic."
    return Signature(GENERIC, "", "not shown", numbers, text)


def behind_random(selection: Mapping[str, Any]) -> Signature:
    """Say whether the seeds are worse than 20 random selections of as many."""
    method = selection["method"]
    own, chance = selection["strategies"].get(method, {}), selection["random_interval"]
    held = [name for name in ACTIVE if name in own and name in chance]
    numbers = tuple(
        (
            ACTIVE[name],
            f"{words.compact(own[name])} (random {words.compact(chance[name][0])}–"
            f"{words.compact(chance[name][1])})",
        )
        for name in held
    )
    if method == "random" or len(held) < len(ACTIVE):
        reason = (
            "The seeds are random: there is no active selection to hold against chance."
            if method == "random"
            else "The selection was not held against random ones by these measures."
        )
        return Signature(RANDOM, "", "cannot tell", numbers, reason)
    below = [ACTIVE[name] for name in held if own[name] < chance[name][0]]
    if len(below) >= TWO:
        text = (
            f"{method} lies below the middle 95% of random selections in {words.listed(below)}. "
            "Whether the student is worse for it only runs with both kinds of seeds can say."
        )
        return Signature(RANDOM, "", "shown", numbers, text)
    text = f"{method} is not below chance in more than one of these."
    return Signature(RANDOM, "", "not shown", numbers, text)


def worse(
    benchmark: Benchmark, comparisons: Sequence[Comparison], causes: Sequence[Signature]
) -> Signature:
    """Say whether tuning hurt on a benchmark, and which of its causes are shown.

    Parameters
    ----------
    benchmark
        Where.
    comparisons
        Of one tuned student.
    causes
        Mismatch of the benchmark, over-fitting and forgetting of the student.
    """
    name = comparisons[0].subject.name
    about = f"{name} on {benchmark.name}"
    own = next((one for one in comparisons if one.other.kind == "zero-shot"), None)
    if own is None:
        return Signature(
            WORSE, about, "cannot tell", (), "The untouched student was not evaluated."
        )
    gap = own.difference
    numbers = (
        (
            "tuned minus zero-shot, 95%",
            f"{words.signed(gap['mean'])} ({words.signed(gap['low'])} to "
            f"{words.signed(gap['high'])})",
        ),
    )
    if own.verdict == "ahead":
        return Signature(WORSE, about, "not shown", numbers, "Tuning helped.")
    if own.verdict != "behind":
        text = "The interval includes zero: neither help nor harm is shown."
        return Signature(WORSE, about, "cannot tell", numbers, text)
    shown = [cause.name for cause in causes if cause.found == "shown"]
    unknown = [cause.name for cause in causes if cause.found == "cannot tell"]
    if shown:
        text = f"Tuning hurt. Of the causes looked for, {words.listed(shown)} "
        text += "is shown." if len(shown) == 1 else "are shown."
    else:
        text = "Tuning hurt, and none of the causes looked for is shown."
    if unknown:
        text += f" Nothing is known of {words.listed(unknown)}."
    return Signature(WORSE, about, "shown", numbers, text)


def mismatch(benchmark: str, quality: Mapping[str, Any]) -> Signature:
    """Say whether the dialogues are unlike what a benchmark asks."""

    def of(name: str) -> float | None:
        value = quality.get(audited(benchmark, name))
        return None if value is None else float(value)

    separable, nearest = of("separability"), of("nearest_cosine")
    length, covered = of("length_ratio"), of("target_coverage")
    numbers = (
        (f"told apart, AUC (worry over {SEPARABLE:g})", _told(separable)),
        (f"cosine to the nearest (worry under {NEAREST:g})", _told(nearest)),
        (f"length, times (worry beyond {LENGTHS:g} or 1/{LENGTHS:g})", _told(length)),
        (f"targets ever recommended (worry under {COVERED:g})", _told(covered)),
    )
    differs = []
    if nearest is not None and nearest < NEAREST:
        differs.append("little like them was learnt")
    if length is not None and not 1 / LENGTHS <= length <= LENGTHS:
        differs.append("the dialogues' are " + ("longer" if length > 1 else "shorter"))
    if covered is not None and covered < COVERED:
        differs.append("most of their targets are never recommended")
    if separable is None:
        text = "The dialogues were not held against this benchmark's requests."
        return Signature(MISMATCH, benchmark, "cannot tell", numbers, text)
    if separable <= SEPARABLE:
        text = "A classifier confuses the dialogues' requests with the benchmark's often enough."
        return Signature(MISMATCH, benchmark, "not shown", numbers, text)
    if differs:
        text = (
            f"The benchmark's requests are told from the dialogues', and {words.listed(differs)}."
        )
        return Signature(MISMATCH, benchmark, "shown", numbers, text)
    if None in (nearest, length, covered):
        text = "The requests are told apart; in what they differ was not measured in full."
        return Signature(MISMATCH, benchmark, "cannot tell", numbers, text)
    text = (
        "The requests are told apart, but neither by likeness, nor length, nor targets: by style."
    )
    return Signature(MISMATCH, benchmark, "not shown", numbers, text)


def over_fitting(student: str, history: pd.DataFrame) -> Signature:
    """Say whether the validation loss rose while the training loss fell.

    Parameters
    ----------
    student
        Whose history.
    history
        ``step``, ``loss`` and ``eval_loss``; step 0 is the untouched model.
    """
    looks = history.dropna(subset=["eval_loss"])
    loss = history.dropna(subset=["loss"])
    after = looks[looks["step"] > 0]
    if len(looks) < TWO or after.empty or loss.empty:
        text = "Too few looks at the validation loss; raise finetune.evaluations."
        return Signature(OVER_FITTING, student, "cannot tell", (), text)
    best, last = _lowest(looks), after.iloc[-1]
    kept = _lowest(after)
    rise = float(last["eval_loss"] / best["eval_loss"] - 1)
    tenth = max(1, len(loss) // 10)
    until = loss[loss["step"] <= best["step"]]
    then = float((until.tail(tenth) if len(until) else loss.head(tenth))["loss"].mean())
    end = float(loss.tail(tenth)["loss"].mean())
    numbers = (
        ("training loss, then and at the end", f"{then:.3f} → {end:.3f}"),
        (
            "validation loss, best and at the end",
            f"{best['eval_loss']:.3f} (step {best['step']:.0f}) → {last['eval_loss']:.3f}",
        ),
        (f"rise (worry over {words.percent(RISE)})", words.percent(rise)),
    )
    if rise <= RISE:
        text = "The validation loss ended at or near its best."
        return Signature(OVER_FITTING, student, "not shown", numbers, text)
    if end >= then:
        text = "Both losses rose: the training is unstable; lower finetune.learning_rate."
        return Signature(OVER_FITTING, student, "not shown", numbers, text)
    text = "The training loss fell on while the validation loss rose. " + (
        f"The weights kept are those of step {kept['step']:.0f}."
        if best["step"]
        else "No look was better than the untouched model, so what is kept is worse than that."
    )
    return Signature(OVER_FITTING, student, "shown", numbers, text)


def forgetting(student: str, history: pd.DataFrame) -> Signature:
    """Say whether the words that are not learnt have become more surprising.

    Parameters
    ----------
    student
        Whose history.
    history
        ``step``, ``eval_loss`` and ``context_loss``; step 0 is the untouched model.
    """
    looks = history.dropna(subset=["eval_loss", "context_loss"])
    before, after = looks[looks["step"] == 0], looks[looks["step"] > 0]
    if before.empty or after.empty:
        text = "The seeker's words were not scored before and after."
        return Signature(FORGETTING, student, "cannot tell", (), text)
    kept = _lowest(after)
    was, now = float(before["context_loss"].iloc[0]), float(kept["context_loss"])
    more = math.expm1(min(now - was, 50.0))  # a rise that no float could tell
    numbers = (
        ("loss on the seeker's words, untouched and kept", f"{was:.3f} → {now:.3f}"),
        (f"perplexity, change (worry over {words.percent(FORGOT)})", words.percent(more)),
    )
    if more > FORGOT:
        text = "What the model could read before, it reads worse now."
        return Signature(FORGETTING, student, "shown", numbers, text)
    text = "The model reads the seeker's words about as well as before."
    if more < -FORGOT:
        text = "The model reads the seeker's words better than before."
    return Signature(FORGETTING, student, "not shown", numbers, text)


def _lowest(looks: pd.DataFrame) -> Any:
    """Return the row of the lowest validation loss, the first of equal ones."""
    return looks.sort_values("eval_loss", kind="stable").iloc[0]


def _told(value: float | None) -> str:
    return "not measured" if value is None else words.compact(value)
