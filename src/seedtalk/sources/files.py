"""Published files read with faults named: delimited tables and JSON lines, plain or gzipped."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedtalk.errors import InputError, at
from seedtalk.records import read_json_lines

if TYPE_CHECKING:
    import pandas as pd


_HALF = re.compile("[\ud800-\udfff]")


def read_csv(
    path: Path,
    columns: Mapping[str, str],
    mend: str,
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    optional: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read the named columns of a delimited file; `.gz` is opened on the way.

    Parameters
    ----------
    columns
        Column to its pandas type. A missing string is "", a missing number NA.
    mend
        What the user does about an unfit file; ends every message.
    optional
        Further columns, which the file may lack: left out then.

    Raises
    ------
    InputError
        When the file is missing, empty, broken, of another encoding, lacks a column or holds
        what is no number in a column of numbers; names file, row and field.
    """
    import pandas as pd

    wanted = {**columns, **(optional or {})}
    kinds: dict[str, str] = dict(wanted)
    try:
        try:
            frame = _parsed(path, kinds, separator, encoding)
        except (pd.errors.ParserError, UnicodeDecodeError, pd.errors.EmptyDataError):
            raise
        except ValueError:  # no number in a column of numbers: read as text to tell where
            frame = _parsed(path, dict.fromkeys(wanted, "str"), separator, encoding)
            for name, kind in wanted.items():
                if kind != "str" and name in frame.columns:
                    frame[name] = _numbers(frame[name], kind, path, mend)
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; {mend}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not {encoding.upper()} at byte {error.start}; {mend}") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path}: empty; {mend}") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable table ({error}); {mend}") from error
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"{at(path, field=name)}: column missing; {mend}")
    if frame.empty:
        raise InputError(f"{path}: no rows; {mend}")
    return frame


def _parsed(path: Path, kinds: dict[str, str], separator: str, encoding: str) -> pd.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = pd.read_csv(
        path,
        usecols=lambda name: name in kinds,
        dtype=dict(kinds),
        encoding=encoding,
        sep=separator,
        keep_default_na=False,
        na_values={name: [""] for name, kind in kinds.items() if kind != "str"},
    )
    return frame


def _numbers(written: pd.Series[str], kind: str, path: Path, mend: str) -> Any:
    import pandas as pd

    numbers: pd.Series[Any] = pd.to_numeric(written.str.strip().replace("", None), errors="coerce")
    wrong = numbers.isna() & (written.str.strip() != "")
    if kind.lower().startswith("int"):
        wrong |= numbers.notna() & (numbers % 1 != 0)
    if kind.startswith("int"):  # has no missing value
        wrong |= numbers.isna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        place = at(path, row + 2, str(written.name))  # the header is row 1
        raise InputError(f"{place}: '{written.iloc[row]}' is no {kind.lower()} number; {mend}")
    dtype: Any = kind
    return numbers.astype(dtype)


def read_json_rows(path: Path, mend: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, gzipped or not.

    Raises
    ------
    InputError
        When the file is missing or a line is no JSON object; names file and row.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; {mend}")
    for number, value in read_json_lines(path):
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise InputError(f"{at(path, number)}: expected a JSON object, got {kind}; {mend}")
        yield number, value


def of_type(path: Path, number: int, row: Mapping[str, Any], field: str, *kinds: type) -> Any:
    """Return `row[field]` where it is one of `kinds`, a text as `whole` makes it.

    Raises
    ------
    InputError
        When it is missing or of another type; names file, row and field.
    """
    if field not in row:
        raise InputError(f"{at(path, number, field)}: missing; every row needs it")
    value = row[field]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InputError(f"{at(path, number, field)}: expected {names}, got {type(value).__name__}")
    return whole(value) if isinstance(value, str) else value


def whole(text: str) -> str:
    """Return `text` with what is half of a surrogate pair replaced: it cannot be stored."""
    return text if text.isascii() else _HALF.sub("\N{REPLACEMENT CHARACTER}", text)
