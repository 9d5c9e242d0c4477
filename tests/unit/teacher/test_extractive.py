import dataclasses
import json
import re

import numpy as np
import pytest
from tests import domain

from seedtalk import prompting
from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError
from seedtalk.teacher import extractive


def requests(table=None, **prompt):
    params = domain.params(prompt=prompt)
    reviews = domain.reviews() if table is None else table
    made = prompting.build(
        domain.seeds(),
        reviews,
        domain.items(),
        domain.interactions(),
        params.prompt,
        model="extractive",
        temperature=0.0,
        max_tokens=100,
    )
    return list(zip(*made, strict=True))


def content(body, seed=0):
    return json.loads(extractive.answer(body, seed)["choices"][0]["message"]["content"])


def message(body, seed=0):
    return content(body, seed)["messages"][0]["content"]


def told(review, **style):
    """A request about one film, in a style of the test's."""
    values = {
        "name": "plain",
        "tell, in this order": "wish, feel, liked",
        "begin with": "I want",
        "liked films as": "I liked {liked}.",
        "end with": "",
    } | style
    item = {"Title": "Harbour of Crows (1994)", "Genres": "Crime, Thriller"}
    return extractive.Told("film", item, review, [], ["Zeppelin (2003)"], ["Night Ferry"], values)


def aspects(review):
    return extractive._aspects(extractive.split(review), frozenset())


@pytest.mark.parametrize(
    ("review", "phrases"),
    [
        ("The acting is superb.", ["superb acting"]),
        ("It has a clever plot.", ["a clever plot"]),
        ("An original story told well.", ["an original story"]),
        ("A unique story.", ["a unique story"]),
        ("He gave a brilliant performance.", ["brilliant performances"]),
        ("The dark and moody cinematography stays.", ["dark and moody cinematography"]),
        ("The script was sharp, witty and clever.", ["a sharp, witty and clever script"]),
        ("The acting by everyone involved was excellent.", ["excellent acting"]),
        ("A beautifully shot scene.", ["beautifully shot scenes"]),
        ("Beautifully crafted dialogue.", ["beautifully crafted dialogue"]),
        ("The plot is not clever.", []),
        ("It lacks a clever plot.", []),
        ("The acting is bad.", []),
        ("The plot could have been clever.", []),
        ("There is a plot.", []),
        ("The plot was dull but the music is haunting.", ["haunting music"]),
        ("A clever plot, and what a gripping plot.", ["a clever plot"]),  # each aspect once
    ],
)
def test_aspects_are_what_a_seeker_may_want(review, phrases):
    assert aspects(review) == phrases


@pytest.mark.parametrize(
    ("sentence", "usable"),
    [
        ("The performances are gripping and the tension never lets up.", True),
        ("Jane Dorset gives the film its warm and tender heart.", False),  # a name
        ("I loved the gripping story and the warm characters of it.", False),  # the viewer
        ("And the acting is superb from the first scene to the last.", False),  # leans
        ("The acting is superb and the plot of 1999 is clever.", False),  # a year
        ("The superb acting makes up for a boring plot.", False),  # a complaint
        ("The crows are wonderfully shot and the acting is superb.", False),  # the title
        ("the acting is superb and the story gripping and clever.", False),  # a fragment
        ("Great acting.", False),  # too short
        ("He makes the acting superb and the story gripping.", False),  # plot with people
    ],
)
def test_a_sentence_is_quoted_only_if_it_can_stand_alone(sentence, usable):
    banned = frozenset({"crows", "harbour"})
    assert bool(extractive._feel([sentence], banned, [])) is usable


def test_a_description_becomes_the_wish():
    request = told("This is a tense thriller full of twists.", **{"begin with": "Could you find"})
    text = extractive.compose(request, np.random.default_rng(1))
    assert re.match(r"Could you find a [^.?“]*\?", text)


def test_a_statement_about_something_else_is_no_description():
    for sentence in ("It is a superb cast and the plot is clever.", "This is a shame of a film."):
        assert extractive._described([sentence], frozenset()) == ""


def test_what_is_told_twice_is_a_subject_or_a_motif():
    review = "The soldiers wait. Some soldiers sing. War is war, and the actors know. Love, once."
    assert extractive._motifs(review, frozenset()) == ["soldiers"]
    assert extractive._subjects(review, frozenset()) == ["war"]
    assert extractive._subjects(review, frozenset({"war"})) == []


def test_a_quotation_does_not_repeat_the_wish():
    assert extractive._repeats(
        "The acting is superb.", "I want a drama where the acting is superb."
    )
    assert not extractive._repeats("The acting is superb.", "I want a clever film with songs.")


def test_sentences_split_also_without_a_space():
    assert extractive.split("One two.Three four! Five... six") == [
        "One two.",
        "Three four!",
        "Five",
        "six",
    ]


def test_answers_hang_on_request_and_seed_alone():
    body = requests()[4][0]["body"]
    assert extractive.answer(body, 1) == extractive.answer(dict(reversed(body.items())), 1)
    assert len({message(body, seed) for seed in range(20)}) > 1


def test_the_answers_follow_style_likes_and_candidates():
    for request, grounding in requests():
        answer, body = content(request["body"]), request["body"]
        blocks = extractive.read(body)
        assert answer["recommendations"] == blocks.candidates
        text = answer["messages"][0]["content"]
        assert blocks.style["begin with"] in text
        assert blocks.style["end with"] in text or text.endswith("?")
        assert [m["role"] for m in answer["messages"]] == ["seeker"]
        if "liked" in blocks.style["tell, in this order"]:
            assert all(title in text for title in blocks.liked)
        assert grounding.style == blocks.style["name"]


def test_no_answer_names_its_targets_people_or_years():
    catalogue = Catalogue(domain.items())
    for request, grounding in requests():
        for seed in range(3):
            text = message(request["body"], seed)
            blocks = extractive.read(request["body"])
            for title in blocks.liked:
                text = text.replace(title, "")
            assert not any(catalogue.names(text, target) for target in grounding.targets)
            assert not re.search(r"Jane|Dorset|19\d\d", text)


def test_answers_are_whole_sentences():
    for request, _ in requests():
        text = message(request["body"])
        assert re.fullmatch(r"[A-Z].*[.?!”)]", text, re.DOTALL)
        assert not re.search(r"  |\s[.,?!]|[,;]\.|\ba [aeio]\w+ (film|drama|comedy)|{|}|<|>", text)
        assert 30 < len(text) <= 600


def test_a_review_that_says_nothing_still_makes_a_request():
    reviews = domain.reviews().assign(text="Bad. Awful. 12345. Jane Dorset!!!")
    for request, _ in requests(reviews, reviews=0):
        blocks = extractive.read(request["body"])
        text = message(request["body"])
        assert len(text) > 20 and "Dorset" not in text
        assert all(title in text for title in blocks.liked)


def test_it_says_what_it_cannot_do():
    (request, _), *_ = requests(grounding="none", targets="teacher")
    with pytest.raises(InputError, match=r"needs a <item> block.*teacher\.backend=openai"):
        extractive.answer(request["body"])


def test_without_candidates_it_lists_the_item():
    (request, _), *_ = requests(targets="teacher")
    assert content(request["body"])["recommendations"] == ["The Copper Lantern (1987)"]


def test_usage_is_counted_and_the_form_is_a_completion():
    (request, _), *_ = requests()
    answer = extractive.answer(request["body"])
    assert answer["usage"]["total_tokens"] == (
        answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    )
    assert answer["choices"][0]["finish_reason"] == "stop"


def talk(body, seed=0):
    return content(body, seed)["messages"]


@pytest.mark.parametrize("turns", [2, 3, 5])
def test_a_dialogue_has_the_turns_asked_for_and_ends_with_the_seeker(turns):
    for request, _ in requests(turns=turns):
        roles = [m["role"] for m in talk(request["body"])]
        assert roles == ["seeker", "recommender"] * (len(roles) // 2) + ["seeker"]
        assert len(roles) == 2 * turns - 1 or turns > 4  # a review runs out of things to say
        assert len(roles) > 1


def test_a_dialogue_tells_what_the_single_message_would():
    for (request, _), (longer, _) in zip(requests(), requests(turns=3), strict=True):
        blocks = extractive.read(longer["body"])
        spoken = " ".join(m["content"] for m in talk(longer["body"]) if m["role"] == "seeker")
        assert talk(longer["body"])[0]["content"].find(blocks.style["begin with"]) >= 0
        assert blocks.style["end with"] in spoken or spoken.endswith("?")
        if "liked" in blocks.style["tell, in this order"]:
            assert all(title in spoken for title in blocks.liked)
        one = extractive.split(message(request["body"]))
        assert one  # the same review speaks in both
        words = set(extractive._lower(blocks.review)) & (
            extractive.lexicon.WANTED | extractive._patterns(extractive.lexicon.FILM).aspect_words
        )
        assert words & set(extractive._lower(spoken))


def test_the_recommender_asks_and_names_nothing():
    catalogue = Catalogue(domain.items())
    for request, grounding in requests(turns=4):
        for turn in talk(request["body"]):
            if turn["role"] == "recommender":
                assert turn["content"].endswith("?") and len(turn["content"]) < 80
                named = [i for i, *_ in domain.FILMS if catalogue.names(turn["content"], i)]
                assert not named
            else:
                text = turn["content"]
                for title in extractive.read(request["body"]).liked:
                    text = text.replace(title, "")
                assert not any(catalogue.names(text, target) for target in grounding.targets)
                assert not re.search(r"Jane|Dorset|19\d\d", text)


def test_no_question_is_asked_twice_and_none_follows_the_last_word():
    for request, _ in requests(turns=9):
        asked = [m["content"].split(" ", 1)[1] for m in talk(request["body"])[1::2]]
        assert len(set(asked)) == len(asked)
        if "Is there anything else I should know?" in " ".join(asked):
            assert asked[-1].endswith("anything else I should know?")


def test_dialogues_hang_on_request_and_seed_alone():
    body = requests(turns=3)[2][0]["body"]
    assert extractive.answer(body, 1) == extractive.answer(dict(reversed(body.items())), 1)
    assert len({json.dumps(talk(body, seed)) for seed in range(20)}) > 1


def test_what_stands_out_is_told_in_the_reviews_words():
    review = "The acting is superb. It has a clever plot. The soldiers wait. Some soldiers sing."
    request = told(review, **{"tell, in this order": "wish, liked"})
    request = dataclasses.replace(request, turns=3)
    spoken = " ".join(extractive.converse(request, np.random.default_rng(0))).lower()
    assert "superb acting" in spoken and "a clever plot" in spoken and "zeppelin" in spoken
    only = dataclasses.replace(request, review="The soldiers wait. Some soldiers sing.", turns=2)
    assert "soldiers in it" in " ".join(extractive.converse(only, np.random.default_rng(0)))


@pytest.mark.parametrize("block", ["", "0", "two", "-1", "1000", "3\n3"])
def test_a_broken_number_of_turns_is_an_input_error(block):
    (request, _), *_ = requests()
    body = request["body"]
    user = body["messages"][1]["content"] + f"\n<turns>\n{block}\n</turns>"
    body = body | {"messages": [body["messages"][0], {"role": "user", "content": user}]}
    with pytest.raises(InputError, match="no number of messages"):
        extractive.answer(body)


BOOKS = {"template": "prompts/books.md", "styles": "prompts/styles-books.yaml"}
OF_FILMS = re.compile(r"\b(film|movie|watch|cinema|screen|acting|actor|seen)", re.IGNORECASE)


def without_titles(request, text):
    blocks = extractive.read(request["body"])
    for title in [*blocks.liked, *blocks.candidates]:
        text = text.replace(title, "")
    return text


@pytest.mark.parametrize("turns", [1, 3, 9])
def test_a_request_about_books_speaks_of_no_films(turns):
    for request, _ in requests(turns=turns, **BOOKS):
        for seed in range(3):
            spoken = content(request["body"], seed)["messages"]
            text = without_titles(request, " ".join(m["content"] for m in spoken))
            assert not OF_FILMS.search(text), text
            assert "{" not in text


def test_the_prompt_about_books_speaks_of_no_films():
    for turns in (1, 3):
        for targets in ("collaborative", "both", "teacher"):
            request, _ = requests(turns=turns, targets=targets, **BOOKS)[0]
            system, user = (message["content"] for message in request["body"]["messages"])
            fences = re.sub(r"<(review|further-review)>.*?</\1>", "", user, flags=re.DOTALL)
            fences = fences.replace("liked films as:", "")
            assert not OF_FILMS.search(system), system
            assert not OF_FILMS.search(without_titles(request, fences)), fences


def test_a_book_is_praised_for_what_books_have():
    said = extractive.split(
        "This book is a moving memoir of a harbour. The prose is superb. Wonderful illustrations "
        "and brilliant acting in the film version."
    )
    book = extractive.lexicon.BOOK
    assert extractive._aspects(said, book.foreign, book) == [
        "superb prose",
        "wonderful illustrations",
    ]
    assert extractive._described(said, book.foreign, book) == "a moving memoir of a harbour"
    assert "superb prose" not in extractive._aspects(said, frozenset())


def test_a_domain_without_words_of_its_own_has_what_all_share():
    game = extractive.lexicon.domain("Game")
    said = extractive.split(
        "The game is moody. The story is gripping. A thrilling film with heart."
    )
    assert extractive._tones(said, game.foreign, game)[0] == "moody"
    assert extractive._aspects(said, game.foreign, game) == ["a gripping story"]
    assert (
        extractive._feel(["The film is a superb and gripping ride."], game.foreign, [], game) == ""
    )
    assert extractive.lexicon.domain("film") is extractive.lexicon.domain("movie")
