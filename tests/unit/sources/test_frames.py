import os
import pickle
import struct

import pytest

from seedtalk.errors import InputError
from seedtalk.sources.frames import read_pickled_columns

# Hand-assembled pickles: pandas writes others in each version, and the reader must not depend
# on the one installed.


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def value(anything):
    return pickle.dumps(anything, 3)[2:-1]


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *arguments):
    return function + group(*arguments) + b"R"


def dtype(code, order="<"):
    made = call(name("numpy", "dtype"), value(code), value(False), value(True))
    return made + value((3, order, None, None, None, -1, -1, 0)) + b"b"


def numbers(code, rows, order="<"):
    flat = [cell for row in rows for cell in row]
    data = struct.pack(f"<{len(flat)}{'d' if code == 'f8' else 'q'}", *flat)
    frombuffer = name("numpy.core.numeric", "_frombuffer")
    shape = value((len(rows), len(rows[0])))
    return call(frombuffer, value(data), dtype(code, order), shape, value("C"))


def objects(shape, cells):
    empty = call(
        name("numpy.core.multiarray", "_reconstruct"),
        name("numpy", "ndarray"),
        value((0,)),
        value(b"b"),
    )
    return (
        empty + group(value(1), value(shape), dtype("O8", "|"), value(False), value(cells)) + b"b"
    )


def place(start, stop, step=1):
    return call(name("builtins", "slice"), value(start), value(stop), value(step))


def block(values, where):
    return call(name("pandas._libs.internals", "_unpickle_block"), values, where, value(2))


def index(labels):
    state = b"}" + value("data") + objects((len(labels),), labels) + b"s"
    new = name("pandas.core.indexes.base", "_new_Index")
    return call(new, name("pandas.core.indexes.base", "Index"), state)


def frame(labels, *blocks):
    new = name("pandas.core.indexes.base", "_new_Index")
    rows = call(new, name("pandas.core.indexes.range", "RangeIndex"), value({"start": 0}))
    axes = b"]" + b"(" + index(labels) + rows + b"e"
    manager = call(name("pandas.core.internals.managers", "BlockManager"), group(*blocks), axes)
    made = name("pandas.core.frame", "DataFrame") + b")\x81"
    return b"\x80\x03" + made + b"}" + value("_mgr") + manager + b"s" + b"b."


def sound():
    return frame(
        ["owl", "name", "height", "count"],
        block(numbers("f8", [[0.5, 1.5, float("inf")]]), place(2, 3)),
        block(numbers("i8", [[1, 2, 3], [7, 8, 9]]), place(0, 4, 3)),
        block(objects((1, 3), ["a", None, "ü"]), place(1, 2)),
    )


def test_columns_come_in_the_frames_order():
    assert read_pickled_columns(sound(), "owls") == {
        "owl": [1, 2, 3],
        "name": ["a", None, "ü"],
        "height": [0.5, 1.5, float("inf")],
        "count": [7, 8, 9],
    }


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_pickle_that_calls_anything_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"owls: refused, the pickle asks for '\w+\.mkdir'"):
        read_pickled_columns(pickle.dumps(Evil()), "owls")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "attack",
    [
        name("builtins", "eval") + value("1") + b"\x85R.",
        name("builtins", "getattr") + b".",
        name("numpy", "load") + b".",
        name("pandas.core.frame", "DataFrame.eval") + b".",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ],
)
def test_names_a_frame_does_not_need_are_refused(attack):
    with pytest.raises(InputError, match="refused"):
        read_pickled_columns(attack, "owls")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"no pickle",
        value(3) + b".",
        sound()[:-20],
        frame(["a"], block(numbers("i8", [[1, 2], [3, 4]]), place(0, 1))),
        frame(["a", "b"], block(numbers("i8", [[1, 2]]), place(0, 1))),
        frame(["a", "a"], block(numbers("i8", [[1], [2]]), place(0, 2))),
        frame(["a"], block(numbers("i8", [[1, 2]], order=">"), place(0, 1))),
        frame(["a"], block(objects((1, 3), ["x"]), place(0, 1))),
        frame(
            ["a", "b"],
            block(numbers("i8", [[1, 2]]), place(0, 1)),
            block(numbers("i8", [[1]]), place(1, 2)),
        ),
    ],
)
def test_anything_but_a_whole_frame_is_an_input_error(broken):
    with pytest.raises(InputError, match="owls: not a readable table"):
        read_pickled_columns(broken, "owls")
