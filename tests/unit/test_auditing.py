"""What the training dialogues are worth, against references worked by hand or by brute force."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import domain

from seedtalk import auditing
from seedtalk.errors import InputError
from seedtalk.records import Dialogue, Message

SYNTHESIS = {
    "requests": 40,
    "kept_share": 0.9,
    "quarantined": {"leak": 2, "near_duplicate": 1},
    "hallucination_rate": None,
}
FIDELITY = ("fidelity", "fidelity_others", "fidelity_recall_1", "fidelity_mrr", "fidelity_auc")
WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)


def encode(texts):
    """Bags of words, each word a direction of its own."""
    rows = np.zeros((len(texts), 512), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in auditing._words(text):
            row[zlib.crc32(word.encode()) % 512] += 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def dialogue(number, text, review="", targets=("f01",), style="plain", item="f01"):
    messages = [
        Message(role="system", content="Recommend titles."),
        Message(role="user", content=text),
        Message(role="assistant", content="1. The Copper Lantern (1987)"),
    ]
    return Dialogue(
        dialogue_id=f"d{number}",
        review_id=review,
        item_id=item,
        style=style,
        teacher="toy",
        messages=messages,
        targets=list(targets),
    )


def grounded():
    """Return one dialogue a seed that asks in the review's own words."""
    texts = dict(zip(*(domain.reviews()[name] for name in ("review_id", "text")), strict=True))
    return [
        dialogue(n, f"Something like this: {texts[s.review_id]}", s.review_id, item=s.item_id)
        for n, s in enumerate(domain.seeds())
    ]


def audit(train, **changes):
    inputs = {
        "seeds": domain.seeds(),
        "reviews": domain.reviews(),
        "items": domain.items(),
        "conversations": domain.conversations(),
        "synthesis": SYNTHESIS,
        "fingerprint": 7,
        "benchmarks": ["likes"],
        "seed": 0,
        "encode": encode,
    }
    return auditing.audit(train, **(inputs | changes))


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_names_are_the_same_whatever_there_is_to_measure():
    many = audit(grounded())
    one = audit([dialogue(0, "Anything good?")])
    assert list(many) == list(one)
    assert all(value is None or isinstance(value, int | float) for value in many.values())
    assert all(math.isfinite(value) for value in many.values() if value is not None)
    assert one["fidelity_dialogues"] == 0 and one["dialogues"] == 1
    assert {one[name] for name in FIDELITY} == {None}
    assert one["self_bleu"] is one["pairwise_cosine"] is one["likes_separability"] is None
    assert many["fidelity_dialogues"] == len(domain.seeds())
    assert (many["fingerprint"], many["kept_share"], many["hallucination_rate"]) == (7, 0.9, None)
    assert (many["leak_rate"], many["duplicate_rate"]) == (0.05, 0.025)


def test_dialogues_of_their_own_reviews_are_more_faithful_than_shuffled_ones():
    train = grounded()
    shuffled = [d.model_copy(update={"review_id": o.review_id}) for d, o in
                zip(train, [*train[7:], *train[:7]], strict=True)]  # fmt: skip
    right, wrong = audit(train), audit(shuffled)
    assert right["fidelity"] > wrong["fidelity"]
    assert right["fidelity_auc"] > 0.9 > wrong["fidelity_auc"]
    assert right["fidelity_words"] > wrong["fidelity_words"]
    assert right["fidelity_mrr"] >= right["fidelity_recall_1"]


def test_titles_are_cut_out_before_texts_are_compared():
    seen = []

    def watch(texts):
        seen.extend(texts)
        return encode(texts)

    audit([dialogue(0, "Like Zeppelin (2003) but slow", "r00-0")], encode=watch)
    assert "Like but slow" in seen
    assert not any("Zeppelin" in text or "Copper" in text for text in seen)
    assert len(seen) == len(set(seen))


def test_only_a_seed_of_this_run_tells_which_review_was_meant():
    train = [*grounded()[:3], dialogue(9, "A real one", ""), dialogue(10, "Else", "elsewhere")]
    assert audit(train)["fidelity_dialogues"] == 3
    assert audit(train, seeds=[])["fidelity"] is None
    with pytest.raises(InputError, match="no review 'r00-0' among the reviews"):
        audit(train, reviews=domain.reviews().iloc[1:])


def test_samples_bound_the_work_and_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(auditing, "SAMPLE", 5)
    train = grounded()
    found = audit(train)
    assert found["fidelity_dialogues"] == 5
    assert found == audit(train)
    drawn = {tuple(auditing._sample(range(30), str, 4, seed)) for seed in range(5)}
    assert len(drawn) == 5 and all(sorted(some) == list(some) for some in drawn)
    for most in range(1, 30):
        less, more = (set(auditing._sample(range(30), str, n, 0)) for n in (most, most + 1))
        assert less < more


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"train\.jsonl: no dialogues"):
        audit([])
    with pytest.raises(InputError, match="'redial' is not among the conversations; .*: likes"):
        audit(grounded(), benchmarks=["redial"])
    with pytest.raises(InputError, match=r"synthesis\.json: no 'requests' there"):
        audit(grounded(), synthesis={})


def test_fidelity_by_hand():
    requests = unit([[1, 0], [0, 1], [1, 0]])
    reviews = unit([[1, 0], [0, 1], [1, 1]])
    found = auditing.fidelity(requests, reviews, np.array([0, 2, 1]))
    half = math.sqrt(0.5)
    assert found["fidelity"] == pytest.approx((1 + half + 0) / 3)
    assert found["fidelity_others"] == pytest.approx((0 + half + 0 + 1 + 1 + half) / 6)
    assert found["fidelity_recall_1"] == pytest.approx(1 / 3)  # ranks 1, 2, 3
    assert found["fidelity_mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["fidelity_auc"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_equal_reviews_are_told_apart_by_nobody():
    same = unit([[1, 1]] * 4)
    found = auditing.fidelity(same, same, np.arange(4))
    assert found["fidelity_auc"] == pytest.approx(0.5)
    assert (found["fidelity_recall_1"], found["fidelity_mrr"]) == (0.0, 0.25)
    alone = auditing.fidelity(same[:1], same[:1], np.array([0]))
    assert alone["fidelity"] == pytest.approx(1) and alone["fidelity_auc"] is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed, size):
    chance = np.random.default_rng(seed)
    requests, reviews = (unit(chance.integers(1, 4, (size, 3))) for _ in range(2))
    found = auditing.fidelity(requests, reviews, np.arange(size))
    cosines = requests.astype(float) @ reviews.astype(float).T
    wins = [
        (cosines[n, n] > cosines[n, m]) + (cosines[n, n] == cosines[n, m]) / 2
        for n in range(size)
        for m in range(size)
        if n != m
    ]
    assert found["fidelity_auc"] == pytest.approx(np.mean(wins))


def test_shared_words():
    assert auditing.shared_words("the slow haunting score", "Haunting and slow.") == 2 / 3
    assert auditing.shared_words("what is this", "this") is None


def test_distinct_by_hand():
    tokens = [["a", "b", "a"], ["a", "b"], ["c"]]
    assert auditing.distinct(tokens, 1) == 3 / 6
    assert auditing.distinct(tokens, 2) == 2 / 3
    assert auditing.distinct([["c"]], 2) is None


def bleu(words, others):
    """Return BLEU-4 with add-one smoothing as it is written down, one text at a time."""
    logs = 0.0
    for n in range(1, 5):
        runs = Counter(auditing._runs(words, n))
        known = [Counter(auditing._runs(other, n)) for other in others]
        clipped = sum(min(c, max(k[run] for k in known)) for run, c in runs.items())
        smooth = int(n > 1)
        precision = (clipped + smooth) / (runs.total() + smooth)
        if not precision:
            return 0.0
        logs += math.log(precision) / 4
    closest = min((len(o) for o in others), key=lambda size: (abs(size - len(words)), size))
    return math.exp(logs + min(0.0, 1 - closest / len(words)))


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=6))
def test_self_bleu_is_the_mean_bleu_against_the_others(texts):
    expected = np.mean([bleu(t, [*texts[:n], *texts[n + 1 :]]) for n, t in enumerate(texts)])
    assert auditing.self_bleu(texts) == pytest.approx(expected)


def test_self_bleu_of_copies_is_one_and_of_strangers_none_in_common():
    assert auditing.self_bleu([["a", "b", "c", "d"]] * 3) == pytest.approx(1)
    assert auditing.self_bleu([["a"], ["b"]]) == 0
    assert auditing.self_bleu([["a"], []]) is None


def test_diversity_of_one_phrase_and_of_many():
    same = auditing.diversity(["i want a slow film"] * 50, 0)
    lines = [" ".join(f"w{n * 7 + k}" for k in range(5)) for n in range(50)]
    other = auditing.diversity(lines, 0)
    assert same["opening_share"] == 1 and other["opening_share"] == 1 / 50
    assert same["distinct_1"] == 5 / 250 and other["distinct_1"] > 0.9
    assert same["vocabulary"] == 5 and same["words"] == 5
    assert same["self_bleu"] > 0.99 > other["self_bleu"]
    assert same["compression_ratio"] > 5 * other["compression_ratio"]
    nothing = auditing.diversity([""], 0)
    assert nothing["opening_share"] is nothing["compression_ratio"] is nothing["distinct_1"] is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_pairwise_cosine_is_the_mean_over_pairs(seed, size):
    rows = unit(np.random.default_rng(seed).normal(size=(size, 4)))
    expected = np.mean([float(a @ b) for a, b in combinations(rows.astype(float), 2)])
    assert auditing.pairwise_cosine(rows) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_gini_is_the_mean_difference_over_twice_the_mean(counts):
    found = auditing.gini(counts)
    if not sum(counts):
        assert found is None
        return
    n, total = len(counts), sum(counts)
    assert found == pytest.approx(sum(abs(a - b) for a in counts for b in counts) / (2 * n * total))


def test_entropy_by_hand():
    assert auditing.entropy([3, 3]) == pytest.approx(math.log(2))
    assert auditing.entropy([5, 0]) == 0
    assert auditing.entropy([]) is auditing.gini([]) is None


def test_coverage_by_hand():
    items = pd.DataFrame(
        {"item_id": list("abcd"), "genres": [["Drama"], ["Drama", "War"], ["Comedy"], []]}
    )
    train = [
        dialogue(0, "x", targets=["a", "b"], item="a"),
        dialogue(1, "x", targets=["a", "b", "elsewhere"], item="transfer-q"),
    ]
    found = auditing.coverage(train, items)
    assert (found["items"], found["targets"], found["target_share"]) == (1, 2, 0.5)
    assert found["target_entropy"] == pytest.approx(math.log(2) / math.log(4))
    assert found["target_gini"] == pytest.approx(auditing.gini([2, 2, 0, 0]))
    assert found["genre_share"] == pytest.approx(2 / 3)
    nothing = auditing.coverage([dialogue(0, "x", targets=[])], items)
    assert nothing["target_entropy"] is nothing["target_gini"] is None
    assert (nothing["targets"], nothing["genre_share"]) == (0, 0)


def test_targets_count_as_often_as_they_are_asked_for():
    turns = [
        {"role": "seeker", "text": "Hello, what is new?", "items": []},
        {"role": "recommender", "text": "These.", "items": ["f12", "f05", "nowhere"]},
        {"role": "seeker", "text": "Seen them.", "items": []},
        {"role": "recommender", "text": "That.", "items": ["f12", "f06"]},
    ]
    rows = [
        {"conversation_id": f"c{n}", "benchmark": name, "turns": turns[: 2 * length], "seen": []}
        for n, (name, length) in enumerate([("red.ial", 2), ("red.ial", 1), ("likes", 1)])
    ]
    found = audit(
        [dialogue(0, "Hello, what is new?", targets=["f12", "f06"])],
        conversations=pd.DataFrame(rows),
        benchmarks=["likes", "red.ial"],
    )
    assert found["red_ial_target_coverage"] == 0.6  # f12 twice, f05 twice, f06 once
    assert found["likes_target_coverage"] == 0.5
    assert found["likes_nearest_cosine"] == pytest.approx(1, abs=1e-4)
    assert found["likes_length_ratio"] == 1


def test_a_benchmark_without_a_query_is_measured_as_nothing():
    turns = [{"role": "seeker", "text": "Hello.", "items": []}]
    rows = [{"conversation_id": "c", "benchmark": "likes", "turns": turns, "seen": []}]
    found = audit(grounded(), conversations=pd.DataFrame(rows))
    assert {v for k, v in found.items() if k.startswith("likes_")} == {None}


def test_two_samples_are_told_apart_or_not():
    chance = np.random.default_rng(0)
    left, right, far = (unit(chance.normal(size=(120, 3))) for _ in range(3))
    far = unit(far + np.array([9, 0, 0]))
    alike, apart = auditing.nearness(left, right, 0), auditing.nearness(left, far, 0)
    assert abs(alike["separability"] - 0.5) < 0.12 and alike["a_distance"] < 0.4
    assert apart["separability"] > 0.9 and apart["a_distance"] > 1.2
    assert auditing.nearness(left, right, 0) == alike
    expected = (right.astype(float) @ left.astype(float).T).max(axis=1).mean()
    assert alike["nearest_cosine"] == pytest.approx(expected, abs=1e-6)
    few = auditing.nearness(left, right[:1], 0)
    assert few["separability"] is None and few["nearest_cosine"] is not None
    assert set(auditing.nearness(left, right[:0], 0).values()) == {None}
