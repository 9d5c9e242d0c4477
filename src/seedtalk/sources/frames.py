"""Read a pickled pandas frame without running anything it says.

A pickle is a program: loading one may call any function it names. The two tables of the
quickstart come only in that form. Here every name a plain frame needs is bound to an inert
stand-in that keeps its arguments, and every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from seedtalk.errors import InputError

_NUMBERS = {"f8": "float64", "i8": "int64"}


def read_pickled_columns(data: bytes, name: str) -> dict[str, list[Any]]:
    """Return the columns of a pickled data frame as plain lists.

    Parameters
    ----------
    data
        The pickle of a frame with a range index and blocks of float64, int64 or objects
        (strings, numbers, None).
    name
        What the bytes are called in a message.

    Returns
    -------
    dict
        Column label to its values, in the frame's order. A missing object is a float NaN.

    Raises
    ------
    InputError
        When the pickle names anything else, or is no such frame.
    """
    try:
        frame = _Reader(io.BytesIO(data), name).load()
        return _columns(frame)
    except InputError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise InputError(
            f"{name}: not a readable table ({type(error).__name__}: {error})"
        ) from error


class _Dtype:
    def __init__(self, code: str, _align: bool = False, _copy: bool = False) -> None:
        if code not in {*_NUMBERS, "O8"}:
            raise ValueError(f"unsupported column type {code!r}")
        self.code = code
        self.order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Objects:
    """Stands for an object array; pickled as shape and flat list."""

    shape: tuple[int, ...] = (0,)
    values: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, values = state
        if dtype.code != "O8" or fortran:
            raise ValueError("unsupported array layout")
        self.shape, self.values = tuple(shape), tuple(values)

    def rows(self) -> list[list[Any]]:
        if len(self.shape) == 1:
            return [list(self.values)]
        count, length = self.shape
        if len(self.values) != count * length:
            raise ValueError("array of another size than its shape")
        return [list(self.values[row * length : (row + 1) * length]) for row in range(count)]


class _Numbers:
    def __init__(self, buffer: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        if dtype.code not in _NUMBERS or dtype.order != "<":
            raise ValueError("unsupported number type")
        self.buffer, self.dtype, self.shape, self.order = bytes(buffer), dtype, shape, order

    def flat(self) -> list[Any]:
        import numpy as np

        values: list[Any] = np.frombuffer(self.buffer, dtype=f"<{self.dtype.code}").tolist()
        return values

    def rows(self) -> list[list[Any]]:
        import numpy as np

        flat = np.frombuffer(self.buffer, dtype=f"<{self.dtype.code}")
        rows: list[list[Any]] = flat.reshape(self.shape, order=self.order).tolist()  # type: ignore[call-overload]
        return rows


class _Block:
    def __init__(self, values: _Numbers | _Objects, place: slice | _Numbers, _ndim: int) -> None:
        self.values, self.place = values, place


class _Manager:
    def __init__(self, blocks: tuple[_Block, ...], axes: list[_Index]) -> None:
        self.blocks, self.axes = blocks, axes


class _Index:
    """Stands for either index class and for the function that makes one."""

    def __init__(self, _kind: type[Any] | None = None, state: dict[str, Any] | None = None) -> None:
        self.state = state or {}


class _Frame:
    manager: _Manager

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.manager = state["_mgr"]


def _reconstruct(_kind: type[Any], _shape: tuple[int, ...], _code: bytes) -> _Objects:
    return _Objects()


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals.managers", "BlockManager"): _Manager,
    ("pandas._libs.internals", "_unpickle_block"): _Block,
    ("pandas.core.indexes.base", "_new_Index"): _Index,
    ("pandas.core.indexes.base", "Index"): _Index,
    ("pandas.core.indexes.range", "RangeIndex"): _Index,
    ("numpy.core.numeric", "_frombuffer"): _Numbers,
    ("numpy._core.numeric", "_frombuffer"): _Numbers,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Objects,
    ("numpy", "dtype"): _Dtype,
    ("builtins", "slice"): slice,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise InputError(
                f"{self._name}: refused, the pickle asks for '{module}.{name}', "
                "which no plain table needs; fetch the file anew from its publisher"
            ) from None


def _columns(frame: Any) -> dict[str, list[Any]]:
    if not isinstance(frame, _Frame):
        raise ValueError("no data frame")
    labels = [str(label) for label in frame.manager.axes[0].state["data"].values]
    columns: dict[int, list[Any]] = {}
    for block in frame.manager.blocks:
        place = block.place
        every = range(len(labels))
        places = place.flat() if isinstance(place, _Numbers) else list(every[place])
        rows = block.values.rows()
        if len(rows) != len(places):
            raise ValueError("a block of another size than its place")
        columns.update(zip(places, rows, strict=True))
    if sorted(columns) != list(range(len(labels))) or len(set(labels)) != len(labels):
        raise ValueError("columns and labels differ")
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError("columns of different lengths")
    return {label: columns[place] for place, label in enumerate(labels)}
