import errno
import gzip
import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import replace

import pytest
from tests.unit.fetching.test_archives import ACL, tarred

from seedtalk.errors import InputError, RunError
from seedtalk.fetching import sets
from seedtalk.fetching.published import (
    AMAZON2023,
    IMDB,
    INSPIRED,
    MOVIELENS,
    REDIAL,
    RT,
    SETS,
    Commit,
    Remote,
    amazon2023,
)
from seedtalk.fetching.sets import (
    NOTICE,
    add_test,
    disk_errors,
    fetch_public,
    holds,
    import_path,
    places_of,
    split_of,
)
from seedtalk.sources import inspired, redial

MOVIELENS_FILES = {
    "movies.csv": "movieId,title,genres\n1,Lantern (1987),Crime\n",
    "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,9\n",
    "links.csv": "movieId,imdbId,tmdbId\n1,0000007,5\n",
}


def dialogue(name, text="I like @11"):
    return {
        "conversationId": str(name),
        "initiatorWorkerId": 1,
        "respondentWorkerId": 2,
        "movieMentions": {"11": "Lantern (1987)"},
        "messages": [{"senderWorkerId": 1, "text": text}],
    }


def turns(text):
    return [{"role": "SEEKER", "text": text, "movie": ["Lantern (1987)"]}]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(*names):
    head = "dialog_id\tspeaker\ttext\tmovies\n"
    return head + "".join(f"{name}\tSEEKER\tHi\tLantern (1987)\n" for name in names)


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def ids(folder, load, file):
    return sorted(load(folder, [file]).conversations["conversation_id"])


@pytest.fixture
def corpus(tmp_path):
    return tmp_path / "corpora" / "movies"


def test_movielens_comes_with_the_wider_catalogue_beside_it(tmp_path, corpus):
    source = put(tmp_path / "movies" / "ratings", MOVIELENS_FILES | {"tags.csv": "", "own.txt": ""})
    put(
        tmp_path / "movies" / "catalogue", {"ml-9_links.csv": "a", "ml-9_movies_w_keywords.csv": ""}
    )
    done = import_path(MOVIELENS, source, corpus)
    expected = ["links.csv", "ml-9_links.csv", "ml-9_movies_w_keywords.csv"]
    expected += ["movies.csv", "ratings.csv", "tags.csv"]
    assert sorted(done.files) == expected
    assert listed(corpus / "movielens") == sorted([*expected, NOTICE])
    assert listed(corpus) == ["movielens"]


def test_a_zip_with_one_folder_in_it(tmp_path, corpus):
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name, text in MOVIELENS_FILES.items():
            archive.writestr(f"ml-latest-small/{name}", text)
    import_path(MOVIELENS, tmp_path / "ml.zip", corpus)
    assert listed(corpus / "movielens") == sorted([*MOVIELENS_FILES, NOTICE])


def test_a_zip_that_leaves_its_folder_changes_nothing(tmp_path, corpus):
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name, text in MOVIELENS_FILES.items():
            archive.writestr(name, text)
        archive.writestr("../../../evil.csv", "evil")
    with pytest.raises(InputError, match="refused"):
        import_path(MOVIELENS, tmp_path / "ml.zip", corpus)
    assert not list(tmp_path.rglob("evil.csv"))
    assert listed(corpus) == []


@pytest.mark.parametrize(
    ("part", "files", "said"),
    [
        (MOVIELENS, {"movies.csv": "", "links.csv": ""}, "holds no ratings.csv"),
        (IMDB, {"own.csv": ""}, r"holds no \*.jsonl or"),
        (RT, {"rt.reviews.tsv": ""}, "holds no rt.movie_info.tsv"),
        (AMAZON2023, {"Books.jsonl": ""}, "holds no meta_"),
        (REDIAL, {"movies_with_mentions.csv": ""}, "holds no dialogues"),
        (REDIAL, {"test_data.jsonl": ""}, "test dialogues alone; add them with --test"),
        (INSPIRED, {}, "holds no dialogues"),
    ],
)
def test_what_a_set_needs_is_named(tmp_path, corpus, part, files, said):
    with pytest.raises(InputError, match=said):
        import_path(part, put(tmp_path / "in", files), corpus)
    assert not (corpus / part.name).exists()


def test_imdb_and_rt_lie_in_one_folder(tmp_path, corpus):
    names = [
        "imdb.jsonl.gz",
        "more.parquet",
        "map.csv.gz",
        "rt.reviews.tsv.gz",
        "rt.movie_info.tsv",
    ]
    source = put(tmp_path / "reviews", dict.fromkeys([*names, "rt_title_match.csv"], "x"))
    import_path(IMDB, source, corpus)
    import_path(RT, source, corpus)
    assert listed(corpus / "imdb") == [NOTICE, "imdb.jsonl.gz", "more.parquet"]
    assert listed(corpus / "rt") == [
        *(NOTICE, "rt.movie_info.tsv", "rt.reviews.tsv.gz", "rt_title_match.csv")
    ]


def test_the_large_movie_review_dataset_becomes_one_file(tmp_path, corpus):
    import_path(IMDB, tarred(tmp_path / "aclImdb_v1.tar.gz", ACL), corpus)
    assert listed(corpus / "imdb") == [NOTICE, "aclImdb.jsonl.gz"]
    assert (
        len(gzip.decompress((corpus / "imdb" / "aclImdb.jsonl.gz").read_bytes()).split(b"\n")) == 4
    )


def test_a_dialogue_falls_into_one_split_whatever_file_it_comes_in(tmp_path, corpus):
    rows = [dialogue(name) for name in range(300)]
    lines(tmp_path / "whole" / "train_data.jsonl", rows)
    lines(tmp_path / "parts" / "train_data_dbpedia.jsonl", rows[:250])
    lines(tmp_path / "parts" / "valid_data_dbpedia.jsonl", rows[240:])
    whole = import_path(REDIAL, tmp_path / "whole", corpus)
    splits = {
        split: ids(corpus / "redial", redial.load, f"{split}.jsonl")
        for split in ("dev", "valid", "train")
    }
    assert {name: len(found) for name, found in splits.items()} == {
        split: whole.files[f"{split}.jsonl"] for split in splits
    }
    assert 15 <= len(splits["dev"]) <= 45
    assert 15 <= len(splits["valid"]) <= 45
    every = [name for names in splits.values() for name in names]
    assert sorted(every) == sorted(str(name) for name in range(300))
    assert all(split_of(name) == split for split, names in splits.items() for name in names)
    parts = import_path(REDIAL, tmp_path / "parts", corpus)
    assert parts.twice == 10
    assert splits == {
        split: ids(corpus / "redial", redial.load, f"{split}.jsonl") for split in splits
    }
    again = import_path(REDIAL, shutil.copytree(corpus / "redial", tmp_path / "ours"), corpus)
    assert again.files == whole.files


def test_the_splits_are_those_they_always_were():
    assert [split_of(name) for name in ("471", "9", "8", "10")] == ["dev", "dev", "valid", "train"]


def test_a_single_file_of_any_name_is_training_data(tmp_path, corpus):
    path = lines(tmp_path / "mine.jsonl", [dialogue(name) for name in range(9)])
    done = import_path(REDIAL, path, corpus)
    assert sum(done.files.values()) == 9
    assert listed(corpus) == ["redial"]


def test_the_official_archive_brings_its_test_file(tmp_path, corpus):
    folder = tmp_path / "in"
    lines(folder / "train_data.jsonl", [dialogue(1)])
    lines(folder / "test_data.jsonl", [dialogue(2)])
    put(folder, {"movies_with_mentions.csv": "movieId,movieName\n11,Lantern (1987)\n"})
    done = import_path(REDIAL, folder, corpus)
    assert done.files["test.jsonl"] == 1
    assert ids(corpus / "redial", redial.load, "test.jsonl") == ["2"]


def test_a_test_file_that_holds_training_dialogues_is_refused(tmp_path, corpus):
    lines(tmp_path / "in" / "train_data.jsonl", [dialogue(1)])
    lines(tmp_path / "in" / "test_data.jsonl", [dialogue(1)])
    with pytest.raises(InputError, match="'1' is among the training dialogues, too"):
        import_path(REDIAL, tmp_path / "in", corpus)
    assert not (corpus / "redial").exists()


def test_a_test_file_is_added_kept_and_replaced(tmp_path, corpus):
    lines(tmp_path / "in" / "train_data.jsonl", [dialogue(name) for name in range(40)])
    import_path(REDIAL, tmp_path / "in", corpus)
    before = listed(corpus / "redial")
    packed = tmp_path / "any name.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(dialogue("t1")).encode()))
    assert add_test(REDIAL, packed, corpus).files == {"test.jsonl": 1}
    assert listed(corpus / "redial") == sorted([*before, "test.jsonl"])
    assert import_path(REDIAL, tmp_path / "in", corpus).kept == ["test.jsonl"]
    assert ids(corpus / "redial", redial.load, "test.jsonl") == ["t1"]
    add_test(REDIAL, lines(tmp_path / "t.jsonl", [dialogue("t2"), dialogue("t3")]), corpus)
    assert ids(corpus / "redial", redial.load, "test.jsonl") == ["t2", "t3"]
    assert "test.jsonl" in (corpus / "redial" / NOTICE).read_text()
    with pytest.raises(InputError, match=r"t4.jsonl: dialogue '7' is in \w+.jsonl, too"):
        add_test(REDIAL, lines(tmp_path / "t4.jsonl", [dialogue(7)]), corpus)
    assert ids(corpus / "redial", redial.load, "test.jsonl") == ["t2", "t3"]


def test_a_test_file_may_come_first(tmp_path, corpus):
    add_test(REDIAL, lines(tmp_path / "test.jsonl", [dialogue("t1")]), corpus)
    lines(tmp_path / "in" / "train_data.jsonl", [dialogue(1)])
    assert import_path(REDIAL, tmp_path / "in", corpus).kept == ["test.jsonl"]


def test_an_empty_or_foreign_test_file_is_refused(tmp_path, corpus):
    with pytest.raises(InputError, match="holds no dialogue"):
        add_test(REDIAL, lines(tmp_path / "t.jsonl", []), corpus)
    with pytest.raises(InputError, match=r"t.jsonl, row 1, field 'messages': missing"):
        add_test(REDIAL, lines(tmp_path / "t.jsonl", [turns("Hi")]), corpus)
    assert not corpus.exists()


def test_inspireds_table_and_lines(tmp_path, corpus):
    files = {"train.tsv": table("a"), "dev.tsv": table("b"), "test.tsv": table("c")}
    put(tmp_path / "tsv", files | {"movie_database.tsv": "title\nLantern\n"})
    done = import_path(INSPIRED, tmp_path / "tsv", corpus)
    counts = {name: count for name, count in done.files.items() if count}
    assert counts == {"train.tsv": 1, "valid.tsv": 1, "test.tsv": 1}
    lines(tmp_path / "lines" / "train.jsonl", [turns("Hi"), turns("Ho")])
    lines(tmp_path / "lines" / "valid.jsonl", [turns("Hey")])
    done = import_path(INSPIRED, tmp_path / "lines", corpus)
    assert done.files == {"train.jsonl": 2, "valid.jsonl": 1}
    assert done.kept == ["test.tsv"]
    assert listed(corpus / "inspired") == [NOTICE, "test.tsv", "train.jsonl", "valid.jsonl"]
    add_test(INSPIRED, lines(tmp_path / "x.json", [turns("Oh")]), corpus)
    assert ids(corpus / "inspired", inspired.load, "test.jsonl") != []
    assert "test.tsv" not in listed(corpus / "inspired")
    with pytest.raises(InputError, match="is in valid.jsonl, too"):
        add_test(INSPIRED, lines(tmp_path / "x.jsonl", [turns("Hey")]), corpus)


def test_inspireds_splits_are_one_file_each_and_apart(tmp_path, corpus):
    put(tmp_path / "in", {"dev.tsv": table("b"), "train.tsv": table("b")})
    with pytest.raises(InputError, match=r"train.tsv: dialogue 'b' is in dev.tsv, too"):
        import_path(INSPIRED, tmp_path / "in", corpus)
    put(tmp_path / "in", {"valid.tsv": table("c")})
    with pytest.raises(InputError, match=r"several files of 'valid' \(dev.tsv, valid.tsv\)"):
        import_path(INSPIRED, tmp_path / "in", corpus)


@pytest.mark.parametrize("name", ["mine.txt", "dev.pkl", "own"])
def test_a_file_that_the_fetch_would_delete_stops_it(tmp_path, corpus, name):
    path = lines(tmp_path / "train.jsonl", [dialogue(1)])
    import_path(REDIAL, path, corpus)
    mine = corpus / "redial" / name
    if name == "own":
        mine.mkdir()
    else:
        mine.write_text("mine")
    for again in (
        lambda: import_path(REDIAL, path, corpus),
        lambda: add_test(REDIAL, lines(tmp_path / "t.jsonl", [dialogue(2)]), corpus),
    ):
        with pytest.raises(InputError, match=rf"{name}: not part of redial"):
            again()
    assert mine.exists()


def test_equal_sources_give_equal_bytes(tmp_path):
    source = put(tmp_path / "in", {"movies_with_mentions.csv": "movieId,movieName\n11,Lantern\n"})
    lines(source / "train_data.jsonl", [dialogue(name) for name in range(30)])
    trees = []
    for place in ("one", "two"):
        import_path(REDIAL, source, tmp_path / place)
        trees.append({p.name: p.read_bytes() for p in (tmp_path / place / "redial").iterdir()})
    assert trees[0] == trees[1]
    assert str(tmp_path).encode() not in b"".join(trees[0].values())


def test_the_sets_of_a_folder_are_found(tmp_path):
    put(tmp_path / "movies" / "ratings", MOVIELENS_FILES)
    put(tmp_path / "movies" / "reviews", {"a.parquet": ""})
    put(tmp_path / "redial", {"test_data.jsonl": ""})
    put(tmp_path / "inspired", {"valid.jsonl": ""})
    found = [name for name, s in SETS.items() if any(holds(s, p) for p in places_of(s, tmp_path))]
    assert found == ["movielens", "imdb", "inspired"]


def public(part, *remotes):
    return replace(part, releases={"r": remotes})


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Stands for the network: files by URL; returns them and the list of what was asked."""
    served, asked = {}, []

    def download(url, folder, *, sha256, size=None):
        asked.append(url)
        data = served[url]
        found = hashlib.sha256(data).hexdigest()
        if sha256 not in (None, found):
            raise RunError(f"{url}: has another sha256")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / url.rsplit("/", 1)[1]).write_bytes(data)
        return folder / url.rsplit("/", 1)[1], found

    monkeypatch.setattr(sets, "download", download)
    return served, asked


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_a_release_is_fetched_once_and_mended_where_it_changed(tmp_path, corpus, server):
    served, asked = server
    data = zipped({f"ml/{name}": text for name, text in MOVIELENS_FILES.items()})
    url = "https://example.org/ml.zip"
    served[url] = data
    part = public(MOVIELENS, Remote(url, hashlib.sha256(data).hexdigest()))
    assert fetch_public(part, "r", corpus, tmp_path / ".cache").files.keys() == set(MOVIELENS_FILES)
    assert not (tmp_path / ".cache" / "downloads" / "movielens-r").exists()
    assert (
        f"From: {url} (sha256 {hashlib.sha256(data).hexdigest()})"
        in (corpus / "movielens" / NOTICE).read_text()
    )
    assert fetch_public(part, "r", corpus, tmp_path / ".cache") is None
    assert len(asked) == 1
    (corpus / "movielens" / "links.csv").write_text("changed")
    assert fetch_public(part, "r", corpus, tmp_path / ".cache") is not None
    (corpus / "movielens" / "links.csv").unlink()
    assert fetch_public(part, "r", corpus, tmp_path / ".cache") is not None
    assert (corpus / "movielens" / "links.csv").read_text() == MOVIELENS_FILES["links.csv"]


def test_the_added_test_file_does_not_make_a_release_stale(tmp_path, corpus, server):
    served, _ = server
    data = zipped({"train_data.jsonl": json.dumps(dialogue(1))})
    served["https://example.org/r.zip"] = data
    part = public(REDIAL, Remote("https://example.org/r.zip", hashlib.sha256(data).hexdigest()))
    assert fetch_public(part, "r", corpus, tmp_path / ".cache").files["train.jsonl"] is not None
    add_test(REDIAL, lines(tmp_path / "t.jsonl", [dialogue("t")]), corpus)
    assert fetch_public(part, "r", corpus, tmp_path / ".cache") is None


def test_files_without_a_published_hash_need_one_or_trust(tmp_path, corpus, server):
    served, _ = server
    part = amazon2023("Toys")
    urls = [remote.url for remote in part.releases["Toys"]]
    served |= {url: gzip.compress(url.encode(), mtime=0) for url in urls}
    hashes = [hashlib.sha256(served[url]).hexdigest() for url in urls]
    cache = tmp_path / ".cache"
    with pytest.raises(InputError, match="no hash is published of\n  https://mcauleylab"):
        fetch_public(part, "Toys", corpus, cache)
    with pytest.raises(InputError, match="1 given, but amazon2023 has 2 files"):
        fetch_public(part, "Toys", corpus, cache, sha256=hashes[:1])
    with pytest.raises(InputError, match="'abc' is no sha256"):
        fetch_public(part, "Toys", corpus, cache, sha256=["abc", hashes[1]])
    with pytest.raises(RunError, match="another sha256"):
        fetch_public(part, "Toys", corpus, cache, sha256=hashes[::-1])
    assert not (corpus / "amazon2023").exists()
    assert fetch_public(part, "Toys", corpus, cache, trust=True).pins == hashes
    assert listed(corpus / "amazon2023") == [NOTICE, "Toys.jsonl.gz", "meta_Toys.jsonl.gz"]
    assert fetch_public(part, "Toys", corpus, cache, sha256=hashes) is None
    with pytest.raises(InputError, match="no category"):
        amazon2023("../Toys")
    with pytest.raises(InputError, match="has its own pins"):
        fetch_public(MOVIELENS, "ml-25m", corpus, cache, sha256=hashes)


def test_the_large_movie_review_dataset_from_its_address(tmp_path, corpus, server):
    served, _ = server
    data = tarred(tmp_path / "aclImdb_v1.tar.gz", ACL).read_bytes()
    url = "https://example.org/aclImdb_v1.tar.gz"
    served[url] = data
    part = public(IMDB, Remote(url, hashlib.sha256(data).hexdigest()))
    assert fetch_public(part, "r", corpus, tmp_path / ".cache").files == {"aclImdb.jsonl.gz": None}


def test_a_commit_is_a_release_too(tmp_path, corpus, monkeypatch):
    def commit(repository, commit, paths, folder):
        put(folder, {"train.tsv": table("a"), "dev.tsv": table("b")})
        (folder / ".git").mkdir()

    monkeypatch.setattr(sets, "download_commit", commit)
    release = Commit("https://example.org/r", "1" * 40, ["train.tsv", "dev.tsv"])
    part = replace(INSPIRED, releases={"r": release})
    cache = tmp_path / ".cache"
    assert fetch_public(part, "r", corpus, cache).files == {"train.tsv": 1, "valid.tsv": 1}
    assert fetch_public(part, "r", corpus, cache) is None
    with pytest.raises(InputError, match="pinned by a commit"):
        fetch_public(part, "r", corpus, cache, trust=True)


def test_the_published_sets_are_pinned():
    for part in SETS.values():
        for release in part.releases.values():
            if isinstance(release, Commit):
                assert len(release.commit) == 40
                assert release.repository.startswith("https://")
                continue
            for remote in release:
                assert remote.url.startswith("https://")
                assert len(remote.sha256) == 64


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Nothing was changed")]
)
def test_the_disks_faults_are_said(tmp_path, number, said):
    with pytest.raises(RunError, match=said), disk_errors(tmp_path):
        raise OSError(number, "fault", "file")
