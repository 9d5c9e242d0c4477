"""A terminal conversation with a toy student."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.toy import toy_items, toy_student

from seedtalk.chatting import HELP, Conversation, chat, reply
from seedtalk.errors import InputError
from seedtalk.records import answer_titles
from seedtalk.students.decoding import TitleScorer
from seedtalk.students.loading import Manifest, load_student, write_manifest
from seedtalk.students.templates import context_messages, parse_answer

ITEMS = pd.DataFrame(toy_items())
TITLES = answer_titles(ITEMS, "ambiguous")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("chat")
    toy_student(root / "base")
    (root / "student").mkdir()
    write_manifest(root / "student", Manifest(base=str(root / "base"), tuning="zero-shot"))
    return root / "student"


@pytest.fixture(scope="module")
def scorer(student):
    return TitleScorer(*load_student(student, cache_dir=student.parent), TITLES)


def talk(student, lines, count=3):
    said: list[str] = []
    chat(
        student, ITEMS, count=count, cache_dir=student.parent, lines=iter(lines), write=said.append
    )
    return said


def test_reply_ranks_by_the_whole_history(scorer):
    history = [
        {"role": "seeker", "text": "A heist?"},
        {"role": "recommender", "text": "1. Grey Ransom (1999)"},
        {"role": "seeker", "text": "Older."},
    ]
    (exact,) = scorer.score([context_messages(history)])
    found = reply(scorer, history, 40)
    assert sorted(found) == list(range(40))
    assert list(exact[found[:1]]) == [pytest.approx(max(exact[found]))]
    assert reply(scorer, history, 3, exclude=found[:2])[0] == found[2]


def test_answers_are_lists_of_the_catalogue_and_never_repeat(student):
    answers = [parse_answer(answer) for answer in talk(student, ["Something eerie", "More!"])]
    assert [len(answer) for answer in answers] == [3, 3]
    named = answers[0] + answers[1]
    assert len(set(named)) == 6
    assert set(named) <= set(TITLES)


def test_titles_carry_the_years_that_the_student_has_learnt(student):
    twins = ITEMS.assign(title=["Grey Ransom", *ITEMS["title"][1:]])
    said: list[str] = []
    for years in ("ambiguous", "always"):
        chat(
            student,
            twins,
            count=40,
            years=years,
            cache_dir=student.parent,
            lines=iter(["hello"]),
            write=said.append,
        )
    dated = [[title for title in parse_answer(answer) if title.endswith(")")] for answer in said]
    assert {title.partition(" (")[0] for title in dated[0]} == {"Grey Ransom"}
    assert (len(dated[0]), len(dated[1])) == (2, 40)


def test_titles_the_seeker_names_are_not_recommended(scorer):
    first = Conversation(scorer, ITEMS, TITLES, 2).say("Hello there")
    conversation = Conversation(scorer, ITEMS, TITLES, 40)
    answer = conversation.say(f"I have seen {first[0].lower()} and {TITLES[7]}.")
    assert len(answer) == 38
    assert not {first[0], TITLES[7]} & set(answer)
    assert conversation.say("more") == []


def test_commands(student):
    said = talk(student, ["", "hello", "/reset", "hello", "/help", "/what", "/QUIT", "never read"])
    assert said[0] == said[2], "a new conversation answers as the first did"
    assert said[1] == "A new conversation."
    assert said[3] == HELP
    assert said[4] == f"/what is no command.\n{HELP}"
    assert len(said) == 5


def test_whole_catalogue_named_says_so(student):
    said = talk(student, ["hello", "more"], count=40)
    assert len(parse_answer(said[0])) == 40
    assert said[1].startswith("The catalogue has no more")


def test_piped_input_is_answered_without_prompts(student, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello [bold]you[/bold]\n/quit\n"))
    chat(student, ITEMS, count=2, cache_dir=student.parent)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert len(parse_answer(out)) == 2


def test_piped_titles_are_printed_whole_and_as_they_are(student, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    odd = "A very long way home, :cat: and [bold] " * 4
    items = ITEMS.assign(title=[f"{odd}{number}" for number in range(len(ITEMS))])
    chat(student, items, count=2, cache_dir=student.parent)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(odd in line for line in lines)


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_terminal_ends_cleanly_on_ctrl_d_and_ctrl_c(student, monkeypatch, capsys, end):
    typed = iter(["hello"])

    def ask(_prompt):
        try:
            return next(typed)
        except StopIteration:
            raise end from None

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chat(student, ITEMS, count=2, cache_dir=student.parent)
    out = capsys.readouterr().out
    assert out.startswith("Tell me what you like")
    assert len(parse_answer(out)) == 2


def test_no_titles_wanted_is_an_input_error(student):
    with pytest.raises(InputError, match="-k 0"):
        talk(student, ["hello"], count=0)
