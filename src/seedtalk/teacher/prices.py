"""What a token costs: the user's own price, or the table's."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seedtalk.errors import InputError, at
from seedtalk.params import Teacher

SPENDING = ("openai", "batch")  # backends that make calls
_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|20\d{6})$")  # gpt-4o-mini-2024-07-18

PerMillion = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Price:
    """US dollars a million tokens.

    Parameters
    ----------
    input, output
        Of what is sent and of what comes back.
    cached_input
        Of input the endpoint had in its prompt cache; None where it costs as much as any other.
    batch_factor
        What the Batch API takes of these prices.
    source
        Where the figures are from, for people.
    """

    input: float
    output: float
    cached_input: float | None = None
    batch_factor: float = 1.0
    source: str = ""


class Entry(BaseModel):
    """A model of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: PerMillion
    output: PerMillion
    cached_input: PerMillion | None = None
    batch_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    host: str | None = None  # the price is this host's alone; without it, any endpoint's
    as_of: date | None = None
    source: str | None = None


def known_price(params: Teacher, table: Path) -> Price | None:
    """Return the price of the teacher's tokens; None where nobody says.

    What stands in the parameters wins over the table. The table is asked for the model by its
    exact name, then without the date of a snapshot.

    Parameters
    ----------
    params
        Model, endpoint and the user's own price.
    table
        A YAML file like ``prices.yaml``; not read where the parameters give the price.

    Raises
    ------
    InputError
        When the table is wrong (names file, model and field), or when one of the two prices is
        given without the other.
    """
    return _own(params) or _listed(params, table)


def price_of(params: Teacher, table: Path) -> Price | None:
    """Return `known_price`, for a run that may be about to pay.

    Raises
    ------
    InputError
        Also when a cap in dollars is set and the price is unknown.
    """
    price = known_price(params, table)
    if price is None and params.max_usd and params.backend in SPENDING:
        raise InputError(
            f"teacher.max_usd: a cap is set but the price of '{params.model}' is unknown; "
            + how_to_set(table)
        )
    return price


def how_to_set(table: Path) -> str:
    """Say what gives a model a price."""
    return (
        "set teacher.usd_per_million_input and teacher.usd_per_million_output (0 and 0 where its "
        f"tokens cost nothing), or add the model to {table}"
    )


def read_table(path: Path) -> dict[str, Entry]:
    """Read a table of prices: model name to entry.

    Raises
    ------
    InputError
        When it cannot be read, a model is there twice, or a field is missing, unknown or out of
        range; names file, model and field.
    """
    try:
        raw = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 - derived from the safe loader
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); teacher.prices names the table of prices"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected models and their prices, found {type(raw).__name__}")
    return {_name(name, path): _entry(name, value, path) for name, value in raw.items()}


def _own(params: Teacher) -> Price | None:
    given = [params.usd_per_million_input >= 0, params.usd_per_million_output >= 0]
    if not any(given):
        return None
    if not all(given):
        raise InputError(
            "teacher.usd_per_million_input and teacher.usd_per_million_output: set both or neither"
        )
    return Price(
        params.usd_per_million_input,
        params.usd_per_million_output,
        source="teacher.usd_per_million_input and teacher.usd_per_million_output",
    )


def _listed(params: Teacher, table: Path) -> Price | None:
    entries = read_table(table)
    for name in dict.fromkeys((params.model, _DATED.sub("", params.model))):
        entry = entries.get(name)
        if entry is None:
            continue
        # The same open model has another price at another host.
        if entry.host is not None and entry.host != _host(params.base_url):
            return None
        said = [str(table), name]
        if entry.as_of is not None:
            said.append(f"as of {entry.as_of.isoformat()}")
        return Price(
            entry.input,
            entry.output,
            entry.cached_input,
            entry.batch_factor,
            source=", ".join(said),
        )
    return None


def _host(base_url: str) -> str:
    return (urlsplit(base_url).hostname or "") if base_url else "api.openai.com"


def _name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise InputError(f"{at(path, name)}: a model's name is a text; put it in quotes")
    return name


def _entry(name: str, value: Any, path: Path) -> Entry:
    try:
        return Entry.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        place = f"{path}, model '{name}'" + (f", field '{field}'" if field else "")
        known = ", ".join(Entry.model_fields)
        said = {
            "missing": "missing; both input and output are needed",
            "extra_forbidden": f"unknown field; known are {known}",
            "model_type": f"expected the fields {known}",
        }.get(fault["type"], f"{fault['msg']}, got {fault['input']!r}")
        raise InputError(f"{place}: {said}") from error


class _Loader(yaml.SafeLoader):
    """The safe loader, which would take the last of two equal keys and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise ValueError(f"'{key}' is there twice")
        return super().construct_mapping(node, deep)
