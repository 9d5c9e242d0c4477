"""Turn public book sets into a corpus for `ingest.source: jsonl` (docs/tutorial.md).

``python examples/books.py --from FOLDER --out corpora/books`` looks for these files anywhere below
FOLDER, as their publishers wrote them; docs/tutorial.md says whence they come:

- reviews: ``books/*.review`` or ``books.*.review`` (Multi-Domain Sentiment Dataset);
- ratings: ``items_info.dat`` and ``book_ratings.dat`` (Book-Crossing), in a zip or not;
- titles: ``*books.csv`` (goodbooks-10k);
- dialogues: ``*Books.jsonl`` (OpenDialKG), to evaluate on.

Reviews must be there. For sets of your own take this script as a pattern: what is yours to write is
a reader for each set, and by what its rows are known to be of one book.
"""

import html
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import click

from seedtalk.content import describe
from seedtalk.errors import InputError, at
from seedtalk.records import read_json_lines, sha256_text, write_jsonl
from seedtalk.texts import visible
from seedtalk.titles import match_key, title_key

REVIEW = re.compile(r"<review>\s*\n(.*?)\n\s*</review>", re.DOTALL)
FIELD = re.compile(r"<(\w+)>\n(.*?)\n</\1>", re.DOTALL)
PRODUCT = re.compile(r"(?P<title>.+?): Books(?:: (?P<authors>.*))?", re.DOTALL)
ENTITY = re.compile(r"(&#?\w+)\t")  # the tables were split at the end of "&amp;", too
BRACKETS = re.compile(r"\s*\((?:[^()]|\([^()]*\))*\)$")  # "(Signet Classics (Paperback))"
KIND = re.compile(r"\s*:\s*(?:an?|the) (?:\w+ )?(?:novel|memoir|mystery|thriller)$", re.IGNORECASE)
NO_SURNAME = frozenset("jr sr ii iii md m d phd ph".split())
CROSSING = ("number", "isbn", "title", "author")  # and more
GOODBOOKS = (
    "book_id title authors isbn original_publication_year ratings_count original_title".split()
)


def need(path, number, row, fields):
    """End the run where a row lacks a field: the file is not of the form its publisher gives it."""
    for field in fields:
        if field not in row:
            raise InputError(f"{at(path, number, field)}: missing; use the file as published")


def clean(title):
    """Return a book's title as a reader says it: without edition, series and "A Novel"."""
    title = " ".join(visible(html.unescape(title)).split())
    while (shorter := BRACKETS.sub("", KIND.sub("", title))) and shorter != title:
        title = shorter
    return re.sub(r"\s+:", ":", title).rstrip(" .,:")


def surname(authors):
    """Return the first author's last name, folded; "" where none is known."""
    names = [n for n in title_key(re.split(r"[,/;]", authors)[0]) if n not in NO_SURNAME]
    return names[-1] if names else ""


class Works:
    """Books, one for all its editions: of one ISBN, or of one title by one author's last name.

    A subtitle may be missing where only one book of that author begins with the same title.
    """

    def __init__(self):
        self.rows, self.votes, self.links = {}, Counter(), Counter()
        self.isbn, self.full, self.main = {}, {}, defaultdict(set)
        self.titles = defaultdict(set)  # by title alone, as a dialogue names it

    def add(self, item_id, title, authors="", *, isbn="", year=None, votes=0, original=""):
        """Return the id of the book that a row is about, known before or new; None without one."""
        title = clean(title)
        key, main = match_key(title), match_key(title.split(":")[0])
        if not key:
            return None
        name = surname(authors)
        same = self.main[main, name] if len(key) > len(main) else self.main[key, name]
        if isbn in self.isbn:
            how, found = "isbn", self.isbn[isbn]
        elif (key, name) in self.full:
            how, found = "title and author", self.full[key, name]
        elif len(same) == 1 and not (len(key) > len(main) and self._subtitled(same)):
            how, found = "title less subtitle", next(iter(same))
        else:
            how, found = "new", item_id
            author = html.unescape(authors).split(",")[0].strip()
            self.rows[found] = {"title": title, "year": year, "author": author}
        self.links[item_id.split("-")[0], how] += 1
        self.votes[found] += votes
        if isbn:
            self.isbn.setdefault(isbn, found)
        for alias in {title, clean(original) or title}:
            self.full.setdefault((match_key(alias), name), found)
            self.main[match_key(alias.split(":")[0]), name].add(found)
            for short in (alias, alias.split(":")[0]):
                self.titles[match_key(short)].add(found)
        return found

    def _subtitled(self, ids):
        """Tell whether a book has a subtitle itself: then another one is another book."""
        return any(":" in self.rows[one]["title"] for one in ids)

    def mentioned(self, title):
        """Return the book that a dialogue means: of namesakes the most rated, or a new one."""
        known = self.titles.get(match_key(title))
        if not known:
            return self.add("kg-" + "-".join(title_key(title)), title)
        exact = {one for one in known if match_key(self.rows[one]["title"]) == match_key(title)}
        return min(exact or known, key=lambda one: (-self.votes[one], one))

    def items(self, kept):
        """Return the rows of items.jsonl; of namesakes the less rated tell their author."""
        taken, rows = set(), []
        for one in sorted(kept, key=lambda one: (-self.votes[one], one)):
            row = self.rows[one]
            forms = (row["title"], f"{row['title']} by {row['author']}", f"{row['title']} [{one}]")
            title = next(form for form in forms if (title_key(form), row["year"]) not in taken)
            taken.add((title_key(title), row["year"]))
            year = {} if row["year"] is None else {"year": row["year"]}
            about = describe(writers=[row["author"]])
            rows.append({"item_id": one, "title": title, **year, "description": about})
        return sorted(rows, key=lambda row: row["item_id"])


def read_goodbooks(folder, works):
    """Add the titles of goodbooks-10k: the years are those of first publication."""
    import pandas as pd

    for path in sorted(folder.rglob("*books.csv")):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        for number, row in enumerate(rows, 1):
            need(path, number, row, GOODBOOKS)
            year = row["original_publication_year"].removesuffix(".0")
            works.add(
                f"gr-{row['book_id']}",
                row["title"],
                row["authors"],
                isbn=row["isbn"].zfill(10) if row["isbn"] else "",
                year=int(year) if year.isdigit() and int(year) else None,
                votes=int(row["ratings_count"]),
                original=row["original_title"],
            )


def read_crossing(folder, works):
    """Add Book-Crossing's books; return the ratings (1 to 10), of several editions the highest."""
    tables = {path.name: path.read_bytes() for path in folder.rglob("*.dat")}
    for archive in sorted(folder.rglob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.endswith(".dat"):
                    tables.setdefault(Path(name).name, opened.read(name))
    if not {"items_info.dat", "book_ratings.dat"} <= tables.keys():
        return []
    work = {}
    for line in tables["items_info.dat"].decode("utf-8", "replace").splitlines()[1:]:
        row = dict(zip(CROSSING, ENTITY.sub(r"\1;", line).split("\t"), strict=False))
        need("items_info.dat", row["number"], row, CROSSING)
        title, author, isbn = row["title"], row["author"], row["isbn"]
        work[row["number"]] = works.add(f"bx-{row['number']}", title, author, isbn=isbn, votes=1)
    best = {}
    for line in tables["book_ratings.dat"].decode().splitlines()[1:]:
        user, number, rating = line.split("\t")
        if item := work.get(number):
            best[user, item] = max(float(rating), best.get((user, item), 0.0))
    return [
        {"user_id": f"bx-{user}", "item_id": item, "rating": rating}
        for (user, item), rating in sorted(best.items())
    ]


def read_reviews(folder, works):
    """Add the books reviewed; return their reviews."""
    rows, count = [], Counter()
    for path in sorted(folder.rglob("*.review")):
        if not (path.name.startswith("books") or path.parent.name == "books"):
            continue
        for number, block in enumerate(REVIEW.findall(path.read_text("utf-8", "replace")), 1):
            told = {field: text.strip() for field, text in FIELD.findall(block)}
            need(path, number, told, ("asin", "product_name", "rating", "review_text"))
            product = PRODUCT.fullmatch(told["product_name"])
            title, authors = product.groups() if product else (told["product_name"], None)
            asin = told["asin"]
            count[asin] += 1
            text = " ".join(visible(html.unescape(told["review_text"])).split())
            item = works.add(f"az-{asin}", title, authors or "", isbn=asin)
            if not (item and text):
                continue
            row = {"review_id": f"{asin}-{count[asin]}", "item_id": item, "text": text}
            if told.get("reviewer"):
                row["user_id"] = "az-" + told["reviewer"]
            rows.append({**row, "rating": (float(told["rating"]) - 1) / 4})
    if not rows:
        raise InputError(f"{folder}: no review of a book in it; docs/tutorial.md names the files")
    return rows


def read_dialogues(folder, works):
    """Return the dialogues in which the assistant names a book, half of them `opendialkg-dev`.

    The user is the seeker. A title of one word that the turn does not write so is a word ("a good
    mystery"): the annotation marked it wherever it occurs.
    """
    rows, count = [], Counter()
    for path in sorted(folder.rglob("*Books.jsonl")):
        for number, dialogue in read_json_lines(path):
            turns = []
            for turn in dialogue:
                need(path, number, turn, ("role", "text", "item"))
                said = [t for t in turn["item"] if " " in t or t in turn["text"]]
                count["words that are no titles"] += len(turn["item"]) - len(said)
                found = [item for title in said if (item := works.mentioned(title))]
                count["mentions"] += len(found)
                count["mentions of a book known"] += sum(not i.startswith("kg-") for i in found)
                role = "seeker" if turn["role"] == "user" else "recommender"
                turns.append({"role": role, "text": turn["text"], "items": found})
            if any(turn["items"] for turn in turns[1:] if turn["role"] == "recommender"):
                half = int(sha256_text([turn["text"] for turn in turns]), 16) % 2
                name = ("opendialkg-dev", "opendialkg-valid")[half]
                one = {"conversation_id": f"kg-{number}", "benchmark": name, "turns": turns}
                rows.append(one)
    return rows, count


@click.command(help=__doc__)
@click.option("--from", "folder", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", default="corpora/books", show_default=True, type=click.Path(path_type=Path))
@click.option("--min-readers", default=5, show_default=True, help="Of a book that is only rated.")
def main(folder, out, min_readers):
    """Read the sets, link them, write the four files and say what was found."""
    works = Works()
    read_goodbooks(folder, works)
    ratings = read_crossing(folder, works)
    reviews = read_reviews(folder, works)
    conversations, mentions = read_dialogues(folder, works)
    readers = Counter(row["item_id"] for row in ratings)
    rated_only = {i for i in works.rows if i.startswith("bx-") and readers[i] < min_readers}
    named = {i for row in conversations for turn in row["turns"] for i in turn["items"]}
    orphans = {i for i in works.rows if i.startswith("kg-")} - named
    kept = works.rows.keys() - (rated_only | orphans) | {r["item_id"] for r in reviews} | named
    tables = {
        "items": works.items(kept),
        "reviews": reviews,
        "interactions": [row for row in ratings if row["item_id"] in kept],
        "conversations": conversations,
    }
    for name, rows in tables.items():
        path = out / f"{name}.jsonl"
        write_jsonl(path, rows)
        if not rows:
            path.unlink()  # optional files are absent, not empty
        click.echo(f"{len(rows):>7,} {name}")
    reviewed = {row["item_id"] for row in reviews}
    click.echo(f"{len(reviewed):>7,} books reviewed, {len(reviewed & readers.keys()):,} also rated")
    for name in ("opendialkg-dev", "opendialkg-valid"):
        click.echo(f"{sum(row['benchmark'] == name for row in conversations):>7,} of {name}")
    for name, count in sorted(mentions.items()):
        click.echo(f"{count:>7,} {name}")
    for (source, how), count in sorted(works.links.items()):
        click.echo(f"{count:>7,} rows of {source} linked: {how}")


if __name__ == "__main__":
    main()
