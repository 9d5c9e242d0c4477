"""`seedtalk cost`: what the requests would cost, before anything is paid."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seedtalk.workspace import input_option, params_option, root

if TYPE_CHECKING:
    from seedtalk.params import Teacher
    from seedtalk.teacher.prices import Price
    from seedtalk.teacher.quote import Basis, Quote, Range


@click.command()
@params_option
@input_option("requests", "artifacts/requests.jsonl", "Requests, written by the prompt stage.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    multiple=True,
    help="Price this many seeds instead; may be given more than once.",
)
@click.option(
    "--answer-tokens",
    type=click.FloatRange(min=0, min_open=True),
    help="Tokens of an answer, on the average; else those of the answers in the ledger.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def cost(
    params: Any,
    requests: Path,
    seeds: tuple[int, ...],
    answer_tokens: float | None,
    as_json: bool,
) -> None:
    """Price the requests before anything is paid; no call is made.

    What the ledger knows is not paid for again. Retries are not foreseen, nor are repairs of
    answers that are yet to come.
    """
    import json

    from seedtalk import teacher
    from seedtalk.teacher import quote
    from seedtalk.teacher.ledger import Ledger
    from seedtalk.teacher.prices import Price, how_to_set, known_price

    options = params.teacher
    lines = teacher.read_requests(requests)
    free = options.backend == "extractive"
    if not free:
        teacher.check_model(lines, options)
    price = Price(0.0, 0.0, source="the extractive teacher") if free else known_price(
        options, options.prices
    )  # fmt: skip
    path = root() / ".cache" / teacher.LEDGER
    known = path.is_file() and not free
    with Ledger(path, reading=True) if known else nullcontext() as ledger:
        bodies = [line["body"] for line in lines]
        quotes, basis = quote.quote(bodies, options, price, ledger, seeds, answer_tokens)
    said = [quote.verdicts(each, options) for each in quotes]
    if as_json:
        document = {
            "backend": options.backend,
            "model": lines[0]["body"]["model"],
            "price": None if price is None else asdict(price),
            "basis": asdict(basis),
            "quotes": [asdict(q) | {"caps": s} for q, s in zip(quotes, said, strict=True)],
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    if free:
        click.echo(
            f"The extractive teacher answers {len(lines):,} requests without a call: it costs "
            "nothing. Set teacher.backend and teacher.model to price another."
        )
        return
    click.echo(_table(quotes, price))
    click.echo()
    click.echo("\n".join(_notes(basis, price, options)))
    if price is None:
        click.echo(f"The price of '{options.model}' is unknown: {how_to_set(options.prices)}.")
    for each, verdict in zip(quotes, said, strict=True):
        where = f"{each.requests:,} requests: " if len(quotes) > 1 else ""
        for sentence in verdict:
            click.echo(where + sentence + ".")


def _table(quotes: list[Quote], price: Price | None) -> str:
    any_failed = any(q.failed for q in quotes)
    any_under_way = any(q.under_way for q in quotes)
    rows = [
        ("requests", [f"{q.requests:,}" for q in quotes]),
        ("known from the ledger", [f"{q.known:,}" for q in quotes]),
        ("  which saves", [_usd(q.saved) for q in quotes]),
        *([("failed for good", [f"{q.failed:,}" for q in quotes])] if any_failed else []),
        *(
            [("under way in a batch", [f"{q.under_way:,}" for q in quotes])]
            if any_under_way
            else []
        ),
        ("calls to make", [f"{q.ask:,}" for q in quotes]),
        ("input tokens, about", [_whole(q.input_tokens.about) for q in quotes]),
        ("  at least", [_whole(q.input_tokens.least) for q in quotes]),
        ("  at most", [_whole(q.input_tokens.most) for q in quotes]),
        ("output tokens, about", [_whole(q.output_tokens.about) for q in quotes]),
        ("  at most", [_whole(q.output_tokens.most) for q in quotes]),
        ("price, about", [_usd(_part(q.usd, "about")) for q in quotes]),
        ("  at most", [_usd(_part(q.usd, "most")) for q in quotes]),
    ]
    if price is not None and price.batch_factor < 1:
        rows += [
            ("price with Batch, about", [_usd(_part(q.batch_usd, "about")) for q in quotes]),
            ("  at most", [_usd(_part(q.batch_usd, "most")) for q in quotes]),
        ]
    rows += [
        ("spent so far", [_usd(q.spent.usd) for q in quotes]),
        ("  in calls", [f"{q.spent.calls:,}" for q in quotes]),
    ]
    left = max(len(name) for name, _ in rows)
    right = max(len(cell) for _, cells in rows for cell in cells)
    return "\n".join(
        name.ljust(left) + "".join("  " + cell.rjust(right) for cell in cells)
        for name, cells in rows
    )


def _notes(basis: Basis, price: Price | None, options: Teacher) -> list[str]:
    read = (
        f"as in {basis.measured_input:,} answered requests of these"
        if basis.measured_input
        else "a rule of thumb for English"
    )
    notes = [
        f"Input: a token for {basis.bytes_a_token:.2f} bytes, {read}; at least one for each word, "
        "at most one for each byte.",
        f"Output: {basis.output_tokens:.0f} tokens an answer, "
        + (
            f"the mean of {basis.measured_output:,} in the ledger"
            if basis.measured_output
            else "as given by --answer-tokens"
        )
        + "; at most "
        f"teacher.max_tokens={options.max_tokens}."
        if basis.output_tokens is not None
        else f"Output: the ledger has no answer by '{options.model}' yet, so every answer is "
        f"taken to be as long as it may, teacher.max_tokens={options.max_tokens}.",
    ]
    if price is not None:
        notes.append(
            f"Price: {price.input:g} USD a million input tokens and {price.output:g} a million "
            f"output tokens ({price.source})."
        )
    return notes


def _part(told: Range | None, name: str) -> float | None:
    return None if told is None else float(getattr(told, name))


def _whole(number: float | None) -> str:
    return "unknown" if number is None else f"{round(number):,}"


def _usd(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:,.4f} USD"
