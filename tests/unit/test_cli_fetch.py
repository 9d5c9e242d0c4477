import json
import subprocess

import pytest
from click.testing import CliRunner
from tests.unit.fetching.test_sets import MOVIELENS_FILES, dialogue, lines, put, table

from seedtalk.cli import main
from seedtalk.errors import RunError


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (folder / "dvc.yaml").touch()
    return folder


@pytest.fixture
def source(tmp_path):
    """A folder that holds MovieLens, ReDial and INSPIRED."""
    folder = tmp_path / "shared"
    put(folder / "movies" / "ratings", MOVIELENS_FILES)
    lines(folder / "redial" / "train_data.jsonl", [dialogue(name) for name in range(30)])
    put(folder / "inspired", {"train.tsv": table("a"), "dev.tsv": table("b")})
    return folder


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["fetch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_all_sets_of_a_folder_at_once(project, source):
    output = run("movies", "--from", source)
    assert "corpora/movies/movielens: links.csv, movies.csv, ratings.csv." in output
    assert "dev.jsonl (" in output
    assert "valid.tsv (1 dialogues)" in output
    assert "Not found there: imdb, rt, amazon2023." in output
    assert sorted(p.name for p in (project / "corpora" / "movies").iterdir()) == [
        *("inspired", "movielens", "redial")
    ]
    assert not list((project / "corpora").glob("*.dvc"))


def test_a_folder_with_none_of_them(project, tmp_path):
    assert "holds none of movielens" in run("movies", "--from", tmp_path, code=2)


def test_one_set_and_a_test_file(project, source, tmp_path):
    run("redial", "--from", source / "redial")
    test = lines(tmp_path / "official test.jsonl", [dialogue("t")])
    assert "test.jsonl (1 dialogues)" in run("redial", "--test", test)
    assert "Kept as it stood: test.jsonl." in run("redial", "--from", source / "redial")
    output = run("inspired", "--from", source / "inspired", "--test", put_tsv(tmp_path))
    assert "test.tsv (1 dialogues)" in output
    assert "is in train.tsv" in run("inspired", "--test", source / "inspired" / "train.tsv", code=2)


def put_tsv(folder):
    put(folder, {"t.tsv": table("t")})
    return folder / "t.tsv"


def test_dialogues_that_stand_twice_are_told(project, source):
    lines(source / "redial" / "valid_data.jsonl", [dialogue(3)])
    assert "1 dialogues stood twice and are in once." in run("redial", "--from", source / "redial")


def test_without_a_path_the_public_address_is_asked(project, monkeypatch):
    asked = []

    def public(part, release, corpus, cache, **pins):
        asked.append((part.name, release, pins))

    monkeypatch.setattr("seedtalk.fetching.sets.fetch_public", public)
    for name in ("imdb", "redial", "inspired"):
        assert f"corpora/movies/{name} is in place." in run(name)
    run("movielens", "--release", "ml-25m")
    assert "rt_title_match.csv" in run("rt")
    run("amazon2023", "--category", "Books", "--trust")
    assert [row[:2] for row in asked] == [
        ("imdb", "aclImdb_v1"),
        ("redial", "redial_dataset"),
        ("inspired", "emnlp2020"),
        ("movielens", "ml-25m"),
        ("rt", "flatiron"),
        ("amazon2023", "Books"),
    ]
    assert asked[-1][2] == {"sha256": (), "trust": True}


def test_files_taken_on_trust_are_told_by_their_hashes(project, monkeypatch):
    from seedtalk.fetching.sets import Fetched

    done = Fetched("amazon2023", {"Books.jsonl.gz": None}, pins=["1" * 64, "2" * 64])
    monkeypatch.setattr("seedtalk.fetching.sets.fetch_public", lambda *_, **__: done)
    output = run("amazon2023", "--category", "Books", "--trust")
    assert f"The same files again: --sha256 {'1' * 64} --sha256 {'2' * 64}" in output


def test_without_a_network_the_way_around_is_told(project, monkeypatch):
    def offline(url, *_, **__):
        raise RunError(f"{url}: could not be downloaded; give it with --from")

    monkeypatch.setattr("seedtalk.fetching.sets.download", offline)
    assert "--from" in run("movielens", code=1)
    assert "no hash is published" in run("amazon2023", code=2)


def test_git_and_dvc_stay_as_they_were(project, source):
    """An untracked .dvc file beside the corpus would make `dvc exp run` take the corpus away."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "--quiet"], check=True)
    (project / ".gitignore").write_text("/corpora/*\n!/corpora/*.dvc\n/.cache/\n/data\n")
    put(project / "data", {"a.txt": "fetched"})
    with Repo.init() as repo:
        repo.add("data")
    pinned = (project / "data.dvc").read_bytes()
    subprocess.run(["git", "add", "--all"], check=True)
    run("movies", "--from", source)
    lines(source / "t.jsonl", [dialogue("t")])
    run("redial", "--test", source / "t.jsonl")
    assert (project / "data.dvc").read_bytes() == pinned
    assert not list((project / "corpora").glob("*.dvc"))
    status = subprocess.run(
        ["git", "status", "--porcelain"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line for line in status if not line.startswith("A ")] == []


def test_the_splits_hold_json_lines(project, source):
    run("redial", "--from", source / "redial")
    for path in (project / "corpora" / "movies" / "redial").glob("*.jsonl"):
        assert all("conversationId" in json.loads(line) for line in path.open())
