"""Progress on long work: a bar on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seedtalk.texts import visible

T = TypeVar("T")


class Bar:
    """One line of progress; ``advance`` moves it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: float = 1) -> None:
        """Move the bar on by `amount` units."""
        self._progress.advance(self._task, amount)

    def describe(self, description: str) -> None:
        """Change what is said to be done; the text may be a stranger's."""
        self._progress.update(self._task, description=visible(description))


@contextmanager
def bar(description: str, total: float | None) -> Generator[Bar, None, None]:
    """Show a progress bar on standard error while the block runs.

    Parameters
    ----------
    description
        What is being done, in a word or two.
    total
        Units of work, or None where it is not known.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        yield Bar(progress, progress.add_task(description, total=total))


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, moving a bar by one for each."""
    length = total if total is not None else getattr(items, "__len__", lambda: None)()
    with bar(description, length) as shown:
        for item in items:
            yield item
            shown.advance()
