import gzip
import io
import json
import stat
import tarfile
import zipfile

import pytest

from seedtalk.errors import InputError
from seedtalk.fetching.archives import acl_imdb_lines, is_acl_imdb, is_archive, unpack


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.mark.parametrize(("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tar.gz")])
def test_an_archive_is_unpacked(tmp_path, pack, name):
    members = {"set/one.csv": b"1", "set/in/two.csv": b"2"}
    unpack(pack(tmp_path / name, members), tmp_path / "out")
    assert files(tmp_path / "out") == members


@pytest.mark.parametrize(("pack", "archive"), [(zipped, "a.zip"), (tarred, "a.tgz")])
@pytest.mark.parametrize("member", ["../out.txt", "in/../../out.txt"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, pack, archive, member):
    path = pack(tmp_path / archive, {"fine.txt": b"", member: b"evil"})
    with pytest.raises(InputError, match="refused"):
        unpack(path, tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("out.txt"))


@pytest.mark.parametrize("member", ["/etc/out.txt", "C:\\out.txt", "..\\out.txt"])
def test_other_systems_ways_out_are_refused(tmp_path, member):
    with pytest.raises(InputError, match="leaves the archive"):
        unpack(zipped(tmp_path / "a.zip", {member: b"evil"}), tmp_path / "out")


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match=r"link.txt' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    info = tarfile.TarInfo("link.txt")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(InputError, match="refused"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_a_broken_archive_is_named(tmp_path):
    for name in ("a.zip", "a.tar.gz", "a.tar"):
        (tmp_path / name).write_bytes(b"no archive" * 100)
        with pytest.raises(InputError, match=rf"{name}: not a readable archive"):
            unpack(tmp_path / name, tmp_path / "out")
    whole = tarred(tmp_path / "b.tar.gz", {"a.txt": bytes(range(256)) * 400}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable archive"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "out")


def test_archives_are_told_by_their_names(tmp_path):
    assert all(is_archive(tmp_path / name) for name in ("A.ZIP", "a.tar.gz", "a.tgz", "a.tar"))
    assert not any(is_archive(tmp_path / name) for name in ("a.jsonl.gz", "a.csv", "zip"))


ACL = {
    "aclImdb/train/pos/0_9.txt": b"Fine \xff film",
    "aclImdb/train/pos/1_10.txt": b"Finer",
    "aclImdb/test/neg/0_1.txt": b"Bad",
    "aclImdb/train/unsup/0_0.txt": b"Unlabelled",
    "aclImdb/train/urls_pos.txt": b"http://www.imdb.com/title/tt0000007/usercomments\n"
    b"http://www.imdb.com/title/tt0000008/usercomments\n",
    "aclImdb/test/urls_neg.txt": b"http://www.imdb.com/title/tt0000009/usercomments\n",
    "aclImdb/README": b"read me",
}


@pytest.mark.parametrize("packed", [True, False])
def test_the_labelled_reviews_become_lines_with_their_films(tmp_path, packed):
    if packed:
        source = tarred(tmp_path / "aclImdb_v1.tar.gz", ACL)
    else:
        source = tmp_path / "unpacked"
        for name, data in ACL.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    assert is_acl_imdb(source)
    target = tmp_path / "out.jsonl.gz"
    assert acl_imdb_lines(source, target) == 3
    rows = [json.loads(line) for line in gzip.decompress(target.read_bytes()).splitlines()]
    assert [(row["review_id"], row["rating"], row["imdbId"]) for row in rows] == [
        ("test/neg/0_1.txt", 1, "0000009"),
        ("train/pos/0_9.txt", 9, "0000007"),
        ("train/pos/1_10.txt", 10, "0000008"),
    ]
    assert rows[1]["text"] == "Fine � film"
    first = target.read_bytes()
    acl_imdb_lines(source, target)
    assert target.read_bytes() == first


def test_reviews_without_a_film_or_none_at_all_are_refused(tmp_path):
    short = ACL | {"aclImdb/train/urls_pos.txt": b"http://www.imdb.com/title/tt0000007/\n"}
    with pytest.raises(InputError, match=r"'train/pos/1_10.txt' has no film"):
        acl_imdb_lines(tarred(tmp_path / "aclImdb.tgz", short), tmp_path / "out.gz")
    with pytest.raises(InputError, match="holds no reviews"):
        acl_imdb_lines(tarred(tmp_path / "aclImdb2.tgz", {"a.txt": b""}), tmp_path / "out.gz")
    (tmp_path / "aclImdb3.tgz").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable archive"):
        acl_imdb_lines(tmp_path / "aclImdb3.tgz", tmp_path / "out.gz")
    assert not (tmp_path / "out.gz").exists()
