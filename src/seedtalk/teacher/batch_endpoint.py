"""The endpoint's side of a batch: files and batches, uploaded, created, found, looked at."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seedtalk.errors import InputError
from seedtalk.params import Teacher
from seedtalk.teacher.batch_lines import ROUTE, whole_lines
from seedtalk.teacher.limiter import LONGEST_PAUSE, backoff
from seedtalk.teacher.openai import (
    SECRET_IN_ANSWER,
    CallError,
    endpoint_url,
    refused,
    scrub,
    secret,
    short,
    unconnected,
)
from seedtalk.texts import visible

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

TAG = "seedtalk"  # of the token, in a batch's metadata
SETTLE = 20.0  # seconds in which a lost request to create a batch may still take effect
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
PASSING = frozenset({"passing", "busy"})  # kinds of error that need not come again

T = TypeVar("T")


@contextlib.contextmanager
def connect(params: Teacher) -> Generator[Endpoint, None, None]:
    """Yield the endpoint, reached without retries and redirects of the SDK's own.

    Raises
    ------
    InputError
        When no key is set for the default endpoint, or the address is none to call.
    """
    from openai import DefaultHttpxClient, OpenAI

    from seedtalk.teacher.transport import direct

    key, url = secret(), endpoint_url(params)
    if not key and not params.base_url:
        raise InputError(
            "OPENAI_API_KEY is not set; export it, or set teacher.base_url to an endpoint that "
            "needs none"
        )
    with OpenAI(
        api_key=key or "none-needed",
        base_url=url,
        timeout=params.timeout,
        max_retries=0,
        http_client=DefaultHttpxClient(
            follow_redirects=False, timeout=params.timeout, mounts=direct(url)
        ),
    ) as client:
        yield Endpoint(client, params.attempts, key)


class Endpoint:
    """What can be asked of an endpoint about batches; a token tells ours apart.

    Whatever costs nothing when it is done twice is tried again where it fails in passing. Every
    method raises `CallError`, which is `billed` where the request may have taken effect.

    Parameters
    ----------
    client
        Of the SDK.
    attempts
        Tries of a request that fails in passing.
    key
        What is kept out of the files that are fetched.
    """

    def __init__(self, client: OpenAI, attempts: int, key: str) -> None:
        self._client, self._attempts, self._key = client, attempts, key

    def upload(self, path: Path, token: str) -> str:
        """Upload a file of requests; returns its id."""

        def upload() -> str:
            with path.open("rb") as file, _calls():
                named = (_file_name(token), file)
                return _id(self._client.files.create(file=named, purpose="batch"))

        return self.patiently(upload)

    def find_file(self, token: str, size: int | None) -> str | None:
        """Return the id of an uploaded file of `size` bytes (None: of any); None where none is."""

        def look() -> list[str]:
            with _calls():
                return [
                    _id(file)
                    for file in self._client.files.list(purpose="batch", limit=1000)
                    if file.filename == _file_name(token)
                    and file.status != "error"
                    and size in (None, file.bytes)
                ]

        return next(iter(self.patiently(look)), None)

    def create(self, file_id: str, token: str) -> str:
        """Ask for a batch, in one try; returns its id."""
        with _calls():
            return _id(
                self._client.batches.create(
                    input_file_id=file_id,
                    endpoint=ROUTE,
                    completion_window="24h",
                    metadata={TAG: token},
                    # An endpoint that knows the header makes no second batch.
                    extra_headers={"Idempotency-Key": token},
                )
            )

    def find(self, token: str, file_id: str | None) -> str | None:
        """Return the id of the batch of a token, or of its file; None where there is none.

        Where there are several, the oldest is it and the others are cancelled.
        """

        def look() -> list[Batch]:
            with _calls():
                return [
                    made
                    for made in self._client.batches.list(limit=100)
                    if (made.metadata or {}).get(TAG) == token
                    or (file_id and made.input_file_id == file_id)
                ]

        found = sorted(self.patiently(look), key=lambda made: (made.created_at, made.id))
        for more in found[1:]:
            if more.status not in ENDED:
                self.patiently(partial(self._cancel, more.id))
        return _id(found[0]) if found else None

    def find_late(self, token: str, file_id: str | None) -> str | None:
        """Return what `find` does, once a request to create the batch has had its time."""
        end = time.monotonic() + SETTLE
        while not (made := self.find(token, file_id)) and time.monotonic() < end:
            time.sleep(SETTLE / 10)
        return made

    def look(self, batch_id: str) -> Batch:
        """Return how a batch is, in one try."""
        with _calls():
            seen = self._client.batches.retrieve(batch_id)
            _id(seen)
            return seen

    def download(self, file_id: str, path: Path) -> None:
        """Stream a file to the disk, line by line, the key taken out before it gets there."""

        def fetch() -> None:
            content = self._client.files.with_streaming_response.content
            with _calls(), content(file_id) as response, path.open("wb") as file:
                for line in whole_lines(response.iter_bytes(1 << 16)):
                    text = line.decode("utf-8", "surrogateescape")
                    clean = scrub(text, self._key, SECRET_IN_ANSWER)
                    file.write(clean.encode("utf-8", "surrogateescape"))

        self.patiently(fetch)

    def patiently(self, call: Callable[[], T]) -> T:
        """Call until it does not fail in passing, `attempts` times at most."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return call()
            except CallError as error:
                if error.kind not in PASSING or attempt == self._attempts:
                    raise
                wait(attempt, error)

    def _cancel(self, batch_id: str) -> None:
        with _calls():
            self._client.batches.cancel(batch_id)


def wait(attempt: int, error: CallError | None = None) -> None:
    """Wait before attempt `attempt` + 1, as long as the endpoint asked for at least."""
    asked = min(error.retry_after or 0.0, LONGEST_PAUSE) if error else 0.0
    time.sleep(max(backoff(attempt, random.random()), asked))


def is_gone(error: CallError) -> bool:
    """Tell whether the endpoint does not have what was asked for."""
    import openai

    return isinstance(error.__cause__, openai.NotFoundError)


@contextlib.contextmanager
def _calls() -> Generator[None, None, None]:
    """Turn whatever a call of the SDK raises into a `CallError`."""
    import httpx2
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        told = refused(error)
        told.billed = error.status_code >= 500 or error.status_code == 408
        raise told from error
    except openai.APITimeoutError as error:
        raise CallError("passing", "timeout", "no answer in time", billed=True) from error
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        raise unconnected(error) from error
    except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # A page where JSON was to be, or JSON of another form.
        raise CallError("passing", "bad_reply", short(str(error)), billed=True) from error


def _id(made: Any) -> str:
    """Return the id of what the endpoint says it made."""
    name = getattr(made, "id", None)
    # It is shown, and kept: what cannot be seen in it is not the endpoint's to tell.
    if not isinstance(name, str) or not name or name != visible(name):
        raise TypeError("the endpoint's reply has no id")
    return name


def _file_name(token: str) -> str:
    return f"{TAG}-{token}.jsonl"
