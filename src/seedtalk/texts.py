"""Third-party text as it may be stored, compared and shown: nothing in it that is not seen."""

from __future__ import annotations

import re
import unicodedata

MARKS = 8  # combining marks a letter may carry; no script needs more

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Code points that render as nothing (Unicode's Default_Ignorable_Code_Point) and are no format
# characters by their category.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def visible(text: str) -> str:
    """Return `text` as one line in NFC, without what cannot be seen.

    Line ends, tabs and other space become one space. Controls (NUL, the escape that opens a
    terminal's command), format characters (zero width, bidi, tags), variation selectors,
    unassigned and private code points and lone surrogates go; so do combining marks beyond
    the eighth on one letter.
    """
    if text.isascii():
        return " ".join(_CONTROLS.sub("", " ".join(text.split())).split())
    text = _IGNORABLE.sub("", text)
    kept: list[str] = []
    marks = 0
    for char in " ".join(text.split()):
        category = unicodedata.category(char)
        marks = marks + 1 if category[0] == "M" else 0
        if category[0] != "C" and marks <= MARKS:
            kept.append(char)
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())
