"""Published sets of one domain joined into one corpus: an item a film, whoever lists it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from seedtalk.content import LABELS
from seedtalk.errors import InputError
from seedtalk.records import REVIEWS
from seedtalk.sources.table import CONVERSATION_COLUMNS, Part, Raw
from seedtalk.titles import fold, title_key, without_article

if TYPE_CHECKING:
    import pandas as pd

    from seedtalk.params import Ingest

Key = tuple[str, ...]

# Who is asked first: the first to list a film names it. Their ids begin with these words.
PREFIXES = {
    "movielens": "ml",
    "imdb": "imdb",
    "rt": "rt",
    "amazon2023": "amazon",
    "redial": "redial",
    "inspired": "inspired",
}
CONVERSATIONAL = ("redial", "inspired")
ID_KINDS = ("movielens", "imdb", "tmdb")  # in the order they are trusted
YEAR_SLACK = 1  # sources differ by a year on release dates; a remake is further away
UNNAMED = "Untitled "
ID_YEAR_SLACK = 3  # an id is believed as far: a festival's year, or that of another country


@dataclass
class Film:
    """An item of the joined catalogue while it is being joined."""

    item_id: str
    title: str
    year: int | None
    forms: set[Key]  # of its titles, without a leading article
    ids: dict[str, set[str]] = field(default_factory=dict)
    titles: dict[str, list[str]] = field(default_factory=dict)  # by part
    genres: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """A row of a part's items."""

    part: str
    key: str
    title: str
    year: int | None
    forms: frozenset[Key]
    ids: dict[str, str]
    genres: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Joined:
    """The joined catalogue.

    Attributes
    ----------
    films
        In the order they were first listed.
    film_of
        Part and key to the place in `films`; what has no title and no known id is left out.
    links
        Part to how its rows were linked: by which id, by title, or as a new film.
    conflicts
        Part to what its rows disagree on with the films they were or were not linked to.
    """

    films: list[Film]
    film_of: dict[tuple[str, str], int]
    links: dict[str, Counter[str]]
    conflicts: dict[str, Counter[str]]


def load_corpora(params: Ingest) -> Raw:
    """Read the parts, join their catalogues and rename everything by the joined items.

    Raises
    ------
    InputError
        When a part is unfit or not there, a conversation file is of no part that has
        conversations, no part lists an item, or the catalogue is to be that of conversation sets
        and none is a part.
    """
    parts = [
        _rated(part, params.ratings)
        for part in read_parts(params.path, params.parts, params.conversations)
    ]
    if params.catalogue == "conversations" and not set(CONVERSATIONAL) & set(params.parts):
        raise InputError(
            "ingest.catalogue: 'conversations' keeps what the conversation sets list, but "
            "ingest.parts has none; add redial or inspired to it, or use 'all'"
        )
    joined = join(parts)
    keep = {
        place
        for place, film in enumerate(joined.films)
        if params.catalogue == "all" or set(film.titles) & set(CONVERSATIONAL)
    }
    if not keep:
        raise InputError(f"{params.path}: none of {', '.join(params.parts)} lists an item")
    return _raw(parts, joined, keep, params.like_threshold)


def read_parts(path: Path, names: Sequence[str], conversations: Sequence[str]) -> list[Part]:
    """Read the parts `names`, in the order of `PREFIXES`, with the conversation files of each."""
    if not names:
        raise InputError("ingest.parts: empty; list what is to be joined, such as [movielens, rt]")
    files: dict[str, list[str]] = {name: [] for name in names if name in CONVERSATIONAL}
    for file in conversations:
        part, *rest = PurePosixPath(file).parts
        if part not in files or not rest:
            known = " or ".join(files) or "a part with conversations, redial or inspired"
            raise InputError(
                f"ingest.conversations: '{file}' is not below the folder of {known}; name it as "
                "redial/dev.jsonl, and list the part in ingest.parts"
            )
        files[part].append(str(PurePosixPath(*rest)))
    return [
        _reader(name, files.get(name, []))(_folder(path, name))
        for name in PREFIXES
        if name in names
    ]


def _rated(part: Part, ratings: Sequence[str]) -> Part:
    """Return a part without its ratings where they are not among those asked for."""
    if not ratings or part.name in ratings:
        return part
    return replace(
        part,
        interactions=part.interactions.iloc[:0],
        dropped={
            **part.dropped,
            "interactions": {
                **part.dropped.get("interactions", {}),
                "not_in_ratings": len(part.interactions),
            },
        },
    )


def _folder(path: Path, name: str) -> Path:
    folder = path / name
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; run `seedtalk fetch {name}`, or drop '{name}' from "
            "ingest.parts"
        )
    return folder


def _reader(name: str, files: list[str]) -> Callable[[Path], Part]:
    if name == "movielens":
        from seedtalk.sources import movielens

        return movielens.load
    if name == "imdb":
        from seedtalk.sources import imdb

        return imdb.load
    if name == "rt":
        from seedtalk.sources import rt

        return rt.load
    if name == "amazon2023":
        from seedtalk.sources import amazon2023

        return amazon2023.load
    if name == "redial":
        from seedtalk.sources import redial

        return lambda folder: redial.load(folder, files)
    from seedtalk.sources import inspired

    return lambda folder: inspired.load(folder, files)


def join(parts: Sequence[Part]) -> Joined:
    """Join the parts' items: one film for all rows that mean it.

    A row is linked by the first of these that holds, to a film listed before:

    1. an id (MovieLens, then IMDb, then TMDb), where title and year do not speak against it:
       of several films its ids name, the one with its title and year is meant, and a film of
       its very title and year is believed before an id of another title or year;
    2. the same title and year: two films of one name could not be told apart in an answer;
    3. one of its titles (leading article aside) and a year at most one off, where only one film
       fits and no id tells them apart: a remake is further away;
    4. one of its titles where a year is unknown and only one film has the title.

    Rows come part by part in the order of `PREFIXES`, with those that carry an id, then a year,
    first; so the outcome does not depend on the order of parts or rows. A row without a title
    is linked by ids once all others are in, or left out.
    """
    catalogue = _Catalogue()
    ordered = sorted(parts, key=lambda part: list(PREFIXES).index(part.name))
    entries = [entry for part in ordered for entry in _entries(part)]
    for entry in entries:
        if entry.title:
            catalogue.add(entry)
    for entry in entries:
        if not entry.title:
            catalogue.add(entry)
    catalogue.rename()
    return Joined(catalogue.films, catalogue.film_of, catalogue.links, catalogue.conflicts)


def _entries(part: Part) -> list[Entry]:
    import pandas as pd

    entries = []
    for row in part.items.to_dict("records"):
        titles = [row["title"], *row["aliases"]] if row["title"] else []
        entries.append(
            Entry(
                part=part.name,
                key=row["key"],
                title=row["title"],
                year=None if pd.isna(row["year"]) else int(row["year"]),
                forms=frozenset(_form(title) for title in titles),
                ids={kind: row[kind] for kind in ID_KINDS if not pd.isna(row[kind])},
                genres=tuple(row["genres"]),
                description=row["description"],
            )
        )
    return sorted(entries, key=lambda e: (not e.ids, e.year is None, _natural(e.key)))


def _natural(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdecimal() else (-1, key)


@lru_cache(maxsize=1 << 18)
def _key(title: str) -> Key:
    # What has no ASCII form would be lost in the key, and with it the difference.
    kept = title.isascii() or not any(char.isalnum() and not fold(char).strip() for char in title)
    return (title_key(title) if kept else ()) or tuple(title.casefold().split())


def _form(title: str) -> Key:
    return without_article(_key(title))


class _Catalogue:
    """The films so far, found by id and by title."""

    def __init__(self) -> None:
        self.films: list[Film] = []
        self.film_of: dict[tuple[str, str], int] = {}
        self.links: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.conflicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._by_id: dict[tuple[str, str], int] = {}
        self._by_name: dict[tuple[Key, int | None], int] = {}
        self._by_form: defaultdict[Key, list[int]] = defaultdict(list)

    def add(self, entry: Entry) -> None:
        place, how = self._find(entry)
        self.links[entry.part][how] += 1
        if place is None and not entry.title:
            return
        if place is None:
            place = len(self.films)
            self.films.append(
                Film(
                    f"{PREFIXES[entry.part]}-{entry.key}",
                    entry.title,
                    entry.year,
                    set(entry.forms),
                )
            )
            self._by_name[_key(entry.title), entry.year] = place
            for form in entry.forms:
                self._by_form[form].append(place)
        self.film_of[entry.part, entry.key] = place
        self._learn(place, entry, trusted=how in ("movielens", "imdb"))

    def _learn(self, place: int, entry: Entry, *, trusted: bool) -> None:
        film = self.films[place]
        film.titles.setdefault(entry.part, []).append(entry.title)
        film.genres += entry.genres
        film.descriptions.append(entry.description)
        for kind, value in entry.ids.items():
            if self._by_id.setdefault((kind, value), place) == place:
                film.ids.setdefault(kind, set()).add(value)
        name = _key(film.title)
        if film.year is None and entry.year is not None and (name, entry.year) not in self._by_name:
            del self._by_name[name, None]
            film.year = entry.year
            self._by_name[name, film.year] = place
        if trusted and not entry.forms <= film.forms and _vouched(film, entry):
            for form in sorted(entry.forms - film.forms):
                film.forms.add(form)
                self._by_form[form].append(place)

    def rename(self) -> None:
        """Give each film the title most parts know it by; the first listed where even.

        A catalogue may list a film before it has a name: ``Untitled Spider-Man Reboot`` is
        nobody's title where another is known.
        """
        for place, film in enumerate(self.films):
            shown: dict[Key, str] = {}
            votes: Counter[Key] = Counter()
            for titles in film.titles.values():
                for title in filter(None, titles):
                    shown.setdefault(_key(title), title)
                votes.update(
                    {_key(title) for title in titles if title and not title.startswith(UNNAMED)}
                )
            own = _key(film.title)
            for key in sorted(shown, key=lambda key: (-votes[key], list(shown).index(key))):
                if votes[key] <= votes[own]:
                    break
                if (key, film.year) not in self._by_name:
                    del self._by_name[own, film.year]
                    self._by_name[key, film.year] = place
                    film.title = shown[key]
                    break

    def _find(self, entry: Entry) -> tuple[int | None, str]:
        """Return the film an entry means and how it was found."""
        conflicts = self.conflicts[entry.part]
        named: dict[int, str] = {}
        for kind in ID_KINDS:
            found = self._by_id.get((kind, entry.ids.get(kind, "")))
            if found is None:
                continue
            if kind == "tmdb" and self._told_apart(found, entry, above=kind):
                conflicts["id_refused"] += 1  # two films at times share one, a year apart
            else:
                named.setdefault(found, kind)
        if not entry.title:
            return next(iter(named.items()), (None, "no_title"))
        if len(named) > 1:
            conflicts["ids_of_several_films"] += 1
        for place, kind in named.items():
            film = self.films[place]
            if film.forms & entry.forms and _close(film.year, entry.year):
                return place, kind
        same = self._by_name.get((_key(entry.title), entry.year))
        if same is not None:
            if named:
                conflicts["id_overruled_by_title_and_year"] += 1
            elif self._told_apart(same, entry):
                conflicts["same_title_and_year_other_id"] += 1
            return same, "title_and_year"
        believed = {
            place: kind
            for place, kind in named.items()
            if not self._told_apart(place, entry, above=kind)
        }
        for place, kind in believed.items():
            if _close(self.films[place].year, entry.year):
                conflicts["id_of_another_title"] += 1
                return place, kind
        near = self._near(self._titled(entry), entry) if named else None
        if near is not None:
            conflicts["id_overruled_by_title_and_year"] += 1
            return near, "title_near_year"
        for place, kind in believed.items():
            film = self.films[place]
            if film.forms & entry.forms and _close(film.year, entry.year, ID_YEAR_SLACK):
                conflicts["id_of_another_year"] += 1
                return place, kind
        if named:
            conflicts["id_refused"] += 1
        return self._by_title(entry)

    def _titled(self, entry: Entry) -> set[int]:
        return {place for form in entry.forms for place in self._by_form.get(form, ())}

    def _near(self, places: set[int], entry: Entry) -> int | None:
        """Return the one film with the year of an entry; else one off, under its first title."""
        away = {
            place: abs(year - entry.year)
            for place in places
            if entry.year is not None and (year := self.films[place].year) is not None
        }
        exact = [place for place, years in away.items() if years == 0]
        first = _form(entry.title)
        close = [
            place
            for place, years in away.items()
            if years <= YEAR_SLACK and (years == 0 or first in self.films[place].forms)
        ]
        return next((one[0] for one in (exact, close) if len(one) == 1), None)

    def _by_title(self, entry: Entry) -> tuple[int | None, str]:
        places = self._titled(entry)
        apart = {place for place in places if self._told_apart(place, entry)}
        near = self._near(places - apart, entry)
        if near is not None:
            return near, "title_near_year"
        undated = [
            place for place in places if entry.year is None or self.films[place].year is None
        ]
        if len(places) == 1 and undated and not apart:
            return undated[0], "title_alone"
        if undated:
            self.conflicts[entry.part]["several_films_of_the_title"] += 1
        return None, "new"

    def _told_apart(self, place: int, entry: Entry, above: str = "") -> bool:
        """Tell whether an id both have differs, of the kinds more trusted than `above`."""
        kinds = ID_KINDS[: ID_KINDS.index(above)] if above else ID_KINDS
        own = self.films[place].ids
        return any(
            kind in own and kind in entry.ids and entry.ids[kind] not in own[kind] for kind in kinds
        )


def _vouched(film: Film, entry: Entry) -> bool:
    """Tell whether more than an id says that an entry is the film: a year, or a word."""
    if film.year is not None and entry.year is not None:
        return _close(film.year, entry.year)
    words = {word for form in film.forms for word in form}
    return any(word in words for form in entry.forms for word in form)


def _close(one: int | None, other: int | None, slack: int = YEAR_SLACK) -> bool:
    return one is None or other is None or abs(one - other) <= slack


def merged_genres(genres: Iterable[str]) -> list[str]:
    """Return each genre once, case aside, in the spelling that came first."""
    first: dict[str, str] = {}
    for genre in genres:
        if genre.strip():
            shown = genre.capitalize() if genre.islower() else genre
            first.setdefault(genre.casefold().strip(), shown.strip())
    return list(first.values())


def merged_description(descriptions: Iterable[str]) -> str:
    """Join what `content.describe` made of one film: the longest plot and of each list the longest.

    Ties go to the one that sorts first, so that the order does not matter.
    """
    best: dict[str, str] = {}
    for description in descriptions:
        for line in description.splitlines():
            label = next((text for text in LABELS.values() if line.startswith(text)), "")
            longest = min(best.get(label, line), line, key=lambda text: (-len(text), text))
            best[label] = longest
    return "\n".join(best[label] for label in ("", *LABELS.values()) if label in best)


def _raw(parts: list[Part], joined: Joined, keep: set[int], like_threshold: float) -> Raw:
    import pandas as pd

    films = joined.films
    items = pd.DataFrame(
        {
            "item_id": [films[place].item_id for place in sorted(keep)],
            "title": [films[place].title for place in sorted(keep)],
            "year": pd.array([films[place].year for place in sorted(keep)], dtype="Int32"),
            "genres": [merged_genres(films[place].genres) for place in sorted(keep)],
            "description": [
                merged_description(films[place].descriptions) for place in sorted(keep)
            ],
        }
    )
    read: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {
        table: Counter() for table in ("items", "reviews", "interactions")
    }
    for part in parts:
        read.update(part.read)
        for table in dropped:
            dropped[table].update(part.dropped.get(table, {}))
    dropped["items"]["no_title"] += sum(counts["no_title"] for counts in joined.links.values())
    dropped["items"]["joined_with_another"] += len(joined.film_of) - len(films)
    dropped["items"]["not_in_conversation_sets"] += len(films) - len(keep)
    reviews = pd.concat([_renamed(p, p.reviews, joined, keep, dropped["reviews"]) for p in parts])
    interactions = pd.concat(
        [_renamed(p, p.interactions, joined, keep, dropped["interactions"]) for p in parts]
    )
    interactions = interactions.sort_values(
        ["user_id", "item_id", "timestamp", "rating"], kind="stable", na_position="first"
    )
    again = interactions.duplicated(["user_id", "item_id"], keep="last")
    dropped["interactions"]["rated_again_later"] += int(again.sum())
    interactions = interactions[~again].reset_index(drop=True)
    interactions = interactions.astype({"rating": "float32", "timestamp": "Int64"})
    conversations, mentions = _conversations(parts, joined, keep, reviews, interactions)
    return Raw(
        items=items,
        reviews=reviews.reset_index(drop=True)[list(REVIEWS.names)],
        interactions=interactions.assign(
            liked=(interactions["rating"] >= like_threshold).astype(bool)
        ),
        conversations=conversations,
        origin={part.name: part.origin for part in parts},
        read={table: read[table] for table in ("items", "reviews", "interactions")},
        dropped={table: dict(reasons) for table, reasons in dropped.items()},
        linking={
            "films": len(films),
            "parts": {
                part.name: {
                    "items": len(part.items),
                    "linked": dict(sorted(joined.links[part.name].items())),
                    "conflicts": dict(sorted(joined.conflicts[part.name].items())),
                    **{
                        f"dropped_{table}": reasons
                        for table, reasons in sorted(part.dropped.items())
                        if table not in dropped and reasons
                    },
                    "reviews": int((reviews["part"] == part.name).sum()),
                    "reviewed_films": int(
                        reviews.loc[reviews["part"] == part.name, "item_id"].nunique()
                    ),
                }
                for part in parts
            },
            "mentions": mentions,
        },
    )


def _renamed(
    part: Part, frame: pd.DataFrame, joined: Joined, keep: set[int], dropped: Counter[str]
) -> pd.DataFrame:
    """Return a part's rows of kept films with joined item ids, and users and ids of their own."""
    place_of = {key: place for (name, key), place in joined.film_of.items() if name == part.name}
    places = frame["key"].map(place_of)
    within = places.isin(keep)
    dropped["no_title"] += int(places.isna().sum())
    dropped["not_in_conversation_sets"] += int((~within & places.notna()).sum())
    kept = frame[within].copy()
    prefix = PREFIXES[part.name]
    kept["item_id"] = [joined.films[int(place)].item_id for place in places[within]]
    kept["user_id"] = [
        f"{prefix}-{user}" if isinstance(user, str) else None for user in kept["user_id"]
    ]
    if "review_id" in kept.columns:
        kept["review_id"] = [f"{prefix}-{review}" for review in kept["review_id"]]
    return kept.drop(columns="key").assign(part=part.name)


def _conversations(
    parts: list[Part],
    joined: Joined,
    keep: set[int],
    reviews: pd.DataFrame,
    interactions: pd.DataFrame,
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Rename what the turns mention, and count what is known of it by benchmark."""
    import pandas as pd

    reviewed, rated = set(reviews["item_id"]), set(interactions["item_id"])
    counts: dict[str, Counter[str]] = {}
    rows: list[dict[str, Any]] = []
    for part in parts:
        for row in part.conversations.to_dict("records"):
            count = counts.setdefault(row["benchmark"], Counter())

            def items(keys: Iterable[str], part: str = part.name) -> list[str]:
                places = [joined.film_of.get((part, key)) for key in keys]
                named = [joined.films[p].item_id for p in places if p is not None and p in keep]
                return list(dict.fromkeys(named))

            turns = []
            for turn in row["turns"]:
                for key in turn["items"]:
                    count["mentions"] += 1
                    place = joined.film_of.get((part.name, key))
                    film = joined.films[place] if place is not None else None
                    count["linked"] += film is not None
                    count["in_movielens"] += film is not None and "movielens" in film.titles
                    count["rated"] += film is not None and film.item_id in rated
                    count["reviewed"] += film is not None and film.item_id in reviewed
                turns.append({**turn, "items": items(turn["items"])})
            rows.append(
                {
                    "conversation_id": row["conversation_id"],
                    "benchmark": row["benchmark"],
                    "turns": turns,
                    "seen": items(row["seen"]),
                }
            )
    frame = pd.DataFrame(rows, columns=list(CONVERSATION_COLUMNS))
    return frame, {name: dict(count) for name, count in sorted(counts.items())}
