import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.texts import MARKS, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain", "plain"),
        ("  two\t words\r\nand\u2028lines\x85 ", "two words and lines"),
        ("nul\x00 bell\x07 del\x7f", "nul bell del"),
        ("\x1b[31mred\x9b0m", "[31mred0m"),
        ("zero\u200bwidth \u202eltr\u202c so\u00adft", "zerowidth ltr soft"),
        ("\ufeffbom", "bom"),
        ("lone \ud83d half", "lone half"),
        ("tag\U000e0041 selector\U000e0101\ufe0f filler\u3164\u115f", "tag selector filler"),
        ("e\u0301", "é"),
        ("😀 नमस्ते 七人", "😀 नमस्ते 七人"),
        ("", ""),
        ("\x00\u200b ", ""),
    ],
)
def test_what_is_not_seen_goes(text, seen):
    assert visible(text) == seen


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_becomes_one_line_that_can_be_written(text):
    seen = visible(text)
    assert visible(seen) == seen == " ".join(seen.split())
    assert all(unicodedata.category(char)[0] != "C" for char in seen)
    seen.encode()


def test_a_letter_carries_some_marks_and_no_tower():
    seen = visible("a" + "\u0316\u0301" * 50 + "b")
    marks = [c for c in unicodedata.normalize("NFD", seen) if unicodedata.combining(c)]
    assert len(marks) == MARKS and seen[-1] == "b"


def test_a_long_tower_takes_no_long_time():
    start = time.perf_counter()
    visible("a" + "\u0316\u0301" * 200_000)  # sorting these by class would be quadratic
    assert time.perf_counter() - start < 5
