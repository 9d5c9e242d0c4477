"""Bring published data sets into ``corpora/movies/<part>/``, from a copy or from their origin.

What lands is what `seedtalk.sources` reads. A part's folder is replaced as a whole or not at all.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seedtalk.errors import InputError, RunError, at
from seedtalk.fetching.archives import acl_imdb_lines, is_acl_imdb, is_archive, unpack
from seedtalk.fetching.downloads import download, download_commit, file_sha256
from seedtalk.fetching.published import CONVERSATIONAL, IMDB, INSPIRED, REDIAL, Commit, Remote, Set
from seedtalk.records import atomic_dir, atomic_file, write_jsonl
from seedtalk.texts import visible

NOTICE = "NOTICE.txt"
TEST = "test"
_FROM = "From: "
MEND = "docs/data.md has the forms"

DEV_SHARE = 0.1  # of ReDial's training dialogues: what the choices are made on
VALID_SHARE = 0.1  # what is reported before the test


# A file of dialogues is one whose name says which split it is.
_DIALOGUES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".tsv", ".tsv.gz")
_ORDER = ("train", "valid", TEST)
_IDS = ("conversationId", "conv_id")  # of ReDial's official form and of CRSLab's
_SPLITS = {"train": "train", "valid": "valid", "dev": "valid", "test": TEST}


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought: file to its number of dialogues, None where it holds none."""

    part: str
    files: dict[str, int | None]
    kept: Sequence[str] = ()  # files that stood before and stay
    twice: int = 0  # dialogues left out because an earlier file has them
    pins: Sequence[str] = ()  # hashes of what was downloaded


def fetch_public(
    part: Set,
    release: str,
    corpus: Path,
    cache: Path,
    *,
    sha256: Sequence[str] = (),
    trust: bool = False,
) -> Fetched | None:
    """Download a release of a set and bring it into ``<corpus>/<part.name>``.

    Parameters
    ----------
    cache
        Downloads wait there until the set stands, so that a broken fetch goes on.
    sha256
        Hashes of the release's files, in their order, where none is pinned.
    trust
        Take files of which no hash is known as they come.

    Returns
    -------
    Fetched or None
        None where this release stands already as it was fetched.

    Raises
    ------
    InputError
        When a hash is lacking or given in vain; else as `import_set`.
    RunError
        As `downloads.download` and `downloads.download_commit`; a full disk.
    """
    wanted = part.releases[release]
    if isinstance(wanted, Commit):
        if sha256 or trust:
            raise InputError(f"--sha256, --trust: {part.name} is pinned by a commit already")
        pins = [wanted.commit]
    else:
        pins = _pins(part, wanted, sha256, trust)
    known = _origin(part, release, pins)
    if all(pins) and _stands(corpus / part.name, known):
        return None
    waiting = cache / "downloads" / f"{part.name}-{release}"
    from filelock import FileLock

    with disk_errors(corpus, cache), FileLock(cache / "fetch.lock"):
        arrived = waiting / "files"
        shutil.rmtree(arrived, ignore_errors=True)
        if isinstance(wanted, Commit):
            download_commit(wanted.repository, wanted.commit, wanted.paths, arrived)
        else:
            for place, remote in enumerate(wanted):
                path, pins[place] = download(
                    remote.url, waiting, sha256=pins[place] or None, size=remote.size
                )
                if is_archive(path) and not is_acl_imdb(path):
                    unpack(path, arrived)
        source = arrived if arrived.is_dir() else waiting
        done = import_path(part, source, corpus, origin=_origin(part, release, pins))
        shutil.rmtree(waiting)
    return replace(done, pins=pins)


def import_path(part: Set, source: Path, corpus: Path, *, origin: str = "a local copy") -> Fetched:
    """Bring a set from a folder, a file or an archive into ``<corpus>/<part.name>``.

    Raises
    ------
    InputError
        As `import_set`; a broken archive, or one that would write outside its folder.
    """
    single = source.is_file()
    corpus.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=corpus, prefix=".fetch-") as name:
        folder = Path(name)
        acl = next(
            (
                path
                for path in ((source,) if single else (source, *sorted(source.iterdir())))
                if part.name == IMDB.name and is_acl_imdb(path)
            ),
            None,
        )
        if acl is not None:
            acl_imdb_lines(acl, folder / "aclImdb.jsonl.gz")
            source, single = folder, False
        elif single and is_archive(source):
            unpack(source, folder)
            source, single = folder, False
        elif single:
            (folder / source.name).symlink_to(source.resolve())
            source = folder
        return import_set(part, source, corpus, single=single, origin=origin)


def import_set(
    part: Set, source: Path, corpus: Path, *, single: bool = False, origin: str = "a local copy"
) -> Fetched:
    """Bring a set from a folder into ``<corpus>/<part.name>``.

    Parameters
    ----------
    source
        Holds the set's files, itself or in its only folder.
    corpus
        Such as ``corpora/movies``.
    single
        `source` holds one file of training dialogues, whatever its name.
    origin
        Where it is from, for the notice.

    Raises
    ------
    InputError
        When files are missing or unfit, or the part's folder holds a file that the fetch does not
        know and would delete.
    """
    target = corpus / part.name
    files = _found(part, source)
    dialogues = _dialogues(source, single) if part.name in CONVERSATIONAL else {}
    _check(part, source, files, dialogues)
    _refuse_strangers(part, target)
    ids = {path: _given_ids(part, path) for paths in dialogues.values() for path in paths}
    if part.name == INSPIRED.name:
        _apart({path.name: ids[path] for path in ids})
    counts: dict[str, int | None] = dict.fromkeys(sorted(files))
    twice = 0
    with atomic_dir(target) as fresh:
        for name, path in files.items():
            shutil.copyfile(path, fresh / name)
        if part.name == REDIAL.name:
            splits, twice = _redial_splits(dialogues)
            for split, rows in splits.items():
                write_jsonl(fresh / f"{split}.jsonl", rows.values())
                counts[f"{split}.jsonl"] = len(rows)
        elif part.name == INSPIRED.name:
            for split, (path, *_) in dialogues.items():
                name = f"{split}{_form(path)}"
                _copy_plain(path, fresh / name)
                counts[name] = len(ids[path])
        kept = _kept_test(target, fresh)
        _write_notice(part, fresh, origin)
    return Fetched(part.name, counts, kept, twice)


def add_test(part: Set, file: Path, corpus: Path) -> Fetched:
    """Put a file of test dialogues, in any form the part is read in, beside the other splits.

    Raises
    ------
    InputError
        When it is unfit, or holds dialogues of another split.
    """
    target = corpus / part.name
    _refuse_strangers(part, target)
    standing = sorted(target.iterdir()) if target.is_dir() else []
    others = [path for path in standing if not path.name.startswith(f"{TEST}.")]
    ids = {path.name: _ids(part, path) for path in others if _split(path) and _is_dialogues(path)}
    name = f"{TEST}{_form(file)}"
    ids[str(file)] = _given_ids(part, file)
    _apart(ids)
    with atomic_dir(target) as fresh:
        for path in others:
            shutil.copyfile(path, fresh / path.name)
        _copy_plain(file, fresh / name)
        _write_notice(part, fresh, _fetched_from(target))
    return Fetched(part.name, {name: len(ids[str(file)])})


@contextmanager
def disk_errors(*folders: Path) -> Iterator[None]:
    """Turn the disk's own faults into a `RunError` that says what to do.

    Raises
    ------
    RunError
        When the disk is full, or one of `folders` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise RunError(
                "the disk is full. Free some, then fetch again; what has come is kept, and "
                "nothing half-written was left"
            ) from error
        named = " and ".join(map(str, folders))
        raise RunError(
            f"{error.filename or folders[0]}: {error.strerror or error}; the fetch writes to "
            f"{named}. Nothing was changed"
        ) from error


def places_of(part: Set, folder: Path) -> list[Path]:
    """Return where below `folder` a set may lie, likeliest first."""
    below = [
        folder / part.name,
        *(folder / place for place in part.places),
        folder / "movies" / part.name,
        *(folder / "movies" / place for place in part.places),
    ]
    return [path for path in below if path.is_dir()]


def holds(part: Set, folder: Path) -> bool:
    """Tell whether a folder has what is needed of a set."""
    files = _found(part, folder)
    if part.name in CONVERSATIONAL:
        return bool(set(_dialogues(folder, single=False)) - {TEST})
    return not _lacking(part, files)


def split_of(conversation: str) -> str:
    """Return the split of one of ReDial's training dialogues: dev, valid or train.

    It hangs on the dialogue's id alone, so that it is the same in whichever file, or part of a
    file, the dialogue comes.
    """
    digest = hashlib.sha256(conversation.encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < DEV_SHARE:
        return "dev"
    return "valid" if share < DEV_SHARE + VALID_SHARE else "train"


def _inner(source: Path) -> Path:
    """Return the folder that holds the files: an archive often has one around them."""
    entries = [path for path in source.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return _inner(entries[0]) if len(entries) == 1 and entries[0].is_dir() else source


def _found(part: Set, source: Path) -> dict[str, Path]:
    """Return the files that are kept under their own names."""
    source = _inner(source)
    folders = [source]
    for name in part.beside:
        folders += [source / name, source.parent / name]
    files: dict[str, Path] = {}
    for folder in folders:
        for pattern in part.files:
            for path in sorted(folder.glob(pattern)):
                if path.is_file():
                    files.setdefault(path.name, path)
    return files


def _lacking(part: Set, files: dict[str, Path]) -> list[str]:
    return [
        " or ".join(group)
        for group in part.needed
        if not any(path.match(pattern) for path in files.values() for pattern in group)
    ]


def _dialogues(source: Path, single: bool) -> dict[str, list[Path]]:
    """Return the files of dialogues by the split their names say; dev counts as valid."""
    found: dict[str, list[Path]] = {}
    for path in sorted(_inner(source).iterdir()):
        split = _split(path) or ("train" if single else None)
        if split is not None and path.is_file() and _is_dialogues(path):
            found.setdefault(split, []).append(path)
    return found


def _is_dialogues(path: Path) -> bool:
    return path.name.endswith(_DIALOGUES)


def _split(path: Path) -> str | None:
    words = path.name.split(".", 1)[0].lower().replace("-", "_").split("_")
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _check(
    part: Set, source: Path, files: dict[str, Path], dialogues: dict[str, list[Path]]
) -> None:
    for lacking in _lacking(part, files):
        raise InputError(f"{source}: holds no {lacking}, which {part.name} needs")
    if part.name in CONVERSATIONAL and not set(dialogues) - {TEST}:
        alone = " alone; add them with --test" if dialogues else ""
        what = "test dialogues" if dialogues else "no dialogues (train*.jsonl, *.tsv ...)"
        raise InputError(f"{source}: holds {what}{alone}; docs/data.md has the forms")
    if part.name == INSPIRED.name:
        for split, paths in dialogues.items():
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise InputError(f"{source}: several files of '{split}' ({names}); keep one")


def _refuse_strangers(part: Set, target: Path) -> None:
    if not target.is_dir():
        return
    for path in sorted(target.iterdir()):
        stem, _, form = path.name.partition(".")
        known = (
            path.name == NOTICE
            or any(path.match(pattern) for pattern in part.files)
            or (
                part.name in CONVERSATIONAL
                and stem in {"dev", "valid", "train", TEST}
                and f".{form}" in _DIALOGUES
            )
        )
        if not known or path.is_dir():
            raise InputError(
                f"{path}: not part of {part.name}, and the fetch would delete it; move it "
                "elsewhere and fetch again"
            )


def _form(path: Path) -> str:
    """Return the suffix that a file of dialogues gets: by what is in it, not by its name."""
    from seedtalk.sources.inspired import is_table

    return ".tsv" if is_table(path) else ".jsonl"


def _copy_plain(path: Path, target: Path) -> None:
    """Copy a file, unpacked where it is gzipped; a JSON array becomes JSON lines."""
    from seedtalk.sources.dialogues import read_dialogues

    if target.suffix == ".jsonl":
        write_jsonl(target, (row for _, row in read_dialogues(path, MEND)))
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file, atomic_file(target, "wb") as out:
        shutil.copyfileobj(file, out)


def _redial_splits(
    dialogues: dict[str, list[Path]],
) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the dialogues by split and id, and how many were left out because they stand twice.

    UniCRS and others publish train and valid files that are both of the official training
    dialogues: they are taken together and split anew.
    """
    from seedtalk.sources.dialogues import read_dialogues

    splits: dict[str, dict[str, Any]] = {"dev": {}, "valid": {}, "train": {}}
    if TEST in dialogues:
        splits[TEST] = {}
    owner: dict[str, str] = {}
    twice = 0
    for given in sorted(dialogues, key=_ORDER.index):
        for path in dialogues[given]:
            for number, row in read_dialogues(path, MEND):
                name = str(row[next(field for field in _IDS if field in row)])
                split = TEST if given == TEST else split_of(name)
                if owner.setdefault(name, split) != split:
                    raise InputError(
                        f"{at(path, number)}: dialogue '{visible(name)}' is among the training "
                        "dialogues, too; one of the files is not what its name says"
                    )
                twice += name in splits[split]
                splits[split].setdefault(name, row)
    return splits, twice


def _kept_test(target: Path, fresh: Path) -> list[str]:
    """Keep the test file that was added before where the new source has none."""
    if any(fresh.glob(f"{TEST}.*")):
        return []
    kept = []
    for path in sorted(target.glob(f"{TEST}.*")) if target.is_dir() else []:
        shutil.copyfile(path, fresh / path.name)
        kept.append(path.name)
    return kept


def _ids(part: Set, path: Path) -> list[str]:
    """Return the ids of a file's dialogues, read as `ingest` will read them."""
    from seedtalk.sources import inspired, redial

    load = redial.load if part.name == REDIAL.name else inspired.load
    ids: list[str] = load(path.parent, [path.name]).conversations["conversation_id"].tolist()
    return ids


def _given_ids(part: Set, path: Path) -> list[str]:
    """As `_ids`, of a file the user gave: one without dialogues is refused."""
    ids = _ids(part, path)
    if not ids:
        raise InputError(f"{path}: holds no dialogue; {MEND}")
    return ids


def _apart(files: dict[str, list[str]]) -> None:
    """Refuse a dialogue that stands in two splits."""
    owner: dict[str, str] = {}
    for file, ids in files.items():
        for name in ids:
            before = owner.setdefault(name, file)
            if before != file:
                raise InputError(
                    f"{file}: dialogue '{visible(name)}' is in {before}, too; the splits must "
                    "not share dialogues"
                )


def _pins(part: Set, remotes: Sequence[Remote], sha256: Sequence[str], trust: bool) -> list[str]:
    """Return the hash of each file; "" where it is to be taken as it comes."""
    open_ones = [remote.url for remote in remotes if remote.sha256 is None]
    for given in sha256:
        if not re.fullmatch(r"[0-9a-f]{64}", given):
            raise InputError(f"--sha256: '{given}' is no sha256 (64 digits and letters a to f)")
    if sha256 and len(sha256) != len(open_ones):
        wants = f"{len(open_ones)} files without a pinned hash" if open_ones else "its own pins"
        raise InputError(f"--sha256: {len(sha256)} given, but {part.name} has {wants}")
    if open_ones and not sha256 and not trust:
        raise InputError(
            f"{part.name}: no hash is published of\n"
            + "".join(f"  {url}\n" for url in open_ones)
            + "Give the hash of each, in this order, with --sha256; or take what comes with "
            "--trust: its hashes are then printed, for the next time and the next machine"
        )
    rest = iter(sha256)
    return [remote.sha256 or next(rest, "") for remote in remotes]


def _origin(part: Set, release: str, pins: Sequence[str]) -> str:
    """Return where a release is from, for its notice."""
    wanted = part.releases[release]
    if isinstance(wanted, Commit):
        return f"{wanted.repository} at commit {wanted.commit}"
    return " and ".join(
        f"{remote.url} (sha256 {pin})" for remote, pin in zip(wanted, pins, strict=True)
    )


def _write_notice(part: Set, folder: Path, origin: str) -> None:
    """Write what the folder holds, where it is from and under which terms."""
    listed = "".join(
        f"  {file_sha256(path)}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.name != NOTICE
    )
    text = (
        f"Third-party data, brought here by `seedtalk fetch {part.name}`. It is not part of\n"
        f"seedtalk and keeps its own terms.\n\n{part.about}\n\n"
        f"{_FROM}{origin}\n\nFiles (sha256):\n{listed}"
    )
    (folder / NOTICE).write_text(text, encoding="utf-8", newline="\n")


def _fetched_from(folder: Path) -> str:
    """Return where a fetched folder says it is from."""
    try:
        lines = (folder / NOTICE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return "a local copy"
    return next((line.removeprefix(_FROM) for line in lines if line.startswith(_FROM)), "")


def _stands(folder: Path, origin: str) -> bool:
    """Tell whether a folder is from `origin` and holds all that its notice lists, unchanged."""
    if not (folder / NOTICE).is_file() or _fetched_from(folder) != origin:
        return False
    listed = (folder / NOTICE).read_text(encoding="utf-8").partition("Files (sha256):\n")[2]
    rows = [line.split(maxsplit=1) for line in listed.splitlines()]
    return all(
        len(row) == 2 and (folder / row[1]).is_file() and file_sha256(folder / row[1]) == row[0]
        for row in rows
    )
