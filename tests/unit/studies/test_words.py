from types import SimpleNamespace

import pytest
from tests.unit.studies.collected_toy import declaration, make_study

from seedtalk.studies import words
from seedtalk.studies.analysing import Analysis, Difference, Estimate, Finding, analyse
from seedtalk.studies.reading import read_study


def difference(level, mean, adjusted, seeds=3, error=0.01, cells=1):
    estimate = Estimate(mean, mean - 0.02, mean + 0.02, error, seeds, 80)
    return Difference(level, None, estimate, adjusted, adjusted, seeds, cells, 0)


def analysis(*found, more=()):
    compare = SimpleNamespace(factor="method", reference="random", metric="recall@5")
    scores = SimpleNamespace(systems=["s"], benchmarks=["b"])
    collected = SimpleNamespace(
        study=SimpleNamespace(compare=compare, scores=scores, measures=()), places={}
    )
    finding = Finding("b", "s", "recall@5", [], list(found), list(found))
    return Analysis(collected, finding, list(more), [], [])


JS, POPULAR = difference("js", 0.05, 0.01), difference("popularity", -0.04, 0.02)
HYBRID = difference("hybrid", 0.01, 0.4, error=0.02)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ((JS, HYBRID), "js clearly ahead of random; hybrid too close to call"),
        ((POPULAR,), "popularity clearly behind random"),
        ((JS, POPULAR), "js clearly ahead and popularity clearly behind random"),
        ((HYBRID,), "too close to call: no level is clearly ahead of random or behind it"),
        ((), "nothing to compare yet"),
    ],
)
def test_the_verdict_in_a_line(found, wanted):
    assert words.short(analysis(*found)) == wanted


def test_a_study_not_run_or_without_scores():
    assert words.short(None) == "not run"
    assert words.sure(None) == "–"
    lacking = Analysis(analysis().collected, None, [], [], [])
    assert "were not collected" in words.verdict(lacking)[0]
    assert "headline scores were not collected" in words.short(lacking)


def test_a_verdict_names_all_and_the_negative_ones_as_plainly():
    (text,) = words.verdict(analysis(JS, POPULAR, HYBRID))
    assert text == (
        "In recall@5 of s on b, against random: "
        "clearly ahead: js (+0.050, +0.030 to +0.070, p 0.010, 3 of 3 seeds); "
        "clearly behind: popularity (−0.040, −0.060 to −0.020, p 0.020, 3 of 3 seeds); "
        "too close to call: hybrid (+0.010, −0.010 to +0.030, p 0.400, 3 of 3 seeds)."
    )
    (text,) = words.verdict(analysis(POPULAR))
    assert "no level is clearly ahead; clearly behind: popularity" in text


def test_of_many_close_levels_the_names_do():
    found = [difference(f"m{n}", n / 1000, 1.0) for n in range(6)]
    (text,) = words.verdict(analysis(*found))
    assert "too close to call: m5 (+0.005), m4 (+0.004), m3 (+0.003)" in text
    assert "m5, m4, m3, m2 and 2 more too close" in words.short(analysis(JS, *found))


def test_other_systems_are_told_too():
    same = Difference("js", None, Estimate(0, 0, 0, 0, 3, 80), 1, 1, 0, 1, 0)
    others = [
        Finding("b", "zero", "recall@5", [], [same], [same]),
        Finding("b", "near", "recall@5", [], [JS, POPULAR], []),
        Finding("b", "far", "recall@5", [], [HYBRID], []),
        Finding("b", "s", "ndcg@10", [], [JS], []),
    ]
    told = words.verdict(analysis(JS, more=others))
    assert len(told) == 4
    assert "the same at every level" in told[1]
    assert told[2].endswith("js (+0.050) clearly ahead; popularity (−0.040) clearly behind.")
    assert told[3].endswith("no level departs clearly from the reference.")


def test_how_sure_says_seeds_conversations_and_what_is_missed():
    assert words.sure(analysis(JS, HYBRID)) == (
        "3 seeds, 80 conversations; differences under 0.028 to 0.056 are easily missed"
    )
    alone = words.sure(analysis(difference("js", 0.1, 0.01, seeds=1)))
    assert alone.startswith("1 seed (what a seed changes is not covered), 80 conversations")


def test_the_overview_counts():
    text = words.overview([analysis(JS), analysis(POPULAR), analysis(HYBRID), None])
    assert text.startswith("4 studies, of which 3 were run.")
    assert "clearly ahead of its reference in 1, clearly behind in 1; in 1 nothing" in text


def test_what_is_not_shown_follows_from_the_data(tmp_path):
    study = declaration(seeds=[0], measures=[])
    study["scores"] = {"benchmarks": ["redial"], "systems": ["tiny-lora"]}
    study["compare"]["metrics"] = ["recall@5"]
    make_study(tmp_path / "one", study, conversations=6, teacher="big-model")
    text = " ".join(words.not_shown(analyse(read_study(tmp_path / "one"), resamples=50)))
    assert "there is one seed" in text and "four times in five only" in text
    assert "likes" not in text and "extractive" not in text and "further systems" not in text
    make_study(tmp_path / "two", conversations=6)
    text = " ".join(words.not_shown(analyse(read_study(tmp_path / "two"), resamples=50)))
    assert "3 seeds bound it roughly" in text
    assert "benchmark likes" in text and "extractive teacher" in text
