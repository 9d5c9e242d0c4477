"""`seedtalk ledger`: what was paid for, and whether it is whole."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seedtalk.errors import InputError, RunError
from seedtalk.workspace import IN_FILE, cache_dir

if TYPE_CHECKING:
    from rich.table import Table

    from seedtalk.teacher.ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell a spreadsheet would compute
CSV_FIELDS = ("key", "endpoint", "model", "question", "answer")


@click.group()
def ledger() -> None:
    """Look at, check, tidy and mend the ledger of paid calls."""


def _ledger_option(command: F) -> F:
    """Add ``--ledger FILE`` and hand the command its path as ``path``."""

    def there(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
        from seedtalk.teacher import LEDGER

        path = value or cache_dir() / LEDGER
        if not path.is_file():
            raise InputError(f"{path}: no ledger there; the first call to a paid teacher makes it")
        return path

    return click.option(
        "--ledger",
        "path",
        type=click.Path(path_type=Path),
        callback=there,
        help="The ledger's file.  [default: .cache/ledger.sqlite of the workspace]",
    )(command)


@ledger.command()
@_ledger_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(path: Path, as_json: bool) -> None:
    """Say what was asked, answered and paid, by endpoint and model."""
    from rich.console import Console

    from seedtalk.teacher.ledger import Ledger
    from seedtalk.teacher.ledger.upkeep import statistics

    with Ledger(path, reading=True) as opened:
        found = statistics(opened)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, markup=False, emoji=False)
    table = _table(found["models"])
    # A name that is cut is no use to a script; a wide line wraps, ugly but whole.
    unbound = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=unbound).maximum)
    console.print(table)
    click.echo(
        f"{_plain(str(path))}: {found['calls']} calls and {found['usd']:.4f} USD in all, "
        f"{_bytes(found['bytes'])}, {found['open_batches']} open batches, {found['damaged']} "
        f"damaged rows{' (`seedtalk ledger verify` names them)' if found['damaged'] else ''}."
    )


def _table(models: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    fields = {
        "endpoint": "endpoint",
        "model": "model",
        "requests": "requests",
        "answered": "answered",
        "attempts": "calls",
        "failed": "failed",
        "sent": "open",
        "input_tokens": "tokens in",
        "output_tokens": "tokens out",
        "usd": "USD",
    }
    table = Table(box=box.SIMPLE)
    for field, title in fields.items():
        text = field in {"endpoint", "model"}
        table.add_column(title, justify="left" if text else "right", no_wrap=True)
    for model in models:
        table.add_row(
            *(_plain(model[name]) for name in ("endpoint", "model")),
            *(f"{model[name]:,}" for name in [*fields][2:-1]),
            f"{model['usd']:.4f}",
        )
    return table


@ledger.command()
@_ledger_option
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="jsonl is whole; csv has the last message and the answer's text, for a spreadsheet.",
)
@click.option("--model", help="Only what this model was asked.")
def export(path: Path, file: str, form: str, model: str | None) -> None:
    """Write every answered request to FILE, or to standard output for `-`.

    One line a request, by key: key, endpoint, model, body and response. The body is null where
    an older version asked and did not keep it.
    """
    from seedtalk.teacher.ledger import Ledger

    lines = _csv if form == "csv" else _jsonl
    count = 0
    with Ledger(path, reading=True) as opened:
        if file == "-":
            for line in lines(opened, model):
                click.echo(line, nl=False)
            return
        from seedtalk.records import atomic_file

        with atomic_file(Path(file)) as out:
            for line in lines(opened, model):
                out.write(line)
                count += 1
    click.echo(f"{_plain(file)}: {count - (form == 'csv')} answered requests.", err=True)


def _jsonl(opened: Ledger, model: str | None) -> Iterator[str]:
    from seedtalk.teacher.ledger.upkeep import answers

    for answer in answers(opened, model):
        # ASCII alone: no text of an endpoint steers a terminal.
        yield json.dumps(answer) + "\n"


def _csv(opened: Ledger, model: str | None) -> Iterator[str]:
    from seedtalk.teacher.answers import content_of
    from seedtalk.teacher.ledger.upkeep import answers

    yield _row(CSV_FIELDS)
    for answer in answers(opened, model):
        try:
            question = str(answer["body"]["messages"][-1]["content"])
        except (TypeError, KeyError, IndexError):
            question = ""
        told = (answer["key"], answer["endpoint"], answer["model"], question)
        yield _row(_cell(text) for text in (*told, content_of(answer["response"]) or ""))


def _row(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula."""
    plain = _plain(text)
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) or text.startswith(FORMULA) else plain


def _plain(text: str) -> str:
    """Return a text whose control and direction characters are written out."""
    return "".join(
        character.encode("unicode_escape").decode()
        if character in BIDI or unicodedata.category(character) in {"Cc", "Cs"}
        else character
        for character in text
    )


@ledger.command()
@_ledger_option
def verify(path: Path) -> None:
    """Check the file's structure and every row; exit 1 where something is damaged."""
    from seedtalk.teacher.ledger import Ledger
    from seedtalk.teacher.ledger.upkeep import faults

    count = 0
    with Ledger(path, reading=True) as opened:
        for fault in faults(opened):
            click.echo(_plain(fault))
            count += 1
    if count:
        raise RunError(
            f"{path}: {count} fault(s), see above; `seedtalk ledger mend` keeps what is whole. "
            "Nothing damaged is served as an answer"
        )
    click.echo(f"{_plain(str(path))}: whole.")


@ledger.command()
@_ledger_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--keep",
    "keep",
    type=IN_FILE,
    multiple=True,
    help="Requests of artifacts/requests.jsonl stay, all others go; may be given again.",
)
@click.option("--failed", is_flag=True, help="Calls that brought no answer go.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="What is older goes."
)
def gc(
    path: Path, dry_run: bool, keep: tuple[Path, ...], failed: bool, older_than: float | None
) -> None:
    """Give back unused room, and delete what the options name.

    Without an option nothing is deleted. With several, only what all of them name is. Calls
    that may still be answered stay (those of an open batch, and of the last two days). What is
    deleted still counts against teacher.max_usd and teacher.max_calls.
    """
    from seedtalk.teacher import read_requests
    from seedtalk.teacher.ledger import Ledger
    from seedtalk.teacher.ledger.upkeep import collect

    bodies = [request["body"] for file in keep for request in read_requests(file)]
    with Ledger(path, reading=dry_run) as opened:
        freed = collect(
            opened,
            keep=bodies if keep else None,
            failed=failed,
            older_than=older_than,
            dry_run=dry_run,
        )
    click.echo(
        f"{'would delete' if dry_run else 'deleted'} {freed.attempts} calls, {freed.answers} "
        f"of them answered ({freed.usd:.4f} USD), and {freed.requests} requests; "
        f"{'about ' if dry_run else ''}{_bytes(freed.bytes)} "
        f"{'would be ' if dry_run else ''}freed."
    )


@ledger.command()
@_ledger_option
def mend(path: Path) -> None:
    """Save what is whole in a damaged ledger; the old file is kept beside it."""
    from seedtalk.teacher.ledger.upkeep import mend as save

    saved = save(path)
    click.echo(
        f"{_plain(str(path))}: {saved.attempts} calls saved, {saved.answers} of them answered; "
        f"{saved.lost} lost, which count as spent where they could be read. The old file is "
        f"{_plain(saved.old.name)}."
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
