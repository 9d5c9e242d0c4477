"""Downloads that end as pinned or not at all: files over HTTPS, and files of a git commit."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from seedtalk import __version__
from seedtalk.errors import RunError
from seedtalk.progress import bar
from seedtalk.texts import visible

MIB = 1 << 20
TIMEOUT = 60.0  # seconds a server may stay silent
ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt; doubled after each
SLACK = 2  # times the expected size at which a download is given up

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_INSTEAD = "get it by other means and give it with --from"


def download(
    url: str, folder: Path, *, sha256: str | None, size: int | None = None
) -> tuple[Path, str]:
    """Download a file into `folder`, unless it is there with its hash.

    What has come of a pinned file is kept when the download breaks, and the next attempt, now or
    later, goes on where it stopped. A file that is not pinned starts anew.

    Parameters
    ----------
    url
        Of https (plain http to this machine alone). Redirects must lead to https, too.
    folder
        Where the file stands under the last part of the URL's path; made where missing.
    sha256
        What the file must hash to; None takes what comes.
    size
        Expected bytes, for the bar; a download of more than twice as many is given up.

    Returns
    -------
    (path, sha256)

    Raises
    ------
    RunError
        No network, an answer other than the file, another hash, a redirect to plain http.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (Path(urlsplit(url).path).name or "download")
    if sha256 is not None and target.is_file() and file_sha256(target) == sha256:
        return target, sha256
    part = folder / f"{target.name}.part"
    if sha256 is None:
        part.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            resumed = _receive(url, part, size)
            found = file_sha256(part)
            if sha256 is None or found == sha256:
                part.replace(target)
                return target, found
            part.unlink()
            if not resumed:
                raise RunError(
                    f"{url}: has the sha256 {found}, not the pinned {sha256}; it was not kept. "
                    f"Fetch again; if it persists, the publisher changed the file: {_INSTEAD}"
                )
        except _PassingError as error:
            if attempt == ATTEMPTS:
                raise RunError(
                    f"{url}: could not be downloaded ({error}); what has come is kept. Check the "
                    f"network and fetch again, or {_INSTEAD}"
                ) from error
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise RunError(f"{url}: what came after a break has another hash; fetch again")


def download_commit(
    repository: str, commit: str, paths: Sequence[str], folder: Path
) -> dict[str, Path]:
    """Write files of one commit of a git repository into `folder`, under their base names.

    A commit's id is a hash over all its content, which git checks when it receives it: it pins
    the files as a hash of each would.

    Parameters
    ----------
    paths
        Files in the commit; those that it lacks are left out.

    Raises
    ------
    RunError
        When git is missing or could not get the commit.
    """
    store = folder / ".git"
    folder.mkdir(parents=True, exist_ok=True)
    _git(store, "init", "--quiet", "--bare", str(store))
    scheme = urlsplit(repository).scheme or "file"
    _git(
        store,
        *("-c", "protocol.allow=never", "-c", f"protocol.{scheme}.allow=always"),
        *("fetch", "--quiet", "--no-tags", "--depth", "1", repository, commit),
    )
    head = _git(store, "rev-parse", "FETCH_HEAD^{commit}").decode().strip()
    if head != commit:
        raise RunError(f"{repository}: gave the commit {head}, not the pinned {commit}")
    listed = _git(store, "ls-tree", "-r", "-z", "--name-only", commit).decode().split("\0")
    written = {}
    for path in paths:
        if path in listed:
            written[path] = folder / Path(path).name
            written[path].write_bytes(_git(store, "cat-file", "blob", f"{commit}:{path}"))
    return written


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _PassingError(Exception):
    """A fault that may have gone by the next attempt."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        _check_scheme(newurl, came_from=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, came_from: str | None = None) -> None:
    """Refuse what is not https; this machine's own server may do without, from itself alone."""
    parts = urlsplit(url)
    before = urlsplit(came_from or url)
    local = {parts.hostname, before.hostname} <= _LOOPBACK
    if parts.scheme == "https" or (parts.scheme == "http" and local):
        return
    led = f" (redirected from {came_from})" if came_from else ""
    raise RunError(f"{visible(url)}{led}: refused, it is not https; {_INSTEAD}")


def _receive(url: str, part: Path, size: int | None) -> bool:
    """Add to `part` what it lacks of the file; return whether it held some of it before."""
    _check_scheme(url)
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"seedtalk/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            resumed = answer.status == http.client.PARTIAL_CONTENT
            if resumed and not str(answer.headers["Content-Range"]).startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                raise _PassingError("the server answered with another range than asked for")
            _store(answer, part, start if resumed else 0, size)
            return resumed and start > 0
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return True  # it may be whole already: the hash decides
        if error.code in {408, 425, 429} or error.code >= 500:
            raise _PassingError(
                f"the server answered {error.code} {visible(str(error.reason))}"
            ) from error
        raise RunError(
            f"{url}: the server answered {error.code} {visible(str(error.reason))}; if that "
            f"stays, {_INSTEAD}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _DISK:
            raise
        reason = getattr(error, "reason", None) or error
        raise _PassingError(visible(str(reason)) or type(reason).__name__) from error


def _store(answer: Any, part: Path, start: int, size: int | None) -> None:
    """Write the body of an answer into `part` from the byte `start` on."""
    length = answer.headers["Content-Length"]
    expected = start + int(length) if length and length.isdigit() else None
    total = expected or size
    with (
        bar(f"fetching {part.name.removesuffix('.part')} (MiB)", total and total / MIB) as shown,
        part.open("r+b" if start else "wb") as file,
    ):
        file.seek(start)
        shown.advance(start / MIB)
        done = start
        while chunk := answer.read(MIB):
            file.write(chunk)
            done += len(chunk)
            shown.advance(len(chunk) / MIB)
            if size is not None and done > SLACK * size:
                file.truncate(0)
                raise RunError(
                    f"{part.name}: over {SLACK * size // MIB} MiB came where {size // MIB} were "
                    f"expected; {_INSTEAD}"
                )
        file.truncate()
    if expected is not None and done != expected:
        raise _PassingError(f"it broke off after {done} of {expected} bytes")


def _git(store: Path, *arguments: str) -> bytes:
    """Run git in a bare repository and return what it prints."""
    # Nothing may ask for a password, nor run a hook or helper of the repository around.
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_DIR": str(store)}
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the arguments are pinned here
            ["git", *arguments],  # noqa: S607 - git is where the user's PATH has it
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise RunError("git is not installed; the set is fetched with it") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RunError(
            f"git {next(a for a in arguments if not a.startswith('-') and '=' not in a)}: "
            f"{visible(said[-1]) if said else 'failed'}; check the network and fetch again, "
            f"or {_INSTEAD}"
        )
    return done.stdout
