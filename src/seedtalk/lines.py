"""JSON and JSON lines, read with errors that name file and row; needs nothing but Python."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, at


def read_json_lines(path: Path) -> Generator[tuple[int, Any], None, None]:
    """Yield (line number from 1, parsed value) of every line that is not blank.

    A file whose name ends in ``.gz`` is unpacked on the way.

    Raises
    ------
    InputError
        When the file cannot be read, or a line is not UTF-8, not JSON or nested too deeply;
        names file and row.
    """
    for number, raw in enumerate(_raw_lines(path), start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            continue
        try:
            yield number, json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{at(path, number)}: not UTF-8 at byte {error.start} of the line; "
                "save the file as UTF-8"
            ) from error
        except json.JSONDecodeError as error:
            raise InputError(f"{at(path, number)}: not JSON ({error.msg})") from error
        except RecursionError as error:
            raise InputError(
                f"{at(path, number)}: JSON nested too deeply to be read; flatten it or drop the row"
            ) from error


def _raw_lines(path: Path) -> Generator[bytes, None, None]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: a broken gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises
    ------
    InputError
        When it cannot be read or is not UTF-8 JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON document ({error})") from error
