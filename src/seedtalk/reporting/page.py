"""The report as one self-contained HTML page: words made of the numbers, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from seedtalk.records import Dialogue, display_title
from seedtalk.reporting import figures, signatures, tables, words
from seedtalk.reporting.inputs import NEARNESS, SLICES, Benchmark, Evidence, System, audited
from seedtalk.reporting.tables import Comparison

REVIEW_CHARS = 700
ANSWER_CHARS = 500
GAINS = {
    "js": "divergence and entropy (nats)",
    "fisher": "gain in information",
    "hybrid": "combined rank (0 to 1)",
    "kcenter": "distance to the nearest pick",
    "facility": "gain in similarity covered",
    "popularity": "interactions of the item",
}
KINDS = {
    "linked": "in the catalogue",
    "misspelt": "in the catalogue but for a letter",
    "liked": "told as liked",
    "duplicate": "listed twice",
    "near_miss": "hallucinated: the catalogue has one like it",
    "unknown": "hallucinated: nothing like it in the catalogue",
}
TAGS = {"tuned": "tuned", "zero-shot": "untouched", "blend": "with signals", "baseline": ""}
INVENTED = 10  # titles
# What audit measures, in the page's words: the heading, then name and words of each number.
QUALITY = (
    (
        "Faithful to the review",
        (
            ("fidelity_dialogues", "dialogues held against reviews"),
            ("fidelity", "cosine to the own review, mean"),
            ("fidelity_others", "to the others, mean"),
            ("fidelity_auc", "own review before another (.5 is luck)"),
            ("fidelity_recall_1", "own review first of all"),
            ("fidelity_mrr", "mean reciprocal rank of the own"),
            ("fidelity_words", "content words found in the review"),
        ),
    ),
    (
        "Diverse",
        (
            ("distinct_1", "distinct-1"),
            ("distinct_2", "distinct-2"),
            ("self_bleu", "self-BLEU"),
            ("pairwise_cosine", "cosine of two requests, mean"),
            ("vocabulary", "vocabulary, words"),
            ("compression_ratio", "compression ratio"),
            ("opening_share", "most common opening"),
            ("style_entropy", "entropy of the styles, nats"),
        ),
    ),
    (
        "Covering the catalogue",
        (
            ("items", "items asked after"),
            ("targets", "items recommended"),
            ("target_share", "of the catalogue"),
            ("target_entropy", "evenness (1 is even)"),
            ("target_gini", "Gini index (0 is even)"),
            ("genre_share", "genres recommended"),
        ),
    ),
)
NEAR = {
    "target_coverage": "targets learnt",
    "nearest_cosine": "nearest, cosine",
    "separability": "told apart, AUC",
    "a_distance": "A-distance",
    "length_ratio": "length ratio",
}
TITLE_CHARS = 80
REAL = "real"  # the teacher of a dialogue between people, as seedtalk.real writes it
COMMANDS = """make setup                                   # the environment
make repro                                   # the data, then every stage that changed
dvc metrics show                             # the means of this page
dvc exp run -S select.method=fisher          # one change, as an experiment
dvc exp show                                 # experiments side by side"""


def render(
    evidence: Evidence,
    compared: Mapping[str, Mapping[str, Sequence[Comparison]]],
    *,
    headline: str,
    examples: int,
    settings: Mapping[str, Any],
) -> str:
    """Return the page.

    Parameters
    ----------
    evidence
        All that was read.
    compared
        `tables.compare` of each benchmark, by its name.
    headline
        The metric put first.
    examples
        Dialogues shown beside their seed review, and quarantined answers shown, at most.
    settings
        The parameter groups of the run, by name.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("seedtalk.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        score=words.score,
        signed=words.signed,
        whole=words.whole,
        percent=words.percent,
    )
    found = signatures.find(evidence, compared)
    verdict = words.verdict(evidence, compared, headline)
    if failures := signatures.told(found):
        verdict.insert(-1, failures)  # before what made the dialogues
    return environment.get_template("report.html.j2").render(
        title=words.title(evidence, compared, headline),
        verdict=verdict,
        signatures=found,
        headline=headline,
        benchmarks=[
            _benchmark(benchmark, compared[benchmark.name], headline, number)
            for number, benchmark in enumerate(evidence.benchmarks)
        ],
        corpus=_corpus(evidence),
        selection=_selection(evidence),
        synthesis=_synthesis(evidence),
        quality=_quality(evidence),
        training=_training(evidence),
        examples=_examples(evidence, examples),
        commands=COMMANDS,
        settings=_main_settings(settings),
        parameters=parameters(settings),
    )


def _benchmark(
    benchmark: Benchmark,
    compared: Mapping[str, Sequence[Comparison]],
    headline: str,
    number: int,
) -> dict[str, Any]:
    systems = tables.ordered(benchmark, headline)
    metrics = [headline, *(m for m in systems[0].scores if m != headline)]
    best = {m: max(s.scores[m]["mean"] for s in systems) for m in metrics}
    luck = tables.chance(benchmark, headline)
    return {
        "name": benchmark.name,
        "slices": _slices(benchmark, systems, headline),
        "tiles": _tiles(systems, compared, headline),
        "protocol": words.protocol(benchmark),
        "metrics": metrics,
        "chance": luck,
        "rows": [
            {
                "name": system.name,
                "tag": TAGS[system.kind],
                "cells": [
                    {**system.scores[m], "best": system.scores[m]["mean"] == best[m]}
                    for m in metrics
                ],
            }
            for system in systems
        ],
        "figure": _inline(
            results_figure(benchmark, headline),
            f"results-{number}",
            f"{headline} of each system on {benchmark.name} with 95% intervals; the numbers are "
            "in the table.",
        ),
        "pairs": [
            {
                "subject": subject,
                "figure": _inline(
                    _differences(comparisons, headline),
                    f"pairs-{number}-{place}",
                    f"Paired differences of {headline}, {subject} minus each other system; the "
                    "numbers are in the table.",
                ),
                "rows": [
                    {"other": one.other.name, "words": one.verdict, **one.difference}
                    for one in comparisons
                ],
            }
            for place, (subject, comparisons) in enumerate(compared.items())
        ],
    }


def _slices(
    benchmark: Benchmark, systems: Sequence[System], headline: str
) -> dict[str, Any] | None:
    """Return the table of recall on targets with and without reviews; None where all are alike."""
    parts = [benchmark.slices[name] for name in SLICES]
    if not all(part.targets for part in parts):
        return None
    metric = tables.slice_metric(benchmark, headline)
    columns = [{name: found[metric] for name, found in part.scores.items()} for part in parts]
    best = [max((cell["mean"] for cell in cells.values()), default=None) for cells in columns]
    return {
        "metric": metric,
        "words": words.reviewed(benchmark),
        "counts": [part.targets for part in parts],
        "rows": [
            {
                "name": system.name,
                "tag": TAGS[system.kind],
                "cells": [
                    {**cells[system.name], "best": cells[system.name]["mean"] == top}
                    if cells
                    else None
                    for cells, top in zip(columns, best, strict=True)
                ],
            }
            for system in systems
        ],
    }


def _tiles(
    systems: Sequence[System], compared: Mapping[str, Sequence[Comparison]], headline: str
) -> list[dict[str, str]]:
    def tile(label: str, value: str, note: str) -> dict[str, str]:
        return {"label": label, "value": value, "note": note}

    def of(system: System, label: str) -> dict[str, str]:
        found = system.scores[headline]
        note = f"{headline}, {words.score(found['low'])}–{words.score(found['high'])}"
        return tile(label, words.score(found["mean"]), note)

    tiles = []
    tuned = next((s for s in systems if s.kind == "tuned"), None)
    baseline = next((s for s in systems if s.kind == "baseline"), None)
    if tuned is not None:
        tiles.append(of(tuned, f"{tuned.name}, tuned"))
        for one in compared[tuned.name]:
            if one.other.kind == "zero-shot":
                gap = one.difference
                tiles.append(of(one.other, f"{one.other.student}, untouched"))
                tiles.append(
                    tile(
                        "paired difference",
                        words.signed(gap["mean"]),
                        f"{words.signed(gap['low'])} to {words.signed(gap['high'])}",
                    )
                )
        joined = next((s for s in systems if s.alone == tuned.name), None)
        if joined is not None:
            tiles.append(of(joined, f"{tuned.name} with the signals"))
    if baseline is not None:
        tiles.append(of(baseline, f"best baseline: {baseline.name}"))
    return tiles


def results_figure(
    benchmark: Benchmark, headline: str, width: float = figures.WIDTH, heading: str = ""
) -> Any:
    """Return the interval plot of every system in `headline`, best first."""
    luck = tables.chance(benchmark, headline)
    marks = "\n◆ tuned student   ○ untouched   ■ with signals   ● baseline" if heading else ""
    return figures.intervals(
        [
            figures.Row(s.name, kind=s.kind, **s.scores[headline])
            for s in tables.ordered(benchmark, headline)
        ],
        f"{headline}, mean and 95% interval{marks}",
        None if luck is None else (luck, "chance"),
        width=width,
        title=heading,
    )


def _differences(comparisons: Sequence[Comparison], headline: str) -> Any:
    rows = [
        figures.Row(f"− {one.other.name}", kind=one.other.kind, **one.difference)
        for one in comparisons
    ]
    return figures.intervals(rows, f"difference of {headline}", (0.0, "equal"), decided=True)


def _corpus(evidence: Evidence) -> dict[str, Any]:
    corpus = evidence.corpus
    items, reviews, interactions = corpus["items"], corpus["reviews"], corpus["interactions"]
    linking = corpus.get("linking", {})
    linked = [
        (name, show(linking[key]))
        for key, name, show in (
            ("level", "linking level", str),
            ("linked", "reviews linked", words.whole),
            ("films", "films with linked reviews", words.whole),
        )
        if linking.get(key) is not None
    ]
    origin = [(str(name), words.shown(value)) for name, value in corpus.get("origin", {}).items()]
    return {
        "words": (
            f"The source {corpus['source']} holds {words.whole(reviews['read'])} reviews; "
            f"{words.whole(reviews['kept'])} are kept, of {words.whole(items['with_reviews'])} of "
            f"the {words.whole(items['kept'])} catalogue items. Beside them stand "
            f"{words.whole(interactions['kept'])} interactions of "
            f"{words.whole(interactions['users'])} users; "
            f"{words.whole(interactions['held_out_users'])} users are held out for evaluation."
        ),
        "facts": [*linked, *origin],
        "tables": [
            {"title": title, "label": "step", "unit": unit, "rows": _kept(part)}
            for title, unit, part in (
                ("Reviews kept and dropped", "reviews", reviews),
                ("Items kept and dropped", "items", items),
            )
        ],
    }


def _kept(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table from what was read to what was kept."""
    total = part["read"]
    dropped = [(words.reason(key), count) for key, count in part["dropped"].items() if count]
    return [
        _row("read", total, total),
        *(_row(f"− {name}", count, total) for name, count in dropped),
        _row("kept", part["kept"], total, strong=True),
    ]


def _row(label: str, count: int, total: int, strong: bool = False) -> dict[str, Any]:
    return {
        "label": label,
        "count": count,
        "share": words.share(count, total),
        "strong": strong,
    }


def _selection(evidence: Evidence) -> dict[str, Any]:
    selection, points = evidence.selection, evidence.points
    seeds, pool = len(evidence.gain), selection["pool"]
    shown = []
    if evidence.gain["gain"].abs().sum() > 0:
        shown.append(
            _figure(
                figures.gain(evidence.gain, GAINS.get(selection["method"], "gain")),
                "gain",
                "Gain of each pick in order.",
                "How popular the item of each pick is."
                if selection["method"] == "popularity"
                else "What each pick added when it was made. Where the curve has flattened, "
                "further seeds say little that is new.",
            )
        )
    shown.append(
        _figure(
            figures.cluster_shares(
                *tables.cluster_shares(
                    selection["pool_per_cluster"], selection["picks_per_cluster"]
                )
            ),
            "clusters",
            "Share of each cluster in the pool and among the seeds.",
            "Each cluster's share of the pool (bars) and of the seeds (diamonds). A diamond "
            "above its bar: the selection prefers that kind of review.",
        )
    )
    if evidence.gains["share"].notna().any():
        shown.append(
            _figure(
                figures.gain_shares(
                    evidence.gains, selection["method"], selection["stopping"]["budget"]
                ),
                "gains",
                "Gains of every compared strategy as shares of its reference gain.",
                "What each pick of a strategy gains, as a share of its reference: its first gain, "
                "but the second of js and kcenter, whose first pick is no distance to a seed. A "
                "curve that falls early says that a smaller budget would do."
                + _after_seeds(selection)
                + (
                    " Dashed upright: the stopping advice."
                    if selection["stopping"]["budget"] is not None
                    else ""
                ),
            )
        )
    whole = evidence.overlap[evidence.overlap["budget"] == evidence.overlap["budget"].max()]
    if len(whole):
        expected = selection["diagnostics"]["chance_overlap"]
        shown.append(
            _figure(
                figures.overlap(whole),
                "overlap",
                "Matrix of the overlap between the picks of every two strategies.",
                "Jaccard similarity of the picks of each two strategies: 1 is the same seeds. Two "
                f"random selections of this size share {expected:.2f}.",
            )
        )
    sampled = f"{words.whole(len(points))} of " if len(points) < pool else ""
    shown.append(
        _figure(
            figures.cluster_map(points),
            "map",
            "Scatter plot of the pool and the seeds on two principal components.",
            f"The pool ({sampled}{words.whole(pool)} reviews, grey) and the {words.whole(seeds)} "
            "seeds (coloured by pick) on the pool's first two principal components. Seeds that "
            "cover the cloud, edges included, are spread; a clump says the opposite.",
        )
    )
    items = selection["distinct_items"]
    return {
        "words": (
            f"{words.whole(seeds)} of {words.whole(pool)} reviews were selected with the method "
            f"{selection['method']} on the signal {selection['signal']}. They cover "
            f"{words.whole(items)} of the pool's {words.whole(selection['pool_items'])} items, "
            f"{seeds / items:.1f} seeds an item on average and "
            f"{words.whole(selection['most_per_item'])} at most."
        ),
        "facts": [
            ("clusters", words.whole(selection["clusters"])),
            ("softmax temperature τ", f"{selection['temperature']:.4g}"),
            ("mean entropy of p, nats", f"{selection['mean_entropy']:.3f}"),
            ("share of the highest entropy", words.percent(selection["entropy_share"])),
            *_audit(selection["diagnostics"]),
        ],
        "figures": shown,
        "warnings": selection["diagnostics"]["warnings"],
        "stopping": _stopping(selection, seeds),
        "strategies": _strategies(selection),
    }


def _audit(diagnostics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of clusters and embedding that explain a weak selection."""
    clusters, embedding = diagnostics["clusters"], diagnostics["embedding"]
    wanted = (
        ("silhouette of the clusters", clusters["silhouette"]),
        ("clusters as even as", clusters["occupied"]),
        ("near one-hot p", words.percent(clusters["one_hot_share"])),
        ("mean cosine of two reviews", embedding["mean_cosine"]),
        ("effective rank", f"{embedding['effective_rank']:.1f} of {embedding['features']}"),
        ("hubness (skewness)", embedding["hubness"]),
        ("copies in the pool", words.percent(embedding["duplicate_share"])),
    )
    return [(name, _told(value)) for name, value in wanted]


def _told(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else words.compact(value)


def _strategies(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of strategies, chance last; columns as the diagnostics name them."""
    columns = {
        "log_det": "log-determinant",
        "js_to_pool": "JS to the pool",
        "coverage": "coverage",
        "radius": "radius",
        "outlier_share": "outliers",
        "distinct_items": "items",
        "item_entropy": "item entropy",
    }
    rows = [
        {
            "name": name,
            "chosen": name == selection["method"],
            "cells": [words.compact(numbers[key]) for key in columns],
        }
        for name, numbers in selection["strategies"].items()
    ]
    chance = [selection["random_interval"][key] for key in columns]
    return {
        "columns": list(columns.values()),
        "rows": rows,
        "chance": [f"{words.compact(low)}–{words.compact(high)}" for low, high in chance],
    }


def _after_seeds(selection: Mapping[str, Any]) -> str:
    """Return what a warm start changes in the reference gains."""
    if not selection.get("warm_start") or selection["stopping"].get("reference") is None:
        return ""
    return (
        f" {selection['method']} is held against the gains of the seeds there were; the other "
        "strategies against their own first new one."
    )


def _stopping(selection: Mapping[str, Any], seeds: int) -> str:
    stopping = selection["stopping"]
    if stopping.get("reference") is None:
        return (
            f"The gains of {selection['method']} are no amounts, so there is no budget to advise."
        )
    share = words.percent(stopping["share"])
    if stopping["budget"] is None:
        return (
            f"Stopping advice: the gains have not fallen for good under {share} of the "
            f"reference gain within {words.whole(seeds)} picks; a larger budget still adds."
        )
    if stopping["budget"] == 0:
        return (
            f"Stopping advice: none of the new picks gains {share} of the reference gain; the "
            "seeds there were would do."
        )
    return (
        f"Stopping advice: from pick {words.whole(stopping['budget'] + 1)} on, none gains "
        f"{share} of the reference gain; a budget of {words.whole(stopping['budget'])} would do."
    )


def _synthesis(evidence: Evidence) -> dict[str, Any]:
    teacher, synthesis = evidence.teacher, evidence.synthesis
    asked, rate = teacher["requests"], synthesis["hallucination_rate"]
    reasons = sorted(synthesis["quarantined"].items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "words": (
            f"Of {words.whole(asked)} requests to the teacher {teacher['model']}, "
            f"{words.whole(teacher['answered'])} were answered and "
            f"{words.whole(synthesis['kept'])} became dialogues. They are about "
            f"{words.whole(synthesis['distinct_items'])} items and recommend "
            f"{words.whole(synthesis['distinct_targets'])} different ones. A title that is not in "
            "the catalogue counts as hallucinated and is never a target."
        ),
        "facts": [
            ("teacher", teacher["model"]),
            ("backend", teacher["backend"]),
            ("grounding", synthesis["grounding"]),
            ("recommendations by", synthesis["targets"]),
            ("titles the teacher listed", words.whole(synthesis["titles_listed"])),
            ("of them hallucinated", "–" if rate is None else words.percent(rate)),
            ("nearest to an evaluation, cosine", _nearest(synthesis["contamination"]["max"])),
            ("tokens read", _known(teacher["tokens"]["input"])),
            ("tokens written", _known(teacher["tokens"]["output"])),
            ("cost of these answers", _dollars(teacher["usd"])),
            ("calls made", words.whole(teacher["spent"]["calls"])),
            ("spent, retries and repairs included", _dollars(teacher["spent"]["usd"])),
        ],
        "funnel": [
            _row("requests", asked, asked),
            _row("answered", teacher["answered"], asked),
            _row("kept", synthesis["kept"], asked, strong=True),
            _row("for training", synthesis["train"], asked),
            _row("for validation", synthesis["valid"], asked),
        ],
        "reasons": [_row(words.reason(key), count, asked) for key, count in reasons if count],
        "kinds": [
            _row(KINDS[kind], count, synthesis["titles_listed"])
            for kind, count in synthesis["hallucination"]["kinds"].items()
            if count
        ],
        "styles": [
            (name, words.whole(part["listed"]), words.percent(part["rate"]))
            for name, part in synthesis["hallucination"]["by_style"].items()
            if part["rate"] is not None
        ]
        if synthesis["hallucination"]["titles"]
        else [],
        "invented": [
            (words.shortened(one["title"], TITLE_CHARS), words.whole(one["count"]))
            for one in synthesis["hallucination"]["titles"][:INVENTED]
        ],
    }


def _quality(evidence: Evidence) -> dict[str, Any]:
    """Return what audit measured: three lists of facts, and a row for each benchmark."""
    quality = evidence.quality
    return {
        "groups": [
            (heading, [(about, _told(quality[name])) for name, about in group])
            for heading, group in QUALITY
        ],
        "columns": [NEAR[name] for name in NEARNESS],
        "rows": [
            (
                benchmark.name,
                [_told(quality[audited(benchmark.name, name)]) for name in NEARNESS],
            )
            for benchmark in evidence.benchmarks
        ],
    }


def _nearest(cosine: float | None) -> str:
    """Return how alike the likest dialogue and evaluation conversation are."""
    return "not measured" if cosine is None else f"{cosine:.2f} at most"


def _known(count: int | None) -> str:
    return "unknown" if count is None else words.whole(count)


def _dollars(usd: float | None) -> str:
    return "unknown" if usd is None else f"${usd:,.2f}"


def _training(evidence: Evidence) -> dict[str, Any]:
    shown = []
    for place, (name, frame) in enumerate(evidence.losses.items()):
        if frame.empty:
            continue
        shown.append(
            _figure(
                figures.losses(frame),
                f"loss-{place}",
                f"Training and validation loss of {name}.",
                f"{name}: loss on the assistant's tokens. The model of the lowest validation loss "
                "(filled) is the one kept; step 0 is the untouched model. A rising validation "
                "curve means over-fitting.",
            )
        )
    text = (
        "Loss is the mean negative log-likelihood of the assistant's tokens; the seeker's words "
        "are read but not learnt."
        if shown
        else "No student was trained in this run."
    )
    return {"words": text, "figures": shown}


def _examples(evidence: Evidence, count: int) -> dict[str, Any]:
    texts = dict(zip(evidence.reviews["review_id"], evidence.reviews["text"], strict=True))
    titles = {
        item: display_title(title, year)
        for item, title, year in evidence.items[["item_id", "title", "year"]].to_numpy()
    }
    return {
        "words": (
            "Training dialogues, beside the review where one was made of it, drawn by a hash of "
            "their id, not picked by hand."
        ),
        "dialogues": [
            {
                "title": titles.get(dialogue.item_id, "An item of another catalogue"),
                "style": dialogue.style,
                "origin": _origin(dialogue),
                "review": words.shortened(str(texts.get(dialogue.review_id, "")), REVIEW_CHARS),
                "messages": [m for m in dialogue.messages if m.role != "system"],
            }
            for dialogue in tables.choose_dialogues(evidence.train, count)
        ],
        "quarantined": [
            {
                "reason": words.reason(record.reason),
                "detail": words.shortened(record.detail, ANSWER_CHARS),
                "text": words.shortened(record.text, ANSWER_CHARS),
            }
            for record in tables.choose_rejected(evidence.quarantine, count)
        ],
    }


def _origin(dialogue: Dialogue) -> str:
    """Say where a dialogue without a review of this run is from; empty for one that has it."""
    if dialogue.review_id:
        return ""
    if dialogue.teacher == REAL:
        return "A real dialogue, between people."
    return "From another domain's run; its review is not in this corpus."


def _main_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    wanted = (
        "seed", "students", "tunings", "benchmarks", "embed.encoder", "select.method",
        "select.signal", "select.budget", "prompt.grounding", "prompt.targets", "teacher.backend",
        "teacher.model", "finetune.epochs", "evaluate.candidates",
    )  # fmt: skip
    every = dict(parameters(settings))
    return [(name, every[name]) for name in wanted if name in every]


def parameters(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten the groups; what names a place on this machine is left out."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, BaseModel):
            rows += [(f"{name}.{key}", words.shown(v)) for key, v in value]
        else:
            rows.append((name, words.shown(value)))
    # An endpoint may carry a credential or an inner host's name.
    return [(n, "set" if n == "teacher.base_url" and v else v) for n, v in rows]


def _inline(figure: Any, name: str, about: str) -> Any:
    from markupsafe import Markup

    return Markup(figures.svg(figure, name, about))  # noqa: S704 - svg() escapes every text


def _figure(figure: Any, name: str, about: str, caption: str) -> dict[str, Any]:
    return {"svg": _inline(figure, name, about), "caption": caption}
