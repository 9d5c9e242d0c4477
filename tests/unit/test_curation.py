import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import domain

from seedtalk import curation, prompting
from seedtalk.errors import InputError, RunError

TEACHER = {"model": "m", "backend": "openai", "usd": 0.1}
QUERIES = [
    "I'm looking for something with a haunting score and a plot that keeps me guessing.",
    "Could you recommend a warm comedy about neighbours who cannot stand each other?",
    "I want to see a slow drama in the mountains, with hardly any dialogue in it.",
    "Any films about sailors? The colder and the greyer the sea is, the better for me.",
    "We like heist stories for our Friday nights, and the cleverer the plan the better.",
    "My mother is visiting, so it should be gentle, funny and not at all violent.",
    "I'd love a mystery on a train, with snow outside and a liar in every single cabin.",
    "Something loud and silly, please, with chases, bad puns and a very good dog in it.",
    "I feel like a courtroom film where the young lawyer is out of her depth at first.",
    "Give me science fiction that is small and quiet, about memory and old friendship.",
    "What is a good war film that has no battles, only waiting, letters and weather?",
    "I'm after a dance film with real dancers, long takes and a city in the summer heat.",
]


def answer(query, titles=("The Copper Lantern (1987)",), **more):
    messages = [{"role": "seeker", "content": query}]
    return json.dumps({"messages": messages, "recommendations": list(titles)} | more)


def line(name, content):
    body = {"choices": [{"message": {"content": content}}]}
    return {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}


def run(contents, targets="collaborative", curate=None, conversations=None, **prompt):
    """Curate one answer for each of the first seeds."""
    params = domain.params(curate=curate or {}, prompt={"targets": targets} | prompt)
    _, groundings = prompting.build(
        domain.seeds()[::2][: len(contents)],
        domain.reviews(),
        domain.items(),
        domain.interactions(),
        params.prompt,
        model="m",
        temperature=0.0,
        max_tokens=9,
    )
    responses = {
        g.custom_id: c if isinstance(c, dict) else line(g.custom_id, c)
        for g, c in zip(groundings, contents, strict=True)
    }
    curated = curation.curate(
        responses,
        groundings,
        domain.items(),
        domain.conversations() if conversations is None else conversations,
        params.curate,
        params.prompt,
        seed=0,
        teacher=TEACHER,
    )
    return curated, groundings


def good(count=12):
    return [answer(query) for query in QUERIES[:count]]


def reason_of(content, **options):
    """Return why the last of several answers, the others good, is quarantined."""
    curated, groundings = run([*good(6), content], **options)
    name = groundings[6].custom_id
    return {r.dialogue_id: (r.reason, r.detail) for r in curated.rejected}.get(name)


def test_good_answers_are_kept_and_become_dialogues():
    curated, groundings = run(good())
    kept = {d.dialogue_id: d for d in [*curated.train, *curated.valid]}
    assert not curated.rejected and list(map(len, (curated.train, kept))) != [12, 12]
    first = kept[groundings[0].custom_id]
    assert [m.role for m in first.messages] == ["system", "user", "assistant"]
    assert first.messages[1].content == QUERIES[0]
    assert first.messages[2].content.startswith("1. The Copper Lantern (1987)\n2. ")
    assert first.targets == groundings[0].targets and first.teacher == "m"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"custom_id": "x", "response": None, "error": {"code": "400", "message": "no"}},
            "failed_request",
        ),
        ("I'd rather not.", "unparsable"),
        ('{"messages": [', "unparsable"),
        ('{"recommendations": []}', "unparsable"),
        ('{"messages": "hi"}', "unparsable"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "unparsable"),
        ('{"messages": [{"role": "seeker"}]}', "unparsable"),
        (answer(QUERIES[6], recommendations="none"), "unparsable"),
        ('{"messages": []}', "no_query"),
        (answer("   "), "no_query"),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "seeker", "content": QUERIES[6]},
                        {"role": "recommender", "content": "Sure."},
                    ]
                }
            ),
            "no_query",
        ),
        (answer("Films, please?"), "too_short"),
        (answer(QUERIES[6] * 10), "too_long"),
        (
            answer("Ich suche einen Film mit schöner Musik und einer spannenden Handlung."),
            "language",
        ),
        (
            answer("Посоветуйте хороший фильм, похожий на старые комедии, пожалуйста, очень."),
            "language",
        ),
        (answer(QUERIES[6] + " Like A Quiet Orchard."), "leak"),
        (answer(QUERIES[6] + " like a quiet orchard, say"), "leak"),
        (answer(QUERIES[0]), "near_duplicate"),
        (answer(QUERIES[0].replace("guessing", "awake")), "near_duplicate"),
    ],
)
def test_what_is_wrong_is_quarantined_with_the_reason(content, reason):
    # The seventh of these seeds is one of A Quiet Orchard (f05).
    found = reason_of(content)
    assert found and found[0] == reason and found[1]


def test_seven_good_ones_are_all_kept():
    assert reason_of(answer(QUERIES[6])) is None


@pytest.mark.parametrize(
    "content",
    [
        "```json\n" + answer(QUERIES[6]) + "\n```",
        "Here you are:\n" + answer(QUERIES[6]) + "\nAnything else?",
        "\n  " + answer(QUERIES[6]),
        answer(QUERIES[6], extra={"a": 1}),
    ],
)
def test_words_around_the_object_are_tolerated(content):
    assert reason_of(content) is None


def test_every_answer_is_kept_or_quarantined_exactly_once():
    contents = [*good(5), "no", answer(QUERIES[0]), answer("short"), answer(QUERIES[7])]
    curated, groundings = run(contents)
    names = [d.dialogue_id for d in [*curated.train, *curated.valid]]
    names += [r.dialogue_id for r in curated.rejected]
    assert sorted(names) == sorted(g.custom_id for g in groundings)
    assert curated.summary["kept"] + sum(curated.summary["quarantined"].values()) == 9
    assert curated.summary["train"] + curated.summary["valid"] == curated.summary["kept"] == 6
    assert list(curated.summary["quarantined"]) == list(curation.REASONS)


def test_a_dialogue_of_several_turns_is_kept_as_it_was():
    turns = [
        {"role": "seeker", "content": QUERIES[6]},
        {"role": "recommender", "content": "Old or new?"},
        {"role": "seeker", "content": "The older it is the better."},
    ]
    curated, groundings = run([*good(6), json.dumps({"messages": turns})])
    kept = {d.dialogue_id: d for d in [*curated.train, *curated.valid]}
    roles = [m.role for m in kept[groundings[6].custom_id].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_liked_films_may_be_named_even_beside_their_sequel():
    # Harbour of Crows II is a target of the seeds of f02 only where it is not liked; a liked
    # title that holds a target's must not count as naming it.
    contents = good()
    curated, groundings = run(contents)
    titles = {f: t for f, t, *_ in domain.FILMS}
    told = [
        answer(f"{q} I liked {' and '.join(titles[i] for i in g.liked)}.")
        for q, g in zip(QUERIES, groundings, strict=True)
    ]
    again, _ = run(told)
    assert len(again.rejected) == len(curated.rejected) == 0


LIST = ["1. Zeppelin (2003)", {"title": "Seven Winters", "year": 1956}, "Made Up (2001)", 7]


def kept_targets(targets, **options):
    curated, groundings = run([answer(q, LIST) for q in QUERIES], targets, **options)
    kept = {d.dialogue_id: d.targets for d in [*curated.train, *curated.valid]}
    return [(kept.get(g.custom_id), g) for g in groundings], curated


def test_collaborative_targets_only_measure_the_teachers_list():
    pairs, curated = kept_targets("collaborative")
    assert all(targets == g.targets for targets, g in pairs)
    # of three texts and objects listed one is not in the catalogue; 7 is no title
    assert curated.summary["hallucination_rate"] == round(1 / 3, 4)
    assert curated.summary["titles_listed"] == 3 * len(QUERIES)


def test_the_teachers_targets_are_its_linked_list():
    pairs, _ = kept_targets("teacher")
    for targets, g in pairs:
        assert targets == [i for i in ("f04", "f12") if i not in g.liked]


def test_both_fills_the_teachers_list_up():
    pairs, _ = kept_targets("both")
    for targets, g in pairs:
        assert len(targets) == 3 and not set(targets) & set(g.liked)
        head = [i for i in ("f04", "f12") if i not in g.liked]
        assert targets[: len(head)] == head
        assert set(targets) <= {*head, *g.targets}


def test_a_list_of_inventions_is_no_recommendation():
    found = reason_of(answer(QUERIES[6], ["Made Up (2001)"]), targets="teacher")
    assert found[0] == "no_recommendations"


def test_a_long_run_of_an_evaluations_words_is_contamination():
    conversations = domain.conversations()
    said = QUERIES[6] + " I liked Zeppelin."
    conversations.at[0, "turns"][0]["text"] = said
    assert reason_of(answer(QUERIES[6]), conversations=conversations)[0] == "contaminated"
    long = {"contamination_ngram": 40}
    assert reason_of(answer(QUERIES[6]), conversations=conversations, curate=long) is None


def test_equal_titles_are_no_contamination():
    listed = "Harbour of Crows II (1998), Seven Winters (1956), Élan Vital (1999) and It (1990)"
    conversations = domain.conversations()
    conversations.at[0, "turns"][0]["text"] = f"I have always liked {listed}."
    text = f"A gentle comedy for my mother would be nice. I loved {listed}."
    found = reason_of(answer(text, ["Zeppelin"]), conversations=conversations, targets="teacher")
    assert found is None


def test_an_item_is_on_one_side_only_and_both_sides_hold_some():
    for fraction in (0.01, 0.3, 0.99):
        curated, _ = run(good(), curate={"valid_fraction": fraction})
        train = {d.item_id for d in curated.train}
        valid = {d.item_id for d in curated.valid}
        assert train and valid and not train & valid


def test_fewer_seeds_leave_the_order_of_held_out_items():
    wide, _ = run(good(12), curate={"valid_fraction": 0.5})
    narrow, _ = run(good(8), curate={"valid_fraction": 0.2})
    assert {d.item_id for d in narrow.valid} <= {d.item_id for d in wide.valid}


def test_nothing_left_to_split_is_a_failed_run_that_says_why():
    with pytest.raises(RunError, match=r"0 dialogues of 0 items.*too_short 4.*select\.budget"):
        run([answer("short")] * 4)
    with pytest.raises(RunError, match="1 dialogues of 1 items"):
        run(good(1))


def test_answers_and_groundings_must_fit():
    params = domain.params()
    args = (domain.items(), domain.conversations(), params.curate, params.prompt)
    with pytest.raises(InputError, match="'ghost' is a response to no request"):
        curation.curate({"ghost": {}}, [], *args, seed=0, teacher=TEACHER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]\n", "row 1, field 'custom_id'"),
        ('{"custom_id": "a"}\n', "row 1, field 'response'.*neither"),
        ('{"custom_id": "a", "error": {}}\n' * 2, "row 2, field 'custom_id'.*again"),
        ("{\n", "row 1: not JSON"),
    ],
)
def test_a_faulty_response_file_says_where(tmp_path, text, message):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        curation.read_responses(tmp_path / "r.jsonl")


def test_english_is_told_from_other_languages():
    assert all(map(curation.is_english, QUERIES))
    for text in (
        "Je cherche un film avec une belle musique et une histoire touchante, merci beaucoup",
        "Busco una película divertida para ver con toda la familia esta noche, por favor",
        "Jeg vil gjerne se en spennende film fra nittitallet med god musikk",
        "12345 !!!",
        "",
    ):
        assert not curation.is_english(text)


def test_ngrams_do_not_span_a_mark():
    assert curation.ngrams("a b c | d e", 2) == {("a", "b"), ("b", "c"), ("d", "e")}


words = st.lists(st.sampled_from("abcdef"), min_size=3, max_size=30).map(" ".join)


@given(st.lists(words, max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_what_counts_as_double_is_so_and_nothing_exact_is_missed(texts, threshold):
    seen, kept = curation._Seen(threshold, 0), {}
    for number, text in enumerate(texts):
        shingles = curation.ngrams(text, 3)
        scores = {k: curation.jaccard(shingles, v) for k, v in kept.items()}
        double = seen.add(str(number), text)
        if double:
            assert double[1] == scores[double[0]] >= threshold
        else:
            assert 1.0 not in scores.values()
            kept[str(number)] = shingles


def test_near_duplicates_are_found_as_by_comparing_all_pairs():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(400)]
    texts = []
    for _ in range(60):
        base = rng.choice(vocabulary, 40).tolist()
        texts += [" ".join(base), " ".join([*base[:-1], "other"]), " ".join([*base[:20], "x"])]
    seen, kept, doubles = curation._Seen(0.8, 0), [], 0
    for number, text in enumerate(texts):
        shingles = curation.ngrams(text, 3)
        brute = any(curation.jaccard(shingles, other) >= 0.8 for other in kept)
        assert bool(seen.add(str(number), text)) == brute
        doubles += brute
        if not brute:
            kept.append(shingles)
    assert doubles == 60
