"""Published dialogues as files hold them: what the readers of ReDial and INSPIRED share."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from seedtalk.errors import InputError, at
from seedtalk.records import display_title, read_json_lines
from seedtalk.sources.files import of_type
from seedtalk.sources.table import CONVERSATION_COLUMNS, ITEM_COLUMNS, benchmark_name
from seedtalk.texts import visible
from seedtalk.titles import title_and_year

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("seeker", "recommender")

# The knowledge-graph forms (UniCRS, CRSLab, He et al.) name films by their DBpedia resource.
_RESOURCE = re.compile(r"<?https?://dbpedia\.org/resource/(?P<name>[^>]+)>?")
_BEFORE_MARK = re.compile(r"(?<=[^\s(])\(")  # "Alien(1979)"


@dataclass(frozen=True)
class Message:
    """What one side said at once (see `plain`), and the keys of the films it names, in order."""

    role: str  # of `ROLES`
    text: str
    items: Sequence[str]


@dataclass
class Dialogues:
    """The dialogues of one part as they are read, and what was left out of them.

    Attributes
    ----------
    rows
        Rows in the columns of `CONVERSATION_COLUMNS`.
    dropped
        Of conversations, messages and mentions of films: reason to count.
    """

    part: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    conversations: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    mentions: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    origin: dict[str, int] = field(default_factory=dict)

    def add(
        self, path: Path, number: int, file: str, name: str, messages: Sequence[Message]
    ) -> None:
        """Enter one dialogue of `file` under its id.

        A dialogue that the file holds twice, word for word, counts once.

        Raises
        ------
        InputError
            When the file has another dialogue of that id; names file and row.
        """
        self.read["conversations"] += 1
        self.read["mentions"] += sum(len(message.items) for message in messages)
        turns = self._turns(messages)
        if not turns:
            self.conversations["nothing_said"] += 1
            return
        benchmark = benchmark_name(self.part, file)
        before = self._known.get((benchmark, name))
        if before is not None:
            if before[1] != turns:
                raise InputError(
                    f"{at(path, number)}: another dialogue of the id '{visible(name)}' is on row "
                    f"{before[0]}; give one of them an id of its own"
                )
            self.conversations["same_dialogue"] += 1
            return
        self._known[benchmark, name] = (number, turns)
        self.origin[file] = self.origin.get(file, 0) + 1
        self.rows.append(
            {"conversation_id": name, "benchmark": benchmark, "turns": turns, "seen": []}
        )

    _known: dict[tuple[str, str], tuple[int, list[dict[str, Any]]]] = field(default_factory=dict)

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Join what one side said in a row: a turn ends where the other side speaks.

        He et al. (CIKM 2023), as UniCRS before, ask for one prediction at each turn so joined.
        A film that a turn names twice is one of its items once, where it is named first.
        """
        turns: list[dict[str, Any]] = []
        for message in messages:
            text = message.text
            if not text and not message.items:
                self.messages["empty"] += 1
                continue
            if not turns or turns[-1]["role"] != message.role:
                turns.append({"role": message.role, "text": text, "items": []})
            else:
                turns[-1]["text"] = f"{turns[-1]['text']} {text}".strip()
            items = turns[-1]["items"]
            items.extend(key for key in dict.fromkeys(message.items) if key not in items)
        return turns

    def frame(self) -> pd.DataFrame:
        """Return the dialogues as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(CONVERSATION_COLUMNS))

    def dropped(self) -> dict[str, dict[str, int]]:
        """Return what was left out, by table and reason."""
        return {
            table: dict(sorted(counts.items()))
            for table, counts in (
                ("conversations", self.conversations),
                ("messages", self.messages),
                ("mentions", self.mentions),
            )
            if counts
        }


def opened(path: Path) -> IO[str]:
    """Open a text file, gzipped or not, as UTF-8 with its line ends as they are."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def read_dialogues(path: Path, mend: str) -> Iterator[tuple[int, Any]]:
    """Yield (row from 1, dialogue) of a file of JSON lines or of one JSON array.

    Gzipped or not. A dialogue is an object, or the bare list of its turns.

    Raises
    ------
    InputError
        When the file is missing, no JSON, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; {mend}")
    whole = _array(path)
    rows = enumerate(whole, start=1) if whole is not None else read_json_lines(path)
    for number, value in rows:
        if not isinstance(value, dict | list):
            kind = type(value).__name__
            raise InputError(f"{at(path, number)}: expected a dialogue, got {kind}; {mend}")
        yield number, value


def _array(path: Path) -> list[Any] | None:
    """Return the dialogues of a file that is one JSON array (CRSLab's), else None."""
    try:
        with opened(path) as file:
            first = file.readline().removeprefix("\ufeff").strip()
            if not first.startswith("["):
                return None
            try:  # a line that is a list by itself is a dialogue, unless its parts are dialogues
                line = json.loads(first)
                more = bool(file.read(1 << 16).strip())
            except ValueError:
                line, more = json.loads(first + file.read()), False
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except ValueError:
        return None  # `read_json_lines` says which row is at fault
    nested = bool(line) and all(
        isinstance(part, list) or {"dialog", "messages"} & set(part) for part in line
    )
    return line if nested and not more else None


def crslab_messages(
    path: Path, number: int, row: Mapping[str, Any]
) -> list[tuple[str, str, list[str]]]:
    """Return (role, text, films as named) of a CRSLab dialogue.

    The dialogue is ``{"conv_id": ..., "dialog": [{"role", "text", "movies"}, ...]}``; a text is
    a string or a list of tokens.
    """
    said = []
    for place, turn in enumerate(of_type(path, number, row, "dialog", list)):
        within = f"dialog[{place}]"
        if not isinstance(turn, dict):
            raise InputError(f"{at(path, number, within)}: expected an object")
        text = of_type(path, number, turn, "text", str, list)
        text = text if isinstance(text, str) else " ".join(map(str, text))
        films = of_type(path, number, turn, "movies", list) if "movies" in turn else []
        said.append((role(path, number, turn, "role"), text, [str(film) for film in films]))
    return said


def role(path: Path, number: int, turn: Mapping[str, Any], name: str) -> str:
    """Return the role of a turn that spells it out in any case.

    Raises
    ------
    InputError
        When it is neither seeker nor recommender.
    """
    written = of_type(path, number, turn, name, str)
    spoken = str(written).strip().casefold()
    if spoken not in ROLES:
        raise InputError(
            f"{at(path, number, name)}: '{visible(written)}' is neither seeker nor recommender"
        )
    return spoken


def plain(text: str) -> str:
    """Return a message on one line: HTML entities resolved, nothing in it that is not seen."""
    return visible(html.unescape(text))


def named_film(written: str) -> tuple[str, dict[str, Any]] | None:
    """Return key and item of a film known by a title alone, or None where there is no title.

    The title may be a DBpedia resource. The key is the title as it is shown: ``Heat (1995)``, so
    that one film named alike in two files is one.
    """
    found = _RESOURCE.fullmatch(written.strip())
    if found:
        from urllib.parse import unquote

        written = unquote(found["name"]).replace("_", " ")
    title, year, aliases = title_and_year(_BEFORE_MARK.sub(" (", visible(written)))
    if not any(char.isalnum() for char in title):
        return None
    return display_title(title, year), item(title=title, year=year, aliases=list(aliases))


def item(**known: Any) -> dict[str, Any]:
    """Return a row of `ITEM_COLUMNS`, with nothing known but what is given."""
    empty: dict[str, Any] = dict.fromkeys(ITEM_COLUMNS)
    return empty | {"title": "", "genres": [], "description": "", "aliases": []} | known


def items_frame(items: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the items by key as a table in the order of their keys."""
    import pandas as pd

    rows = [{**items[key], "key": key} for key in sorted(items)]
    frame = pd.DataFrame(rows, columns=list(ITEM_COLUMNS))
    return frame.assign(year=frame["year"].astype("Int32"))
