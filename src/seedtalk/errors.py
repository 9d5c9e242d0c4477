"""The two ways a command ends badly, told apart by the exit code."""

from __future__ import annotations

from pathlib import Path

import click


class InputError(click.ClickException):
    """Bad input: names file, row and field, and what would mend it. Exit code 2."""

    exit_code = 2


class RunError(click.ClickException):
    """A run that failed on good input (network, budget, disk). Exit code 1."""

    exit_code = 1


def at(path: str | Path, row: int | str | None = None, field: str | None = None) -> str:
    """Return the place an error is about, such as ``reviews.jsonl, row 3, field 'text'``.

    Parameters
    ----------
    path
        The file as the user gave it.
    row
        1-based line or row number (or a row's id).
    field
        Column or key name.
    """
    place = str(path)
    if row is not None:
        place += f", row {row}"
    if field is not None:
        place += f", field '{field}'"
    return place
