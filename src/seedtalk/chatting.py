"""A conversation in the terminal: the student answers with titles of the catalogue."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.catalogue import Catalogue
from seedtalk.errors import InputError
from seedtalk.params import Years
from seedtalk.records import answer_titles
from seedtalk.students.decoding import TitleScorer
from seedtalk.students.templates import context_messages, format_answer

if TYPE_CHECKING:
    import pandas as pd

GREETING = "Tell me what you like, and I name titles of the catalogue. /help lists the commands."
HELP = """\
/reset  forget the conversation
/help   this list
/quit   leave (so does Ctrl-D)"""

Turn = dict[str, str]


def reply(
    scorer: TitleScorer, history: Sequence[Turn], k: int, exclude: Sequence[int] = ()
) -> list[int]:
    """Return the `k` titles the student would name first, best first.

    Parameters
    ----------
    scorer
        The student and its catalogue.
    history
        Turns so far, each with role (seeker or recommender) and text; the last is the seeker's.
    k
        Titles wanted; fewer come back when fewer are left.
    exclude
        Rows of titles that are not to be named.
    """
    (found,) = scorer.search([context_messages(history)], k, exclude=[exclude])
    return [int(row) for row in found.titles]


class Conversation:
    """What has been said, and which titles have been named in it.

    Parameters
    ----------
    scorer
        The student, over the titles of `items` in their order.
    items
        The catalogue (`records.ITEMS`).
    titles
        Its titles as the student writes them (`records.answer_titles`).
    count
        Titles in an answer.
    """

    def __init__(
        self, scorer: TitleScorer, items: pd.DataFrame, titles: Sequence[str], count: int
    ) -> None:
        self._scorer = scorer
        self._count = count
        self._catalogue = Catalogue(items)
        self._ids = [str(item) for item in items["item_id"]]
        self._titles = titles
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._history: list[Turn] = []
        self._named: set[int] = set()

    def say(self, text: str) -> list[str]:
        """Take the seeker's words; return the titles of the answer, best first.

        Titles that have been named, by either side, are not named again. An empty answer means
        that the whole catalogue has been.
        """
        masked = self._catalogue.mask(text)
        if "|" in masked:
            self._named |= {
                row for row, item in enumerate(self._ids) if self._catalogue.names(text, item)
            }
        self._history.append({"role": "seeker", "text": text})
        rows = reply(self._scorer, self._history, self._count, sorted(self._named))
        self._named |= set(rows)
        titles = [self._titles[row] for row in rows]
        self._history.append({"role": "recommender", "text": format_answer(titles)})
        return titles


def chat(
    student: Path,
    items: pd.DataFrame,
    *,
    count: int = 5,
    years: Years = "ambiguous",
    cache_dir: Path,
    lines: Iterator[str] | None = None,
    write: Callable[[str], None] | None = None,
) -> None:
    """Hold a conversation until the seeker leaves.

    On a terminal it prompts; from a pipe it reads a line a turn and prints the answers only.

    Parameters
    ----------
    student
        A student's folder.
    items
        The catalogue (`records.ITEMS`).
    count
        Titles in an answer.
    years
        Which titles carry their year, as the student has learnt it: ``curate.years``.
    cache_dir
        As for `students.loading.load_student`.
    lines
        What the seeker says, a turn each; standard input by default.
    write
        Takes each answer; standard output by default.

    Raises
    ------
    InputError
        When the catalogue is empty, `count` is not positive, or the student cannot be read.
    """
    from rich.console import Console

    from seedtalk.students.loading import load_student

    if count < 1:
        raise InputError(f"-k {count}: an answer needs one title at least")
    console = Console(highlight=False, markup=False, emoji=False)
    talking = lines is None and sys.stdin.isatty()
    # A long title stays on its line: who reads from a pipe takes a line for a title.
    say = write or partial(console.print, soft_wrap=True)
    with console.status("Loading the student") if talking else nullcontext():
        model, tokenizer = load_student(student, cache_dir=cache_dir)
        titles = answer_titles(items, years)
        conversation = Conversation(TitleScorer(model, tokenizer, titles), items, titles, count)
    if talking:
        console.print(GREETING)
    try:
        for line in lines or _typed(talking):
            if (text := line.strip()) and not _turn(conversation, text, say):
                return
    except KeyboardInterrupt:
        if talking:
            console.print()


def _turn(conversation: Conversation, text: str, say: Callable[[str], Any]) -> bool:
    """Answer one line; return whether the conversation goes on."""
    if not re.match(r"/\w*$", text):
        titles = conversation.say(text)
        say(format_answer(titles) if titles else "The catalogue has no more. /reset starts anew.")
        return True
    command = text.lower()
    if command in ("/quit", "/exit"):
        return False
    if command == "/reset":
        conversation.reset()
        say("A new conversation.")
    elif command == "/help":
        say(HELP)
    else:
        say(f"{text} is no command.\n{HELP}")
    return True


def _typed(talking: bool) -> Iterator[str]:
    """Yield lines of standard input until its end, behind a prompt on a terminal."""
    if not talking:
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
