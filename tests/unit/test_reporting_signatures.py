"""Each signature of failure by its rule: shown, not shown, cannot tell, and the numbers told."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from seedtalk import real
from seedtalk.records import Dialogue, Message
from seedtalk.reporting import page, signatures
from seedtalk.reporting.inputs import Benchmark, System
from seedtalk.reporting.tables import Comparison

GOOD = {"opening_share": 0.07, "self_bleu": 0.35, "distinct_2": 0.36, "pairwise_cosine": 0.3}
NEAR = {
    "re_dial_separability": 0.99,
    "re_dial_nearest_cosine": 0.7,
    "re_dial_length_ratio": 1.4,
    "re_dial_target_coverage": 0.8,
}
CHANCE = {"coverage": [0.72, 0.73], "log_det": [130.0, 133.0], "distinct_items": [62.0, 67.0]}


def system(name, kind):
    return System(name, kind, "tiny", {}, pd.DataFrame())


def gap(mean, low, high):
    tuned, zero = system("tiny-lora", "tuned"), system("tiny-zero-shot", "zero-shot")
    return [Comparison(tuned, zero, {"mean": mean, "low": low, "high": high})]


def history(eval_loss, loss=(3.0, 2.5, 2.0, 1.5, 1.0, 0.5), context=(3.0, 3.0, 3.0)):
    """Six steps with looks at 0, 3 and 6."""
    frame = pd.DataFrame({"step": range(7), "loss": [None, *loss]})
    frame["eval_loss"] = frame["context_loss"] = None
    frame.loc[[0, 3, 6], "eval_loss"] = eval_loss
    frame.loc[[0, 3, 6], "context_loss"] = context
    return frame.astype({"loss": float, "eval_loss": float, "context_loss": float})


# --- generic queries


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "not shown"),
        ({"opening_share": 0.21}, "not shown"),
        ({"self_bleu": 0.9}, "not shown"),
        ({"self_bleu": 0.61, "distinct_2": 0.19}, "shown"),
        ({"self_bleu": 0.6, "distinct_2": 0.19}, "not shown"),
        ({"opening_share": 0.2, "distinct_2": 0.2, "pairwise_cosine": 0.5}, "not shown"),
        ({"opening_share": 0.21, "distinct_2": 0.19}, "shown"),
        ({"opening_share": 0.21, "pairwise_cosine": 0.51}, "shown"),
        ({"distinct_2": 0.1, "pairwise_cosine": 0.51, "opening_share": None}, "shown"),
        ({"distinct_2": 0.1, "pairwise_cosine": None}, "cannot tell"),
        ({"pairwise_cosine": None}, "not shown"),
        (dict.fromkeys(GOOD), "cannot tell"),
    ],
)
def test_generic_queries_cross_two_of_four_lines(change, found):
    assert signatures.generic(GOOD | change).found == found


def test_one_line_crossed_is_told():
    assert "One of four" in signatures.generic(GOOD | {"distinct_2": 0.1}).sentence
    assert "different ways" in signatures.generic(GOOD).sentence
    numbers = dict(signatures.generic(GOOD | {"distinct_2": None}).numbers)
    assert numbers["distinct pairs of words (worry under 0.2)"] == "not measured"
    assert numbers["commonest opening (worry over 20.0%)"] == "7.0%"


# --- random ahead


def selection(method="js", **own):
    numbers = {"coverage": 0.725, "log_det": 131.0, "distinct_items": 65} | own
    return {"method": method, "strategies": {method: numbers}, "random_interval": CHANCE}


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({}, "not shown"),
        ({"coverage": 0.6}, "not shown"),
        ({"coverage": 0.72, "log_det": 130.0, "distinct_items": 62}, "not shown"),
        ({"coverage": 0.9, "log_det": 150.0}, "not shown"),
        ({"coverage": 0.6, "distinct_items": 40}, "shown"),
        ({"coverage": 0.6, "log_det": 120.0, "distinct_items": 40}, "shown"),
    ],
)
def test_random_is_ahead_where_two_numbers_are_below_its_interval(own, found):
    assert signatures.behind_random(selection(**own)).found == found


def test_the_numbers_beside_chance_are_told():
    one = signatures.behind_random(selection(coverage=0.6, distinct_items=40))
    assert ("items", "40 (random 62–67)") in one.numbers
    assert ("coverage", "0.6 (random 0.72–0.73)") in one.numbers
    assert "below the middle 95% of random selections in coverage and items" in one.sentence


def test_random_seeds_are_not_held_against_chance():
    one = signatures.behind_random(selection("random", coverage=0.1, log_det=1.0))
    assert one.found == "cannot tell" and "no active selection" in one.sentence
    none = selection()
    del none["strategies"]["js"]["log_det"]
    assert signatures.behind_random(none).found == "cannot tell"


# --- mismatch


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "not shown"),
        ({"re_dial_nearest_cosine": 0.49}, "shown"),
        ({"re_dial_length_ratio": 2.1}, "shown"),
        ({"re_dial_length_ratio": 0.49}, "shown"),
        ({"re_dial_target_coverage": 0.49}, "shown"),
        ({"re_dial_target_coverage": 0.1, "re_dial_separability": 0.9}, "not shown"),
        ({"re_dial_target_coverage": 0.1, "re_dial_nearest_cosine": None}, "shown"),
        ({"re_dial_nearest_cosine": None}, "cannot tell"),
        ({"re_dial_separability": None}, "cannot tell"),
        ({"re_dial_length_ratio": 0.5, "re_dial_target_coverage": 0.5}, "not shown"),
    ],
)
def test_a_mismatch_is_told_apart_and_differs_in_something_else(change, found):
    one = signatures.mismatch("re.dial", NEAR | change)
    assert (one.found, one.about) == (found, "re.dial")


def test_a_mismatch_says_in_what():
    said = signatures.mismatch(
        "re.dial", NEAR | {"re_dial_length_ratio": 3.0, "re_dial_target_coverage": 0.25}
    )
    assert "the dialogues' are longer and most of their targets" in said.sentence
    assert (
        "shorter" in signatures.mismatch("re.dial", NEAR | {"re_dial_length_ratio": 0.3}).sentence
    )
    assert ("told apart, AUC (worry over 0.9)", "0.99") in said.numbers


# --- over-fitting and forgetting


@pytest.mark.parametrize(
    ("looks", "loss", "found", "said"),
    [
        ((3.0, 2.0, 2.09), None, "not shown", "near its best"),
        ((3.0, 2.0, 2.11), None, "shown", "those of step 3"),
        ((2.0, 2.2, 2.15), None, "shown", "No look was better than the untouched"),
        ((3.0, 2.0, 1.0), None, "not shown", "near its best"),
        ((3.0, 2.0, 2.5), (3.0, 2.0, 2.0, 2.5, 3.0, 2.5), "not shown", "Both losses rose"),
        ((2.0, 9.0, 9.0), (3.0, 5.0, 6.0, 6.0, 6.0, 6.0), "not shown", "Both losses rose"),
    ],
)
def test_over_fitting_is_one_loss_up_and_the_other_down(looks, loss, found, said):
    frame = history(looks) if loss is None else history(looks, loss)
    one = signatures.over_fitting("tiny-lora", frame)
    assert one.found == found and said in one.sentence


def test_over_fitting_tells_the_numbers():
    numbers = dict(signatures.over_fitting("tiny-lora", history((3.0, 2.0, 2.5))).numbers)
    assert numbers == {
        "training loss, then and at the end": "2.000 → 0.500",
        "validation loss, best and at the end": "2.000 (step 3) → 2.500",
        "rise (worry over 5.0%)": "25.0%",
    }


def test_one_look_alone_says_nothing():
    frame = history((2.0, 3.0, 3.0))
    for rows in (frame.iloc[1:4], frame.iloc[:3], frame.iloc[:0], frame.assign(loss=None)):
        assert signatures.over_fitting("x", rows).found == "cannot tell"
    assert signatures.over_fitting("x", frame.iloc[:4]).found == "shown", "against the untouched"


@pytest.mark.parametrize(
    ("context", "found", "said"),
    [
        ((3.0, 3.05, 3.9), "not shown", "about as well"),  # kept are those of step 3
        ((3.0, 3.1, 3.0), "shown", "reads worse"),
        ((3.0, 2.5, 9.0), "not shown", "better than before"),
        ((3.0, 3.0 + math.log(1.09), 3.0), "not shown", "about as well"),
        ((None, 9.0, 9.0), "cannot tell", "not scored"),
        ((3.0, None, None), "cannot tell", "not scored"),
        ((3.0, 3000.0, 3.0), "shown", "reads worse"),
    ],
)
def test_forgetting_is_a_tenth_more_perplexity_at_the_kept_step(context, found, said):
    one = signatures.forgetting("tiny-lora", history((3.0, 2.0, 2.5), context=context))
    assert one.found == found and said in one.sentence


def test_forgetting_tells_the_numbers():
    one = signatures.forgetting("x", history((3.0, 2.0, 2.5), context=(3.0, 3.5, 9.0)))
    assert one.numbers == (
        ("loss on the seeker's words, untouched and kept", "3.000 → 3.500"),
        ("perplexity, change (worry over 10.0%)", "64.9%"),
    )


# --- worse than untouched


def cause(name, found):
    return signatures.Signature(name, "", found, (), "")


@pytest.mark.parametrize(
    ("interval", "found"),
    [
        ((-0.1, -0.2, -0.01), "shown"),
        ((-0.1, -0.2, 0.0), "cannot tell"),
        ((0.02, -0.02, 0.05), "cannot tell"),
        ((0.1, 0.01, 0.2), "not shown"),
    ],
)
def test_harm_is_shown_by_an_interval_below_zero_only(interval, found):
    benchmark = Benchmark("likes", {}, [], {})
    one = signatures.worse(benchmark, gap(*interval), [cause("forgetting", "shown")])
    assert one.found == found and one.about == "tiny-lora on likes"
    assert ("forgetting" in one.sentence) is (found == "shown")
    other = [Comparison(system("tiny-lora", "tuned"), system("random", "baseline"), {"mean": 0})]
    assert signatures.worse(benchmark, other, []).found == "cannot tell"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("shown", "not shown", "shown"), "a and c are shown."),
        (("not shown", "shown", "cannot tell"), "b is shown. Nothing is known of c."),
        (("not shown", "not shown", "not shown"), "none of the causes looked for is shown."),
        (("cannot tell", "cannot tell", "not shown"), "is shown. Nothing is known of a and b."),
    ],
)
def test_the_causes_of_harm_are_told_apart(found, said):
    causes = [cause(name, one) for name, one in zip("abc", found, strict=True)]
    one = signatures.worse(Benchmark("likes", {}, [], {}), gap(-0.1, -0.2, -0.05), causes)
    assert one.sentence.endswith(said)


# --- together


def test_a_run_is_looked_through_in_order_and_the_shown_are_named():
    evidence = SimpleNamespace(
        quality=GOOD | NEAR | {"re_dial_target_coverage": 0.1},
        selection=selection(coverage=0.6, log_det=1.0),
        benchmarks=[Benchmark("re.dial", {}, [], {})],
        losses={"tiny-lora": history((3.0, 2.0, 2.5), context=(3.0, 4.0, 4.0))},
    )
    harmed = gap(-0.1, -0.2, -0.05)
    blend = [Comparison(system("tiny-lora-blend", "blend"), harmed[0].other, harmed[0].difference)]
    compared = {"re.dial": {"tiny-lora": harmed, "tiny-lora-blend": blend}}
    found = signatures.find(evidence, compared)
    assert [(one.name, one.about, one.found) for one in found] == [
        ("generic queries", "", "not shown"),
        ("random ahead of active selection", "", "shown"),
        ("tuned worse than zero-shot", "tiny-lora on re.dial", "shown"),
        ("distribution mismatch", "re.dial", "shown"),
        ("over-fitting", "tiny-lora", "shown"),
        ("forgetting", "tiny-lora", "shown"),
    ]
    assert all(one.advice for one in found)
    assert "distribution mismatch, over-fitting and forgetting are shown" in found[2].sentence
    said = signatures.told(found)
    assert "tuned worse than zero-shot (tiny-lora on re.dial)" in said
    assert "generic" not in said
    assert signatures.told(found[:1]) is None


def test_a_run_without_training_has_no_rows_of_students():
    evidence = SimpleNamespace(
        quality=GOOD | NEAR, selection=selection(), benchmarks=[Benchmark("re.dial", {}, [], {})],
        losses={},
    )  # fmt: skip
    found = signatures.find(evidence, {"re.dial": {}})
    assert {one.found for one in found} == {"not shown"} and len(found) == 3


# --- examples that no review was made into


@pytest.mark.parametrize(
    ("review", "teacher", "said"),
    [
        ("r1", "extractive", ""),
        ("", real.TEACHER, "between people"),
        ("", "extractive", "another domain"),
    ],
)
def test_an_example_without_a_review_says_where_it_is_from(review, teacher, said):
    assert page.REAL == real.TEACHER
    dialogue = Dialogue(
        dialogue_id="d", review_id=review, item_id="i", style="s", teacher=teacher,
        messages=[Message(role="user", content="Hello.")], targets=[],
    )  # fmt: skip
    origin = page._origin(dialogue)
    assert said in origin and bool(origin) is bool(said)
