import dataclasses
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.records import Dialogue, Message, Rejected, write_json
from seedtalk.reporting import figures, page, tables, terminal, words
from seedtalk.reporting.inputs import Benchmark, System
from seedtalk.reporting.tables import Comparison


def interval(mean, half=0.05):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def with_interval(mean, **more):
    """A system's part of metrics.json."""
    ends = interval(mean)
    return {
        "recall@10": mean,
        **more,
        "recall@10_low": ends["low"],
        "recall@10_high": ends["high"],
    }


def system(name, mean, kind="baseline", queries=None):
    student = None if kind == "baseline" else name.removesuffix("-lora").removesuffix("-zero-shot")
    return System(name, kind, student, {"recall@10": interval(mean)}, queries)


TUNED = system("tiny-lora", 0.55, "tuned")
ZERO = system("tiny-zero-shot", 0.25, "zero-shot")
NEAR = system("neighbours", 0.7)
POPULAR = system("popularity", 0.54)
PROTOCOL = {
    "candidates": 50,
    "decoding": "exact",
    "queries": 120,
    "conversations": 100,
    "chance": {"recall@10": 0.2},
}


def evidence(
    benchmark="likes",
    backend="extractive",
    model="extractive",
    candidates=50,
    grounding="review",
    targets="collaborative",
):
    return SimpleNamespace(
        benchmarks=[
            Benchmark(benchmark, {**PROTOCOL, "candidates": candidates}, [TUNED, ZERO], {})
        ],
        corpus={"source": "quickstart"},
        selection={"pool": 2500},
        teacher={"backend": backend, "model": model, "requests": 400},
        synthesis={"train": 360, "grounding": grounding, "targets": targets},
    )


def compared(zero=0.3, near=-0.15, popular=0.01, benchmark="likes"):
    return {
        benchmark: {
            "tiny-lora": [
                Comparison(TUNED, ZERO, interval(zero)),
                Comparison(TUNED, NEAR, interval(near)),
                Comparison(TUNED, POPULAR, interval(popular)),
            ]
        }
    }


# --- words


def test_the_verdict_says_what_helped_who_is_ahead_and_by_how_much():
    first, second = words.verdict(evidence(), compared(), "recall@10")
    assert "tiny-lora reaches recall@10 of 0.550 (95% interval 0.500 to 0.600)" in first
    assert "+0.300 (+0.250 to +0.350), so the training data helped" in first
    assert "Clearly ahead of it: neighbours (+0.150)." in first
    assert "Too close to call: popularity (−0.010)." in first
    assert "not one" in second and "proxy" in second and "50 candidates" in second
    assert "360 training dialogues" in second
    assert "400 seeds out of 2,500 reviews (quickstart)" in second
    assert "what the same users liked" in second and "ungrounded" not in second


@pytest.mark.parametrize(
    ("zero", "said", "headline"),
    [
        (0.3, "helped: the interval excludes zero", "Tuning lifts tiny"),
        (-0.3, "hurt: the interval excludes zero", "Tuning lowers tiny"),
        (0.02, "no effect is shown: the interval includes zero", "Tuning does not clearly move"),
        (-0.02, "no effect is shown: the interval includes zero", "Tuning does not clearly move"),
    ],
)
def test_the_verdict_on_tuning_follows_the_interval(zero, said, headline):
    assert said in words.verdict(evidence(), compared(zero), "recall@10")[0]
    assert words.title(evidence(), compared(zero), "recall@10").startswith(headline)


def test_an_interval_that_touches_zero_decides_nothing():
    touching = Comparison(TUNED, ZERO, {"mean": 0.1, "low": 0.0, "high": 0.2})
    assert touching.verdict == "too close to call"


def test_the_title_names_baselines_that_are_ahead():
    assert words.title(evidence(), compared(), "recall@10").endswith("neighbours is still ahead")
    both = words.title(evidence(), compared(popular=-0.2), "recall@10")
    assert both.endswith("neighbours and popularity are still ahead")
    none = words.title(evidence(), compared(near=0.2), "recall@10")
    assert none.endswith("no baseline is clearly ahead of it")
    first, _ = words.verdict(evidence(), compared(near=0.2), "recall@10")
    assert "No baseline is clearly ahead of it." in first


def test_without_a_tuned_student_the_page_says_so():
    nothing = {"likes": {}}
    assert "no student was tuned" in words.title(evidence(), nothing, "recall@10")
    assert "no tuned student" in words.verdict(evidence(), nothing, "recall@10")[0]


def test_without_zero_shot_nothing_is_said_of_it():
    alone = {"likes": {"tiny-lora": [Comparison(TUNED, NEAR, interval(-0.1))]}}
    assert words.title(evidence(), alone, "recall@10").startswith("tiny-lora reaches recall@10")
    assert "Untouched" not in words.verdict(evidence(), alone, "recall@10")[0]


def test_caveats_hold_only_where_they_are_true():
    plain = " ".join(
        words.verdict(
            evidence("redial", "openai", "gpt-x", 0), compared(benchmark="redial"), "recall@10"
        )
    )
    assert "proxy" not in plain and "candidates" not in plain and "stands in" not in plain
    assert "the teacher gpt-x, a language model (openai backend)" in plain
    bare = words.teacher(evidence(grounding="none", targets="teacher"))
    assert "ungrounded baseline" in bare and "are the teacher's" in bare


@pytest.mark.parametrize(("copied", "idle"), [(0.2, True), (0.25, True), (0.26, False)])
def test_copying_that_scores_as_chance_does_is_said_to_have_nothing_to_copy(copied, idle):
    found = evidence()
    found.benchmarks[0].systems.extend([system("random", 0.2), system("copy-context", copied)])
    said = words.verdict(found, compared(), "recall@10")[-1]
    sentence = (
        "copy-context has nothing to copy here: named items are no candidates, so it ranks by "
        "chance."
    )
    assert (sentence in said) is idle
    more = evidence("redial").benchmarks
    found.benchmarks.extend(more)
    both = {**compared(), **compared(benchmark="redial")}
    assert ("nothing to copy on likes:" in words.verdict(found, both, "recall@10")[-1]) is idle


def test_copying_is_not_spoken_of_where_it_was_not_measured():
    assert "copy" not in words.verdict(evidence(), compared(), "recall@10")[-1]


def test_numbers_are_formatted():
    assert [words.signed(v) for v in (0.2834, -0.02, -0.0001, 0.0)] == [
        "+0.283",
        "−0.020",
        "0.000",
        "0.000",
    ]
    assert words.whole(2502) == "2,502" and words.percent(0.125) == "12.5%"
    assert words.percent(0.0001) == "<0.1%" and words.percent(0.0) == "0.0%"
    assert words.reason("leak") == "names a title it recommends"
    assert words.reason("odd_new_reason") == "odd new reason"
    assert words.listed(["a", "b", "c"]) == "a, b and c"


@given(st.text(), st.integers(20, 60))
def test_shortened_text_is_a_beginning_within_the_limit(text, limit):
    cut = words.shortened(text, limit)
    flat = " ".join(text.split())
    assert len(cut) <= limit + 1
    assert cut == flat or flat.startswith(cut.removesuffix(" …"))


def test_a_place_on_this_machine_is_not_shown():
    assert words.shown("/home/me/models/llama") == "…/llama"
    assert words.shown(("a", "/srv/b")) == "a, …/b"
    from seedtalk.params import load_params

    params = load_params(pytest.importorskip("pathlib").Path("params.yaml"))
    teacher = params.teacher.model_copy(update={"base_url": "http://user:key@inner.example/v1"})
    rows = dict(page.parameters({"seed": 3, "teacher": teacher}))
    assert rows["teacher.base_url"] == "set" and rows["seed"] == "3"
    assert "key" not in "".join(rows.values())


# --- a student with the signals


ALONE = system("tiny-lora", 0.55, "tuned")
BLEND = System("tiny-lora-blend", "blend", "tiny", {"recall@10": interval(0.8)}, None, "tiny-lora")
OTHER = System(
    "tiny-zero-shot-blend", "blend", "tiny", {"recall@10": interval(0.7)}, None, "tiny-zero-shot"
)
SIGNALS = system("signals", 0.65)


def blended(adds=0.15, tuning=0.1, near=0.1):
    """The student's comparisons after the blend's, which is the better one."""
    return {
        "likes": {
            "tiny-lora-blend": [
                Comparison(BLEND, ALONE, interval(0.25)),
                Comparison(BLEND, ZERO, interval(0.55)),
                Comparison(BLEND, OTHER, interval(tuning)),
                Comparison(BLEND, SIGNALS, interval(adds)),
                Comparison(BLEND, NEAR, interval(near)),
            ],
            **compared()["likes"],
        }
    }


def test_the_student_comes_before_its_blend():
    first, second, _ = words.verdict(evidence(), blended(), "recall@10")
    assert first.startswith("On likes, tiny-lora reaches recall@10 of 0.550")
    assert second.startswith(
        "Joined with the domain's own signals on likes, tiny-lora-blend reaches recall@10 of 0.800 "
        "(95% interval 0.750 to 0.850)."
    )
    assert second.endswith("No baseline is clearly ahead of it. Clearly behind it: neighbours "
                           "(−0.100).")  # fmt: skip
    assert second.count("signals") == 2  # told by what the student adds, not as a baseline


@pytest.mark.parametrize(
    ("gap", "adds", "tuning"),
    [
        (0.1, "the student adds to them", "its tuning counts in the blend too"),
        (-0.1, "the student takes from them", "its tuning hurts the blend"),
        (0.01, "nothing is shown to be added by the student", "its tuning is not shown to count"),
    ],
)
def test_what_the_student_adds_follows_the_interval(gap, adds, tuning):
    told = words.verdict(evidence(), blended(adds=gap, tuning=gap), "recall@10")[1]
    ends = f"({words.signed(gap - 0.05)} to {words.signed(gap + 0.05)})"
    assert f"reach 0.650; the paired difference is {words.signed(gap)} {ends}, so {adds}" in told
    assert f"they reach 0.700; the paired difference is {words.signed(gap)} {ends}, so" in told
    assert tuning in told


@pytest.mark.parametrize(
    ("near", "adds", "end"),
    [
        (0.1, 0.1, "joined with the signals 0.800; ahead of every baseline"),
        (0.01, 0.1, "0.800; no baseline is clearly ahead of it"),
        (-0.1, 0.1, "0.800; neighbours is still ahead"),
        (-0.1, -0.1, "0.800; signals and neighbours are still ahead"),
    ],
)
def test_the_title_ends_with_the_blend(near, adds, end):
    title = words.title(evidence(), blended(near=near, adds=adds), "recall@10")
    assert title.startswith("Tuning lifts tiny: recall@10 on likes 0.250")
    assert title.endswith(end)


def test_a_sentence_names_a_few_baselines():
    many = [Comparison(TUNED, system(f"b{n}", 0.1), interval(0.4)) for n in range(9)]
    told = words.verdict(evidence(), {"likes": {"tiny-lora": many}}, "recall@10")[0]
    assert told.endswith("Clearly behind it: b0 (−0.400), b1 (−0.400), b2 (−0.400) and 6 more.")
    told = words.verdict(evidence(), {"likes": {"tiny-lora": many[:4]}}, "recall@10")[0]
    assert "more" not in told and "b3" in told


def test_comparisons_are_of_tuned_students_and_blends_with_them():
    rows = pd.DataFrame(
        {
            "system": "",
            "conversation_id": ["c1", "c2", "c3"],
            "query": [1, 1, 1],
            "targets": [1, 1, 1],
            "ranked": [5, 5, 5],
            "recall@10": [1.0, 0.0, 1.0],
        }
    )
    systems = [
        dataclasses.replace(one, queries=rows.assign(system=one.name))
        for one in (NEAR, SIGNALS, ALONE, ZERO, BLEND, OTHER)
    ]
    found = tables.compare(Benchmark("b", PROTOCOL, systems, {}), "recall@10", resamples=50, seed=0)
    others = {name: [one.other.name for one in pairs] for name, pairs in found.items()}
    assert others == {
        "tiny-lora-blend": [
            "tiny-lora", "tiny-zero-shot", "tiny-zero-shot-blend", "neighbours", "signals",
        ],
        "tiny-lora": ["tiny-zero-shot", "neighbours", "signals"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headline", "shown"), [("recall@5", "recall@5"), ("ndcg@5", "recall@5"), ("mrr", "recall@20")]
)
def test_slices_show_recall_at_the_headlines_cutoff(headline, shown):
    scores = dict.fromkeys(["recall@20", "recall@5", "ndcg@5", "mrr"], interval(0.5))
    benchmark = Benchmark("b", PROTOCOL, [System("a", "baseline", None, scores, None)], {})
    assert tables.slice_metric(benchmark, headline) == shown


@pytest.mark.parametrize(("how", "said"), [("beam", "a search"), ("free", "a list"), ("exact", "")])
def test_the_decoding_is_told(how, said):
    benchmark = Benchmark("b", {**PROTOCOL, "decoding": how}, [], {})
    told = words.protocol(benchmark)
    assert said in told and told.endswith(".") and ("students" in told) is (how != "exact")


# --- tables


def test_chance_is_that_of_the_queries_and_of_recall_only():
    benchmark = Benchmark("b", PROTOCOL, [system("x", 0.5)], {})
    assert tables.chance(benchmark, "recall@10") == 0.2
    assert tables.chance(benchmark, "mrr") is None


def test_cluster_shares_by_hand():
    pool, seeds = tables.cluster_shares([2, 3, 1, 2], [1, 2, 0, 0])
    assert pool == pytest.approx([3 / 8, 2 / 8, 2 / 8, 1 / 8])
    assert seeds == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_metrics_hold_numbers_under_keys_without_dots():
    dotted = dataclasses.replace(TUNED, name="qwen2.5-lora")
    benchmark = Benchmark("likes", {}, [dotted, NEAR], {})
    tree = tables.metrics(
        benchmark, {"qwen2.5-lora": [Comparison(dotted, NEAR, interval(-0.1))]}, "recall@10"
    )
    assert tree == {
        "neighbours": with_interval(0.7),
        "qwen2_5-lora": with_interval(0.55),
        "paired": {"qwen2_5-lora minus neighbours": {"recall@10": interval(-0.1)}},
    }


def dialogue(number, item, style):
    return Dialogue(
        dialogue_id=f"d{number}",
        review_id=f"r{number}",
        item_id=item,
        style=style,
        teacher="t",
        messages=[Message(role="user", content="x"), Message(role="assistant", content="y")],
        targets=["i"],
    )


def test_examples_do_not_depend_on_order_and_differ_in_item_and_style():
    pool = [dialogue(n, f"i{n % 4}", f"s{n % 3}") for n in range(24)]
    chosen = tables.choose_dialogues(pool, 4)
    assert chosen == tables.choose_dialogues(pool[::-1], 4)
    assert len({d.item_id for d in chosen}) == 4 and len({d.style for d in chosen}) == 3
    assert len(tables.choose_dialogues(pool[:2], 6)) == 2
    assert tables.choose_dialogues(pool, 0) == []


def test_one_quarantined_example_of_each_reason():
    pool = [
        Rejected(dialogue_id=f"x{n}", reason=f"r{n % 3}", detail="", text="t") for n in range(9)
    ]
    chosen = tables.choose_rejected(pool, 5)
    assert [r.reason for r in chosen] == ["r0", "r1", "r2"]
    assert chosen == tables.choose_rejected(pool[::-1], 5)
    assert len(tables.choose_rejected(pool, 2)) == 2


# --- figures


def rows():
    return [
        figures.Row("a <b> & co", 0.6, 0.5, 0.7, "tuned"),
        figures.Row("$b_$", 0.3, 0.2, 0.4, "zero-shot"),
        figures.Row("c", 0.5, 0.4, 0.6, "baseline"),
    ]


def test_an_svg_is_the_same_every_time_whatever_the_user_set():
    import matplotlib as mpl

    first = figures.svg(figures.intervals(rows(), "recall", (0.2, "chance")), "one", "x")
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        again = figures.svg(figures.intervals(rows(), "recall", (0.2, "chance")), "one", "x")
    assert first == again


def test_an_svg_is_escaped_and_has_ids_of_its_own():
    text = figures.svg(figures.intervals(rows(), "x"), "one", 'he said "a < b"')
    other = figures.svg(figures.intervals(rows(), "x"), "two", "y")
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids and len(set(ids)) == len(ids) and all(i.startswith("one-") for i in ids)
    assert not set(ids) & set(re.findall(r' id="([^"]+)"', other))
    for used in re.findall(r"""url\(#([^)]+)\)|href="#([^"]+)""", text):
        assert "".join(used) in ids
    assert "a &lt;b&gt; &amp; co" in text and "<b>" not in text and "$b_$" in text
    assert 'aria-label="he said &quot;a &lt; b&quot;"' in text
    assert "metadata" not in text and "<!--" not in text and "<?xml" not in text


def test_a_png_names_neither_its_maker_nor_a_time():
    first = figures.png(figures.intervals(rows(), "x"))
    assert first == figures.png(figures.intervals(rows(), "x"))
    assert first.startswith(b"\x89PNG") and b"atplotlib" not in first and b"tIME" not in first


def marks(figure):
    """The fill of each row's mark, from the top."""
    return [
        line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() in "Do"
    ]


def test_only_decided_differences_are_filled():
    drawn = [
        figures.Row("ahead", 0.2, 0.1, 0.3, "baseline"),
        figures.Row("close", 0.0, -0.1, 0.1, "baseline"),
        figures.Row("behind", -0.2, -0.3, -0.1, "zero-shot"),
    ]
    fills = marks(figures.intervals(drawn, "x", (0.0, "equal"), decided=True))
    assert [fill == "white" for fill in fills] == [False, True, False]
    fills = marks(figures.intervals(drawn, "x", (0.0, "chance")))
    assert [fill == "white" for fill in fills] == [False, False, True]


def test_a_loss_curve_marks_the_lowest_validation_loss():
    frame = pd.DataFrame(
        {
            "step": [0, 1, 2, 3, 4],
            "loss": [None, 3.0, 2.0, None, 1.0],
            "eval_loss": [2.25, None, 2.5, None, 2.75],  # at first, the untouched model's
        }
    )
    text = figures.svg(figures.losses(frame), "l", "loss")
    assert "valid, best 2.500" in text
    for frame_without in (frame.assign(eval_loss=None), frame.iloc[:2]):
        without = figures.svg(figures.losses(frame_without), "l", "loss")
        assert "best" not in without


# --- terminal


def test_the_terminal_table_is_sorted_by_the_headline(tmp_path, capsys):
    write_json(
        tmp_path / "metrics.json",
        {
            "likes": {
                "a-lora": with_interval(0.5, mrr=0.1),
                "popularity": with_interval(0.7, mrr=0.2),
                "paired": {"a-lora minus popularity": {"recall@10": interval(-0.2)}},
            }
        },
    )
    terminal.print_results(tmp_path, "recall@10")
    shown = capsys.readouterr().out
    assert shown.index("popularity") < shown.index("a-lora")
    assert "0.700 [0.650, 0.750]" in shown and "-0.200" in shown and "-0.250" in shown
    with pytest.raises(InputError, match="recall@5"):
        terminal.print_results(tmp_path, "recall@5")
    with pytest.raises(InputError, match="dvc repro report"):
        terminal.print_results(tmp_path / "none", "recall@10")


def test_the_terminal_shows_each_subject_and_the_kinds_of_targets(tmp_path, capsys):
    apart = {"recall@10_with_reviews": 0.125, "recall@10_without_reviews": 0.375}
    tree = {"a-lora": with_interval(0.5, **apart), "b": with_interval(0.7)}
    tree["paired"] = {
        "a-lora minus b": {"recall@10": interval(-0.2)},
        "a-lora-blend minus b": {"recall@10": interval(0.3)},
    }
    write_json(tmp_path / "metrics.json", {"likes": tree})
    terminal.print_results(tmp_path, "recall@10")
    shown = capsys.readouterr().out
    assert "with reviews" in shown and "without reviews" in shown
    assert "0.125" in shown and "0.375" in shown
    first, second = shown.partition("a-lora-blend, paired")[::2]
    assert "-0.200" in first and "+0.300" not in first and "+0.300" in second


def test_the_terminal_prints_names_as_they_are(tmp_path, capsys):
    scores = {"a[red]b:cat:": {"mrr": 0.5, "mrr_low": 0.4, "mrr_high": 0.6}}
    write_json(tmp_path / "metrics.json", {"talk[bold]:cat:": scores})
    terminal.print_results(tmp_path, "mrr")
    shown = capsys.readouterr().out
    assert "a[red]b:cat:" in shown and "talk[bold]:cat:" in shown


def test_the_terminal_tables_are_whole_at_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rest = {"recall@1": 0.1, "recall@20": 0.8, "ndcg@10": 0.4, "ndcg@20": 0.45, "mrr": 0.3}
    names = ["smollm2-135m-lora", "smollm2-135m-zero-shot", "neighbours-dialogues"]
    long = "another-" * 10 + "student"
    tree = {name: with_interval(0.5, **rest) for name in names}
    tree["paired"] = {f"smollm2-135m-lora minus {long}": {"recall@10": interval(0.1)}}
    write_json(tmp_path / "metrics.json", {"likes": tree})
    terminal.print_results(tmp_path, "recall@10")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown and all(name in shown for name in names)
    header = next(line for line in shown.splitlines() if "system" in line)
    assert re.findall(r"[a-z]+@?\d*", header) == [
        "system", "recall@10", "recall@1", "ndcg@10", "mrr",
    ]  # fmt: skip
    folded = "".join(re.findall(r"│ (\S.*?) +│", shown.partition("paired")[2]))
    assert folded.replace(" ", "").startswith(long[:20])
    assert "student" in folded
    assert "smollm2-135m-lora, paired difference of recall@10" in shown

    monkeypatch.setenv("COLUMNS", "30")  # wider than the terminal rather than cut
    terminal.print_results(tmp_path, "recall@10")
    shown = capsys.readouterr().out
    assert "…" not in shown and all(name in shown for name in names)


def test_ndcg_beside_a_headline_without_cutoff_is_the_last(tmp_path, capsys):
    row = {"mrr": 0.3, "mrr_low": 0.2, "mrr_high": 0.4, "ndcg@5": 0.1, "ndcg@20": 0.2}
    write_json(tmp_path / "metrics.json", {"likes": {"a": row}})
    terminal.print_results(tmp_path, "mrr")
    shown = capsys.readouterr().out
    assert "mrr [95%]" in shown and "ndcg@20" in shown and "ndcg@5" not in shown


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (None, r"metrics.json: expected an object, got NoneType"),
        ([], r"metrics.json: expected an object, got list"),
        ({"likes": None}, "'likes': expected an object"),
        ({"likes": {"a": []}}, "'likes.a': expected an object"),
        ({"likes": {"a": {"recall@10": "x"}}}, "'likes.a.recall@10': expected a number, got str"),
        ({"likes": {"a": {"recall@10": 0.5}}}, "'likes.a.recall@10_low': missing"),
        ({"likes": {"paired": None}}, "'likes.paired': expected an object"),
        ({"likes": {"paired": {"p": {}}}}, "'likes.paired.p.recall@10': missing"),
        ({"likes": {"paired": {"p": {"recall@10": {}}}}}, "'likes.paired.p.mean': missing"),
    ],
)
def test_a_malformed_metrics_file_is_an_input_error(tmp_path, tree, said):
    write_json(tmp_path / "metrics.json", tree)
    with pytest.raises(InputError, match=said):
        terminal.print_results(tmp_path, "recall@10")


def test_shares_over_one_stay_in_the_picture():
    """The reference of js and kcenter is their second gain; their first may be any multiple."""
    frame = pd.DataFrame(
        {
            "method": ["js"] * 3 + ["fisher"] * 3,
            "rank": [0, 1, 2] * 2,
            "share": [6.2, 1.0, 0.9, 1.0, 0.8, 0.4],
        }
    )
    assert figures.gain_shares(frame, "js", 2).axes[0].get_ylim()[1] > 6.2
    below = frame.assign(share=frame["share"].clip(upper=0.5))
    assert figures.gain_shares(below, "js", None).axes[0].get_ylim() == (0, 1.05)


def test_the_stopping_advice_names_its_reference():
    stopping = {"share": 0.1, "reference": 0.5, "budget": None, "last_share": 0.3}
    about = {"method": "js", "warm_start": 9, "stopping": stopping}
    assert "of the reference gain within 90 picks" in page._stopping(about, 90)
    about["stopping"] = stopping | {"budget": 0}
    assert "none of the new picks gains 10.0% of the reference" in page._stopping(about, 90)
    assert "the gains of the seeds there were" in page._after_seeds(about)
    assert page._after_seeds(about | {"warm_start": 0}) == ""
