import stat
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk import records
from seedtalk.errors import InputError


def items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": ["b", "a"],
            "title": ["Second", "First"],
            "year": [None, 1995],
            "genres": [[], ["Drama"]],
            "description": ["", "x"],
            "surplus": [1, 2],
        }
    )


def test_a_table_is_sorted_and_equal_content_is_equal_bytes(tmp_path):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    records.write_table(one, items(), "items")
    records.write_table(two, items().iloc[::-1], "items")
    assert one.read_bytes() == two.read_bytes()
    back = records.read_table(one, "items")
    assert list(back.item_id) == ["a", "b"]
    assert "surplus" not in back


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "items.parquet"
    items().drop(columns=["title", "surplus"]).to_parquet(path)
    with pytest.raises(InputError, match="items.parquet, field 'title'"):
        records.read_table(path, "items")


def test_a_file_that_is_no_parquet(tmp_path):
    path = tmp_path / "items.parquet"
    path.write_text("not parquet at all")
    with pytest.raises(InputError, match="not a readable Parquet"):
        records.read_table(path, "items")


def test_jsonl_round_trip_keeps_every_character(tmp_path):
    path = tmp_path / "seeds.jsonl"
    seed = records.Seed(rank=0, review_id="é\u2028\x00", item_id="\U0001f3ac", score=0.1)
    records.write_jsonl(path, [seed])
    assert records.read_jsonl(path, records.Seed) == [seed]


@settings(deadline=None)  # the disk decides
@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False))))
def test_jsonl_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "seeds.jsonl"
    seeds = [
        records.Seed(rank=i, review_id="r", item_id=_utf8(text), score=score)
        for i, (text, score) in enumerate(rows)
    ]
    records.write_jsonl(path, seeds)
    assert records.read_jsonl(path, records.Seed) == seeds


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"rank": 0}\n', r"row 1, field 'review_id'"),
        (
            b'\n{"rank": "0", "review_id": "r", "item_id": "i", "score": 1.0}\n',
            "row 2, field 'rank'",
        ),
        (b"{]\n", "row 1: not JSON"),
        (b"\n" + b"[" * 200_000 + b"\n", "row 2: JSON nested too deeply"),
        (b'{"a": "\xff"}\n', "row 1: not UTF-8 at byte 7"),
        (
            b'{"rank": 0, "review_id": "r", "item_id": "i", "score": 1.0, "x": 1}\n',
            "row 1, field 'x'",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_row_and_field(tmp_path, content, message):
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        records.read_jsonl(path, records.Seed)
    assert "seeds.jsonl" in raised.value.message


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert list(records.read_json_lines(path)) == [(1, {"a": 1})]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), records.atomic_file(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_failed_folder_leaves_the_old_one_and_no_litter(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(RuntimeError), records.atomic_dir(path) as fresh:
        (fresh / "new").write_text("new")
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_atomic_folder_replaces_the_whole_of_the_old_one(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("old")
    with records.atomic_dir(path) as fresh:
        (fresh / "new").write_text("new")
    assert [p.name for p in path.iterdir()] == ["new"]


def test_written_files_are_readable_by_others(tmp_path):
    path = tmp_path / "out.json"
    records.write_json(path, {"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert records.read_json(path) == {"a": 1}


@pytest.mark.parametrize("text", ["{", "[" * 200_000])
def test_a_broken_json_document_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json: not a JSON document"):
        records.read_json(path)


@pytest.mark.parametrize(
    "read", [records.read_json, lambda path: list(records.read_json_lines(path))]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, read):
    with pytest.raises(InputError, match=r"gone\.json: cannot be read \(No such file"):
        read(tmp_path / "gone.json")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("title", "year", "shown"),
    [("Heat", 1995, "Heat (1995)"), ("Heat", None, "Heat"), ("Heat", float("nan"), "Heat")],
)
def test_display_title(title, year, shown):
    assert records.display_title(title, year) == shown


def test_borders_of_hashed_parts_count():
    assert records.sha256_text(["ab", "c"]) != records.sha256_text(["a", "bc"])


def test_sha256_of_a_file(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert records.sha256_file(path) == known
