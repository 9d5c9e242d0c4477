"""Where a command runs: the project root, the caches under it, and shared click options.

Only `stages/` and `cli.py` import this module; the core never touches a fixed path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

# Threads that spin while they wait halve the speed where a core is shared; asleep
# they cost a few per cent where none is. Read once, when the first numeric library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

F = TypeVar("F", bound=Callable[..., Any])

IN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
IN_DIR = click.Path(exists=True, file_okay=False, path_type=Path)
OUT_FILE = click.Path(dir_okay=False, path_type=Path)
OUT_DIR = click.Path(file_okay=False, path_type=Path)


def root() -> Path:
    """Return the workspace that owns caches and stores.

    DVC exports ``DVC_ROOT``; in ``dvc exp run --temp`` and ``--queue`` the working directory
    is a copy, but ``DVC_ROOT`` is the real workspace, so that a ledger is shared. Without DVC
    it is the nearest parent of the working directory that holds ``dvc.yaml``.
    """
    if value := os.environ.get("DVC_ROOT"):
        return Path(value)
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "dvc.yaml").is_file()), here)


def cache_dir() -> Path:
    """Return ``<root>/.cache``, made if missing: ledger, converted students, partial work."""
    path = root() / ".cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


def input_option(name: str, default: str, about: str, directory: bool = False) -> Callable[[F], F]:
    """Return a click option for an input that must exist; `name` without dashes."""
    kind = IN_DIR if directory else IN_FILE
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=about)


def output_option(name: str, default: str, about: str, directory: bool = False) -> Callable[[F], F]:
    """Return a click option for an output, written atomically."""
    kind = OUT_DIR if directory else OUT_FILE
    return click.option(f"--{name}", type=kind, default=default, show_default=True, help=about)


def params_option(command: F) -> F:
    """Add ``--params FILE`` and hand the command a validated `Params` as ``params``."""

    def load(_context: click.Context, _parameter: click.Parameter, value: Path) -> Any:
        from seedtalk.params import load_params

        return load_params(value)

    return click.option(
        "--params",
        type=IN_FILE,
        default="params.yaml",
        show_default=True,
        callback=load,
        help="Parameter file; every key is documented in params.yaml.",
    )(command)
