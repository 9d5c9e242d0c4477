"""A language model on this machine behind an OpenAI-compatible address: llama.cpp, prebuilt.

llama.cpp comes with the wheel of the extra ``local-teacher``; nothing else imports it.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, RunError

WHEEL = "xllamacpp"
REQUIREMENT = f"{WHEEL}==2026.10.11549"  # as the extra in pyproject.toml has it
LOOPBACK = ("127.0.0.1", "localhost")

# A seeker's message repeats much of its prompt (liked titles, opening, closing): what followed
# the last three tokens where they stood before is tried as the next eight, and kept as far as
# the model itself would have said it.
_LOOKUP, _DRAFT = 3, 8
_ERRORS = 1  # llama.cpp's log: errors only
_WAIT = 0.5  # seconds between looks at a stop


@dataclass(frozen=True)
class Serving:
    """What is served, where, and with how much of the machine.

    Attributes
    ----------
    model
        A GGUF file.
    host, port
        The address.
    threads
        Of the computation.
    context
        Tokens of one request, prompt and answer together.
    parallel
        Requests answered at a time. Each of these slots keeps the prompts' common beginning.
    """

    model: Path
    host: str
    port: int
    threads: int
    context: int
    parallel: int

    @property
    def name(self) -> str:
        """The model's name: what ``teacher.model`` is."""
        return self.model.stem

    @property
    def base_url(self) -> str:
        """What ``teacher.base_url`` is."""
        return f"http://{self.host}:{self.port}/v1"


def serve(options: Serving, ready: Callable[[], None]) -> None:
    """Answer requests until a signal (Ctrl-C, SIGTERM) ends it.

    Decoding follows each request (temperature, max_tokens, ``response_format`` with a JSON
    schema, which then binds the answer token by token).

    Parameters
    ----------
    options
        See `Serving`.
    ready
        Called once, when the model is loaded and the address answers.

    Raises
    ------
    InputError
        No such model, no llama.cpp, an address other machines reach, or a port that is taken.
    RunError
        The model cannot be loaded.
    """
    if not options.model.is_file():
        raise InputError(
            f"{options.model}: no such model; `seedtalk fetch teacher` gets the default one, "
            "with --small its smaller sibling"
        )
    if options.host not in LOOPBACK:
        raise InputError(
            f"--host {options.host}: the server asks for no key, so it listens on this machine "
            f"only: {' or '.join(LOOPBACK)}. From elsewhere reach it through `ssh -L`"
        )
    llama = _llama()
    _check_free(options.host, options.port)
    with _stopped() as stop:
        try:
            server = llama.Server(_params(llama, options))
        except RuntimeError as error:
            raise RunError(
                f"{options.model}: llama.cpp could not load it ({error}); its own message stands "
                "above. `seedtalk fetch teacher --verify` mends a damaged file; a smaller "
                "--context or --parallel needs less memory"
            ) from error
        if not stop.is_set():
            ready()
        while not stop.wait(_WAIT):
            pass
        del server  # its destructor ends the threads and closes the port


def _llama() -> Any:
    try:
        import xllamacpp
    except ModuleNotFoundError as error:
        raise InputError(
            "the local teacher needs llama.cpp, which is not installed: "
            f"`pip install -e '.[local-teacher]'`, or `pip install {REQUIREMENT}`"
        ) from error
    except ImportError as error:
        raise RunError(f"{WHEEL} does not load on this machine: {error}") from error
    return xllamacpp


def _params(llama: Any, options: Serving) -> Any:
    params = llama.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.name}
    params.hostnames, params.port = [options.host], options.port
    params.cors_origins = f"http://{options.host}:{options.port}"  # no page of another site
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.verbosity = _ERRORS
    params.n_parallel = options.parallel
    params.n_ctx = options.context * options.parallel
    params.cache_prompt = True  # what a prompt shares with the one before is not computed again
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.n_threads = options.threads
        pool.poll = 0  # threads that spin while they wait starve who shares the cores
    params.speculative.types = [llama.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    params.speculative.ngram_simple.size_n = _LOOKUP
    params.speculative.ngram_simple.size_m = _DRAFT
    return params


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server itself binds: a port that has just been closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"{host}:{port} cannot be listened on ({error.strerror}); if another server has "
                "it, stop that one or choose another --port"
            ) from error


@contextmanager
def _stopped() -> Generator[threading.Event, None, None]:
    """Turn SIGINT and SIGTERM into an event while the block runs."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
