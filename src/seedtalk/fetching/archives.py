"""Archives opened with care: nothing is written outside the folder it is unpacked into."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from seedtalk.errors import InputError
from seedtalk.progress import track
from seedtalk.records import atomic_file
from seedtalk.texts import visible

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")

_ACL_REVIEW = re.compile(r"(?:.*/)?((?:train|test)/(?:neg|pos)/(\d+)_(\d+)\.txt)")
_ACL_URLS = re.compile(r"(?:.*/)?((?:train|test))/urls_(neg|pos)\.txt")
_ACL_TITLE = re.compile(r"/title/tt(\d+)")


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that `unpack` opens."""
    return path.name.lower().endswith(ARCHIVES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into a folder.

    Raises
    ------
    InputError
        When it is broken, or a member is a link or would land outside the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, folder)
            return
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: refused, {visible(str(error))}") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(f"{archive}: not a readable archive ({error})") from error


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in track(opened.infolist(), f"unpacking {archive.name}"):
            name = PurePosixPath(member.filename.replace("\\", "/"))
            link = stat.S_ISLNK(member.external_attr >> 16)
            if name.is_absolute() or ".." in name.parts or ":" in str(name) or link:
                kind = "is a link" if link else "leaves the archive"
                raise InputError(
                    f"{archive}: refused, its member '{visible(member.filename)}' {kind}"
                )
            if member.is_dir():
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def is_acl_imdb(source: Path) -> bool:
    """Tell whether a folder or tar file is the Large Movie Review Dataset as published."""
    if source.is_file():
        return is_archive(source) and "aclimdb" in source.name.lower()
    return any(
        (folder / "train" / "urls_pos.txt").is_file() for folder in (source, source / "aclImdb")
    )


def acl_imdb_lines(source: Path, target: Path) -> int:
    """Write the 50,000 labelled reviews as gzipped JSON lines; return their number.

    One file in the place of a hundred thousand. A review's film is on the line of its number in
    ``urls_pos.txt`` or ``urls_neg.txt``; the unlabelled reviews are left out.

    Raises
    ------
    InputError
        When the source is broken, or a review has no line there.
    """
    reviews: dict[str, tuple[int, int, str]] = {}
    films: dict[tuple[str, str], list[str]] = {}
    for name, data in _texts(source):
        if found := _ACL_REVIEW.fullmatch(name):
            text = data.decode("utf-8", errors="replace")
            reviews[found[1]] = (int(found[2]), int(found[3]), text)
        elif found := _ACL_URLS.fullmatch(name):
            lines = data.decode("utf-8", errors="replace").splitlines()
            films[found[1], found[2]] = [
                match[1] if (match := _ACL_TITLE.search(line)) else "" for line in lines
            ]
    if not reviews:
        raise InputError(f"{source}: holds no reviews (train/pos/0_9.txt ...)")
    with (
        atomic_file(target, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        for name in sorted(reviews):
            number, stars, text = reviews[name]
            split, label, _ = name.split("/")
            known = films.get((split, label), [])
            if number >= len(known) or not known[number]:
                raise InputError(
                    f"{source}: '{visible(name)}' has no film in {split}/urls_{label}.txt"
                )
            row = {
                "review_id": name,
                "split": split,
                "label": label,
                "rating": stars,
                "imdbId": known[number],
                "movieId": None,
                "title": None,
                "genres": None,
                "text": text,
            }
            packed.write(json.dumps(row).encode() + b"\n")
    return len(reviews)


def _texts(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the text files in a folder or tar file."""
    if source.is_dir():
        paths = [path for path in sorted(source.rglob("*.txt")) if path.is_file()]
        for path in track(paths, "reading aclImdb"):
            yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in track(tar, "reading aclImdb"):
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and member.name.endswith(".txt"):
                    yield member.name, file.read()
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"{source}: not a readable archive ({error})") from error
