"""What a source hands over before the common filters, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Raw:
    """A source's rows in the columns of `records`, unfiltered.

    Attributes
    ----------
    items, reviews, interactions, conversations
        Frames with at least the columns of the table's schema.
    origin
        Names and versions of what was read.
    read
        Rows read, by table.
    dropped
        Rows the source itself dropped, by table and reason.
    linking
        What the linker reports, where there was something to link.
    """

    items: pd.DataFrame
    reviews: pd.DataFrame
    interactions: pd.DataFrame
    conversations: pd.DataFrame
    origin: dict[str, Any]
    read: dict[str, int]
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    linking: dict[str, Any] | None = None


@dataclass(frozen=True)
class Corpus:
    """The four tables of `records` as `ingest` writes them, and the report on them."""

    items: pd.DataFrame
    reviews: pd.DataFrame
    interactions: pd.DataFrame
    conversations: pd.DataFrame
    report: dict[str, Any]
