"""prompts/local.md: a form with one gap, the title told nowhere, the fixed part first."""

import json
import re

import pytest
import yaml
from tests import domain

from seedtalk import prompting
from seedtalk.teacher.answers import parse_dialogue

TEMPLATE = domain.PROMPTS / "local.md"
TITLES = {item: (title, year) for item, title, year, _ in domain.FILMS}


def told(**changed):
    values = {
        "item": "Title: Harbour of Crows (1994)\nGenres: Crime, Thriller",
        "review": "Harbour of Crows is dark, tense and well acted.",
        "tells": "wish, feel, liked",
        "opening": "I'd like",
        "closing": "Any ideas?",
        "liked_phrase": "I liked {liked}.",
        "liked": ["Zeppelin (2003)", "It (1990)"],
    }
    messages = prompting.render(prompting.load_template(TEMPLATE), values | changed, TEMPLATE)
    return messages[1]["content"]


def test_the_form_is_the_sentence_to_be_sent_with_one_gap():
    assert told() == (
        "genres: Crime, Thriller; year: 1994\n"
        "<review>this film is dark, tense and well acted.</review>\n"
        "form: I'd like [WISH]. I liked Zeppelin (2003) and It (1990). Any ideas?\n"
        "answer:"
    )


@pytest.mark.parametrize(
    ("liked", "form"),
    [
        ([], "I'd like [WISH]. Any ideas?"),
        (["A (1990)"], "I'd like [WISH]. I liked A (1990). Any ideas?"),
        (["A", "B", "C"], "I'd like [WISH]. I liked A, B and C. Any ideas?"),
    ],
)
def test_any_number_of_liked_films_reads_well(liked, form):
    assert f"form: {form}\n" in told(liked=liked)


def test_the_order_of_the_style_is_kept():
    assert "form: I liked Zeppelin (2003) and It (1990). I'd like [WISH]. Any ideas?" in told(
        tells="liked, wish, feel"
    )


def test_what_is_unknown_is_said_to_be():
    plain = told(item="Title: The Velvet Compass\nDescription: A farce.", review="Fun.")
    assert plain.startswith("genres: any; year: unknown\n<review>Fun.</review>")
    assert told(item="Title: Odd (Part)").startswith("genres: any; year: unknown\n")


def test_a_title_that_is_a_common_word_stays_in_the_review():
    assert "<review>It frightens.</review>" in told(item="Title: It (1990)", review="It frightens.")


def test_requests_share_their_beginning_and_tell_no_title():
    prompt = domain.params(prompt={"template": str(TEMPLATE), "liked": 2}).prompt
    requests, groundings = prompting.build(
        domain.seeds(),
        domain.reviews(),
        domain.items(),
        domain.interactions(),
        prompt,
        model="m",
        temperature=0.5,
        max_tokens=99,
    )
    assert len({request["body"]["messages"][0]["content"] for request in requests}) == 1
    for request, grounding in zip(requests, groundings, strict=True):
        title, _ = TITLES[grounding.item_id]
        text = request["body"]["messages"][1]["content"]
        for item in grounding.liked:
            text = text.replace(prompting.display_title(*TITLES[item]), "")
        if len(title) > 4:
            assert title not in text
        assert text.count("[WISH]") == 1


def test_the_template_does_not_hang_on_who_names_the_targets():
    """So that another `prompt.targets` asks the teacher nothing anew."""
    source = TEMPLATE.read_text()
    assert not re.search(r"\b(targets|candidates|recommendations)\b.*[%}]}", source)


def test_the_examples_are_answers_of_the_form_asked_for():
    system = prompting.load_template(TEMPLATE).system
    forms = re.findall(r"^form: (.*)$", system, re.MULTILINE)
    answers = re.findall(r"^answer: (.*)$", system, re.MULTILINE)
    assert len(forms) == len(answers) == 3
    for form, answer in zip(forms, answers, strict=True):
        parsed = parse_dialogue(answer)
        before, after = form.split("[WISH]")
        (turn,) = parsed.turns
        assert turn["text"].startswith(before)
        assert turn["text"].endswith(after.lstrip("."))
        wish = turn["text"][len(before) : len(turn["text"]) - len(after)]
        assert 12 <= len(wish.split()) <= 25
        assert len(parsed.titles) == 2
        assert not set(parsed.titles) & set(re.findall(r"[A-Z]\w+ \(\d{4}\)", form))
        assert list(json.loads(answer)) == ["messages", "recommendations"]


def test_the_profile_uses_it():
    profile = yaml.safe_load((domain.ROOT / "profiles/local-teacher.yaml").read_text())
    assert domain.ROOT / profile["prompt"]["template"] == TEMPLATE
