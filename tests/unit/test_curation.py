import hashlib
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import domain

from seedtalk import curation, prompting, records
from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError, RunError
from seedtalk.students.templates import format_answer, parse_answer

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


def talk(*turns):
    messages = [{"role": role, "content": text} for role, text in turns]
    return json.dumps({"messages": messages, "recommendations": []})


def line(name, content):
    body = {"choices": [{"message": {"content": content}}]}
    return {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}


VOCABULARY = 512


def embed(texts):
    """A stand-in for an encoder: unit rows of counted words, each word in its own place."""
    rows = np.zeros((len(texts), VOCABULARY), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[zlib.crc32(word.strip(".,?!").encode()) % VOCABULARY] += 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


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
        encode=embed,
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
    assert first.messages[2].content.startswith("1. The Copper Lantern\n2. ")
    assert first.targets == groundings[0].targets and first.teacher == "m"
    dated, _ = run(good(), curate={"years": "always"})
    same = next(d for d in [*dated.train, *dated.valid] if d.dialogue_id == first.dialogue_id)
    assert same.messages[2].content.startswith("1. The Copper Lantern (1987)\n2. ")


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
        (talk(("recommender", "Hello!"), ("seeker", QUERIES[6])), "wrong_turns"),
        (talk(("seeker", QUERIES[6]), ("seeker", "Please.")), "wrong_turns"),
        (
            talk(
                ("seeker", QUERIES[6]),
                ("recommender", "Old or new?"),
                ("recommender", "Well?"),
                ("seeker", "New."),
            ),
            "wrong_turns",
        ),
        (talk(("seeker", QUERIES[6]), ("recommender", "Fine."), ("seeker", "\u200b")), "no_query"),
        (
            talk(
                ("seeker", QUERIES[6]),
                ("recommender", "Have you seen A Quiet Orchard?"),
                ("seeker", "No."),
            ),
            "leak",
        ),
        (
            talk(
                ("seeker", QUERIES[6]),
                ("recommender", "Old or new?"),
                ("seeker", "Old, like A Quiet Orchard."),
            ),
            "leak",
        ),
        (answer(f"{QUERIES[6]} I'm after [WISH]."), "placeholder"),
        (answer(f"{QUERIES[6]} I liked {{{{ liked }}}}."), "placeholder"),
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
        (answer(QUERIES[6] + " Like A Qu\u200biet Orch\u00adard."), "leak"),
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
        ("seeker", QUERIES[6]),
        ("recommender", "Old or new?"),
        ("seeker", "The older it is the better."),
    ]
    curated, groundings = run([*good(6), talk(*turns)])
    kept = {d.dialogue_id: d for d in [*curated.train, *curated.valid]}
    messages = kept[groundings[6].custom_id].messages
    assert [m.role for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [m.content for m in messages[1:4]] == [text for _, text in turns]
    assert curated.summary["seeker_messages"] == {"1": 6, "2": 1}


def test_a_leak_says_in_which_message_and_whose():
    turns = (("seeker", QUERIES[6]), ("recommender", "A Quiet Orchard?"), ("seeker", "No."))
    detail = reason_of(talk(*turns))[1]
    assert detail == "message 2, the recommender's, names A Quiet Orchard (1979)"


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


@pytest.mark.parametrize("unlinked", ["drop", "keep"])
def test_a_list_of_inventions_is_no_recommendation(unlinked):
    invented = answer(QUERIES[6], ["Made Up (2001)"])
    found = reason_of(invented, targets="teacher", curate={"unlinked": unlinked})
    assert found[0] == "no_recommendations"


UNTRUE = [
    "Made Up (2001)",
    "Zeppelin (2003)",
    "**Seven Summers (1956)** - long",
    "MADE UP (2001)",  # again
    "x" * 400,
    "1. The Glass\u200b Tide",
    "Seven Winters (1956)",
    "Later\nOne (1999) - a remark",
    "- **Zeppelin (2003)** - with marks",  # in the catalogue, once it is read as an answer is
]


def answers(targets, titles=UNTRUE, **options):
    """Return each kept dialogue's targets, read answer and grounding, and the outcome."""
    curated, groundings = run([answer(q, titles) for q in QUERIES], targets, **options)
    kept = {d.dialogue_id: d for d in [*curated.train, *curated.valid]}
    told = [kept[g.custom_id] for g in groundings if g.custom_id in kept]
    read = [parse_answer(d.messages[-1].content) for d in told]
    # What training draws from is the whole list, title by title.
    assert [format_answer(titles) for titles in read] == [d.messages[-1].content for d in told]
    by_id = {g.custom_id: g for g in groundings}
    return [(d.targets, r, by_id[d.dialogue_id]) for d, r in zip(told, read, strict=True)], curated


@pytest.mark.parametrize("targets", ["teacher", "both"])
def test_kept_titles_stand_where_the_teacher_has_them(targets):
    shown = dict(
        zip(domain.items()["item_id"], records.answer_titles(domain.items(), "ambiguous"),
            strict=True)
    )  # fmt: skip
    rows, curated = answers(targets, curate={"unlinked": "keep"})
    assert len(rows) == len(QUERIES)
    unlinked = ["Made Up (2001)", "Seven Summers (1956)", "The Glass Tide"]  # three are asked for
    for linked, read, grounding in rows:
        expected = [unlinked[0]]
        expected += [shown["f04"]] if "f04" not in grounding.liked else []
        expected += unlinked[1:]
        listed = [i for i in ("f04", "f12") if i not in grounding.liked]
        expected += [shown["f12"]] if "f12" in listed else []
        expected += [shown[i] for i in linked if i not in listed]
        assert read == expected
    told = curated.summary["unlinked"]
    assert told == {
        "curate": "keep",
        "kept": 36,
        "dialogues": 12,
        "share": round(36 / (36 + sum(len(linked) for linked, *_ in rows)), 4),
    }
    assert {p.filters["unlinked_kept"] for p in curated.provenance} == {3}


@pytest.mark.parametrize("targets", ["teacher", "both"])
def test_keeping_changes_the_answers_and_nothing_else(targets):
    invented = [answer("Films, please?"), answer(QUERIES[0], UNTRUE)]  # too short, a duplicate
    contents = [*(answer(q, UNTRUE) for q in QUERIES[:8]), *invented]
    dropped, _ = run(contents, targets)
    kept, _ = run(contents, targets, curate={"unlinked": "keep"})
    for one, two in zip([*dropped.train, *dropped.valid], [*kept.train, *kept.valid], strict=True):
        assert one.messages[:-1] == two.messages[:-1]
        assert one.model_dump(exclude={"messages"}) == two.model_dump(exclude={"messages"})
        few, more = (parse_answer(d.messages[-1].content) for d in (one, two))
        assert [title for title in more if title in few] == few and len(more) > len(few)
    assert dropped.rejected == kept.rejected and len(kept.rejected) == 2
    assert dropped.summary | {"unlinked": None} == kept.summary | {"unlinked": None}
    assert dropped.summary["unlinked"] == {
        "curate": "drop", "kept": 0, "dialogues": 0, "share": 0.0,
    }  # fmt: skip
    pairs = zip(dropped.provenance, kept.provenance, strict=True)
    assert all(one.verdict == two.verdict for one, two in pairs)
    by_verdict = {(p.verdict, p.filters["unlinked_kept"]) for p in kept.provenance}
    assert by_verdict <= {("train", 3), ("valid", 3), ("quarantined", None)}


@given(
    st.lists(
        st.sampled_from(["Zeppelin (2003)", "Seven Winters", "The Copper Lantern"])
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
        | st.sampled_from(["1) a", "**b** c", '"d"', "- e", "f (1999): g", "***", "1.", "* * x"]),
        max_size=9,
    )
)
@settings(max_examples=60, deadline=None)
def test_an_answer_with_kept_titles_can_always_be_taken_apart(titles):
    rows, _ = answers("both", titles, curate={"unlinked": "keep"}, recommendations=4)
    for targets, read, _ in rows:
        assert len(targets) <= len(read) <= 8
        assert len({title.casefold() for title in read}) == len(read)


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


def said_by_evaluation(*texts):
    conversations = domain.conversations()
    turns = [{"role": "seeker", "text": text, "items": []} for text in texts]
    conversations.at[0, "turns"] = turns
    return conversations


SAME = "In every cabin a liar, outside it snow, and all on a train: a mystery I'd love."


def test_a_paraphrase_of_an_evaluation_is_contamination():
    conversations = said_by_evaluation(SAME)
    by_words = {"contamination_ngram": 10, "contamination_similarity": 0.0}
    by_meaning = by_words | {"contamination_similarity": 0.7}
    content = answer(QUERIES[6])
    assert reason_of(content, conversations=conversations, curate=by_words) is None
    reason, detail = reason_of(content, conversations=conversations, curate=by_meaning)
    assert reason == "contaminated" and detail.startswith("says what c1 says, cosine 0.")
    strict = by_words | {"contamination_similarity": 0.99}
    assert reason_of(content, conversations=conversations, curate=strict) is None


def test_one_message_of_several_is_enough_to_contaminate():
    conversations = said_by_evaluation("Hello there.", SAME, "Never mind, I will ask again.")
    turns = (("seeker", QUERIES[1]), ("recommender", "Hm?"), ("seeker", QUERIES[6]))
    found = reason_of(
        talk(*turns), conversations=conversations, curate={"contamination_similarity": 0.7}
    )
    assert found[0] == "contaminated"


def test_titles_and_short_words_make_nobody_alike():
    listed = "Harbour of Crows II (1998), Seven Winters (1956) and It (1990)"
    conversations = said_by_evaluation(f"I liked {listed}. What else?")
    text = f"I liked {listed}. What else?"
    params = {"contamination_similarity": 0.5}
    found = reason_of(
        answer(text, ["Zeppelin"]), conversations=conversations, curate=params, targets="teacher"
    )
    assert found is None  # four words are said beside the titles
    asked = catalogue_told(f"{text} {QUERIES[6]}")
    assert asked == catalogue_told(f"I liked Zeppelin (2003). What else? {QUERIES[6]}")


def catalogue_told(text):
    return curation.told_of([text], Catalogue(domain.items()))


def test_the_similarity_is_that_of_comparing_every_pair():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(40)]
    ours = [[" ".join(rng.choice(words, 9)) for _ in range(rng.integers(0, 4))] for _ in range(30)]
    theirs = [(" ".join(rng.choice(words, 9)), f"c{n}") for n in range(50)]
    found = curation._nearest(ours, theirs, embed)
    there = embed([text for text, _ in theirs])
    for texts, near in zip(ours, found, strict=True):
        cosines = embed(texts) @ there.T if texts else None
        if cosines is None:
            assert near is None
        else:
            assert near[0] == pytest.approx(cosines.max(), abs=1e-6)
            column = [name for _, name in theirs].index(near[1])
            assert cosines[:, column].max() == pytest.approx(near[0], abs=1e-6)


def test_no_encoder_is_asked_where_the_similarity_is_off():
    params = domain.params()

    def refuse(texts):
        raise AssertionError

    _, groundings = run(good())
    curated = curation.curate(
        {g.custom_id: line(g.custom_id, c) for g, c in zip(groundings, good(), strict=True)},
        groundings,
        domain.items(),
        domain.conversations(),
        params.curate,
        params.prompt,
        seed=0,
        teacher=TEACHER,
        encode=refuse,
    )
    assert curated.summary["contamination"] == {
        "encoder": None,
        "threshold": 0.0,
        "compared": 0,
        "median": None,
        "p95": None,
        "max": None,
    }


def test_an_evaluation_without_words_contaminates_nothing():
    params = {"contamination_similarity": 0.1}
    curated, _ = run(good(), conversations=said_by_evaluation("", "Zeppelin"), curate=params)
    assert curated.summary["contamination"]["compared"] == 0 and not curated.rejected


MIXED = [
    "The Copper Lantern (1987)",
    "The Coper Lantern",  # again, misspelt
    "Harbuor of Crows II (1998)",
    "Seven Winters (1971)",
    "Made Up",
    "Made Up",
    "Zeppelin\u200b (2003)",
    "x" * 400,
]


def test_every_listed_title_is_of_one_kind():
    case = curation._Case(
        records.Grounding(
            custom_id="a", review_id="a", item_id="f02", style="s", targets=[], liked=["f04"],
            prompt="p", messages="d",
        ),
        "m",
    )  # fmt: skip
    links = curation._link(MIXED, case.grounding, Catalogue(domain.items()), case)
    assert links == ["f01", "f03", "f04"]
    kinds = "linked duplicate misspelt near_miss unknown unknown liked unknown".split()
    assert [kind for _, kind in case.listed] == kinds
    assert case.hallucinated == ["Seven Winters (1971)", "Made Up", "Made Up", "x" * 300]
    assert set(kinds) == set(curation.KINDS)


def test_hallucination_is_told_by_teacher_prompt_and_style():
    contents = [answer(q, ["Zeppelin", "Made Up", "Made Up Too"][: 1 + n % 3]) for n, q in
                enumerate(QUERIES)]  # fmt: skip
    curated, groundings = run(contents)
    told = curated.summary["hallucination"]
    assert (told["listed"], told["unlinked"], told["rate"]) == (24, 12, 0.5)
    assert curated.summary["hallucination_rate"] == 0.5
    assert sum(told["kinds"].values()) == 24
    assert told["by_teacher"] == {"m": {"listed": 24, "unlinked": 12, "rate": 0.5}}
    assert told["by_prompt"] == {groundings[0].prompt: told["by_teacher"]["m"]}
    for style, counts in told["by_style"].items():
        places = [n for n, g in enumerate(groundings) if g.style == style]
        assert counts["listed"] == sum(1 + n % 3 for n in places)
        assert counts["unlinked"] == sum(n % 3 for n in places)
    assert told["titles"] == [
        {"title": "Made Up", "count": 8},
        {"title": "Made Up Too", "count": 4},
    ]


def test_the_teacher_is_the_one_the_answer_names():
    lines = [answer(q) for q in QUERIES]
    named = {"choices": [{"message": {"content": lines[0]}}], "model": "m-2025\x1b[31m"}
    first = {"custom_id": "", "response": {"status_code": 200, "body": named}, "error": None}
    curated, groundings = run([first, *lines[1:]])
    models = {p.dialogue_id: p.model for p in curated.provenance}
    assert models[groundings[0].custom_id] == "m-2025[31m"
    assert set(curated.summary["hallucination"]["by_teacher"]) == {"m", "m-2025[31m"}


def test_provenance_says_of_every_request_what_became_of_it():
    failed = {"custom_id": "", "response": None, "error": {"code": "400", "message": "no"}}
    keyed = line("", answer(QUERIES[4]))
    keyed["response"]["request_id"] = "abc"
    contents = [*good(4), keyed, failed, "no JSON", answer(QUERIES[0]), answer(QUERIES[7])]
    params = {"contamination_similarity": 0.9}
    conversations = said_by_evaluation("What is a film like that one, please, about the sea?")
    curated, groundings = run(contents, curate=params, conversations=conversations)
    told = curated.provenance
    assert [p.dialogue_id for p in told] == [g.custom_id for g in groundings]
    assert [(p.review_id, p.item_id, p.style, p.prompt, p.messages) for p in told] == [
        (g.review_id, g.item_id, g.style, g.prompt, g.messages) for g in groundings
    ]
    places = {d.dialogue_id: "train" for d in curated.train}
    places |= {d.dialogue_id: "valid" for d in curated.valid}
    reasons = {r.dialogue_id: r.reason for r in curated.rejected}
    for record in told:
        assert record.verdict == places.get(record.dialogue_id, "quarantined")
        assert record.reason == reasons.get(record.dialogue_id)
        assert record.backend == "openai" and record.model == "m"
        assert list(record.filters) == list(told[0].filters)
    assert [p.request_key for p in told] == [None] * 4 + ["abc"] + [None] * 4
    digest = hashlib.sha256(contents[0].encode()).hexdigest()
    assert told[0].response_digest == digest and told[5].response_digest is None
    assert told[6].response_digest == hashlib.sha256(b"no JSON").hexdigest()
    assert told[5].filters == dict.fromkeys(told[0].filters) == told[6].filters
    assert told[0].filters | {"contamination": None} == {
        "query_chars": len(QUERIES[0]),
        "seeker_messages": 1,
        "linked": 1,
        "hallucinated": [],
        "targets": 3,
        "unlinked_kept": 0,
        "nearest": None,
        "contamination": None,
    }
    assert told[7].filters["nearest"] == {
        "dialogue": groundings[0].custom_id,
        "similarity": 1.0,
    }
    measured = told[0].filters["contamination"]
    assert measured["ngram"] is None and 0 <= measured["cosine"] < 0.9
    assert measured["conversation"] == "c1"


def test_a_shared_run_of_words_is_in_the_provenance():
    conversations = said_by_evaluation(QUERIES[2])
    curated, _ = run(good(), conversations=conversations)
    measured = curated.provenance[2].filters["contamination"]
    assert measured == {
        "ngram": "a slow drama in the mountains with hardly any dialogue",
        "cosine": None,
        "conversation": "c1",
    }


def test_an_item_the_catalogue_lacks_is_an_input_error():
    params = domain.params()
    _, groundings = run(good(3))
    lines = {g.custom_id: line(g.custom_id, good(1)[0]) for g in groundings}
    groundings[1] = groundings[1].model_copy(update={"targets": ["f99"]})
    args = (domain.items(), domain.conversations(), params.curate, params.prompt)
    with pytest.raises(InputError, match=r"grounding, row 2: 'f99' is not among the items"):
        curation.curate(lines, groundings, *args, seed=0, teacher=TEACHER, encode=embed)
    with pytest.raises(InputError, match=r"teacher, field 'backend'"):
        curation.curate({}, [], *args, seed=0, teacher={"model": "m"}, encode=embed)


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
        curation.curate({"ghost": {}}, [], *args, seed=0, teacher=TEACHER, encode=embed)


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


@settings(deadline=None)
@given(st.lists(words, max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_what_counts_as_double_is_so_and_nothing_exact_is_missed(texts, threshold):
    seen, kept = curation.Seen(threshold, 0), {}
    for number, text in enumerate(texts):
        shingles = curation.ngrams(text, 3)
        scores = {k: curation.jaccard(shingles, v) for k, v in kept.items()}
        near = seen.nearest(text)
        if near:
            assert near[1] == scores[near[0]]
        if near and near[1] >= threshold:
            assert near[1] <= max(scores.values())
        else:
            assert 1.0 not in scores.values()
            seen.add(str(number), text)
            kept[str(number)] = shingles


def test_near_duplicates_are_found_as_by_comparing_all_pairs():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(400)]
    texts = []
    for _ in range(60):
        base = rng.choice(vocabulary, 40).tolist()
        texts += [" ".join(base), " ".join([*base[:-1], "other"]), " ".join([*base[:20], "x"])]
    seen, kept, doubles = curation.Seen(0.8, 0), [], 0
    for number, text in enumerate(texts):
        shingles = curation.ngrams(text, 3)
        brute = any(curation.jaccard(shingles, other) >= 0.8 for other in kept)
        near = seen.nearest(text)
        assert bool(near and near[1] >= 0.8) == brute
        doubles += brute
        if not brute:
            kept.append(shingles)
            seen.add(str(number), text)
    assert doubles == 60
