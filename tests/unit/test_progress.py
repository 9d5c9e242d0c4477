import io

from rich.console import Console

from seedtalk import progress


def test_what_a_stranger_says_is_shown_as_it_is_and_steers_nothing(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress.bar("work", 1) as shown:
        shown.describe("batch[/x][bold]7\x1b]0;owned\x07\u202e: running")
        shown.advance()
    assert "batch[/x][bold]7]0;owned: running" in screen.getvalue()
    assert "\u202e" not in screen.getvalue() and "\x1b]0" not in screen.getvalue()


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen))
    assert list(progress.track([1, 2], "work")) == [1, 2] and screen.getvalue() == ""
